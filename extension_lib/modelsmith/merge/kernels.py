"""The arithmetic of one piece of a tensor: wide enough inside, one rounding at the end, the same bits for any cut.

fp32 inside while inputs and output have 16 bits or fewer, fp64 as soon as one has more: where fp32 inputs nearly
cancel, fp32 arithmetic was measured 4.6 ulp of a bf16 result off.  Every value passes through vectorised code in
whole lanes, also at the ends of a piece: the scalar code that a library runs for a remainder may round differently,
and then the bytes would depend on where the work was cut.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from modelsmith.files.dtypes import torch_dtype
from modelsmith.merge.device import DeviceWork
from modelsmith.merge.methods import MethodSpec
from modelsmith.merge.methods.basic import split_weight

LANES = 128
"""Two unrolled AVX-512 vectors of 16-bit values; pieces are padded to a multiple of it."""

TILE = 256 * 1024
"""Values computed at a time: few enough that operands and result stay in the processor's cache from one operation to
the next, enough that starting an operation costs little (128 Ki took a fifth longer, 32 Ki twice as long)."""

_KEPT = 31 << 20


def keep_memory() -> None:
    """Make the C library keep the temporaries of a method instead of giving them back after every operation.

    glibc raises its limit for that to the size of the largest block freed, up to 32 MiB (mallopt(3),
    M_MMAP_THRESHOLD). Without it the page faults of the tiles cost more than the arithmetic.
    """
    torch.empty(_KEPT, dtype=torch.uint8)


@lru_cache(maxsize=1)
def _trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim(3); None where the C library has none."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_memory_back() -> None:
    """Hand freed memory back to the system, which ``keep_memory`` makes the C library keep.

    Temporaries of several sizes, by several threads, leave gaps between what is in use: a rotation of SDXL's token
    embedding was seen to hold 0.67 GB where 0.41 GB were in use.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


def working_type(output: str, operands: Sequence[Tensor]) -> torch.dtype:
    """The type to compute in: wider than the output and than every operand."""
    return working_kind(output, [operand.dtype for operand in operands])


def working_kind(output: str, operands: Sequence[torch.dtype]) -> torch.dtype:
    """``working_type`` by the operands' types."""
    widest = max((kind.itemsize for kind in operands), default=0)
    return torch.float64 if widest > 2 or output in ("F32", "F64") else torch.float32


