"""Methods that keep only some of each finetune's changes. A is the parent, every further model a finetune of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modelsmith.merge.methods import catalogue
from modelsmith.merge.methods.basic import add_scaled
from modelsmith.merge.methods.spec import implements


def _largest(difference: Tensor, share: float) -> Tensor:
    """A mask of the ``share`` of values with the largest magnitudes; at equal magnitude all are kept."""
    count = round(difference.numel() * share)
    if count <= 0:
        return torch.zeros_like(difference, dtype=torch.bool)
    magnitudes = difference.abs().reshape(-1)
    threshold = torch.kthvalue(magnitudes, difference.numel() - count + 1).values
    return (magnitudes >= threshold).reshape(difference.shape)


def _elect(differences: Sequence[Tensor]) -> Tensor:
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


def _mean(differences: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(differences)).mean(0)


def _thinned(a: Tensor, finetunes: Sequence[Tensor], density: float, seed: int) -> list[Tensor]:
    """Changes kept with probability ``density`` and scaled up by its inverse, from one random stream per tensor."""
    generator = torch.Generator().manual_seed(int(seed))
    kept: list[Tensor] = []
    for model in finetunes:
        mask = torch.rand(a.shape, generator=generator, dtype=torch.float32) < density
        kept.append(torch.where(mask, (model - a) / density if density else 0.0, 0.0))
    return kept


@implements(catalogue.TIES)
def ties(a: Tensor, *finetunes: Tensor, alpha: float, density: float) -> Tensor:
    """Trim, elect a sign, average what agrees with it."""
    trimmed = [torch.where(_largest(model - a, density), model - a, 0.0) for model in finetunes]
    return add_scaled(a, _elect(trimmed), alpha)


@implements(catalogue.DARE)
def dare(a: Tensor, *finetunes: Tensor, alpha: float, density: float, seed: int) -> Tensor:
    """Drop and rescale."""
    return add_scaled(a, _mean(_thinned(a, finetunes, density, seed)), alpha)


@implements(catalogue.DARE_TIES)
def dare_ties(a: Tensor, *finetunes: Tensor, alpha: float, density: float, seed: int) -> Tensor:
    """Drop and rescale, then elect a sign."""
    return add_scaled(a, _elect(_thinned(a, finetunes, density, seed)), alpha)


@implements(catalogue.BREADCRUMBS)
def breadcrumbs(a: Tensor, *finetunes: Tensor, alpha: float, density: float, gamma: float) -> Tensor:
    """Of each difference, the share ``gamma`` of largest changes goes, then ``density`` of all are kept."""
    kept: list[Tensor] = []
    for model in finetunes:
        difference = model - a
        outliers = _largest(difference, gamma)
        wanted = _largest(difference, min(1.0, gamma + density))
        kept.append(torch.where(wanted & ~outliers, difference, 0.0))
    return add_scaled(a, _mean(kept), alpha)


def _ranks(difference: Tensor) -> Tensor:
    """The place of each value by rising magnitude, from 1 / n to 1; equal magnitudes in the order of the tensor."""
    flat = difference.abs().reshape(-1)
    places = torch.empty_like(flat)
    order = torch.argsort(flat, stable=True)
    places[order] = torch.arange(1, flat.numel() + 1, dtype=flat.dtype)
    return (places / max(1, flat.numel())).reshape(difference.shape)


@implements(catalogue.DELLA)
def della(a: Tensor, *finetunes: Tensor, alpha: float, density: float, window: float, seed: int) -> Tensor:
    """Drop with a probability by rank, scale up by its inverse, elect a sign, average what agrees with it."""
    generator = torch.Generator().manual_seed(int(seed))
    kept: list[Tensor] = []
    for model in finetunes:
        difference = model - a
        middle = (difference.numel() + 1) / (2 * max(1, difference.numel()))
        share = (density + (_ranks(difference) - middle) * window).clamp(0.0, 1.0)
        mask = torch.rand(a.shape, generator=generator, dtype=torch.float32) < share
        kept.append(torch.where(mask, difference / torch.where(share > 0, share, 1.0), 0.0))
    return add_scaled(a, _elect(kept), alpha)


@implements(catalogue.DROPOUT)
def dropout(a: Tensor, *finetunes: Tensor, alpha: float, density: float, rescale: float, seed: int) -> Tensor:
    """Every model's changes are dropped by a mask of its own; where several are left, their mean counts."""
    generator = torch.Generator().manual_seed(int(seed))
    total, number = torch.zeros_like(a), torch.zeros_like(a)
    for model in finetunes:
        mask = torch.rand(a.shape, generator=generator, dtype=torch.float32) < density
        total += torch.where(mask, model - a, 0.0)
        number += mask
    scale = density**rescale if density > 0 else 1.0
    return add_scaled(a, total / number.clamp(min=1), alpha / scale)
