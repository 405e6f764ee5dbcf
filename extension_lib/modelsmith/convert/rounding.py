"""Rounding large tensors quickly: the same values and the same account of losses as :func:`casts.cast`.

Everything is done in tiles that fit the cache, straight into the memory that is written, with as few passes as the
account needs. From a 16-bit type to fp8 the result of every one of the 65,536 bit patterns is looked up: a lookup
took a quarter of the time of torch's own conversion to fp8 and its way back (measured). Tiles that hold values which
are not finite, or that the target cannot reach, take the careful way.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from modelsmith.convert.casts import (
    FP8_LIMIT,
    NOTHING,
    OVERFLOW,
    Loss,
    LossBook,
    cast,
    decode_fp8,
    fp8_types,
    significand,
)
from modelsmith.convert.nodes import Node, array_of, in_pieces, tensor_of
from modelsmith.files.dtypes import dtype_of, torch_dtype

_SIXTEEN = frozenset({torch.float16, torch.bfloat16})
_SPECIAL = 1 << 30
_VANISHED = -(1 << 31)
_LOOKED_UP = 1 << 18  # values looked up together: index and entries of so many lie in the cache beside the table


class Cast:
    """A node in another floating type. name: what its losses are noted under.

    Values are rounded once, to the nearest, ties to even, as torch's ``to`` does from float32.
    """

    def __init__(self, inner: Node, kind: str, book: LossBook, name: str, clip: bool = False) -> None:
        self.inner = inner
        self.clip = clip
        self._book = book
        self.name = name
        self.dtype = kind
        self.shape = inner.shape

    def read(self, first: int, elements: int) -> torch.Tensor:
        out = torch.empty(elements, dtype=torch_dtype(self.dtype))
        self.read_into(first, out)
        return out

    def read_into(self, first: int, out: torch.Tensor) -> None:
        """Round the values from the ``first`` on into a flat tensor of the node's type."""
        done = 0
        for values in in_pieces(self.inner, first, len(out)):
            self._book.add(self.name, cast_into(values, out[done : done + len(values)], clip=self.clip))
            done += len(values)


def cast_into(values: torch.Tensor, out: torch.Tensor, *, clip: bool = False) -> Loss:
    """Round flat values into ``out`` and say what that cost; values and losses are those of :func:`casts.cast`."""
    if not len(values):
        return NOTHING
    if out.dtype in fp8_types():
        loss = _to_fp8(values, out)
    elif values.dtype in fp8_types():
        loss = _from_fp8(values, out)
    elif values.dtype == torch.float64:
        loss = None
    elif significand(out) >= significand(values) and out.dtype != torch.float16:
        loss = _widened(values, out)
    else:
        loss = _narrowed(values, out)
    if loss is None:
        rounded, loss = cast(values, dtype_of(out.dtype).name, clip=clip)
        out.copy_(rounded)
    return loss


@dataclass(frozen=True)
class Piece:
    """Values ``begin`` to ``end`` of a run are those of the tensor ``name``."""

    name: str
    begin: int
    end: int


def cast_pieces(
    values: torch.Tensor, out: torch.Tensor, pieces: Sequence[Piece], book: LossBook, *, clip: bool = False
) -> None:
    """Round the values of several tensors into ``out`` and note what that cost each: as :func:`cast_into` for each."""
    shared = out.dtype in _SIXTEEN and values.dtype in (*_SIXTEEN, torch.float32)
    error = _errors(values, out) if shared and significand(out) < significand(values) else None
    for piece in pieces:
        part = slice(piece.begin, piece.end)
        loss = _loss_of(error[part]) if error is not None else None
        book.add(piece.name, loss or cast_into(values[part], out[part], clip=clip))


def _finite(*sides: float) -> bool:
    return all(abs(side) < float("inf") for side in sides)


def extremes(values: torch.Tensor) -> tuple[float, float]:
    """The smallest and the largest value; both NaN where there is one."""
    if values.dtype == torch.float32:  # one after the other in three fifths of the time of both at once (measured)
        return float(torch.amin(values)), float(torch.amax(values))
    low, high = torch.aminmax(values)
    return float(low), float(high)


def _widened(values: torch.Tensor, out: torch.Tensor) -> Loss | None:
    """Into a type that holds every value: nothing is lost, but what is not finite is to be named."""
    out.copy_(values)
    return NOTHING if _finite(*extremes(values)) else None


def _narrowed(values: torch.Tensor, out: torch.Tensor) -> Loss | None:
    """Into a 16-bit type. An infinite or undefined difference tells of values for the careful way."""
    return _loss_of(_errors(values, out))


