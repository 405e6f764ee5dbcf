"""The user's own presets of block weights, kept in Modelsmith's data folder."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any, cast

from modelsmith.errors import UsageError
from modelsmith_webui.host import Host

logger = logging.getLogger(__name__)

FILE_NAME = "block-presets.json"
MOST = 500
LONGEST_NAME, LONGEST_TEXT = 40, 4000


class PresetStore:
    """Names with the text of their weights, as the text field has it."""

    def __init__(self, host: Host) -> None:
        self._host = host

    @property
    def path(self) -> Path:
        return self._host.data_folder() / FILE_NAME

    def all(self) -> dict[str, str]:
        """Every preset by its name; none where the file is missing or damaged."""
        try:
            found: Any = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be read: %s", self.path, error)
            return {}
        if not isinstance(found, dict):
            return {}
        return {str(name): str(text) for name, text in cast("dict[Any, Any]", found).items()}

    def keep(self, name: str, text: str) -> None:
        """Save a preset, or take it away where ``text`` is empty. Raises UsageError for a name or a text too long."""
        name, text = name.strip(), text.strip()
        if not name or len(name) > LONGEST_NAME or "," in name or "=" in name:
            raise UsageError(f"{name!r} cannot name a preset", f"Use 1 to {LONGEST_NAME} characters, no comma and no =")
        if len(text) > LONGEST_TEXT:
            raise UsageError("the preset is too long", f"Use at most {LONGEST_TEXT} characters")
        known = self.all()
        known.pop(name, None)
        if text:
            if len(known) >= MOST:
                raise UsageError(f"there are {MOST} presets already", "Delete one first")
            known[name] = text
        self._write(known)

    def _write(self, known: dict[str, str]) -> None:
        path = self.path
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        beside.write_text(json.dumps(known, ensure_ascii=False, indent=1), encoding="utf-8")
        os.replace(beside, path)
