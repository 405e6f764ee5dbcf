"""The quick rounding gives the values and the account of the careful one, for every pattern and every mixture."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

from modelsmith.convert.casts import Loss, LossBook, cast
from modelsmith.convert.nodes import Kept
from modelsmith.convert.rounding import BitTable, cast_into
from modelsmith.convert.scaled import _SHARE, Scale, ScaledWeight
from modelsmith.errors import Cancelled
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


@pytest.mark.parametrize("kind", [kind for kind in FLOATS if kind != "F64"])
def test_weights_of_every_type_are_scaled(kind: str) -> None:
    values = (torch.randn(300, 200) * 0.1).to(torch_dtype(kind))
    wide = values.float().reshape(-1)
    node = _Held(values, kind)
    scale = Scale(node)
    made = ScaledWeight(node, scale, LossBook(), "w").read(0, count(node.shape))
    assert scale.value() == float(wide.abs().max() / 448.0)
    assert torch.equal(_bytes(made), _bytes((wide / scale.value()).to(made.dtype)))


class Watched(_Held):
    """Notes who reads what; the first two readers wait for each other, as threads do that come at the same time."""

    def __init__(self, values: torch.Tensor, kind: str, broken_from: int | None = None) -> None:
        super().__init__(values, kind)
        self.reads: list[tuple[int, int, int]] = []
        self._both = threading.Barrier(2)
        self._broken_from = broken_from

    def read(self, first: int, elements: int) -> torch.Tensor:
        mine = threading.get_ident()
        met = mine in [reader for reader, *_ in self.reads]
        self.reads.append((mine, first, elements))
        if not met:
            self._both.wait(60)
        if self._broken_from is not None and first >= self._broken_from:
            raise OSError("gone")
        return super().read(first, elements)


def _in_two_threads(act: Callable[[], float]) -> list[float | str]:
    answers: list[float | str] = []

    def work() -> None:
        try:
            answers.append(act())
        except (OSError, Cancelled) as error:
            answers.append(type(error).__name__)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return answers


def test_threads_share_the_search_for_a_scale() -> None:
    values = torch.zeros(6 * _SHARE + 5).half()
    values[-1] = -2.5
    node = Watched(values, "F16")
    scale = Scale(node)
    assert _in_two_threads(scale.value) == [pytest.approx(2.5 / 448)] * 2
    assert len({reader for reader, *_ in node.reads}) == 2
    once = sorted((first, elements) for _, first, elements in node.reads)
    assert [first for first, _ in once] == [0, *(first + elements for first, elements in once)][:-1]
    assert sum(elements for *_, elements in node.reads) == len(values)
    assert scale.value() == pytest.approx(2.5 / 448) and len(node.reads) == len(once)


def test_where_the_weight_cannot_be_read_nobody_waits_for_its_scale() -> None:
    node = Watched(torch.zeros(6 * _SHARE).half(), "F16", broken_from=_SHARE)
    scale = Scale(node)
    assert sorted(map(str, _in_two_threads(scale.value))) == ["Cancelled", "OSError"]
    with pytest.raises(Cancelled):
        scale.value()


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