class Kernel:
    """Computes pieces for one thread; it owns the scratch memory that they share.

    device: where to compute instead of on the CPU in tiles.
    """

    def __init__(self, method: MethodSpec, device: torch.device | None = None) -> None:
        self.method = method
        self._function: Callable[..., Any] = method.function()
        self._device = None if device is None else DeviceWork(device, self._function)
        self._scratch: dict[tuple[int, torch.dtype], Tensor] = {}

    @property
    def on_device(self) -> bool:
        """Whether it computes elsewhere than on the CPU."""
        return self._device is not None

    @property
    def lacked_memory(self) -> bool:
        """Whether the device had too little memory for something, which was computed on the CPU."""
        return self._device is not None and self._device.lacked_memory

    def _buffer(self, slot: int, kind: torch.dtype, size: int) -> Tensor:
        found = self._scratch.get((slot, kind))
        if found is None:
            found = self._scratch[slot, kind] = torch.zeros(TILE, dtype=kind)
        return found if size == TILE else found[:size]

    def elements(
        self, operands: Sequence[Tensor], output: Tensor, output_type: str, parameters: Mapping[str, float]
    ) -> bool:
        """Write ``method(operands)`` into ``output``; all are one-dimensional and of one length.

        Returns whether every value written is finite.
        """
        lerps = self._lerps(operands, output, parameters)
        kind = working_type(output_type, operands)
        if self._device is not None:
            self._device.elements(operands, output, kind, store, parameters)
            return all_finite(output)
        finite = True
        for start in range(0, output.numel(), TILE):
            pieces = [operand[start : start + TILE] for operand in operands]
            piece = output[start : start + TILE]
            if lerps:
                self._lerp(pieces[0], pieces[1], piece, parameters["alpha"])
            else:
                self._tile(pieces, piece, kind, parameters)
            finite = all_finite(piece) and finite
        return finite

    def _tile(
        self, operands: Sequence[Tensor], output: Tensor, kind: torch.dtype, parameters: Mapping[str, float]
    ) -> None:
        length = output.numel()
        padded = -(-length // LANES) * LANES
        wide: list[Tensor] = []
        for slot, operand in enumerate(operands):
            buffer = self._buffer(slot, kind, padded)
            (buffer if length == padded else buffer[:length]).copy_(operand)
            wide.append(buffer)
        value = self._value(wide, parameters)
        store(value if length == padded else value[:length], output)

    def _value(self, wide: Sequence[Tensor], parameters: Mapping[str, float]) -> Tensor:
        """The method on operands that may be overwritten. The two that everybody uses take no new memory; their
        operations, and so their bits, are those of ``methods.basic``."""
        if self.method.id == "add_difference":
            a, b, c = wide
            return add_scaled_into(a, torch.sub(b, c, out=b), parameters["alpha"])
        if self.method.id == "weighted_sum":
            a, b = wide
            alpha = parameters["alpha"]
            if alpha > 0.5:
                return add_scaled_into(b, torch.sub(a, b, out=a), 1.0 - alpha)
            return add_scaled_into(a, torch.sub(b, a, out=b), alpha)
        result: Tensor = self._function(*wide, **parameters)
        return result

    def _lerps(self, operands: Sequence[Tensor], output: Tensor, parameters: Mapping[str, float]) -> bool:
        """Whether torch.lerp on 16-bit values does it: it computes in fp32 and rounds once.

        Its weight is an fp32 number, so for fp16 the weight must be one; bf16 is too coarse to tell.
        """
        if self.method.id != "weighted_sum" or any(operand.dtype != output.dtype for operand in operands):
            return False
        if output.dtype == torch.bfloat16:
            return True
        return output.dtype == torch.float16 and split_weight(parameters["alpha"])[1] == 0.0

    def _lerp(self, a: Tensor, b: Tensor, output: Tensor, alpha: float) -> None:
        length = output.numel()
        whole = length - length % LANES
        torch.lerp(a[:whole], b[:whole], alpha, out=output[:whole])
        if whole < length:
            rest = length - whole
            ends = [self._buffer(slot, output.dtype, LANES) for slot in range(3)]
            ends[0][:rest].copy_(a[whole:])
            ends[1][:rest].copy_(b[whole:])
            torch.lerp(ends[0], ends[1], alpha, out=ends[2])
            output[whole:].copy_(ends[2][:rest])

    def whole(self, operands: Sequence[Tensor], output_type: str, parameters: Mapping[str, float]) -> Tensor:
        """The method on tensors of any shape, not yet rounded."""
        kind = working_type(output_type, operands)
        if self._device is not None:
            return self._device.whole(operands, kind, parameters)
        result: Tensor = self._function(*(operand.to(kind) for operand in operands), **parameters)
        return result


def rounded(value: Tensor, output_type: str) -> Tensor:
    """The values in the output's type, in new memory."""
    result = torch.empty(value.shape, dtype=torch_dtype(output_type))
    store(value, result)
    return result


def store(value: Tensor, output: Tensor) -> None:
    """Round values once into memory of the output's type.

    In fp8 what lies beyond the largest value becomes that, as hardware does it; infinities become NaN, so that they
    can still be seen.
    """
    if output.element_size() == 1 and output.is_floating_point() and value.dtype != output.dtype:
        limit = torch.finfo(output.dtype).max
        value = value.float()
        value = value.masked_fill(value.isinf(), float("nan")).clamp_(-limit, limit)
    output.copy_(value)


def copy_values(source: Tensor, output: Tensor) -> bool:
    """Copy values, bit for bit where the types agree, with one rounding where they differ.

    Returns whether every value written is finite.
    """
    finite = True
    for start in range(0, output.numel(), TILE):
        piece, into = source[start : start + TILE], output[start : start + TILE]
        if piece.dtype == into.dtype:
            into.view(torch.uint8).copy_(piece.view(torch.uint8))
        else:
            store(piece, into)
        finite = all_finite(into) and finite
    return finite


def add_scaled_into(base: Tensor, difference: Tensor, weight: float) -> Tensor:
    """``methods.basic.add_scaled`` with the result in place of ``base``."""
    near, rest = split_weight(weight)
    base.add_(difference, alpha=near)
    return base.add_(difference, alpha=rest) if rest else base


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite."""
    if not values.is_floating_point() or not values.numel():
        return True
    if values.element_size() == 1:
        values = values.float()
    # A sum takes three fifths of the extremes' time. Where it is finite, so is every value; large ones may overflow it.
    if math.isfinite(float(values.sum())):
        return True
    low, high = torch.aminmax(values)  # a NaN anywhere makes both NaN
    return math.isfinite(float(low) - float(high))
