"""Modelsmith's section in the webui's settings."""

from __future__ import annotations

from typing import Any

SECTION = ("modelsmith", "Modelsmith")
ENABLED = "modelsmith_enabled"
BADGE = "modelsmith_badge"

DEFAULTS: dict[str, Any] = {ENABLED: True, BADGE: True}


def get(name: str) -> Any:
    """A setting's value; the default while the webui has not registered the settings yet (its first load)."""
    from modules import shared

    value = getattr(shared.opts, name, None)
    return DEFAULTS[name] if value is None else value


def register(on_enabled_change: Any) -> None:
    """Add the settings. ``on_enabled_change`` is called without arguments when automatic handling is switched."""
    from modules import shared
    from modules.options import OptionInfo

    def add(name: str, label: str, info: str, onchange: Any = None) -> None:
        option = OptionInfo(DEFAULTS[name], label, section=SECTION, onchange=onchange)
        shared.opts.add_option(name, option.info(info))

    add(
        ENABLED,
        "Set prediction type and ZTSNR by itself",
        "from what is known of the chosen checkpoint; off leaves the webui as it is",
        on_enabled_change,
    )
    add(BADGE, "Show what the chosen checkpoint is beside the checkpoint selector", "needs a reload of the UI")
