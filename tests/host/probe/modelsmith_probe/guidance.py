"""Makes the prompt matter, and measures what guidance made of the model's two answers in each step.

The small checkpoints' text encoders say nothing, so with and without prompt the model answers the same and no
guidance changes a picture. On request a fixed pattern is added to the prompt's conditioning. The velocity is then
worked out from the answers by the formulas of arXiv:2305.08891 and arXiv:2202.00512, in double precision, and the share
of the rescale that the result holds is measured, not taken from any setting.
"""

from __future__ import annotations

from typing import Any

from modelsmith_probe import record

_strength = {"value": 0.0}
# The answers of the step that runs: input, noise level, with and without prompt.
_answers: dict[str, Any] = {}


def set_strength(value: float) -> None:
    """How strongly the pattern is put into the prompt's conditioning; 0 leaves it alone."""
    _strength["value"] = value


def before_step(params: Any) -> None:
    """The on_cfg_denoiser callback, before anything is made of the conditioning."""
    _answers.clear()
    if not _strength["value"]:
        return
    _answers.update(x=params.x, level=params.sigma)
    given = params.text_cond
    if isinstance(given, dict):
        given["crossattn"] = _altered(given["crossattn"])
    else:
        params.text_cond = _altered(given)


def _altered(tensor: Any) -> Any:
    import torch

    pattern = torch.randn(tensor.shape[1:], generator=torch.Generator().manual_seed(5)) * _strength["value"]
    return tensor + pattern.to(tensor)


def answered(cond: Any, uncond: Any) -> None:
    """What the model said with and without the prompt."""
    if _answers:
        _answers.update(cond=cond, uncond=uncond)


def after_step(params: Any, cond_scale: float, alphas_cumprod: Any = None) -> None:
    """The on_cfg_after_cfg callback. With ``alphas_cumprod`` the sampler works with noise, else with latents."""
    if "cond" not in _answers or _answers["uncond"] is None:
        return
    given = [_answers[name].double() for name in ("cond", "uncond")] + [params.x.double()]
    count = len(given[0])
    x, level = _answers["x"][-count:].double(), _answers["level"][-count:]
    if alphas_cumprod is None:
        sigma = level.double().reshape(-1, 1, 1, 1)
        velocities = [(x / (sigma**2 + 1) - one) * (sigma**2 + 1).sqrt() / sigma for one in given]
    else:
        signal = alphas_cumprod.double()[level.long()].sqrt().reshape(-1, 1, 1, 1)
        velocities = [(one - (1 - signal**2).sqrt() * x) / signal for one in given]
    record.add("guidance", **_measure(*velocities, cond_scale))
    _answers.clear()


def _measure(cond: Any, uncond: Any, result: Any, scale: float) -> dict[str, float]:
    guided = uncond + scale * (cond - uncond)
    axes = (1, 2, 3)
    rescaled = guided * cond.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
    full = rescaled - guided
    share = float((full * (result - guided)).sum() / (full * full).sum())
    left = float((result - guided - share * full).norm() / full.norm())
    return {
        "phi": share,
        "left": left,
        "guidance": float((guided - cond).norm() / cond.norm()),
        "rescale": float(full.norm() / guided.norm()),
    }
