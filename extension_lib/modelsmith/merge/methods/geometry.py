"""Methods that look at whole tensors: angles, lengths, rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from modelsmith.merge.methods import catalogue
from modelsmith.merge.methods.basic import add_scaled, weighted_sum
from modelsmith.merge.methods.spec import implements

_NEARLY_PARALLEL = 1e-6
_CANCELLED = 1e-15  # of a squared length: what rounding leaves of vectors that cancel out


def _length(values: Tensor) -> float:
    """The Euclidean length of a tensor as one vector, in fp64."""
    flat = values.double().reshape(-1)
    return math.sqrt(float(torch.dot(flat, flat)))


def _products(tensors: Sequence[Tensor]) -> Tensor:
    """The inner products of tensors with each other as vectors, in fp64."""
    found = torch.zeros(len(tensors), len(tensors), dtype=torch.float64, device="cpu")
    flat = [tensor.double().reshape(-1) for tensor in tensors]
    for row, one in enumerate(flat):
        for column, other in enumerate(flat[: row + 1]):
            found[row, column] = found[column, row] = float(torch.dot(one, other))
    return found


def _cosine(products: Tensor, one: int, other: int) -> float:
    """The cosine of the angle between two vectors from inner products; 1 where one of them is zero."""
    lengths = math.sqrt(float(products[one, one])) * math.sqrt(float(products[other, other]))
    return 1.0 if lengths == 0 else max(-1.0, min(1.0, float(products[one, other]) / lengths))


@implements(catalogue.EXTRACT)
def extract(a: Tensor, b: Tensor, c: Tensor, *, alpha: float, beta: float, gamma: float) -> Tensor:
    """The likeness d of the two differences, along the last dimension, decides how much of their mix is kept."""
    if not a.numel():
        return a.clone()
    one, other = b - a, c - a
    shaped = (one, other) if a.dim() else (one.reshape(1), other.reshape(1))
    cosine = torch.nn.functional.cosine_similarity(*shaped, dim=-1).clamp(-1, 1).unsqueeze(-1)
    likeness = ((cosine + 1) / 2).pow(gamma)
    share = likeness + (1 - 2 * likeness) * beta
    return a + weighted_sum(one, other, alpha=alpha) * share.reshape(share.shape if a.dim() else ())


@implements(catalogue.SLERP)
def slerp(a: Tensor, b: Tensor, *, alpha: float) -> Tensor:
    """Along the arc between the directions, with lengths mixed linearly; a weighted sum where A and B are parallel."""
    factors = slerp_factors(_products([a, b]), alpha)
    return weighted_sum(a, b, alpha=alpha) if factors is None else a * factors[0] + b * factors[1]


def slerp_factors(products: Tensor, alpha: float) -> tuple[float, float] | None:
    """How much of A and of B, from their inner products (2, 2); None where they are parallel or one of them is zero."""
    cosine = _cosine(products, 0, 1)
    if 1.0 - abs(cosine) < _NEARLY_PARALLEL:
        return None
    angle = math.acos(cosine)
    length_a, length_b = math.sqrt(float(products[0, 0])), math.sqrt(float(products[1, 1]))
    length = length_a + (length_b - length_a) * alpha
    from_a = math.sin((1 - alpha) * angle) / math.sin(angle) * length / length_a
    from_b = math.sin(alpha * angle) / math.sin(angle) * length / length_b
    return from_a, from_b


@implements(catalogue.EUCLIDEAN_ADD_DIFFERENCE)
def euclidean_add_difference(a: Tensor, b: Tensor, c: Tensor, *, alpha: float) -> Tensor:
    """The result's difference has the weighted mean of the two lengths; the sign of the weighted sum decides."""
    one, other = a - c, b - c
    signed = euclidean_signed(one, other, alpha)
    target = _length(one) * (1 - alpha) + _length(other) * alpha
    length = _length(signed)
    return c + signed * (target / length if length else 0.0)


def euclidean_signed(one: Tensor, other: Tensor, alpha: float) -> Tensor:
    """The result's difference before its length is set."""
    distance = ((one * (1 - alpha)).square() + (other * alpha).square()).sqrt()
    return torch.copysign(distance, weighted_sum(one, other, alpha=alpha))


