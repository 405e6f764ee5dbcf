"""The probe's entry into the webui: narrows models to the width of the file and reports what the sampler saw."""

from __future__ import annotations

import sys
from pathlib import Path

_FOLDER = str(Path(__file__).resolve().parent.parent)
if _FOLDER not in sys.path:
    sys.path.append(_FOLDER)

from modelsmith_probe import record  # noqa: E402
from modules import script_callbacks  # noqa: E402

record.install()
script_callbacks.on_model_loaded(record.model_loaded)
script_callbacks.on_cfg_denoiser(record.sampler_step)
record.watch_guidance(script_callbacks)
script_callbacks.on_app_started(record.add_routes)
