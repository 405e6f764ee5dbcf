"""The quick rounding gives the values and the account of the careful one, for every pattern and every mixture."""

from __future__ import annotations

import pytest
import torch

from modelsmith.convert.casts import Loss, LossBook, cast
from modelsmith.convert.nodes import Kept
from modelsmith.convert.rounding import BitTable, cast_into
from modelsmith.convert.scaled import Scale, ScaledWeight
from modelsmith.files.dtypes import DTYPES, count, torch_dtype

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


class _Held:
    """A node whose values are at hand."""

    def __init__(self, values: torch.Tensor, kind: str) -> None:
        self._flat, self.dtype, self.shape = values.reshape(-1), kind, tuple(values.shape)

    def read(self, first: int, elements: int) -> torch.Tensor:
        return self._flat[first : first + elements].clone()


def _samples(kind: str) -> list[torch.Tensor]:
    wide = torch.randn(4000, dtype=torch.float64) * torch.logspace(-9, 6, 4000, dtype=torch.float64)
    odd = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 65519.0, 65520.0, 463.9, 464.0, 1e38, 1e-40])
    found = [wide, torch.cat((wide, odd.double())), odd.double(), torch.randn(500).double(), torch.zeros(3).double()]
    target = torch_dtype(kind)
    return [part.to(target) for part in found]


def _patterns(kind: str) -> torch.Tensor:
    if DTYPES[kind].bits == 8:
        return torch.arange(256, dtype=torch.uint8).view(torch_dtype(kind))
    return torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch_dtype(kind))


def _bytes(values: torch.Tensor) -> torch.Tensor:
    return values.contiguous().view(torch.uint8)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("target", FLOATS[1:])
@pytest.mark.parametrize("source", FLOATS)
def test_quick_rounding_is_the_careful_one(source: str, target: str, clip: bool) -> None:
    if source == target:
        return
    samples = _samples(source)
    if DTYPES[source].bits <= 16:
        every = _patterns(source)
        samples += [every, every[every.float().isfinite()], every[every.float().abs() < 400.0]]
    for values in samples:
        expected, loss = cast(values, target, clip=clip)
        out = torch.empty(len(values), dtype=torch_dtype(target))
        assert cast_into(values, out, clip=clip) == loss
        told = ~expected.float().isnan()  # which undefined value stands there is the processor's affair
        assert torch.equal(out.float().isnan(), ~told)
        assert torch.equal(_bytes(out[told]), _bytes(expected[told]))


@pytest.mark.parametrize("source", ["F16", "BF16"])
@pytest.mark.parametrize("target", ["F8_E4M3", "F8_E5M2"])
def test_a_table_divides_as_arithmetic_does(source: str, target: str) -> None:
    values = (torch.randn(700_001) * 0.3).to(torch_dtype(source))
    scale = float(values.float().abs().max() / 448.0)
    expected, loss = cast(values.float() / scale, target)
    out = torch.empty(len(values), dtype=torch_dtype(target))
    assert BitTable(values.dtype, out.dtype, scale).round_into(values, out) == loss
    assert torch.equal(_bytes(out), _bytes(expected))


def test_large_scaled_weights_equal_small_ones() -> None:
    """The lookup of large weights and the arithmetic of small ones give the same bytes."""
    values = (torch.randn(2200, 2000) * 0.1).half()
    values[7, 9] = torch.nan
    node = _Held(values, "F16")
    book = LossBook()
    scale = Scale(node)
    large = ScaledWeight(node, scale, book, "w").read(0, count(node.shape))
    expected, loss = cast(values.reshape(-1).float() / scale.value(), "F8_E4M3")
    assert scale.value() == float(values.nan_to_num(0.0).float().abs().max() / 448.0)
    assert torch.equal(large.float().nan_to_num(9e9), expected.float().nan_to_num(9e9))
    found = book.losses()["w"]
    assert (found.clipped, found.vanished, found.nan) == (loss.clipped, loss.vanished, 1)
    assert found.largest_error == pytest.approx(loss.largest_error * scale.value(), rel=1e-6)


def test_nothing_in_nothing_out() -> None:
    assert cast_into(torch.empty(0), torch.empty(0, dtype=torch.float16)) == Loss()


def test_what_is_kept_is_forgotten_when_all_was_read() -> None:
    """In whatever order the threads come; a second pass over the tensor computes anew, once."""
    made: list[int] = []
    kept = Kept(lambda: made.append(1) or torch.ones(3), 10)
    for _ in range(2):
        for elements in (3, 3, 4):  # the last values may be read first
            assert len(kept.value()) == 3
            kept.used(elements)
        assert kept._value is None
    assert len(made) == 2
