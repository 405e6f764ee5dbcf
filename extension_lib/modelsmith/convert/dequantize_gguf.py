"""Block-quantised values of GGUF in float32, bit for bit what ggml's reference gives.

Layouts and formulas: ggml-org/ggml, ``src/ggml-common.h`` (the ``block_*`` structs) and ``src/ggml-quants.c``
(``dequantize_row_*``).  Every function takes the blocks as bytes [n, width] and gives float32 [n, values].  The order
of the multiplications is the reference's, since it decides the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from modelsmith.convert import dequantize_iq
from modelsmith.convert.nodes import byte_view
from modelsmith.errors import BadFileError
from modelsmith.files.gguf import TYPES
from modelsmith.files.tensors import TensorSource

Decoder = Callable[[torch.Tensor], torch.Tensor]

# Non-linear levels of IQ4_NL (ggml-common.h, kvalues_iq4nl).
_IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def _halves(blocks: torch.Tensor, first: int, number: int = 1) -> torch.Tensor:
    """``number`` fp16 values that begin at byte ``first`` of every block."""
    return blocks[:, first : first + 2 * number].contiguous().view(torch.float16).float()


def _nibbles(data: torch.Tensor) -> torch.Tensor:
    """Low halves of all bytes, then the high ones: [n, 2 * bytes]."""
    return torch.cat((data & 15, data >> 4), 1)


def _fifth_bits(blocks: torch.Tensor, first: int) -> torch.Tensor:
    """Bit 4 of 32 values, taken from four bytes: [n, 32] of 0 or 16."""
    shifts = torch.arange(8, dtype=torch.uint8)
    bits = (blocks[:, first : first + 4, None] >> shifts) & 1
    return bits.reshape(len(blocks), 32) << 4


def _q4_0(blocks: torch.Tensor) -> torch.Tensor:
    return _halves(blocks, 0) * (_nibbles(blocks[:, 2:]).float() - 8)


def _q4_1(blocks: torch.Tensor) -> torch.Tensor:
    return _halves(blocks, 0) * _nibbles(blocks[:, 4:]).float() + _halves(blocks, 2)


def _q5_0(blocks: torch.Tensor) -> torch.Tensor:
    return _halves(blocks, 0) * ((_nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)).float() - 16)


def _q5_1(blocks: torch.Tensor) -> torch.Tensor:
    values = (_nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)).float()
    return _halves(blocks, 0) * values + _halves(blocks, 2)


def _q8_0(blocks: torch.Tensor) -> torch.Tensor:
    return blocks.view(torch.int8)[:, 2:].float().mul_(_halves(blocks, 0))


def _iq4_nl(blocks: torch.Tensor) -> torch.Tensor:
    levels = torch.tensor(_IQ4_LEVELS, dtype=torch.float32)
    return _halves(blocks, 0) * levels[_nibbles(blocks[:, 2:]).int()]


def _pairs(data: torch.Tensor) -> torch.Tensor:
    """2-bit values of 64 bytes in the order of the k-types: 32 bytes give four runs of 32. [n, 8, 32]"""
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8).reshape(1, 1, 4, 1)
    return ((data.reshape(-1, 2, 1, 32) >> shifts) & 3).reshape(-1, 8, 32)


def _q2_k(blocks: torch.Tensor) -> torch.Tensor:
    scales = blocks[:, :16]
    factor = (_halves(blocks, 80) * (scales & 15).float()).unsqueeze(2)
    floor = (_halves(blocks, 82) * (scales >> 4).float()).unsqueeze(2)
    values = _pairs(blocks[:, 16:80]).reshape(-1, 16, 16).float()
    return (factor * values - floor).reshape(-1, 256)


def _q3_k(blocks: torch.Tensor) -> torch.Tensor:
    shifts = torch.arange(8, dtype=torch.uint8).reshape(1, 8, 1)
    high = (blocks[:, None, :32] >> shifts) & 1  # set where 4 is not to be taken off
    values = _pairs(blocks[:, 32:96]).float() - ((high ^ 1) << 2).float()
    packed = blocks[:, 96:108]
    low = _nibbles(packed[:, :8])
    upper = (packed[:, None, 8:] >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8).reshape(1, 4, 1)) & 3
    scales = (low | (upper.reshape(-1, 16) << 4)).float() - 32
    factor = (_halves(blocks, 108) * scales).unsqueeze(2)
    return (factor * values.reshape(-1, 16, 16)).reshape(-1, 256)


def _six_bit_scales(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eight scales and eight minima of 6 bits each from 12 bytes (``get_scale_min_k4``)."""
    first, second, third = packed.contiguous().view(torch.int32).unbind(1)  # four bytes at once
    scales = torch.stack((first & 0x3F3F3F3F, (third & 0x0F0F0F0F) | ((first >> 2) & 0x30303030)), 1)
    minima = torch.stack((second & 0x3F3F3F3F, ((third >> 4) & 0x0F0F0F0F) | ((second >> 2) & 0x30303030)), 1)
    return scales.view(torch.uint8).float(), minima.view(torch.uint8).float()


