"""Fills a piece of the output with the tensors that lie in it; neighbours in the input file are taken together.

A model has over a thousand vectors of a few hundred values: a read and a dozen calls for each of them cost as much as
the arithmetic of a 0.6 GB model. Side by side in both files, they are read and cast at once, and looked at one by one.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from modelsmith.convert.casts import TILE, Loss, LossBook
from modelsmith.convert.nodes import Node, Stored, byte_view, read_into
from modelsmith.convert.rounding import Cast, Piece, cast_pieces
from modelsmith.files.dtypes import DTYPES, torch_dtype
from modelsmith.files.tensors import RangeFile, is_strided
from modelsmith.files.writer import Entry

_CHECKED = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True)
class _Span:
    """Values of one node, from the ``first`` on, and the bytes of the piece that they fill."""

    name: str
    node: Node
    first: int
    begin: int
    end: int
    width: int

    @property
    def elements(self) -> int:
        return (self.end - self.begin) // self.width


@dataclass(frozen=True)
class _Place:
    """Where the values of a node lie in a file, one after another. way: file, type there, type here, whether they are
    rounded on the way, and clipped; values of one way that are side by side may be taken together."""

    file: RangeFile
    start: int
    kind: str
    cast: bool
    clip: bool
    way: tuple[object, ...]


class Filler:
    """Fills any piece of the data of one output."""

    def __init__(self, entries: Sequence[Entry], nodes: Sequence[Node], book: LossBook) -> None:
        self._entries = entries
        self._nodes = nodes
        self._book = book
        self._places = [_place_of(node) for node in nodes]
        self._starts: list[int] = []
        position = 0
        for entry in entries:
            self._starts.append(position)
            position += entry.nbytes

    def fill(self, view: memoryview, start: int) -> None:
        """Fill ``view`` with the bytes of the data from ``start`` on. Raises as the readers do."""
        index = bisect.bisect_right(self._starts, start) - 1
        run: list[_Span] = []
        last: _Place | None = None
        until = 0
        while index < len(self._nodes) and self._starts[index] < start + len(view):
            span, place = self._span(index, start, start + len(view)), self._places[index]
            index += 1
            if span.begin == span.end:
                continue
            at = place.start + span.first * DTYPES[place.kind].itemsize if place is not None else 0
            if run and not (place is not None and last is not None and at == until and place.way == last.way):
                self._fill_run(run, last, view)
                run = []
            run.append(span)
            last = place
            until = at + span.elements * DTYPES[place.kind].itemsize if place is not None else 0
        if run:
            self._fill_run(run, last, view)

    def _span(self, index: int, start: int, end: int) -> _Span:
        entry, node, own = self._entries[index], self._nodes[index], self._starts[index]
        begin, stop = max(start, own), max(start, min(end, own + entry.nbytes))
        width = DTYPES[entry.dtype].itemsize
        return _Span(entry.name, node, (begin - own) // width, begin - start, stop - start, width)

    def _fill_run(self, run: list[_Span], place: _Place | None, view: memoryview) -> None:
        """place: that of the last span; all of a run of several are alike and side by side."""
        out = view[run[0].begin : run[-1].end]
        if place is None or (place.cast and len(run) == 1):
            values = torch.frombuffer(out, dtype=torch_dtype(run[0].node.dtype))
            read_into(run[0].node, run[0].first, values)
            return
        elements = sum(span.elements for span in run)
        first = place.start + (run[-1].first + run[-1].elements - elements) * DTYPES[place.kind].itemsize
        if place.cast:
            self._cast(run, place, torch.frombuffer(out, dtype=torch_dtype(run[0].node.dtype)), first)
            return
        place.file.read_ahead(first + len(out))
        place.file.read_into(out, first)
        if place.kind in _CHECKED:
            self._check(run, torch.frombuffer(out, dtype=torch_dtype(place.kind)))

    def _cast(self, run: list[_Span], place: _Place, out: torch.Tensor, at: int) -> None:
        kind, width = torch_dtype(place.kind), DTYPES[place.kind].itemsize
        ends: list[int] = []
        for span in run:
            ends.append((ends[-1] if ends else 0) + span.elements)
        for begin in range(0, len(out), TILE):
            target = out[begin : begin + TILE]
            values = torch.empty(len(target), dtype=kind)
            stop = begin + len(target)
            place.file.read_ahead(at + stop * width)
            place.file.read_into(byte_view(values), at + begin * width)
            inside = range(bisect.bisect_right(ends, begin), bisect.bisect_left(ends, stop) + 1)
            pieces = [
                Piece(run[one].name, max(0, ends[one] - run[one].elements - begin), min(ends[one], stop) - begin)
                for one in inside
            ]
            cast_pieces(values, target, pieces, self._book, clip=place.clip)

    def _check(self, run: list[_Span], values: torch.Tensor) -> None:
        """Note values that are not finite, in tensors that are copied as they are."""
        low, high = (float(side) for side in torch.aminmax(values))
        if abs(low) < float("inf") and abs(high) < float("inf"):
            return
        begin = 0
        for span in run:
            part = values[begin : begin + span.elements]
            begin += span.elements
            self._book.add(span.name, Loss(nan=int(part.isnan().sum()), infinite=int(part.isinf().sum())))


def _place_of(node: Node) -> _Place | None:
    """The place of a node whose values are copied from a file, or cast on the way; None for all others."""
    stored = node.inner if isinstance(node, Cast) else node
    if not isinstance(stored, Stored):
        return None
    source, name = stored.origin
    info = source.info(name)
    if is_strided(info):
        return None
    file, cast = source.file_of(info), isinstance(node, Cast)
    clip = isinstance(node, Cast) and node.clip
    return _Place(file, info.start, stored.dtype, cast, clip, (id(file), stored.dtype, node.dtype, cast, clip))
