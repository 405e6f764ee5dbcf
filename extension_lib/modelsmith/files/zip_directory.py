"""The central directory of a zip archive, read with bounds (PKWARE APPNOTE.TXT 4.3 and 4.5).

The standard library's zipfile builds an object of about a kilobyte for each entry, however many a file claims, and does
not tell where the bytes of an entry begin; both are needed here.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from modelsmith.errors import BadFileError

_DAMAGED = "The file is damaged or cut short: download or copy it again"
_MAX_DIRECTORY_BYTES = 32 << 20
_MAX_ENTRIES = 300_000


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """One entry; ``start`` is the absolute place of its first byte, -1 where it is compressed."""

    start: int
    size: int
    packed: int
    method: int
    offset: int


def read_directory(path: Path, file: BinaryIO) -> dict[str, ZipEntry]:
    """All entries by name. Raises BadFileError where the directory is missing, damaged or absurd."""
    size = file.seek(0, 2)
    offset, length, count = _find_directory(path, file, size)
    if length > _MAX_DIRECTORY_BYTES or count > _MAX_ENTRIES or offset + length > size:
        raise BadFileError(path, "its zip directory makes no sense", _DAMAGED)
    file.seek(offset)
    data = file.read(length)
    entries: dict[str, ZipEntry] = {}
    position = 0
    try:
        while position < length and len(entries) <= count:
            name, entry, position = _read_record(data, position)
            entries[name] = _locate(path, file, entry, size)
    except (struct.error, ValueError, IndexError) as error:
        raise BadFileError(path, f"its zip directory is damaged ({error})", _DAMAGED) from None
    return entries


def _find_directory(path: Path, file: BinaryIO, size: int) -> tuple[int, int, int]:
    tail_start = max(0, size - 65557)
    file.seek(tail_start)
    tail = file.read(65557)
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or found + 22 > len(tail):
        raise BadFileError(path, "its zip directory is missing", _DAMAGED)
    count, length, offset = struct.unpack_from("<HII", tail, found + 10)
    if 0xFFFF in (count,) or 0xFFFFFFFF in (length, offset):
        locator = tail.rfind(b"PK\x06\x07", 0, found)
        if locator >= 0 and locator + 20 <= len(tail):
            file.seek(min(struct.unpack_from("<Q", tail, locator + 8)[0], size))
            record = file.read(56)
            if len(record) == 56 and record[:4] == b"PK\x06\x06":
                count, length, offset = struct.unpack_from("<QQQ", record, 32)
    return offset, length, count


def _read_record(data: bytes, position: int) -> tuple[str, ZipEntry, int]:
    if data[position : position + 4] != b"PK\x01\x02":
        raise ValueError("an entry has no signature")
    method = struct.unpack_from("<H", data, position + 10)[0]
    packed, plain, name_length, extra_length, note_length = struct.unpack_from("<IIHHH", data, position + 20)
    offset = struct.unpack_from("<I", data, position + 42)[0]
    begin = position + 46
    name = data[begin : begin + name_length].decode("utf-8", "replace")
    extra = data[begin + name_length : begin + name_length + extra_length]
    plain, packed, offset = _widen(extra, plain, packed, offset)
    following = begin + name_length + extra_length + note_length
    return name, ZipEntry(-1, plain, packed, method, offset), following


def _widen(extra: bytes, plain: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Take the values that do not fit 32 bits from the zip64 extra field, in its fixed order."""
    values = [plain, packed, offset]
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            at = position + 4
            for index, value in enumerate(values):
                if value == 0xFFFFFFFF:
                    values[index] = struct.unpack_from("<Q", extra, at)[0]
                    at += 8
        position += 4 + length
    return values[0], values[1], values[2]


def _locate(path: Path, file: BinaryIO, entry: ZipEntry, size: int) -> ZipEntry:
    """Find where the bytes begin: the local header repeats the name and has an extra field of its own length."""
    if entry.offset + 30 > size:
        raise BadFileError(path, "an entry of its zip directory lies beyond the end", _DAMAGED)
    file.seek(entry.offset)
    local = file.read(30)
    if local[:4] != b"PK\x03\x04" or len(local) < 30:
        raise BadFileError(path, "an entry of its zip directory points nowhere", _DAMAGED)
    name_length, extra_length = struct.unpack_from("<HH", local, 26)
    start = entry.offset + 30 + name_length + extra_length
    if start + entry.packed > size:
        raise BadFileError(path, "an entry of its zip directory lies beyond the end", _DAMAGED)
    if entry.method == 0 and entry.packed != entry.size:
        raise BadFileError(path, "an entry of its zip directory has two sizes", _DAMAGED)
    return ZipEntry(start if entry.method == 0 else -1, entry.size, entry.packed, entry.method, entry.offset)


def read_entry(path: Path, file: BinaryIO, entry: ZipEntry, limit: int) -> bytes:
    """The bytes of a small entry, unpacked. Raises BadFileError where there are more than ``limit``."""
    if entry.size > limit or entry.packed > limit:
        raise BadFileError(path, "its pickle is larger than that of any model", _DAMAGED)
    file.seek(entry.offset)
    local = file.read(30)
    name_length, extra_length = struct.unpack_from("<HH", local, 26)
    file.seek(entry.offset + 30 + name_length + extra_length)
    packed = file.read(entry.packed)
    if entry.method == 0:
        return packed
    if entry.method != 8:
        raise BadFileError(path, f"it is packed by the unknown method {entry.method}", "Unpack it and save it again")
    try:
        return zlib.decompressobj(-15).decompress(packed, limit)
    except zlib.error as error:
        raise BadFileError(path, f"its pickle cannot be unpacked ({error})", _DAMAGED) from None
