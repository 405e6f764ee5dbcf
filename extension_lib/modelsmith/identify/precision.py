"""Precision and quantisation of one component, from dtypes and from the names that each scheme leaves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import cast

from modelsmith.errors import BadFileError
from modelsmith.files.gguf import QUANTIZED
from modelsmith.files.header import FileHeader, TensorInfo
from modelsmith.files.ranges import read_tensor_bytes

_NAMES: Mapping[str, str] = {
    "F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16", "F8_E4M3": "fp8_e4m3", "F8_E5M2": "fp8_e5m2",
    "F8_E4M3FNUZ": "fp8_e4m3", "F8_E5M2FNUZ": "fp8_e5m2", "F8_E8M0": "fp8_e8m0", "F4": "fp4", "F6_E2M3": "fp6",
    "F6_E3M2": "fp6", "I8": "int8", "U8": "uint8", "I32": "int32", "I64": "int64",
}  # fmt: skip
_WHOLE = frozenset({"I64", "I32", "I16", "BOOL", "U16", "U32", "U64"})
_FP8 = frozenset({"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
_MOSTLY = 0.9  # a dtype is a component's own from this share of its bytes; below it the component is mixed


_PACKED = (("nf4", "nf4"), ("nvfp4", "nvfp4"), ("bnb_fp4", "fp4"), ("svdquant_fp4", "fp4"), ("svdquant_int4", "int4"))


def bytes_by_dtype(tensors: Mapping[str, TensorInfo]) -> Counter[str]:
    """How many bytes of a component are of each dtype, in the order in which the dtypes are met."""
    found: dict[str, int] = {}
    for info in tensors.values():
        dtype = info[0]
        found[dtype] = found.get(dtype, 0) + info[3]
    return Counter(found)


def precision_of(by_bytes: Counter[str], quantization: str | None = None) -> str:
    """The dtype of most bytes, ``mixed`` where none has nine tenths, whole numbers left out where there is else.

    Where a scheme packs values into bytes, the bytes' dtype says nothing and the scheme's own is given.
    """
    for scheme, name in _PACKED if quantization is not None else ():
        if scheme in (quantization or ""):
            return name
    floats = Counter({dtype: count for dtype, count in by_bytes.items() if dtype not in _WHOLE})
    if not floats:
        return _NAMES.get(next(iter(by_bytes)), next(iter(by_bytes)).lower()) if by_bytes else "none"
    total = sum(floats.values())
    dtype, most = floats.most_common(1)[0]
    if total and most < _MOSTLY * total and dtype not in QUANTIZED:
        return "mixed"
    return _NAMES.get(dtype, dtype.lower())


def quantization_of(
    tensors: Mapping[str, TensorInfo], by_bytes: Counter[str], header: FileHeader | None, prefix: str
) -> str | None:
    """The scheme a component is packed by, None for plain dtypes. Signatures as their writers leave them."""
    if header is not None and header.format == "gguf":
        return _gguf(by_bytes)
    dtypes = by_bytes.keys()
    if not dtypes & {"U8", "I8", "I32", "F4"} and not dtypes & _FP8:
        return None
    endings = _endings(tensors)
    if "qweight" in endings:
        fp4 = any(n.endswith(".wscales") and i.dtype in _FP8 for n, i in tensors.items()) or "wcscales" in endings
        return "svdquant_fp4" if fp4 else "svdquant_int4"
    if "absmax" in endings or "quant_map" in endings:
        kind = "fp4" if any(name.endswith("bitsandbytes__fp4") for name in tensors) else "nf4"
        return f"bnb_{kind}" + ("_double" if "nested_absmax" in endings else "")
    if "comfy_quant" in endings or "_quantization_metadata" in (header.metadata if header is not None else {}):
        named = _comfy(tensors, header, prefix)
        if named:
            return named
    guessed = _by_scales(tensors, endings)
    if guessed is not None:
        return guessed
    fp8 = [(count, dtype) for dtype, count in by_bytes.items() if dtype in _FP8]
    if fp8 and sum(count for count, _ in fp8) * 2 > sum(by_bytes.values()):
        return _NAMES[max(fp8)[1]]
    return "int8" if by_bytes.get("I8", 0) * 2 > sum(by_bytes.values()) else None


def _endings(tensors: Mapping[str, TensorInfo]) -> set[str]:
    return {name.rpartition(".")[2] for name in tensors}


def _gguf(by_bytes: Counter[str]) -> str | None:
    packed = Counter({dtype: count for dtype, count in by_bytes.items() if dtype in QUANTIZED})
    return f"gguf_{packed.most_common(1)[0][0].lower()}" if packed else None


def _by_scales(tensors: Mapping[str, TensorInfo], endings: set[str]) -> str | None:
    """Schemes whose scales stand beside the weights under a known ending."""
    if "scaled_fp8" in endings or "scale_weight" in endings:
        flag = next((info for name, info in tensors.items() if name.rpartition(".")[2] == "scaled_fp8"), None)
        dtype = flag.dtype if flag is not None else ""
        if dtype not in _FP8:  # an F32 flag means e4m3; without a flag the weights tell
            dtype = (
                next((i.dtype for i in tensors.values() if i.dtype in _FP8), "F8_E4M3") if flag is None else "F8_E4M3"
            )
        return _NAMES[dtype] + "_scaled"
    if "weight_scale_2" in endings:
        return "nvfp4"
    if "weight_scale" in endings:
        scales = {info.dtype for name, info in tensors.items() if name.endswith(".weight_scale")}
        weights = {info.dtype for name, info in tensors.items() if name.endswith(".weight")}
        if scales & {"U8", "F8_E8M0"}:
            return "mxfp8"
        if "I8" in weights:
            return "int8"
        for dtype in ("F8_E4M3", "F8_E5M2"):
            if dtype in weights:
                return _NAMES[dtype] + "_scaled"
    return None


def _comfy(tensors: Mapping[str, TensorInfo], header: FileHeader | None, prefix: str) -> str | None:
    """ComfyUI's own notes: a JSON tensor at each layer, or one JSON text in the metadata."""
    formats: set[str] = set()
    if header is not None:
        named = [name for name in tensors if name.endswith(".comfy_quant")]
        for name in named[:3]:
            try:
                found: object = json.loads(read_tensor_bytes(header, prefix + name, 4096))
            except (BadFileError, ValueError, RecursionError):
                continue
            if isinstance(found, dict):
                formats.add(str(cast("dict[str, object]", found).get("format")))
        if not formats:
            formats = _comfy_metadata(header.metadata.get("_quantization_metadata", ""))
    if not formats:
        guessed = _by_scales(tensors, _endings(tensors))
        return f"comfy_{guessed.replace('_scaled', '')}" if guessed else "comfy_quant"
    return "comfy_" + (formats.pop() if len(formats) == 1 else "mixed")[:40].replace("float8", "fp8").replace(
        "e4m3fn", "e4m3"
    )


def _comfy_metadata(text: str) -> set[str]:
    try:
        found: object = json.loads(text) if len(text) < 20_000_000 else None
    except (ValueError, RecursionError):
        return set()
    layers = cast("dict[str, object]", found).get("layers") if isinstance(found, dict) else None
    if not isinstance(layers, dict):
        return set()
    entries = cast("dict[str, object]", layers).values()
    return {str(cast("dict[str, object]", entry).get("format")) for entry in entries if isinstance(entry, dict)}
