"""Small reads of single tensors, without torch: the few bytes that decide what a header leaves open."""

from __future__ import annotations

import math
import struct

from modelsmith.errors import BadFileError
from modelsmith.files.header import FileHeader

_FORMATS = {"F64": ("d", 8), "F32": ("f", 4), "F16": ("e", 2), "I64": ("q", 8), "I32": ("i", 4), "U8": ("B", 1)}


def read_tensor_bytes(header: FileHeader, name: str, limit: int = 65536) -> bytes:
    """The first ``limit`` bytes at most of a contiguous tensor, as they lie in the file (little-endian).

    Raises BadFileError where the tensor is not there, is not stored in one piece, or cannot be read.
    """
    info = header.tensors.get(name)
    if info is None:
        raise BadFileError(header.path, f"it has no tensor {name!r}", "Choose another file")
    if info.start < 0 or info.strides is not None:
        raise BadFileError(header.path, f"tensor {name!r} is not stored in one piece", "Save the file as .safetensors")
    try:
        with (info.file or header.path).open("rb") as file:
            file.seek(info.start)
            found = file.read(min(info.nbytes, limit))
    except OSError as error:
        raise BadFileError(header.path, f"reading failed ({error.strerror})", "Check the disk") from error
    if len(found) < min(info.nbytes, limit):
        raise BadFileError(header.path, f"tensor {name!r} is cut short", "Download or copy the file again")
    return found


def read_values(header: FileHeader, name: str, limit: int = 16384, last: bool = False) -> tuple[float, ...]:
    """Values of a small tensor as floats (not finite ones too); ``last`` reads only the last value.

    Raises BadFileError like :func:`read_tensor_bytes`, and for a dtype that has no plain numbers.
    """
    info = header.tensors.get(name)
    if info is not None and info.dtype in (*_FORMATS, "BF16"):
        width = 2 if info.dtype == "BF16" else _FORMATS[info.dtype][1]
        if last and info.start >= 0 and info.nbytes >= width:
            # a header of the same file in which the tensor is only its last value
            tail = info._replace(start=info.start + info.nbytes - width, nbytes=width)
            header = FileHeader(header.path, header.format, header.size, {name: tail})
        return decode_values(read_tensor_bytes(header, name, limit), info.dtype)
    raise BadFileError(header.path, f"tensor {name!r} has no plain numbers", "Choose another file")


def decode_values(data: bytes, dtype: str) -> tuple[float, ...]:
    """Numbers of a plain dtype; a remainder shorter than one value is left out."""
    if dtype == "BF16":
        count = len(data) // 2
        halves = struct.unpack(f"<{count}H", data[: 2 * count])
        return struct.unpack(f"<{count}f", struct.pack(f"<{count}I", *(half << 16 for half in halves)))
    letter, width = _FORMATS[dtype]
    count = len(data) // width
    return tuple(float(value) for value in struct.unpack(f"<{count}{letter}", data[: count * width]))


def standard_deviation(values: tuple[float, ...]) -> float | None:
    """With Bessel's correction as ``torch.std`` has it; None for fewer than two values or for any not finite."""
    if len(values) < 2 or not all(math.isfinite(value) for value in values):
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def small_hash(header: FileHeader, name: str) -> str:
    """SHA-256 of a small tensor whatever its dtype: of its values rounded to fp16, little-endian.

    A file saved in fp32 and the same saved in fp16 give one hash. Raises BadFileError.
    """
    import hashlib  # slow to import, and seldom needed

    values = read_values(header, name)
    return hashlib.sha256(struct.pack(f"<{len(values)}e", *(_to_half(value) for value in values))).hexdigest()


def _to_half(value: float) -> float:
    return value if not math.isfinite(value) or abs(value) < 65520 else math.copysign(math.inf, value)
