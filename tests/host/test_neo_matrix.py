"""In a running Neo: every way from one checkpoint to another, each with the schedule that the sampler was given.

Selection in the page, the X/Y/Z plot's checkpoint axis, hires and refiner in all directions, img2img and inpainting, a
VAE chosen in between, a load that failed, a reload of the page; what Neo can sample only with help (CosXL) and what it
cannot sample at all.
"""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from host.checkpoints import SDXL, Recipe, write, write_vae
from host.oracle import check_table
from host.pictures import plot
from host.server import Webui, WebuiError

WEBUI = "neo"

EXPECTED = {
    "sdxl-v-ztsnr": ("v_prediction", True),
    "sdxl-v": ("v_prediction", False),
    "sdxl-eps": ("epsilon", False),
    "sd15": ("epsilon", False),
}
PLAIN, ZTSNR = 14.6146, 4518.76
HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "None", "denoising_strength": 1.0}
HIRES |= {"hr_additional_modules": ["Use same choices"]}
COSXL = ("edm_vpred.sigma_max", "edm_vpred.sigma_min")


def unet_calls(webui: Webui) -> list[dict[str, Any]]:
    return [event for event in webui.events() if event["event"] == "unet"]


def check(step: dict[str, Any], name: str, sigma: float | None = None) -> None:
    """A step of ``name`` with its type and its whole schedule; ``sigma`` where it does not begin at the top."""
    prediction, ztsnr = EXPECTED[name]
    assert (step["file"], step["prediction"]) == (f"{name}.safetensors", prediction)
    check_table(step, ztsnr)
    assert step["sigma"] == pytest.approx(sigma or (ZTSNR if ztsnr else PLAIN), rel=1e-4)


def generate(webui: Webui, name: str, **fields: Any) -> dict[str, Any]:
    webui.select(name)
    first = webui.txt2img(**fields)[0]
    check(first, name)
    assert all(call["finite"] for call in unet_calls(webui))
    return first


@contextmanager
def extra(webui: Webui, recipe: Recipe) -> Iterator[Path]:
    """One more checkpoint for one test."""
    path = write(webui.checkpoints, recipe)
    webui.refresh()
    try:
        yield path
    finally:
        webui.select("sd15")
        path.unlink()
        webui.refresh()


def status(webui: Webui) -> dict[str, Any]:
    return webui.get("/modelsmith/v1/status")["loaded"]


# ways to another checkpoint


def choose_in_page(webui: Webui, name: str) -> None:
    """What the page sends when a person picks a checkpoint in the bar at the top."""
    config = webui.get("/config")
    bar = next(
        part["id"]
        for part in config["components"]
        if part["props"].get("elem_id") == "setting_sd_model_checkpoint" and part["type"] == "dropdown"
    )
    found = [one for one in config["dependencies"] if [bar, "input"] in one["targets"] and len(one["inputs"]) == 2]
    assert len(found) == 1
    webui.post(
        "/run/predict", {"fn_index": found[0]["id"], "data": [f"{name}.safetensors", "xl"], "session_hash": "matrix"}
    )


def test_chosen_in_the_page(webui: Webui) -> None:
    webui.select("sd15")
    for name in ("sdxl-v-ztsnr", "sdxl-eps", "sdxl-v"):
        choose_in_page(webui, name)
        check(webui.txt2img()[0], name)


def test_checkpoint_axis(webui: Webui, report: Callable[..., None]) -> None:
    webui.select("sdxl-v")
    names = ["sdxl-eps", "sdxl-v-ztsnr", "sd15", "sdxl-v-ztsnr", "sdxl-v"]
    plot(webui, ("Checkpoint name", ",".join(f"{name}.safetensors" for name in names)))
    steps = [event for event in webui.events() if event["event"] == "step"]
    each, rest = divmod(len(steps), len(names))
    assert rest == 0
    firsts = steps[::each]
    for name, first in zip(names, firsts, strict=True):
        check(first, name)
    report("X/Y/Z checkpoint", *(f"{one['prediction']} {one['sigma']:.2f}" for one in firsts))
    check(webui.txt2img()[0], "sdxl-v")


@pytest.mark.parametrize(
    ("first", "second"),
    [("sdxl-eps", "sdxl-v-ztsnr"), ("sdxl-v-ztsnr", "sdxl-eps"), ("sdxl-v-ztsnr", "sdxl-v"), ("sdxl-v", "sdxl-eps")],
)
def test_hires(webui: Webui, first: str, second: str, report: Callable[..., None]) -> None:
    webui.select(first)
    steps = webui.txt2img(**HIRES, hr_checkpoint_name=f"{second}.safetensors")
    passes = [next(step for step in steps if step["file"] == f"{name}.safetensors") for name in (first, second)]
    check(passes[0], first)
    check(passes[1], second)
    report("hires", first, second, *(f"{one['prediction']} {one['sigma']:.2f}" for one in passes))
    check(webui.txt2img()[0], first)


