"""Methods that work value by value; each computes in the type of its operands, fp32 or wider."""

from __future__ import annotations

import torch
from torch import Tensor

from modelsmith.merge.methods import catalogue
from modelsmith.merge.methods.basic import add_scaled, weighted_sum
from modelsmith.merge.methods.spec import implements


@implements(catalogue.TRIPLE_SUM)
def triple_sum(a: Tensor, b: Tensor, c: Tensor, *, alpha: float, beta: float) -> Tensor:
    """``A + (B − A)·alpha + (C − A)·beta``."""
    return add_scaled(add_scaled(a, b - a, alpha), c - a, beta)


@implements(catalogue.SUM_TWICE)
def sum_twice(a: Tensor, b: Tensor, c: Tensor, *, alpha: float, beta: float) -> Tensor:
    """A weighted sum of a weighted sum."""
    return weighted_sum(weighted_sum(a, b, alpha=alpha), c, alpha=beta)


@implements(catalogue.TRAIN_DIFFERENCE)
def train_difference(a: Tensor, b: Tensor, c: Tensor, *, alpha: float) -> Tensor:
    """The share s is 0 where B equals both A and C; supermerger's factor 1.8 brings the mean share near to one."""
    learned = b - c
    away = (b - a).abs()
    whole = away + learned.abs()
    share = torch.where(whole > 0, away / torch.where(whole > 0, whole, 1.0), 0.0)
    return add_scaled(a, share * learned, 1.8 * alpha)


def _signed_mean(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """The weighted geometric mean of magnitudes with the sign of the weighted sum; 0^0 counts as 1."""
    magnitude = a.abs().pow(1.0 - alpha) * b.abs().pow(alpha)
    return magnitude * torch.sign(weighted_sum(a, b, alpha=alpha))


@implements(catalogue.MULTIPLY_DIFFERENCE)
def multiply_difference(a: Tensor, b: Tensor, c: Tensor, *, alpha: float) -> Tensor:
    """The signed geometric mean of A − C and B − C, added to C."""
    return c + _signed_mean(a - c, b - c, alpha)


@implements(catalogue.SIMILARITY_ADD_DIFFERENCE)
def similarity_add_difference(a: Tensor, b: Tensor, c: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Where A and B are both 0 they count as alike."""
    largest = torch.maximum(a.abs(), b.abs()).square()
    ratio = torch.where(largest > 0, a * b / torch.where(largest > 0, largest, 1.0), 1.0)
    likeness = (ratio + 1) / 2 * beta
    added = add_scaled(a, b - c, alpha)
    mixed = add_scaled(a, b - a, alpha / 2)
    return torch.lerp(added, mixed, likeness)


@implements(catalogue.N_AVERAGE)
def n_average(*models: Tensor) -> Tensor:
    """The mean, by running steps, so that no sum of many models grows large."""
    result = models[0].clone()
    for number, model in enumerate(models[1:], start=2):
        result = add_scaled(result, model - result, 1.0 / number)
    return result


@implements(catalogue.GEOMETRIC)
def geometric(a: Tensor, b: Tensor, *, alpha: float) -> Tensor:
    """The signed geometric mean of A and B."""
    return _signed_mean(a, b, alpha)
