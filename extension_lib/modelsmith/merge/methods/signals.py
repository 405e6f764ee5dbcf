"""Methods that treat the values of a tensor as a signal: filters, orders, frequencies, masks by likeness."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor

from modelsmith.merge.methods import catalogue_likeness as catalogue
from modelsmith.merge.methods.basic import add_scaled
from modelsmith.merge.methods.spec import implements

_WINDOW_VALUES = 1 << 22  # gathered at a time by the median: 16 MiB in fp32
_GAUSS_REACH = 4  # scipy.ndimage.gaussian_filter cuts off after four sigma


def _mirrored(values: Tensor, axis: int, reach: int) -> Tensor:
    """Values with ``reach`` more at both ends of an axis, mirrored at the edge (d c b a | a b c d | d c b a)."""
    size = values.shape[axis]
    places = torch.arange(-reach, size + reach, device=values.device) % (2 * size)
    return values.index_select(axis, torch.where(places < size, places, 2 * size - 1 - places))


def median_of_neighbours(values: Tensor) -> Tensor:
    """The median of each value and its neighbours, three along every dimension (scipy.ndimage.median_filter)."""
    if not values.dim() or not values.numel():
        return values.clone()
    padded = values
    for axis in range(values.dim()):
        padded = _mirrored(padded, axis, 1)
    shifts = list(product(range(3), repeat=values.dim()))
    row = max(1, values[0].numel())
    step = max(1, _WINDOW_VALUES // (row * len(shifts)))
    result = torch.empty_like(values)
    for first in range(0, values.shape[0], step):
        rows = min(step, values.shape[0] - first)
        sizes = (rows, *values.shape[1:])
        seen = [
            padded[tuple(slice(s + (first if axis == 0 else 0), s + (first if axis == 0 else 0) + sizes[axis])
                         for axis, s in enumerate(shift))]
            for shift in shifts
        ]  # fmt: skip
        result[first : first + rows] = torch.stack(seen, dim=-1).median(dim=-1).values
    return result


def gaussian(values: Tensor) -> Tensor:
    """A Gaussian of sigma 1 along every dimension (scipy.ndimage.gaussian_filter)."""
    weights = [math.exp(-0.5 * place * place) for place in range(-_GAUSS_REACH, _GAUSS_REACH + 1)]
    total = sum(weights)
    for axis in range(values.dim()):
        padded = _mirrored(values, axis, _GAUSS_REACH)
        result = torch.zeros_like(values)
        for place, weight in enumerate(weights):
            result = add_scaled(result, padded.narrow(axis, place, values.shape[axis]), weight / total)
        values = result
    return values


@implements(catalogue.SMOOTH_ADD)
def smooth_add(a: Tensor, b: Tensor, c: Tensor, *, alpha: float) -> Tensor:
    """Both filters run over the tensor's own indices, whatever they mean."""
    return add_scaled(a, gaussian(median_of_neighbours(b - c)), alpha) if a.numel() else a.clone()


def ranks_taken(count: int, alpha: float, beta: float) -> tuple[int, int, bool]:
    """Between which ranks (from 1, the first excluded) magnitudes are chosen, or with True outside of them."""
    begin = math.fmod(beta, 1.0)
    wraps = begin + alpha > 1
    low, high = (begin + alpha - 1, begin) if wraps else (begin, begin + alpha)
    return round(low * count), round(high * count), wraps


def _magnitude(values: Tensor, rank: int) -> float:
    """The magnitude of a rank, counted from 1; -1 for rank 0, below all."""
    return float(torch.kthvalue(values.abs(), rank).values) if rank > 0 else -1.0