def test_hires_between_two_of_zero_terminal_snr(webui: Webui) -> None:
    """Neo rescales for the first one only, and puts its plain table into the second one's predictor at the end."""
    with extra(webui, Recipe("sdxl-v-ztsnr-2", SDXL, markers=("v_pred", "ztsnr"), seed=6)):
        webui.select("sdxl-v-ztsnr")
        steps = webui.txt2img(**HIRES, hr_checkpoint_name="sdxl-v-ztsnr-2.safetensors")
        second = next(step for step in steps if step["file"] == "sdxl-v-ztsnr-2.safetensors")
        assert (second["prediction"], second["sigma"]) == ("v_prediction", pytest.approx(ZTSNR, rel=1e-5))
        check_table(second, True)
        check(webui.txt2img()[0], "sdxl-v-ztsnr")


@pytest.mark.parametrize(("first", "second"), [("sdxl-v-ztsnr", "sdxl-eps"), ("sdxl-eps", "sdxl-v")])
def test_refiner(webui: Webui, first: str, second: str) -> None:
    webui.select(first)
    steps = webui.txt2img(
        steps=4, scheduler="SGM Uniform", refiner_checkpoint=f"{second}.safetensors", refiner_switch_at=3.0
    )
    check(steps[0], first)
    assert steps[-1]["file"] == f"{second}.safetensors"
    check(steps[-1], second, steps[-1]["sigma"])
    check(webui.txt2img()[0], first)


# where the noise does not begin at the top


def picture(webui: Webui) -> str:
    webui.select("sd15")
    webui.txt2img()
    return str(webui.answer["images"][0])


@pytest.mark.parametrize("name", ["sdxl-v-ztsnr", "sdxl-eps"])
def test_img2img(webui: Webui, name: str, report: Callable[..., None]) -> None:
    start = picture(webui)
    webui.select(name)
    top = webui.img2img(init_images=[start], denoising_strength=1.0, steps=4, scheduler="SGM Uniform")
    check(top[0], name)
    assert unet_calls(webui)[0]["timestep"] == 999
    half = webui.img2img(init_images=[start], denoising_strength=0.5, steps=4, scheduler="SGM Uniform")
    check(half[0], name, half[0]["sigma"])
    # Three of four SGM Uniform steps are left, whatever the level is there.
    assert unet_calls(webui)[0]["timestep"] == pytest.approx(749, abs=1)
    assert all(call["finite"] for call in unet_calls(webui))
    report("img2img", name, f"{top[0]['sigma']:.2f}", f"{half[0]['sigma']:.4f}")


def test_inpainting_a_part(webui: Webui) -> None:
    from PIL import Image

    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (16, 16, 48, 48))
    held = io.BytesIO()
    mask.save(held, "PNG")
    start = picture(webui)
    webui.select("sdxl-v-ztsnr")
    steps = webui.img2img(
        init_images=[start],
        mask=base64.b64encode(held.getvalue()).decode(),
        inpainting_fill=1,
        denoising_strength=1.0,
    )
    check(steps[0], "sdxl-v-ztsnr")
    assert all(call["finite"] for call in unet_calls(webui))
    generate(webui, "sdxl-eps")


# what happens in between


def test_a_vae_chosen_in_between(webui: Webui) -> None:
    """Neo loads the whole model anew for it."""
    path = write_vae(webui.data / "models" / "VAE", "matrix-vae")
    webui.press(elem_id="forge_refresh_checkpoint")
    generate(webui, "sdxl-v-ztsnr")
    try:
        for modules in ([path.name], [], [path.name]):
            webui.options(forge_additional_modules=modules)
            webui.clear()
            first = webui.txt2img()[0]
            check(first, "sdxl-v-ztsnr")
        generate(webui, "sdxl-eps")
    finally:
        webui.options(forge_additional_modules=[])
        path.unlink()
        webui.press(elem_id="forge_refresh_checkpoint")


def test_a_load_that_failed(webui: Webui) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path: Path = webui.checkpoints / "unknown.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    webui.refresh()
    try:
        generate(webui, "sdxl-v-ztsnr")
        webui.select("unknown")
        with pytest.raises(WebuiError):
            webui.txt2img()
        generate(webui, "sdxl-v-ztsnr")
    finally:
        webui.select("sd15")
        path.unlink()
        webui.refresh()
    generate(webui, "sdxl-eps")


