"""The two methods that every merger has, written so that one rounding is all that separates them from exact."""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from modelsmith.merge.methods import catalogue
from modelsmith.merge.methods.spec import implements


def split_weight(weight: float) -> tuple[float, float]:
    """A weight as its nearest float32 and what is left.

    With fp32 arithmetic the weight 0.3 alone is off by 2^-26, which where A and B nearly cancel was measured as
    a whole ulp of an fp16 result; adding the rest as a second term brings it to 0.500.
    """
    near = struct.unpack("f", struct.pack("f", weight))[0]
    return near, weight - near


def add_scaled(base: Tensor, difference: Tensor, weight: float) -> Tensor:
    """``base + difference·weight`` with the weight in full precision; one rounding each for its two parts."""
    near, rest = split_weight(weight)
    result = torch.add(base, difference, alpha=near)
    return result.add_(difference, alpha=rest) if rest else result


@implements(catalogue.WEIGHTED_SUM)
def weighted_sum(a: Tensor, b: Tensor, *, alpha: float) -> Tensor:
    """Linear interpolation, from the nearer end, so that the difference is never scaled by more than a half."""
    if alpha > 0.5:
        return add_scaled(b, a - b, 1.0 - alpha)
    return add_scaled(a, b - a, alpha)


@implements(catalogue.ADD_DIFFERENCE)
def add_difference(a: Tensor, b: Tensor, c: Tensor, *, alpha: float) -> Tensor:
    """``A + (B − C)·alpha``."""
    return add_scaled(a, b - c, alpha)
