"""One component of a file: its tensors under the names that its own model gives them, without the file's prefix."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

from modelsmith.errors import BadFileError
from modelsmith.files.header import FileHeader, TensorInfo
from modelsmith.files.ranges import read_tensor_bytes

_PACKED_TWO = frozenset({"U8", "I8"})


class View:
    """Names and shapes of one component.

    prefix: what stands before the names in the file.
    markers: names of marker tensors of the whole file (``v_pred``, ``edm_mean`` ...), wherever they stood.
    """

    def __init__(
        self,
        tensors: Mapping[str, TensorInfo],
        prefix: str = "",
        header: FileHeader | None = None,
        markers: frozenset[str] = frozenset(),
    ) -> None:
        self.tensors = tensors
        self.prefix = prefix
        self.markers = markers
        self._header = header
        self._stems: frozenset[str] | None = None
        self._heads: frozenset[str] | None = None

    def under(self, tensors: Mapping[str, TensorInfo], stem: str) -> View:
        """The same file seen one level deeper."""
        return View(tensors, self.prefix + stem, self._header, self.markers)

    def find(self, name: str) -> TensorInfo | None:
        """The tensor, or what a packed file has in its place (``.qweight`` for ``.weight``)."""
        info = self.tensors.get(name)
        if info is None and name.endswith(".weight"):
            return self.tensors.get(name[:-6] + "qweight")
        return info

    def has(self, name: str) -> bool:
        return name in self.tensors or (name.endswith(".weight") and name[:-6] + "qweight" in self.tensors)

    @property
    def heads(self) -> frozenset[str]:
        """The first part of every name."""
        if self._heads is None:
            self._heads = frozenset([name.partition(".")[0] for name in self.tensors])
        return self._heads

    def has_stem(self, stem: str) -> bool:
        """Whether a name begins with ``stem``, which has at most two parts and no dot at its end."""
        if "." not in stem:
            return stem in self.heads
        if self._stems is None:
            stems: set[str] = set()
            for name in self.tensors:
                parts = name.split(".", 2)
                if len(parts) > 1:
                    stems.add(parts[0] + "." + parts[1])
            self._stems = frozenset(stems)
        return stem in self._stems

    def blocks(self, stem: str) -> int:
        """How many of ``stem.0``, ``stem.1`` ... are there, counted to the first that is missing."""
        count = 0
        while self.has_stem(f"{stem}.{count}"):
            count += 1
        return count

    def depth(self, pattern: str, name: str) -> int:
        """Like :meth:`blocks`, deeper down: ``pattern`` plus a number plus ``name`` must be a tensor."""
        count = 0
        while self.has(f"{pattern}{count}{name}"):
            count += 1
        return count

    def rank(self, name: str) -> int | None:
        info = self.find(name)
        return None if info is None else len(info.shape)

    def side(self, name: str, axis: int) -> int | None:
        """One side of a tensor's true shape; None where it is not there or cannot be told.

        The shape of a packed matrix lies: 4-bit values lie two to a byte, bitsandbytes flattens them to a column.
        There the rows come from the bias (or the state that bitsandbytes keeps) and the columns from the count.
        """
        info = self.find(name)
        if info is None:
            return None
        shape = info.shape
        if info.dtype in _PACKED_TWO and name.endswith("weight") and len(shape) == 2:
            shape = self._unpack(name, info)
        if not -len(shape) <= axis < len(shape):
            return None
        return shape[axis]

    def _unpack(self, name: str, info: TensorInfo) -> tuple[int, ...]:
        rows, columns = info.shape
        if columns != 1 or not any(f"{name}.{part}" in self.tensors for part in ("absmax", "quant_map")):
            halved = info.dtype == "I8" and name not in self.tensors
            halved = halved or name[:-6] + "weight_scale_2" in self.tensors
            return (rows, columns * 2) if halved else (rows, columns)
        values = rows * 2
        bias = self.tensors.get(name[:-6] + "bias")
        if bias is not None and len(bias.shape) == 1 and bias.shape[0] and values % bias.shape[0] == 0:
            return bias.shape[0], values // bias.shape[0]
        return self._state_shape(name) or ()

    def _state_shape(self, name: str) -> tuple[int, ...] | None:
        """The shape that bitsandbytes keeps as JSON in a small tensor beside the packed one."""
        for kind in ("nf4", "fp4"):
            state = f"{self.prefix}{name}.quant_state.bitsandbytes__{kind}"
            if self._header is None or state not in self._header.tensors:
                continue
            try:
                found: object = json.loads(read_tensor_bytes(self._header, state, 4096))
            except (BadFileError, ValueError, RecursionError):
                continue
            shape = cast("dict[str, object]", found).get("shape") if isinstance(found, dict) else None
            if isinstance(shape, list) and all(isinstance(side, int) for side in cast("list[object]", shape)):
                return tuple(cast("list[int]", shape))
        return None

    def count(self, name: str) -> int | None:
        """How many values a matrix has, packed or not; None where it is not there."""
        info = self.find(name)
        if info is None:
            return None
        values = 1
        for side in info.shape:
            values *= side
        if info.dtype not in _PACKED_TWO or not name.endswith("weight"):
            return values
        columns = self.side(name, 1)
        rows = self.side(name, 0)
        return values * 2 if rows is None or columns is None else rows * columns
