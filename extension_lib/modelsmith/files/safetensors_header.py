"""The safetensors header: eight bytes of length, JSON, then the data (huggingface/safetensors, format section)."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from modelsmith.errors import BadFileError
from modelsmith.files.collection import collection_paused
from modelsmith.files.header import FileHeader, TensorInfo
from modelsmith.files.safetensors_columns import read_columns

MAX_HEADER_BYTES = 100_000_000
"""The limit that the safetensors library sets (``MAX_HEADER_SIZE``)."""

BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
"""Bits of one element of every dtype that safetensors names; other names are tolerated and not checked."""

Contents = tuple[dict[str, str], dict[str, TensorInfo]]

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
    return _header(path, text, size)


def read_start(name: str, start: bytes, size: int) -> FileHeader:
    """The header of a file of which only the beginning is at hand, eight bytes of length and all of the header.

    size: of the whole file. No tensor of it can be read. Raises BadFileError like :func:`read_safetensors`.
    """
    path = Path(name)
    length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
    _check_length(path, size, length)
    if len(start) < 8 + length:
        raise BadFileError(path, "the header is not valid JSON (cut short)", _DAMAGED)
    return _header(path, start[8 : 8 + length], size)


def _header(path: Path, text: bytes, size: int) -> FileHeader:
    length = len(text)
    with collection_paused():
        found = read_usual(text, 8 + length, size) or read_carefully(path, text, 8 + length, size)
    return FileHeader(path=path, format="safetensors", size=size, tensors=found[1], metadata=found[0])


def read_carefully(path: Path, text: bytes, base: int, size: int) -> Contents:
    """(metadata, tensors), entry by entry, so that a fault is named. Raises BadFileError."""
    entries = _parse(path, text)
    metadata = _take_metadata(path, entries)
    tensors = _read_entries(path, entries, base)
    _check_places(path, tensors, base, size)
    return metadata, tensors


def read_usual(text: bytes, base: int, size: int) -> Contents | None:
    """(metadata, tensors) at once where the text is spelled as usual and is sound, else None."""
    if len(text) > _PLAUSIBLE_BYTES or not hasattr(sys, "set_int_max_str_digits"):
        return None
    try:
        return read_columns(text.decode("utf-8"), base, size, _check_kind)
    except UnicodeDecodeError:
        return None


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
    options: dict[str, Any] = {} if hasattr(sys, "set_int_max_str_digits") else {"parse_int": _short_int}
    try:
        parsed: object = json.loads(text.decode("utf-8"), **options)
        # Every entry has the word once; so an equal count shows that no name stands twice.
        if not isinstance(parsed, dict) or text.count(b'"data_offsets"') != _count(cast("dict[str, object]", parsed)):
            parsed = json.loads(text.decode("utf-8"), object_pairs_hook=_no_duplicates, **options)
    except _DuplicateName as error:
        raise BadFileError(path, f"the header names {error.args[0]!r} twice", _DAMAGED) from None
    except (ValueError, RecursionError) as error:
        raise BadFileError(path, f"the header is not valid JSON ({str(error)[:120]})", _DAMAGED) from None
    if not isinstance(parsed, dict):
        raise BadFileError(path, "the header is not a JSON object", _DAMAGED)
    return cast("dict[str, object]", parsed)


def _count(entries: dict[str, object]) -> int:
    return len(entries) - ("__metadata__" in entries)


def _short_int(text: str) -> int:
    """For Pythons whose ``int`` takes quadratic time over digits without end (before 3.10.7)."""
    if len(text) > 20:
        raise ValueError("a number is too long")
    return int(text)


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


def _read_entries(path: Path, entries: dict[str, Any], base: int) -> dict[str, TensorInfo]:
    """Check every entry and place it.

    An SDXL header has 2,515 entries of about 60 kinds and a budget of a few milliseconds, so each pair of dtype and
    shape is checked once, and the tuples are made without the named tuple's slower constructor.
    """
    tensors: dict[str, TensorInfo] = {}
    known: dict[tuple[object, ...], tuple[str, tuple[int, ...], int | None]] = {}
    make: Callable[[type[TensorInfo], tuple[object, ...]], TensorInfo] = tuple.__new__  # pyright: ignore
    for name, entry in entries.items():
        try:
            start, end = entry["data_offsets"]
            key = (entry["dtype"], *entry["shape"])
            kind = known.get(key)
            if kind is None:
                kind = known[key] = _check_kind(entry["dtype"], entry["shape"])
            dtype, shape, needed = kind
            nbytes = end - start
            if type(start) is not int or type(end) is not int or start < 0 or nbytes < 0:
                raise ValueError("its place makes no sense")
        except KeyError as error:
            raise BadFileError(path, f"tensor {name[:200]!r} has no {error.args[0]}", _DAMAGED) from None
        except (TypeError, ValueError) as error:
            raise BadFileError(path, f"tensor {name[:200]!r} is malformed ({str(error)[:150]})", _DAMAGED) from None
        if nbytes != needed and needed is not None:
            problem = f"tensor {name[:200]!r} ({dtype} {list(shape)}) does not fit its place of {nbytes:,} bytes"
            raise BadFileError(path, problem, _DAMAGED)
        tensors[name] = make(TensorInfo, (dtype, shape, base + start, nbytes, None, None))
    return tensors


def _check_kind(dtype: object, shape: object) -> tuple[str, tuple[int, ...], int | None]:
    """(dtype, shape, bytes) of a tensor; the bytes are None for a dtype that is not known. Raises ValueError."""
    if not isinstance(dtype, str) or len(dtype) > 40 or not isinstance(shape, list):
        raise ValueError("its dtype or shape is no such thing")
    sides = cast("list[object]", shape)
    if len(sides) > 32:
        raise ValueError("its shape has too many sides")
    count = 1
    for side in sides:
        if type(side) is not int or not 0 <= side < 1 << 62:
            raise ValueError("its shape has an impossible side")
        count *= side
    bits = BITS.get(dtype)
    if count >> 62 or (bits is not None and count * bits % 8):
        raise ValueError("its shape is impossible")
    return dtype, tuple(cast("list[int]", sides)), None if bits is None else count * bits // 8


def _check_places(path: Path, tensors: Mapping[str, TensorInfo], base: int, size: int) -> None:
    """The tensors must fill the rest of the file, each beginning where the one before ends."""
    position = base
    ordered = list(tensors.items())
    for _, info in ordered:  # most writers list the tensors in the order of their data
        if info[2] != position:
            ordered.sort(key=lambda item: (item[1].start, item[1].nbytes))
            break
        position += info[3]
    position = base
    for name, info in ordered:
        if info[2] != position:
            how = "overlaps the one before it" if info.start < position else "leaves a gap before it"
            raise BadFileError(path, f"tensor {name[:200]!r} {how}", _DAMAGED)
        position += info[3]
    if position > size:
        raise BadFileError(
            path,
            f"the file is cut short: its header promises {position:,} bytes and it has {size:,}",
            "The download or copy did not finish: do it again",
        )
    if position < size:
        raise BadFileError(path, f"{size - position:,} bytes follow the last tensor that no tensor owns", _DAMAGED)
