"""In a running Neo: what the sampler and the UNet are given for each checkpoint.

What Neo does without Modelsmith is seen too (``alone``), so that each of its faults that is mended here is shown to
be one.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from host.checkpoints import SDXL, Recipe, write
from host.server import Webui, WebuiError
from host.vae_files import split_checkpoint

WEBUI = "neo"

EXPECTED = {
    "sdxl-v-ztsnr": ("v_prediction", True),
    "sdxl-v": ("v_prediction", False),
    "sdxl-eps": ("epsilon", False),
    "sd15": ("epsilon", False),
}
PLAIN, ZTSNR = 14.6146, 4518.76
COMPARED = (0, 500, 900, 998, 999)
HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "None", "denoising_strength": 1.0}
# Without it Neo's API ends in a TypeError.
HIRES |= {"hr_additional_modules": ["Use same choices"]}
# Neo switches to the refiner at a noise level.
SWITCH_AT = 5.0


@pytest.fixture
def alone(started_alone: Webui) -> Webui:
    """The same Neo without Modelsmith."""
    started_alone.options(sd_noise_schedule="Default")
    return started_alone


def check(webui: Webui, steps: list[dict[str, Any]], name: str, schedule: Any) -> dict[str, Any]:
    """The run began as ``name`` wants it, and the UNet's answer was read as its type; returns the first step."""
    prediction, ztsnr = EXPECTED[name]
    first = steps[0]
    unet = next(event for event in webui.events() if event["event"] == "unet")
    assert first["file"] == f"{name}.safetensors"
    assert first["prediction"] == unet["prediction"] == prediction
    assert first["sigma"] == pytest.approx(ZTSNR if ztsnr else PLAIN, rel=1e-5)
    assert unet["timestep"] == 999
    assert unet["finite"]
    # What epsilon makes of the first step is as loud as the noise; v-prediction's is as quiet as a picture.
    assert (unet["std"] > 5) == (prediction == "epsilon")
    for index in COMPARED:
        expected = ZTSNR if ztsnr and index == 999 else schedule[str(ztsnr)][str(index)]
        assert first[f"sigma_{index}"] == pytest.approx(expected, rel=1e-4), index
    return first


def generate(webui: Webui, name: str, schedule: Any) -> dict[str, Any]:
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


@pytest.mark.parametrize("name", EXPECTED)
def test_selected_checkpoint(webui: Webui, schedule: Any, name: str, report: Callable[..., None]) -> None:
    first = generate(webui, name, schedule)
    status = webui.get("/modelsmith/v1/status")["loaded"]
    assert status["applied"]
    assert (status["prediction"], status["zero_terminal_snr"]) == EXPECTED[name]
    seen = [f"{first[f'sigma_{index}']:.6g}" for index in COMPARED]
    report("selected", name, first["prediction"], f"{first['sigma']:.2f}", *seen)


def test_back_and_forth(webui: Webui, schedule: Any) -> None:
    for name in ("sdxl-v-ztsnr", "sdxl-eps", "sdxl-v-ztsnr", "sd15", "sdxl-v", "sd15", "sdxl-v-ztsnr"):
        generate(webui, name, schedule)


def test_override_settings_of_one_job(webui: Webui, schedule: Any) -> None:
    webui.select("sdxl-eps")
    override = {"sd_model_checkpoint": "sdxl-v-ztsnr.safetensors"}
    check(webui, webui.txt2img(override_settings=override), "sdxl-v-ztsnr", schedule)
    check(webui, webui.txt2img(), "sdxl-eps", schedule)


def test_after_an_exception_in_sampling(webui: Webui, schedule: Any) -> None:
    fail(webui, "sdxl-v-ztsnr")
    for _ in range(2):
        check(webui, webui.txt2img(), "sdxl-v-ztsnr", schedule)
    fail(webui, "sdxl-v-ztsnr")
    generate(webui, "sdxl-eps", schedule)


def test_alone_rescales_twice_after_an_exception(alone: Webui) -> None:
    fail(alone, "sdxl-v-ztsnr")
    assert alone.txt2img()[0]["sigma_998"] > 4000


def test_exception_under_the_hosts_own_option(webui: Webui, alone: Webui, schedule: Any) -> None:
    """The option puts ZTSNR on an epsilon model; an exception leaves it there when the option is long off again."""
    for host, sigma in ((webui, PLAIN), (alone, ZTSNR)):
        host.options(sd_noise_schedule="Zero Terminal SNR")
        fail(host, "sdxl-eps")
        host.options(sd_noise_schedule="Default")
        assert host.txt2img()[0]["sigma"] == pytest.approx(sigma, rel=1e-5)
    check(webui, webui.txt2img(), "sdxl-eps", schedule)
    # Neo alone keeps the damaged model until another one was loaded.
    first_step(alone, "sd15")


