"""Modelsmith's section in the webui's settings."""

from __future__ import annotations

from typing import Any

SECTION = ("modelsmith", "Modelsmith")
ENABLED = "modelsmith_enabled"
BADGE = "modelsmith_badge"
CFG_RESCALE = "modelsmith_cfg_rescale"
PROBE = "modelsmith_probe"
VAE = "modelsmith_vae"
VAE_QUICKSETTING = "modelsmith_vae_quicksetting"
# Not a setting: that the webui's VAE selector was put among the quicksettings, so that it is done once only.
VAE_QUICKSETTING_DONE = "modelsmith_vae_quicksetting_done"

RECIPE_CACHE = "modelsmith_recipe_cache"

DEFAULTS: dict[str, Any] = {
    RECIPE_CACHE: 2.0,
    ENABLED: True,
    BADGE: True,
    VAE: True,
    VAE_QUICKSETTING: True,
    CFG_RESCALE: 0.0,
    PROBE: False,
}


def get(name: str) -> Any:
    """A setting's value; the default while the webui has not registered the settings yet (its first load)."""
    from modules import shared

    value = getattr(shared.opts, name, None)
    return DEFAULTS[name] if value is None else value


def register(on_enabled_change: Any, vae: Any = None, can_probe: bool = False) -> None:
    """Add the settings. ``on_enabled_change`` is called without arguments when automatic handling is switched.

    ``vae`` is the host's VaeKeeper, None where it has none; ``can_probe``: it can ask the model in memory.
    """
    import gradio as gr
    from modules import shared
    from modules.options import OptionInfo

    def add(name: str, label: str, info: str, onchange: Any = None, component: Any = None, most: int = 1) -> None:
        bounds = {"minimum": 0, "maximum": most, "step": 0.05 if most == 1 else 0.5} if component is not None else None
        option = OptionInfo(DEFAULTS[name], label, component, bounds, section=SECTION, onchange=onchange)
        shared.opts.add_option(name, option.info(info))

    add(
        ENABLED,
        "Set prediction type and ZTSNR by itself",
        "from what is known of the chosen checkpoint; off leaves the webui as it is",
        on_enabled_change,
    )
    add(BADGE, "Show what the chosen checkpoint is beside the checkpoint selector", "needs a reload of the UI")
    add(
        CFG_RESCALE,
        "CFG rescale of v-prediction models with ZTSNR",
        "0 is off, 0.2 to 0.7 is usual; for one picture it is chosen in txt2img and img2img",
        component=gr.Slider,
    )
    if can_probe:
        add(
            PROBE,
            "Ask models whose prediction type is in doubt what they predict",
            "once per file, before its first picture: five answers of the model; it hints and sets nothing",
        )
    add(
        RECIPE_CACHE,
        "Memory for merged tensors of recipe checkpoints, in GB",
        "the next recipe computes only the blocks that changed, as far as they are kept; 0 keeps none",
        component=gr.Slider,
        most=64,
    )
    if vae is None:
        return
    add(
        VAE,
        "Use a VAE that fits",
        "refuses one of another family, and chooses one where nothing else is chosen; off leaves the webui as it is",
        vae.reapply,
    )
    if vae.quicksetting:
        add(
            VAE_QUICKSETTING,
            "Show the VAE selector beside the checkpoint selector",
            "put there once; you may remove it from the quicksettings for good; needs a reload of the UI",
            vae.quicksetting_changed,
        )
        vae.join_quicksettings()
