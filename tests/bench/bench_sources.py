"""Model files for the benchmark of conversions: true key names, random finite values, every form that is read back."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
from bench_tools import names

GGUF = {
    "Q4_0": (2, 32, 18), "Q8_0": (8, 32, 34), "Q2_K": (10, 256, 84), "Q3_K": (11, 256, 110), "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176), "Q6_K": (14, 256, 210), "IQ4_XS": (23, 256, 136), "IQ3_S": (21, 256, 110),
}  # fmt: skip
"""ggml's number of the type, values of a block, bytes of a block."""

_SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
_PATTERN = 16 << 20  # bytes, or blocks' bytes, that are repeated
Tensor = tuple[str, str, tuple[int, ...], bytes]


def blocks(kind: str) -> bytes:
    """Random values that are finite in every type: for packed types, blocks whose scales are 0.01."""
    random = np.random.default_rng(0)
    if kind in ("F16", "F32"):
        values = random.standard_normal(_PATTERN // 2, np.float32) * np.float32(0.03)
        return values.astype(np.float16 if kind == "F16" else np.float32).tobytes()
    if kind not in GGUF:
        finite = random.integers(0, 120, _PATTERN, dtype=np.uint8)  # as e4m3: below NaN; as four bits: any
        return finite.tobytes()
    _, block, width = GGUF[kind]
    raw = random.integers(0, 256, (_PATTERN // block, width), dtype=np.uint8)
    for place in _SCALES.get(kind, (0,)):
        raw[:, place : place + 2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    return raw.tobytes()


def write_source(path: Path, kind: str, size: str) -> None:
    """Write one model of a kind without holes."""
    shapes = dict(sorted(names(size).items()))
    with path.open("wb") as file:
        if kind in GGUF:
            sizes = _gguf_header(file, shapes, kind)
            plain, packed = blocks("F16"), blocks(kind)
            parts = ((nbytes, packed if is_packed else plain) for nbytes, is_packed in sizes)
        else:
            tensors = list(_tensors(shapes, kind))
            parts = _safetensors_header(file, tensors)
        for nbytes, pattern in parts:
            for _ in range(nbytes // len(pattern)):
                file.write(pattern)
            file.write(memoryview(pattern)[: nbytes % len(pattern)])
        file.flush()
        os.fsync(file.fileno())


def _tensors(shapes: dict[str, tuple[int, ...]], kind: str) -> Iterator[Tensor]:
    """Every tensor with its companions: name, type, shape and the bytes that it repeats."""
    plain = blocks("F32" if kind == "F32" else "F16")
    packed = blocks(kind)
    scale = np.full(1 << 16, 0.03, np.float32).tobytes()
    for name, shape in shapes.items():
        matrix = len(shape) == 2 and name.endswith(".weight") and shape[0] % 128 == 0 and shape[1] % 128 == 0
        if kind in ("F16", "F32") or not matrix:
            yield name, "F32" if kind == "F32" else "F16", shape, plain
            continue
        layer = name[: -len(".weight")]
        if kind in ("nf4", "fp4"):
            state = json.dumps({"quant_type": kind, "blocksize": 64, "dtype": "float16", "shape": list(shape)}).encode()
            yield name, "U8", (prod(shape) // 2, 1), packed
            yield f"{name}.absmax", "F32", (prod(shape) // 64,), scale
            yield f"{name}.quant_map", "F32", (16,), np.linspace(-1, 1, 16, dtype=np.float32).tobytes()
            yield f"{name}.quant_state.bitsandbytes__{kind}", "U8", (len(state),), state
        elif kind == "nvfp4":
            yield name, "U8", (shape[0], shape[1] // 2), packed
            yield f"{layer}.weight_scale", "F8_E4M3", (shape[0], shape[1] // 16), packed
            yield f"{layer}.weight_scale_2", "F32", (), scale
        elif kind == "mxfp8":
            yield name, "F8_E4M3", shape, packed
            yield f"{layer}.weight_scale", "U8", (shape[0], shape[1] // 32), packed
        else:
            yield name, "F8_E4M3", shape, packed
            yield f"{layer}.scale_weight", "F32", (), scale


def _safetensors_header(file: object, tensors: list[Tensor]) -> list[tuple[int, bytes]]:
    widths = {"F32": 4, "F16": 2}
    header: dict[str, object] = {}
    offset = 0
    parts: list[tuple[int, bytes]] = []
    for name, dtype, shape, pattern in tensors:
        end = offset + widths.get(dtype, 1) * prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        parts.append((end - offset, pattern))
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)  # type: ignore[attr-defined]
    return parts


def _gguf_header(file: object, shapes: dict[str, tuple[int, ...]], kind: str) -> list[tuple[int, bool]]:
    """A GGUF of version 3: matrices packed, everything that does not fit the blocks as fp16."""
    number, block, width = GGUF[kind]
    text = bytearray(struct.pack("<4sIQQ", b"GGUF", 3, len(shapes), 0))
    offset = 0
    sizes: list[tuple[int, bool]] = []
    for name, shape in shapes.items():
        packed = len(shape) > 1 and shape[-1] % block == 0
        nbytes = prod(shape) // block * width if packed else 2 * prod(shape)
        nbytes += -nbytes % 32
        encoded = name.encode()
        text += struct.pack(f"<Q{len(encoded)}sI", len(encoded), encoded, len(shape))
        text += struct.pack(f"<{len(shape)}QIQ", *shape[::-1], number if packed else 1, offset)
        sizes.append((nbytes, packed))
        offset += nbytes
    file.write(bytes(text) + bytes(-len(text) % 32))  # type: ignore[attr-defined]
    return sizes
