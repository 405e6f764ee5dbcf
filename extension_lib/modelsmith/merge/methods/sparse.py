"""Methods that keep only some of each finetune's changes. A is the parent, every further model a finetune of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modelsmith.merge.methods import catalogue
from modelsmith.merge.methods.basic import add_scaled
from modelsmith.merge.methods.spec import implements


def _limit(difference: Tensor, share: float) -> float | None:
    """The smallest magnitude among the ``share`` of largest ones; None for a share of none."""
    count = round(difference.numel() * share)
    if count <= 0:
        return None
    magnitudes = difference.abs().reshape(-1)
    return float(torch.kthvalue(magnitudes, difference.numel() - count + 1).values)


def kept(difference: Tensor, limit: float | None, below: float | None = None) -> Tensor:
    """Changes as large as a limit, at equal magnitude all, and smaller than another; 0 in the place of the others."""
    if limit is None:
        return torch.zeros_like(difference)
    magnitudes = difference.abs()
    wanted = magnitudes >= limit
    if below is not None:
        wanted &= magnitudes < below
    return torch.where(wanted, difference, 0.0)


def elect(differences: Sequence[Tensor]) -> Tensor:
    """The mean of those changes whose sign is that of their sum; 0 where there is none."""
    total = torch.stack(list(differences)).sum(0)
    sign = torch.sign(total)
    agreeing = torch.zeros_like(total)
    number = torch.zeros_like(total)
    for difference in differences:
        same = (torch.sign(difference) == sign) & (difference != 0)
        agreeing += torch.where(same, difference, 0.0)
        number += same
    return agreeing / number.clamp(min=1)


def mean_of(differences: Sequence[Tensor]) -> Tensor:
    """The mean of changes."""
    return torch.stack(list(differences)).mean(0)


def thinned(difference: Tensor, drawn: Tensor, density: float) -> Tensor:
    """Changes kept with probability ``density`` and scaled up by its inverse. drawn: numbers from 0 to 1."""
    return torch.where(drawn < density, difference / density if density else 0.0, 0.0)


def _draws(a: Tensor, count: int, seed: int) -> list[Tensor]:
    """Random numbers from 0 to 1 in A's shape for each of ``count`` finetunes, from one random stream per tensor."""
    generator = torch.Generator().manual_seed(int(seed))
    return [torch.rand(a.shape, generator=generator, dtype=torch.float32) for _ in range(count)]


def _thinned(a: Tensor, finetunes: Sequence[Tensor], density: float, seed: int) -> list[Tensor]:
    draws = _draws(a, len(finetunes), seed)
    return [thinned(model - a, drawn, density) for model, drawn in zip(finetunes, draws, strict=True)]


@implements(catalogue.TIES)
def ties(a: Tensor, *finetunes: Tensor, alpha: float, density: float) -> Tensor:
    """Trim, elect a sign, average what agrees with it."""
    differences = [model - a for model in finetunes]
    return add_scaled(a, elect([kept(one, _limit(one, density)) for one in differences]), alpha)


@implements(catalogue.DARE)
def dare(a: Tensor, *finetunes: Tensor, alpha: float, density: float, seed: int) -> Tensor:
    """Drop and rescale."""
    return add_scaled(a, mean_of(_thinned(a, finetunes, density, seed)), alpha)


@implements(catalogue.DARE_TIES)
def dare_ties(a: Tensor, *finetunes: Tensor, alpha: float, density: float, seed: int) -> Tensor:
    """Drop and rescale, then elect a sign."""
    return add_scaled(a, elect(_thinned(a, finetunes, density, seed)), alpha)


@implements(catalogue.BREADCRUMBS)
def breadcrumbs(a: Tensor, *finetunes: Tensor, alpha: float, density: float, gamma: float) -> Tensor:
    """Of each difference, the share ``gamma`` of largest changes goes, then ``density`` of all are kept."""
    differences = [model - a for model in finetunes]
    share = min(1.0, gamma + density)
    return add_scaled(a, mean_of([kept(one, _limit(one, share), _limit(one, gamma)) for one in differences]), alpha)


def _ranks(difference: Tensor) -> Tensor:
    """The place of each value in its row by rising magnitude, from 1 / n to 1; equal ones in the order of the row."""
    rows = difference.abs().reshape(difference.shape[0] if difference.dim() > 1 else 1, -1)
    places = torch.arange(1, rows.shape[1] + 1, dtype=rows.dtype).expand_as(rows)
    ranks = torch.empty_like(rows).scatter_(1, torch.argsort(rows, dim=1, stable=True), places)
    return (ranks / max(1, rows.shape[1])).reshape(difference.shape)


def pruned(difference: Tensor, drawn: Tensor, density: float, window: float) -> Tensor:
    """Changes kept with a probability by their rank in the row, and scaled up by its inverse.

    drawn: numbers from 0 to 1.
    """
    width = difference[0].numel() if difference.dim() > 1 and difference.numel() else difference.numel()
    middle = (width + 1) / (2 * max(1, width))
    share = (density + (_ranks(difference) - middle) * window).clamp(0.0, 1.0)
    return torch.where(drawn < share, difference / torch.where(share > 0, share, 1.0), 0.0)


@implements(catalogue.DELLA)
def della(a: Tensor, *finetunes: Tensor, alpha: float, density: float, window: float, seed: int) -> Tensor:
    """Drop with a probability by rank, scale up by its inverse, elect a sign, average what agrees with it."""
    draws = _draws(a, len(finetunes), seed)
    left = [pruned(model - a, drawn, density, window) for model, drawn in zip(finetunes, draws, strict=True)]
    return add_scaled(a, elect(left), alpha)


def dropped(
    a: Tensor, finetunes: Sequence[Tensor], draws: Sequence[Tensor], density: float, rescale: float
) -> tuple[Tensor, float]:
    """The mean of the changes that are left at each place, and what to divide it by."""
    total, number = torch.zeros_like(a), torch.zeros_like(a)
    for model, drawn in zip(finetunes, draws, strict=True):
        mask = drawn < density
        total += torch.where(mask, model - a, 0.0)
        number += mask
    return total / number.clamp(min=1), density**rescale if density > 0 else 1.0


@implements(catalogue.DROPOUT)
def dropout(a: Tensor, *finetunes: Tensor, alpha: float, density: float, rescale: float, seed: int) -> Tensor:
    """Every model's changes are dropped by a mask of its own; where several are left, their mean counts."""
    mean, scale = dropped(a, finetunes, _draws(a, len(finetunes), seed), density, rescale)
    return add_scaled(a, mean, alpha / scale)
