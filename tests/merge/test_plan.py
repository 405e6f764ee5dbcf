"""What a plan refuses, what it decides tensor by tensor, and what it tells."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from merge.models import Model, tensors, write_model
from merge.reference import worst_ulp
from modelsmith.errors import BadFileError, MergeError, UnknownNameError, UsageError
from modelsmith.merge.engine import run_merge
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.request import MergeRequest

Models = tuple[Path, Path, Path]
KEY = "model.diffusion_model.middle_block.0.in_layers.2.weight"
CONV = "model.diffusion_model.input_blocks.0.0.weight"
IDS = "conditioner.embedders.0.transformer.text_model.embeddings.position_ids"


def refuse(request: MergeRequest, kind: type[Exception], *parts: str) -> None:
    before = sorted(request.output.parent.iterdir()) if request.output.parent.is_dir() else []
    with pytest.raises(kind) as caught:
        plan_merge(request)
    for part in parts:
        assert part in str(caught.value)
    assert getattr(caught.value, "remedy", "")
    if request.output.parent.is_dir():
        assert sorted(request.output.parent.iterdir()) == before


def test_another_architecture_is_refused_with_both_named(abc: Models, tmp_path: Path) -> None:
    sd1 = write_model(tmp_path / "sd1.safetensors", Model("sd1"))
    request = MergeRequest((abc[0], sd1), "weighted_sum", tmp_path / "o.safetensors")
    refuse(request, MergeError, str(abc[0]), "sdxl", str(sd1), "sd1")


def test_a_lora_is_refused_by_name(abc: Models, tmp_path: Path) -> None:
    lora = tmp_path / "style.safetensors"
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    save_file({f"{name}.lora_down.weight": torch.zeros(4, 2048), f"{name}.lora_up.weight": torch.zeros(640, 4),
               f"{name}.alpha": torch.tensor(4.0)}, str(lora))  # fmt: skip
    refuse(MergeRequest((abc[0], lora), "weighted_sum", tmp_path / "o.safetensors"), BadFileError, str(lora), "a LoRA")


def test_truncated_and_foreign_files_are_refused(abc: Models, tmp_path: Path) -> None:
    short = tmp_path / "short.safetensors"
    short.write_bytes(abc[1].read_bytes()[:-5000])
    refuse(MergeRequest((abc[0], short), "weighted_sum", tmp_path / "o.safetensors"), BadFileError, str(short))
    text = tmp_path / "text.safetensors"
    text.write_text("<html>not found</html>")
    refuse(MergeRequest((text, abc[0]), "weighted_sum", tmp_path / "o.safetensors"), BadFileError, str(text))
    missing = tmp_path / "missing.safetensors"
    refuse(MergeRequest((abc[0], missing), "weighted_sum", tmp_path / "o.safetensors"), BadFileError, str(missing))


@pytest.mark.parametrize(
    ("name", "part"), [("o.ckpt", ".safetensors"), ("CON.safetensors", "device"), ("a?.safetensors", "'?'")]
)
def test_output_names_are_checked(abc: Models, tmp_path: Path, name: str, part: str) -> None:
    refuse(MergeRequest(abc[:2], "weighted_sum", tmp_path / name), UsageError, part)


def test_other_arguments_are_checked(abc: Models, tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"
    refuse(MergeRequest(abc[:2], "weighted_sum", tmp_path / "none" / "o.safetensors"), UsageError, "does not exist")
    refuse(MergeRequest(abc, "weighted_sum", out), UsageError, "takes 2 models")
    refuse(MergeRequest(abc[:2], "weighted_sun", out), UnknownNameError, "weighted_sum")
    refuse(MergeRequest(abc[:2], "weighted_sum", out, {"alhpa": 0.5}), UnknownNameError, "alpha")
    refuse(MergeRequest(abc[:2], "weighted_sum", out, {"alpha": float("nan")}), UsageError, "finite")
    refuse(MergeRequest(abc[:2], "weighted_sum", out, dtype="int8"), UsageError, "int8")
    refuse(MergeRequest(abc[:2], "weighted_sum", out, block_weights={"alpha": "1,2"}), UsageError, "SDXL has 21")
    out.write_bytes(b"x")
    refuse(MergeRequest(abc[:2], "weighted_sum", out), UsageError, "exists already")


def test_another_vocabulary_is_refused_with_the_tensors_name(abc: Models, tmp_path: Path) -> None:
    key = "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight"
    other = write_model(tmp_path / "b.safetensors", Model(extra={key: torch.zeros(9, 768).half()}))
    request = MergeRequest((abc[0], other), "weighted_sum", tmp_path / "o.safetensors")
    refuse(request, MergeError, key, "[6, 768]", "[9, 768]", "b.safetensors")


@pytest.mark.parametrize("wide", [9, 8])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_inpainting_with_plain_in_either_order(tmp_path: Path, wide: int, order: tuple[int, int]) -> None:
    files = (write_model(tmp_path / "w.safetensors", Model(seed=1, in_channels=wide)),
             write_model(tmp_path / "p.safetensors", Model(seed=2)))  # fmt: skip
    models = (files[order[0]], files[order[1]])
    plan = plan_merge(MergeRequest(models, "weighted_sum", tmp_path / "o.safetensors", {"alpha": 0.3}))
    assert any(f"4 of {wide} channels" in notice.text for notice in plan.notices)
    found = load_file(str(run_merge(plan).path))[CONV]
    w, a, b = (load_file(str(path))[CONV] for path in (files[0], *models))
    assert found.shape[1] == wide and torch.equal(found[:, 4:], w[:, 4:])
    reference = a[:, :4].double() + (b[:, :4].double() - a[:, :4].double()) * 0.3
    assert worst_ulp(found[:, :4].contiguous(), reference) <= 0.502


def test_add_difference_with_an_inpainting_base(tmp_path: Path) -> None:
    models = tuple(write_model(tmp_path / f"{n}.safetensors", Model(seed=n, in_channels=c))
                   for n, c in enumerate((4, 9, 4)))  # fmt: skip
    run_merge(plan_merge(MergeRequest(models, "add_difference", tmp_path / "o.safetensors", {"alpha": 1.0})))
    a, b, c, found = (load_file(str(path))[CONV] for path in (*models, tmp_path / "o.safetensors"))
    assert torch.equal(found[:, 4:], b[:, 4:])
    assert worst_ulp(found[:, :4].contiguous(), a.double() + b[:, :4].double() - c.double()) <= 0.502


@pytest.mark.parametrize("policy", ["take_a", "skip", "stop"])
def test_missing_tensors_by_policy(abc: Models, tmp_path: Path, policy: str) -> None:
    other = write_model(tmp_path / "b.safetensors", Model(seed=2, without=(KEY,)))
    request = MergeRequest((abc[0], other), "weighted_sum", tmp_path / "o.safetensors", missing=policy)  # type: ignore[arg-type]
    if policy == "stop":
        refuse(request, MergeError, KEY)
        return
    plan = plan_merge(request)
    assert any(KEY in notice.text and notice.level == "warning" for notice in plan.notices)
    found = load_file(str(run_merge(plan).path))
    if policy == "skip":
        assert KEY not in found
    else:
        assert torch.equal(found[KEY], load_file(str(abc[0]))[KEY])


def test_tensors_that_only_b_has_are_listed(abc: Models, tmp_path: Path) -> None:
    extra = {"model.diffusion_model.input_blocks.1.9.weight": torch.zeros(2).half()}
    other = write_model(tmp_path / "b.safetensors", Model(seed=2, extra=extra))
    plan = plan_merge(MergeRequest((abc[0], other), "weighted_sum", tmp_path / "o.safetensors"))
    assert any("input_blocks.1.9.weight" in notice.text and "not used" in notice.text for notice in plan.notices)


@pytest.mark.parametrize("damaged", ["truncated", "float", "whole"])
def test_position_ids_are_never_merged(tmp_path: Path, damaged: str) -> None:
    right = torch.arange(77).reshape(1, 77)
    wrong = {"truncated": right.clone().index_fill_(1, torch.tensor([5, 40]), 4), "float": right.half(), "whole": right}
    a = write_model(tmp_path / "a.safetensors", Model(seed=1, extra={IDS: wrong[damaged]}))
    b = write_model(tmp_path / "b.safetensors", Model(seed=2, extra={IDS: right + 1}))
    result = run_merge(plan_merge(MergeRequest((a, b), "weighted_sum", tmp_path / "o.safetensors", dtype="fp16")))
    found = load_file(str(result.path))[IDS]
    assert found.dtype == torch.int64 and torch.equal(found, right)
    told = any(IDS in notice.text and "repaired" in notice.text for notice in result.notices)
    assert told == (damaged != "whole")


def test_integers_are_copied_from_a(tmp_path: Path) -> None:
    extra = {"model_ema.num_updates": torch.tensor(7, dtype=torch.int32)}
    a = write_model(tmp_path / "a.safetensors", Model(seed=1, extra=extra))
    b = write_model(
        tmp_path / "b.safetensors", Model(seed=2, extra={"model_ema.num_updates": torch.tensor(9, dtype=torch.int32)})
    )
    result = run_merge(plan_merge(MergeRequest((a, b), "weighted_sum", tmp_path / "o.safetensors")))
    found = load_file(str(result.path))["model_ema.num_updates"]
    assert found.item() == 7 and found.dtype == torch.int32


def test_averaged_copies_follow_the_block_of_what_they_copy(tmp_path: Path) -> None:
    name = "model_ema.diffusion_modelinput_blocks10in_layers2weight"
    plain = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"
    models = tuple(
        write_model(
            tmp_path / f"{n}.safetensors", Model("sd1", seed=n, extra={name: tensors(Model("sd1", seed=n))[plain]})
        )
        for n in (1, 2)
    )
    out = tmp_path / "o.safetensors"
    run_merge(plan_merge(MergeRequest(models, "weighted_sum", out, {"alpha": 0.9}, {"alpha": "IN01=0.25"})))
    found = load_file(str(out))
    assert torch.equal(found[name], found[plain])
    a, b = (load_file(str(path))[plain] for path in models)
    assert torch.equal(found[plain], torch.lerp(a, b, 0.25))


def test_a_bare_network_goes_with_a_prefixed_one(abc: Models, tmp_path: Path) -> None:
    prefix = "model.diffusion_model."
    bare = {name.removeprefix(prefix): t for name, t in tensors(Model(seed=2)).items() if name.startswith(prefix)}
    path = tmp_path / "unet.safetensors"
    save_file(bare, str(path))
    plan = plan_merge(MergeRequest((abc[0], path), "weighted_sum", tmp_path / "o.safetensors", {"alpha": 0.5}))
    found = load_file(str(run_merge(plan).path))
    a = load_file(str(abc[0]))
    assert torch.equal(found[KEY], torch.lerp(a[KEY], bare[KEY.removeprefix(prefix)], 0.5))
    assert found.keys() == a.keys()


def test_two_vaes_can_be_merged_and_a_vae_with_a_checkpoint_cannot(abc: Models, tmp_path: Path) -> None:
    prefix = "first_stage_model."
    paths = []
    for seed in (1, 2):
        state = tensors(Model(seed=seed))
        paths.append(tmp_path / f"vae{seed}.safetensors")
        save_file({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}, str(paths[-1]))
    out = tmp_path / "o.safetensors"
    run_merge(plan_merge(MergeRequest(tuple(paths), "weighted_sum", out, {"alpha": 0.5})))
    a, b, found = (load_file(str(path)) for path in (*paths, out))
    assert found.keys() == a.keys() and all(torch.equal(found[n], torch.lerp(a[n], b[n], 0.5)) for n in a)
    refuse(MergeRequest((abc[0], paths[0]), "weighted_sum", tmp_path / "p.safetensors"), MergeError, "a VAE")
