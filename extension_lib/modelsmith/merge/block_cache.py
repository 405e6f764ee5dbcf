"""Keeps what a merge has computed, tensor by tensor, so that the next one computes only what its request changed.

A tensor is known by everything that its values come from: the inputs' files as they are on disk, the tensors of them
that take part, the method and its parameters for this tensor, the type that is asked for, the GPU where one computes.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

from torch import Tensor

from modelsmith.files.tensors import FileStamp
from modelsmith.merge.plan import MergePlan, TensorJob

CACHED_ACTIONS = ("elements", "whole", "widen")
"""What costs arithmetic; a tensor that is merely copied is read again from its file."""


@dataclass(slots=True)
class _Kept:
    tensor: Tensor
    round: int


class BlockCache:
    """Merged tensors up to a limit of bytes, the longest unused given up first. Safe to use from several threads.

    limit: bytes; 0 keeps nothing. Tensors that the merge under way has used or made are not given up for others of
    the same merge, since one walk through a model larger than the limit would else push out all that it could reuse.
    """

    def __init__(self, limit: int = 0) -> None:
        self._guard = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._round = 0
        self._bytes = 0
        self._limit = limit

    @property
    def limit(self) -> int:
        """The most bytes that are kept."""
        return self._limit

    @limit.setter
    def limit(self, value: int) -> None:
        with self._guard:
            self._limit = max(0, value)
            self._make_room(0, every=True)

    @property
    def used_bytes(self) -> int:
        """Bytes that are kept now."""
        return self._bytes

    def begin(self) -> None:
        """A merge starts."""
        with self._guard:
            self._round += 1

    def take(self, key: str) -> Tensor | None:
        """A copy of the tensor with this key, which the caller may change; None where it is not kept."""
        with self._guard:
            found = self._kept.get(key)
            if found is None:
                return None
            found.round = self._round
            self._kept.move_to_end(key)
            tensor = found.tensor
        return tensor.clone()

    def keep(self, key: str, tensor: Tensor) -> None:
        """Keep a copy of a tensor where the limit allows it."""
        size = tensor.numel() * tensor.element_size()
        with self._guard:
            if key in self._kept or not size or not self._make_room(size):
                return
            # Cloned under the lock, so that two merges at once do not both count on the same room.
            self._kept[key] = _Kept(tensor.clone(), self._round)
            self._bytes += size

    def clear(self) -> None:
        """Give everything up."""
        with self._guard:
            self._kept.clear()
            self._bytes = 0

    def _make_room(self, size: int, *, every: bool = False) -> bool:
        """Give up tensors of earlier merges (``every``: of this one too) until ``size`` more bytes fit."""
        while self._kept and self._bytes + size > self._limit:
            key, oldest = next(iter(self._kept.items()))
            if oldest.round == self._round and not every:
                return False
            del self._kept[key]
            self._bytes -= oldest.tensor.numel() * oldest.tensor.element_size()
        return self._bytes + size <= self._limit


class JobKeys:
    """Makes the keys of one plan's jobs."""

    def __init__(self, plan: MergePlan) -> None:
        request = plan.request
        stamps = [sorted((str(path), repr(stamp)) for path, stamp in one.stamps.items()) for one in plan.inputs]
        self._shared = repr((request.method, stamps, request.finetune, plan.parts.device))
        self._loras = repr([(spec, FileStamp.of(spec.path)) for spec in request.loras])

    def of(self, job: TensorJob) -> str | None:
        """The key of a job; None where caching it would gain nothing."""
        if job.action not in CACHED_ACTIONS and not job.lora:
            return None
        # A job's own fields tell the rest: operands, their places, the parameters for this tensor, the type.
        told = f"{self._shared}{replace(job, block='')!r}{self._loras if job.lora else ''}"
        return hashlib.sha256(told.encode()).hexdigest()
