"""Tensors that are not computed chunk by chunk: as a whole, or in runs of rows that do not depend on the chunks.

A LoRA's product of matrices, for one, may differ in its last bit with the number of rows that are computed together,
so its rows are cut by the tensor's shape alone, and whichever thread needs a run first computes it for all.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from modelsmith.files.dtypes import count, torch_dtype
from modelsmith.lora.stack import LoraStack
from modelsmith.merge.kernels import Kernel, rounded, working_kind, working_type
from modelsmith.merge.plan import TensorJob
from modelsmith.merge.streaming import StreamedMethod, StreamedTensor, rows_of, streamed
from modelsmith.merge.weights import WeightSource

PIECE = 1 << 20
"""Values in a run of rows, about; a row is never cut."""

_LARGE = 1 << 22
_LARGEST_IN_FP64 = 1 << 24
_FP8_LARGEST = 448.0


@dataclass(frozen=True)
class Shared:
    """What computing needs. repaired: told of a job whose position ids were damaged. folder: for temporary files, of
    methods that need such; None: the system's."""

    sources: Sequence[WeightSource]
    lora: LoraStack | None
    repaired: Callable[[TensorJob], None]
    folder: Path | None = None


@dataclass(slots=True)
class _Ready:
    values: Tensor
    used: int = 0


