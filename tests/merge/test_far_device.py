"""Methods and whole merges on a device that is not the CPU, simulated by ``merge.far_device``: nothing is forgotten on
the CPU, nothing is mixed, and what comes back is what the CPU computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lora.lora_files import write_lora
from lora.lora_modules import lora
from merge.far_device import KIND, FarMode, FarTensor, far, in_far_mode, is_possible
from merge.models import Model, write_model
from merge.reference import compare, worst_ulp
from modelsmith.lora.stack import LoraSpec
from modelsmith.merge.device import DeviceWork
from modelsmith.merge.engine import run_merge
from modelsmith.merge.in_memory import merge_to_tensors
from modelsmith.merge.methods import METHODS, MethodSpec, get_method
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.request import EngineOptions, MergeRequest, MergeResult
from pretend_gpu import NAME, computes_on

pytestmark = pytest.mark.skipif(not is_possible(), reason="before torch 2.9, or with a GPU")
get_method("weighted_sum")  # the registry fills when it is first asked
SPECS = [spec for spec in METHODS.values() if not spec.seeded]
SHAPES = ((8, 6), (6, 8), (8, 6, 3, 3), (7,), ())
Models = tuple[Path, Path, Path]


def parameters(spec: MethodSpec) -> dict[str, Any]:
    """Values at which every operand counts."""
    values: dict[str, Any] = spec.fill({})
    values |= {one.id: 0.3 for one in spec.parameters if one.id in ("alpha", "beta")}
    return values | dict.fromkeys(spec.statistics, 0.5)


def there(function: Callable[..., Any], operands: list[Tensor], given: dict[str, Any]) -> Any:
    """The function on the device."""
    with FarMode():
        return function(*(operand.to(far()) for operand in operands), **given)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.id)
def test_a_method_gives_there_what_it_gives_on_the_cpu(spec: MethodSpec, shape: tuple[int, ...]) -> None:
    operands = [torch.randn(shape) for _ in range(spec.models[1] or 3)]
    wanted = spec.function()(*(operand.clone() for operand in operands), **parameters(spec))
    found = there(spec.function(), operands, parameters(spec))
    assert isinstance(found, FarTensor) and found.device == far()
    assert found.dtype == wanted.dtype and torch.equal(found.near, wanted)


def test_what_is_made_on_the_cpu_and_mixed_in_is_caught() -> None:
    operands = [torch.randn(4, 6), torch.randn(4, 6)]

    def forgetful(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(torch.ones(a.shape, dtype=torch.bool), a, b)

    def returning(a: Tensor, b: Tensor) -> Tensor:
        return (a + b).to("cpu")

    with pytest.raises(RuntimeError, match="same device"):
        there(forgetful, operands, {})
    with pytest.raises(RuntimeError, match="same device"):
        there(lambda a, b: a + b.to("cpu"), operands, {})
    assert not isinstance(there(returning, operands, {}), FarTensor)
    with pytest.raises(RuntimeError):  # numpy reads the processor's memory alone
        there(lambda a, b: a.numpy(), operands, {})
    assert type(torch.ones(2) + 1) is Tensor and torch.equal(torch.ones(2) + 1, torch.full((2,), 2.0))


# whole merges


@pytest.fixture(scope="module", name="abc")
def three_models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """SD1 models, which have a third of SDXL's tensors."""
    folder = tmp_path_factory.mktemp("sd1")
    a, b, c = (write_model(folder / f"{seed}.safetensors", Model("sd1", seed=seed)) for seed in (1, 2, 3))
    return a, b, c


