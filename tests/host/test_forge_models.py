"""In a running Forge: what the sampler and the UNet are given for each checkpoint.

What Forge does without Modelsmith is seen too (``alone``), so that each of its faults that is mended here is shown to
be one.
"""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from host.checkpoints import SDXL, Recipe, write
from host.oracle import check_table, table
from host.server import Webui, WebuiError

WEBUI = "forge"

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


@pytest.fixture
def alone(started_alone: Webui) -> Webui:
    """The same Forge without Modelsmith."""
    started_alone.options(sd_noise_schedule="Default")
    return started_alone


def check(webui: Webui, steps: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The run began as ``name`` wants it, and the UNet's answer was read as its type; returns the first step."""
    prediction, ztsnr = EXPECTED[name]
    first = steps[0]
    unet = next(event for event in webui.events() if event["event"] == "unet")
    assert first["file"] == f"{name}.safetensors"
    assert first["prediction"] == unet["prediction"] == prediction
    assert first["sigma"] == pytest.approx(ZTSNR if ztsnr else PLAIN, rel=1e-5)
    check_table(first, ztsnr)
    assert unet["timestep"] == 999
    assert unet["finite"]
    # What epsilon makes of the first step is as loud as the noise; v-prediction's is as quiet as a picture.
    assert (unet["std"] > 5) == (prediction == "epsilon")
    return first


def generate(webui: Webui, name: str) -> dict[str, Any]:
    webui.select(name)
    return check(webui, webui.txt2img(), name)


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
    first = generate(webui, name)
    ztsnr = EXPECTED[name][1]
    for index, sigma in schedule[str(ztsnr)].items():
        assert table(ztsnr)[int(index)] == pytest.approx(sigma, rel=1e-8)
    check_table(first, ztsnr)
    status = webui.get("/modelsmith/v1/status")["loaded"]
    assert status["applied"]
    assert (status["prediction"], status["zero_terminal_snr"]) == EXPECTED[name]
    report("selected", name, "-", first["prediction"], f"{first['sigma']:.2f}", first["wrapper"])


def test_forge_alone_runs_sd21_768_as_epsilon(alone: Webui, report: Callable[..., None]) -> None:
    first = first_step(alone, "sd21-768v")
    assert first["prediction"] == "epsilon"
    report("Forge alone", "sd21-768v", "-", first["prediction"], f"{first['sigma']:.2f}", first["wrapper"])


def test_back_and_forth(webui: Webui, report: Callable[..., None]) -> None:
    order = ("sdxl-v-ztsnr", "sdxl-eps", "sdxl-v-ztsnr", "sd15", "sd21-768v", "sd2-base", "sd21-768v", "sdxl-v")
    for name in order:
        first = generate(webui, name)
        report("switched", name, "-", first["prediction"], f"{first['sigma']:.2f}", first["wrapper"])


def test_override_settings_of_one_job(webui: Webui) -> None:
    webui.select("sdxl-eps")
    override = {"sd_model_checkpoint": "sdxl-v-ztsnr.safetensors"}
    check(webui, webui.txt2img(override_settings=override), "sdxl-v-ztsnr")
    check(webui, webui.txt2img(), "sdxl-eps")


def test_after_an_exception_in_sampling(webui: Webui, report: Callable[..., None]) -> None:
    fail(webui, "sdxl-v-ztsnr")
    for _ in range(2):
        first = check(webui, webui.txt2img(), "sdxl-v-ztsnr")
        assert first["sigma_998"] == pytest.approx(ZTSNR_998, rel=1e-5)
    report("after exception", "sdxl-v-ztsnr", "-", first["prediction"], f"{first['sigma']:.2f}", first["wrapper"])
    fail(webui, "sdxl-v-ztsnr")
    first = generate(webui, "sdxl-eps")
    report("after exception", "sdxl-eps", "-", first["prediction"], f"{first['sigma']:.2f}", first["wrapper"])


def test_forge_alone_rescales_twice_after_an_exception(alone: Webui) -> None:
    fail(alone, "sdxl-v-ztsnr")
    assert alone.txt2img()[0]["sigma_998"] > 4000


def test_exception_under_the_hosts_own_option(webui: Webui, alone: Webui) -> None:
    """The option puts ZTSNR on an epsilon model; an exception leaves it there when the option is long off again."""
    for host, sigma in ((webui, PLAIN), (alone, ZTSNR)):
        host.options(sd_noise_schedule="Zero Terminal SNR")
        fail(host, "sdxl-eps")
        host.options(sd_noise_schedule="Default")
        assert host.txt2img()[0]["sigma"] == pytest.approx(sigma, rel=1e-5)


def test_noise_schedule_option_is_honoured_and_not_doubled(webui: Webui) -> None:
    webui.options(sd_noise_schedule="Zero Terminal SNR")
    first = first_step(webui, "sdxl-v-ztsnr")
    assert first["sigma"] == pytest.approx(ZTSNR, rel=1e-5)
    assert first["sigma_998"] == pytest.approx(ZTSNR_998, rel=1e-5)
    assert first_step(webui, "sdxl-v")["sigma"] == pytest.approx(ZTSNR, rel=1e-5)
    webui.options(sd_noise_schedule="Default")
    generate(webui, "sdxl-v")


def test_noise_schedule_option_on_an_epsilon_model_is_said(webui: Webui) -> None:
    webui.options(sd_noise_schedule="Zero Terminal SNR")
    first_step(webui, "sdxl-eps")
    assert "Noise schedule" in webui.get("/modelsmith/v1/status")["loaded"]["notes"][0]


def test_interrupted_sampling_leaves_nothing(webui: Webui) -> None:
    generate(webui, "sdxl-v-ztsnr")
    webui.clear()  # steps of the picture before would be taken for those of the one to interrupt
    running = threading.Thread(target=webui.txt2img, kwargs={"steps": 150})
    running.start()
    while len(webui.events()) < 3:
        time.sleep(0.05)
    webui.post("/sdapi/v1/interrupt", {})
    running.join()
    assert len([event for event in webui.events() if event["event"] == "step"]) < 150
    check(webui, webui.txt2img(), "sdxl-v-ztsnr")
    generate(webui, "sdxl-eps")


@pytest.fixture
def unknown() -> Callable[[Webui], None]:
    """Gives a webui a whole safetensors file that is no checkpoint."""

    def add(webui: Webui) -> None:
        header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        path = webui.checkpoints / "unknown.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        webui.refresh()

    return add


def test_back_to_the_good_one_after_a_failed_load(webui: Webui, alone: Webui, unknown: Callable[[Webui], None]) -> None:
    """Forge takes the file that was good before for "already loaded", and fails until a third one is chosen."""
    for host in (webui, alone):
        unknown(host)
        first_step(host, "sdxl-v")
        host.select("unknown")
        with pytest.raises(WebuiError, match="Failed to recognize model type"):
            host.txt2img()
        host.select("sdxl-v")
        if host is alone:
            with pytest.raises(WebuiError, match="sd_checkpoint_info"):
                host.txt2img()
        (host.checkpoints / "unknown.safetensors").unlink()
        host.refresh()
    generate(webui, "sdxl-v")


def test_hires_checkpoint(webui: Webui, alone: Webui) -> None:
    """Forge looks at the first model's flag only, so a second one with ZTSNR begins at 14.61."""
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 1.0}
    hires |= {"hr_checkpoint_name": "sdxl-v-ztsnr.safetensors", "hr_additional_modules": ["Use same choices"]}
    for host, sigma in ((webui, ZTSNR), (alone, PLAIN)):
        host.select("sdxl-eps")
        steps = host.txt2img(**hires)
        assert (steps[0]["file"], steps[0]["prediction"]) == ("sdxl-eps.safetensors", "epsilon")
        assert steps[0]["sigma"] == pytest.approx(PLAIN, rel=1e-5)
        second = next(step for step in steps if step["file"] == "sdxl-v-ztsnr.safetensors")
        assert second["prediction"] == "v_prediction"
        assert second["sigma"] == pytest.approx(sigma, rel=1e-5)
    check(webui, webui.txt2img(), "sdxl-eps")


