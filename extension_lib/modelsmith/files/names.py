"""Names for output files: safe on every system that the webuis run on."""

from __future__ import annotations

import re
from pathlib import Path

from modelsmith.errors import UsageError

_RESERVED = frozenset(
    {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}
    | {f"{device}{number}" for device in ("COM", "LPT") for number in "123456789¹²³"}
)
_FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f\x7f]')
MAX_NAME_BYTES = 200
"""Most bytes of a name: file systems allow 255, and the temporary file beside it needs some for itself."""
MADE_NAME_BYTES = 176
"""Most bytes of a name that is made up here: a number and ``.recipe.safetensors`` may follow it."""


def check_output_name(name: str) -> str:
    """Return ``name`` if it can name a file in one folder on Linux, macOS and Windows; it may not leave that folder.

    Windows forbids ``<>:"|?*``, control characters, device names and a dot or blank at the end
    (learn.microsoft.com, "Naming Files, Paths, and Namespaces").
    Raises UsageError that says what is wrong with it.
    """
    if "/" in name or "\\" in name or name in (".", ".."):
        raise UsageError(f"the output name {name!r} has a path in it", "Give a name only; the folder is fixed")
    if not name.strip():
        raise UsageError("the output name is empty", "Give the new file a name")
    bad = _FORBIDDEN.search(name)
    if bad:
        raise UsageError(f"the output name {name!r} holds {bad.group()!r}", "Choose another name")
    if name.endswith((".", " ")) or name.startswith((".", " ")):  # hidden from every list where a dot leads
        raise UsageError(f"the output name {name!r} starts or ends with a blank or a dot", "Choose another name")
    if name.split(".")[0].rstrip().upper() in _RESERVED:
        raise UsageError(f"the output name {name!r} is a device name on Windows", "Choose another name")
    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise UsageError("the output name is too long", f"Use at most {MAX_NAME_BYTES} bytes")
    return name


def made_name(stem: str, ending: str = "") -> str:
    """A name out of the names of other files that ``check_output_name`` accepts, whatever they are.

    What a name may not hold becomes ``_``; where it is too long, ``stem`` is cut between two letters.
    """
    stem = re.sub(r"[/\\]", "_", _FORBIDDEN.sub("_", stem)).lstrip(". ")
    while stem and len(f"{stem}{ending}".encode("utf-8", "surrogatepass")) > MADE_NAME_BYTES:
        stem = stem[:-1]
    name = f"{stem}{ending}".rstrip(". ")
    return f"_{name}" if not name or name.split(".")[0].rstrip().upper() in _RESERVED else name


def output_path(folder: Path, name: str, ending: str = ".safetensors") -> Path:
    """Join a folder and a checked name, adding ``ending`` where the name lacks it."""
    checked = check_output_name(name)
    return folder / (checked if checked.lower().endswith(ending) else checked + ending)
