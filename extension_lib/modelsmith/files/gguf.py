"""The header of a GGUF file, versions 2 and 3 (ggml-org/ggml, docs/gguf.md)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, cast

from modelsmith.errors import BadFileError
from modelsmith.files.header import FileHeader, TensorInfo

if TYPE_CHECKING:
    import mmap

_DAMAGED = "The file is damaged: download or copy it again"
_MAX_HEADER = 100_000_000
_MAX_ITEMS = 1_000_000
_KEPT_ITEMS = 64

# ggml's types: number -> (name, values in a block, bytes of a block), from ggml.c's type traits.
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36),
}  # fmt: skip
QUANTIZED = frozenset(name for name, block, _ in TYPES.values() if block > 1)

# Value types: number -> struct letter; 8 is a string, 9 an array.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class _Reader:
    """Walks the header; every step is checked against the end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.position = 4
        self.end = min(len(data), _MAX_HEADER)
        self.items = 0

    def fail(self, problem: str) -> BadFileError:
        return BadFileError(self.path, problem, _DAMAGED)

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > self.end:
            raise self.fail("its GGUF header is cut short or too long")
        found = self.data[self.position : end]
        self.position = end
        return found

    def number(self, letter: str) -> int:
        return cast(int, struct.unpack("<" + letter, self.take(struct.calcsize("<" + letter)))[0])

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", "replace")

    def value(self, kind: int) -> object:
        """One value; of a long array only its length is kept."""
        if kind in _SCALARS:
            return struct.unpack("<" + _SCALARS[kind], self.take(struct.calcsize("<" + _SCALARS[kind])))[0]
        if kind == 8:
            return self.text()
        if kind != 9:
            raise self.fail(f"its GGUF header has the unknown value type {kind}")
        inner, count = self.number("I"), self.number("Q")
        self.items += count
        if self.items > _MAX_ITEMS:
            raise self.fail("its GGUF header has arrays longer than any model needs")
        if inner in _SCALARS and count > _KEPT_ITEMS:
            self.take(count * struct.calcsize("<" + _SCALARS[inner]))
            return f"<{count} values>"
        if inner == 8 and count > _KEPT_ITEMS:
            for _ in range(count):
                self.take(self.number("Q"))
            return f"<{count} texts>"
        if inner == 9:
            raise self.fail("its GGUF header nests arrays")
        return [self.value(inner) for _ in range(count)]


def read_gguf(path: Path) -> FileHeader:
    """Read scalars and tensor places. Shapes come out in torch's order, ``comfy.gguf.orig_shape.*`` applied.

    Raises BadFileError for another version, a damaged header, an unknown type, or tensors beyond the end.
    """
    import mmap  # only here: identification needs the table of types from this module, and not the system's maps

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = _Reader(path, data)
        version = reader.number("I")
        if version not in (2, 3):
            remedy = "Convert it again with a current tool"
            if version == 1 or version >> 16:
                raise BadFileError(path, "it is a GGUF of version 1 or of a big-endian machine", remedy)
            raise BadFileError(path, f"it is a GGUF of the unknown version {version}", remedy)
        tensor_count, scalar_count = reader.number("Q"), reader.number("Q")
        if tensor_count > _MAX_ITEMS or scalar_count > _MAX_ITEMS:
            raise reader.fail("its GGUF header claims more entries than any model has")
        scalars: dict[str, object] = {}
        for _ in range(scalar_count):
            name = reader.text()
            scalars[name] = reader.value(reader.number("I"))
        tensors = _read_tensors(reader, tensor_count, scalars)
        size = len(data)
    metadata = {name: str(value) for name, value in scalars.items() if isinstance(value, (str, int, float))}
    return FileHeader(path=path, format="gguf", size=size, tensors=tensors, metadata=metadata, scalars=scalars)


def _read_tensors(reader: _Reader, count: int, scalars: dict[str, object]) -> dict[str, TensorInfo]:
    found: list[tuple[str, tuple[int, ...], int, int]] = []
    for _ in range(count):
        name = reader.text()
        dimensions = reader.number("I")
        if dimensions > 8:
            raise reader.fail(f"tensor {name[:200]!r} has {dimensions} dimensions")
        shape = tuple(reader.number("Q") for _ in range(dimensions))
        found.append((name, shape[::-1], reader.number("I"), reader.number("Q")))
    alignment = scalars.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
        raise reader.fail("its GGUF alignment makes no sense")
    base = -(-reader.position // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    for name, shape, kind, offset in found:
        if name in tensors:
            raise reader.fail(f"its header names {name[:200]!r} twice")
        tensors[name] = _place(reader, (name, shape, kind), base + offset, scalars)
    position = base
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if info.start < position and info.nbytes:
            raise reader.fail(f"tensor {name[:200]!r} overlaps the one before it")
        position = info.start + info.nbytes
    return tensors


def _place(
    reader: _Reader, entry: tuple[str, tuple[int, ...], int], start: int, scalars: dict[str, object]
) -> TensorInfo:
    name, shape, kind = entry
    if kind not in TYPES:
        raise BadFileError(reader.path, f"tensor {name[:200]!r} has the unknown GGUF type {kind}", "Use another file")
    label, block, width = TYPES[kind]
    count = 1
    for side in shape:
        count *= side
    if count >> 63 or count % block:
        raise reader.fail(f"tensor {name[:200]!r} has the impossible shape {shape}")
    nbytes = count // block * width
    if start + nbytes > len(reader.data):
        raise reader.fail(f"the file is cut short: tensor {name[:200]!r} lies beyond its end")
    original = scalars.get("comfy.gguf.orig_shape." + name)
    if isinstance(original, list):
        sides = cast("list[object]", original)
        if all(isinstance(side, int) and side >= 0 for side in sides):
            wanted = tuple(cast("list[int]", sides))
            product = 1
            for side in wanted:
                product *= side
            shape = wanted if product == count else shape
    return TensorInfo(label, shape, start, nbytes)
