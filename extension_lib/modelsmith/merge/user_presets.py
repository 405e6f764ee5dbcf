"""Block weights that a user keeps under a name: one small JSON file, read by the tab and the command line alike."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, cast

from modelsmith.errors import BadFileError, UnknownNameError, UsageError
from modelsmith.merge.blocks import BlockLayout, parse_weights
from modelsmith.merge.presets import BY_GROUP, PRESETS

FILE = "presets.json"
VERSION = 1
_NAME = re.compile(r"[^\s,=][^,=\n]{0,63}")


def default_path() -> Path:
    """Where the command line keeps them: ``MODELSMITH_PRESETS``, else the user's folder for settings."""
    given = os.environ.get("MODELSMITH_PRESETS")
    if given:
        return Path(given)
    base = os.environ.get("APPDATA") or os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "modelsmith" / FILE


class UserPresets:
    """The presets in one file; weights are text as ``blocks.parse_weights`` reads it. The file is read anew each time,
    so that several programs may share it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def all(self) -> dict[str, str]:
        """Weights by name, sorted. Raises BadFileError for a file that is damaged."""
        if not self.path.exists():
            return {}
        try:
            found: Any = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadFileError(self.path, f"it cannot be read ({error})", "Mend or delete it") from error
        presets: Any = cast("dict[str, Any]", found).get("presets") if isinstance(found, dict) else None
        if not isinstance(presets, dict):
            raise BadFileError(self.path, "it holds no presets", "Mend or delete it")
        named = cast("dict[str, Any]", presets)
        return {name: str(named[name]) for name in sorted(named)}

    def weights(self, name: str) -> str:
        """The weights of one preset. Raises UnknownNameError with the nearest name, known ones among them."""
        found = self.all()
        if name not in found:
            raise UnknownNameError("preset", name, (*found, *PRESETS, *BY_GROUP))
        return found[name]

    def save(self, name: str, weights: str, layout: BlockLayout) -> None:
        """Keep weights under a name, in place of those that it had. Raises UsageError for weights that the layout
        cannot take and for a name that is not one, UnknownNameError for a block that is unknown."""
        name = name.strip()
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} cannot be a preset's name", "Use up to 64 letters, no comma and no =")
        if name.upper() in PRESETS or name.upper() in BY_GROUP:
            raise UsageError(f"the preset {name} is a known one", "Choose another name")
        parse_weights(weights, layout)
        self._write({**self.all(), name: weights})

    def delete(self, name: str) -> None:
        """Forget a preset. Raises UnknownNameError."""
        self.weights(name)
        self._write({key: value for key, value in self.all().items() if key != name})

    def _write(self, presets: dict[str, str]) -> None:
        text = json.dumps({"version": VERSION, "presets": presets}, ensure_ascii=False, indent=1)
        aside = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(text, encoding="utf-8")
            os.replace(aside, self.path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise UsageError(f"{self.path} cannot be written ({error.strerror})", "Check its folder") from error
