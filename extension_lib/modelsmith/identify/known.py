"""VAEs that are known by a hash: of the whole file, or of one small tensor that is the same wherever the VAE is.

The tensor is ``decoder.conv_in.bias``, rounded to fp16 so that the dtype it is stored in does not matter, and hashed
with SHA-256. The table that comes along names whole files only, by hashes that many public lists agree on; a user
adds tensors (and files) in a JSON file of the same form::

    {"files": {"<sha256>": "my VAE"}, "tensors": {"<sha256>": "my VAE"}}
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import cast

from modelsmith.errors import BadFileError
from modelsmith.files.header import FileHeader
from modelsmith.files.ranges import small_hash

TABLE_VARIABLE = "MODELSMITH_KNOWN_VAES"
"""Environment variable that names the user's own table."""
TENSOR = "decoder.conv_in.bias"

FILES: Mapping[str, str] = {
    "63aeecb90ff7bc1c115395962d3e803571385b61938377bc7089b36e81e92e2e": "sdxl_vae",
    "235745af8d86bf4a4c1b5b4f529868b37019a10f7c0b2e79ad0abca3a22bc6e1": "sdxl-vae-fp16-fix",
    "735e4c3a447a3255760d7f86845f09f937809baa529c17370d83e4c3758f3c75": "vae-ft-mse-840000",
}


@dataclass(frozen=True)
class Table:
    """Names by hash, of files and of the small tensor."""

    files: Mapping[str, str] = field(default_factory=lambda: FILES)
    tensors: Mapping[str, str] = field(default_factory=dict[str, str])


def read_table(path: Path) -> Table:
    """The shipped table with a user's added. Raises BadFileError where the file is not of the form above."""
    try:
        found: object = json.loads(path.read_bytes())
    except OSError as error:
        raise BadFileError(path, f"it cannot be read ({error.strerror})", "Check the name") from error
    except (ValueError, RecursionError) as error:
        raise BadFileError(path, f"it is not valid JSON ({str(error)[:100]})", "Mend it") from None
    root = cast("dict[str, object]", found) if isinstance(found, dict) else {}
    parts: list[dict[str, str]] = []
    for name in ("files", "tensors"):
        part = root.get(name, {})
        if not isinstance(part, dict):
            raise BadFileError(path, f"its {name!r} is not a table of names by hash", "Mend it")
        parts.append({str(key).lower(): str(value) for key, value in cast("dict[object, object]", part).items()})
    return Table({**FILES, **parts[0]}, parts[1])


@lru_cache(maxsize=4)
def _read_cached(path: str, changed: int) -> Table:
    return read_table(Path(path))


def user_table() -> Table:
    """The shipped table with the one that ``MODELSMITH_KNOWN_VAES`` names; a table that cannot be read adds nothing."""
    path = os.environ.get(TABLE_VARIABLE, "")
    if not path:
        return Table()
    try:
        return _read_cached(path, Path(path).stat().st_mtime_ns)
    except (OSError, BadFileError):
        return Table()


def tensor_hash(header: FileHeader, prefix: str) -> str | None:
    """The hash of a VAE's small tensor, None where it has none that can be read or where it is a hole of zeros."""
    name = prefix + TENSOR
    try:
        found = small_hash(header, name)
    except BadFileError:
        return None
    return None if found in _HOLES else found


def known_vae(header: FileHeader, prefix: str) -> str | None:
    """The name of a VAE by its small tensor; the tensor is read only where the table names any."""
    table = user_table()
    if not table.tensors:
        return None
    found = tensor_hash(header, prefix)
    return None if found is None else table.tensors.get(found)


# 512 zeros in fp16, as a sparse file answers
_HOLES = frozenset({"5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"})