@implements(catalogue.TOP_K_TENSOR_SUM)
def top_k_tensor_sum(a: Tensor, b: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Sorted values of A at the places of B's ranks, where their magnitude is among the chosen ranks."""
    count = a.numel()
    if count < 2 or alpha <= 0:
        return a.clone()
    low, high, wraps = ranks_taken(count, alpha, beta)
    ordered = torch.sort(a.reshape(-1)).values
    ranks = torch.empty(count, dtype=torch.int64, device=a.device)
    ranks[torch.argsort(b.reshape(-1), stable=True)] = torch.arange(count, device=a.device)
    moved = ordered[ranks]
    bottom, top = _magnitude(ordered, low), _magnitude(ordered, high)
    chosen = (moved.abs() > bottom) & (moved.abs() <= top)
    return torch.where(chosen != wraps, moved, a.reshape(-1)).reshape(a.shape)


def _frequencies(values: Tensor) -> Tensor:
    return cast(Any, torch).fft.rfft(values)


def _signal(frequencies: Tensor, size: int) -> Tensor:
    return cast(Any, torch).fft.irfft(frequencies, n=size)


def crossover_share(frequencies: Tensor, alpha: float, beta: float) -> Tensor:
    """The share of B at frequencies from 0 to 1, the highest.

    The edge is moved outwards by its own width, so that alpha 0 and 1 give A and B whatever beta is.
    """
    cut = (1.0 - alpha) * (1.0 + beta) - beta / 2
    if beta > 0:
        return ((frequencies - cut) / beta + 0.5).clamp(0.0, 1.0)
    return (frequencies >= cut).to(frequencies.dtype)


@implements(catalogue.DISTRIBUTION_CROSSOVER)
def distribution_crossover(a: Tensor, b: Tensor, c: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Three transforms of all values at once: see ``stream_crossover`` for large tensors."""
    if a.numel() < 2 or alpha in (0.0, 1.0):
        return (b if alpha > 0.5 else a).clone()
    order = torch.argsort(c.reshape(-1), stable=True)
    one, other = (_frequencies(values.reshape(-1)[order]) for values in (a, b))
    frequencies = torch.arange(one.numel(), dtype=a.dtype, device=a.device) / one.numel()
    share = crossover_share(frequencies, alpha, beta)
    mixed = _signal(one + (other - one) * share, a.numel())
    result = torch.empty_like(mixed)
    result[order] = mixed
    return result.reshape(a.shape)


def chosen(chance: Tensor, evenness: float, draw: Callable[[], Tensor]) -> Tensor:
    """Chances themselves (1), draws of 0 or 1 by them (0), or a mixture. draw: gives numbers from 0 to 1."""
    if evenness >= 1.0:
        return chance
    drawn = (draw() < chance).to(chance.dtype)
    return drawn + (chance - drawn) * evenness


def _draw(shape: Sequence[int], seed: int) -> Tensor:
    return torch.rand(tuple(shape), generator=torch.Generator().manual_seed(int(seed)), dtype=torch.float32)


@implements(catalogue.COMPARATIVE_INTERPOLATION)
def comparative_interpolation(a: Tensor, b: Tensor, *, alpha: float, beta: float, gamma: float, seed: int) -> Tensor:
    """alpha 0 is the limit: nothing of B."""
    distance = (b - a).abs()
    largest = float(distance.max()) if a.numel() else 0.0
    if alpha <= 0 or largest == 0.0:
        return a.clone()
    base = distance / largest if beta else (largest - distance) / largest
    return torch.lerp(a, b, chosen(base.pow(1.0 / alpha - 1.0), gamma, partial(_draw, a.shape, seed)))


@implements(catalogue.ENHANCED_INTERPOLATION)
def enhanced_interpolation(  # noqa: PLR0913 - a method takes what its specification says, by name
    a: Tensor, b: Tensor, *, alpha: float, low: float, high: float, gamma: float, seed: int
) -> Tensor:
    """Columns run along the first dimension."""
    distance = (b - a).abs()
    largest = float(distance.max()) if a.numel() else 0.0
    if alpha <= 0 or largest == 0.0:
        return a.clone()
    likeness = (largest - distance) / largest
    mean = likeness.double().mean(0, keepdim=True) if a.dim() else likeness.double()
    inside = (mean > low) & (mean < high)
    chance = torch.where(inside, likeness.pow(1.0 / alpha - 1.0), 0.0)
    return torch.lerp(a, b, chosen(chance, gamma, partial(_draw, a.shape, seed)))
