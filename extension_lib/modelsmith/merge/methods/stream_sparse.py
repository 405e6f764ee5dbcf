"""Streamed forms of the methods that keep only some of each finetune's changes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from torch import Tensor

from modelsmith.merge.methods import catalogue, sparse
from modelsmith.merge.methods.basic import add_scaled
from modelsmith.merge.methods.stream import Ask, Piece, Stream, Whole, of_rank, streams


def _differences(piece: Piece) -> list[Tensor]:
    a, *finetunes = piece.tensors
    return [model - a for model in finetunes]


def _limits(whole: Whole, shares: Sequence[float]) -> Generator[Ask, Any, list[list[float | None]]]:
    """For each finetune, the smallest magnitude among each share of largest changes; None for a share of none."""
    counts = [round(whole.count * share) for share in shares]
    ranks = [whole.count - count + 1 for count in counts if count > 0]
    number = len(whole.stored) - 1
    found: list[list[float]] = [[]] * number
    if ranks:
        found = yield from of_rank(whole, _differences, [ranks] * number)
    limits: list[list[float | None]] = []
    for one in found:
        left = iter(one)
        limits.append([next(left) if count > 0 else None for count in counts])
    return limits


@streams(catalogue.TIES)
def ties(whole: Whole, *, alpha: float, density: float) -> Stream:
    """The limits by counting, then value by value."""
    limits = yield from _limits(whole, [density])

    def make(piece: Piece) -> Tensor:
        kept = [sparse.kept(change, limit) for change, (limit,) in zip(_differences(piece), limits, strict=True)]
        return add_scaled(piece.tensors[0], sparse.elect(kept), alpha)

    return make


@streams(catalogue.BREADCRUMBS)
def breadcrumbs(whole: Whole, *, alpha: float, density: float, gamma: float) -> Stream:
    """Both limits by counting, then value by value."""
    limits = yield from _limits(whole, [gamma, min(1.0, gamma + density)])

    def make(piece: Piece) -> Tensor:
        kept = [
            sparse.kept(change, low, below=high)
            for change, (high, low) in zip(_differences(piece), limits, strict=True)
        ]
        return add_scaled(piece.tensors[0], sparse.mean_of(kept), alpha)

    return make


def _thinned(piece: Piece, density: float) -> list[Tensor]:
    return [sparse.thinned(change, piece.random(number), density) for number, change in enumerate(_differences(piece))]


@streams(catalogue.DARE)
def dare(_: Whole, *, alpha: float, density: float, seed: int) -> Stream:
    """Value by value, with the random numbers of its place."""
    yield from ()
    return lambda piece: add_scaled(piece.tensors[0], sparse.mean_of(_thinned(piece, density)), alpha)


@streams(catalogue.DARE_TIES)
def dare_ties(_: Whole, *, alpha: float, density: float, seed: int) -> Stream:
    """Value by value, with the random numbers of its place."""
    yield from ()
    return lambda piece: add_scaled(piece.tensors[0], sparse.elect(_thinned(piece, density)), alpha)


@streams(catalogue.DELLA, fits=lambda whole: len(whole.shape) >= 2)
def della(_: Whole, *, alpha: float, density: float, window: float, seed: int) -> Stream:
    """Row by row, with the random numbers of its place."""
    yield from ()

    def make(piece: Piece) -> Tensor:
        kept = [
            sparse.pruned(change, piece.random(number), density, window)
            for number, change in enumerate(_differences(piece))
        ]
        return add_scaled(piece.tensors[0], sparse.elect(kept), alpha)

    return make


@streams(catalogue.DROPOUT)
def dropout(_: Whole, *, alpha: float, density: float, rescale: float, seed: int) -> Stream:
    """Value by value, with the random numbers of its place."""
    yield from ()

    def make(piece: Piece) -> Tensor:
        drawn = [piece.random(number) for number in range(len(piece.tensors) - 1)]
        mean, scale = sparse.dropped(piece.tensors[0], piece.tensors[1:], drawn, density, rescale)
        return add_scaled(piece.tensors[0], mean, alpha / scale)

    return make
