"""The path through a device of its own, run on the CPU device here: what a GPU would be asked to do."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from merge.reference import compare
from modelsmith.errors import UsageError
from modelsmith.merge import engine as engine_module
from modelsmith.merge import statistics as statistics_module
from modelsmith.merge.device import DeviceWork, choose_device, pinned_buffer
from modelsmith.merge.engine import run_merge
from modelsmith.merge.in_memory import merge_to_tensors
from modelsmith.merge.methods import get_method
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.request import EngineOptions, MergeRequest

Models = tuple[Path, Path, Path]


@pytest.mark.parametrize("method", ["weighted_sum", "add_difference", "slerp"])
def test_a_merge_through_a_device(abc: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    models = abc if method == "add_difference" else abc[:2]
    direct, through = tmp_path / "direct.safetensors", tmp_path / "through.safetensors"
    run_merge(plan_merge(MergeRequest(models, method, direct, {"alpha": 0.3})))
    monkeypatch.setattr(engine_module, "choose_device", lambda *_: torch.device("cpu"))
    options = EngineOptions(2, 12288, device="cuda")
    run_merge(plan_merge(MergeRequest(models, method, through, {"alpha": 0.3})), options=options)
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

    monkeypatch.setattr(engine_module, "choose_device", lambda *_: torch.device("cpu"))
    monkeypatch.setattr(DeviceWork, "_up", full)
    options = EngineOptions(2, 12288, device="cuda")
    run_merge(plan_merge(MergeRequest(abc[:2], method, through, {"alpha": 0.25})), options=options)
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
@pytest.mark.parametrize("device", [None, torch.device("cpu")])
@pytest.mark.usefixtures("host_is_coarse")
def test_the_hosts_coarse_products_are_not_inherited_and_come_back(
    abc: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: torch.device | None
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
    monkeypatch.setattr(engine_module, "choose_device", lambda *_: device)
    plan = plan_merge(MergeRequest(abc[:2], "cosine_a", tmp_path / "out.safetensors"))
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
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("cpu", plain) is None and choose_device("auto", whole) is None
    with pytest.raises(UsageError, match="no GPU"):
        choose_device("cuda", plain)
    with pytest.raises(UsageError, match="unknown"):
        choose_device("gpu", plain)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("auto", plain) is None and choose_device("auto", whole) == torch.device("cuda")
    assert choose_device("cuda:0", plain) == torch.device("cuda:0") and choose_device("cuda", seeded) is None
    with pytest.raises(UsageError, match="cuda:1"):
        choose_device("cuda:1", plain)
