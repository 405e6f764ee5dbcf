"""Replays: the same bytes from a recipe, whatever the inputs are called; rebuilt inputs; recipes of other programs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora.lora_files import write_lora
from lora.lora_modules import lora
from merge.models import Model, tensors, write_model
from modelsmith.cli import main
from modelsmith.errors import BadFileError
from modelsmith.lora.stack import LoraSpec
from modelsmith.merge import supermerger_xl
from modelsmith.merge.engine import run_merge
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.recipe import RECIPE_VERSION
from modelsmith.merge.replay import Finder, ReplayOptions, read_recipe, replay, request_from_recipe
from modelsmith.merge.request import MergeRequest

Models = tuple[Path, Path, Path]


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {"parameters": {"alpha": 0.3}},
    "blocks": {
        "parameters": {"alpha": 0.3},
        "block_weights": {"alpha": "GRAD_V, TIME=0.9, CLIP_G=0.1"},
        "dtype": "bf16",
    },
    "all_b": {"parameters": {"alpha": 0.3}, "block_weights": {"alpha": "ALL_B"}},
    "dare": {"method": "dare", "parameters": {"density": 0.4, "seed": 7}},
    "three": {"method": "train_difference", "metadata": {"author": "me"}, "copy_metadata": True},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_same_bytes_from_renamed_inputs_under_another_name(abc: Models, tmp_path: Path, name: str) -> None:
    given = {"method": "weighted_sum", **REQUESTS[name]}
    count = 3 if given["method"] == "train_difference" else 2
    out = tmp_path / "made.safetensors"
    run_merge(plan_merge(MergeRequest(models=abc[:count], output=out, **given)))
    store = tmp_path / "elsewhere" / "deeper"
    store.mkdir(parents=True)
    for number, path in enumerate(abc):
        shutil.copy(path, store / f"renamed {number}.safetensors")
    again = tmp_path / "again.safetensors"
    found = read_recipe(out)
    assert found.program == "Modelsmith" and found.notices == ()
    result = replay(found.recipe, Finder((tmp_path / "elsewhere",)), again)
    assert again.read_bytes() == out.read_bytes()
    assert result.sha256 == digest_of(out)


def test_a_recipe_file_does_as_well_and_the_command_replays_both(
    abc: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made.safetensors"
    result = run_merge(plan_merge(MergeRequest(abc[:2], "slerp", out, {"alpha": 0.3})))
    recipe = tmp_path / "made.json"
    recipe.write_text(result.recipe, encoding="utf-8")
    for number, source in enumerate((out, recipe)):
        again = tmp_path / f"again{number}.safetensors"
        given = ["replay", str(source), "--models", str(abc[0].parent), "-o", str(again), "--quiet"]
        assert main(given) == 0
        assert again.read_bytes() == out.read_bytes() and digest_of(out) in capsys.readouterr().out
    assert main(["replay", str(recipe), "--show"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(result.recipe)
    assert main(["replay", str(recipe), "--models", str(abc[0].parent), "--quiet"]) == 2  # made.safetensors exists


def test_a_model_of_the_same_name_with_other_contents_is_not_taken(abc: Models, tmp_path: Path) -> None:
    out = tmp_path / "made.safetensors"
    run_merge(plan_merge(MergeRequest(abc[:2], "weighted_sum", out, {"alpha": 0.3})))
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    shutil.copy(abc[0], wrong / "a.safetensors")
    shutil.copy(abc[2], wrong / "b.safetensors")
    with pytest.raises(BadFileError, match=digest_of(abc[1])) as caught:
        replay(read_recipe(out).recipe, Finder((wrong,)), tmp_path / "o.safetensors")
    assert "b.safetensors" in caught.value.in_language("ja")[0] and not (tmp_path / "o.safetensors").exists()


def test_inputs_that_were_merges_are_rebuilt_and_cleared_away(abc: Models, tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    run_merge(plan_merge(MergeRequest(abc[:2], "weighted_sum", first, {"alpha": 0.25})))
    run_merge(plan_merge(MergeRequest((first, abc[2]), "weighted_sum", second, {"alpha": 0.5})))
    first.unlink()
    recipe, finder = read_recipe(second).recipe, Finder((abc[0].parent,))
    again = tmp_path / "again.safetensors"
    with pytest.raises(BadFileError, match="rebuilt"):
        replay(recipe, finder, again)
    replay(recipe, finder, again, ReplayOptions(rebuild=True))
    assert again.read_bytes() == second.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"second.safetensors", "again.safetensors"}
    changed = json.loads(json.dumps(recipe))
    changed["models"][0]["recipe"]["parameters"]["alpha"] = 0.26
    with pytest.raises(BadFileError, match="rebuilt from its recipe"):
        replay(changed, finder, tmp_path / "o.safetensors", ReplayOptions(rebuild=True))
    assert {path.name for path in tmp_path.iterdir()} == {"second.safetensors", "again.safetensors"}


def test_damaged_and_newer_recipes_are_refused(abc: Models, tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="no recipe"):
        read_recipe(abc[0])
    path = tmp_path / "r.json"
    for text, problem in (("{", "cannot be read"), ("[]", "no JSON object"), ('{"type": "x"}', "no recipe")):
        path.write_text(text)
        with pytest.raises(BadFileError, match=problem):
            read_recipe(path)
    for recipe, problem in (({}, "no version"), ({"version": RECIPE_VERSION + 1, "method": "slerp"}, "reads up to")):
        with pytest.raises(BadFileError, match=problem):
            request_from_recipe(recipe, lambda entry: abc[0], tmp_path / "o.safetensors")
    made = {"version": RECIPE_VERSION, "modelsmith": "0.0.0", "method": "slerp"}
    path.write_text(json.dumps(made))
    assert "0.0.0" in read_recipe(path).notices[0].text


def test_recipes_of_the_first_version_are_read(abc: Models, tmp_path: Path) -> None:
    recipe = {"version": 1, "method": "weighted_sum", "parameters": {"alpha": 0.5}, "blocks": {}, "dtype": None,
              "models": [{"file": path.name, "sha256": digest_of(path)} for path in abc[:2]]}  # fmt: skip
    request = request_from_recipe(recipe, Finder((abc[0].parent,)), tmp_path / "o.safetensors")
    assert request.models == abc[:2] and request.rules == {} and request.loras == ()


def test_a1111s_recipe(abc: Models, tmp_path: Path) -> None:
    digests = [digest_of(path) for path in abc]
    recipe = {"type": "webui", "primary_model_hash": digests[0], "secondary_model_hash": digests[1],
              "tertiary_model_hash": digests[2], "interp_method": "Add difference", "multiplier": 0.75,
              "save_as_half": True, "custom_name": "mine", "bake_in_vae": "x.vae.pt"}  # fmt: skip
    models = {digest: {"name": path.name, "legacy_hash": None} for digest, path in zip(digests, abc, strict=True)}
    state = tensors(Model(seed=9))
    merged = tmp_path / "merged.safetensors"
    metadata = {"sd_merge_recipe": json.dumps(recipe), "sd_merge_models": json.dumps(models)}
    save_file(state, str(merged), metadata=metadata)
    found = read_recipe(merged)
    assert found.program == "A1111" and found.recipe["output"] == "mine.safetensors"
    assert any("x.vae.pt" in told.text for told in found.notices)
    out = tmp_path / "o.safetensors"
    replay(found.recipe, Finder((abc[0].parent,)), out)
    a, b, c = (load_file(str(path)) for path in abc)
    key = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    wanted = (a[key].double() + (b[key].double() - c[key].double()) * 0.75).half()
    assert torch.equal(load_file(str(out))[key], wanted)
    for asked, models_used in (("No interpolation", 2), ("Weighted sum", 2)):
        merged2 = tmp_path / "again.json"
        merged2.write_text(json.dumps({**recipe, "interp_method": asked}))
        assert len(read_recipe(merged2).recipe["models"]) == models_used
    merged2.write_text(json.dumps({**recipe, "interp_method": "Sigmoid"}))
    with pytest.raises(BadFileError, match="no counterpart"):
        read_recipe(merged2)


def supermergers_block(key: str) -> str:
    """The long name of a tensor's block by the steps of its ``blockfromkey``, written another way."""
    for piece, name in (("label_emb", "LABEL"), ("time_embed", "TIME"), ("embedders.0.", "CLIPL"),
                        ("embedders.1.", "CLIPG"), ("first_stage_model", "VAE"), (".out.", "OUT9")):  # fmt: skip
        if piece in key:
            return name
    parts = key.split(".")
    place = {"input_blocks": "IN", "output_blocks": "OUT", "middle_block": "MID"}[parts[2]]
    numbers = parts[3] + (parts[4] if place != "MID" else "0")
    return place + numbers + (key.split("transformer_blocks.")[1].split(".")[0] if "transformer" in key else "")


