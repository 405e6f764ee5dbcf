"""CFG rescale in the space of the velocity, for samplers that work with the denoised picture or with the noise.

Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed" (arXiv:2305.08891), section 3.4, with the
model's output being the velocity v::

    v_cfg = v_uncond + w (v_cond - v_uncond)
    v_out = phi v_cfg std(v_cond) / std(v_cfg) + (1 - phi) v_cfg

The standard deviation is taken per sample over channels, height and width. Both forms below compute exactly this: in
each the velocity is an affine function of what the sampler holds, ``v = c (y - m)`` with the same c and m for all
predictions at one noise level, so c cancels in the quotient and only the centre m is needed.
"""

from __future__ import annotations

import torch


def _rescale(guided: torch.Tensor, cond: torch.Tensor, centre: torch.Tensor, phi: float) -> torch.Tensor:
    """``centre + (guided - centre) * k`` with the paper's factor k of each sample; computed in single precision."""
    centred, reference = guided.float() - centre, cond.float() - centre
    axes = tuple(range(1, guided.dim()))
    wanted = reference.std(dim=axes, keepdim=True)
    found = centred.std(dim=axes, keepdim=True)
    ratio = torch.where(found > 0, wanted / found, torch.ones_like(found))
    return (centre + centred * (1.0 - phi + phi * ratio)).to(guided.dtype)


def _per_sample(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Shape (B,) or () as (B, 1, 1, ...) in single precision."""
    return value.to(like.device).float().reshape(-1, *([1] * (like.dim() - 1)))


def rescale_denoised(
    guided: torch.Tensor, cond: torch.Tensor, noisy: torch.Tensor, sigma: torch.Tensor, phi: float
) -> torch.Tensor:
    """For predictions D of the clean latent, as k-diffusion has them: ``noisy = x0 + sigma noise``.

    ``guided`` and ``cond`` are D with and without guidance, all of shape (B, C, ...); ``sigma`` has shape (B,) or ().
    With s = sigma, v = (noisy / (s^2 + 1) - D) sqrt(s^2 + 1) / s, so the centre is noisy / (s^2 + 1).
    """
    level = _per_sample(sigma, noisy)
    return _rescale(guided, cond, noisy.float() / (level**2 + 1.0), phi)


def rescale_noise(
    guided: torch.Tensor, cond: torch.Tensor, noisy: torch.Tensor, alpha_cumprod: torch.Tensor, phi: float
) -> torch.Tensor:
    """For predictions e of the noise, as DDIM has them: ``noisy = a x0 + b noise``, a^2 = ``alpha_cumprod`` = 1 - b^2.

    ``guided`` and ``cond`` are e with and without guidance, all of shape (B, C, ...); ``alpha_cumprod`` has shape (B,)
    or (). v = (e - b noisy) / a, so the centre is b noisy.
    """
    level = _per_sample(alpha_cumprod, noisy)
    return _rescale(guided, cond, noisy.float() * (1.0 - level).sqrt(), phi)
