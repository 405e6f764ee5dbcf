"""What to say about a scheduler, a CFG scale and a denoising strength when a model has zero terminal SNR.

Its noise levels go up to 4518.76 instead of 14.61, with an eighth of all timesteps above 14.61. Schedulers that are
laid out over noise levels (Karras, exponential, the webuis' Beta) then spend most of their steps where there is no
picture yet, and a denoising strength of 0.5 starts from pure noise. Those that are laid out over timesteps are fine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Level = Literal["fine", "weak", "bad"]
Message = tuple[str, dict[str, str]]

SIGMA_MIN, SIGMA_MAX = 0.0291675, 4518.76
# The largest noise level of the plain schedule. From here on nothing of a picture is left to go on from.
PLAIN_SIGMA_MAX = 14.6146
# With Settings > sigma max at or below this, Karras and exponential are usable.
USABLE_SIGMA_MAX = 200.0
HIGH_CFG = 6.0
FITTING_SCHEDULER = "SGM Uniform"
FITTING_CFG = 5.0

_OVER_SIGMAS = frozenset({"karras", "exponential", "polyexponential", "beta"})
_FIXED = frozenset({"alignyoursteps", "gits", "alignyoursteps11", "alignyoursteps32", "aysgits", "ays11steps"})
_LEADING = frozenset({"ddim", "leading"})
# Samplers that bring a spacing of their own, whatever scheduler is chosen: every 1000/n-th timestep, the last left out.
_LEADING_SAMPLERS = frozenset({"ddim", "ddim cfg++", "plms", "unipc"})

TEXTS = {
    "fine": "{scheduler} fits a model with zero terminal SNR.",
    "over_sigmas": "{scheduler} spends most steps of a model with zero terminal SNR on pure noise; use {fitting}.",
    "start": "With {scheduler}, denoising strength {strength} begins at noise level {sigma}, which keeps little of the "
    "picture; use {fitting}.",
    "leading": "{scheduler} never reaches the last timestep, so pictures keep a middle brightness; use {fitting}.",
    "fixed": "{scheduler} begins at noise level 14.6: zero terminal SNR has no effect, and does no harm.",
    "cfg": "CFG scale {cfg} makes such models oversaturated: 4 to 5 is usual, or a CFG rescale of 0.2 to 0.7.",
}


@dataclass(frozen=True)
class Sampling:
    """What a picture is sampled with. ``scheduler`` is the one that "Automatic" stands for, not that word.

    ``strength`` is the denoising strength of img2img or of the hires pass, None without either; ``sigma_max`` the
    webui's setting, 0 where it is not used.
    """

    sampler: str
    scheduler: str
    steps: int = 20
    cfg: float = 5.0
    rescale: float = 0.0
    strength: float | None = None
    sigma_max: float = 0.0


@dataclass(frozen=True)
class Advice:
    """``messages`` are (key of TEXTS, values); ``scheduler`` and ``cfg`` what would fit, None where it does already."""

    level: Level
    messages: tuple[Message, ...]
    scheduler: str | None = None
    cfg: float | None = None

    def text(self) -> str:
        """In English, in one line."""
        return " ".join(TEXTS[key].format(**values) for key, values in self.messages)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def sigma_at(scheduler: str, steps: int, index: int, sigma_max: float = SIGMA_MAX) -> float | None:
    """Noise level of step ``index`` (from 0) of Karras, exponential or polyexponential schedules; None for others.

    Karras et al. 2022 (arXiv:2206.00364), equation 5 with rho 7; exponential is even in log sigma.
    """
    share = index / max(steps - 1, 1)
    if _plain(scheduler) == "karras":
        high, low = sigma_max ** (1 / 7), SIGMA_MIN ** (1 / 7)
        return (high + share * (low - high)) ** 7
    if _plain(scheduler) in ("exponential", "polyexponential"):
        return math.exp(math.log(sigma_max) + share * math.log(SIGMA_MIN / sigma_max))
    return None


def _about_scheduler(sampling: Sampling) -> tuple[Level, Message]:
    name = _plain(sampling.scheduler)
    values = {"scheduler": sampling.scheduler, "fitting": FITTING_SCHEDULER}
    if sampling.sampler.casefold() in _LEADING_SAMPLERS:
        return "weak", ("leading", {**values, "scheduler": sampling.sampler})
    if name in _LEADING:
        return "weak", ("leading", values)
    if name in _FIXED:
        return "weak", ("fixed", values)
    capped = 0.0 < sampling.sigma_max <= USABLE_SIGMA_MAX and name != "beta"
    if name not in _OVER_SIGMAS or capped:
        return "fine", ("fine", values)
    if sampling.strength is not None:
        begin = sampling.steps - int(min(sampling.strength, 0.999) * sampling.steps) - 1
        sigma = sigma_at(sampling.scheduler, sampling.steps, begin, sampling.sigma_max or SIGMA_MAX)
        if sigma is not None and sampling.strength < 1.0:
            return "bad", ("start", {**values, "strength": f"{sampling.strength:g}", "sigma": f"{sigma:.3g}"})
    return "bad", ("over_sigmas", values)


def advise(sampling: Sampling) -> Advice:
    """The advice for one picture of a v-prediction model with zero terminal SNR."""
    level, message = _about_scheduler(sampling)
    messages = [message]
    high_cfg = sampling.cfg > HIGH_CFG and sampling.rescale == 0.0
    if high_cfg:
        messages.append(("cfg", {"cfg": f"{sampling.cfg:g}"}))
        if level == "fine":
            level, messages = "weak", messages[1:]
    changes = message[0] in ("over_sigmas", "start", "leading")
    return Advice(level, tuple(messages), FITTING_SCHEDULER if changes else None, FITTING_CFG if high_cfg else None)
