"""The registry of methods, walked as a whole, and each formula against fp64 by a second hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from modelsmith.errors import UnknownNameError, UsageError
from modelsmith.merge.engine import run_merge
from modelsmith.merge.methods import METHODS, MethodSpec, get_method
from modelsmith.merge.methods.spec import declare, implements
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.request import EngineOptions, MergeRequest

SPECS = list(METHODS.values())
SHAPES = [(), (0,), (7,), (5, 6), (3, 130), (4, 3, 3, 3)]


def models(spec: MethodSpec, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    count = spec.models[1] or max(3, spec.models[0])
    return [torch.randn(shape, dtype=torch.float64).mul(0.05).to(dtype) for _ in range(count)]


def defaults(spec: MethodSpec, **given: float) -> dict[str, Any]:
    values: dict[str, Any] = spec.fill({name: value for name, value in given.items() if name != "seed"})
    if spec.seeded:
        values["seed"] = int(given.get("seed", 11))
    if spec.statistics:
        values |= {"low": -0.2, "high": 0.3}
    return values


@pytest.mark.parametrize("spec", SPECS, ids=METHODS)
def test_a_specification_says_all_that_is_shown(spec: MethodSpec) -> None:
    assert get_method(spec.id) is spec and spec.label and spec.formula and spec.summary and spec.reference
    for parameter in spec.parameters:
        assert parameter.low <= parameter.default <= parameter.high and parameter.label
    assert set(spec.neutral) <= {parameter.id for parameter in spec.parameters}
    assert callable(spec.function())


@pytest.mark.parametrize("spec", SPECS, ids=METHODS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_type_are_kept_and_nothing_becomes_nan(
    spec: MethodSpec, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    operands = models(spec, shape, dtype)
    before = [operand.clone() for operand in operands]
    result = spec.function()(*operands, **defaults(spec))
    assert result.shape == shape and result.dtype == dtype and bool(torch.isfinite(result).all())
    assert all(torch.equal(one, other) for one, other in zip(operands, before, strict=True))


@pytest.mark.parametrize("spec", SPECS, ids=METHODS)
@pytest.mark.parametrize("value", [0.0, 1.0, -2.5])
def test_equal_and_zero_models_give_themselves(spec: MethodSpec, value: float) -> None:
    operands = [torch.full((4, 5), value) for _ in models(spec, ())]
    result = spec.function()(*operands, **defaults(spec))
    torch.testing.assert_close(result, operands[0], rtol=2e-6, atol=0)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.neutral], ids=lambda spec: spec.id)
def test_neutral_parameters_give_a(spec: MethodSpec) -> None:
    operands = models(spec, (6, 9))
    result = spec.function()(*operands, **defaults(spec, **dict.fromkeys(spec.neutral, 0.0)))
    torch.testing.assert_close(result, operands[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("spec", SPECS, ids=METHODS)
def test_fp32_stays_near_fp64(spec: MethodSpec) -> None:
    """Bound: 2e-5 of the largest value, some hundred fp32 roundings, for every method but those that cut by rank."""
    wide = models(spec, (8, 120), torch.float64)
    wide = [operand.float().double() for operand in wide]
    values = defaults(spec)
    exact = spec.function()(*wide, **values)
    narrow = spec.function()(*(operand.float() for operand in wide), **values)
    assert float((narrow.double() - exact).abs().max()) <= 2e-5 * float(exact.abs().max())


@pytest.mark.parametrize("name", ["n_average", "karcher", "ties", "model_stock", "breadcrumbs"])
def test_the_order_of_equal_models_does_not_matter(name: str) -> None:
    spec = get_method(name)
    a, b, c = models(spec, (6, 7), torch.float64)
    first, second = spec.function()(a, b, c, **defaults(spec)), spec.function()(a, c, b, **defaults(spec))
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-12)


def values_of(name: str, *operands: Tensor, **given: float) -> Tensor:
    spec = get_method(name)
    return spec.function()(*operands, **defaults(spec, **given))


def rows(count: int, size: int = 64) -> list[Tensor]:
    return [torch.randn(size, dtype=torch.float64) for _ in range(count)]


@settings(max_examples=40, deadline=None)
@given(alpha=st.floats(0, 1), beta=st.floats(0, 1), seed=st.integers(0, 99))
def test_formulas_by_value(alpha: float, beta: float, seed: int) -> None:
    torch.manual_seed(seed)
    a, b, c = rows(3)
    result = {
        "triple_sum": (1 - alpha - beta) * a + alpha * b + beta * c,
        "sum_twice": ((1 - alpha) * a + alpha * b) * (1 - beta) + beta * c,
    }
    for name, wanted in result.items():
        torch.testing.assert_close(values_of(name, a, b, c, alpha=alpha, beta=beta), wanted, rtol=1e-9, atol=1e-12)
    learned, away = (b - c).tolist(), (b - a).abs().tolist()
    wanted = [
        x + math.copysign(1, d) * abs(w / (abs(d) + w)) * abs(d) * 1.8 * alpha
        for x, d, w in zip(a.tolist(), learned, away, strict=True)
    ]
    found = values_of("train_difference", a, b, c, alpha=alpha)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.8])
def test_geometric_family_against_complex_powers(alpha: float) -> None:
    """For two values of one sign the signed mean is the real power; sd-mecha takes complex powers for the rest."""
    a, b = (row.abs() for row in rows(2))
    torch.testing.assert_close(
        values_of("geometric", a, b, alpha=alpha), torch.exp(a.log() * (1 - alpha) + b.log() * alpha)
    )
    torch.testing.assert_close(values_of("geometric", -a, -b, alpha=alpha), -values_of("geometric", a, b, alpha=alpha))
    c = torch.randn(64, dtype=torch.float64)
    found = values_of("multiply_difference", a + c, b + c, c, alpha=alpha)
    torch.testing.assert_close(found, c + a ** (1 - alpha) * b**alpha)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_slerp_keeps_to_the_arc(alpha: float) -> None:
    a, b = rows(2)
    a, b = a / a.norm(), b / b.norm()
    found = values_of("slerp", a, b, alpha=alpha)
    assert float(found.norm()) == pytest.approx(1, abs=1e-12)
    whole = math.acos(float(a @ b))
    assert math.acos(min(1.0, float(a @ found))) == pytest.approx(alpha * whole, abs=1e-7)
    plane = torch.stack([a, b]).T
    inside = plane @ torch.linalg.lstsq(plane, found.unsqueeze(1)).solution
    torch.testing.assert_close(inside.squeeze(1), found)
    torch.testing.assert_close(values_of("slerp", a, a * 2, alpha=alpha), a * (1 + alpha))


def test_karcher_of_two_is_slerp_at_a_half() -> None:
    a, b = rows(2)
    b = b * (a.norm() / b.norm())
    torch.testing.assert_close(values_of("karcher", a, b), values_of("slerp", a, b, alpha=0.5), rtol=1e-8, atol=1e-10)


def test_model_stock_by_hand() -> None:
    base = torch.zeros(4, dtype=torch.float64)
    b, c = torch.tensor([1.0, 0, 0, 0]).double(), torch.tensor([0.6, 0.8, 0, 0]).double()
    share = 2 * 0.6 / (1 + 0.6)
    torch.testing.assert_close(values_of("model_stock", base, b, c), share * (b + c) / 2)
    torch.testing.assert_close(values_of("model_stock", base, b, -b), base)


def test_extract_by_hand() -> None:
    a = torch.zeros(2, 2, dtype=torch.float64)
    b = torch.tensor([[1.0, 0.0], [2.0, 0.0]]).double()
    c = torch.tensor([[3.0, 0.0], [0.0, 2.0]]).double()
    # The first rows point the same way (d = 1), the second are at right angles (d = 1/2, squared 1/4).
    wanted = torch.tensor([[2.0, 0.0], [0.25, 0.25]]).double()
    torch.testing.assert_close(values_of("extract", a, b, c, alpha=0.5, beta=0.0, gamma=2.0), wanted)
    wanted = torch.tensor([[0.0, 0.0], [0.75, 0.75]]).double()
    torch.testing.assert_close(values_of("extract", a, b, c, alpha=0.5, beta=1.0, gamma=2.0), wanted)


def test_euclidean_by_hand() -> None:
    c = torch.tensor([10.0, 10.0]).double()
    a, b = c + torch.tensor([3.0, 0.0]).double(), c + torch.tensor([0.0, -4.0]).double()
    found = values_of("euclidean_add_difference", a, b, c, alpha=0.5) - c
    torch.testing.assert_close(found, torch.tensor([1.5, -2.0]).double() * (3.5 / 2.5))


def test_similarity_by_hand() -> None:
    a = torch.tensor([1.0, 1.0, 0.0]).double()
    b = torch.tensor([1.0, -1.0, 0.0]).double()
    c = torch.tensor([0.5, 0.5, 0.5]).double()
    found = values_of("similarity_add_difference", a, b, c, alpha=1.0, beta=1.0)
    # Alike: half-way from A to B. Opposite: add difference. Both 0: alike.
    torch.testing.assert_close(found, torch.tensor([1.0, -0.5, 0.0]).double())


@pytest.mark.parametrize(
    ("alpha", "beta", "taken"), [(0.5, 0.0, [0, 1]), (0.5, 0.75, [3, 0]), (1.0, 0.3, [0, 1, 2, 3]), (0.0, 0.5, [])]
)
def test_tensor_sum_takes_rows_or_columns_and_wraps(alpha: float, beta: float, taken: list[int]) -> None:
    a, b = torch.zeros(4, 3), torch.ones(4, 3)
    found = values_of("tensor_sum", a, b, alpha=alpha, beta=beta)
    assert sorted(torch.nonzero(found[:, 0]).flatten().tolist()) == sorted(taken)
    assert torch.equal(values_of("tensor_sum_columns", a.T, b.T, alpha=alpha, beta=beta), found.T)
    vector = values_of("tensor_sum_columns", a[:, 0], b[:, 0], alpha=alpha, beta=beta)
    assert torch.equal(vector, found[:, 0])


def test_ties_by_hand() -> None:
    base = torch.zeros(4, dtype=torch.float64)
    b = torch.tensor([4.0, -3.0, 0.1, 0.2]).double()
    c = torch.tensor([2.0, 5.0, 0.3, -0.1]).double()
    # The two largest of each are kept; the signs elected are +, +; the means of what agrees are 3 and 5.
    found = values_of("ties", base, b, c, density=0.5)
    torch.testing.assert_close(found, torch.tensor([3.0, 5.0, 0.0, 0.0]).double())
    assert torch.equal(values_of("ties", base, b, c, density=0.0), base)


def test_breadcrumbs_by_hand() -> None:
    base = torch.zeros(10, dtype=torch.float64)
    b = torch.arange(1, 11).double()
    found = values_of("breadcrumbs", base, b, density=0.5, gamma=0.2)
    torch.testing.assert_close(found, torch.tensor([0, 0, 0, 4, 5, 6, 7, 8, 0, 0]).double())


@pytest.mark.parametrize("name", ["dare", "dare_ties"])
def test_dare_is_seeded_keeps_its_share_and_its_mean(name: str) -> None:
    base, b = torch.zeros(200_000), torch.ones(200_000)
    first = values_of(name, base, b, density=0.25, seed=3)
    assert torch.equal(first, values_of(name, base, b, density=0.25, seed=3))
    assert not torch.equal(first, values_of(name, base, b, density=0.25, seed=4))
    kept = float((first != 0).float().mean())
    # Five standard deviations of a binomial share.
    assert abs(kept - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 200_000)
    assert set(first.unique().tolist()) == {0.0, 4.0}
    assert torch.equal(values_of(name, base, b, density=1.0, seed=3), b)


def test_average_of_many() -> None:
    many = rows(7)
    torch.testing.assert_close(values_of("n_average", *many), torch.stack(many).mean(0))


Models = tuple[Path, Path, Path]


@pytest.mark.parametrize("spec", SPECS, ids=METHODS)
def test_every_method_through_the_engine_gives_the_same_bytes_however_cut(
    spec: MethodSpec, abc: Models, tmp_path: Path
) -> None:
    inputs = abc[: spec.models[1] or 3]
    out = tmp_path / "o.safetensors"
    plan = plan_merge(MergeRequest(inputs, spec.id, out, overwrite=True))
    first = run_merge(plan, options=EngineOptions(threads=3, chunk_bytes=4096 * 16)).path.read_bytes()
    assert run_merge(plan).path.read_bytes() == first
    states = [load_file(str(path)) for path in inputs]
    found = load_file(str(out))
    assert found.keys() == states[0].keys() and not any(bool(tensor.isnan().any()) for tensor in found.values())
    key = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    if not spec.seeded and not spec.statistics:
        wanted = spec.function()(*(state[key].float() for state in states), **defaults(spec)).half()
        torch.testing.assert_close(found[key], wanted, rtol=2e-3, atol=1e-6)
    recipe = json.loads(plan.metadata(plan.hashes())["modelsmith_recipe"])
    assert recipe["method"] == spec.id and recipe["parameters"] == spec.fill({})


def test_a_seed_differs_between_tensors_and_decides_the_bytes(abc: Models, tmp_path: Path) -> None:
    plans = [
        plan_merge(MergeRequest(abc[:2], "dare", tmp_path / f"{seed}.safetensors", {"seed": seed})) for seed in (1, 2)
    ]
    seeds = [job.parameters["seed"] for job in plans[0].jobs if job.action == "whole"]
    assert len(set(seeds)) == len(seeds) > 1000
    one, two = (load_file(str(run_merge(plan).path)) for plan in plans)
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_names_numbers_and_declarations_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="slerp"):
        get_method("slerpp")
    with pytest.raises(UsageError, match="between"):
        get_method("ties").fill({"density": 1.5})
    with pytest.raises(UsageError, match="whole number"):
        get_method("karcher").fill({"iterations": 2.5})
    with pytest.raises(UsageError, match="twice"):
        declare(get_method("slerp"))
    with pytest.raises(UsageError, match="does not take"):

        @implements(get_method("slerp"))
        def wrong(a: Tensor, *, beta: float) -> Tensor:
            return a * beta


@pytest.mark.parametrize("spec", [spec for spec in SPECS if not spec.seeded], ids=lambda spec: spec.id)
def test_methods_stay_on_the_device_of_their_operands(spec: MethodSpec) -> None:
    """A tensor made without saying where lies on the default device, and would not mix with the others."""
    operands = [*models(spec, (4, 6)), *models(spec, (6,))]
    half = len(operands) // 2
    wanted = [spec.function()(*part, **defaults(spec)) for part in (operands[:half], operands[half:])]
    with torch.device("meta"):
        found = [spec.function()(*part, **defaults(spec)) for part in (operands[:half], operands[half:])]
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.arrives], ids=lambda spec: spec.id)
def test_methods_that_arrive_give_b(spec: MethodSpec) -> None:
    assert "alpha" in spec.neutral and spec.effect == "sum"
    operands = models(spec, (6, 9), torch.float64)
    ends = {name: float(name == "alpha") for name in spec.neutral}
    result = spec.function()(*operands, **defaults(spec, **ends))
    torch.testing.assert_close(result, operands[1], rtol=1e-12, atol=1e-12)
    assert spec.is_b(spec.fill(ends)) and not spec.is_b(spec.fill(dict.fromkeys(spec.neutral, 0.0)))


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.neutral], ids=lambda spec: spec.id)
def test_the_ends_are_copied_bit_for_bit(spec: MethodSpec, abc: Models, tmp_path: Path) -> None:
    inputs = abc[: spec.models[1] or 3]
    values = {"a": dict.fromkeys(spec.neutral, 0.0)}
    if spec.arrives:
        values["b"] = {name: float(name == "alpha") for name in spec.neutral}
    for place, parameters in values.items():
        plan = plan_merge(MergeRequest(inputs, spec.id, tmp_path / f"{place}.safetensors", parameters))
        found, wanted = load_file(str(run_merge(plan).path)), load_file(str(abc["ab".index(place)]))
        assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
