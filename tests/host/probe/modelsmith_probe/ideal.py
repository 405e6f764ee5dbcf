"""Puts the best possible network for Gaussian latents in the place of the one in memory, so that answers are known.

The webui's own way to the network stays: which timestep it is given, in which precision, and on what scale.
"""

from __future__ import annotations

from typing import Any

_replaced: dict[str, Any] = {}


def _gains(kind: str, size: int, t: int) -> Any:
    """Gain of each frequency, shape (size, size // 2 + 1), for a 1/f spectrum whose mean has deviation 0.5."""
    import torch

    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    signal = torch.cumprod(1 - betas, 0).sqrt()
    if kind == "v_ztsnr":
        signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    a = signal[t]
    b = (1 - a**2).sqrt()
    rows, columns = torch.fft.fftfreq(size).double(), torch.fft.rfftfreq(size).double()
    frequency = (rows[:, None] ** 2 + columns[None, :] ** 2).sqrt().clamp(min=0.5 / size)
    power = 1 / (frequency * size) ** 2
    power = power / power.mean() * 0.75
    power[0, 0] = 0.25 * size * size
    k = a * power / (a**2 * power + b**2)
    epsilon = (1 - a * k) / b
    velocity = a * epsilon - b * k
    return {"epsilon": epsilon, "mixed": (epsilon + velocity) / 2}.get(kind, velocity)


def replace(network: Any, kind: str) -> None:
    """``kind``: epsilon, v, v_ztsnr, mixed; none puts the real network back."""
    import torch

    if "network" in _replaced:
        del _replaced.pop("network").forward
    if kind == "none":
        return

    def forward(x: Any, timesteps: Any = None, *_args: Any, **_kwargs: Any) -> Any:
        found = []
        for one, t in zip(x[:, :4].double(), timesteps, strict=True):
            size = one.shape[-1]
            gains = _gains(kind, size, round(float(t)))
            found.append(torch.fft.irfft2(torch.fft.rfft2(one) * gains, s=(size, size)))
        return torch.stack(found).to(x.dtype)

    network.forward = forward
    _replaced["network"] = network
