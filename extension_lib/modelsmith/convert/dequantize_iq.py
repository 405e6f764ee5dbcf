"""GGUF's codebook, ternary and fp4 types in float32, bit for bit what ggml's reference gives.

Layouts and formulas: ggml-org/ggml, ``src/ggml-common.h`` and ``src/ggml-quants.c`` (``dequantize_row_iq*``, ``tq*``,
``mxfp4``, ``nvfp4``). Every function takes the blocks as bytes [n, width] and gives float32 [n, values].
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch

from modelsmith.convert.block_bits import (
    bit_bytes,
    cut,
    fields,
    halves,
    level_table,
    levels_of,
    looked_up,
    lowered,
    nibbles,
    scaled,
)
from modelsmith.convert.iq_grids import grid

Decoder = Callable[[torch.Tensor], torch.Tensor]

# Twice the steps of e2m1 (ggml-common.h, kvalues_mxfp4); the scales are halved in turn.
_FP4 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
_DELTA = 0.125  # IQ1S_DELTA


def _words(blocks: torch.Tensor, first: int, end: int, kind: torch.dtype = torch.int32) -> torch.Tensor:
    """Little-endian words between two bytes of every block; 16-bit ones come as 0..65535 in int32."""
    words = blocks[:, first:end].clone(memory_format=torch.contiguous_format).view(kind)
    return words.int() & 0xFFFF if kind == torch.int16 else words


@functools.cache
def _signs() -> torch.Tensor:
    """For every byte, the signs of eight values as signed bytes in a word: bit k set is -1. [256], int64"""
    bits = (torch.arange(256)[:, None] >> torch.arange(8)) & 1
    return (1 - 2 * bits).to(torch.int8).view(torch.int64).reshape(-1)


@functools.cache
def _even_signs() -> torch.Tensor:
    """For seven bits, eight signs of which an even number is negative (ksigns_iq2xs). [128], int64"""
    codes = torch.arange(128)
    parity = sum((codes >> place) & 1 for place in range(7)) & 1
    return _signs()[codes | parity << 7]


@functools.cache
def _book(name: str) -> torch.Tensor:
    """A codebook of small whole numbers, an entry a word: [entries], int64 or int32."""
    entries = grid(name).to(torch.int8)
    return entries.view(torch.int64 if entries.shape[1] == 8 else torch.int32).reshape(-1)


def _shifts(*places: int, kind: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor(places, dtype=kind)


def _nibbles(data: torch.Tensor) -> torch.Tensor:
    """Low half, then high half of each byte: [n, 2 * bytes]."""
    return torch.stack((data & 15, data >> 4), 2).reshape(len(data), -1)


def _composed(factor: torch.Tensor, name: str, codes: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    """factor [n, groups] times entries of a codebook times signs: [n, values]."""
    entries = looked_up(_book(name), codes).view(torch.int8)
    return scaled(entries.mul_(signs.view(torch.int8)), factor)


def _iq2_xxs(blocks: torch.Tensor) -> torch.Tensor:
    words = _words(blocks, 2, 66).reshape(len(blocks), 8, 2)
    scale = ((words[..., 1] >> 28) & 15).float()
    chosen = (words[..., 1:] >> _shifts(0, 7, 14, 21)) & 127
    codes = words[..., 0].contiguous().view(torch.uint8)
    return _composed(halves(blocks) * (0.5 + scale) * 0.25, "IQ2_XXS", codes, looked_up(_even_signs(), chosen))


def _iq2_xs(blocks: torch.Tensor) -> torch.Tensor:
    words = _words(blocks, 2, 66, torch.int16)
    factor = halves(blocks) * (0.5 + _nibbles(blocks[:, 66:74]).float()) * 0.25
    return _composed(factor, "IQ2_XS", words & 511, looked_up(_even_signs(), words >> 9))


def _iq2_s(blocks: torch.Tensor) -> torch.Tensor:
    factor = halves(blocks) * (0.5 + _nibbles(blocks[:, 74:82]).float()) * 0.25
    upper = (blocks[:, 66:74, None].int() >> _shifts(0, 2, 4, 6)) & 3
    codes = blocks[:, 2:34].int() | upper.reshape(len(blocks), 32) << 8
    return _composed(factor, "IQ2_S", codes, looked_up(_signs(), blocks[:, 34:66]))


def _iq3_xxs(blocks: torch.Tensor) -> torch.Tensor:
    words = _words(blocks, 66, 98)
    factor = halves(blocks) * (0.5 + ((words >> 28) & 15).float()) * 0.5
    chosen = (words[..., None] >> _shifts(0, 7, 14, 21)) & 127
    return _composed(factor, "IQ3_XXS", blocks[:, 2:66], looked_up(_even_signs(), chosen))


def _iq3_s(blocks: torch.Tensor) -> torch.Tensor:
    factor = halves(blocks) * (1.0 + 2.0 * _nibbles(blocks[:, 106:110]).float())
    upper = (looked_up(bit_bytes(), blocks[:, 66:74]) << 1).view(torch.uint8)  # byte by byte: times 2, at most 2
    codes = blocks[:, 2:66].int() | upper.reshape(len(blocks), 64).int() << 7
    return _composed(factor, "IQ3_S", codes, looked_up(_signs(), blocks[:, 74:106]))


def _shifted(codes: torch.Tensor, below: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """IQ1's entries plus 1/8, or less 1/8 where ``below``, times the factors: [n, values]. Floats are quicker here."""
    entries = grid("IQ1_S").index_select(0, codes.reshape(-1)).reshape(*below.shape, -1)
    entries.add_(torch.where(below, -_DELTA, _DELTA).unsqueeze(2))
    return entries.reshape(*factor.shape, -1).mul_(factor.unsqueeze(2)).reshape(len(factor), -1)