def test_said_for_a_file_before_the_option_for_all(webui: Webui) -> None:
    webui.options(sd_noise_schedule="Zero Terminal SNR")
    webui.post("/modelsmith/v1/override", {"name": "sdxl-v-ztsnr", "ztsnr": "off"})
    try:
        webui.select("sdxl-v-ztsnr")
        first = webui.txt2img()[0]
        check_table(first, False)
        assert first["sigma"] == pytest.approx(PLAIN, rel=1e-5)
        assert "Noise Schedule" not in webui.answer["info"]
    finally:
        webui.post("/modelsmith/v1/override", {"name": "sdxl-v-ztsnr"})
        webui.options(sd_noise_schedule="Default")
    generate(webui, "sdxl-v-ztsnr")


def test_fast_refiner_is_warned_of(webui: Webui) -> None:
    """Neo swaps the weights inside the model object and tells nobody, so both are sampled as the first."""
    webui.options(refiner_fast_sd=True)
    try:
        webui.select("sdxl-eps")
        fields = {"steps": 4, "scheduler": "SGM Uniform", "refiner_switch_at": 3.0}
        webui.txt2img(**fields, refiner_checkpoint="sdxl-v-ztsnr.safetensors")
        said = "the fast refiner keeps prediction type and schedule of sdxl-eps.safetensors"
        assert webui.output().count(said) == 1
        assert "sdxl-v-ztsnr.safetensors wants others (v_prediction, ZTSNR on)" in webui.output()
        with extra(webui, Recipe("sdxl-eps-2", SDXL, seed=7)):
            webui.select("sdxl-eps")
            webui.txt2img(**fields, refiner_checkpoint="sdxl-eps-2.safetensors")
            assert webui.output().count("the fast refiner keeps") == 1
    finally:
        webui.options(refiner_fast_sd=False)
    generate(webui, "sdxl-v-ztsnr")


def test_reload_of_the_page(webui: Webui) -> None:
    """Last but for what cannot be sampled: all callbacks are registered anew, the model in memory is the same."""
    generate(webui, "sdxl-v-ztsnr")
    tabs = webui.tabs().count("Modelsmith")
    webui.reload_page()
    check(webui.txt2img()[0], "sdxl-v-ztsnr")
    generate(webui, "sdxl-eps")
    assert webui.tabs().count("Modelsmith") == tabs


# other schedules


def cosxl(webui: Webui) -> Any:
    return extra(webui, Recipe("cosxl", SDXL, markers=COSXL, seed=4))


def test_cosxl(webui: Webui, report: Callable[..., None]) -> None:
    """It begins at its own 120, in the network's own time, with every scheduler and sampler."""
    with cosxl(webui):
        webui.select("cosxl")
        for scheduler in ("Automatic", "Karras", "Exponential", "SGM Uniform", "Simple", "Normal"):
            steps = webui.txt2img(scheduler=scheduler, steps=4)
            calls = unet_calls(webui)
            levels = [step["sigma"] for step in steps]
            assert {step["prediction"] for step in steps} == {"v_prediction"}
            assert levels[0] == pytest.approx(120, rel=1e-3)
            assert levels == sorted(levels, reverse=True)
            assert calls[0]["timestep"] == pytest.approx(1.1969, abs=1e-3)
            assert all(call["finite"] and call["std"] < 5 for call in calls)
            report("CosXL", scheduler, " ".join(f"{level:.3g}" for level in levels))
        for sampler in ("DDIM", "DPM++ 2M", "LCM"):
            webui.txt2img(sampler_name=sampler, steps=4)
            assert all(call["finite"] for call in unet_calls(webui))
        assert "continuous noise levels from 0.002 to 120" in str(status(webui)["notes"])
        webui.options(sd_noise_schedule="Zero Terminal SNR")
        assert webui.txt2img()[0]["sigma"] == pytest.approx(120, rel=1e-3)
        webui.options(sd_noise_schedule="Default", modelsmith_enabled=False)
        assert webui.txt2img()[0]["prediction"] == "epsilon"
        webui.options(modelsmith_enabled=True)
        assert webui.txt2img()[0]["sigma"] == pytest.approx(120, rel=1e-3)
        generate(webui, "sdxl-v-ztsnr")
    generate(webui, "sdxl-eps")


def test_neo_alone_runs_cosxl_as_epsilon(started_alone: Webui) -> None:
    with cosxl(started_alone):
        started_alone.select("cosxl")
        first = started_alone.txt2img()[0]
    assert first["prediction"] == "epsilon"
    assert first["sigma"] == pytest.approx(PLAIN, rel=1e-5)


def test_what_it_cannot_sample_is_said(webui: Webui) -> None:
    """Playground v2.5 is an EDM model with a latent space of its own: Neo makes noise of it."""
    playground = replace(Recipe("playground", SDXL, seed=8), markers=("edm_mean", "edm_std"))
    with extra(webui, playground):
        webui.select("playground")
        webui.txt2img()
        assert any("Playground" in note and "noise" in note for note in status(webui)["notes"])
        assert "which Neo samples as epsilon; that gives noise" in webui.output()
    generate(webui, "sdxl-v")
