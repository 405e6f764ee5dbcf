"""Methods in pieces of rows against the same methods on whole tensors."""

from __future__ import annotations

import threading
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor

from modelsmith.errors import Cancelled
from modelsmith.merge.methods import METHODS, MethodSpec, stream_crossover
from modelsmith.merge.streaming import Draws, StreamedTensor, rows_of, streamed

SPECS = [spec for spec in METHODS.values() if spec.scope == "tensor"]


@pytest.fixture(autouse=True)
def _nothing_is_too_small_for_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_crossover, "HELD", 1)


SHAPES = [(40, 6), (6, 40), (12, 3, 3, 3), (97,), (9, 5, 1, 1), (4, 30)]


def parameters(spec: MethodSpec, **given: float) -> dict[str, Any]:
    values: dict[str, Any] = dict(spec.fill({}))
    values |= {name: value for name, value in given.items() if name in values}
    if spec.seeded:
        values["seed"] = 77
    if spec.statistics:
        values |= {"low": -0.2, "high": 0.3}
    return values


def operands(spec: MethodSpec, shape: tuple[int, ...], stored: torch.dtype) -> list[Tensor]:
    count = spec.models[1] or max(4, spec.models[0])
    # Few distinct values, so that equal ones abound, zeros of both signs among them.
    return [torch.randn(shape).mul(8).round().div(64).to(stored) for _ in range(count)]


def in_pieces(
    spec: MethodSpec, models: list[Tensor], kind: torch.dtype, given: dict[str, Any], rows: int
) -> StreamedTensor | None:
    shape, stored = tuple(models[0].shape), tuple(model.dtype for model in models)
    found = streamed(spec, shape, kind, stored, rows * prod(shape[1:]))

    def load(model: int, first: int, count: int) -> Tensor:
        return models[model].reshape(-1)[first : first + count]

    return None if found is None else found.begin(given, load)


def joined(tensor: StreamedTensor) -> Tensor:
    return torch.cat([tensor.values(index) for index in range(tensor.whole.pieces)])


VARIED: list[dict[str, float]] = [
    {},
    {"alpha": 0.3, "beta": 0.9, "gamma": 0.4, "density": 0.3, "alignment": 0.5, "rank": 0.5},
    {"alpha": 0.7, "beta": 0.0, "gamma": 0.0, "density": 1.0, "alignment": 0.0, "low": 0.3, "high": 0.6, "rank": 0.0},
    {"alpha": 1.0, "beta": 1.0, "gamma": 1.0, "density": 0.0, "rank": 1.0, "window": 0.0},
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.id)
@pytest.mark.parametrize("given", VARIED, ids=["defaults", "some", "other", "ends"])
def test_pieces_give_what_the_whole_tensor_gives(spec: MethodSpec, given: dict[str, float]) -> None:
    """Exact where no sum over the tensor enters; else the sums differ by their order alone, in fp64."""
    for shape in SHAPES:
        for stored, kind in ((torch.float16, torch.float32), (torch.bfloat16, torch.float32)):
            models = operands(spec, shape, stored)
            values = parameters(spec, **given)
            tensor = in_pieces(spec, models, kind, values, rows=5)
            if tensor is None:
                assert len(shape) == 1, f"{spec.id} {shape}"
                continue
            expected = spec.function()(*(model.to(kind) for model in models), **values)
            found = joined(tensor)
            assert found.dtype == expected.dtype and found.shape == expected.shape
            torch.testing.assert_close(found, expected, rtol=3e-6, atol=3e-7, msg=f"{spec.id} {shape} {stored}")


EXACT = [
    "tensor_sum",
    "tensor_sum_columns",
    "ties",
    "dare",
    "dare_ties",
    "breadcrumbs",
    "della",
    "dropout",
    "top_k_tensor_sum",
    "smooth_add",
]


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_the_exact_ones_are_equal_to_the_last_bit(name: str, kind: torch.dtype, rows: int) -> None:
    spec = METHODS[name]
    models = operands(spec, (33, 18), torch.float16)
    given = parameters(spec, alpha=0.6, density=0.35, beta=0.25, gamma=0.2)
    tensor = in_pieces(spec, models, kind, given, rows)
    assert tensor is not None
    expected = spec.function()(*(model.to(kind) for model in models), **given)
    assert torch.equal(joined(tensor), expected)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.id)
def test_threads_and_their_order_change_no_bit(spec: MethodSpec) -> None:
    models = operands(spec, (64, 16), torch.float16)
    given = parameters(spec, alpha=0.4, density=0.4, gamma=0.3, alignment=0.5)
    alone = in_pieces(spec, models, torch.float32, given, 3)
    together = in_pieces(spec, models, torch.float32, given, 3)
    assert alone is not None and together is not None
    found: dict[int, Tensor] = {}

    def work(numbers: list[int]) -> None:
        for number in numbers:
            found[number] = together.values(number)

    count = together.whole.pieces
    threads = [threading.Thread(target=work, args=(list(range(count))[start::3][::-1],)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(joined(alone), torch.cat([found[number] for number in range(count)]))


def test_random_numbers_from_any_place_are_those_of_one_draw() -> None:
    expected = torch.rand(5000, generator=torch.Generator().manual_seed(3), dtype=torch.float32)
    draws = Draws(3)
    for first, count in [(4000, 500), (0, 100), (100, 1), (101, 3899), (4500, 500), (2000, 16), (0, 5000)]:
        assert torch.equal(draws.take(first, count), expected[first : first + count])


def test_stopping_wakes_all_and_an_error_reaches_every_thread() -> None:
    spec = METHODS["slerp"]
    models = operands(spec, (8, 4), torch.float16)
    tensor = in_pieces(spec, models, torch.float32, parameters(spec), 2)
    assert tensor is not None
    tensor.stop()
    with pytest.raises(Cancelled):
        tensor.values(0)
    short = [models[0], models[1].reshape(-1)[:10]]

    def load(model: int, first: int, count: int) -> Tensor:
        if model and first:
            raise OSError("gone")
        return short[model].reshape(-1)[first : first + count]

    found = streamed(spec, (8, 4), torch.float32, (torch.float16, torch.float16), 8)
    assert found is not None
    broken = found.begin(parameters(spec), load)
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            broken.values(3)


def test_pieces_are_cut_by_the_shape_alone() -> None:
    assert rows_of((49408, 1280), 1 << 20) == 819 and rows_of((5, 1 << 21), 1 << 20) == 1 and rows_of((9,), 4) == 4
