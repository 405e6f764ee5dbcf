"""An independent schedule: the noise levels of diffusers' DDIMScheduler, scaled linear betas from 0.00085 to 0.012.

``worked_out`` makes them anew with the diffusers of the webui's own environment.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

COMPARED = (0, 500, 900, 998, 999)
PLAIN_TABLE = {0: 0.0291675332, 500: 1.6182797001, 900: 8.3465993980, 998: 14.5262805597, 999: 14.6146466249}
# rescale_betas_zero_snr: the last level is infinite there; webuis put 4518.76 in its place.
ZTSNR_TABLE = {0: 0.0291675332, 500: 1.7745581763, 900: 18.3519257323, 998: 2254.1948510101, 999: 4518.76367}
TOLERANCE = 1e-4
_DIFFUSERS = """
import json
from diffusers import DDIMScheduler
tables = {}
for ztsnr in (False, True):
    made = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                         rescale_betas_zero_snr=ztsnr, prediction_type="v_prediction")
    a = made.alphas_cumprod.double()
    tables[str(ztsnr)] = {str(i): float(((1 - a[i]) / a[i]) ** 0.5) for i in (0, 500, 900, 998, 999) if a[i] > 0}
print(json.dumps(tables))
"""


def table(ztsnr: bool) -> dict[int, float]:
    return ZTSNR_TABLE if ztsnr else PLAIN_TABLE


def worked_out(python: str) -> dict[str, dict[str, float]]:
    """Both tables as this interpreter's diffusers makes them, by "True" and "False" for ZTSNR and by index as text; the
    last level with ZTSNR, which is infinite, is left out."""
    made = subprocess.run([python, "-c", _DIFFUSERS], check=True, capture_output=True, text=True)
    return json.loads(made.stdout.splitlines()[-1])


def check_table(step: dict[str, Any], ztsnr: bool) -> None:
    """The schedule that the sampler of this step was given is the independent one."""
    for index, sigma in table(ztsnr).items():
        assert step[f"sigma_{index}"] == pytest.approx(sigma, rel=TOLERANCE), f"sigma[{index}]"
