"""What each small checkpoint should be given in AUTOMATIC1111."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from host.oracle import check_table
from host.server import Webui

PLAIN, ZTSNR = 14.6146, 4518.76
# sigma[998] of the rescaled table; rescaled a second time it would be 4497.2.
ZTSNR_998 = 2254.24
# One made by us; the webui's next version brings one of its own.
SDXL_V = ("sd_xl_base-v-", "sd_xl_v.yaml")


@dataclass(frozen=True)
class Expected:
    config: str | tuple[str, ...]  # how the config's file name may begin
    prediction: str
    sigma: float


EXPECTED = {
    "sdxl-v-ztsnr": Expected(SDXL_V, "v_prediction", ZTSNR),
    "sdxl-v": Expected(SDXL_V, "v_prediction", PLAIN),
    "sdxl-eps": Expected("sd_xl_base.yaml", "epsilon", PLAIN),
    "sd15": Expected("v1-inference.yaml", "epsilon", PLAIN),
    "sd15-b": Expected("v1-inference.yaml", "epsilon", PLAIN),
    "sd21-768v": Expected("v2-inference-v.yaml", "v_prediction", PLAIN),
    "sd2-base": Expected("v2-inference.yaml", "epsilon", PLAIN),
}


def check(steps: list[dict[str, Any]], name: str, expected: Expected | None = None) -> dict[str, Any]:
    """The first step is the one that ``name`` should begin with; returns it."""
    expected = expected or EXPECTED[name]
    first = steps[0]
    assert first["file"] == f"{name}.safetensors"
    assert Path(first["config"]).name.startswith(expected.config)
    assert first["prediction"] == first["model_prediction"] == expected.prediction
    assert first["sigma"] == pytest.approx(expected.sigma, rel=1e-5)
    if expected.sigma in (PLAIN, ZTSNR):
        check_table(first, expected.sigma == ZTSNR)
    return first


def generate(webui: Webui, name: str) -> dict[str, Any]:
    webui.select(name)
    return check(webui.txt2img(), name)
