"""An independent schedule: the noise levels of diffusers' DDIMScheduler, scaled linear betas from 0.00085 to 0.012.

test_forge_models.py works them out anew where the webui's own environment has diffusers.
"""

from __future__ import annotations

from typing import Any

import pytest

COMPARED = (0, 500, 900, 998, 999)
PLAIN_TABLE = {0: 0.0291675332, 500: 1.6182797001, 900: 8.3465993980, 998: 14.5262805597, 999: 14.6146466249}
# rescale_betas_zero_snr: the last level is infinite there; webuis put 4518.76 in its place.
ZTSNR_TABLE = {0: 0.0291675332, 500: 1.7745581763, 900: 18.3519257323, 998: 2254.1948510101, 999: 4518.76367}
TOLERANCE = 1e-4


def table(ztsnr: bool) -> dict[int, float]:
    return ZTSNR_TABLE if ztsnr else PLAIN_TABLE


def check_table(step: dict[str, Any], ztsnr: bool) -> None:
    """The schedule that the sampler of this step was given is the independent one."""
    for index, sigma in table(ztsnr).items():
        assert step[f"sigma_{index}"] == pytest.approx(sigma, rel=TOLERANCE), f"sigma[{index}]"
