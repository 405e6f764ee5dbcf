"""Tensors that are computed when they are written: every change to a model is a change to a table of these.

A node knows its type and shape at once and gives its values in pieces, in row-major order, so that a file of any size
passes through little memory.  Nodes are read by several threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar, cast

import torch

from modelsmith.errors import BadFileError
from modelsmith.files.dtypes import count, dtype, dtype_of
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
    else:
        out.copy_(node.read(first, len(out)))


class Kept(Generic[T]):
    """The last result of a costly computation, shared between threads."""

    def __init__(self, compute: Callable[[], T]) -> None:
        self._compute = compute
        self._guard = threading.Lock()
        self._value: T | None = None

    def value(self) -> T:
        """Compute once, then remember."""
        with self._guard:
            if self._value is None:
                self._value = self._compute()
            return self._value

    def drop(self) -> None:
        """Forget the value, so that its memory is free."""
        with self._guard:
            self._value = None


class Stored:
    """A tensor as it lies in a file, in a type that torch knows."""

    def __init__(self, source: TensorSource, name: str) -> None:
        self._source = source
        self.name = name
        info = source.info(name)
        self.dtype = info.dtype
        self.shape = info.shape
        self._whole = Kept(lambda: source.load(name).reshape(-1)) if is_strided(info) else None

    @property
    def origin(self) -> tuple[TensorSource, str]:
        """The file and the name in it that the bytes come from."""
        return self._source, self.name

    def read(self, first: int, elements: int) -> torch.Tensor:
        if self._whole is None:
            return self._source.load_flat(self.name, first, elements)
        found = self._whole.value()[first : first + elements].clone()
        if first + elements >= count(self.shape):
            self._whole.drop()
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
    """A tensor that is made whole when it is first read, and dropped after its end was read."""

    def __init__(self, kind: str, shape: tuple[int, ...], compute: Callable[[], torch.Tensor]) -> None:
        self.dtype = kind
        self.shape = shape
        self._whole = Kept(lambda: compute().contiguous().reshape(-1))

    def read(self, first: int, elements: int) -> torch.Tensor:
        found = self._whole.value()[first : first + elements].clone()
        if first + elements >= count(self.shape):
            self._whole.drop()
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


def constant_value(source: TensorSource, name: str) -> torch.Tensor:
    """Read a small tensor that others depend on (a scale, a table). Raises BadFileError where it is missing."""
    if name not in source.header.tensors:
        raise BadFileError(source.header.path, f"it lacks tensor {name!r}, which others need", "Download it again")
    return source.load(name)


def byte_view(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor, without a copy."""
    flat = tensor.reshape(-1).view(torch.uint8)
    return memoryview(cast(bytearray, flat.numpy()))  # pyright: ignore[reportUnknownMemberType]