def test_supermergers_long_list_reaches_every_tensor(abc: Models, tmp_path: Path) -> None:
    digests = [digest_of(path) for path in abc]
    weights = [round(0.001 * place, 3) for place in range(1, 110)]
    recipe = {"type": "sd-webui-supermerger", "weights_alpha": weights, "weights_beta": "", "model_a": digests[0],
              "model_b": digests[1], "base_alpha": 0.9, "base_beta": 0, "mode": "Weight sum", "mbw": True,
              "elemental_merge": ["IN410:attn1:1", ":attn2.to_q:0.7"], "calcmode": "normal"}  # fmt: skip
    path = tmp_path / "r.json"
    path.write_text(json.dumps(recipe))
    found = read_recipe(path)
    assert [told.text for told in found.notices if "elemental_merge IN410:attn1:1" in told.text]
    plan = plan_merge(request_from_recipe(found.recipe, Finder((abc[0].parent,)), tmp_path / "o.safetensors"))
    assert not [told for told in plan.notices if told.message is not None and told.message.id == "rule-unmatched"]
    wanted = {name: 0.001 * place for place, name in enumerate(supermerger_xl.NAMES, start=1)}
    for job in plan.jobs:
        if len(job.operands) > 1:
            name = supermergers_block(job.entry.name)
            alpha = 0.9 if name in ("CLIPL", "VAE") else 0.7 if "attn2.to_q" in job.entry.name else wanted[name]
            assert job.parameters["alpha"] == pytest.approx(alpha), job.entry.name


