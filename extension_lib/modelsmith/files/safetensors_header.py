"""The safetensors header: eight bytes of length, JSON, then the data (huggingface/safetensors, format section)."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from modelsmith.errors import BadFileError
from modelsmith.files.header import FileHeader, TensorInfo

MAX_HEADER_BYTES = 100_000_000
"""The limit that the safetensors library sets (``MAX_HEADER_SIZE``)."""

BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
"""Bits of one element of every dtype that safetensors names; other names are tolerated and not checked."""

_DAMAGED = "The file is damaged: download or copy it again"
_PLAUSIBLE_BYTES = 16_000_000  # beyond this the structure is counted before it is parsed


def read_safetensors(path: Path) -> FileHeader:
    """Read and check the header as strictly as the safetensors library does.

    Raises BadFileError for a truncated file, a header longer than the file or than the limit, JSON that is none,
    names given twice, and offsets that overlap, leave gaps, or disagree with dtype and shape.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        _check_length(path, size, length)
        text = file.read(length)
    entries = _parse(path, text)
    metadata = _take_metadata(path, entries)
    tensors = _read_entries(path, entries, 8 + length)
    _check_places(path, tensors, 8 + length, size)
    return FileHeader(path=path, format="safetensors", size=size, tensors=tensors, metadata=metadata)


def _check_length(path: Path, size: int, length: int) -> None:
    if size == 0:
        raise BadFileError(path, "the file is empty", "Download or copy it again")
    if size < 10:
        raise BadFileError(path, f"the file has only {size} bytes", _DAMAGED)
    if length > MAX_HEADER_BYTES:
        raise BadFileError(path, f"the header claims {length:,} bytes, more than the format allows", _DAMAGED)
    if length > size - 8:
        raise BadFileError(path, f"the header claims {length:,} bytes but the file has only {size:,}", _DAMAGED)
    if length < 2:
        raise BadFileError(path, "the header is empty", _DAMAGED)


def _parse(path: Path, text: bytes) -> dict[str, object]:
    if len(text) > _PLAUSIBLE_BYTES:
        tensors = text.count(b'"data_offsets"')
        if text.count(b"{") + text.count(b"[") > 4 * tensors + 1_000_000 or text.count(b",") > 24 * tensors + 2_000_000:
            raise BadFileError(path, "the header is not a list of tensors", _DAMAGED)
    try:
        parsed: object = json.loads(text.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except _DuplicateName as error:
        raise BadFileError(path, f"the header names {error.args[0]!r} twice", _DAMAGED) from None
    except (ValueError, RecursionError) as error:
        raise BadFileError(path, f"the header is not valid JSON ({str(error)[:120]})", _DAMAGED) from None
    if not isinstance(parsed, dict):
        raise BadFileError(path, "the header is not a JSON object", _DAMAGED)
    return cast("dict[str, object]", parsed)


class _DuplicateName(Exception):
    """A name that stands twice in one JSON object."""


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _DuplicateName(name[:200])
            seen.add(name)
    return found


def _take_metadata(path: Path, entries: dict[str, object]) -> dict[str, str]:
    """Remove ``__metadata__`` from the entries and return it; the format allows text values only."""
    found = entries.pop("__metadata__", None)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BadFileError(path, "__metadata__ is not a JSON object", _DAMAGED)
    items = cast("dict[str, object]", found)
    for name, value in items.items():
        if not isinstance(value, str):
            raise BadFileError(path, f"the metadata value {name[:80]!r} is not text", _DAMAGED)
    return cast("dict[str, str]", items)


def _read_entries(path: Path, entries: dict[str, object], base: int) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for name, entry in entries.items():
        try:
            dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]  # type: ignore[index]
        except (KeyError, TypeError, ValueError):
            raise BadFileError(path, f"the entry of tensor {name[:200]!r} is incomplete", _DAMAGED) from None
        tensors[name] = _read_entry(path, name, (dtype, shape, start, end), base)
    return tensors


def _read_entry(path: Path, name: str, fields: tuple[object, object, object, object], base: int) -> TensorInfo:
    dtype, shape, start, end = fields
    if type(dtype) is not str or type(shape) is not list or type(start) is not int or type(end) is not int:
        raise BadFileError(path, f"the entry of tensor {name[:200]!r} is malformed", _DAMAGED)
    count = 1
    for side in cast("list[object]", shape):
        if type(side) is not int or side < 0:
            raise BadFileError(
                path, f"tensor {name[:200]!r} has the impossible shape {str(cast(object, shape))[:100]}", _DAMAGED
            )
        count *= side
        if count >> 63:
            raise BadFileError(
                path, f"tensor {name[:200]!r} has the impossible shape {str(cast(object, shape))[:100]}", _DAMAGED
            )
    bits = BITS.get(dtype)
    nbytes = end - start
    if start < 0 or nbytes < 0 or (bits is not None and count * bits != nbytes * 8):
        raise BadFileError(
            path,
            f"tensor {name[:200]!r} ({dtype[:20]} {str(cast(object, shape))[:100]}) does not fit its place of {nbytes:,} bytes",
            _DAMAGED,
        )
    return TensorInfo(dtype, tuple(cast("list[int]", shape)), base + start, nbytes)


def _check_places(path: Path, tensors: Mapping[str, TensorInfo], base: int, size: int) -> None:
    """The tensors must fill the rest of the file, each beginning where the one before ends."""
    position = base
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if info.start != position:
            how = "overlaps the one before it" if info.start < position else "leaves a gap before it"
            raise BadFileError(path, f"tensor {name[:200]!r} {how}", _DAMAGED)
        position += info.nbytes
    if position > size:
        raise BadFileError(
            path,
            f"the file is cut short: its header promises {position:,} bytes and it has {size:,}",
            "The download or copy did not finish: do it again",
        )
    if position < size:
        raise BadFileError(path, f"{size - position:,} bytes follow the last tensor that no tensor owns", _DAMAGED)