def _iq1_s(blocks: torch.Tensor) -> torch.Tensor:
    words = _words(blocks, 34, 50, torch.int16)
    factor = halves(blocks) * (2.0 * ((words >> 12) & 7).float() + 1.0)
    upper = (words[..., None] >> _shifts(0, 3, 6, 9)) & 7
    codes = blocks[:, 2:34].int() | upper.reshape(len(blocks), 32) << 8
    return _shifted(codes, words & 0x8000 != 0, factor)


def _iq1_m(blocks: torch.Tensor) -> torch.Tensor:
    """The fp16 scale is spread over the upper bits of four words."""
    words = _words(blocks, 48, 56, torch.int16)
    whole = ((words & 0xF000) >> _shifts(12, 8, 4, 0)).sum(1).to(torch.int16)
    factor = (words[..., None] >> _shifts(0, 3, 6, 9)) & 7
    factor = whole.view(torch.float16).float()[:, None] * (2.0 * factor.reshape(len(blocks), 16).float() + 1.0)
    high = ((blocks[:, 32:48, None].int() >> _shifts(0, 4)) & 15).reshape(len(blocks), 32)
    codes = blocks[:, :32].int() | (high & 7) << 8
    return _shifted(codes, high & 8 != 0, factor)


def _ternary(blocks: torch.Tensor, digits: torch.Tensor, scale: int) -> torch.Tensor:
    return (digits.float() - 1.0).reshape(len(blocks), -1).mul_(halves(blocks, scale))


def _tq1_0(blocks: torch.Tensor) -> torch.Tensor:
    """Five ternary digits a byte as the fraction code / 256: the next digit is what three times the rest carries."""
    parts: list[torch.Tensor] = []
    for first, end, digits in ((0, 32, 5), (32, 48, 5), (48, 52, 4)):
        powers = _shifts(*(3**place for place in range(digits)))[:, None]
        rest = (blocks[:, None, first:end].int() * powers) & 255
        parts.append(((rest * 3) >> 8).reshape(len(blocks), -1))
    return _ternary(blocks, torch.cat(parts, 1), 52)


def _tq2_0(blocks: torch.Tensor) -> torch.Tensor:
    return scaled(lowered(fields(cut(blocks, 0, 64), 2), 1), halves(blocks, 64))


@functools.cache
def _fp4_table() -> torch.Tensor:
    return level_table(_FP4)


def _mxfp4(blocks: torch.Tensor) -> torch.Tensor:
    """Half of 2^(code - 127), which is 2^(code - 128) also where that is subnormal."""
    scale = torch.ldexp(torch.ones(len(blocks), 1, dtype=torch.float64), blocks[:, :1].int() - 128).float()
    return scaled(levels_of(_fp4_table(), nibbles(cut(blocks, 1, 17), 16)), scale)


@functools.cache
def _ue4m3() -> torch.Tensor:
    """Half of every unsigned e4m3 number; bit 7 is not looked at, and 0x7F stands for zero as in ggml."""
    codes = torch.arange(256)
    power, fraction = (codes >> 3) & 15, (codes & 7).float()
    normal = (1.0 + fraction / 8.0) * torch.pow(2.0, power.float() - 7.0)
    found = torch.where(power == 0, fraction * 2.0**-9, normal) * 0.5
    found[0x7F] = 0.0
    return found


def _nvfp4(blocks: torch.Tensor) -> torch.Tensor:
    values = levels_of(_fp4_table(), nibbles(cut(blocks, 4, 36), 8))
    return scaled(values, _ue4m3()[blocks[:, :4].int()])


DECODERS: Mapping[str, Decoder] = {
    "IQ1_S": _iq1_s, "IQ1_M": _iq1_m, "IQ2_XXS": _iq2_xxs, "IQ2_XS": _iq2_xs, "IQ2_S": _iq2_s, "IQ3_XXS": _iq3_xxs,
    "IQ3_S": _iq3_s, "TQ1_0": _tq1_0, "TQ2_0": _tq2_0, "MXFP4": _mxfp4, "NVFP4": _nvfp4,
}  # fmt: skip
"""The types of this module, by ggml's name."""
