"""Block-quantised values of GGUF in float32, bit for bit what ggml's reference gives.

Layouts and formulas: ggml-org/ggml, ``src/ggml-common.h`` (the ``block_*`` structs) and ``src/ggml-quants.c``
(``dequantize_row_*``).  Every function takes the blocks as bytes [n, width] and gives float32 [n, values].  The order
of the multiplications is the reference's, since it decides the last bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from modelsmith.convert import dequantize_iq
from modelsmith.convert.block_bits import (
    bit_bytes,
    cut,
    fields,
    halves,
    level_table,
    levels_of,
    looked_up,
    lowered,
    lowered_by,
    nibbles,
    scaled,
)
from modelsmith.convert.casts import TILE
from modelsmith.convert.nodes import array_of, tensor_of
from modelsmith.errors import BadFileError
from modelsmith.files.gguf import TYPES
from modelsmith.files.tensors import TensorSource

Decoder = Callable[[torch.Tensor], torch.Tensor]

# Non-linear levels of IQ4_NL (ggml-common.h, kvalues_iq4nl).
IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def _fifth_bits(blocks: torch.Tensor, first: int) -> torch.Tensor:
    """Bit 4 of 32 values, taken from four bytes: flat words."""
    return looked_up(bit_bytes(), blocks[:, first : first + 4]) << 4


def _q4_0(blocks: torch.Tensor) -> torch.Tensor:
    return scaled(lowered(nibbles(cut(blocks, 2, 18), 16), 8), halves(blocks))


def _q4_1(blocks: torch.Tensor) -> torch.Tensor:
    values = nibbles(cut(blocks, 4, 20), 16).view(torch.uint8)
    return lowered_by(scaled(values, halves(blocks)), -halves(blocks, 2))


def _q5_0(blocks: torch.Tensor) -> torch.Tensor:
    values = nibbles(cut(blocks, 6, 22), 16).bitwise_or_(_fifth_bits(blocks, 2))
    return scaled(lowered(values, 16), halves(blocks))


def _q5_1(blocks: torch.Tensor) -> torch.Tensor:
    values = nibbles(cut(blocks, 8, 24), 16).bitwise_or_(_fifth_bits(blocks, 4))
    return lowered_by(scaled(values.view(torch.uint8), halves(blocks)), -halves(blocks, 2))


def _q8_0(blocks: torch.Tensor) -> torch.Tensor:
    return blocks.view(torch.int8)[:, 2:].float().mul_(halves(blocks))


@functools.cache
def _iq4_table() -> torch.Tensor:
    return level_table(IQ4_LEVELS)


def _iq4_nl(blocks: torch.Tensor) -> torch.Tensor:
    return scaled(levels_of(_iq4_table(), nibbles(cut(blocks, 2, 18), 16)), halves(blocks))


def _iq4_xs(blocks: torch.Tensor) -> torch.Tensor:
    high = blocks[:, 2:4].contiguous().view(torch.int16).int() >> torch.arange(0, 16, 2, dtype=torch.int32)
    low = blocks[:, 4:8].int()
    low = torch.stack((low & 15, low >> 4), 2).reshape(-1, 8)
    scales = (low | (high & 3) << 4).float() - 32.0
    return scaled(levels_of(_iq4_table(), nibbles(cut(blocks, 8, 136), 16)), scales.mul_(halves(blocks)))


def _q2_k(blocks: torch.Tensor) -> torch.Tensor:
    scales = blocks[:, :16]
    factor = (scales & 15).float().mul_(halves(blocks, 80))
    floor = (scales >> 4).float().mul_(halves(blocks, 82))
    return lowered_by(scaled(fields(cut(blocks, 16, 80), 2).view(torch.uint8), factor), floor)


def _q3_k(blocks: torch.Tensor) -> torch.Tensor:
    high = fields(cut(blocks, 0, 32), 1)  # set where 4 is not to be taken off
    values = fields(cut(blocks, 32, 96), 2).bitwise_or_(high << 2)
    packed = blocks[:, 96:108]
    low = torch.cat((packed[:, :8] & 15, packed[:, :8] >> 4), 1)
    upper = (packed[:, None, 8:] >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8).reshape(1, 4, 1)) & 3
    scales = (low | (upper.reshape(-1, 16) << 4)).float() - 32
    return scaled(lowered(values, 4), scales.mul_(halves(blocks, 108)))


def _six_bit_scales(blocks: torch.Tensor) -> torch.Tensor:
    """Eight factors and eight floors of Q4_K and Q5_K: 6 bits each in 12 bytes (``get_scale_min_k4``), times d, dmin.

    Gives [2, n, 8]. Four bytes at once, and by numpy, whose calls cost less than torch's on arrays as small as these.
    """
    heads = array_of(blocks).view(np.int32)[:, :4].T.copy()  # d and dmin, then three words of scales
    words = np.empty((2, len(blocks), 2), np.int32)
    np.bitwise_and(heads[1:3], 0x3F3F3F3F, out=words[:, :, 0])
    upper = (heads[1:3] >> 2) & 0x30303030
    upper[0] |= heads[3] & 0x0F0F0F0F
    upper[1] |= (heads[3] >> 4) & 0x0F0F0F0F
    words[:, :, 1] = upper
    found = words.view(np.uint8).reshape(2, -1).astype(np.float32)
    found *= np.repeat(heads[0].view(np.float16).astype(np.float32).reshape(-1, 2).T, 8, axis=1)
    return tensor_of(found).view(2, -1, 8)


def _q4_k_body(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    values = nibbles(cut(blocks, 16, 144), 32).view(torch.uint8)
    return lowered_by(scaled(values, scales[0]), scales[1])


def _q5_k_body(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    values = nibbles(cut(blocks, 48, 176), 32).bitwise_or_(fields(cut(blocks, 16, 48), 1) << 4)
    return lowered_by(scaled(values.view(torch.uint8), scales[0]), scales[1])


def _q4_k(blocks: torch.Tensor) -> torch.Tensor:
    return _q4_k_body(blocks, _six_bit_scales(blocks))


def _q5_k(blocks: torch.Tensor) -> torch.Tensor:
    return _q5_k_body(blocks, _six_bit_scales(blocks))


def _q6_k(blocks: torch.Tensor) -> torch.Tensor:
    high = fields(cut(blocks, 128, 192), 2)
    values = nibbles(cut(blocks, 0, 128), 64).bitwise_or_(high << 4)
    scales = blocks[:, 192:208].contiguous().view(torch.int8).float()
    return scaled(lowered(values, 32), scales.mul_(halves(blocks, 208)))


DECODERS: Mapping[str, Decoder] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0, "IQ4_NL": _iq4_nl, "IQ4_XS": _iq4_xs,
    "Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k, **dequantize_iq.DECODERS,
}  # fmt: skip
"""Every block type that can be read, by ggml's name."""

