"""Distribution crossover of tensors that are too large to hold: an external sort, and a Fourier transform in passes.

The method is linear in A and B, so that only B - A is sorted and filtered: the result is A + filtered(B - A).

1. Each piece writes its values of C, sorted, as whole numbers, and those of B - A in the same order.
2. The tensor in the order of C is cut into blocks; where each begins in every piece is found by counting.
3. Block by block the pieces are merged: B - A lies in the order of C.
4. This sequence, read as a matrix row by row, is transformed down its columns and then along its rows (D. H. Bailey,
   FFTs in external or hierarchical memory, 1990), filtered, and transformed back in reverse.
5. Each block goes back to the pieces that it came from.

Blocks, columns and rows are cut by the tensor's size alone, so that neither pieces nor threads change a bit.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, cast

import torch
from torch import Tensor

from modelsmith.merge.kernels import give_memory_back
from modelsmith.merge.methods import catalogue_likeness as catalogue
from modelsmith.merge.methods import signals
from modelsmith.merge.methods.stream import SOME, Ask, Piece, Stream, Whole, each, numbered, streams, total
from modelsmith.merge.scratch import Scratch

HELD = 1 << 19
"""Values of a tensor that is held whole: some hundred bytes each while it is computed, by every thread at once."""

BLOCK = 1 << 22
"""Bytes of B - A in a block of rows or of columns, about; neither is ever cut."""

LONGEST = 1 << 19
"""Values in a row. A tensor whose matrix has longer ones is held: a size in its shape has a prime factor above this,
as no known architecture has."""

_DIGIT = 4  # bits of a value of C that are found at a time
_WHOLE_NUMBERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

Run = tuple[int, int]
"""First value and number of values."""


@lru_cache(maxsize=64)
def matrix_of(count: int) -> tuple[int, int]:
    """Rows and columns of that matrix of so many values which is nearest to a square; never more rows."""
    rows = math.isqrt(count)
    while count % rows:
        rows -= 1
    return rows, count // rows


def _fits(whole: Whole) -> bool:
    return whole.count > HELD and matrix_of(whole.count)[1] <= LONGEST


def _comparable(whole: Whole) -> torch.dtype:
    """The narrowest type that holds C's values and has whole numbers of its width; every fp8 fits into fp16."""
    stored = whole.stored[2]
    return torch.float16 if stored.itemsize == 1 else stored


def _keys(values: Tensor, stored: torch.dtype) -> Tensor:
    """Values as whole numbers that order as they do; both zeros are one, NaN is last, as in sort."""
    kind = _WHOLE_NUMBERS[stored.itemsize]
    largest = torch.iinfo(kind).max
    flat = values.reshape(-1)
    bits = (flat.to(stored) + 0.0).view(kind)
    return torch.where(bits < 0, bits ^ largest, bits).masked_fill_(flat.isnan(), largest)


def _order(keys: Tensor) -> Tensor:
    return torch.argsort(keys, stable=True)


def _put_back(values: Tensor, order: Tensor) -> Tensor:
    """Values in an order, at the places that they had before."""
    result = torch.empty_like(values)
    result[order] = values
    return result


def _runs(block: Tensor) -> list[Run]:
    """A block's runs that are not empty; kept as a tensor, since there are pieces times blocks of them."""
    runs = cast(list[list[int]], cast(Any, block).tolist())
    return [(first, count) for first, count in runs if count]


@dataclass(frozen=True, slots=True)
class _Vector:
    """Values in the file from the byte ``start`` on."""

    file: Scratch
    start: int
    kind: torch.dtype

    def read(self, runs: Sequence[Run]) -> Tensor:
        """The values of runs, one run after the other."""
        values = torch.empty(sum(count for _, count in runs), dtype=self.kind)
        done = 0
        for first, count in runs:
            self.file.read(values[done : done + count], self.start + first * self.kind.itemsize)
            done += count
        return values

    def write(self, runs: Sequence[Run], values: Tensor) -> None:
        """The reverse of ``read``."""
        done = 0
        for first, count in runs:
            self.file.write(values[done : done + count], self.start + first * self.kind.itemsize)
            done += count


