"""Modelsmith's entry into the webui: callbacks are registered here and nowhere else."""

from __future__ import annotations

import sys
from pathlib import Path

_LIBRARY = str(Path(__file__).resolve().parent.parent / "extension_lib")
if _LIBRARY not in sys.path:
    sys.path.append(_LIBRARY)

from modules import script_callbacks, scripts  # noqa: E402

from modelsmith_webui import app  # noqa: E402

ModelsmithScript = app.register(script_callbacks, scripts)
