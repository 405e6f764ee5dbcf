"""A merge into memory: the engine's own values as tensors, nothing written; what did not change comes from a cache."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from modelsmith.errors import Cancelled
from modelsmith.files.dtypes import torch_dtype
from modelsmith.files.output import aligned_buffer
from modelsmith.files.writer import Chunk, Entry
from modelsmith.merge.block_cache import BlockCache, JobKeys
from modelsmith.merge.engine import IsCancelled, Progress, merge_into
from modelsmith.merge.guard import Notice
from modelsmith.merge.plan import MergePlan, TensorJob
from modelsmith.merge.statistics import Watch, settled

SLAB_BYTES = 32 << 20
"""Tensors share pieces of memory of about this size, so that a loader that drops tensors as it goes frees memory."""

CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class InMemory:
    """The result. tensors: by the names in the file that the merge would write. computed, reused: tensors of it."""

    tensors: dict[str, Tensor]
    notices: tuple[Notice, ...]
    computed: int
    reused: int


class MemorySink:
    """Takes the chunks of a merge into memory of its own."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = tuple(entries)
        self._starts = [0]
        self._slabs: list[memoryview] = []
        self._places: list[tuple[int, int]] = []  # of each entry: its slab, the byte in it
        sizes: list[int] = []
        for entry in self._entries:
            if not sizes or sizes[-1] >= SLAB_BYTES:
                sizes.append(0)
            self._places.append((len(sizes) - 1, sizes[-1]))
            sizes[-1] += entry.nbytes
        for size in sizes:
            self._slabs.append(aligned_buffer(size))
            self._starts.append(self._starts[-1] + size)
        self._guard = threading.Lock()
        self._next = 0
        self._index = 0
        self._stopped = False

    @property
    def data_bytes(self) -> int:
        """Bytes of all tensors."""
        return self._starts[-1]

    def acquire(self) -> Chunk | None:
        """The next piece to fill, which never spans two slabs; None after the last."""
        with self._guard:
            if self._stopped:
                raise Cancelled
            if self._next >= self.data_bytes:
                return None
            slab = bisect_right(self._starts, self._next) - 1
            begin = self._next - self._starts[slab]
            view = self._slabs[slab][begin : min(begin + CHUNK_BYTES, len(self._slabs[slab]))]
            chunk = Chunk(self._index, self._next, view, view)
            self._next += len(view)
            self._index += 1
            return chunk

    def submit(self, chunk: Chunk) -> None:
        """The chunk was filled where it stays."""

    def stop(self) -> None:
        """Make every later ``acquire`` raise Cancelled."""
        with self._guard:
            self._stopped = True

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, in the order of the entries."""
        found: dict[str, Tensor] = {}
        for entry, (slab, offset) in zip(self._entries, self._places, strict=True):
            kind = torch_dtype(entry.dtype)
            if not entry.nbytes:
                found[entry.name] = torch.empty(entry.shape, dtype=kind)
                continue
            size = torch.empty((), dtype=kind).element_size()
            flat = torch.frombuffer(self._slabs[slab], dtype=kind, count=entry.nbytes // size, offset=offset)
            found[entry.name] = flat.reshape(entry.shape)
        return found


def merge_to_tensors(
    plan: MergePlan,
    cache: BlockCache | None = None,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> InMemory:
    """Carry a plan out in memory; the tensors are those of the file that ``run_merge`` writes, value for value.

    cache: takes what was computed and gives back what a later plan shares with it. Raises as ``run_merge`` does,
    except that nothing is written.
    """
    plan = settled(plan, Watch(progress, cancelled))
    keys = JobKeys(plan)
    known: dict[str, Tensor] = {}
    if cache is not None and cache.limit:
        cache.begin()
        for job in plan.jobs:
            key = keys.of(job)
            found = cache.take(key) if key is not None else None
            if found is not None:
                known[job.entry.name] = found
    else:
        cache = None
    jobs = tuple(job for job in plan.jobs if job.entry.name not in known)
    sink = MemorySink([job.entry for job in jobs])
    notices: tuple[Notice, ...] = ()
    if jobs:
        notices = merge_into(replace(plan, jobs=jobs), sink, progress, cancelled)
    made = sink.tensors()
    if cache is not None:
        _remember(cache, keys, jobs, made)
    tensors = {job.entry.name: known.get(job.entry.name, made.get(job.entry.name)) for job in plan.jobs}
    whole = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return InMemory(whole, (*plan.notices, *notices), len(jobs), len(known))


def _remember(cache: BlockCache, keys: JobKeys, jobs: Sequence[TensorJob], made: dict[str, Tensor]) -> None:
    for job in jobs:
        key = keys.of(job)
        if key is not None:
            cache.keep(key, made[job.entry.name])
