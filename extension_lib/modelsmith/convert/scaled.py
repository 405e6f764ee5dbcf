"""Weights divided by one scale and rounded to fp8 e4m3, as they are written."""

from __future__ import annotations

import torch

from modelsmith.convert.casts import FP8_LIMIT, Loss, LossBook
from modelsmith.convert.nodes import Kept, Node, in_pieces
from modelsmith.convert.rounding import BitTable, cast_into
from modelsmith.files.dtypes import count, torch_dtype

_WORTH_A_TABLE = 1 << 20  # values in a weight from which on its own lookup table is quicker than arithmetic


class Scale:
    """The one scale of a weight, found by reading the weight once when it is first needed."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._kept = Kept(self._compute, 1)

    def _compute(self) -> torch.Tensor:
        size = count(self._node.shape)
        largest = 0.0
        for values in in_pieces(self._node, 0, size):
            low, high = (float(side) for side in torch.aminmax(values))
            if not (abs(low) < float("inf") and abs(high) < float("inf")):
                values = torch.nan_to_num(values.float(), 0.0, 0.0, 0.0)
                low, high = (float(side) for side in torch.aminmax(values))
            largest = max(largest, -low, high)
        return torch.tensor(largest / FP8_LIMIT["F8_E4M3"] or 1.0, dtype=torch.float32)

    def value(self) -> float:
        """max|w| / 448, rounded to float32; 1 for a weight of zeros."""
        return float(self._kept.value())

    def tensor(self) -> torch.Tensor:
        """The scale as a float32 scalar."""
        return self._kept.value()


class ScaleValue:
    """The scale of a weight as a tensor of its own. In the file it comes after the weight: by then it is known, where
    in front of all weights it would have every one of them read from the disk twice."""

    dtype = "F32"
    shape: tuple[int, ...] = ()

    def __init__(self, scale: Scale) -> None:
        self._scale = scale

    def read(self, first: int, elements: int) -> torch.Tensor:
        return self._scale.tensor().reshape(1)[first : first + elements]


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
                loss = cast_into(values.float() / scale, piece)
            self._book.add(self.name, Loss(loss.largest_error * scale, loss.clipped, loss.vanished, loss.nan))
        if self._table is not None:
            self._table.used(len(out))


def _has_table(node: Node) -> bool:
    return node.dtype in ("F16", "BF16") and count(node.shape) >= _WORTH_A_TABLE