def test_noise_schedule_option_is_honoured_and_not_doubled(webui: Webui, schedule: Any) -> None:
    webui.options(sd_noise_schedule="Zero Terminal SNR")
    first = first_step(webui, "sdxl-v-ztsnr")
    assert first["sigma"] == pytest.approx(ZTSNR, rel=1e-5)
    assert first["sigma_998"] == pytest.approx(schedule["True"]["998"], rel=1e-4)
    first_step(webui, "sdxl-eps")
    assert "Noise schedule" in webui.get("/modelsmith/v1/status")["loaded"]["notes"][0]
    webui.options(sd_noise_schedule="Default")
    generate(webui, "sdxl-v", schedule)


def test_interrupted_sampling_leaves_nothing(webui: Webui, schedule: Any) -> None:
    generate(webui, "sdxl-v-ztsnr", schedule)
    webui.clear()  # steps of the picture before would be taken for those of the one to interrupt
    running = threading.Thread(target=webui.txt2img, kwargs={"steps": 150})
    running.start()
    while len(webui.events()) < 3:
        time.sleep(0.05)
    webui.post("/sdapi/v1/interrupt", {})
    running.join()
    assert len([event for event in webui.events() if event["event"] == "step"]) < 150
    check(webui, webui.txt2img(), "sdxl-v-ztsnr", schedule)
    generate(webui, "sdxl-eps", schedule)


def test_hires_checkpoint(webui: Webui, alone: Webui, schedule: Any) -> None:
    """Neo looks at the first model's flag only, so a second one with ZTSNR begins at 14.61."""
    hires = {**HIRES, "hr_checkpoint_name": "sdxl-v-ztsnr.safetensors"}
    for host, sigma in ((webui, ZTSNR), (alone, PLAIN)):
        host.select("sdxl-eps")
        steps = host.txt2img(**hires)
        assert (steps[0]["file"], steps[0]["prediction"]) == ("sdxl-eps.safetensors", "epsilon")
        assert steps[0]["sigma"] == pytest.approx(PLAIN, rel=1e-5)
        second = next(step for step in steps if step["file"] == "sdxl-v-ztsnr.safetensors")
        assert second["prediction"] == "v_prediction"
        assert second["sigma"] == pytest.approx(sigma, rel=1e-5)
    check(webui, webui.txt2img(), "sdxl-eps", schedule)


def test_hires_checkpoint_without_ztsnr(webui: Webui, schedule: Any) -> None:
    webui.select("sdxl-v-ztsnr")
    steps = webui.txt2img(**HIRES, hr_checkpoint_name="sdxl-eps.safetensors")
    second = next(step for step in steps if step["file"] == "sdxl-eps.safetensors")
    assert steps[0]["sigma"] == pytest.approx(ZTSNR, rel=1e-5)
    assert (second["prediction"], second["sigma"]) == ("epsilon", pytest.approx(PLAIN, rel=1e-5))
    check(webui, webui.txt2img(), "sdxl-v-ztsnr", schedule)


def test_refiner(webui: Webui, schedule: Any) -> None:
    """The second model of a job takes over with its own type and table, the first one finds its own again."""
    webui.select("sdxl-eps")
    steps = webui.txt2img(steps=4, refiner_checkpoint="sdxl-v-ztsnr.safetensors", refiner_switch_at=SWITCH_AT)
    assert (steps[0]["file"], steps[0]["prediction"]) == ("sdxl-eps.safetensors", "epsilon")
    assert (steps[-1]["file"], steps[-1]["prediction"]) == ("sdxl-v-ztsnr.safetensors", "v_prediction")
    assert steps[-1]["sigma_998"] == pytest.approx(schedule["True"]["998"], rel=1e-4)
    check(webui, webui.txt2img(), "sdxl-eps", schedule)


def test_ztsnr_mark_without_v_prediction(webui: Webui, alone: Webui) -> None:
    """Neo puts the rescaled table under an epsilon model, which then paints every picture in one tint."""
    for host, sigma in ((webui, PLAIN), (alone, ZTSNR)):
        path = write(host.checkpoints, Recipe("ztsnr-alone", SDXL, ("ztsnr",)))
        host.refresh()
        first = first_step(host, "ztsnr-alone")
        assert first["prediction"] == "epsilon"
        assert first["sigma"] == pytest.approx(sigma, rel=1e-5)
        host.select("sd15")
        path.unlink()
        host.refresh()