def test_refiner(webui: Webui) -> None:
    """The second model of a job takes over at its own prediction type, and the first one finds its own again."""
    webui.select("sdxl-eps")
    steps = webui.txt2img(steps=4, refiner_checkpoint="sdxl-v-ztsnr.safetensors", refiner_switch_at=0.5)
    seen = [(step["file"], step["prediction"]) for step in steps]
    assert seen[0] == ("sdxl-eps.safetensors", "epsilon")
    assert seen[-1] == ("sdxl-v-ztsnr.safetensors", "v_prediction")
    check(webui, webui.txt2img(), "sdxl-eps")


def test_ztsnr_mark_without_v_prediction(webui: Webui, alone: Webui) -> None:
    """Forge puts the rescaled table under an epsilon model, which then paints every picture in one tint."""
    for host, sigma in ((webui, PLAIN), (alone, ZTSNR)):
        path = write(host.checkpoints, Recipe("ztsnr-alone", SDXL, ("ztsnr",)))
        host.refresh()
        first = first_step(host, "ztsnr-alone")
        assert first["prediction"] == "epsilon"
        assert first["sigma"] == pytest.approx(sigma, rel=1e-5)
        path.unlink()
        host.refresh()


def _split(whole: Path, unet: Path, rest: Path) -> None:
    """The UNet under bare names with the marks of the whole, and all else as one additional module."""
    data = whole.read_bytes()
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    parts: dict[Path, dict[str, Any]] = {unet: {}, rest: {}}
    for name, entry in json.loads(data[8:begin]).items():
        is_rest = name.startswith(("first_stage_model.", "conditioner."))
        if name != "__metadata__":
            parts[rest if is_rest else unet][name.removeprefix("model.diffusion_model.")] = entry
    for path, part in parts.items():
        header, body = {}, bytearray()
        for name, entry in part.items():
            start, end = entry["data_offsets"]
            header[name] = {**entry, "data_offsets": [len(body), len(body) + end - start]}
            body += data[begin + start : begin + end]
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(body))


