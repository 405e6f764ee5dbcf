"""The picture beside a model file, as the webuis keep it: small, and made part of the page."""

from __future__ import annotations

import base64
import io
import logging
from functools import lru_cache
from pathlib import Path

logger = logging.getLogger(__name__)

ENDINGS = (".preview.png", ".preview.jpg", ".preview.jpeg", ".preview.webp", ".png", ".jpg", ".jpeg", ".webp")
SIDE = 320  # pixels
_LARGEST = 40_000_000  # bytes of the picture's file


def picture_of(model: Path) -> Path | None:
    """The picture of a model: beside it and of the same name. ``model`` must be one of the host's own files."""
    return next((path for ending in ENDINGS if (path := model.with_suffix(ending)).is_file()), None)


def preview_uri(model: Path) -> str | None:
    """A small JPEG of the model's picture as a data URI, None where there is none that can be shown."""
    path = picture_of(model)
    if path is None:
        return None
    try:
        found = path.stat()
        return _thumbnail(path, found.st_mtime_ns) if found.st_size <= _LARGEST else None
    except OSError:
        return None


@lru_cache(maxsize=64)
def _thumbnail(path: Path, changed: int) -> str | None:
    """``changed`` is the time of change, so that a new picture of the same name is seen."""
    try:
        from PIL import Image
    except ImportError:  # every webui has it
        return None
    made = io.BytesIO()
    try:
        with Image.open(path) as picture:
            picture.draft("RGB", (SIDE, SIDE))
            picture.thumbnail((SIDE, SIDE))
            picture.convert("RGB").save(made, "JPEG", quality=85)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        logger.info("%s is not shown: %s", path, error)
        return None
    return "data:image/jpeg;base64," + base64.b64encode(made.getvalue()).decode("ascii")
