"""The path through a device of its own, run on the CPU device here: what a GPU would be asked to do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import modelsmith
from merge.reference import compare
from modelsmith import devices
from modelsmith.cli import main
from modelsmith.errors import BadFileError, UsageError
from modelsmith.merge import device as device_module
from modelsmith.merge import engine as engine_module
from modelsmith.merge import statistics as statistics_module
from modelsmith.merge.block_cache import BlockCache
from modelsmith.merge.device import DeviceWork, choose_device, pinned_buffer
from modelsmith.merge.engine import run_merge
from modelsmith.merge.in_memory import merge_to_tensors
from modelsmith.merge.methods import get_method
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.recipe import RECIPE_KEY
from modelsmith.merge.replay import Finder, ReplayOptions, read_recipe, replay, request_from_recipe
from modelsmith.merge.request import EngineOptions, MergeRequest
from pretend_gpu import NAME, computes_on, no_gpu, pretend_gpus

Models = tuple[Path, Path, Path]


@pytest.mark.parametrize("method", ["weighted_sum", "add_difference", "slerp"])
def test_a_merge_through_a_device(abc: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    models = abc if method == "add_difference" else abc[:2]
    direct, through = tmp_path / "direct.safetensors", tmp_path / "through.safetensors"
    run_merge(plan_merge(MergeRequest(models, method, direct, {"alpha": 0.3})))
    computes_on(monkeypatch, torch.device("cpu"))
    request = MergeRequest(models, method, through, {"alpha": 0.3}, device="cuda")
    run_merge(plan_merge(request), options=EngineOptions(2, 12288))
    one, other = load_file(str(direct)), load_file(str(through))
    assert one.keys() == other.keys()
    if method == "slerp":
        assert all(torch.equal(one[name], other[name]) for name in one)
        return
    worst, _ = compare(through, models, lambda _, t: t[0] + (t[1] - (t[2] if len(t) == 3 else t[0])) * 0.3)
    assert worst <= 0.502


@pytest.mark.parametrize("method", ["weighted_sum", "slerp"])
def test_a_device_without_memory_leaves_the_work_to_the_cpu(
    abc: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    direct, through = tmp_path / "direct.safetensors", tmp_path / "through.safetensors"
    run_merge(plan_merge(MergeRequest(abc[:2], method, direct, {"alpha": 0.25})))

    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    computes_on(monkeypatch, torch.device("cpu"))
    monkeypatch.setattr(DeviceWork, "_up", full)
    request = MergeRequest(abc[:2], method, through, {"alpha": 0.25}, device="cuda")
    run_merge(plan_merge(request), options=EngineOptions(2, 12288))
    one, other = load_file(str(direct)), load_file(str(through))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert 1 <= sum("merged on the CPU" in record.message for record in caplog.records) <= 2


ON_GPUS: Any = torch.backends.cuda.matmul
ON_CPUS: Any = getattr(torch.backends.mkldnn, "matmul", None)
BY_BACKEND = hasattr(ON_GPUS, "fp32_precision")


def coarse(settings: str) -> None:
    """Let products be computed coarsely, by the one number of old or by the newer settings; not at all for none."""
    torch.set_float32_matmul_precision(settings if settings == "medium" else "highest")
    if BY_BACKEND and settings != "medium":
        ON_GPUS.fp32_precision, ON_CPUS.fp32_precision = ("tf32", "bf16") if settings != "none" else ("none", "none")


def precision() -> tuple[str, ...]:
    """How coarsely products are computed, on a GPU and on the CPU."""
    if not BY_BACKEND:
        return (torch.get_float32_matmul_precision(),)
    return (ON_GPUS.fp32_precision, ON_CPUS.fp32_precision)


@pytest.fixture
def host_is_coarse(request: pytest.FixtureRequest) -> Generator[None, None, None]:
    coarse(request.param)
    yield
    coarse("none")


@pytest.mark.parametrize("host_is_coarse", ["medium", *(["by backend"] if BY_BACKEND else [])], indirect=True)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.usefixtures("host_is_coarse")
def test_the_hosts_coarse_products_are_not_inherited_and_come_back(
    abc: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    seen: set[tuple[str, ...]] = set()

    def watched(module: object, name: str) -> None:
        original = getattr(module, name)

        def instead(*arguments: object) -> object:
            seen.add(precision())
            return original(*arguments)

        monkeypatch.setattr(module, name, instead)

    watched(engine_module, "_fill")
    watched(statistics_module._Survey, "part")
    before = precision()
    computes_on(monkeypatch, torch.device("cpu"))
    plan = plan_merge(MergeRequest(abc[:2], "cosine_a", tmp_path / "out.safetensors", device=device))
    run_merge(plan)
    merge_to_tensors(plan)
    assert len(seen) == 1 and seen <= {("highest",), ("ieee", "ieee")}
    assert precision() == before


def test_memory_that_cannot_be_locked_is_taken_unlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch, "empty", refused)
    view = pinned_buffer(8192, torch.device("cuda"))
    assert len(view) == 8192 and not view.readonly


def test_devices_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, whole, seeded = get_method("weighted_sum"), get_method("slerp"), get_method("dare")
    no_gpu(monkeypatch)
    assert choose_device("cpu", plain) is None and choose_device("auto", whole) is None
    for method in (plain, seeded):
        with pytest.raises(UsageError, match="no GPU"):
            choose_device("cuda", method)
        with pytest.raises(UsageError, match="unknown"):
            choose_device("gpu", method)
    pretend_gpus(monkeypatch)
    assert choose_device("auto", plain) is None and choose_device("auto", whole) == torch.device("cuda")
    assert choose_device("cuda:0", plain) == torch.device("cuda:0") and choose_device("cuda", seeded) is None
    with pytest.raises(UsageError, match="cuda:1"):
        choose_device("cuda:1", plain)


def test_a_plan_names_the_gpu_and_so_does_the_recipe(
    abc: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = MergeRequest(abc[:2], "slerp", tmp_path / "o.safetensors")
    no_gpu(monkeypatch)
    with pytest.raises(UsageError, match="no GPU"):
        plan_merge(replace(request, device="cuda"))
    cpu = plan_merge(request)
    metadata = cpu.metadata(cpu.hashes())
    assert "device" not in json.loads(metadata[RECIPE_KEY]) and "computed on" not in cpu.summary
    same = plan_merge(replace(request, device="auto"))
    assert same.device is None and same.metadata(same.hashes()) == metadata and same.summary == cpu.summary
    pretend_gpus(monkeypatch, "First", "Second")
    plan = plan_merge(replace(request, device="cuda:1"))
    assert plan.device == torch.device("cuda:1") and plan.summary.endswith("computed on Second")
    assert json.loads(plan.metadata(plan.hashes())[RECIPE_KEY])["device"] == "Second"
    for device, method in (("cpu", "slerp"), ("auto", "weighted_sum"), ("cuda", "dare")):
        kept = plan_merge(replace(request, device=device, method=method))
        assert kept.device is None and "device" not in json.loads(kept.metadata(kept.hashes())[RECIPE_KEY])


def test_planning_for_the_cpu_imports_no_torch(abc: Models, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from modelsmith.merge.plan import plan_merge; "
        "from modelsmith.merge.request import MergeRequest; a, b, out = map(Path, sys.argv[1:]); "
        "plan_merge(MergeRequest((a, b), 'weighted_sum', out)); print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(abc[0]), str(abc[1]), str(tmp_path / "o.safetensors")]
    library = Path(modelsmith.__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=library)
    assert done.stdout.strip() == "False"


def test_what_a_gpu_computed_is_not_taken_for_what_the_cpu_computes(
    abc: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computes_on(monkeypatch, torch.device("cpu"))
    request, cache = MergeRequest(abc[:2], "slerp", tmp_path / "o.safetensors"), BlockCache(1 << 30)
    there, here = (plan_merge(replace(request, device=device)) for device in ("cuda", "cpu"))
    assert merge_to_tensors(there, cache).computed == merge_to_tensors(here, cache).computed
    assert merge_to_tensors(there, cache).reused == merge_to_tensors(here, cache).reused > 0


# recipes


@pytest.fixture
def recipe(abc: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The recipe of a file that a GPU computed."""
    computes_on(monkeypatch, torch.device("cpu"))
    out = tmp_path / "made.safetensors"
    run_merge(plan_merge(MergeRequest(abc[:2], "weighted_sum", out, {"alpha": 0.3}, device="cuda")))
    return dict(read_recipe(out).recipe)