def _errors(values: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    wide = values.float()
    out.copy_(wide)
    return out.float().sub_(wide)


def _loss_of(errors: torch.Tensor) -> Loss | None:
    low, high = extremes(errors)
    return Loss(largest_error=max(-low, high, 0.0)) if _finite(low, high) else None


def _from_fp8(values: torch.Tensor, out: torch.Tensor) -> Loss | None:
    """Every other floating type holds the finite values of fp8; the codes beyond them are looked for as bytes."""
    codes = values.view(torch.uint8)
    first_bad = 0x7C if values.dtype == getattr(torch, "float8_e5m2", None) else 0x7F
    if np.count_nonzero((_bytes(codes) & 0x7F) >= first_bad):
        return None
    if first_bad == 0x7C:
        halves = codes.to(torch.int16).bitwise_left_shift_(8).view(torch.float16)
    else:
        halves = values.view(torch.int8).to(torch.int16).bitwise_left_shift_(7).bitwise_and_(-0x4001)
        halves = halves.view(torch.float16).mul_(256.0)
    out.copy_(halves.float() if out.dtype == torch.bfloat16 else halves)  # from half to bf16 torch has no fast way
    return NOTHING


def _to_fp8(values: torch.Tensor, out: torch.Tensor) -> Loss | None:
    if values.dtype in _SIXTEEN:
        return _table(values.dtype, out.dtype).round_into(values, out)
    if values.dtype != torch.float32:
        return None
    low, high = extremes(values)
    if not _finite(low, high) or max(-low, high) >= OVERFLOW[dtype_of(out.dtype).name]:
        return None
    out.copy_(values.to(out.dtype))
    low, high = extremes(decode_fp8(out, may_hold_nan=False).sub_(values))
    zeros = _fp8_zeros(out)
    if zeros:
        zeros -= int(np.count_nonzero(array_of(values) == 0))
    return Loss(largest_error=max(-low, high, 0.0), vanished=zeros)


def _bytes(values: torch.Tensor) -> npt.NDArray[np.uint8]:
    return array_of(values.view(torch.uint8))


def _fp8_zeros(codes: torch.Tensor) -> int:
    return int(np.count_nonzero((_bytes(codes) & 0x7F) == 0))


class BitTable:
    """What every bit pattern of a 16-bit type becomes in fp8, after a division by ``scale``.

    One entry holds the code in its lowest byte and above it the rank of the error among all errors, so that the
    largest entry that was looked up tells the largest error. Values that become zero without being zero have the
    sign bit. Errors are those of the divided values.
    """

    def __init__(self, source: torch.dtype, target: torch.dtype, scale: float = 1.0) -> None:
        kind = dtype_of(target).name
        patterns = torch.arange(1 << 15, dtype=torch.int32).to(torch.int16).view(source)
        values = patterns.float() / scale  # a negative value has the code and the error of the positive one
        self._smallest = float(decode_fp8(torch.ones(1, dtype=torch.uint8).view(target)))
        # Positive values have the order of their bits: first those that vanish, last those out of reach or not finite.
        first = int(torch.count_nonzero(values <= self._smallest / 2))
        end = max(first, int(torch.count_nonzero(values < OVERFLOW[kind])))
        reached = values[first:end]
        codes = reached.clamp(max=FP8_LIMIT[kind]).to(target)
        error = decode_fp8(codes, may_hold_nan=False).sub_(reached).abs_()
        order = np.argsort(array_of(error).view(np.uint32))  # numbers are sorted faster
        rank = np.empty(len(order), dtype=np.int32)
        rank[order] = np.arange(1, len(order) + 1, dtype=np.int32)
        entries = np.full((2, 1 << 15), _SPECIAL, dtype=np.int32)
        entries[:, :first] = _VANISHED
        entries[:, first:end] = (rank << 8) | array_of(codes.view(torch.uint8))
        entries[:, 0] = 0
        entries[1, :end] |= 0x80
        self._errors = np.concatenate((np.zeros(1, np.float32), array_of(error)[order]))
        self._entries = tensor_of(entries.reshape(-1))

    def round_into(self, values: torch.Tensor, out: torch.Tensor) -> Loss | None:
        """Look values of the source type up; None where they need more care, ``out`` is then void.

        That is where some are not finite or out of reach, or where hardly any is large enough for the target.
        """
        bits = array_of(values.view(torch.int16)).view(np.uint16)
        codes = out.view(torch.uint8)
        size = min(len(bits), _LOOKED_UP)
        index, entries = np.empty(size, np.int32), torch.empty(size, dtype=torch.int32)
        largest = vanished = 0
        for begin in range(0, len(bits), size):
            some = slice(begin, min(begin + size, len(bits)))
            these, found = index[: some.stop - begin], entries[: some.stop - begin]
            these[:] = bits[some]
            torch.index_select(self._entries, 0, tensor_of(these), out=found)
            low, high = (int(side) for side in torch.aminmax(found))
            if high >= _SPECIAL:
                return None
            largest = max(largest, high)
            if low < 0:
                vanished += int(np.count_nonzero(array_of(found) < 0))
            codes[some].copy_(found)
        error = float(self._errors[largest >> 8])
        if vanished and error < self._smallest / 2:
            return None  # the largest error may be that of a value that vanished
        return Loss(largest_error=error, vanished=vanished)


@functools.cache
def _table(source: torch.dtype, target: torch.dtype) -> BitTable:
    return BitTable(source, target)
