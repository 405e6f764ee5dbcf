"""A file that was dropped into the page: of a .safetensors file only the header comes here, and never the weights."""

from __future__ import annotations

import json
import struct
from typing import Any

from modelsmith.errors import BadFileError, UsageError
from modelsmith.files.safetensors_header import read_start
from modelsmith.identify.identifier import identify_header, unreadable
from modelsmith.identify.report import Report

LIMIT = 16_000_000
"""Bytes of a header that the page sends; those of real models have at most a few million."""


def dropped_report(message: str) -> Report | None:
    """The report of what the page sent, None where it sent nothing.

    The message has ``name``, ``size`` (of the whole file), ``length`` (as its first eight bytes say) and ``header``.
    Raises UsageError for a file of another format, which only the machine that has it can read.
    """
    if not message:
        return None
    try:
        found: dict[str, Any] = json.loads(message)
        name, size, length = str(found["name"])[:300], int(found["size"]), int(found["length"])
        text: str | None = found["header"]
        prefix = struct.pack("<Q", length)
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise UsageError("the page sent something that is no header", "Load the page anew.") from error
    if text is None:
        raise UsageError(
            f"{name} is no .safetensors file",
            "Put the file into the models folder and choose it in the list.",
        )
    try:
        return identify_header(read_start(name, prefix + text.encode("utf-8", "surrogatepass"), size))
    except BadFileError as error:
        return unreadable(name, error)