def taken_by(method: str, models: Models) -> tuple[Path, ...]:
    """As many of the models as a method takes."""
    return models[: get_method(method).models[1] or 3]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Merges that ask for a GPU get the device; for each call there, what was called, and on what kind of device."""
    computes_on(monkeypatch, far())
    calls: list[str] = []
    for name in ("elements", "whole"):
        entered = in_far_mode(getattr(DeviceWork, name))

        def noted(self: DeviceWork, *given: Any, name: str = name, entered: Any = entered) -> Any:
            calls.append(f"{name} {self.device.type}")
            return entered(self, *given)

        monkeypatch.setattr(DeviceWork, name, noted)
    return calls


def both(request: MergeRequest) -> tuple[MergeResult, dict[str, Tensor], dict[str, Tensor]]:
    """The result through the device, its tensors, and those of the direct run."""
    direct = request.output.with_name("direct.safetensors")
    run_merge(plan_merge(replace(request, output=direct)))
    result = run_merge(plan_merge(replace(request, device="cuda")), options=EngineOptions(2, 12288))
    one, other = load_file(str(result.path)), load_file(str(direct))
    assert one.keys() == other.keys() and json.loads(result.recipe)["device"] == NAME
    return result, one, other


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """How far two results are apart, in units of the last place of what the second has."""
    worst = 0.0
    for name, tensor in one.items():
        if tensor.is_floating_point() and tensor.element_size() > 1:
            worst = max(worst, worst_ulp(tensor, other[name].double()))
        else:
            assert torch.equal(tensor, other[name])
    return worst


@pytest.mark.parametrize("name", ["slerp", "ties", "rotate", "cosine_a"])
def test_merges_of_whole_tensors(abc: Models, tmp_path: Path, seen: list[str], name: str) -> None:
    """Both round the same formula once; the CPU takes some in pieces, so that sums are added up in another order."""
    request = MergeRequest(taken_by(name, abc), name, tmp_path / "through.safetensors")
    _, one, other = both(request)
    assert set(seen) == {f"whole {KIND}"} and len(seen) > 500
    assert apart(one, other) <= 1.0


def test_a_method_that_mixes_devices_stops_the_merge(
    abc: Models, tmp_path: Path, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MethodSpec, "function", lambda _: lambda a, b, **_: a + b.to("cpu"))
    out = tmp_path / "through.safetensors"
    with pytest.raises(RuntimeError, match="same device"):
        run_merge(plan_merge(MergeRequest(abc[:2], "slerp", out, device="cuda")))
    assert seen and not out.exists()


@pytest.mark.parametrize("precision", [None, "fp32"])
def test_merges_by_value(abc: Models, tmp_path: Path, seen: list[str], precision: str | None) -> None:
    out = tmp_path / "through.safetensors"
    both(MergeRequest(abc, "add_difference", out, {"alpha": 0.3}, dtype=precision))
    assert set(seen) == {f"elements {KIND}"}
    worst, _ = compare(out, abc, lambda _, t: t[0] + (t[1] - t[2]) * 0.3)
    assert worst <= 0.502


@pytest.mark.parametrize(
    ("method", "precision"), [("add_difference", "fp8_e4m3"), ("add_difference", "fp8_scaled"), ("slerp", "fp8_e5m2")]
)
def test_fp8_is_rounded_as_on_the_cpu(
    abc: Models, tmp_path: Path, seen: list[str], method: str, precision: str
) -> None:
    """What lies at the middle of two values, but for a rounding in fp32, may fall to either."""
    models, out = taken_by(method, abc), tmp_path / "through.safetensors"
    _, one, other = both(MergeRequest(models, method, out, {"alpha": 0.3}, dtype=precision))
    assert seen
    different = sum(int((one[name].float() != other[name].float()).sum()) for name in one)
    assert different <= 1e-4 * sum(tensor.numel() for tensor in one.values())


@pytest.mark.parametrize("method", ["weighted_sum", "slerp"])
def test_loras_are_baked_into_what_comes_back(abc: Models, tmp_path: Path, seen: list[str], method: str) -> None:
    key = "input_blocks.1.1.transformer_blocks.0.attn2.to_q"
    path = write_lora(tmp_path / "l.safetensors", {"lora_unet_" + key.replace(".", "_"): lora((6, 6))})
    request = MergeRequest(
        abc[:2], method, tmp_path / "through.safetensors", {"alpha": 0.3}, loras=(LoraSpec(path, 0.7),)
    )
    plain = merge_to_tensors(plan_merge(replace(request, loras=())))
    _, one, other = both(request)
    name = f"model.diffusion_model.{key}.weight"
    assert seen and not torch.equal(one[name], plain.tensors[name])
    assert apart(one, other) <= 1.0


@pytest.mark.parametrize("method", ["weighted_sum", "slerp"])
def test_an_inpainting_model_keeps_its_channels(tmp_path: Path, seen: list[str], method: str) -> None:
    wide = write_model(tmp_path / "wide.safetensors", Model("sd1", in_channels=9, seed=1))
    narrow = write_model(tmp_path / "narrow.safetensors", Model("sd1", seed=2))
    _, one, other = both(MergeRequest((narrow, wide), method, tmp_path / "through.safetensors", {"alpha": 0.3}))
    first = "model.diffusion_model.input_blocks.0.0.weight"
    assert seen and one[first].shape[1] == 9
    assert torch.equal(one[first][:, 4:], load_file(str(wide))[first][:, 4:])
    assert apart(one, other) <= 1.0


@pytest.mark.parametrize("method", ["add_difference", "slerp"])
def test_memory_that_runs_out_now_and_then(
    abc: Models, tmp_path: Path, seen: list[str], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Every other copy up fails, also one whose siblings are there already."""
    up, count = DeviceWork._up, iter(range(1 << 30))

    def at_times(self: DeviceWork, operand: Tensor, kind: torch.dtype) -> Tensor:
        if next(count) % 4 == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return up(self, operand, kind)

    monkeypatch.setattr(DeviceWork, "_up", at_times)
    models, out = taken_by(method, abc), tmp_path / "through.safetensors"
    result, one, other = both(MergeRequest(models, method, out, {"alpha": 0.3}))
    assert next(count) > 20 and apart(one, other) <= 1.0
    assert [found.message.id for found in result.notices if found.message] == ["device-memory"]
    assert NAME in result.notices[0].text and NAME in result.notices[0].said("ja")


def test_a_merge_into_memory(abc: Models, tmp_path: Path, seen: list[str]) -> None:
    request = MergeRequest(abc[:2], "slerp", tmp_path / "o.safetensors", {"alpha": 0.3})
    wanted = merge_to_tensors(plan_merge(request)).tensors
    assert not seen
    found = merge_to_tensors(plan_merge(replace(request, device="cuda"))).tensors
    assert seen and apart(found, wanted) <= 1.0 and not any(isinstance(one, FarTensor) for one in found.values())