def test_a_recipe_is_repeated_where_it_was_computed(
    abc: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any]
) -> None:
    finder, again = Finder((abc[0].parent,)), tmp_path / "again.safetensors"
    result = replay(recipe, finder, again)
    assert again.read_bytes() == (tmp_path / "made.safetensors").read_bytes() and result.notices == ()
    pretend_gpus(monkeypatch, "Other", NAME)
    assert request_from_recipe(recipe, finder, again).device == "cuda:1"
    pretend_gpus(monkeypatch, "Other")
    request = request_from_recipe(recipe, finder, tmp_path / "o.safetensors")
    assert request.device == "cuda"
    (found,) = plan_merge(request).notices
    assert found.level == "warning" and NAME in found.text and "Other" in found.text
    assert plan_merge(replace(request, computed_on="")).notices == ()


def test_where_no_gpu_is_that_is_said(
    abc: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any]
) -> None:
    no_gpu(monkeypatch)
    result = replay(recipe, Finder((abc[0].parent,)), tmp_path / "again.safetensors")
    (found,) = result.notices
    assert found.message is not None and found.message.id == "recipe-device"
    assert f"computed on {NAME}; here the CPU computes it" in found.text and f"{NAME} で" in found.said("ja")
    assert "device" not in json.loads(result.recipe)
    old = {key: value for key, value in recipe.items() if key != "device"}
    assert replay(old, Finder((abc[0].parent,)), tmp_path / "old.safetensors").notices == ()


