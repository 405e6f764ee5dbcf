"""The arithmetic of one piece of a tensor: wide enough inside, one rounding at the end, the same bits for any cut.

fp32 inside while inputs and output have 16 bits or fewer, fp64 as soon as one has more: where fp32 inputs nearly
cancel, fp32 arithmetic was measured 4.6 ulp of a bf16 result off.  Every value passes through vectorised code in
whole lanes, also at the ends of a piece: the scalar code that a library runs for a remainder may round differently,
and then the bytes would depend on where the work was cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from modelsmith.files.dtypes import torch_dtype
from modelsmith.merge.methods import MethodSpec
from modelsmith.merge.methods.basic import split_weight

LANES = 128
"""Two unrolled AVX-512 vectors of 16-bit values; pieces are padded to a multiple of it."""

TILE = 64 * 1024
"""Values computed at a time, so that a few fp32 operands stay in the second-level cache."""


def working_type(output: str, operands: Sequence[Tensor]) -> torch.dtype:
    """The type to compute in: wider than the output and than every operand."""
    widest = max((operand.element_size() for operand in operands), default=0)
    return torch.float64 if widest > 2 or output in ("F32", "F64") else torch.float32


class Kernel:
    """Computes pieces for one thread; it owns the scratch memory that they share."""

    def __init__(self, method: MethodSpec) -> None:
        self.method = method
        self._function: Callable[..., Any] = method.function()
        self._scratch: dict[tuple[int, torch.dtype], Tensor] = {}

    def _buffer(self, slot: int, kind: torch.dtype, size: int) -> Tensor:
        found = self._scratch.get((slot, kind))
        if found is None:
            found = self._scratch[slot, kind] = torch.zeros(TILE + LANES, dtype=kind)
        return found[:size]

    def elements(
        self, operands: Sequence[Tensor], output: Tensor, output_type: str, parameters: Mapping[str, float]
    ) -> None:
        """Write ``method(operands)`` into ``output``; all are one-dimensional and of one length."""
        if self._lerps(operands, output, parameters):
            self._lerp(operands[0], operands[1], output, parameters["alpha"])
            return
        kind = working_type(output_type, operands)
        for start in range(0, output.numel(), TILE):
            self._tile(
                [operand[start : start + TILE] for operand in operands], output[start : start + TILE], kind, parameters
            )

    def _tile(
        self, operands: Sequence[Tensor], output: Tensor, kind: torch.dtype, parameters: Mapping[str, float]
    ) -> None:
        length = output.numel()
        padded = -(-length // LANES) * LANES
        wide: list[Tensor] = []
        for slot, operand in enumerate(operands):
            buffer = self._buffer(slot, kind, padded)
            buffer[:length].copy_(operand)
            wide.append(buffer)
        output.copy_(self._function(*wide, **parameters)[:length])

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
        """The method on whole tensors of any shape, rounded to the output type."""
        kind = working_type(output_type, operands)
        result: Tensor = self._function(*(operand.to(kind) for operand in operands), **parameters)
        return result.to(torch_dtype(output_type)).contiguous()


def copy_values(source: Tensor, output: Tensor) -> None:
    """Copy values, bit for bit where the types agree, with one rounding where they differ."""
    if source.dtype == output.dtype:
        output.view(torch.uint8).copy_(source.view(torch.uint8))
    else:
        output.copy_(source)


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite. The sum tells at a fraction of the cost; a doubtful one is looked into."""
    if not values.is_floating_point() or not values.numel():
        return True
    if values.element_size() == 1:
        return bool(torch.isfinite(values.float()).all())
    if bool(torch.isfinite(values.sum())):
        return True
    return bool(torch.isfinite(values).all())
