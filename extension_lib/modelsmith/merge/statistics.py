"""The first pass of methods that must know the whole model before the first tensor is merged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from modelsmith.errors import Cancelled
from modelsmith.files.dtypes import count
from modelsmith.merge.plan import MergePlan, TensorJob

PIECE = 1 << 21
"""Values of each model at a time."""


class Source(Protocol):
    """What reads the tensors of one model."""

    def load_flat(self, name: str, first: int, elements: int) -> Tensor:
        """``elements`` values from the ``first`` on, in row-major order."""
        ...


def settled(plan: MergePlan, cancelled: Callable[[], bool] | None = None) -> MergePlan:
    """The plan with the numbers that its method needs in every job; the plan itself where it needs none or has them.

    The VAE is left out of the numbers, as supermerger leaves it. Raises BadFileError, Cancelled.
    """
    wanted = plan.method.statistics
    if not any(_merged(job) and name not in job.parameters for name in wanted for job in plan.jobs):
        return plan
    with ExitStack() as stack:
        sources = [stack.enter_context(one.open()) for one in plan.inputs]
        numbers = gather(plan, sources, cancelled)
    jobs = (replace(job, parameters={**job.parameters, **numbers}) if _merged(job) else job for job in plan.jobs)
    return replace(plan, jobs=tuple(jobs))


def gather(
    plan: MergePlan, sources: Sequence[Source], cancelled: Callable[[], bool] | None = None
) -> Mapping[str, float]:
    """The numbers of a plan's method, from one streamed pass over its models."""
    first_pass = plan.method.first_pass()
    found: list[Tensor] = []
    for job in plan.jobs:
        if cancelled is not None and cancelled():
            raise Cancelled
        if _merged(job) and job.block != "VAE" and job.action != "widen" and count(job.entry.shape):
            values = first_pass.values(_summed(job, sources, first_pass.rows))
            found.append(values.reshape(-1).to(torch.float32))
    return first_pass.conclude(torch.cat(found) if found else torch.empty(0))


def _merged(job: TensorJob) -> bool:
    return len(job.operands) > 1


def _summed(job: TensorJob, sources: Sequence[Source], rows: Callable[..., Tensor]) -> Tensor:
    """The sum over one tensor, a run of whole rows at a time, so that memory does not grow with the tensor."""
    shape = job.entry.shape or (1,)
    width, height = prod(shape[1:]), shape[0]
    step = max(1, PIECE // width)
    total: Tensor | None = None
    for first in range(0, height, step):
        taken = min(step, height - first)
        pieces = [
            sources[operand.model].load_flat(operand.name, first * width, taken * width).reshape(taken, *shape[1:])
            for operand in job.operands
        ]
        part = rows(*pieces)
        total = part if total is None else total + part
    assert total is not None  # a tensor without rows is not asked for
    return total