def _k_scaled(blocks: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Q4_K and Q5_K: eight groups of 32 with a scale and a minimum each."""
    scales, minima = _six_bit_scales(blocks[:, 4:16])
    factor = scales.mul_(_halves(blocks, 0)).unsqueeze(2)
    floor = minima.mul_(_halves(blocks, 2)).unsqueeze(2)
    return values.float().mul_(factor).sub_(floor).reshape(-1, 256)


def _run_nibbles(data: torch.Tensor) -> torch.Tensor:
    """Runs of 32 bytes: 32 low halves, then 32 high ones. [n, 8, 32]"""
    runs = data.reshape(-1, 4, 32)
    return torch.stack((runs & 15, runs >> 4), 2).reshape(-1, 8, 32)


def _q4_k(blocks: torch.Tensor) -> torch.Tensor:
    return _k_scaled(blocks, _run_nibbles(blocks[:, 16:144]))


def _q5_k(blocks: torch.Tensor) -> torch.Tensor:
    shifts = torch.arange(8, dtype=torch.uint8).reshape(1, 8, 1)
    high = (blocks[:, None, 16:48] >> shifts) & 1
    return _k_scaled(blocks, _run_nibbles(blocks[:, 48:176]) | (high << 4))


def _q6_k(blocks: torch.Tensor) -> torch.Tensor:
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = torch.cat((low & 15, low >> 4), 2).reshape(-1, 8, 32)
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8).reshape(1, 1, 4, 1)
    high = ((blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts) & 3).reshape(-1, 8, 32)
    values = ((low | (high << 4)).float() - 32).reshape(-1, 16, 16)
    scales = blocks[:, 192:208].contiguous().view(torch.int8).float()
    return ((_halves(blocks, 208) * scales).unsqueeze(2) * values).reshape(-1, 256)


DECODERS: Mapping[str, Decoder] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0, "IQ4_NL": _iq4_nl,
    "Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k, **dequantize_iq.DECODERS,
}  # fmt: skip
"""Every block type that can be read, by ggml's name."""

_SHAPES = {name: (block, width) for name, block, width in TYPES.values()}
_AT_ONCE = 1 << 18  # values decoded together: what fits into the cache


class GgufBlocks:
    """A block-quantised tensor of a GGUF file, in float32."""

    dtype = "F32"

    def __init__(self, source: TensorSource, name: str) -> None:
        info = source.info(name)
        if info.dtype not in DECODERS:
            raise BadFileError(
                source.header.path,
                f"tensor {name!r} is of the GGUF type {info.dtype}, which cannot be read back",
                f"Use a file in one of {', '.join(DECODERS)}",
            )
        self.shape = info.shape
        self._decode = DECODERS[info.dtype]
        self._block, self._width = _SHAPES[info.dtype]
        self._file = source.file_of(info)
        self._start = info.start

    def read(self, first: int, elements: int) -> torch.Tensor:
        """Decode the blocks that hold the range and cut it out."""
        begin = first // self._block
        end = -(-(first + elements) // self._block)
        raw = torch.empty((end - begin, self._width), dtype=torch.uint8)
        if elements:
            self._file.read_into(byte_view(raw), self._start + begin * self._width)
        step = max(1, _AT_ONCE // self._block)
        if end - begin <= step + 1:
            return self._decode(raw).reshape(-1)[first - begin * self._block :][:elements]
        out = torch.empty((end - begin, self._block))
        for row in range(0, end - begin, step):
            out[row : row + step] = self._decode(raw[row : row + step])
        skipped = first - begin * self._block
        return out.reshape(-1)[skipped : skipped + elements]
