"""Streamed forms of methods that look at neighbours, orders and likeness."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from modelsmith.merge.methods import catalogue_likeness as catalogue
from modelsmith.merge.methods import signals
from modelsmith.merge.methods.basic import add_scaled
from modelsmith.merge.methods.stream import MANY, SOME, Piece, Stream, Whole, each, streams, total

_REACH = 5  # rows that a smoothed value depends on to each side: one for the median, four for the Gaussian
_CODES = 1 << 16


def _around(piece: Piece, model: int) -> Tensor:
    """The piece's rows of a model with the neighbours on both sides, mirrored at the ends of the tensor."""
    size = piece.whole.shape[0]
    begin, end = max(0, piece.first - _REACH), min(size, piece.first + piece.rows + _REACH)
    values = piece.load(model, begin, end - begin)
    places = torch.arange(piece.first - _REACH, piece.first + piece.rows + _REACH) % (2 * size)
    return values.index_select(0, torch.where(places < size, places, 2 * size - 1 - places) - begin)


@streams(catalogue.SMOOTH_ADD, values=MANY)
def smooth_add(_: Whole, *, alpha: float) -> Stream:
    """Row by row, each with the rows around it."""
    yield from ()

    def make(piece: Piece) -> Tensor:
        difference = _around(piece, 1) - _around(piece, 2)
        smooth = signals.gaussian(signals.median_of_neighbours(difference))
        return add_scaled(piece.load(0, piece.first, piece.rows), smooth[_REACH : _REACH + piece.rows], alpha)

    return make


def _short(whole: Whole) -> bool:
    return all(kind.itemsize <= 2 for kind in whole.stored)


def _codes(values: Tensor, stored: torch.dtype) -> Tensor:
    """Values as whole numbers from 0 to 65535 that order as they do; both zeros are one, NaN is last, as in sort."""
    kind = torch.bfloat16 if stored == torch.bfloat16 else torch.float16
    bits = (values.reshape(-1) + 0.0).to(kind).view(torch.int16).to(torch.int32) & 0xFFFF
    codes = torch.where(bits >= 0x8000, 0xFFFF - bits, bits + 0x8000)
    return torch.where(values.reshape(-1).isnan(), _CODES - 1, codes)


def _decoded(stored: torch.dtype, kind: torch.dtype) -> Tensor:
    """The value of every code."""
    codes = torch.arange(_CODES, dtype=torch.int32)
    bits = torch.where(codes >= 0x8000, codes - 0x8000, 0xFFFF - codes).to(torch.int16)
    return bits.view(torch.bfloat16 if stored == torch.bfloat16 else torch.float16).to(kind)


def _code_counts(model: int, piece: Piece) -> Tensor:
    """How often the values of a model have each code."""
    values = piece.load(model, piece.first, piece.rows)
    return torch.bincount(_codes(values, piece.whole.stored[model]), minlength=_CODES).int()


@streams(catalogue.TOP_K_TENSOR_SUM, fits=_short, values=SOME)
def top_k_tensor_sum(whole: Whole, *, alpha: float, beta: float) -> Stream:
    """Values of 16 bits are ranked by counting: those below, those alike in earlier pieces, those alike before it."""
    if whole.count < 2 or alpha <= 0:
        return lambda piece: piece.tensors[0]
    of_a: Tensor = yield total(partial(_code_counts, 0))
    starts = _starts((yield each(partial(_code_counts, 1))))
    values, last = _decoded(whole.stored[0], whole.kind), of_a.cumsum(0)
    low, high, wraps = signals.ranks_taken(whole.count, alpha, beta)
    bottom, top = (_magnitude(values, of_a, rank) for rank in (low, high))

    def make(piece: Piece) -> Tensor:
        a, b = piece.tensors
        codes = _codes(b, whole.stored[1])
        ranks = starts[piece.index][codes] + _before(codes)
        moved = values[torch.searchsorted(last, ranks, right=True)].reshape(a.shape)
        inside = (moved.abs() > bottom) & (moved.abs() <= top)
        return torch.where(inside != wraps, moved, a)

    return make


def _starts(counts: list[Tensor]) -> list[Tensor]:
    """For each piece and code the rank of its first value, from the pieces' counts, in whose place they come."""
    before = torch.zeros_like(counts[0])
    for piece in range(len(counts)):
        counts[piece], before = before, before + counts[piece]
    below = (before.cumsum(0) - before).int()
    for ranks in counts:
        ranks += below
    return counts


def _before(codes: Tensor) -> Tensor:
    """For each code, how many like it stand before it."""
    order = torch.argsort(codes, stable=True)
    counts = torch.bincount(codes, minlength=_CODES)
    firsts = counts.cumsum(0) - counts
    result = torch.empty(codes.numel(), dtype=torch.int64)
    result[order] = torch.arange(codes.numel()) - firsts[codes[order]]
    return result


def _magnitude(values: Tensor, counts: Tensor, rank: int) -> float:
    """The magnitude of a rank, counted from 1, among values that occur so often; -1 for rank 0."""
    if rank <= 0:
        return -1.0
    order = torch.argsort(values.abs())
    return float(values[order[int(torch.searchsorted(counts[order].cumsum(0), rank))]].abs())


def _distance(piece: Piece) -> Tensor:
    a, b = piece.tensors
    return (b - a).abs()


def _largest(piece: Piece) -> float:
    return float(_distance(piece).max())


def _lerp(piece: Piece, chance: Tensor, gamma: float) -> Tensor:
    a, b = piece.tensors
    return torch.lerp(a, b, signals.chosen(chance, gamma, partial(piece.random, 0)))


@streams(catalogue.COMPARATIVE_INTERPOLATION)
def comparative_interpolation(_: Whole, *, alpha: float, beta: float, gamma: float, seed: int) -> Stream:
    """The largest distance, then value by value."""
    largest = max((yield each(_largest)))
    if alpha <= 0 or largest == 0.0:
        return lambda piece: piece.tensors[0]

    def make(piece: Piece) -> Tensor:
        distance = _distance(piece)
        base = distance / largest if beta else (largest - distance) / largest
        return _lerp(piece, base.pow(1.0 / alpha - 1.0), gamma)

    return make


@streams(catalogue.ENHANCED_INTERPOLATION)
def enhanced_interpolation(whole: Whole, *, alpha: float, low: float, high: float, gamma: float, seed: int) -> Stream:
    """The largest distance, the mean likeness of each column, then value by value."""
    largest = max((yield each(_largest)))
    if alpha <= 0 or largest == 0.0:
        return lambda piece: piece.tensors[0]

    def likeness(piece: Piece) -> Tensor:
        return (largest - _distance(piece)) / largest

    def columns(piece: Piece) -> Tensor:
        return likeness(piece).double().sum(0, keepdim=True)

    mean = (yield total(columns)) / whole.shape[0]
    inside = (mean > low) & (mean < high)

    def make(piece: Piece) -> Tensor:
        chance = likeness(piece).pow(1.0 / alpha - 1.0)
        return _lerp(piece, torch.where(inside, chance, 0.0), gamma)

    return make
