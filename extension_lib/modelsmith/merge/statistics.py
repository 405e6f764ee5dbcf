"""The first pass of methods that must know the whole model before the first tensor is merged."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from modelsmith.devices import full_precision
from modelsmith.errors import Cancelled
from modelsmith.files.dtypes import count, dtype
from modelsmith.merge.plan import MergePlan, TensorJob
from modelsmith.merge.request import MergeProgress
from modelsmith.merge.streaming import OrderedSum

PIECE = 1 << 20
"""Values of each model at a time; the sums depend on it in their last bits, not on the threads."""

_WAIT = 0.1  # seconds between two looks at whether to stop


class Source(Protocol):
    """What reads the tensors of one model."""

    def load_flat(self, name: str, first: int, elements: int) -> Tensor:
        """``elements`` values from the ``first`` on, in row-major order."""
        ...


@dataclass(frozen=True, slots=True)
class Watch:
    """How the pass is followed. progress: told of the bytes of the output whose inputs were read, under the stage
    ``measuring``. cancelled: asked several times a second. threads: that read and compute; 0 chooses.
    """

    progress: Callable[[MergeProgress], None] | None = None
    cancelled: Callable[[], bool] | None = None
    threads: int = 0


def settled(plan: MergePlan, watch: Watch | None = None) -> MergePlan:
    """The plan with the numbers that its method needs in every job; the plan itself where it needs none or has them.

    The VAE is left out of the numbers, as supermerger leaves it. Raises BadFileError, Cancelled.
    """
    wanted = plan.method.statistics
    if not any(_merged(job) and name not in job.parameters for name in wanted for job in plan.jobs):
        return plan
    with ExitStack() as stack:
        stack.enter_context(full_precision())
        sources = [stack.enter_context(one.open()) for one in plan.inputs]
        numbers = gather(plan, sources, watch or Watch())
    jobs = (replace(job, parameters={**job.parameters, **numbers}) if _merged(job) else job for job in plan.jobs)
    return replace(plan, jobs=tuple(jobs))


def gather(plan: MergePlan, sources: Sequence[Source], watch: Watch) -> Mapping[str, float]:
    """The numbers of a plan's method, from one streamed pass over its models. Raises BadFileError, Cancelled."""
    first_pass = plan.method.first_pass()
    jobs = [
        job
        for job in plan.jobs
        if _merged(job) and job.block != "VAE" and job.action != "widen" and count(job.entry.shape)
    ]
    survey = _Survey(sources, first_pass.rows, sum(job.entry.nbytes for job in jobs))
    threads = watch.threads or min(4, (os.cpu_count() or 1) + 1)
    before = torch.get_num_threads()
    with ThreadPoolExecutor(threads, "modelsmith-measure", initializer=_one_thread) as pool:
        sums = [OrderedSum() for _ in jobs]
        parts = [
            pool.submit(survey.part, job, place, into)
            for job, into in zip(jobs, sums, strict=True)
            for place in enumerate(_pieces(job))
        ]
        try:
            _follow(parts, survey, watch)
        finally:
            survey.stopped = True
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)
    found = [first_pass.values(one.total).reshape(-1).float() for one in sums]
    return first_pass.conclude(torch.cat(found) if found else torch.empty(0))


def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread's first question settles its number


def _follow(parts: Sequence[Future[None]], survey: _Survey, watch: Watch) -> None:
    """Wait for all parts, reporting; raise the first error that one of them met, or Cancelled."""
    started = time.monotonic()
    left: set[Future[None]] = set(parts)
    while left:
        done, left = wait(left, _WAIT)
        for part in done:
            part.result()
        if watch.progress is not None:
            passed = time.monotonic() - started
            watch.progress(MergeProgress(survey.done, survey.total, "measuring", passed))
        if watch.cancelled is not None and watch.cancelled():
            raise Cancelled


def _merged(job: TensorJob) -> bool:
    return len(job.operands) > 1


def _pieces(job: TensorJob) -> list[tuple[int, int]]:
    """First row and number of rows of runs of whole rows, so that memory does not grow with the tensor."""
    shape = job.entry.shape or (1,)
    step = max(1, PIECE // prod(shape[1:]))
    return [(first, min(step, shape[0] - first)) for first in range(0, shape[0], step)]


class _Survey:
    """What the threads of one pass share."""

    def __init__(self, sources: Sequence[Source], rows: Callable[..., Tensor], total: int) -> None:
        self._sources = sources
        self._rows = rows
        self._guard = threading.Lock()
        self.total = total
        self.done = 0
        self.stopped = False

    def part(self, job: TensorJob, place: tuple[int, tuple[int, int]], into: OrderedSum) -> None:
        """Add what some rows of a tensor have to add to its sum. place: number of the piece, first row, rows."""
        number, (first, rows) = place
        if self.stopped:
            raise Cancelled
        shape = job.entry.shape or (1,)
        width = prod(shape[1:])
        pieces = [
            self._sources[operand.model].load_flat(operand.name, first * width, rows * width)
            for operand in job.operands
        ]
        found = self._rows(*(piece.reshape(rows, *shape[1:]) for piece in pieces))
        with self._guard:
            into.take(number, found)
            self.done += rows * width * dtype(job.entry.dtype).itemsize
