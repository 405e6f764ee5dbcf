"""Noise schedules of the Stable Diffusion family as pure functions on float64 arrays.

All arrays have the shape (T,), index 0 is the least noisy step. ``alphas_cumprod`` is the cumulative product of
``1 - beta``; ``sigma = sqrt((1 - alphas_cumprod) / alphas_cumprod)`` is the noise level of k-diffusion.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

LINEAR_START = 0.00085
LINEAR_END = 0.012
STEPS = 1000

# What stands in for alphas_cumprod = 0 at the last step, so that sigma stays finite (4518.76). AUTOMATIC1111, the Forge
# family and ComfyUI all use this number, so pictures made with any of them agree.
TERMINAL_ALPHAS_CUMPROD = 4.8973451890853435e-08


def alphas_cumprod(
    steps: int = STEPS, linear_start: float = LINEAR_START, linear_end: float = LINEAR_END
) -> FloatArray:
    """The "scaled linear" schedule that SD1, SD2 and SDXL were trained with, shape (steps,).

    beta_t = (sqrt(start) + t / (steps - 1) * (sqrt(end) - sqrt(start)))^2 (Rombach et al. 2021, latent-diffusion's
    ``make_beta_schedule("linear")``).
    """
    betas = np.linspace(linear_start**0.5, linear_end**0.5, steps, dtype=np.float64) ** 2
    return np.cumprod(1.0 - betas)


def zero_terminal_snr(plain: FloatArray, terminal: float = TERMINAL_ALPHAS_CUMPROD) -> FloatArray:
    """Rescale a schedule so that its last step holds no signal (zero terminal SNR), shape kept.

    s'_t = (s_t - s_T) * s_0 / (s_0 - s_T) with s = sqrt(alphas_cumprod), from Lin et al., arXiv 2305.08891,
    algorithm 1. The last value, exactly 0 in the paper, is set to ``terminal``. A schedule that already ends at or
    below ``terminal`` is returned as it is, so the function may be applied twice.
    """
    if plain[-1] <= terminal:
        return plain.copy()
    signal = np.sqrt(plain)
    rescaled = (signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))
    result = rescaled**2
    result[-1] = terminal
    return result


def sigmas(cumprod: FloatArray) -> FloatArray:
    """k-diffusion's noise levels of a schedule, ``sqrt((1 - a) / a)``, shape kept (Karras et al. 2206.00364)."""
    return np.sqrt((1.0 - cumprod) / cumprod)


def model_schedule(ztsnr: bool) -> FloatArray:
    """``alphas_cumprod`` of an SD1, SD2 or SDXL model, plain or with zero terminal SNR, shape (1000,)."""
    plain = alphas_cumprod()
    return zero_terminal_snr(plain) if ztsnr else plain
