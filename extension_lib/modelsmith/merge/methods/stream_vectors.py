"""Streamed forms of methods that see a tensor as one vector, or as columns and rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor

from modelsmith.merge.methods import catalogue, catalogue_likeness, cosine, geometry
from modelsmith.merge.methods.basic import weighted_sum
from modelsmith.merge.methods.stream import Piece, Stream, Whole, streams, total


def products(tensors: Sequence[Tensor]) -> Tensor:
    """The inner products of tensors with each other as vectors, in fp64."""
    vectors = torch.stack([tensor.reshape(-1).double() for tensor in tensors])
    return vectors @ vectors.T


def _matrices(whole: Whole) -> bool:
    return len(whole.shape) >= 2


@streams(catalogue.EXTRACT, fits=_matrices)
def extract(_: Whole, *, alpha: float, beta: float, gamma: float) -> Stream:
    """Row by row as it is."""
    yield from ()
    return lambda piece: geometry.extract(*piece.tensors, alpha=alpha, beta=beta, gamma=gamma)


@streams(catalogue.SLERP)
def slerp(_: Whole, *, alpha: float) -> Stream:
    """The angle from inner products, then value by value."""
    factors = geometry.slerp_factors((yield total(lambda piece: products(piece.tensors))), alpha)

    def make(piece: Piece) -> Tensor:
        a, b = piece.tensors
        return weighted_sum(a, b, alpha=alpha) if factors is None else a * factors[0] + b * factors[1]

    return make


@streams(catalogue.EUCLIDEAN_ADD_DIFFERENCE)
def euclidean_add_difference(_: Whole, *, alpha: float) -> Stream:
    """The three lengths, then value by value."""

    def lengths(piece: Piece) -> Tensor:
        a, b, c = piece.tensors
        one, other = a - c, b - c
        vectors = (one, other, geometry.euclidean_signed(one, other, alpha))
        return torch.stack([vector.double().square().sum() for vector in vectors])

    one, other, signed = (float(length) for length in (yield total(lengths)).sqrt())
    factor = (one * (1 - alpha) + other * alpha) / signed if signed else 0.0

    def make(piece: Piece) -> Tensor:
        a, b, c = piece.tensors
        return c + geometry.euclidean_signed(a - c, b - c, alpha) * factor

    return make


def _slices(axis: int, alpha: float, beta: float) -> Callable[[Piece], Tensor]:
    def make(piece: Piece) -> Tensor:
        a, b = piece.tensors
        size = piece.whole.shape[axis]
        return geometry.slice_of_b(a, b, axis, size, piece.first if axis == 0 else 0, (alpha, beta))

    return make


@streams(catalogue.TENSOR_SUM)
def tensor_sum(_: Whole, *, alpha: float, beta: float) -> Stream:
    """Row by row."""
    yield from ()
    return _slices(0, alpha, beta)


@streams(catalogue.TENSOR_SUM_COLUMNS)
def tensor_sum_columns(whole: Whole, *, alpha: float, beta: float) -> Stream:
    """Column by column of each row, value by value of a vector."""
    yield from ()
    return _slices(min(1, len(whole.shape) - 1), alpha, beta)


@streams(catalogue.MODEL_STOCK)
def model_stock(_: Whole) -> Stream:
    """The cosines between the differences, then value by value."""

    def part(piece: Piece) -> Tensor:
        a, *finetunes = piece.tensors
        return products([model - a for model in finetunes])

    share = geometry.stock_share((yield total(part)))

    def make(piece: Piece) -> Tensor:
        a, *finetunes = piece.tensors
        return geometry.stock_step(a, finetunes, share)

    return make


@streams(catalogue.KARCHER)
def karcher(_: Whole, *, iterations: float) -> Stream:
    """The mean lies in the span of the models, so that their inner products are all that the search needs."""
    weights = geometry.karcher_weights((yield total(lambda piece: products(piece.tensors))), int(iterations))

    def make(piece: Piece) -> Tensor:
        scaled = (model.double() * weight for model, weight in zip(piece.tensors, weights, strict=True))
        return reduce(torch.add, scaled).to(piece.whole.kind)

    return make


def _cosine(likeness: Callable[[Tensor], Tensor], alpha: float, low: float, high: float) -> Stream:
    sums = yield total(lambda piece: cosine.column_sums(*piece.tensors))
    alike = likeness(sums)

    def make(piece: Piece) -> Tensor:
        a, b = piece.tensors
        return cosine.mixed(a, b, alike, alpha, (low, high))

    return make


@streams(catalogue_likeness.COSINE_A)
def cosine_a(_: Whole, *, alpha: float, low: float, high: float) -> Stream:
    """The sums of each column, then row by row."""
    return (yield from _cosine(cosine.likeness_a, alpha, low, high))


@streams(catalogue_likeness.COSINE_B)
def cosine_b(_: Whole, *, alpha: float, low: float, high: float) -> Stream:
    """The sums of each column, then row by row."""
    return (yield from _cosine(cosine.likeness_b, alpha, low, high))
