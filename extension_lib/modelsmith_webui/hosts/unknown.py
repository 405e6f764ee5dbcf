"""A webui that Modelsmith does not know, or no longer knows: what is missing, and an adapter that sets nothing.

Each adapter stands on a few names of its webui. Where one of them is gone, setting prediction types and schedules would
be guesswork, so nothing is set; files are still identified, and the advice is still given.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import replace

from modelsmith_webui.host import LoadedStatus
from modelsmith_webui.hosts.webui import WebuiHost

logger = logging.getLogger(__name__)

OFF_MISSING = "Automatic setting is off in this webui ({webui}): it has no {names}. Files are identified all the same."
OFF_UNKNOWN = "Automatic setting is off in this webui ({webui}), which is not known. Files are identified all the same."

# Per adapter: module, and a name in it (dots lead into a class) without which nothing could be set.
NEEDED: dict[str, tuple[tuple[str, str], ...]] = {
    "a1111": (
        ("modules.patches", "patch"),
        ("modules.sd_models", "model_data"),
        ("modules.sd_models", "apply_alpha_schedule_override"),
        ("modules.sd_models_config", "find_checkpoint_config"),
        ("modules.sd_models_config", "find_checkpoint_config_near_filename"),
    ),
    "forge": (
        ("modules.sd_models", "model_data"),
        ("backend.modules.k_prediction", "Prediction.set_sigmas"),
        ("backend.modules.k_prediction", "Prediction.calculate_denoised"),
    ),
    "ldm_forge": (
        ("modules.patches", "patch"),
        ("modules.sd_models", "model_data"),
        ("ldm_patched.modules.model_sampling", "EPS"),
        ("ldm_patched.modules.model_sampling", "V_PREDICTION"),
        ("ldm_patched.modules.model_sampling", "ModelSamplingDiscrete.set_sigmas"),
    ),
}
"""Forge's names are also Neo's, reForge's also Classic's."""


def missing(adapter: str) -> tuple[str, ...]:
    """The names that an adapter stands on and that this webui has not, as ``module.name``."""
    return tuple(f"{module}.{name}" for module, name in NEEDED[adapter] if not _exists(module, name))


def _exists(module: str, name: str) -> bool:
    try:
        found: object = importlib.import_module(module)
    except ImportError:
        return False
    for part in name.split("."):
        found = getattr(found, part, None)
        if found is None:
            return False
    return True


def _plain(text: str, **values: str) -> str:
    return text.format(**values)


class UnknownHost(WebuiHost):
    """Identifies and advises, sets nothing, and says so. ``gone`` names what it would have needed."""

    def __init__(self, name: str, gone: tuple[str, ...] = ()) -> None:
        super().__init__(name)
        self.gone = gone

    def notice(self, tr: Callable[..., str] | None = None) -> str:
        """Why nothing is set by itself here, for a person, in the language of ``tr``."""
        tr = tr or _plain
        if self.gone:
            return tr(OFF_MISSING, webui=self.name, names=", ".join(self.gone))
        return tr(OFF_UNKNOWN, webui=self.name)

    def install(self) -> None:
        logger.warning("%s", self.notice())

    def status(self) -> LoadedStatus | None:
        status = super().status()
        return None if status is None else replace(status, notes=(self.notice(),))
