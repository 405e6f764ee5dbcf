"""Weights in ComfyUI's block formats, in float32: nvfp4, mxfp8, int8 and fp8 with a scale for each block.

Layouts as ComfyUI writes them (Comfy-Org/comfy-kitchen, ``backends/eager/quantization.py``; convert_to_quant): beside
``LAYER.weight`` stand ``LAYER.weight_scale``, for nvfp4 also ``LAYER.weight_scale_2``, and ``LAYER.comfy_quant``, a
JSON that names the format; the header's ``_quantization_metadata`` may name it instead.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch

from modelsmith.convert.block_bits import pair_table, pairs_of, scale_runs
from modelsmith.convert.casts import decode_fp8
from modelsmith.convert.nodes import Kept, Node, Stored, constant_bytes, constant_value
from modelsmith.errors import BadFileError
from modelsmith.files.dtypes import count
from modelsmith.files.tensors import TensorSource

_REMEDY = "Use the unquantised model, or one in fp8, int8, nvfp4, mxfp8, NF4, FP4 or GGUF"
_COMPANIONS = (".weight_scale", ".weight_scale_2", ".input_scale", ".comfy_quant")
_PLAIN = frozenset({"float8_e4m3fn", "float8_e5m2"})
_FOREIGN = {
    ".qweight": "nunchaku (SVDQuant or AWQ), whose values lie in the order of its own kernels",
    ".wscales": "nunchaku (SVDQuant), whose values lie in the order of its own kernels",
    ".pre_quant_scale": "a form whose inputs are scaled as well (AWQ)",
}
# Half the steps of e2m1, sign in bit 3 (OCP Microscaling Formats 1.0, table 5).
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


@dataclass(frozen=True)
class _Facts:
    """What is said of one layer. rotated: its columns were mixed by a Hadamard matrix before."""

    scheme: str
    rotated: bool = False


@dataclass(frozen=True)
class Quantized:
    """One weight that can be read back: the scheme, what decodes it, and the tensors that belong to it."""

    scheme: str
    node: Callable[[], Node]
    companions: tuple[str, ...]


def find_quantized(source: TensorSource) -> dict[str, Quantized]:
    """The weights in these formats, by name; plain scaled fp8 is not among them.

    Raises BadFileError, naming tensor and format, where a layer is quantised in a way that is not read back.
    """
    tensors = source.header.tensors
    for name in tensors:
        ending = "." + name.rpartition(".")[2]
        if ending in _FOREIGN:
            raise _unknown(source, name, _FOREIGN[ending])
    told = _from_metadata(source)
    found: dict[str, Quantized] = {}
    for name in tensors:
        if not name.endswith(".weight"):
            continue
        layer = name[: -len(".weight")]
        facts = _facts(source, layer, told)
        if facts is None or facts.scheme in _PLAIN:
            continue
        make = _FORMATS.get(facts.scheme)
        if make is None or facts.rotated:
            raise _unknown(source, name, facts.scheme + (" with rotation (ConvRot)" if facts.rotated else ""))
        companions = tuple(layer + ending for ending in _COMPANIONS if layer + ending in tensors)
        found[name] = Quantized(facts.scheme, _maker(make, source, layer, facts), companions)
    return found


def _maker(
    make: Callable[[TensorSource, str, _Facts], Node], source: TensorSource, layer: str, facts: _Facts
) -> Callable[[], Node]:
    return lambda: make(source, layer, facts)


def _unknown(source: TensorSource, name: str, scheme: str) -> BadFileError:
    return BadFileError(
        source.header.path, f"tensor {name!r} is quantised as {scheme}, which cannot be read back", _REMEDY
    )


def _from_metadata(source: TensorSource) -> Mapping[str, object]:
    text = source.header.metadata.get("_quantization_metadata", "")
    try:
        parsed: object = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    layers = cast("dict[str, object]", parsed).get("layers") if isinstance(parsed, dict) else None
    return cast("dict[str, object]", layers) if isinstance(layers, dict) else {}


def _facts(source: TensorSource, layer: str, told: Mapping[str, object]) -> _Facts | None:
    """The layer's own word, that of the header, or what its types tell; None for a plain weight."""
    tensors = source.header.tensors
    if layer + ".comfy_quant" in tensors:
        raw = constant_bytes(source, layer + ".comfy_quant")
        try:
            parsed: object = json.loads(raw)
        except (ValueError, RecursionError):
            return _Facts("an unreadable comfy_quant")
        return _read_facts(parsed)
    if layer in told and layer + ".weight_scale" in tensors:
        return _read_facts(told[layer])
    weight, scale = tensors[layer + ".weight"], tensors.get(layer + ".weight_scale")
    if scale is None:
        return None
    if layer + ".weight_scale_2" in tensors:
        return _Facts("nvfp4")
    if weight.dtype == "F8_E4M3" and scale.dtype in ("U8", "F8_E8M0"):
        return _Facts("mxfp8")
    return _Facts("int8_tensorwise") if weight.dtype == "I8" else None


