"""Tensors that are computed when they are written: every change to a model is a change to a table of these.

A node knows its type and shape at once and gives its values in pieces, in row-major order, so that a file of any size
passes through little memory.  Nodes are read by several threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from modelsmith.convert.casts import TILE
from modelsmith.errors import BadFileError
from modelsmith.files.dtypes import count, dtype, dtype_of, torch_dtype
from modelsmith.files.header import TensorInfo
from modelsmith.files.tensors import TensorSource, is_strided

T = TypeVar("T")

GROUP = 256
"""Elements that a reader should ask for together: the longest block of any quantised type."""


class Node(Protocol):
    """One tensor to be written.

    dtype: the safetensors name of the type that ``read`` returns. shape: in torch's order.
    """

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self, first: int, elements: int) -> torch.Tensor:
        """Give ``elements`` values from the ``first`` on, row-major, as a flat tensor of the node's type."""
        ...


def read_into(node: Node, first: int, out: torch.Tensor) -> None:
    """Put values of the node, from the ``first`` on, into a flat tensor of its type.

    A node may have a method of this name and form of its own, which then saves the copy.
    """
    direct = getattr(node, "read_into", None)
    if direct is not None:
        direct(first, out)
        return
    done = 0
    for values in in_pieces(node, first, len(out)):
        out[done : done + len(values)] = values
        done += len(values)


def in_pieces(node: Node, first: int, elements: int) -> Iterator[torch.Tensor]:
    """A range of a node's values in pieces that fit the cache, of ``TILE`` values but for the last.

    A node may have a method ``pieces`` of this form, which then saves what can be done once for the whole range.
    """
    own = getattr(node, "pieces", None)
    if own is not None and elements > TILE:
        yield from own(first, elements)
        return
    for begin in range(0, elements, TILE):
        yield node.read(first + begin, min(TILE, elements - begin))


class Kept(Generic[T]):
    """The last result of a costly computation, shared between threads, for as long as it takes to read a tensor.

    size: the values of the tensor; what was computed is forgotten when so many were read, in whatever order the threads
    came.
    """

    def __init__(self, compute: Callable[[], T], size: int) -> None:
        self._compute = compute
        self._size = size
        self._guard = threading.Lock()
        self._value: T | None = None
        self._read = 0

    def value(self) -> T:
        """Compute once, then remember."""
        with self._guard:
            if self._value is None:
                self._value = self._compute()
            return self._value

    def used(self, elements: int) -> None:
        """Note that so many values were read with it."""
        with self._guard:
            self._read += elements
            if self._read >= self._size:
                self._value, self._read = None, 0


class Stored:
    """A tensor as it lies in a file, in a type that torch knows."""

    def __init__(self, source: TensorSource, name: str) -> None:
        self._source = source
        self.name = name
        info = source.info(name)
        self.dtype = info.dtype
        self.shape = info.shape
        self._info = info
        self._whole = Kept(lambda: source.load(name).reshape(-1), count(info.shape)) if is_strided(info) else None

    @property
    def origin(self) -> tuple[TensorSource, str]:
        """The file and the name in it that the bytes come from."""
        return self._source, self.name

    def read(self, first: int, elements: int) -> torch.Tensor:
        if self._whole is None:
            width = dtype(self.dtype).itemsize
            raw = np.empty(elements * width, np.uint8)
            if elements:
                file, start = self._source.file_of(self._info), self._info.start + first * width
                file.read_ahead(start + len(raw))
                file.read_into(raw.data, start)
            return tensor_of(raw).view(torch_dtype(self.dtype))
        found = self._whole.value()[first : first + elements].clone()
        self._whole.used(elements)
        return found


class Constant:
    """A small tensor that is known beforehand: a marker, or ids."""

    def __init__(self, value: torch.Tensor) -> None:
        self._flat = value.detach().contiguous().reshape(-1)
        self.dtype = dtype_of(value.dtype).name
        self.shape = tuple(value.shape)

    def read(self, first: int, elements: int) -> torch.Tensor:
        return self._flat[first : first + elements]


