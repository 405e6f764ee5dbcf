"""CFG rescale in AUTOMATIC1111: on the denoiser object of one sampling, which is thrown away with its sampler.

The webui combines predictions in ``CFGDenoiser.combine_denoised``, of the denoised latent for k-diffusion's samplers
and of the noise for DDIM, PLMS and UniPC. Neither it nor its arguments tell the noisy latent and the noise level that
belong to them; both are noted by the on_cfg_denoiser callback of the same step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

WEBUI_MODULE = "modules.sd_samplers_cfg_denoiser"
NOTED = "_modelsmith_input"


def note_input(params: Any) -> None:
    """The webui's on_cfg_denoiser callback: keep the noisy latent and the noise level of a step that is rescaled."""
    denoiser = params.denoiser
    if NOTED in denoiser.__dict__:
        denoiser.__dict__[NOTED] = (params.x, params.sigma)


def _taken(denoiser: Any) -> bool:
    """Whether another extension has put its own guidance in the webui's place."""
    return type(denoiser).combine_denoised.__module__ != WEBUI_MODULE or "combine_denoised" in denoiser.__dict__


def install(p: Any, phi: float, yields: Callable[[], bool]) -> bool:
    """Rescale in the sampling that is about to begin; False where another extension guides it.

    ``yields`` is asked at each step whether another rescale is on.
    """
    denoiser = getattr(p.sampler, "model_wrap_cfg", None)
    if denoiser is None or _taken(denoiser):
        return False
    from modelsmith.cfg_rescale import rescale_denoised, rescale_noise

    combine = denoiser.combine_denoised
    by_timestep = hasattr(denoiser, "alphas")

    def combine_denoised(x_out: Any, conds_list: Any, uncond: Any, cond_scale: float) -> Any:
        guided = combine(x_out, conds_list, uncond, cond_scale)
        noted = denoiser.__dict__.get(NOTED)
        if noted is None or yields():
            return guided
        cond = combine(x_out, conds_list, uncond, 1.0)
        # The latents of the negative prompt come last; every one of them is the step's input.
        noisy, level = noted[0][-len(guided) :], noted[1][-len(guided) :]
        if by_timestep:
            # Read anew: a refiner brings its own table.
            alphas = denoiser.inner_model.inner_model.alphas_cumprod
            return rescale_noise(guided, cond, noisy, alphas[level.to(dtype=int)], phi)
        return rescale_denoised(guided, cond, noisy, level, phi)

    denoiser.__dict__[NOTED] = None
    denoiser.__dict__["combine_denoised"] = combine_denoised
    return True
