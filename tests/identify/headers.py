"""Headers of real models as test data, changed in every way that files in the wild are, and written as sparse files."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
WIDTHS = {
    "F64": 8,
    "I64": 8,
    "F32": 4,
    "I32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U8": 1,
    "I8": 1,
    "BOOL": 1,
}
Entries = dict[str, tuple[str, list[int]]]


@lru_cache(maxsize=16)
def _sample(name: str) -> dict[str, Any]:
    with gzip.open(DATA / f"{name}.json.gz", "rt") as file:
        return json.loads(file.read())


def load(name: str) -> Entries:
    """Names with dtype and shape of one sample."""
    return {key: (value["dtype"], value["shape"]) for key, value in _sample(name).items() if key != "__metadata__"}


def metadata_of(name: str) -> dict[str, str]:
    return dict(_sample(name).get("__metadata__", {}))


def under(entries: Entries, prefix: str) -> Entries:
    """Every name behind a prefix."""
    return {prefix + name: value for name, value in entries.items()}


def part(entries: Entries, prefix: str) -> Entries:
    """The tensors under a prefix, without it."""
    return {name[len(prefix) :]: value for name, value in entries.items() if name.startswith(prefix)}


def without(entries: Entries, test: Callable[[str], bool]) -> Entries:
    return {name: value for name, value in entries.items() if not test(name)}


def cast(entries: Entries, dtype: str, test: Callable[[str], bool] = lambda name: True) -> Entries:
    return {name: (dtype if test(name) else old, shape) for name, (old, shape) in entries.items()}


def nbytes(dtype: str, shape: list[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count * WIDTHS[dtype]


def write(
    path: Path,
    entries: Entries,
    metadata: Mapping[str, str] | None = None,
    values: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a sparse .safetensors file with that header; ``values`` are real bytes of single tensors."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, (dtype, shape) in entries.items():
        size = nbytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
        for name, data in (values or {}).items():
            file.seek(8 + len(text) + header[name]["data_offsets"][0])
            file.write(data)
    return path


def numbers(values: list[float], letter: str = "f") -> bytes:
    return struct.pack(f"<{len(values)}{letter}", *values)


# ---- ways in which files are packed, each as its writer leaves it


def _is_matrix(name: str, shape: list[int]) -> bool:
    return name.endswith(".weight") and len(shape) == 2 and shape[0] * shape[1] >= 4096 and "norm" not in name


def bitsandbytes(entries: Entries, kind: str = "nf4", double: bool = False) -> Entries:
    """Every matrix as bitsandbytes flattens it: [n/2, 1] of bytes, with its scales beside."""
    found: Entries = {}
    for name, (dtype, shape) in entries.items():
        if not _is_matrix(name, shape):
            found[name] = (dtype, shape)
            continue
        count = shape[0] * shape[1]
        found[name] = ("U8", [count // 2, 1])
        found[name + ".absmax"] = ("U8" if double else "F32", [count // 64])
        found[name + ".quant_map"] = ("F32", [16])
        if double:
            found[name + ".nested_absmax"] = ("F32", [max(1, count // 64 // 256)])
            found[name + ".nested_quant_map"] = ("F32", [256])
        found[name + f".quant_state.bitsandbytes__{kind}"] = ("U8", [120])
    return found


def scaled_fp8(entries: Entries, flag: str = "F8_E4M3", prefix: str = "") -> Entries:
    """The older scaled form: a flag tensor and one scale a layer."""
    found: Entries = {prefix + "scaled_fp8": (flag, [2])}
    for name, (dtype, shape) in entries.items():
        packed = _is_matrix(name, shape)
        found[name] = (("F8_E5M2" if flag == "F8_E5M2" else "F8_E4M3") if packed else dtype, shape)
        if packed:
            found[name[:-6] + "scale_weight"] = ("F32", [])
    return found


def comfy(entries: Entries, form: str) -> Entries:
    """ComfyUI's own form: a JSON tensor at each layer, and scales."""
    found: Entries = {}
    for name, (dtype, shape) in entries.items():
        if not _is_matrix(name, shape):
            found[name] = (dtype, shape)
            continue
        base = name[:-6]
        if form == "nvfp4":
            found[name] = ("U8", [shape[0], shape[1] // 2])
            found[base + "weight_scale"] = ("F8_E4M3", [shape[0], max(1, shape[1] // 16)])
            found[base + "weight_scale_2"] = ("F32", [])
        elif form == "mxfp8":
            found[name] = ("F8_E4M3", shape)
            found[base + "weight_scale"] = ("U8", [shape[0], max(1, shape[1] // 32)])
        elif form == "int8_tensorwise":
            found[name] = ("I8", shape)
            found[base + "weight_scale"] = ("F32", [])
        else:
            found[name] = ("F8_E4M3", shape)
            found[base + "weight_scale"] = ("F32", [])
        found[base + "comfy_quant"] = ("U8", [len(json.dumps({"format": form}))])
    return found


def comfy_values(entries: Entries, form: str) -> dict[str, bytes]:
    return {name: json.dumps({"format": form}).encode() for name in entries if name.endswith(".comfy_quant")}


def ema_copy(entries: Entries) -> Entries:
    """The EMA copy that a training checkpoint keeps of its UNet, with the dots lost (CompVis ldm/modules/ema.py)."""
    prefix = "model.diffusion_model."
    made = {
        "model_ema." + name[len("model.") :].replace(".", ""): value
        for name, value in entries.items()
        if name.startswith(prefix)
    }
    return {**made, "model_ema.decay": ("F32", []), "model_ema.num_updates": ("I32", [])}