def _read_facts(parsed: object) -> _Facts:
    if not isinstance(parsed, dict):
        return _Facts("an unreadable comfy_quant")
    facts = cast("dict[str, object]", parsed)
    return _Facts(str(facts.get("format", "an unnamed format")), bool(facts.get("convrot")))


def unswizzled(scales: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Block scales [rows, columns] from cuBLAS' order for them.

    Tiles of 128 x 4 scales lie one after another, row of tiles by row of tiles; within a tile the scale of row r and
    column c is number 16 (r mod 32) + 4 (r div 32) + c (cuBLAS documentation, "1D block scaling factors layout").
    """
    tiles, across = -(-rows // 128), -(-columns // 4)
    grid = scales.reshape(tiles, across, 32, 4, 4).permute(0, 3, 2, 1, 4)
    return grid.reshape(tiles * 128, across * 4)[:rows, :columns].contiguous()


class _Blocks:
    """A matrix whose rows are cut into blocks with a scale each."""

    dtype = "F32"

    def __init__(self, shape: tuple[int, ...], block: int, scales: Callable[[], torch.Tensor]) -> None:
        self.shape = shape
        self._block = block
        self._scales = Kept(lambda: scales().reshape(-1), count(shape))

    def _scaled(self, values: torch.Tensor, first: int) -> torch.Tensor:
        return scale_runs(values, self._scales.value(), self._block, first)


class Nvfp4(_Blocks):
    """Two e2m1 values a byte, the earlier in the upper half; e4m3 scales for 16 of them, and one for the weight."""

    def __init__(self, source: TensorSource, layer: str, facts: _Facts) -> None:
        name = layer + ".weight"
        packed = source.info(name)
        if packed.dtype != "U8" or len(packed.shape) != 2 or packed.shape[1] % 8:
            raise _wrong(source, name, "is no matrix of nvfp4 values")
        rows, columns = packed.shape[0], packed.shape[1] * 2
        scales = _scale_bytes(source, layer + ".weight_scale", rows, columns // 16)
        whole = constant_value(source, layer + ".weight_scale_2").float().reshape(-1)
        if len(whole) != 1:
            raise _wrong(source, layer + ".weight_scale_2", "is no single number")

        def total() -> torch.Tensor:
            kind = getattr(torch, "float8_e4m3fn")  # noqa: B009 - older type stubs do not know it
            return decode_fp8(unswizzled(scales(), rows, columns // 16).view(kind)) * whole

        super().__init__((_true_rows(source, layer, rows, 16), columns), 16, total)
        self._source, self._name = source, name
        self._pairs = _e2m1_pairs()

    def read(self, first: int, elements: int) -> torch.Tensor:
        begin, end = first // 2, -(-(first + elements) // 2)
        packed = self._source.load_flat(self._name, begin, end - begin)
        values = self._scaled(pairs_of(self._pairs, packed)[first - 2 * begin :][:elements], first)
        self._scales.used(elements)
        return values


@functools.cache
def _e2m1_pairs() -> torch.Tensor:
    return pair_table(torch.tensor(_E2M1), upper_first=True)


class Mxfp8(_Blocks):
    """e4m3 values with a power of two (e8m0: 2^(code - 127)) for every 32 of them."""

    def __init__(self, source: TensorSource, layer: str, facts: _Facts) -> None:
        inner = Stored(source, layer + ".weight")
        if inner.dtype != "F8_E4M3" or len(inner.shape) != 2 or inner.shape[1] % 32:
            raise _wrong(source, inner.name, "is no matrix of mxfp8 values")
        rows, columns = inner.shape[0], inner.shape[1] // 32
        scales = _scale_bytes(source, layer + ".weight_scale", rows, columns)

        def powers() -> torch.Tensor:
            codes = unswizzled(scales(), rows, columns)
            found = torch.ldexp(torch.ones(codes.shape), codes.int() - 127)
            return torch.where(codes == 255, torch.nan, found)

        super().__init__((_true_rows(source, layer, rows, 32), inner.shape[1]), 32, powers)
        self._inner = inner

    def read(self, first: int, elements: int) -> torch.Tensor:
        values = self._scaled(decode_fp8(self._inner.read(first, elements)), first)
        self._scales.used(elements)
        return values


class ScaledMatrix:
    """int8 or fp8 values times one scale for all, for each row, or for each square or row-wise block."""

    dtype = "F32"

    def __init__(self, source: TensorSource, layer: str, facts: _Facts) -> None:
        self._inner: Node = Stored(source, layer + ".weight")
        self.shape = self._inner.shape
        name = layer + ".weight"
        if self._inner.dtype not in ("I8", "F8_E4M3", "F8_E5M2") or len(self.shape) < 2:
            raise _wrong(source, name, f"is no matrix of {facts.scheme} values")
        scale = constant_value(source, layer + ".weight_scale").float()
        rows, columns = self.shape[0], count(self.shape[1:])
        if scale.numel() == 1 or scale.dim() == 1:
            scale = scale.reshape(-1, 1)
        if scale.dim() != 2 or rows % len(scale) or columns % scale.shape[1]:
            raise _wrong(source, name, f"has a scale of the shape {list(scale.shape)}, which does not fit")
        self._scale = scale
        self._columns = columns

    def read(self, first: int, elements: int) -> torch.Tensor:
        stored = self._inner.read(first, elements)
        values = stored.float() if stored.dtype == torch.int8 else decode_fp8(stored)
        if self._scale.numel() == 1:
            return values.mul_(self._scale.reshape(()))
        tall = self.shape[0] // self._scale.shape[0]
        wide = self._columns // self._scale.shape[1]
        begin, end = first // self._columns, -(-(first + elements) // self._columns)
        rows = self._scale[torch.arange(begin, end) // tall].repeat_interleave(wide, 1).reshape(-1)
        return values.mul_(rows[first - begin * self._columns :][:elements])


def _true_rows(source: TensorSource, layer: str, rows: int, step: int) -> int:
    """The rows without those that fill up to a multiple of ``step``: the file tells their number by the bias alone."""
    bias = source.header.tensors.get(layer + ".bias")
    wanted = bias.shape[0] if bias is not None and len(bias.shape) == 1 else rows
    return wanted if 0 < wanted < rows and -(-wanted // step) * step == rows else rows


def _scale_bytes(source: TensorSource, name: str, rows: int, columns: int) -> Callable[[], torch.Tensor]:
    """What reads the one-byte scales of a weight as they lie in the file, filled up to whole tiles."""
    if name not in source.header.tensors:
        raise _wrong(source, name, "is missing")
    info = source.info(name)
    wanted = -(-rows // 128) * 128 * (-(-columns // 4) * 4)
    if info.nbytes != wanted:
        raise _wrong(source, name, f"has {info.nbytes} bytes where {wanted} belong")
    return lambda: torch.frombuffer(bytearray(constant_bytes(source, name)), dtype=torch.uint8)


def _wrong(source: TensorSource, name: str, what: str) -> BadFileError:
    return BadFileError(source.header.path, f"tensor {name!r} {what}", "Download the file again, or use another copy")


_FORMATS: Mapping[str, Callable[[TensorSource, str, _Facts], Node]] = {
    "nvfp4": Nvfp4,
    "mxfp8": Mxfp8,
    "int8_tensorwise": ScaledMatrix,
    "int8_rowwise": ScaledMatrix,
    "int8_blockwise": ScaledMatrix,
    "float8_e4m3fn_rowwise": ScaledMatrix,
    "float8_e4m3fn_blockwise": ScaledMatrix,
}