def test_bare_names_keep_their_marks(webui: Webui, alone: Webui, checkpoint_folder: Path) -> None:
    """Forge gives every key of a bare file the UNet's prefix, the marks too, and so loses them."""
    for host, prediction, sigma in ((webui, "v_prediction", ZTSNR), (alone, "epsilon", PLAIN)):
        bare, module = host.checkpoints / "bare.safetensors", host.data / "models" / "VAE" / "rest.safetensors"
        _split(checkpoint_folder / "sdxl-v-ztsnr.safetensors", bare, module)
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


def test_override_of_the_loaded_file(webui: Webui) -> None:
    generate(webui, "sdxl-eps")
    webui.post("/modelsmith/v1/override", {"name": "sdxl-eps", "prediction": "v_prediction", "ztsnr": "on"})
    first = webui.txt2img()[0]
    webui.post("/modelsmith/v1/override", {"name": "sdxl-eps"})
    assert first["prediction"] == "v_prediction"
    assert first["sigma"] == pytest.approx(ZTSNR, rel=1e-5)
    check(webui, webui.txt2img(), "sdxl-eps")


def test_switched_off_and_on_again(webui: Webui) -> None:
    """Off means as Forge had it, at once and for the next model."""
    generate(webui, "sd21-768v")
    webui.options(modelsmith_enabled=False)
    assert webui.txt2img()[0]["prediction"] == "epsilon"
    first_step(webui, "sdxl-v-ztsnr")
    assert webui.state()["model"]["ztsnr_flag"] is True
    webui.options(modelsmith_enabled=True)
    check(webui, webui.txt2img(), "sdxl-v-ztsnr")
    assert webui.state()["model"]["ztsnr_flag"] is False


