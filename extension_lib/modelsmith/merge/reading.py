"""Reads what one chunk of the output needs: few large reads, in file order, into memory that is used again."""

from __future__ import annotations

import bisect
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modelsmith.errors import Cancelled
from modelsmith.files.dtypes import count, dtype, torch_dtype
from modelsmith.files.output import aligned_buffer
from modelsmith.files.tensors import RangeFile
from modelsmith.merge.plan import Operand, TensorJob
from modelsmith.merge.weights import WeightSource

_STEP = 64  # groups of reads start at a multiple of this in memory, so that values are aligned


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a streamed operand of a span lies. kind: the type of its values, ``width`` bytes each."""

    file: RangeFile
    model: int
    offset: int
    kind: torch.dtype
    width: int


@dataclass(slots=True)
class Span:
    """Neighbouring tensors of the output that are one piece of work: equal types and parameters, and operands that lie
    one after another in their files too, so that any run of their values is read and computed as one.

    Models of one origin have their tensors in one order, so that a whole model is few spans: finding out once what
    belongs together costs far less than asking in every chunk.

    start: of the first byte of the data. firsts: the place of each job's first value in the span, and the length.
    places: where each operand begins in its file; None where the job reads it by itself.
    """

    jobs: list[TensorJob]
    start: int
    width: int
    firsts: list[int]
    places: list[_Place | None]

    @property
    def end(self) -> int:
        """The byte of the data behind the span."""
        return self.start + self.firsts[-1] * self.width


@dataclass(frozen=True, slots=True)
class Segment:
    """Values ``first`` to ``first + length`` of a span, which lie at byte ``offset`` of a chunk."""

    span: Span
    first: int
    length: int
    offset: int


class Segments:
    """Finds the segments of any chunk."""

    def __init__(self, jobs: Sequence[TensorJob], sources: Sequence[WeightSource]) -> None:
        self._spans: list[Span] = []
        start = 0
        for job in jobs:
            if job.entry.nbytes:
                places = [_place(job, operand, sources[operand.model]) for operand in job.operands]
                if not self._spans or not _extends(self._spans[-1], job, places):
                    self._spans.append(Span([], start, dtype(job.entry.dtype).itemsize, [0], places))
                span = self._spans[-1]
                span.jobs.append(job)
                span.firsts.append(span.firsts[-1] + count(job.entry.shape))
                start += job.entry.nbytes
        self._starts = [span.start for span in self._spans]

    def of(self, start: int, length: int) -> list[Segment]:
        """The segments of the data bytes from ``start`` on."""
        found: list[Segment] = []
        index = bisect.bisect_right(self._starts, start) - 1
        while index < len(self._spans) and self._starts[index] < start + length:
            span = self._spans[index]
            low, high = max(start, span.start), min(start + length, span.end)
            first = (low - span.start) // span.width
            found.append(Segment(span, first, (high - low) // span.width, low - start))
            index += 1
        return found


def _place(job: TensorJob, operand: Operand, source: WeightSource) -> _Place | None:
    info = operand.info
    if job.pieced or not source.streams(info):
        return None
    offset, width = source.info(operand.name).start, dtype(info.dtype).itemsize
    return _Place(source.file_of(info), operand.model, offset, torch_dtype(info.dtype), width)


def _extends(span: Span, job: TensorJob, places: Sequence[_Place | None]) -> bool:
    """Whether a job that comes next in the output belongs to the span before it."""
    last = span.jobs[-1]
    if (
        job.pieced
        or last.action != job.action
        or last.entry.dtype != job.entry.dtype
        or len(places) != len(span.places)
    ):
        return False
    if last.pieced or last.parameters != job.parameters:
        return False
    done = span.firsts[-1]
    for one, other in zip(span.places, places, strict=True):
        if one is None or other is None or one.file is not other.file or one.kind != other.kind:
            return False
        if one.offset + done * one.width != other.offset:
            return False
    return True


@dataclass(slots=True)
class _Read:
    file: RangeFile
    offset: int
    length: int
    place: int


@dataclass(slots=True)
class Group:
    """One segment with its operands: one-dimensional, of its length each; none where the job reads by itself."""

    segment: Segment
    operands: list[Tensor]

    @property
    def job(self) -> TensorJob:
        """The first job, whose types and parameters are those of all."""
        return self.segment.span.jobs[0]

    def split(self) -> list[tuple[TensorJob, int, list[Tensor]]]:
        """Every job that takes part, how many of its values, and its part of the operands."""
        span, begin, length = self.segment.span, self.segment.first, self.segment.length
        parts: list[tuple[TensorJob, int, list[Tensor]]] = []
        for job, first, end in zip(span.jobs, span.firsts, span.firsts[1:], strict=False):
            low, high = max(first, begin) - begin, min(end, begin + length) - begin
            if low < high:
                parts.append((job, high - low, [operand[low:high] for operand in self.operands]))
        return parts


class ChunkReader:
    """Reads the operands of segments for one thread."""

    def __init__(
        self,
        sources: Sequence[WeightSource],
        hashes: Mapping[RangeFile, InputHash],
        allocate: Callable[[int], memoryview] = aligned_buffer,
    ) -> None:
        self._sources = sources
        self._hashes = hashes
        self._allocate = allocate
        self._arena = allocate(4096)

    def read(self, segments: Sequence[Segment], turn: int) -> list[Group]:
        """The operands of all segments, in groups; they are valid until the next call.

        turn: number of the chunk; inputs that are hashed take their bytes in this order.
        """
        reads: list[_Read] = []
        places: dict[tuple[int, int], int] = {}
        end = 0
        for model in range(len(self._sources)):
            for number, segment in enumerate(segments):
                for slot, place in enumerate(segment.span.places):
                    if place is not None and place.model == model:
                        end = _add(reads, place, segment, end)
                        places[number, slot] = end - segment.length * place.width
        if len(self._arena) < end:
            self._arena = self._allocate(end + (-end % (1 << 20)))
        for read in reads:
            read.file.read_ahead(read.offset + read.length)
            read.file.read_into(self._arena[read.place : read.place + read.length], read.offset)
        self._hash(reads, turn)
        return [self._group(segment, number, places) for number, segment in enumerate(segments)]

    def _group(self, segment: Segment, number: int, places: Mapping[tuple[int, int], int]) -> Group:
        group = Group(segment, [])
        job = group.job
        if not job.pieced:
            for slot, operand in enumerate(job.operands):
                place = segment.span.places[slot]
                if place is None:
                    source = self._sources[operand.model]
                    found = source.load_flat(operand.name, segment.first, segment.length)
                else:
                    offset = places[number, slot]
                    found = torch.frombuffer(self._arena, dtype=place.kind, count=segment.length, offset=offset)
                group.operands.append(found)
        return group

    def _hash(self, reads: Sequence[_Read], turn: int) -> None:
        for file, digest in self._hashes.items():
            pieces = [
                (read.offset, self._arena[read.place : read.place + read.length]) for read in reads if read.file is file
            ]
            digest.feed(turn, pieces)


def _add(reads: list[_Read], place: _Place, segment: Segment, end: int) -> int:
    """Add a read, or lengthen the last one where the bytes follow it; return the new end of the arena."""
    offset, length = place.offset + segment.first * place.width, segment.length * place.width
    last = reads[-1] if reads else None
    if last is not None and last.file is place.file and last.offset + last.length == offset:
        last.length += length
        return end + length
    start = end + -end % _STEP
    reads.append(_Read(place.file, offset, length, start))
    return start + length


class InputHash:
    """SHA-256 of an input file from the bytes that the merge reads anyway.

    Bytes are taken in the order of the chunks; what the merge skips (the header, dropped tensors) is read in between,
    and pieces that lie before the place already reached are passed over, so any order of tensors gives the true hash.
    """

    def __init__(self, file: RangeFile) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._position = 0
        self._turn = 0
        self._stopped = False
        self._state = threading.Condition()

    def feed(self, turn: int, pieces: Sequence[tuple[int, memoryview]]) -> None:
        """Take a chunk's pieces when its turn has come. Raises Cancelled once ``stop`` was called."""
        with self._state:
            while self._turn != turn and not self._stopped:
                self._state.wait()
            if self._stopped:
                raise Cancelled
        for offset, view in pieces:
            if offset + len(view) > self._position:
                self._read_up_to(offset)
                self._digest.update(view[self._position - offset :])
                self._position = offset + len(view)
        with self._state:
            self._turn += 1
            self._state.notify_all()

    def _read_up_to(self, end: int) -> None:
        buffer = memoryview(bytearray(min(1 << 20, max(end - self._position, 0))))
        while self._position < end:
            part = buffer[: min(len(buffer), end - self._position)]
            self._file.read_into(part, self._position)
            self._digest.update(part)
            self._position += len(part)

    def finish(self) -> str:
        """Read what is left of the file and return the hash."""
        self._read_up_to(self._file.stamp.size)
        return self._digest.hexdigest()

    def stop(self) -> None:
        """Wake every thread that waits for its turn; they raise Cancelled."""
        with self._state:
            self._stopped = True
            self._state.notify_all()