_TWO_STEPS: Mapping[str, tuple[Decoder, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]] = {
    "Q4_K": (_six_bit_scales, _q4_k_body),
    "Q5_K": (_six_bit_scales, _q5_k_body),
}
"""Types whose scales are worth reading for many blocks at once, and what decodes blocks with their scales."""

_SHAPES = {name: (block, width) for name, block, width in TYPES.values()}


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
        self.name = name
        self.shape = info.shape
        self._decode = DECODERS[info.dtype]
        self._two_steps = _TWO_STEPS.get(info.dtype)
        self._block, self._width = _SHAPES[info.dtype]
        self._file = source.file_of(info)
        self._start = info.start

    def _raw(self, begin: int, end: int) -> torch.Tensor:
        """The bytes of blocks ``begin`` to ``end``: [n, width]."""
        found = np.empty((end - begin, self._width), np.uint8)
        if end > begin:
            self._file.read_into(found.reshape(-1).data, self._start + begin * self._width)
        return tensor_of(found)

    def read(self, first: int, elements: int) -> torch.Tensor:
        """Decode the blocks that hold the range and cut it out."""
        if elements > TILE:
            out, done = torch.empty(elements), 0
            for values in self.pieces(first, elements):
                out[done : done + len(values)] = values
                done += len(values)
            return out
        begin = first // self._block
        decoded = self._decode(self._raw(begin, -(-(first + elements) // self._block))).reshape(-1)
        skipped = first - begin * self._block
        return decoded if len(decoded) == elements else decoded[skipped : skipped + elements]

    def pieces(self, first: int, elements: int) -> Iterator[torch.Tensor]:
        """Decode a range piece by piece; its bytes are read at once, and so are the scales where that is quicker."""
        begin = first // self._block
        raw = self._raw(begin, -(-(first + elements) // self._block))
        scales = self._two_steps[0](raw) if self._two_steps is not None else None
        skipped, done, at = first - begin * self._block, 0, 0
        while done < elements:
            wanted = min(TILE, elements - done)
            rows = -(-(skipped + wanted) // self._block)
            blocks = raw[at : at + rows]
            if self._two_steps is not None and scales is not None:
                values = self._two_steps[1](blocks, scales[:, at : at + rows])
            else:
                values = self._decode(blocks)
            yield values.reshape(-1)[skipped : skipped + wanted]
            done += wanted
            at, skipped = at + (skipped + wanted) // self._block, (skipped + wanted) % self._block
