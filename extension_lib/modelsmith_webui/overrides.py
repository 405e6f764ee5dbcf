"""The user's override for one file, kept in the json that the webui keeps beside a checkpoint (its user metadata)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

from modelsmith.decision import Override
from modelsmith.errors import BadFileError

KEY = "modelsmith"


def metadata_path(checkpoint: Path) -> Path:
    """The webui's user metadata of a file: the same name ending in .json."""
    return checkpoint.with_suffix(".json")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadFileError(path, f"the metadata cannot be read ({error})", "Mend or remove this file.") from error
    if not isinstance(found, dict):
        raise BadFileError(path, "the metadata is not a JSON object", "Mend or remove this file.")
    return cast("dict[str, Any]", found)


def read_override(checkpoint: Path) -> Override:
    """The override of a checkpoint; a missing or damaged metadata file counts as none."""
    try:
        return Override.from_json(_read(metadata_path(checkpoint)).get(KEY))
    except BadFileError:
        return Override()


def write_override(checkpoint: Path, override: Override) -> None:
    """Keep ``override``, all other keys of the metadata as they are; nothing is written where nothing changes.

    Raises BadFileError where the metadata beside the checkpoint is damaged or cannot be written.
    """
    path = metadata_path(checkpoint)
    metadata = _read(path)
    values = override.to_json()
    if metadata.get(KEY, {}) == values:
        return
    metadata.pop(KEY, None)
    if values:
        metadata[KEY] = values
    aside = path.with_name(f".{path.name}.modelsmith-{os.getpid()}.tmp")
    try:
        aside.write_text(json.dumps(metadata, indent=4, ensure_ascii=False), encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise BadFileError(path, f"cannot be written ({error.strerror})", "Check the folder's permissions.") from error