def test_bare_names_keep_their_marks(webui: Webui, alone: Webui, checkpoint_folder: Path) -> None:
    """Neo gives every key of a bare file the UNet's prefix, the marks too, and so loses them."""
    for host, prediction, sigma in ((webui, "v_prediction", ZTSNR), (alone, "epsilon", PLAIN)):
        bare, module = host.checkpoints / "bare.safetensors", host.data / "models" / "VAE" / "rest.safetensors"
        split_checkpoint(checkpoint_folder / "sdxl-v-ztsnr.safetensors", bare, module)
        host.refresh()
        host.press(elem_id="forge_refresh_checkpoint")
        host.options(forge_additional_modules=[module.name])
        first = first_step(host, "bare")
        host.options(forge_additional_modules=[])
        host.select("sd15")
        assert first["prediction"] == prediction
        assert first["sigma"] == pytest.approx(sigma, rel=1e-5)
        bare.unlink()
        module.unlink()
        host.refresh()


def test_rectified_in_the_path_stays_a_flow(webui: Webui, schedule: Any) -> None:
    """Neo samples such a file as a flow; its predictor is left alone, and that is said."""
    path = webui.checkpoints / "sdxl-rectified.safetensors"
    os.link(webui.checkpoints / "sdxl-eps.safetensors", path)
    webui.refresh()
    webui.select("sdxl-rectified")
    try:
        webui.txt2img(steps=1)
        model = webui.state()["model"]
        status = webui.get("/modelsmith/v1/status")["loaded"]
    finally:
        webui.select("sd15")
        path.unlink()
        webui.refresh()
    assert (model["prediction"], model["predictor"]) == ("const", "PredictionDiscreteFlow")
    assert model["sigma_max"] == pytest.approx(1.0, rel=1e-3)
    assert not status["applied"]
    assert any("rectified" in note for note in status["notes"])
    generate(webui, "sdxl-v-ztsnr", schedule)


def test_a_family_that_this_webui_cannot_load(webui: Webui, schedule: Any) -> None:
    generate(webui, "sdxl-v", schedule)
    webui.select("sd21-768v")
    with pytest.raises(WebuiError, match="Failed to recognize model"):
        webui.txt2img()
    assert "which this webui cannot load" in webui.output()
    generate(webui, "sdxl-v", schedule)


def test_override_of_the_loaded_file(webui: Webui, schedule: Any) -> None:
    generate(webui, "sdxl-eps", schedule)
    webui.post("/modelsmith/v1/override", {"name": "sdxl-eps", "prediction": "v_prediction", "ztsnr": "on"})
    first = webui.txt2img()[0]
    webui.post("/modelsmith/v1/override", {"name": "sdxl-eps"})
    assert first["prediction"] == "v_prediction"
    assert first["sigma"] == pytest.approx(ZTSNR, rel=1e-5)
    check(webui, webui.txt2img(), "sdxl-eps", schedule)


def test_switched_off_and_on_again(webui: Webui, schedule: Any) -> None:
    """Off means as Neo had it, at once and for the next model."""
    webui.post("/modelsmith/v1/override", {"name": "sdxl-eps", "prediction": "v_prediction"})
    try:
        assert first_step(webui, "sdxl-eps")["prediction"] == "v_prediction"
        webui.options(modelsmith_enabled=False)
        assert webui.txt2img()[0]["prediction"] == "epsilon"
        first_step(webui, "sdxl-v-ztsnr")
        assert webui.state()["model"]["ztsnr_flag"] is True
    finally:
        webui.options(modelsmith_enabled=True)
        webui.post("/modelsmith/v1/override", {"name": "sdxl-eps"})
    check(webui, webui.txt2img(), "sdxl-v-ztsnr", schedule)
    assert webui.state()["model"]["ztsnr_flag"] is False


@pytest.mark.parametrize("sampler", ["DPM++ 2M", "Euler a", "LCM"])
def test_other_samplers_start_at_the_same_noise(webui: Webui, sampler: str) -> None:
    first = first_step(webui, "sdxl-v-ztsnr", sampler_name=sampler)
    assert first["prediction"] == "v_prediction"
    assert first["sigma"] == pytest.approx(ZTSNR, rel=1e-5)


def test_timestep_sampler_uses_the_rescaled_table(webui: Webui) -> None:
    """The webui's own spacing of two DDIM steps begins at t = 501."""
    first = first_step(webui, "sdxl-v-ztsnr", sampler_name="DDIM")
    assert first["sigma"] == pytest.approx(1.7811, rel=1e-4)
