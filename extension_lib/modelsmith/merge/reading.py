"""Reads what one chunk of the output needs: few large reads, in file order, into memory that is used again."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modelsmith.errors import Cancelled
from modelsmith.files.dtypes import dtype, torch_dtype
from modelsmith.files.output import aligned_buffer
from modelsmith.files.tensors import RangeFile, is_strided
from modelsmith.merge.plan import Operand, TensorJob
from modelsmith.merge.weights import WeightSource

_STEP = 64  # groups of reads start at a multiple of this in memory, so that values are aligned


@dataclass(frozen=True, slots=True)
class Segment:
    """Values ``first`` to ``first + length`` of a job's tensor, which lie at byte ``offset`` of a chunk."""

    job: TensorJob
    first: int
    length: int
    offset: int


class Segments:
    """Finds the segments of any chunk."""

    def __init__(self, jobs: Sequence[TensorJob]) -> None:
        self._jobs = [job for job in jobs if job.entry.nbytes]
        self._starts = [0, *itertools.accumulate(job.entry.nbytes for job in self._jobs)]

    def of(self, start: int, length: int) -> list[Segment]:
        """The segments of the data bytes from ``start`` on."""
        found: list[Segment] = []
        index = bisect.bisect_right(self._starts, start) - 1
        while index < len(self._jobs) and self._starts[index] < start + length:
            job, begin = self._jobs[index], self._starts[index]
            width = dtype(job.entry.dtype).itemsize
            low, high = max(start, begin), min(start + length, self._starts[index + 1])
            found.append(Segment(job, (low - begin) // width, (high - low) // width, low - start))
            index += 1
        return found


@dataclass(slots=True)
class _Read:
    file: RangeFile
    offset: int
    length: int
    place: int


@dataclass(slots=True)
class Group:
    """Neighbouring segments that are one piece of work: equal types and parameters, and operands that lie together.

    operands: one-dimensional, each with the values of all segments; empty where the job reads by itself.
    """

    segments: list[Segment]
    operands: list[Tensor]

    @property
    def job(self) -> TensorJob:
        """The first segment's job, whose types and parameters are those of all."""
        return self.segments[0].job

    @property
    def offset(self) -> int:
        """Where the group begins, in bytes of the chunk."""
        return self.segments[0].offset

    @property
    def length(self) -> int:
        """Values in all segments."""
        return sum(segment.length for segment in self.segments)

    def split(self) -> list[Group]:
        """One group for each segment."""
        parts: list[Group] = []
        first = 0
        for segment in self.segments:
            operands = [operand[first : first + segment.length] for operand in self.operands]
            parts.append(Group([segment], operands))
            first += segment.length
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
                for slot, operand in enumerate(segment.job.operands):
                    if operand.model == model and streams(segment.job, operand):
                        end = self._place(reads, segment, operand, end)
                        places[number, slot] = end - segment.length * _width(operand)
        if len(self._arena) < end:
            self._arena = self._allocate(end + (-end % (1 << 20)))
        for read in reads:
            read.file.read_ahead(read.offset + read.length)
            read.file.read_into(self._arena[read.place : read.place + read.length], read.offset)
        self._hash(reads, turn)
        return [self._group(segments, numbers, places) for numbers in _together(segments, places)]

    def _group(
        self, segments: Sequence[Segment], numbers: Sequence[int], places: Mapping[tuple[int, int], int]
    ) -> Group:
        """The segments with these numbers; several only where all their operands stream."""
        chosen = [segments[number] for number in numbers]
        job = chosen[0].job
        group = Group(chosen, [])
        if not job.pieced:
            for slot, operand in enumerate(job.operands):
                place = places.get((numbers[0], slot))
                if place is None:
                    source = self._sources[operand.model]
                    found = source.load_flat(operand.name, chosen[0].first, chosen[0].length)
                else:
                    kind = torch_dtype(operand.info.dtype)
                    found = torch.frombuffer(self._arena, dtype=kind, count=group.length, offset=place)
                group.operands.append(found)
        return group

    def _place(self, reads: list[_Read], segment: Segment, operand: Operand, end: int) -> int:
        """Add a read, or lengthen the last one where the bytes follow it; return the new end of the arena."""
        source = self._sources[operand.model]
        width = _width(operand)
        offset, length = source.info(operand.name).start + segment.first * width, segment.length * width
        file = source.file_of(operand.info)
        last = reads[-1] if reads else None
        if last is not None and last.file is file and last.offset + last.length == offset:
            last.length += length
            return end + length
        place = end + -end % _STEP
        reads.append(_Read(file, offset, length, place))
        return place + length

    def _hash(self, reads: Sequence[_Read], turn: int) -> None:
        for file, digest in self._hashes.items():
            pieces = [
                (read.offset, self._arena[read.place : read.place + read.length]) for read in reads if read.file is file
            ]
            digest.feed(turn, pieces)


def _width(operand: Operand) -> int:
    return dtype(operand.info.dtype).itemsize


def _together(segments: Sequence[Segment], places: Mapping[tuple[int, int], int]) -> list[list[int]]:
    """Numbers of segments that make a group each. Models of one origin have their tensors in one order, so that most
    chunks are a single group; without this, many small tensors would cost more to start on than to compute."""
    groups: list[list[int]] = []
    for number, segment in enumerate(segments):
        if number and _follows(segments[number - 1], segment, number, places):
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def _follows(before: Segment, segment: Segment, number: int, places: Mapping[tuple[int, int], int]) -> bool:
    one, two = before.job, segment.job
    if one.action != two.action or one.pieced or two.pieced or one.entry.dtype != two.entry.dtype:
        return False
    if len(one.operands) != len(two.operands) or one.parameters != two.parameters:
        return False
    for slot, (left, right) in enumerate(zip(one.operands, two.operands, strict=True)):
        last, place = places.get((number - 1, slot)), places.get((number, slot))
        if last is None or place != last + before.length * _width(left) or left.info.dtype != right.info.dtype:
            return False
    return True


def streams(job: TensorJob, operand: Operand) -> bool:
    """Whether a tensor is read piece by piece with its neighbours; others are read on their own."""
    return not job.pieced and operand.info.start >= 0 and not is_strided(operand.info)


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
