"""The tab's words in the user's language, from the same table that the webui's localisation uses."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from modelsmith.errors import ModelsmithError

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).resolve().parents[3] / "localizations"


@functools.cache
def translations(language: str) -> dict[str, str]:
    """English text to translation; empty for English and for a language without a table.

    ``language`` is a table's name (``ja_JP``) or begins as one does (``ja``).
    """
    wanted = language.lower().replace("-", "_").split("_")[0]
    for path in sorted(FOLDER.glob("*.json")):
        if wanted and path.stem.lower().split("_")[0] == wanted:
            try:
                return {str(key): str(value) for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
            except (OSError, ValueError) as error:
                logger.warning("%s cannot be read: %s", path, error)
    return {}


def short_code(language: str) -> str:
    """``ja`` for ``ja_JP``; ``en`` where nothing is chosen."""
    return language.lower().replace("-", "_").split("_")[0] if translations(language) else "en"


class Texts:
    """Translates by the exact English text, and fills in what stands in braces.

    ``language`` is asked anew for each text, because a user may change it while the tab is open.
    """

    def __init__(self, language: Callable[[], str]) -> None:
        self._language = language

    def __call__(self, text: str, **values: object) -> str:
        translated = translations(self._language()).get(text, text)
        return translated.format(**values) if values else translated

    def said(self, text: str) -> str:
        """A note or a finding of the library, in the user's language where the library has it."""
        from modelsmith.japanese import in_japanese

        return in_japanese(text) if self.message_language == "ja" else str(text)

    def error(self, error: ModelsmithError) -> tuple[str, str]:
        """What is wrong and what to do, in the user's language where the library has it."""
        return error.in_language(self.message_language)

    @property
    def message_language(self) -> Literal["en", "ja"]:
        """The language in which the library's own messages are shown: the nearest that it has."""
        return "ja" if short_code(self._language()) == "ja" else "en"