@pytest.mark.parametrize(
    ("kind", "chosen", "left"),
    [
        ("Exclude", ["IN00", "OUT05"], lambda block, key: block in ("IN00", "TIME", "OUT05")),
        ("Include", ["OUT05"], lambda block, key: block != "OUT05"),
        ("Exclude", ["attn2"], lambda block, key: "attn2" in key),
        ("Include", ["attn2"], lambda block, key: "attn2" not in key),
        ("Exclude", ["OUT05", "attn2"], lambda block, key: (block == "OUT05") != ("attn2" in key)),
        ("Include", ["OUT05 attn2"], lambda block, key: (block == "OUT05") == ("attn2" in key)),
    ],
)
def test_what_supermerger_leaves_out_stays_as_a_has_it(
    kind: str, chosen: list[str], left: Callable[[str, str], bool], abc: Models, tmp_path: Path
) -> None:
    digests = [digest_of(path) for path in abc]
    recipe = {"type": "sd-webui-supermerger", "model_a": digests[0], "model_b": digests[1], "base_alpha": 0.25,
              "mode": "Weight sum", "mbw": False, "calcmode": "normal", kind: chosen}  # fmt: skip
    path = tmp_path / "r.json"
    path.write_text(json.dumps(recipe))
    found = read_recipe(path)
    plan = plan_merge(request_from_recipe(found.recipe, Finder((abc[0].parent,)), tmp_path / "o.safetensors"))
    merged = [job for job in plan.jobs if len(job.operands) > 1 or job.parameters]
    assert {left(job.block, job.entry.name) for job in merged} == {True, False}
    for job in merged:
        assert (job.action == "copy") == left(job.block, job.entry.name), job.entry.name


def test_supermergers_recipe(abc: Models, tmp_path: Path) -> None:
    digests = [digest_of(path) for path in abc]
    recipe = {"type": "sd-webui-supermerger", "weights_alpha": [0.5] * 19, "weights_beta": "", "model_a": digests[0],
              "model_b": digests[1], "model_c": digests[2], "base_alpha": 0.25, "base_beta": 0.1, "mode": "Weight sum",
              "mbw": True, "elemental_merge": ["OUT05:attn2:0.75"], "calcmode": "normal",
              "Exclude": ["VAE"]}  # fmt: skip
    path = tmp_path / "r.json"
    path.write_text(json.dumps(recipe))
    found = read_recipe(path)
    assert found.program == "supermerger" and not any("VAE" in told.text for told in found.notices)
    assert found.recipe["rules"] == {"alpha": "OUT05:attn2:0.75,VAE::0"}
    request = request_from_recipe(found.recipe, Finder((abc[0].parent,)), tmp_path / "o.safetensors")
    assert request.block_weights == {"alpha": [0.25] + [0.5] * 19} and request.parameters == {"alpha": 0.25}
    path.write_text(json.dumps({**recipe, "mode": "Triple sum:A*(1-alpha-beta)+B*alpha+C*beta", "mbw": False}))
    triple = read_recipe(path).recipe
    assert triple["method"] == "triple_sum" and len(triple["models"]) == 3 and triple["parameters"]["beta"] == 0.1
    path.write_text(json.dumps({**recipe, "calcmode": "self"}))
    with pytest.raises(BadFileError, match="self"):
        read_recipe(path)


