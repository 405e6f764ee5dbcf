"""CosXL in Forge and Neo: EDM-preconditioned v-prediction on a continuous schedule, run as epsilon otherwise.

Forge has a predictor of the kind and does not choose it, Neo has dropped it; what both have is the base class with the
arithmetic of v-prediction. Their samplers and schedulers speak to a predictor in two ways that agree for discrete ones
only: with the network's own time, here ``0.25 log sigma``, and with the index of a noise level in a table of 1,000.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from modelsmith.errors import ModelsmithError

logger = logging.getLogger(__name__)

HOST_PREDICTOR = "_modelsmith_host_predictor"
# CosXL's own range, for files that do not hold it.
SIGMA_MIN, SIGMA_MAX = 0.002, 120.0
# No noise level has a time of the network beyond this (it would be above e^40); an index of the table is meant.
LARGEST_TIME = 10.0
# The network's time of a noise level is this times its logarithm (Karras et al., arXiv:2206.00364, c_noise).
TIME_SCALE = 0.25
BEYOND = 1e9
# As many levels as the webui's discrete schedules have, which some schedulers count on.
TABLE = 1000


def sigma_range(path: Path) -> tuple[float, float]:
    """Smallest and largest noise level of a CosXL file, from its marks ``edm_vpred.sigma_min`` and ``.sigma_max``."""
    from modelsmith.files.header import read_header
    from modelsmith.files.ranges import read_values

    found = {"sigma_min": SIGMA_MIN, "sigma_max": SIGMA_MAX}
    try:
        header = read_header(path)
        for name in header.tensors:
            short = name.rpartition("edm_vpred.")[2]
            if name.endswith(f"edm_vpred.{short}") and short in found:
                (value, *_) = read_values(header, name)
                if math.isfinite(value) and value > 0:
                    found[short] = value
    except (ModelsmithError, ValueError) as error:
        logger.warning("%s: its range of noise levels cannot be read (%s)", path.name, error)
    low, high = found["sigma_min"], found["sigma_max"]
    return (low, high) if low < high else (SIGMA_MIN, SIGMA_MAX)


def _predictor(low: float, high: float) -> Any:
    import torch
    from backend.modules.k_prediction import AbstractPrediction

    span = math.log(high / low)

    class ContinuousVelocity(AbstractPrediction):
        """v-prediction at any noise level between two, usable by all of the webui's schedulers."""

        def __init__(self) -> None:
            super().__init__(1.0, "v_prediction")
            logarithms = torch.linspace(math.log(low), math.log(high), TABLE)
            self.register_buffer("sigmas", logarithms.exp())
            self.register_buffer("log_sigmas", logarithms)

        @property
        def sigma_min(self) -> Any:
            return self.sigmas[0]

        @property
        def sigma_max(self) -> Any:
            return self.sigmas[-1]

        def timestep(self, sigma: Any) -> Any:
            return sigma.log() * TIME_SCALE

        def sigma(self, timestep: Any) -> Any:
            time = torch.as_tensor(timestep, dtype=torch.float32)
            if float(time.max()) <= LARGEST_TIME:
                return (time / TIME_SCALE).exp()
            share = time.clamp(0, TABLE - 1) / (TABLE - 1)
            return (math.log(low) + share * span).exp()

        def percent_to_sigma(self, percent: float) -> float:
            """The noise level at which a share of the schedule is done; the ends are beyond all levels."""
            if percent <= 0.0:
                return BEYOND
            return 0.0 if percent >= 1.0 else low * math.exp((1.0 - percent) * span)

        def set_sigmas(self, _sigmas: Any) -> None:
            """The webui's option for zero terminal SNR is for discrete schedules."""

    return ContinuousVelocity()


def _network(model: Any) -> Any:
    return getattr(getattr(getattr(model, "forge_objects", None), "unet", None), "model", None)


def installed(model: Any) -> Any | None:
    """The predictor that was put into a model; None where there is none."""
    network = _network(model)
    return network.predictor if network is not None and HOST_PREDICTOR in network.__dict__ else None


def install(model: Any, path: Path) -> bool:
    """Put the predictor into a loaded model, once; False where this webui has none of the kind."""
    network = _network(model)
    if network is None:
        return False
    if HOST_PREDICTOR in network.__dict__:
        return True
    low, high = sigma_range(path)
    try:
        predictor = _predictor(low, high)
    except (ImportError, AssertionError, TypeError) as error:
        logger.warning("%s: this webui has no predictor for EDM models (%s)", path.name, error)
        return False
    # In __dict__, as the original must not become a second submodule.
    network.__dict__[HOST_PREDICTOR] = network.predictor
    network.predictor = predictor.to(network.predictor.sigmas.device)
    logger.info("%s: EDM v-prediction, continuous noise levels from %g to %g", path.name, low, high)
    return True


def restore(model: Any) -> None:
    """Give the model the webui's own predictor back."""
    network = _network(model)
    if network is not None and HOST_PREDICTOR in network.__dict__:
        network.predictor = network.__dict__.pop(HOST_PREDICTOR)
