"""The usual safetensors header, read column by column.

Nearly every writer spells the header in one way: no spaces, no escapes, ``dtype``, ``shape`` and ``data_offsets`` in
this order. Cut at its quotation marks, such a text has ten pieces an entry, and every column of pieces is checked
whole by functions that are written in C: a third of the time that it takes to walk over the entries. Whatever is
spelled in another way or fails a check is left to the careful reader, which names the fault.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from itertools import repeat
from operator import sub
from typing import Any, cast

from modelsmith.files.header import TensorInfo

Kind = tuple[str, tuple[int, ...], int | None]
CheckKind = Callable[[object, object], Kind]

_METADATA = '{"__metadata__":'
# What stands between the values of an entry, by its place among the ten pieces.
_FIXED = ((2, ":{"), (3, "dtype"), (4, ":"), (6, ","), (7, "shape"), (9, "data_offsets"))


def read_columns(
    text: str, base: int, size: int, check: CheckKind
) -> tuple[dict[str, str], dict[str, TensorInfo]] | None:
    """(metadata, tensors) of a header text in the usual spelling; None where anything at all is unusual.

    base: where the data begin in the file. size: of the whole file, which the tensors must fill in the header's order.
    check: gives (dtype, shape, bytes) of a tensor and raises ValueError for what cannot be.
    """
    metadata: dict[str, str] = {}
    try:
        if text.startswith(_METADATA):
            found, end = json.JSONDecoder(object_pairs_hook=_once).raw_decode(text, len(_METADATA))
            if not isinstance(found, dict) or text[end : end + 1] != ",":
                return None
            metadata = cast("dict[str, str]", found)
            if not set(map(type, metadata.values())) <= {str}:
                return None
            text = "{" + text[end + 1 :]
        tensors = _read_entries(text.rstrip(" "), base, size, check)
    except (ValueError, RecursionError):
        return None
    return None if tensors is None or "__metadata__" in tensors else (metadata, tensors)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _read_entries(text: str, base: int, size: int, check: CheckKind) -> dict[str, TensorInfo] | None:
    """The tensors, if the text is of the one spelling and each begins where the one before it ends."""
    if "\\" in text:
        return None  # without an escape, every quotation mark begins or ends a text
    pieces = text.split('"')
    if len(pieces) % 10 != 1 or len(pieces) < 11 or pieces[0] != "{":
        return None
    names = pieces[1::10]
    if any(pieces[place::10].count(fixed) != len(names) for place, fixed in _FIXED):
        return None
    json.loads(f'"{"".join(names)}"')  # refuses what JSON refuses in a text: control characters
    numbers = _places(pieces[10::10])
    if numbers is None:
        return None
    starts, ends = numbers[::2], numbers[1::2]
    if starts[0] != 0 or base + ends[-1] != size or starts[1:] != ends[:-1]:
        return None
    lengths = list(map(sub, ends, starts))
    columns = (pieces[5::10], pieces[8::10], lengths)
    shapes = _shapes(zip(*columns, strict=True), check)
    if shapes is None:
        return None
    make: Callable[[tuple[object, ...]], TensorInfo] = partial(tuple.__new__, TensorInfo)  # pyright: ignore
    sides = map(shapes.__getitem__, columns[1])
    rows = zip(columns[0], sides, map(base.__add__, starts), lengths, repeat(None), repeat(None))
    tensors = dict(zip(names, map(make, rows), strict=True))
    return tensors if len(tensors) == len(names) else None


def _places(pieces: list[str]) -> list[int] | None:
    """First and last byte of every tensor in one list, from ``:[0,64]},`` ... ``:[64,72]}}``.

    With exactly one colon a piece, at its start, every border between two pieces is the ``]},:[`` that is replaced,
    or a colon is left over and the list is no JSON; and with one comma between two numbers each piece has two.
    """
    text = "".join(pieces)
    count = len(pieces)
    if text.count(":") != count or not text.endswith("]}}") or not all(map(str.startswith, pieces, repeat(":["))):
        return None
    if list(map(str.count, pieces, repeat(","))) != [2] * (count - 1) + [1]:
        return None
    numbers: list[Any] = json.loads(f"[{text[2:-3].replace(']},:[', ',')}]")
    return numbers if len(numbers) == 2 * count and set(map(type, numbers)) == {int} else None


def _shapes(kinds: Iterable[tuple[str, str, int]], check: CheckKind) -> dict[str, tuple[int, ...]] | None:
    """Shapes by their text, if the bytes of each kind of tensor are as many as its dtype and shape need."""
    found: dict[str, tuple[int, ...]] = {}
    unlike = list(set(kinds))  # about eighty in an SDXL file of 2,515 tensors
    if not all(text.startswith(":[") and text.endswith("],") for _, text, _ in unlike):
        return None
    # Lists within a list would be found as sides, and two lists in one text as one list too many.
    shapes: list[object] = json.loads(f"[{','.join([text[1:-1] for _, text, _ in unlike])}]")
    for (dtype, text, length), sides in zip(unlike, shapes, strict=True):
        _, shape, needed = check(dtype, sides)
        if length < 0 or (needed is not None and needed != length) or not dtype.isprintable():
            return None
        found[text] = shape
    return found
