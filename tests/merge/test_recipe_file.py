"""Recipe checkpoints: small, whole, found again, and the same values and bytes as the engine's file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from merge.models import Model, write_model
from modelsmith.errors import BadFileError, Cancelled, UsageError
from modelsmith.identify import identify
from modelsmith.merge.block_cache import BlockCache
from modelsmith.merge.engine import run_merge
from modelsmith.merge.in_memory import MemorySink, merge_to_tensors
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.recipe_checkpoint import (
    RecipeCheckpoint,
    Sources,
    plan_in_memory,
    plan_save,
    read_recipe_checkpoint,
    write_recipe_checkpoint,
)
from modelsmith.merge.request import MergeRequest

Make = Callable[..., RecipeCheckpoint]
WEIGHTS = {"alpha": "OUT03=1,IN04=0,M00=0.75"}


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    a = write_model(tmp_path / "a.safetensors", Model("sdxl", seed=1, markers=("v_pred", "ztsnr")))
    b = write_model(tmp_path / "b.safetensors", Model("sdxl", seed=2, markers=("v_pred", "ztsnr")))
    return a, b


@pytest.fixture
def make(models: tuple[Path, Path], tmp_path: Path) -> Make:
    def build(name: str = "mix.recipe", alpha: float = 0.3, **changes: object) -> RecipeCheckpoint:
        request = MergeRequest(models, "weighted_sum", tmp_path / "mix.safetensors", {"alpha": alpha}, WEIGHTS)
        plan = plan_merge(replace(request, **changes))  # type: ignore[arg-type]
        return write_recipe_checkpoint(plan, tmp_path / f"{name}.safetensors", overwrite=True)

    return build


def sources(tmp_path: Path) -> Sources:
    return Sources.of(sorted(tmp_path.glob("*.safetensors")))


@pytest.mark.parametrize(
    ("method", "parameters"),
    [("weighted_sum", {"alpha": 0.3}), ("slerp", {"alpha": 0.6}), ("dare", {"alpha": 0.5, "seed": 7})],
)
@pytest.mark.parametrize("dtype", [None, "fp32"])
def test_values_are_those_of_the_engines_file(
    models: tuple[Path, Path], tmp_path: Path, method: str, parameters: dict[str, float], dtype: str | None
) -> None:
    if method == "dare":
        models = (*models, write_model(tmp_path / "c.safetensors", Model("sdxl", seed=3, markers=("v_pred", "ztsnr"))))
    plan = plan_merge(MergeRequest(models, method, tmp_path / "file.safetensors", parameters, dtype=dtype))
    made = write_recipe_checkpoint(plan, tmp_path / "r.safetensors")
    run_merge(plan)
    wanted = load_file(str(tmp_path / "file.safetensors"))
    found = merge_to_tensors(plan_in_memory(made, sources(tmp_path))).tensors
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_saving_gives_the_engines_bytes(make: Make, models: tuple[Path, Path], tmp_path: Path) -> None:
    hashes = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in models}
    made = make(known_hashes=hashes)
    direct = MergeRequest(models, "weighted_sum", tmp_path / "mix.safetensors", {"alpha": 0.3}, WEIGHTS)
    run_merge(plan_merge(replace(direct, known_hashes=hashes)))
    wanted = (tmp_path / "mix.safetensors").read_bytes()
    (tmp_path / "mix.safetensors").unlink()
    run_merge(plan_save(made, sources(tmp_path), tmp_path / "mix.safetensors"))
    assert (tmp_path / "mix.safetensors").read_bytes() == wanted


def test_it_is_small_and_any_reader_can_open_it(make: Make) -> None:
    made = make()
    assert made.path.stat().st_size < 16_384
    with safe_open(str(made.path), "pt") as file:
        assert "modelsmith_recipe" in file.metadata()
        assert "Install the extension Modelsmith" in file.metadata()["modelspec.description"]
    assert sum(tensor.numel() for tensor in load_file(str(made.path)).values()) == 33


def test_it_is_identified_as_what_it_makes(make: Make, models: tuple[Path, Path]) -> None:
    made, a = identify(make().path), identify(models[0])
    assert made.recipe
    assert (made.kind, made.architecture, made.precision) == (a.kind, a.architecture, a.precision)
    assert (made.prediction.type, made.prediction.zero_terminal_snr) == ("v_prediction", True)
    assert [part.name for part in made.components] == [part.name for part in a.components]
    assert made.badge().endswith("recipe")
    assert not a.recipe


def test_its_hash_follows_the_recipe(make: Make) -> None:
    def data_hash(path: Path) -> str:
        return hashlib.sha256(b"".join(bytes(t.view(torch.uint8)) for t in load_file(str(path)).values())).hexdigest()

    first = make(alpha=0.3)
    before, data = first.path.read_bytes(), data_hash(first.path)
    assert make(alpha=0.3).path.read_bytes() == before
    second = make(alpha=0.31)
    assert second.path.read_bytes() != before
    assert second.digest != first.digest
    assert data_hash(second.path) != data


def test_a_renamed_model_is_found(make: Make, models: tuple[Path, Path], tmp_path: Path) -> None:
    made = make()
    models[1].rename(tmp_path / "renamed.safetensors")
    assert plan_in_memory(made, sources(tmp_path)).inputs[1].path.name == "renamed.safetensors"


def test_a_missing_model_is_named_with_the_remedy(make: Make, models: tuple[Path, Path], tmp_path: Path) -> None:
    made = make()
    models[1].unlink()
    with pytest.raises(BadFileError, match=r"b\.safetensors .*is missing.*refresh the list"):
        plan_in_memory(made, sources(tmp_path))


def test_another_file_of_the_same_name_is_refused(make: Make, models: tuple[Path, Path], tmp_path: Path) -> None:
    made = make()
    write_model(models[1], Model("sdxl", seed=9, markers=("v_pred", "ztsnr")))
    with pytest.raises(BadFileError, match="other contents"):
        plan_in_memory(made, sources(tmp_path))


def test_a_recipe_is_no_model_to_merge(make: Make, models: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="holds no weights"):
        plan_merge(MergeRequest((make().path, models[1]), "weighted_sum", tmp_path / "x.safetensors"))


def test_it_never_replaces_a_model(make: Make, models: tuple[Path, Path], tmp_path: Path) -> None:
    plan = plan_merge(MergeRequest(models, "weighted_sum", tmp_path / "mix.safetensors"))
    with pytest.raises(UsageError, match="holds a model"):
        write_recipe_checkpoint(plan, models[0], overwrite=True)
    make()
    with pytest.raises(UsageError, match="exists already"):
        write_recipe_checkpoint(plan, tmp_path / "mix.recipe.safetensors")


@pytest.mark.parametrize(("entry", "text"), [("modelsmith_recipe", "nonsense"), ("modelsmith_recipe_checkpoint", "[]")])
def test_a_damaged_recipe_says_so(make: Make, entry: str, text: str) -> None:
    path = make().path
    from safetensors.torch import save_file

    with safe_open(str(path), "pt") as file:
        metadata = dict(file.metadata())
    save_file(load_file(str(path)), str(path), metadata=metadata | {entry: text})
    with pytest.raises(BadFileError, match="cannot be read"):
        read_recipe_checkpoint(path)


# the cache


def test_one_block_changed_computes_only_that_block(make: Make, tmp_path: Path) -> None:
    cache = BlockCache(1 << 30)
    first = merge_to_tensors(plan_in_memory(make(), sources(tmp_path)), cache)
    plan = plan_in_memory(make(block_weights={"alpha": "OUT03=0.9,IN04=0,M00=0.75"}), sources(tmp_path))
    second = merge_to_tensors(plan, cache)
    changed = [job for job in plan.jobs if job.block == "OUT03"]
    copied = [job for job in plan.jobs if job.action in ("copy", "empty", "position_ids")]
    assert first.reused == 0
    assert second.computed == len(changed) + len(copied)
    assert second.reused == len(plan.jobs) - second.computed > 0
    fresh = merge_to_tensors(plan).tensors
    assert fresh.keys() == second.tensors.keys()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in second.tensors.items())


def test_what_the_caller_changes_does_not_reach_the_cache(make: Make, tmp_path: Path) -> None:
    cache = BlockCache(1 << 30)
    plan = plan_in_memory(make(), sources(tmp_path))
    for _ in range(2):
        for tensor in merge_to_tensors(plan, cache).tensors.values():
            tensor.zero_()
    fresh, cached = merge_to_tensors(plan).tensors, merge_to_tensors(plan, cache).tensors
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in cached.items())


@pytest.mark.parametrize("limit", [0, 1, 100_000])
def test_the_cache_keeps_its_limit(make: Make, tmp_path: Path, limit: int) -> None:
    cache = BlockCache(limit)
    plan = plan_in_memory(make(), sources(tmp_path))
    merge_to_tensors(plan, cache)
    assert cache.used_bytes <= limit
    assert (merge_to_tensors(plan, cache).reused > 0) == (limit > 1)
    cache.limit = 0
    assert cache.used_bytes == 0


def test_a_changed_input_is_computed_anew(make: Make, models: tuple[Path, Path], tmp_path: Path) -> None:
    cache = BlockCache(1 << 30)
    merge_to_tensors(plan_in_memory(make(), sources(tmp_path)), cache)
    write_model(models[1], Model("sdxl", seed=9, markers=("v_pred", "ztsnr")))
    plan = plan_in_memory(make(), sources(tmp_path))
    again = merge_to_tensors(plan, cache)
    assert again.reused == 0


def test_cancelling_leaves_nothing(make: Make, tmp_path: Path) -> None:
    plan = plan_in_memory(make(), sources(tmp_path))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(Cancelled):
        merge_to_tensors(plan, None, None, lambda: True)
    assert sorted(tmp_path.iterdir()) == before


def test_slabs_hold_every_byte(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_in_memory(make(), sources(tmp_path))
    whole = merge_to_tensors(plan).tensors
    monkeypatch.setattr("modelsmith.merge.in_memory.SLAB_BYTES", 5_000)
    monkeypatch.setattr("modelsmith.merge.in_memory.CHUNK_BYTES", 4_096)
    assert MemorySink([job.entry for job in plan.jobs]).data_bytes == sum(job.entry.nbytes for job in plan.jobs)
    pieces = merge_to_tensors(plan).tensors
    assert all(torch.equal(tensor, pieces[name]) for name, tensor in whole.items())
