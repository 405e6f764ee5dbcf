"""Streamed forms of the methods that take matrices apart.

What has to be held is square, with the shorter side of the matrix: a dozen copies in fp64 while it is taken apart, of
(1280, 1280) for SDXL (13 MB each; a merge was seen to take 0.38 to 0.43 GB in all), of (6144, 6144) for FLUX.2 (0.3 GB
each).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, cast

import torch
from torch import Tensor

from modelsmith.merge.methods import catalogue_likeness as catalogue
from modelsmith.merge.methods.basic import add_scaled, weighted_sum
from modelsmith.merge.methods.matrices import as_matrix, rotation_of, rotation_power
from modelsmith.merge.methods.stream import SOME, Piece, Stream, Whole, each, streams, total


def _blocks(piece: Piece) -> list[tuple[int, int]]:
    """First row and number of rows of every piece of the tensor."""
    size, step = piece.whole.shape[0], piece.whole.rows
    return [(first, min(step, size - first)) for first in range(0, size, step)]


def _is_tall(whole: Whole) -> bool:
    """Whether ``as_matrix`` gives at least as many rows as columns."""
    shape = whole.shape
    kernel = len(shape) == 4 and shape[2] * shape[3] > 1
    rows = shape[0] * shape[1] if kernel else shape[0]
    return rows >= prod(shape) // rows


@dataclass(frozen=True, slots=True)
class _Turn:
    """All that is known once the rotation is: means along the longer side, the rotation, and its power."""

    mean_a: Tensor
    mean_b: Tensor
    rotation: Tensor
    power: Tensor
    alignment: float
    alpha: float

    @property
    def mean(self) -> Tensor:
        return self.mean_a + (self.mean_b - self.mean_a) * self.alignment


def _pair(piece: Piece) -> tuple[Tensor, Tensor]:
    a, b = piece.tensors
    return as_matrix(a).double(), as_matrix(b).double()


def _rotation(product: Tensor, alignment: float) -> tuple[Tensor, Tensor]:
    rotation = rotation_of(product, proper=0.0 < alignment < 1.0)
    if alignment in (0.0, 1.0):
        return rotation, rotation if alignment else torch.eye(len(rotation), dtype=torch.float64)
    return rotation, rotation_power(rotation, alignment)


@streams(catalogue.ROTATE, values=SOME, heavy=True)
def rotate(whole: Whole, *, alignment: float, alpha: float) -> Stream:
    """The product of the centred matrices over pieces, its rotation, then row by row."""
    same = len(whole.shape) < 2 or all((yield each(lambda piece: torch.equal(*piece.tensors))))
    if same:
        return lambda piece: weighted_sum(*piece.tensors, alpha=alpha)
    if alignment == 1.0 and alpha == 1.0:
        return lambda piece: piece.tensors[1]
    return (yield from (_rotate_tall if _is_tall(whole) else _rotate_wide)(alignment, alpha))


def _rotate_tall(alignment: float, alpha: float) -> Stream:
    def columns(piece: Piece) -> Tensor:
        a, b = _pair(piece)
        return torch.stack([a.sum(0), b.sum(0), torch.full_like(a[0], len(a))])

    sums = yield total(columns)
    mean_a, mean_b = sums[0] / sums[2], sums[1] / sums[2]

    def product(piece: Piece) -> Tensor:
        a, b = _pair(piece)
        return (a - mean_a).T @ (b - mean_b)

    turn = _Turn(mean_a, mean_b, *_rotation((yield total(product)), alignment), alignment, alpha)

    def make(piece: Piece) -> Tensor:
        a, b = _pair(piece)
        first = a - turn.mean_a
        if alpha:
            first = first + ((b - turn.mean_b) @ turn.rotation.T - first) * alpha
        result = (first @ turn.power if alignment else first) + turn.mean
        return result.reshape(piece.tensors[0].shape).to(piece.whole.kind)

    return make


def _rotate_wide(alignment: float, alpha: float) -> Stream:
    """A wide matrix is turned across its rows: each row of the result needs every row."""

    def rows(piece: Piece) -> Tensor:
        return torch.stack([matrix.mean(1) for matrix in _pair(piece)])

    means = torch.cat((yield each(rows)), dim=1)
    mean_a, mean_b = means[0][:, None], means[1][:, None]

    def block(piece: Piece, model: int, first: int, count: int) -> Tensor:
        mean = (mean_a, mean_b)[model]
        return as_matrix(piece.load(model, first, count)).double() - mean[first : first + count]

    def product(piece: Piece) -> Tensor:
        a = block(piece, 0, piece.first, piece.rows)
        return torch.cat([a @ block(piece, 1, *place).T for place in _blocks(piece)], dim=1)

    turn = _Turn(mean_a, mean_b, *_rotation(torch.cat((yield each(product))), alignment), alignment, alpha)
    from_a, from_b = turn.power.T * (1.0 - alpha), turn.power.T @ turn.rotation * alpha

    def make(piece: Piece) -> Tensor:
        here = slice(piece.first, piece.first + piece.rows)
        result = _across(piece, from_a[here], partial(block, piece, 0))
        if alpha:
            result += _across(piece, from_b[here], partial(block, piece, 1))
        return (result + turn.mean[here]).reshape(piece.tensors[0].shape).to(piece.whole.kind)

    return make


def _across(piece: Piece, weights: Tensor, block: Callable[[int, int], Tensor]) -> Tensor:
    """``weights · matrix``, a block of the matrix's rows at a time."""
    result: Tensor | None = None
    for first, count in _blocks(piece):
        part = weights[:, first : first + count] @ block(first, count)
        result = part if result is None else result.add_(part)
    assert result is not None  # a tensor without rows is not streamed
    return result


def _difference(piece: Piece, first: int, count: int) -> Tensor:
    difference = piece.load(1, first, count) - piece.load(2, first, count)
    return difference.reshape(count, -1).double()


def _leading(gram: Tensor, kept: int) -> Tensor:
    """The ``kept`` first singular vectors from a Gram matrix."""
    _, vectors = cast(Any, torch).linalg.eigh(gram)
    return vectors.flip(1)[:, :kept]


@streams(catalogue.RANK_TRUNCATION, values=SOME, heavy=True)
def rank_truncation(whole: Whole, *, alpha: float, rank: float) -> Stream:
    """The Gram matrix of the shorter side over pieces, its leading vectors, then row by row."""
    if len(whole.shape) < 2 or rank >= 1.0:
        return lambda piece: add_scaled(piece.tensors[0], piece.tensors[1] - piece.tensors[2], alpha)
    wide = whole.shape[0] <= whole.width

    def product(piece: Piece) -> Tensor:
        own = _difference(piece, piece.first, piece.rows)
        if not wide:
            return own.T @ own
        return torch.cat([own @ _difference(piece, *place).T for place in _blocks(piece)], dim=1)

    gram = torch.cat((yield each(product))) if wide else (yield total(product))
    basis = _leading(gram, round(min(whole.shape[0], whole.width) * rank))

    def make(piece: Piece) -> Tensor:
        a = piece.load(0, piece.first, piece.rows)
        if wide:
            weights = basis[piece.first : piece.first + piece.rows] @ basis.T
            nearest = _across(piece, weights, partial(_difference, piece))
        else:
            nearest = (_difference(piece, piece.first, piece.rows) @ basis) @ basis.T
        return add_scaled(a, nearest.reshape(a.shape).to(a.dtype), alpha)

    return make