class Pieces:
    """Computes each piece once, for the first thread that needs it, and keeps it until its last value is used."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._guard = threading.Lock()
        self._large = threading.Lock()
        self._locks: dict[tuple[str, int], threading.Lock] = {}
        self._ready: dict[tuple[str, int], _Ready] = {}
        self._scales: dict[str, float] = {}
        self._streamed: dict[str, StreamedTensor] = {}
        self._left: dict[str, int] = {}
        self._stopped = False

    def stop(self) -> None:
        """Make threads that are at work on a tensor together raise Cancelled."""
        with self._guard:
            self._stopped = True
            for tensor in self._streamed.values():
                tensor.stop()

    def close(self) -> None:
        """Let go of what is left of tensors that were not finished; no thread may be at work on any."""
        while self._streamed:
            self._streamed.popitem()[1].close()

    def take(self, job: TensorJob, first: int, length: int, kernel: Kernel) -> Tensor:
        """``length`` values of a job's tensor from the ``first`` on, flat and in the output's type."""
        size = self._size(job, kernel)
        parts: list[Tensor] = []
        for index in range(first // size, -(-(first + length) // size)):
            begin, end = max(first, index * size), min(first + length, (index + 1) * size)
            parts.append(self._piece(job, index, (begin - index * size, end - index * size), kernel))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _size(self, job: TensorJob, kernel: Kernel) -> int:
        """Values in each piece but the last."""
        shape = job.entry.shape
        whole = job.lora and not self._separable(job)
        if not whole and job.action in ("copy", "elements"):
            return rows_of(shape, PIECE) * max(1, prod(shape[1:]))
        found = None if whole else _by_rows(job, kernel)
        return max(1, count(shape)) if found is None else found.whole.rows * found.whole.width

    def _separable(self, job: TensorJob) -> bool:
        return self._shared.lora is not None and self._shared.lora.separable(job.entry.name)

    def _piece(self, job: TensorJob, index: int, part: tuple[int, int], kernel: Kernel) -> Tensor:
        size, total = self._size(job, kernel), count(job.entry.shape)
        first, length = index * size, min(size, total - index * size)
        key = (job.entry.name, index)
        with self._lock(key):
            found = self._ready.get(key)
            if found is None:
                # Large tensors one at a time: each takes several times its size in fp32.
                with self._large if length > _LARGE else contextlib.nullcontext():
                    found = _Ready(self._compute(job, first, length, kernel).reshape(-1))
                self._ready[key] = found
            found.used += part[1] - part[0]
            if found.used >= length:
                del self._ready[key]
                self._finished(job, length)
        return found.values[part[0] : part[1]]

    def _finished(self, job: TensorJob, length: int) -> None:
        with self._guard:
            self._left[job.entry.name] = self._left.get(job.entry.name, count(job.entry.shape)) - length
            done = None if self._left[job.entry.name] else self._streamed.pop(job.entry.name, None)
        if done is not None:
            done.close()

    def _lock(self, key: tuple[str, int]) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(key, threading.Lock())

    def _compute(self, job: TensorJob, first: int, length: int, kernel: Kernel) -> Tensor:
        if job.action == "position_ids":
            return self._position_ids(job)
        if job.base is not None:
            return torch.tensor([self._scale(job.base, kernel)], dtype=torch.float32)
        wide = self._wide(job, first, length, kernel)
        if job.scaled:
            wide = wide / self._scale(job, kernel)
        return rounded(wide, job.entry.dtype)

    def _wide(self, job: TensorJob, first: int, length: int, kernel: Kernel) -> Tensor:
        """The values before they are rounded."""
        wide = self._merged(job, first, length, kernel)
        return wide if job.adjust is None else job.adjust.apply(wide)

    def _merged(self, job: TensorJob, first: int, length: int, kernel: Kernel) -> Tensor:
        """The values as merged, with the LoRAs on them."""
        if length < count(job.entry.shape) or (job.action in ("copy", "elements") and not job.lora):
            return self._rows(job, first, length, kernel)
        tensors = [self._shared.sources[operand.model].load(operand.name) for operand in job.operands]
        if job.action == "widen":
            return self._widened(job, tensors, kernel)
        wide = kernel.whole(tensors, self._inside(job), job.parameters) if job.action != "copy" else None
        if wide is None:
            wide = tensors[0].to(working_type(self._inside(job), tensors))
        return self._with_lora(job, wide)

    def _inside(self, job: TensorJob) -> str:
        """The type to ask for before the LoRAs: fp64 for what they change, else as for any tensor of the output's type.

        Sums of a LoRA's products are off by their own size, and what is added to may nearly cancel them: in fp32
        fp16 results were more than 0.502 ulp off. Methods on whole tensors have wider bounds of their own, and modules
        that need their whole tensor in memory (DoRA, OFT) do without on very large ones, for its size.
        """
        small = count(job.entry.shape) <= _LARGEST_IN_FP64 or self._separable(job)
        return "F64" if job.lora and job.action in ("copy", "elements") and small else job.entry.dtype

    def _rows(self, job: TensorJob, first: int, length: int, kernel: Kernel) -> Tensor:
        if job.action == "whole":
            wide = self._stream(job, kernel).values(first // self._size(job, kernel)).reshape(-1)
        else:
            flat = [self._load(job, number, first, length) for number in range(len(job.operands))]
            if job.action == "copy":
                wide = flat[0].to(working_type(self._inside(job), flat))
            else:
                wide = kernel.whole(flat, self._inside(job), job.parameters)
        if job.lora and self._shared.lora is not None:
            row = max(1, prod(job.entry.shape[1:]))
            rows = wide.reshape(-1, *job.entry.shape[1:])
            wide = self._shared.lora.apply_rows(job.entry.name, rows, first // row).reshape(-1)
        return wide

    def _load(self, job: TensorJob, number: int, first: int, length: int) -> Tensor:
        operand = job.operands[number]
        return self._shared.sources[operand.model].load_flat(operand.name, first, length)

    def _stream(self, job: TensorJob, kernel: Kernel) -> StreamedTensor:
        """The tensor that threads work on together, begun by the first of them."""
        with self._lock((job.entry.name, -2)):
            found = self._streamed.get(job.entry.name)
            if found is None:
                method = _by_rows(job, kernel)
                assert method is not None  # _size asked for this
                made = method.begin(job.parameters, partial(self._load, job), self._shared.folder)
                with self._guard:
                    found = self._streamed[job.entry.name] = made
                    if self._stopped:
                        made.stop()
        return found

    def _with_lora(self, job: TensorJob, wide: Tensor) -> Tensor:
        if not job.lora or self._shared.lora is None:
            return wide
        key = job.entry.name
        if self._shared.lora.separable(key) and wide.dim():
            return self._shared.lora.apply_rows(key, wide.contiguous(), 0)
        return self._shared.lora.apply(key, wide.contiguous())

    def _widened(self, job: TensorJob, tensors: list[Tensor], kernel: Kernel) -> Tensor:
        """The first channels by the method, the others from the first model that has them."""
        narrow = min(tensor.shape[1] for tensor in tensors)
        merged = kernel.whole([tensor[:, :narrow] for tensor in tensors], job.entry.dtype, job.parameters)
        if tensors[0].shape == merged.shape:  # a LoRA has the shape that A has
            merged = self._with_lora(job, merged)
        wide = next(tensor for tensor in tensors if tensor.shape == job.entry.shape)
        whole = torch.cat([merged, wide[:, narrow:].to(merged.dtype)], dim=1)
        return self._with_lora(job, whole) if tensors[0].shape == whole.shape else whole

    def _scale(self, job: TensorJob, kernel: Kernel) -> float:
        """``max|w| / 448`` of a weight as it will be before it is scaled, rounded to float32; 1 for zeros.

        The weight is computed once for this and once more to be written: kept, all weights of a model would have to
        be held, since the scales stand at the front of the file. The first time was measured as a sixth of a weighted
        sum's processor time.
        """
        name = job.entry.name
        with self._lock((name, -1)):
            if name not in self._scales:
                size, total = self._size(job, kernel), count(job.entry.shape)
                largest = 0.0
                for first in range(0, total, size):
                    wide = self._wide(job, first, min(size, total - first), kernel)
                    low, high = torch.aminmax(torch.nan_to_num(wide, 0.0, 0.0, 0.0))
                    largest = max(largest, -float(low), float(high))
                self._scales[name] = float(torch.tensor(largest / _FP8_LARGEST or 1.0, dtype=torch.float32))
        return self._scales[name]

    def _position_ids(self, job: TensorJob) -> Tensor:
        found = self._shared.sources[job.operands[0].model].load(job.operands[0].name)
        right = torch.arange(found.numel(), dtype=torch.int64).reshape(job.entry.shape)
        if found.dtype != torch.int64 or not torch.equal(found, right):
            self._shared.repaired(job)
        return right


def _by_rows(job: TensorJob, kernel: Kernel) -> StreamedMethod | None:
    """How to compute a run of rows without holding the tensor, where that can be done."""
    if job.action != "whole" or kernel.on_device:  # for a GPU the time goes into bringing tensors up
        return None
    kinds = tuple(torch_dtype(operand.info.dtype) for operand in job.operands)
    return streamed(kernel.method, job.entry.shape, working_kind(job.entry.dtype, kinds), kinds)
