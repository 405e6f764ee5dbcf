"""The recipe in the output: A1111's entries key by key, our own, nested ones, and what readers make of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors import safe_open

from merge.models import Model, write_model
from modelsmith.merge.engine import run_merge
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.recipe import RECIPE_VERSION, legacy_hash
from modelsmith.merge.request import MergeRequest

Models = tuple[Path, Path, Path]

# modules/extras.py of AUTOMATIC1111 1.10.1, run_modelmerger
A1111_KEYS = ["type", "primary_model_hash", "secondary_model_hash", "tertiary_model_hash", "interp_method",
              "multiplier", "save_as_half", "custom_name", "config_source", "bake_in_vae", "discard_weights",
              "is_inpainting", "is_instruct_pix2pix"]  # fmt: skip


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(str(path), "pt") as file:
        return file.metadata()


def as_a1111_reads(path: Path) -> dict[str, object]:
    """modules/sd_models.py read_metadata_from_safetensors: values that start with a brace are JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        start = file.read(2)
        assert length > 2 and start in (b'{"', b"{'")
        parsed = json.loads(start + file.read(length - 2))
    found: dict[str, object] = {}
    for key, value in parsed.get("__metadata__", {}).items():
        found[key] = json.loads(value) if isinstance(value, str) and value[0:1] == "{" else value
    return found


def test_a1111s_entries_have_its_form(abc: Models, tmp_path: Path) -> None:
    out = tmp_path / "My merge.safetensors"
    run_merge(plan_merge(MergeRequest(abc, "add_difference", out, {"alpha": 0.75}, dtype="fp16")))
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in abc]
    metadata = as_a1111_reads(out)
    recipe = metadata["sd_merge_recipe"]
    assert isinstance(recipe, dict) and list(recipe) == A1111_KEYS
    assert [recipe[f"{place}_model_hash"] for place in ("primary", "secondary", "tertiary")] == digests
    assert (recipe["interp_method"], recipe["multiplier"], recipe["save_as_half"]) == ("Add difference", 0.75, True)
    assert (recipe["custom_name"], recipe["is_inpainting"]) == ("My merge", False)
    models = metadata["sd_merge_models"]
    assert isinstance(models, dict) and list(models) == digests
    assert models[digests[0]] == {"name": "a.safetensors", "legacy_hash": legacy_hash(abc[0]), "sd_merge_recipe": None}
    assert metadata["format"] == "pt"


def test_our_own_recipe_tells_all_that_is_needed(abc: Models, tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"
    request = MergeRequest(abc[:2], "weighted_sum", out, {"alpha": 0.25}, {"alpha": "IN03=0.75"}, dtype="bf16",
                           missing="skip", metadata={"author": "me"})  # fmt: skip
    result = run_merge(plan_merge(request))
    recipe = json.loads(result.recipe)
    assert recipe == json.loads(metadata_of(out)["modelsmith_recipe"])
    assert (recipe["version"], recipe["method"], recipe["dtype"]) == (RECIPE_VERSION, "weighted_sum", "bf16")
    assert recipe["parameters"] == {"alpha": 0.25} and recipe["missing"] == "skip"
    assert recipe["blocks"]["alpha"]["IN03"] == 0.75 and recipe["blocks"]["alpha"]["IN04"] == 0.25
    assert [model["file"] for model in recipe["models"]] == ["a.safetensors", "b.safetensors"]
    assert recipe["models"][1]["sha256"] == hashlib.sha256(abc[1].read_bytes()).hexdigest()
    assert metadata_of(out)["author"] == "me"


def test_recipes_are_nested_when_inputs_were_merges(abc: Models, tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    run_merge(plan_merge(MergeRequest(abc[:2], "weighted_sum", first, {"alpha": 0.25})))
    run_merge(plan_merge(MergeRequest((first, abc[2]), "weighted_sum", second, {"alpha": 0.5})))
    own = json.loads(metadata_of(second)["modelsmith_recipe"])
    assert own["models"][0]["recipe"]["parameters"] == {"alpha": 0.25} and "recipe" not in own["models"][1]
    models = json.loads(metadata_of(second)["sd_merge_models"])
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    assert models[digest]["sd_merge_recipe"]["multiplier"] == 0.25
    for path in abc:  # the grandparents are carried on, as A1111 does
        assert hashlib.sha256(path.read_bytes()).hexdigest() in models


def test_one_model_twice_and_equal_files(abc: Models, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(abc[0].read_bytes())
    digest = hashlib.sha256(copy.read_bytes()).hexdigest()
    for models in ((abc[0], abc[0]), (abc[0], copy)):
        out = tmp_path / "o.safetensors"
        run_merge(plan_merge(MergeRequest(models, "weighted_sum", out, {"alpha": 0.5}, overwrite=True)))
        recipe = json.loads(metadata_of(out)["sd_merge_recipe"])
        assert recipe["primary_model_hash"] == recipe["secondary_model_hash"] == digest
        assert list(json.loads(metadata_of(out)["sd_merge_models"])) == [digest]


def test_host_names_and_inpainting_are_recorded(tmp_path: Path) -> None:
    a = write_model(tmp_path / "a.safetensors", Model(seed=1, in_channels=9))
    b = write_model(tmp_path / "b.safetensors", Model(seed=2))
    out = tmp_path / "o.safetensors"
    run_merge(plan_merge(MergeRequest((a, b), "weighted_sum", out, names={a: "folder/a.safetensors"})))
    metadata = metadata_of(out)
    assert json.loads(metadata["sd_merge_recipe"])["is_inpainting"] is True
    assert "folder/a.safetensors" in [model["name"] for model in json.loads(metadata["sd_merge_models"]).values()]
