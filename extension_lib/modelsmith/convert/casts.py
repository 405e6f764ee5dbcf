"""Changing the precision of values: one rounding, and an account of what it cost."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass

import torch

from modelsmith.files.dtypes import dtype, torch_dtype

FP8_LIMIT = {"F8_E4M3": 448.0, "F8_E5M2": 57344.0}
"""Largest finite values (Micikevicius et al. 2022, arXiv:2209.05433, table 1)."""

OVERFLOW = {"F16": 65520.0, "BF16": 2.0**128 - 2.0**119, "F8_E4M3": 464.0, "F8_E5M2": 61440.0}
"""The largest finite value and half a step: what reaches this is not rounded any more but lost."""

TILE = 1 << 19
"""Elements that are cast together: small enough for the cache, large enough to hide the cost of a call."""


@dataclass(frozen=True)
class Loss:
    """What the change of precision did to one tensor.

    largest_error: of the values that the new type can reach, in absolute terms. clipped: finite values that it cannot
    reach, that is beyond the last one by half a step or more; fp8 takes its largest value for them, fp16 infinity
    unless clipping was asked for. vanished: values that became zero, counted for fp8 only. nan, infinite: values that
    were not finite before.
    """

    largest_error: float = 0.0
    clipped: int = 0
    vanished: int = 0
    nan: int = 0
    infinite: int = 0

    def joined(self, other: Loss) -> Loss:
        """Both together."""
        return Loss(
            max(self.largest_error, other.largest_error),
            self.clipped + other.clipped,
            self.vanished + other.vanished,
            self.nan + other.nan,
            self.infinite + other.infinite,
        )


class LossBook:
    """Losses by tensor, written to by several threads."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._losses: dict[str, Loss] = {}

    def add(self, name: str, loss: Loss) -> None:
        """Add the loss of one piece of a tensor."""
        if loss == NOTHING:
            return
        with self._guard:
            self._losses[name] = self._losses.get(name, NOTHING).joined(loss)

    def losses(self) -> dict[str, Loss]:
        """What was lost, by the name of the tensor; only those that lost something."""
        with self._guard:
            return dict(sorted(self._losses.items()))


_SIGNIFICANDS = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}

NOTHING = Loss()
"""What a lossless change costs."""


def cast(values: torch.Tensor, kind: str, *, clip: bool = False) -> tuple[torch.Tensor, Loss]:
    """Round flat values to the type ``kind`` and say what that cost.

    fp8 has no room above its largest value (e4m3 not even infinity), so values beyond it take that value there; in
    fp16 they become infinite as in torch, unless ``clip``.
    """
    wide = decode_fp8(values) if values.dtype in fp8_types() else values
    target = torch_dtype(kind)
    if not wide.numel():
        return wide.to(target), NOTHING
    low, high = (float(side) for side in torch.aminmax(wide))
    loss = NOTHING
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        loss = Loss(nan=int(torch.isnan(wide).sum()), infinite=int(torch.isinf(wide).sum()))
    if dtype(kind).significand >= significand(wide) and kind != "F16":
        return wide.to(target), loss
    source = _exactly_float(wide)
    limit = FP8_LIMIT.get(kind) or float(torch.finfo(target).max)
    narrow = dtype(kind).bits == 8
    beyond = loss != NOTHING or max(-low, high) > limit
    bounded = source.clamp(-limit, limit) if beyond and (clip or narrow) else source
    if beyond and narrow:
        bounded = torch.where(torch.isinf(source), source.sign() * limit, bounded)
    rounded = bounded.to(target)
    back = decode_fp8(rounded, may_hold_nan=loss.nan > 0) if narrow else rounded.to(source.dtype)
    return rounded, loss.joined(_measure(source, back, kind, beyond))


def _measure(source: torch.Tensor, back: torch.Tensor, kind: str, beyond: bool) -> Loss:
    clipped = 0
    if beyond:
        over = torch.isfinite(source) & (source.abs() >= OVERFLOW.get(kind, torch.inf))
        clipped = int(over.sum())
        back = torch.where(over | ~torch.isfinite(source), source, back)
    vanished = int(torch.count_nonzero(source) - torch.count_nonzero(back)) if dtype(kind).bits == 8 else 0
    error = back.sub(source)
    if beyond:
        error = torch.nan_to_num(error, 0.0, 0.0, 0.0)
    low, high = torch.aminmax(error)
    return Loss(largest_error=max(-float(low), float(high)), clipped=clipped, vanished=vanished)


def significand(values: torch.Tensor) -> int:
    """Bits of a value's significand, the hidden one counted; 64 for types that are not floating."""
    return _SIGNIFICANDS.get(values.dtype, 64)


def _exactly_float(values: torch.Tensor) -> torch.Tensor:
    """The values in float32, such that a second rounding to 16 bits or fewer gives what one rounding would.

    Doubles are rounded to odd (Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums"): float32 has
    more than two bits beyond fp16's significand, so the odd last bit keeps what lies beyond it.
    """
    if values.dtype != torch.float64:
        return values.float()
    near = values.float()
    toward = torch.where(values > near.double(), torch.inf, -torch.inf).float()
    inexact = torch.isfinite(values) & torch.isfinite(near) & (near.double() != values)
    even = (near.view(torch.int32) & 1) == 0
    return torch.where(inexact & even, torch.nextafter(near, toward), near)


@functools.cache
def fp8_types() -> frozenset[torch.dtype]:
    """The 8-bit floating types that this torch has."""
    names = ("float8_e4m3fn", "float8_e5m2")
    return frozenset(kind for kind in (getattr(torch, name, None) for name in names) if isinstance(kind, torch.dtype))


def decode_fp8(values: torch.Tensor, *, may_hold_nan: bool = True, scale: float = 1.0) -> torch.Tensor:
    """fp8 values in float32 times a scale, rounded once: torch's own conversion takes several times as long.

    e5m2 is the upper byte of a half. e4m3 shifted by seven bits is a half whose exponent is eight too small, which
    the scale makes good, for 256 times a float32 is exact.
    """
    if values.dtype != getattr(torch, "float8_e4m3fn", None):
        narrow = values.dtype in fp8_types()
        wide = (values.view(torch.uint8).to(torch.int16) << 8).view(torch.float16) if narrow else values
        wide = wide.float()
        return wide if scale == 1.0 else wide * scale
    # The sign is extended into bit 14 too, where the mask removes it.
    halves = values.view(torch.int8).to(torch.int16).bitwise_left_shift_(7).bitwise_and_(-0x4001)
    decoded = halves.view(torch.float16).float()
    decoded = decoded.mul_(256.0 * scale) if abs(scale) < 1e30 else decoded.mul_(256.0).mul_(scale)
    if may_hold_nan and len(values):
        codes = values.view(torch.uint8) & 0x7F
        if int(codes.max()) == 0x7F:  # the one code that means no number
            decoded[codes == 0x7F] = torch.nan
    return decoded