MECHA = r"""version 0.1.0
model "a.safetensors" model_config="sdxl-sgm" merge_space="weight"
model "b.safetensors" model_config="sdxl-sgm" merge_space="weight"
model "c.safetensors" model_config="sdxl-sgm" merge_space="weight"
merge "subtract" &1 &2
dict BASE=0.25 IN00=0.5
literal &4 model_config="sdxl-supermerger_blocks" merge_space="param"
merge "convert_sdxl_blocks" &5
merge "add_difference" &0 &3 alpha=0.75
merge "weighted_sum" &7 &1 alpha=&6
"""


def test_sd_mechas_recipe(abc: Models, tmp_path: Path) -> None:
    path = tmp_path / "r.mecha"
    path.write_text(MECHA)
    found = read_recipe(path)
    inner = found.recipe["models"][0]["recipe"]
    assert inner["method"] == "add_difference" and inner["parameters"] == {"alpha": 0.75}
    assert [entry["file"] for entry in inner["models"]] == ["a.safetensors", "b.safetensors", "c.safetensors"]
    assert found.recipe["blocks"] == {"alpha": {"BASE": 0.25, "IN00": 0.5, "TIME": 0.25}}
    assert any("IN00" in told.text for told in found.notices)
    out = tmp_path / "o.safetensors"
    replay(found.recipe, Finder((abc[0].parent,)), out)
    a, b, c = (load_file(str(one)) for one in abc)
    key = "model.diffusion_model.input_blocks.0.0.weight"
    first = (a[key].double() + (b[key].double() - c[key].double()) * 0.75).half()
    assert torch.equal(load_file(str(out))[key], torch.lerp(first, b[key], 0.5))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("hello", "version"),
        ("version 0.1.0\n", "no steps"),
        ('version 0.1.0\nexec "x"', "line 2: unknown command"),
        ('version 0.1.0\nmerge "weighted_sum" &0 &1', "line 2: &0 refers"),
        ('version 0.1.0\nmodel "a', "quotation mark"),
        ('version 0.1.0\nmodel "a.safetensors"', "no merge"),
        ('version 0.1.0\nmodel "a"\nmerge "rebasin" &0 &0', "no counterpart"),
    ],
)
def test_texts_that_cannot_be_read_say_where(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "r.mecha"
    path.write_text(text)
    with pytest.raises(BadFileError, match=problem):
        read_recipe(path)


def test_what_sd_mecha_does_and_we_do_not_is_said(tmp_path: Path) -> None:
    path = tmp_path / "r.mecha"
    path.write_text('version 0.1.0\nmodel "a \\"x\\".safetensors"\nmodel "b"\nmerge "fallback" &1 &0\n'
                    'merge "weighted_sum" &0 &2 alpha=0.3 foo=true\n')  # fmt: skip
    found = read_recipe(path)
    assert found.recipe["models"][0]["file"] == 'a "x".safetensors'
    assert sorted(told.text for told in found.notices)[0].count("fallback") + len(found.notices) >= 2
    assert any("foo" in told.text for told in found.notices)


def test_one_file_as_two_models_gives_the_same_bytes(tmp_path: Path) -> None:
    a = write_model(tmp_path / "a.safetensors", Model(seed=1))
    out = tmp_path / "made.safetensors"
    run_merge(plan_merge(MergeRequest((a, a), "weighted_sum", out, {"alpha": 0.5})))
    again = tmp_path / "again.safetensors"
    replay(read_recipe(out).recipe, Finder((tmp_path,)), again)
    assert again.read_bytes() == out.read_bytes()


def test_loras_and_precisions_of_components_are_replayed_too(abc: Models, tmp_path: Path) -> None:
    key = "input_blocks.4.1.transformer_blocks.0.attn2.to_q"
    path = write_lora(tmp_path / "l.safetensors", {"lora_unet_" + key.replace(".", "_"): lora((6, 6))})
    out, again = tmp_path / "o.safetensors", tmp_path / "again.safetensors"
    request = MergeRequest(
        abc[:2],
        "weighted_sum",
        out,
        {"alpha": 0.3},
        loras=(LoraSpec(path, 0.5, "IN04=0.75"),),
        component_dtypes={"vae": "fp32"},
        dtype="bf16",
    )
    run_merge(plan_merge(request))
    recipe = read_recipe(out).recipe
    assert recipe["loras"] == [
        {"file": "l.safetensors", "size": path.stat().st_size, "sha256": digest_of(path), "strength": 0.5,
         "blocks": "IN04=0.75"}
    ]  # fmt: skip
    moved = tmp_path / "loras"
    moved.mkdir()
    path.rename(moved / "another name.safetensors")
    replay(recipe, Finder((abc[0].parent, moved)), again)
    assert again.read_bytes() == out.read_bytes()
    with pytest.raises(BadFileError, match=r"l\.safetensors"):
        replay(recipe, Finder((abc[0].parent,)), tmp_path / "x.safetensors")