def test_what_is_said_for_a_file_goes_before_the_option_for_all(webui: Webui) -> None:
    webui.options(sd_noise_schedule="Zero Terminal SNR")
    webui.post("/modelsmith/v1/override", {"name": "sdxl-v-ztsnr", "ztsnr": "off"})
    try:
        first = first_step(webui, "sdxl-v-ztsnr")
        assert first["sigma"] == pytest.approx(PLAIN, rel=1e-5)
        check_table(first, False)
        assert "Noise Schedule" not in webui.answer["info"]
    finally:
        webui.post("/modelsmith/v1/override", {"name": "sdxl-v-ztsnr"})
    first = first_step(webui, "sdxl-v-ztsnr")
    assert first["sigma_998"] == pytest.approx(ZTSNR_998, rel=1e-5)
    assert first_step(webui, "sdxl-v")["sigma"] == pytest.approx(ZTSNR, rel=1e-5), "where nothing was said"
    webui.options(sd_noise_schedule="Default")
    generate(webui, "sdxl-v")


COSXL = ("edm_vpred.sigma_max", "edm_vpred.sigma_min")


def test_cosxl(webui: Webui, alone: Webui, report: Callable[..., None]) -> None:
    """Forge alone runs it as epsilon from 14.61; here it begins at its own 120, in the network's own time."""
    for host in (webui, alone):
        path = write(host.checkpoints, Recipe("cosxl", SDXL, markers=COSXL, seed=4))
        host.refresh()
        first = first_step(host, "cosxl")
        if host is alone:
            assert (first["prediction"], round(first["sigma"], 2)) == ("epsilon", 14.61)
        else:
            for scheduler in ("Automatic", "Karras", "Exponential", "SGM Uniform", "Simple", "Normal", "Turbo"):
                steps = host.txt2img(scheduler=scheduler, steps=4)
                unet = [event for event in host.events() if event["event"] == "unet"]
                assert steps[0]["prediction"] == "v_prediction"
                assert steps[0]["sigma"] == pytest.approx(120, rel=1e-3)
                levels = [step["sigma"] for step in steps]
                assert levels == sorted(levels, reverse=True)
                assert unet[0]["timestep"] == pytest.approx(1.1969, abs=1e-3)
                assert all(one["finite"] and one["std"] < 5 for one in unet)
                report("CosXL", scheduler, " ".join(f"{level:.3g}" for level in levels))
            for sampler in ("DDIM", "DPM++ 2M", "LCM"):
                host.txt2img(sampler_name=sampler, steps=4)
                assert all(event["finite"] for event in host.events() if event["event"] == "unet")
            assert "continuous noise levels from 0.002 to 120" in str(host.get("/modelsmith/v1/status"))
            host.options(sd_noise_schedule="Zero Terminal SNR")
            assert host.txt2img()[0]["sigma"] == pytest.approx(120, rel=1e-3)
            host.options(sd_noise_schedule="Default")
            picture = host.answer["images"][0]
            steps = host.img2img(init_images=[picture], denoising_strength=0.5, steps=4)
            assert steps[0]["sigma"] < 120
            host.options(modelsmith_enabled=False)
            assert host.txt2img()[0]["prediction"] == "epsilon"
            host.options(modelsmith_enabled=True)
            assert host.txt2img()[0]["sigma"] == pytest.approx(120, rel=1e-3)
            generate(host, "sdxl-v-ztsnr")
        host.select("sdxl-eps")
        path.unlink()
        host.refresh()
    generate(webui, "sdxl-eps")


@pytest.mark.parametrize("sampler", ["DPM++ 2M", "Euler a", "LCM"])
def test_other_samplers_start_at_the_same_noise(webui: Webui, sampler: str) -> None:
    first = first_step(webui, "sdxl-v-ztsnr", sampler_name=sampler)
    assert first["prediction"] == "v_prediction"
    assert first["sigma"] == pytest.approx(ZTSNR, rel=1e-5)


def test_timestep_sampler_uses_the_rescaled_table(webui: Webui) -> None:
    """The webui's own spacing of two DDIM steps begins at t = 501."""
    first = first_step(webui, "sdxl-v-ztsnr", sampler_name="DDIM")
    assert first["sigma"] == pytest.approx(first["sigma_500"], rel=0.01)
    assert first["sigma"] == pytest.approx(1.7811, rel=1e-4)
