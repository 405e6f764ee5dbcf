"""Cosine A and B: where two models are alike, column by column, against the range of the whole model."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from modelsmith.merge.methods import catalogue_likeness as catalogue
from modelsmith.merge.methods.spec import FirstPass, first_pass, implements

_ROWS = 1 << 20  # values in fp64 at a time


def column_sums(a: Tensor, b: Tensor) -> Tensor:
    """For every column (the first dimension runs down) the sums of a·b, a² and b², in fp64, shape (3, columns)."""
    rows_a, rows_b = a.reshape(a.shape[0] if a.dim() else 1, -1), b.reshape(b.shape[0] if b.dim() else 1, -1)
    sums = torch.zeros(3, rows_a.shape[1], dtype=torch.float64, device=a.device)
    step = max(1, _ROWS // max(1, rows_a.shape[1]))
    for first in range(0, rows_a.shape[0], step):
        one, other = rows_a[first : first + step].double(), rows_b[first : first + step].double()
        sums += torch.stack([(one * other).sum(0), one.square().sum(0), other.square().sum(0)])
    return sums


def _columns(sums: Tensor) -> Tensor:
    """The cosine of each column; 0 where one of the two is zero, as supermerger's is."""
    lengths = (sums[1] * sums[2]).sqrt()
    return torch.where(lengths > 0, sums[0] / torch.where(lengths > 0, lengths, 1.0), 0.0)


def likeness_a(sums: Tensor) -> Tensor:
    """Each column's cosine, and that of the tensors once their columns have the length 1, in equal parts."""
    columns = _columns(sums)
    counted = math.sqrt(float((sums[1] > 0).sum()) * float((sums[2] > 0).sum()))
    return (columns + float(columns.sum()) / counted) / 2 if counted else columns


def likeness_b(sums: Tensor) -> Tensor:
    """Each column's cosine and that of the whole tensors, in equal parts."""
    lengths = math.sqrt(float(sums[1].sum()) * float(sums[2].sum()))
    columns = _columns(sums)
    return (columns + float(sums[0].sum()) / lengths) / 2 if lengths else columns


def _midpoint(values: Tensor, share: float) -> float:
    """The percentile between its two neighbours (numpy's method ``midpoint``) of sorted values."""
    place = (values.numel() - 1) * share
    return (float(values[math.floor(place)]) + float(values[math.ceil(place)])) / 2


def _range(values: Tensor) -> Mapping[str, float]:
    """Smallest and largest value without the lowest hundredth, and then without the highest of what is left."""
    ordered = values.double().sort().values
    if not ordered.numel():
        return {"low": 0.0, "high": 1.0}
    ordered = ordered[ordered >= _midpoint(ordered, 0.01)]
    ordered = ordered[ordered <= _midpoint(ordered, 0.99)]
    return {"low": float(ordered[0]), "high": float(ordered[-1])}


def mixed(a: Tensor, b: Tensor, likeness: Tensor, alpha: float, span: tuple[float, float]) -> Tensor:
    """A by the share k, B by the rest; where the whole model is equally alike, k is 1 − |alpha|.

    span: the lowest and the highest likeness in the model.
    """
    low, high = span
    scaled = (likeness - low) / (high - low) if high > low else torch.ones_like(likeness)
    share = (scaled - abs(alpha)).clamp(0.0, 1.0).to(a.dtype)
    return torch.lerp(b, a, share.reshape((1, *a.shape[1:]) if a.dim() else ()))


@implements(catalogue.COSINE_A)
def cosine_a(a: Tensor, b: Tensor, *, alpha: float, low: float, high: float) -> Tensor:
    """The range is that of the columns' cosines alone, as supermerger has it."""
    return mixed(a, b, likeness_a(column_sums(a, b)), alpha, (low, high)) if a.numel() else a.clone()


@implements(catalogue.COSINE_B)
def cosine_b(a: Tensor, b: Tensor, *, alpha: float, low: float, high: float) -> Tensor:
    """The range is that of the same likeness."""
    return mixed(a, b, likeness_b(column_sums(a, b)), alpha, (low, high)) if a.numel() else a.clone()


first_pass(catalogue.COSINE_A, FirstPass(column_sums, _columns, _range))
first_pass(catalogue.COSINE_B, FirstPass(column_sums, likeness_b, _range))