class Computed:
    """A tensor that is made whole when it is first read, and forgotten when all of it was read."""

    def __init__(self, kind: str, shape: tuple[int, ...], compute: Callable[[], torch.Tensor]) -> None:
        self.dtype = kind
        self.shape = shape
        self._whole = Kept(lambda: compute().contiguous().reshape(-1), count(shape))

    def read(self, first: int, elements: int) -> torch.Tensor:
        found = self._whole.value()[first : first + elements].clone()
        self._whole.used(elements)
        return found


class Reshaped:
    """The same values in the same order under another shape (a 1×1 convolution taken for a linear layer)."""

    def __init__(self, inner: Node, shape: tuple[int, ...]) -> None:
        if count(shape) != count(inner.shape):
            raise ValueError(f"{inner.shape} has other than {count(shape)} values")
        self._inner = inner
        self.dtype = inner.dtype
        self.shape = shape

    def read(self, first: int, elements: int) -> torch.Tensor:
        return self._inner.read(first, elements)


class Rows:
    """A run of rows along the first axis."""

    def __init__(self, inner: Node, first: int, rows: int) -> None:
        self._inner = inner
        self._offset = first * count(inner.shape[1:])
        self.dtype = inner.dtype
        self.shape = (rows, *inner.shape[1:])

    def read(self, first: int, elements: int) -> torch.Tensor:
        return self._inner.read(self._offset + first, elements)


class Joined:
    """Tensors one after another along the first axis; types and further sides must be equal."""

    def __init__(self, parts: Sequence[Node]) -> None:
        kinds = {part.dtype for part in parts}
        if len(kinds) != 1 or len({part.shape[1:] for part in parts}) != 1:
            raise ValueError("only tensors of one type and width can be joined")
        self._parts = tuple(parts)
        self.dtype = parts[0].dtype
        self.shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])

    def read(self, first: int, elements: int) -> torch.Tensor:
        pieces: list[torch.Tensor] = []
        for part in self._parts:
            size = count(part.shape)
            begin, end = max(first, 0), min(first + elements, size)
            if begin < end:
                pieces.append(part.read(begin, end - begin))
            first -= size
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def transposed(inner: Node) -> Node:
    """A matrix turned over; it is held in memory while it is written."""

    def compute() -> torch.Tensor:
        return whole(inner).t()

    return Computed(inner.dtype, inner.shape[::-1], compute)


def whole(node: Node) -> torch.Tensor:
    """All values at once, in the node's shape; only for tensors that are small enough."""
    return node.read(0, count(node.shape)).reshape(node.shape)


def nbytes(node: Node) -> int:
    """Bytes that the tensor takes in the output."""
    return count(node.shape) * dtype(node.dtype).itemsize


def known_info(source: TensorSource, name: str) -> TensorInfo:
    """Where a small tensor that others depend on lies. Raises BadFileError where it is missing."""
    if name not in source.header.tensors:
        raise BadFileError(source.header.path, f"it lacks tensor {name!r}, which others need", "Download it again")
    return source.info(name)


def constant_bytes(source: TensorSource, name: str) -> bytes:
    """The bytes of a small tensor, row-major. Raises BadFileError where it is missing."""
    info = known_info(source, name)
    if is_strided(info):
        return bytes(byte_view(source.load(name)))
    raw = bytearray(info.nbytes)
    source.file_of(info).read_into(memoryview(raw), info.start)
    return bytes(raw)


def constant_value(source: TensorSource, name: str) -> torch.Tensor:
    """Read a small tensor that others depend on (a scale, a table). Raises BadFileError where it is missing."""
    known_info(source, name)
    return source.load(name)


def array_of(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """The same memory as an array; torch's stubs do not say of what."""
    untyped: Any = tensor
    return untyped.numpy()


def tensor_of(array: npt.NDArray[Any]) -> torch.Tensor:
    """The same memory as a tensor."""
    untyped: Any = torch
    return untyped.from_numpy(array)


def byte_view(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor, without a copy."""
    return array_of(tensor.reshape(-1).view(torch.uint8)).data
