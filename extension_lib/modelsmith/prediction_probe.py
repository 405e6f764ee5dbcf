"""What a denoising network predicts, told from how it answers to noise. A hint, never a proof.

Two numbers, both of the raw output of the network at the last timesteps, with an empty prompt and without guidance:

* The *gain* of output over input for pure noise at t = 999 (the slope of their regression; their correlation is
  reported too). A network that predicts the noise gives its input back there (1), one that predicts the velocity
  hardly any of it (0), and a weighted sum of two such networks that share of it, which a correlation would not show:
  it stays 1 however weak the noise in the output is. With a = sqrt(alphas_cumprod), b^2 = 1 - a^2 and
  signal power S per unit of noise, the gains are g_eps = (1 - a k) / b and g_v = a g_eps - b k, k = a S / (a^2 S + b^2)
  (the best linear denoiser of a Gaussian prior, with the targets of arXiv:2202.00512).
* The *response to an offset*, G(t) = (mean f(x + d, t) - mean f(x - d, t)) / 2d. A velocity network that was trained
  without zero terminal SNR has learnt that the mean of the noise tells of the picture's mean, and answers with G far
  below 0; with zero terminal SNR, t = 999 tells nothing and G(999) is near 0 while G at earlier steps is not. Their
  quotient does not depend on the unknown prior. For epsilon networks the two cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

Network = Callable[[torch.Tensor, int], torch.Tensor]
"""The raw network with an empty prompt: noisy latents of shape (B, C, H, W) with unit variance and a timestep from 0 to
999; its output has the same shape."""

Behaviour = Literal["epsilon", "v_prediction", "mixed", "unclear"]

LAST, EARLIER = 999, 950
# Between these a network answers as a blend of an epsilon and a velocity network does. Small trained networks gave
# 0.999 to 1.0 (epsilon) and 0.04 to 0.07 (velocity).
EPSILON_FROM, VELOCITY_TO = 0.75, 0.25
# Ideal quotients are 0.9 to 1.25 without zero terminal SNR and 0 with it; small trained networks gave 0.96 and 0.55.
ZTSNR_BELOW = 0.7
# A response to the offset that is smaller than this tells nothing.
SMALLEST_RESPONSE = 0.25


@dataclass(frozen=True)
class ProbeResult:
    """The numbers, and what they suggest. ``ztsnr`` None: they do not say."""

    gain: float
    correlation: float
    response: float
    earlier_response: float
    behaves_as: Behaviour
    ztsnr: bool | None

    def to_json(self) -> dict[str, float | str | bool | None]:
        return {
            "gain": self.gain,
            "correlation": self.correlation,
            "offset_response": self.response,
            "offset_response_950": self.earlier_response,
            "behaves_as": self.behaves_as,
            "zero_terminal_snr": self.ztsnr,
        }


def _likeness(output: torch.Tensor, noise: torch.Tensor) -> tuple[float, float]:
    """Slope of the regression of ``output`` on ``noise``, and their correlation; 0 for an output without variance."""
    found, given = (value.double().flatten() - value.double().mean() for value in (output, noise))
    product, found_power, given_power = float(found @ given), float(found @ found), float(given @ given)
    correlation = product / (found_power * given_power) ** 0.5 if found_power > 0 else 0.0
    return product / given_power, correlation


def _response(up: torch.Tensor, down: torch.Tensor, offset: float) -> float:
    return float((up.double().mean() - down.double().mean()) / (2.0 * offset))


def judge(gain: float, correlation: float, response: float, earlier_response: float) -> ProbeResult:
    """What the numbers suggest; see :class:`ProbeResult`."""
    behaves_as: Behaviour = "unclear"
    if gain >= EPSILON_FROM and correlation >= EPSILON_FROM:
        behaves_as = "epsilon"
    elif VELOCITY_TO < gain < EPSILON_FROM:
        behaves_as = "mixed"
    elif abs(gain) <= VELOCITY_TO and earlier_response <= 1.0:
        # A network that predicts the clean latent has no gain either, but answers an offset with its own sign.
        behaves_as = "v_prediction"
    ztsnr: bool | None = None
    if behaves_as == "v_prediction" and earlier_response < -SMALLEST_RESPONSE:
        ztsnr = response / earlier_response < ZTSNR_BELOW
    return ProbeResult(gain, correlation, response, earlier_response, behaves_as, ztsnr)


def probe(
    network: Network,
    shape: tuple[int, int, int] = (4, 64, 64),
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> ProbeResult:
    """Ask ``network`` five times, in two batches, about latents of ``shape`` (C, H, W), and judge its answers.

    The noise is the same for each seed on every device. Raises nothing of its own; a network whose answers hold NaN is
    "unclear".
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, *shape, generator=generator, dtype=torch.float32).to(device)
    # Twice the standard error of the mean of one channel: large against rounding, small against the noise.
    offset = 2.0 / (shape[1] * shape[2]) ** 0.5
    last = network(torch.cat([noise, noise + offset, noise - offset]), LAST).float()
    earlier = network(torch.cat([noise + offset, noise - offset]), EARLIER).float()
    if not bool(torch.isfinite(last).all()) or not bool(torch.isfinite(earlier).all()):
        return ProbeResult(float("nan"), float("nan"), float("nan"), float("nan"), "unclear", None)
    return judge(
        *_likeness(last[:1], noise),
        _response(last[1:2], last[2:3], offset),
        _response(earlier[:1], earlier[1:2], offset),
    )
