"""Weights divided by one scale and rounded to fp8 e4m3, as they are written."""

from __future__ import annotations

import threading

import numpy as np
import torch

from modelsmith.convert.casts import FP8_LIMIT, TILE, Loss, LossBook, decode_fp8, fp8_types
from modelsmith.convert.nodes import Kept, Node, in_pieces
from modelsmith.convert.rounding import BitTable, cast_into, extremes
from modelsmith.errors import Cancelled
from modelsmith.files.dtypes import count, torch_dtype

_SHARE = 4 * TILE  # values of a weight that a thread looks at together, on the way to its scale
_WORTH_A_TABLE = 1 << 19  # values in a weight from which on its own lookup table is quicker than arithmetic


class Scale:
    """The one scale of a weight, found by reading the weight once when it is first needed.

    Threads that need it at the same time share the reading. It is kept as a number: a small tensor that stays, between
    large ones that come and go, leaves holes in the memory of the process.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._size = count(node.shape)
        self._state = threading.Condition()
        self._claimed = self._read = 0
        self._largest = 0.0
        self._failed = False

    def value(self) -> float:
        """max|w| / 448, rounded to float32; 1 for a weight of zeros. Raises as reading the weight does."""
        while piece := self._claim():
            self._look_at(*piece)
        with self._state:
            self._state.wait_for(lambda: self._failed or self._read == self._size)
            if self._failed:
                raise Cancelled  # the thread that met the failure tells of it
        return float(np.float32(self._largest / FP8_LIMIT["F8_E4M3"])) or 1.0

    def _claim(self) -> tuple[int, int] | None:
        """The first of the next values to be looked at, and how many there are; None where nothing is left to do."""
        with self._state:
            first = self._claimed
            if self._failed or first == self._size:
                return None
            self._claimed = end = min(first + _SHARE, self._size)
        return first, end - first

    def _look_at(self, first: int, elements: int) -> None:
        try:
            largest = max((_magnitude(values) for values in in_pieces(self._node, first, elements)), default=0.0)
        except BaseException:
            with self._state:
                self._failed = True
                self._state.notify_all()
            raise
        with self._state:
            self._largest = max(self._largest, largest)
            self._read += elements
            self._state.notify_all()


def _magnitude(values: torch.Tensor) -> float:
    """The largest magnitude among the finite values."""
    values = decode_fp8(values) if values.dtype in fp8_types() else values
    low, high = extremes(values)
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        low, high = extremes(torch.nan_to_num(values.float(), 0.0, 0.0, 0.0))
    return max(-low, high, 0.0)


class ScaleValue:
    """The scale of a weight as a tensor of its own. In the file it comes after the weight: by then it is known, where
    in front of all weights it would have every one of them read from the disk twice."""

    dtype = "F32"
    shape: tuple[int, ...] = ()

    def __init__(self, scale: Scale) -> None:
        self._scale = scale

    def read(self, first: int, elements: int) -> torch.Tensor:
        return torch.tensor([self._scale.value()])[first : first + elements]


class ScaledWeight:
    """A weight divided by its scale, in e4m3. The loss is that of the values as they will be read back."""

    dtype = "F8_E4M3"

    def __init__(self, node: Node, scale: Scale, book: LossBook, name: str) -> None:
        self._node = node
        self._scale = scale
        self._book = book
        self.name = name
        self._table = Kept(self._tabulate, count(node.shape)) if _has_table(node) else None
        self.shape = node.shape

    def _tabulate(self) -> BitTable:
        return BitTable(torch_dtype(self._node.dtype), torch_dtype(self.dtype), self._scale.value())

    def read(self, first: int, elements: int) -> torch.Tensor:
        """Divide and round a range."""
        out = torch.empty(elements, dtype=torch_dtype(self.dtype))
        self.read_into(first, out)
        return out

    def read_into(self, first: int, out: torch.Tensor) -> None:
        """Divide and round a range into a flat tensor of e4m3."""
        scale = self._scale.value()
        done = 0
        for values in in_pieces(self._node, first, len(out)):
            piece = out[done : done + len(values)]
            done += len(values)
            loss = self._table.value().round_into(values, piece) if self._table is not None else None
            if loss is None:
                loss = cast_into(decode_fp8(values) / scale, piece)  # other types come through it as with float()
            self._book.add(self.name, Loss(loss.largest_error * scale, loss.clipped, loss.vanished, loss.nan))
        if self._table is not None:
            self._table.used(len(out))


def _has_table(node: Node) -> bool:
    return node.dtype in ("F16", "BF16") and count(node.shape) >= _WORTH_A_TABLE
