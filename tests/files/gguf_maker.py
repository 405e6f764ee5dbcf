"""Writes GGUF files, from the format's description alone (ggml docs/gguf.md)."""

from __future__ import annotations

import struct
from pathlib import Path

BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 8: (32, 34), 12: (256, 144), 14: (256, 210), 30: (1, 2)}


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def typed(value: object) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<IQ", 10, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    assert isinstance(value, list)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(text(item) for item in value)
    return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)


def header(
    tensors: dict[str, tuple[int, list[int]]], scalars: dict[str, object], version: int = 3
) -> tuple[bytes, int]:
    """The header, padded, and how many bytes of data follow; shapes are given in torch's order."""
    infos = b""
    offset = 0
    for name, (kind, shape) in tensors.items():
        infos += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, offset)
        count = 1
        for side in shape:
            count *= side
        block, width = BLOCKS[kind]
        offset += -(-(count // block * width) // 32) * 32
    data = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(scalars))
    data += b"".join(text(name) + typed(value) for name, value in scalars.items()) + infos
    return data + b"\0" * (-len(data) % 32), offset


def write(path: Path, tensors: dict[str, tuple[int, list[int]]], scalars: dict[str, object], version: int = 3) -> Path:
    data, size = header(tensors, scalars, version)
    with path.open("wb") as file:
        file.write(data)
        file.truncate(len(data) + size)
    return path