@dataclass(frozen=True, slots=True)
class _Tiles:
    """A matrix in the file from the byte ``start`` on, in tiles, so that blocks of rows (one tile high) and of columns
    (one tile wide) are both read and written in long runs."""

    file: Scratch
    start: int
    kind: torch.dtype
    shape: tuple[int, int]
    tile: tuple[int, int]

    @property
    def down(self) -> int:
        """Blocks of rows."""
        return -(-self.shape[0] // self.tile[0])

    @property
    def across(self) -> int:
        """Blocks of columns."""
        return -(-self.shape[1] // self.tile[1])

    def rows(self, number: int) -> Tensor:
        return torch.cat([self._read(number, column) for column in range(self.across)], dim=1)

    def columns(self, number: int) -> Tensor:
        return torch.cat([self._read(row, number) for row in range(self.down)])

    def put_rows(self, number: int, values: Tensor) -> None:
        width = self.tile[1]
        for column in range(self.across):
            self.file.write(values[:, column * width : (column + 1) * width], self._place(number, column)[0])

    def put_columns(self, number: int, values: Tensor) -> None:
        height = self.tile[0]
        for row in range(self.down):
            self.file.write(values[row * height : (row + 1) * height], self._place(row, number)[0])

    def _place(self, row: int, column: int) -> tuple[int, int, int]:
        """A tile's first byte, its height and its width."""
        above, before = row * self.tile[0], column * self.tile[1]
        height, width = min(self.tile[0], self.shape[0] - above), min(self.tile[1], self.shape[1] - before)
        return self.start + (above * self.shape[1] + before * height) * self.kind.itemsize, height, width

    def _read(self, row: int, column: int) -> Tensor:
        place, height, width = self._place(row, column)
        return self.file.read(torch.empty(height, width, dtype=self.kind), place)


@dataclass(frozen=True, slots=True)
class _Shapes:
    """What the file holds, one after the other: in the pieces' order B - A, or in the same place its frequencies; B - A
    in the order of C; in the pieces' order C.

    half: rows of the frequencies. Those of real values mirror each other, so that half of the rows tell all.
    """

    matrix: tuple[int, int]
    kind: torch.dtype
    complex: torch.dtype
    key: torch.dtype

    @classmethod
    def of(cls, whole: Whole) -> _Shapes:
        waves = torch.complex128 if whole.kind == torch.float64 else torch.complex64
        return cls(matrix_of(whole.count), whole.kind, waves, _WHOLE_NUMBERS[_comparable(whole).itemsize])

    @property
    def half(self) -> int:
        return self.matrix[0] // 2 + 1

    @property
    def starts(self) -> tuple[int, int, int]:
        """Where the second and the third begin, and where the file ends."""
        second = self.half * self.matrix[1] * self.complex.itemsize
        third = second + math.prod(self.matrix) * self.kind.itemsize
        return second, third, third + math.prod(self.matrix) * self.key.itemsize

    def tiles(self, file: Scratch) -> tuple[_Tiles, _Tiles]:
        """B - A in the order of C, and its frequencies."""
        rows, columns = self.matrix
        values = BLOCK // self.kind.itemsize
        width, height, half = (max(1, size) for size in (values // rows, values // columns, values // 2 // columns))
        return (
            _Tiles(file, self.starts[0], self.kind, self.matrix, (height, width)),
            _Tiles(file, 0, self.complex, (self.half, columns), (half, width)),
        )


class _Work:
    """What the pieces and the blocks of one tensor are asked. share: that of B, by frequencies from 0 to 1."""

    def __init__(self, whole: Whole, file: Scratch, share: partial[Tensor]) -> None:
        shapes = _Shapes.of(whole)
        self.whole = whole
        self.share = share
        self.half = shapes.half
        self.ordered, self.waves = shapes.tiles(file)
        self.change = _Vector(file, 0, shapes.kind)
        self.keys = _Vector(file, shapes.starts[1], shapes.key)

    def run_of(self, piece: Piece) -> Run:
        """Where a piece's values lie."""
        return piece.first * self.whole.width, piece.rows * self.whole.width

    def sort(self, piece: Piece) -> None:
        """Write C and B - A of a piece in the order of its C."""
        a, b, c = piece.tensors
        keys = _keys(c, _comparable(self.whole))
        order = _order(keys)
        self.keys.write([self.run_of(piece)], keys[order])
        self.change.write([self.run_of(piece)], (b - a).reshape(-1)[order])

    def merge(self, blocks: Tensor, block: int) -> None:
        """Bring a block into the order of C."""
        runs = _runs(blocks[block])
        values = self.change.read(runs)[_order(self.keys.read(runs))]
        self.ordered.put_rows(block, values.reshape(-1, self.ordered.shape[1]))

    def part(self, blocks: Tensor, block: int) -> None:
        """The reverse of ``merge``."""
        runs = _runs(blocks[block])
        values = self.ordered.rows(block).reshape(-1)
        self.change.write(runs, _put_back(values, _order(self.keys.read(runs))))

    def _twist(self, block: int) -> Tensor:
        """What belongs between the transforms of columns and rows: ``exp(-2 pi i row column / values)``."""
        first, width = block * self.ordered.tile[1], self.ordered.tile[1]
        columns = torch.arange(first, min(first + width, self.ordered.shape[1]), dtype=torch.float64)
        rows = torch.arange(self.half, dtype=torch.float64)
        angles = torch.outer(rows, columns).mul_(-2 * math.pi / self.whole.count)
        return torch.complex(angles.cos().to(self.whole.kind), angles.sin_().to(self.whole.kind))

    def transform(self, block: int) -> None:
        """Columns to frequencies."""
        found: Tensor = cast(Any, torch).fft.rfft(self.ordered.columns(block), dim=0)
        self.waves.put_columns(block, found.mul_(self._twist(block)))

    def filter(self, block: int) -> None:
        """Rows to frequencies, and back. Row r holds the frequencies r, r + rows, r + 2 rows …; those above the highest
        mirror those below it."""
        fft: Any = cast(Any, torch).fft
        found: Tensor = fft.fft(self.waves.rows(block))
        rows, columns = self.ordered.shape
        first = block * self.waves.tile[0]
        bins = torch.arange(first, first + len(found))[:, None] + torch.arange(0, rows * columns, rows)
        share = self.share(torch.minimum(bins, self.whole.count - bins).double().div_(self.whole.count // 2 + 1))
        self.waves.put_rows(block, fft.ifft(found.mul_(share.to(self.whole.kind))))

    def transform_back(self, block: int) -> None:
        """The reverse of ``transform``."""
        found = self.waves.columns(block).mul_(self._twist(block).conj())
        self.ordered.put_columns(block, cast(Any, torch).fft.irfft(found, n=self.ordered.shape[0], dim=0))

    def make(self, piece: Piece) -> Tensor:
        """The values of a piece, whose part of the file holds its filtered B - A."""
        a, c = (piece.load(model, piece.first, piece.rows) for model in (0, 2))
        order = _order(_keys(c, _comparable(self.whole)))
        return a + _put_back(self.change.read([self.run_of(piece)]), order).reshape(a.shape)

    def below(self, keys: Tensor, piece: Piece) -> Tensor:
        """How many values of C in a piece are smaller than each key."""
        return torch.searchsorted(self.keys.read([self.run_of(piece)]), keys)

    def below_and_upto(self, keys: Tensor, piece: Piece) -> Tensor:
        """How many are smaller than each key, and how many are not larger."""
        found = self.keys.read([self.run_of(piece)])
        return torch.stack([torch.searchsorted(found, keys), torch.searchsorted(found, keys, right=True)])

    def blocks(self) -> Generator[Ask, Any, Tensor]:
        """The run that each block takes of each piece, shape (blocks, pieces, 2). Values alike follow each other by
        their place in the tensor."""
        ranks = torch.arange(0, self.whole.count, self.ordered.tile[0] * self.ordered.shape[1])
        kind = self.keys.kind
        keys = torch.full(ranks.shape, torch.iinfo(kind).min, dtype=torch.int64)  # of the values that blocks begin with
        for shift in range(kind.itemsize * 8 - _DIGIT, -1, -_DIGIT):
            trials = keys[:, None] + (torch.arange(1 << _DIGIT) << shift)
            counts: Tensor = yield total(partial(self.below, trials.to(kind)))
            keys = trials.gather(1, (counts <= ranks[:, None]).sum(1, keepdim=True) - 1)[:, 0]
        below, upto = torch.stack((yield each(partial(self.below_and_upto, keys.to(kind)))), dim=1)
        alike = upto - below
        left = ranks - below.sum(0) - (alike.cumsum(0) - alike)  # of those alike: how many earlier blocks still take
        begins = below + torch.minimum(left.clamp(min=0), alike)
        step = self.whole.rows * self.whole.width
        firsts = torch.arange(0, self.whole.count, step)[:, None]
        ends = torch.cat([begins[:, 1:], (self.whole.count - firsts).clamp(max=step)], dim=1)
        return torch.stack([firsts + begins, ends - begins], dim=2).transpose(0, 1)


@streams(catalogue.DISTRIBUTION_CROSSOVER, fits=_fits, values=SOME)
def distribution_crossover(whole: Whole, *, alpha: float, beta: float) -> Stream:
    """Through a temporary file of ten bytes a value where models have 16 bits, up to 24 in fp64."""
    if alpha in (0.0, 1.0):
        return lambda piece: piece.tensors[int(alpha)]
    with Scratch(_Shapes.of(whole).starts[2], whole.folder) as file:
        work = _Work(whole, file, partial(signals.crossover_share, alpha=alpha, beta=beta))
        yield each(work.sort)
        blocks = yield from work.blocks()
        for ask in (
            numbered(work.ordered.down, partial(work.merge, blocks)),
            numbered(work.ordered.across, work.transform),
            numbered(work.waves.down, work.filter),
            numbered(work.ordered.across, work.transform_back),
            numbered(work.ordered.down, partial(work.part, blocks)),
        ):
            give_memory_back()  # each pass has temporaries of other sizes: without, up to 0.25 GB more were seen
            yield ask
        give_memory_back()
        yield work.make
    return work.make