def slice_of_b(a: Tensor, b: Tensor, axis: int, size: int, start: int, share: tuple[float, float]) -> Tensor:
    """B where the place along the axis is chosen; the values given begin at ``start`` of ``size`` places.

    share: alpha and beta.
    """
    first, end = round(size * share[1]), round(size * (share[0] + share[1]))
    places = torch.arange(start, start + a.shape[axis], device=a.device)
    chosen = (places - first) % size < end - first
    return torch.where(chosen.reshape([-1 if place == axis else 1 for place in range(a.dim())]), b, a)


def _slice_of_b(a: Tensor, b: Tensor, axis: int, alpha: float, beta: float) -> Tensor:
    if not a.dim() or not a.numel():
        return (b if alpha > 0.5 else a).clone()
    return slice_of_b(a, b, axis, a.shape[axis], 0, (alpha, beta))


@implements(catalogue.TENSOR_SUM)
def tensor_sum(a: Tensor, b: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Along the first dimension."""
    return _slice_of_b(a, b, 0, alpha, beta)


@implements(catalogue.TENSOR_SUM_COLUMNS)
def tensor_sum_columns(a: Tensor, b: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Along the second dimension, or the only one."""
    return _slice_of_b(a, b, min(1, max(0, a.dim() - 1)), alpha, beta)


@implements(catalogue.MODEL_STOCK)
def model_stock(a: Tensor, *finetunes: Tensor) -> Tensor:
    """The closed form of the paper, with the mean over all pairs of finetunes as the cosine, not below 0."""
    return stock_step(a, finetunes, stock_share(_products([model - a for model in finetunes])))


def stock_share(products: Tensor) -> float:
    """How far to go towards the mean of the finetunes, from the inner products of their differences from A."""
    count = len(products)
    pairs = [_cosine(products, one, other) for one in range(count) for other in range(one + 1, count)]
    cosine = max(0.0, sum(pairs) / len(pairs)) if pairs else 1.0
    return count * cosine / (1 + (count - 1) * cosine)


def stock_step(a: Tensor, finetunes: Sequence[Tensor], share: float) -> Tensor:
    """``A + (mean of the finetunes − A)·share``."""
    mean = finetunes[0] - a
    for number, model in enumerate(finetunes[1:], start=2):
        mean = add_scaled(mean, (model - a) - mean, 1.0 / number)
    return add_scaled(a, mean, share)


@implements(catalogue.KARCHER)
def karcher(*models: Tensor, iterations: float) -> Tensor:
    """Steps to the mean of the models' logarithms at the present point, until they no longer move it.

    Every point on the way is a sum of the models, so that the search runs on their inner products alone.
    """
    weights = karcher_weights(_products(models), int(iterations))
    result = torch.zeros(models[0].shape, dtype=torch.float64, device=models[0].device)
    for model, weight in zip(models, weights, strict=True):
        result = result.add_(model.double(), alpha=weight)
    return result.to(models[0].dtype)


def karcher_weights(products: Tensor, iterations: int) -> list[float]:
    """The share of each model in their mean on the sphere, from their inner products.

    Equal shares where a model is zero, or where they cancel out, so that no direction is their mean.
    """
    count = len(products)
    lengths = products.diagonal().sqrt()
    even = [1.0 / count] * count
    if float(lengths.min()) == 0 or float(products.mean()) < _CANCELLED * float(lengths.mean()) ** 2:
        return even
    cosines = (products / torch.outer(lengths, lengths)).clamp(-1.0, 1.0)
    point = torch.full_like(lengths, 1.0 / count)
    size = _span(point, cosines)
    if size * size < _CANCELLED:
        return even
    point = point / size
    for _ in range(iterations):
        step = torch.zeros_like(point)
        for place, found in enumerate(cosines @ point):
            cosine = max(-1.0, min(1.0, float(found)))
            angle = math.acos(cosine)
            if angle > _NEARLY_PARALLEL:
                factor = angle / math.sin(angle) / count
                step[place] += factor
                step -= point * (cosine * factor)
        size = _span(step, cosines)
        if size < 1e-10:
            break
        point = point * math.cos(size) + step * (math.sin(size) / size)
    return [float(weight) for weight in point / lengths * lengths.mean()]


def _span(weights: Tensor, cosines: Tensor) -> float:
    """The length of a sum of unit vectors with these cosines to each other."""
    return math.sqrt(max(0.0, float(weights @ cosines @ weights)))
