"""CFG rescale in the Forge family: a function after guidance, on a clone of the UNet that lives for one sampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

FUNCTIONS = "sampler_post_cfg_function"
OURS = "_modelsmith_cfg_rescale"


def install(p: Any, phi: float, yields: Callable[[], bool]) -> bool:
    """Rescale in the sampling that is about to begin; whether the host can do that.

    ``yields`` is asked at each step, when all scripts have had their turn, whether another rescale is on. The host
    starts each picture from a UNet without the functions of scripts, so nothing is left for the next one.
    """
    unet = getattr(getattr(p.sd_model, "forge_objects", None), "unet", None)
    if unet is None or not hasattr(unet, "set_model_sampler_post_cfg_function"):
        return False
    from modelsmith.cfg_rescale import rescale_denoised

    def after_guidance(args: dict[str, Any]) -> Any:
        guided = args["denoised"]
        if yields():
            return guided
        return rescale_denoised(guided, args["cond_denoised"], args["input"], args["sigma"], phi)

    setattr(after_guidance, OURS, True)
    patched = unet.clone()
    _take_out(patched)
    patched.set_model_sampler_post_cfg_function(after_guidance)
    p.sd_model.forge_objects.unet = patched
    return True


def uninstall(p: Any) -> None:
    """Take the function of an earlier sampling out: without a LoRA, Classic makes the hires pass with the UNet that the
    first pass has left."""
    unet: Any = getattr(getattr(p.sd_model, "forge_objects", None), "unet", None)
    if any(hasattr(one, OURS) for one in getattr(unet, "model_options", {}).get(FUNCTIONS, ())):
        clean = unet.clone()
        _take_out(clean)
        p.sd_model.forge_objects.unet = clean


def _take_out(unet: Any) -> None:
    functions = unet.model_options.get(FUNCTIONS)
    if functions:
        unet.model_options[FUNCTIONS] = [one for one in functions if not hasattr(one, OURS)]
