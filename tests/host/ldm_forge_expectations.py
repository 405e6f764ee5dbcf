"""What checkpoints are expected to get in a running reForge or Classic, and how a run is held against it."""

from __future__ import annotations

from typing import Any

import pytest

from host import oracle
from host.server import Webui, WebuiError

EXPECTED = {
    "sdxl-v-ztsnr": ("v_prediction", True),
    "sdxl-v": ("v_prediction", False),
    "sdxl-eps": ("epsilon", False),
    "sd15": ("epsilon", False),
    "sd21-768v": ("v_prediction", False),
    "sd2-base": ("epsilon", False),
}
PLAIN, ZTSNR = 14.6146, 4518.76
# sigma[998] of the rescaled table; rescaled a second time it would be 4497.2.
ZTSNR_998 = 2254.24
# Where a table with ZTSNR has the plain table's largest sigma.
MISTAKEN_TIMESTEP = 880
COMPARED = oracle.COMPARED
# As diffusers makes it, for tests that do not work it out anew.
SCHEDULE = {str(ztsnr): {str(index): sigma for index, sigma in oracle.table(ztsnr).items()} for ztsnr in (False, True)}
HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 1.0, "hr_cfg_scale": 5.0}


def is_classic(webui: Webui) -> bool:
    """Whether it is Classic, which keeps one model only and has no Advanced Model Sampling."""
    return not (webui.root / "modules" / "hypernetworks").is_dir()


def _loader(webui: Webui) -> str:
    return (webui.root / "modules_forge" / "forge_loader.py").read_text(encoding="utf-8")


def rescales_lookup(webui: Webui) -> bool:
    """Whether a Classic rescales the UNet's table too, as it does since the summer of 2025."""
    return "def rescale_zero_terminal_snr_sigmas" in _loader(webui)


def builds_sd2(webui: Webui) -> bool:
    """Whether the webui knows the text encoder of SD2; Neo and later Classic do not."""
    return webui.flavour != "neo" if webui.kind != "ldm_forge" else "CLIP_SD_21_H" in _loader(webui)


def rescales_as_it_loads(webui: Webui) -> bool:
    """Whether it builds the lookup table of a marked file with ZTSNR at once: reForge main does."""
    source = webui.root / "ldm_patched" / "modules" / "model_sampling.py"
    return "zsnr" in source.read_text(encoding="utf-8")


def skip_what_is_unknown(webui: Webui, name: str) -> None:
    if name.startswith("sd2") and not builds_sd2(webui):
        pytest.skip(f"this {webui.flavour} builds no SD2 models")


def unet_calls(webui: Webui) -> list[dict[str, Any]]:
    return [event for event in webui.events() if event["event"] == "unet"]


def check_tables(step: dict[str, Any], name: str, schedule: Any = SCHEDULE) -> None:
    """In this step the model is ``name``, and sampler and UNet have the independent schedule that it wants."""
    prediction, ztsnr = EXPECTED[name]
    assert (step["file"], step["prediction"]) == (f"{name}.safetensors", prediction)
    for index in COMPARED:
        expected = ZTSNR if ztsnr and index == 999 else schedule[str(ztsnr)][str(index)]
        assert step[f"sigma_{index}"] == pytest.approx(expected, rel=oracle.TOLERANCE), index
        assert step[f"lookup_{index}"] == pytest.approx(expected, rel=oracle.TOLERANCE), index


def check(webui: Webui, steps: list[dict[str, Any]], name: str, schedule: Any = SCHEDULE) -> dict[str, Any]:
    """The run began as ``name`` wants it, and the UNet's answer was read as its type; returns the first step."""
    prediction, ztsnr = EXPECTED[name]
    first, unet = steps[0], unet_calls(webui)[0]
    check_tables(first, name, schedule)
    assert unet["prediction"] == prediction
    assert first["sigma"] == pytest.approx(ZTSNR if ztsnr else PLAIN, rel=1e-5)
    assert unet["timestep"] == 999
    assert unet["finite"]
    # What epsilon makes of the first step is as loud as the noise; v-prediction's is as quiet as a picture.
    assert (unet["std"] > 5) == (prediction == "epsilon")
    return first


def generate(webui: Webui, name: str, schedule: Any = SCHEDULE) -> dict[str, Any]:
    webui.select(name)
    return check(webui, webui.txt2img(), name, schedule)


def first_step(webui: Webui, name: str, **wishes: Any) -> dict[str, Any]:
    webui.select(name)
    return webui.txt2img(**wishes)[0]


def fail(webui: Webui, name: str) -> None:
    """An exception in the second step."""
    webui.select(name)
    webui.fail_at(1)
    with pytest.raises(WebuiError, match="a test asked for this failure"):
        webui.txt2img()