def test_the_command_says_where_to_repeat_it(
    abc: Models,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    given = ["replay", str(path), "--models", str(abc[0].parent), "-o", str(tmp_path / "o.safetensors"), "--quiet"]
    assert main([*given, "--device", "cpu"]) == 0
    assert f"computed on {NAME}; here the CPU" in capsys.readouterr().err
    assert "device" not in read_recipe(tmp_path / "o.safetensors").recipe
    assert main([*given, "--device", "cuda", "--overwrite"]) == 0
    assert "computed on" not in capsys.readouterr().err
    assert read_recipe(tmp_path / "o.safetensors").recipe["device"] == NAME
    no_gpu(monkeypatch)
    monkeypatch.setattr(device_module, "find_gpu", devices.find_gpu)
    assert main([*given, "--device", "cuda", "--overwrite"]) == 2
    assert "no GPU" in capsys.readouterr().err
    assert main([*given, "--overwrite"]) == 0
    assert f"computed on {NAME}; here the CPU" in capsys.readouterr().err


def test_an_input_that_was_computed_on_a_gpu_and_comes_out_otherwise_here(
    abc: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any]
) -> None:
    made, second = tmp_path / "made.safetensors", tmp_path / "second.safetensors"
    run_merge(plan_merge(MergeRequest((made, abc[2]), "weighted_sum", second, {"alpha": 0.5})))
    whole, finder = read_recipe(second).recipe, Finder((abc[0].parent,))
    made.unlink()
    out = tmp_path / "o.safetensors"
    replay(whole, finder, out, ReplayOptions(rebuild=True, overwrite=True, device="cpu"))
    assert out.read_bytes() == second.read_bytes()  # the input follows its own recipe
    no_gpu(monkeypatch)
    with pytest.raises(BadFileError, match=f"it was computed on {NAME}, and here on the CPU") as caught:
        replay(whole, finder, out, ReplayOptions(rebuild=True, overwrite=True))
    assert NAME in caught.value.in_language("ja")[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("method", ["add_difference", "slerp", "ties"])
def test_on_a_gpu_that_is_here(abc: Models, tmp_path: Path, method: str) -> None:
    models, found = abc[: get_method(method).models[1] or 3], list[dict[str, torch.Tensor]]()
    for device in ("cpu", "cuda"):
        out = tmp_path / f"{device}.safetensors"
        run_merge(plan_merge(MergeRequest(models, method, out, {"alpha": 0.3}, device=device)))
        found.append(load_file(str(out)))
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=2e-3, atol=1e-6)
