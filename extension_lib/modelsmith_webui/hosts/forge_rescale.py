"""CFG rescale in the Forge family: a function after guidance, on a clone of the UNet that lives for one sampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def install(p: Any, phi: float, yields: Callable[[], bool]) -> bool:
    """Rescale in the sampling that is about to begin; whether the host can do that.

    ``yields`` is asked at each step, when all scripts have had their turn, whether another rescale is on. The host
    starts each sampling from a UNet without the functions of scripts, so nothing is left for the next one.
    """
    objects = getattr(p.sd_model, "forge_objects", None)
    unet = getattr(objects, "unet", None)
    if unet is None or not hasattr(unet, "set_model_sampler_post_cfg_function"):
        return False
    from modelsmith.cfg_rescale import rescale_denoised

    def after_guidance(args: dict[str, Any]) -> Any:
        guided = args["denoised"]
        if yields():
            return guided
        return rescale_denoised(guided, args["cond_denoised"], args["input"], args["sigma"], phi)

    patched = unet.clone()
    patched.set_model_sampler_post_cfg_function(after_guidance)
    p.sd_model.forge_objects.unet = patched
    return True
