"""The main job in a real Forge: a checkpoint is chosen, and the sampler is given what that checkpoint wants.

What Forge does by itself is seen too (``alone``), so that each of its faults that Modelsmith mends is shown to be one.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numpy")

from host import checkpoints, forge_webui
from host.checkpoints import SD1, SD2, SDXL, Recipe
from host.forge_webui import ForgeWebui, Run

pytestmark = [
    pytest.mark.host,
    pytest.mark.slow,
    pytest.mark.skipif(forge_webui.given() is None, reason="MODELSMITH_WEBUI does not name a Forge"),
]

RECIPES = (
    Recipe("sdxl-v-ztsnr", SDXL, ("v_pred", "ztsnr")),
    Recipe("sdxl-v", SDXL, ("v_pred",)),
    Recipe("sdxl-eps", SDXL),
    Recipe("sdxl-ztsnr-without-v", SDXL, ("ztsnr",)),
    Recipe("sd1", SD1),
    Recipe("sd21-768-v", SD2, v_prediction_bias=True),
    Recipe("sd2-base", SD2),
)
EXPECTED = {
    "sdxl-v-ztsnr": ("v_prediction", True),
    "sdxl-v": ("v_prediction", False),
    "sdxl-eps": ("epsilon", False),
    "sdxl-ztsnr-without-v": ("epsilon", False),
    "sd1": ("epsilon", False),
    "sd21-768-v": ("v_prediction", False),
    "sd2-base": ("epsilon", False),
}
ZTSNR_SIGMA_MAX, PLAIN_SIGMA_MAX = 4518.76, 14.6146
STEPS = (0, 500, 900, 998)
# An independent schedule: diffusers', from the environment of the webui.
DIFFUSERS = """
import json, torch
from diffusers import DDIMScheduler
tables = {}
for ztsnr in (False, True):
    made = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                         rescale_betas_zero_snr=ztsnr, prediction_type="v_prediction")
    a = made.alphas_cumprod.double()
    tables[str(ztsnr)] = {str(i): float(((1 - a[i]) / a[i]) ** 0.5) for i in (0, 500, 900, 998, 999) if a[i] > 0}
print(json.dumps(tables))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for recipe in RECIPES:
        checkpoints.write(folder, recipe)
    return folder


def _start(models: Path, data: Path, **kind: Any) -> ForgeWebui:
    (data / "models").mkdir(parents=True)
    (data / "models" / "Stable-diffusion").symlink_to(models)
    return ForgeWebui(data, **kind)


@pytest.fixture(scope="module")
def forge(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForgeWebui]:
    running = _start(models, tmp_path_factory.mktemp("forge") / "data")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def alone(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForgeWebui]:
    """The same Forge without Modelsmith."""
    running = _start(models, tmp_path_factory.mktemp("alone") / "data", extension=False)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def schedule() -> dict[str, dict[str, float]]:
    python = os.environ.get("MODELSMITH_WEBUI_PYTHON", sys.executable)
    made = subprocess.run([python, "-c", DIFFUSERS], check=True, capture_output=True, text=True)
    return json.loads(made.stdout.splitlines()[-1])


def assert_as_wanted(run: Run, name: str) -> None:
    """The sampler began where this checkpoint wants to begin, and the UNet's answer was read as its type."""
    prediction, ztsnr = EXPECTED[name]
    first, unet = run.first, run.first_unet
    assert run.status == 200, run.answer
    assert first["file"] == f"{name}.safetensors"
    assert first["prediction"] == unet["prediction"] == prediction
    assert first["sigma"] == pytest.approx(ZTSNR_SIGMA_MAX if ztsnr else PLAIN_SIGMA_MAX, rel=1e-5)
    assert unet["timestep"] == 999
    assert unet["finite"]
    # What epsilon makes of the first step is as loud as the noise; v-prediction's is as quiet as a picture.
    assert (unet["std"] > 5) == (prediction == "epsilon")


@pytest.mark.parametrize("name", list(EXPECTED))
def test_each_checkpoint_gets_what_it_wants(forge: ForgeWebui, schedule: Any, name: str) -> None:
    run = forge.generate(name)
    assert_as_wanted(run, name)
    expected = schedule[str(EXPECTED[name][1])]
    for step in STEPS:
        assert run.first[f"sigma_{step}"] == pytest.approx(expected[str(step)], rel=1e-4)
    status = forge.get("/modelsmith/v1/status")["loaded"]
    assert (status["applied"], status["prediction"]) == (True, EXPECTED[name][0])
    assert status["zero_terminal_snr"] == EXPECTED[name][1]


def test_forge_alone_runs_sd21_768_as_epsilon(alone: ForgeWebui) -> None:
    assert alone.generate("sd21-768-v").first["prediction"] == "epsilon"


def test_switching_to_and_fro(forge: ForgeWebui) -> None:
    for name in ("sdxl-v-ztsnr", "sdxl-eps", "sdxl-v-ztsnr", "sd1", "sd21-768-v", "sd2-base", "sdxl-v", "sdxl-v-ztsnr"):
        assert_as_wanted(forge.generate(name), name)


def test_switching_for_one_job_only(forge: ForgeWebui) -> None:
    forge.choose("sdxl-eps")
    wish = {"sd_model_checkpoint": "sdxl-v-ztsnr.safetensors"}
    assert_as_wanted(forge.generate(override_settings=wish), "sdxl-v-ztsnr")
    assert_as_wanted(forge.generate(), "sdxl-eps")


def test_after_an_exception_in_sampling(forge: ForgeWebui) -> None:
    forge.choose("sdxl-v-ztsnr")
    forge.fail_at(1)
    failed = forge.generate()
    assert failed.status == 500
    tables = [forge.generate().first for _ in range(2)]
    for table in tables:
        assert table["sigma_998"] == pytest.approx(2254.24, rel=1e-4), "rescaled twice it is 4497"
    assert_as_wanted(forge.generate("sdxl-eps"), "sdxl-eps")


def test_forge_alone_rescales_twice_after_an_exception(alone: ForgeWebui) -> None:
    alone.choose("sdxl-v-ztsnr")
    alone.fail_at(1)
    alone.generate()
    assert alone.generate().first["sigma_998"] > 4000


def test_after_an_exception_under_the_hosts_own_option(forge: ForgeWebui, alone: ForgeWebui) -> None:
    """The option puts ZTSNR on an epsilon model; an exception leaves it there when the option is long off again."""
    seen = {}
    for which, webui in (("with", forge), ("alone", alone)):
        webui.choose("sdxl-eps")
        webui.options(sd_noise_schedule="Zero Terminal SNR")
        webui.fail_at(1)
        webui.generate()
        webui.options(sd_noise_schedule="Default")
        seen[which] = webui.generate().first["sigma"]
    assert seen["alone"] == pytest.approx(ZTSNR_SIGMA_MAX, rel=1e-5)
    assert seen["with"] == pytest.approx(PLAIN_SIGMA_MAX, rel=1e-5)


def test_the_hosts_own_option_is_respected_and_not_doubled(forge: ForgeWebui) -> None:
    forge.options(sd_noise_schedule="Zero Terminal SNR")
    try:
        first = forge.generate("sdxl-v-ztsnr").first
        assert first["sigma"] == pytest.approx(ZTSNR_SIGMA_MAX, rel=1e-5)
        assert first["sigma_998"] == pytest.approx(2254.24, rel=1e-4)
        assert forge.generate("sdxl-v").first["sigma"] == pytest.approx(ZTSNR_SIGMA_MAX, rel=1e-5)
    finally:
        forge.options(sd_noise_schedule="Default")
    assert_as_wanted(forge.generate("sdxl-v"), "sdxl-v")


def test_interrupted_sampling_leaves_nothing(forge: ForgeWebui) -> None:
    forge.choose("sdxl-v-ztsnr")
    forge.generate()
    running = threading.Thread(target=forge.generate, kwargs={"steps": 150})
    running.start()
    time.sleep(1.5)
    forge.post("/sdapi/v1/interrupt")
    running.join()
    assert_as_wanted(forge.generate(), "sdxl-v-ztsnr")
    assert_as_wanted(forge.generate("sdxl-eps"), "sdxl-eps")


def _write_unknown(models: Path) -> Path:
    """A whole safetensors file that is no checkpoint."""
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path = models / "unknown.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    return path


def test_back_to_the_good_one_after_a_failed_load(forge: ForgeWebui, alone: ForgeWebui, models: Path) -> None:
    unknown = _write_unknown(models)
    try:
        for webui in (alone, forge):
            webui.post("/sdapi/v1/refresh-checkpoints")
            webui.generate("sdxl-v")
            assert webui.generate("unknown").status == 500
        assert alone.generate("sdxl-v").status == 500
        assert_as_wanted(forge.generate("sdxl-v"), "sdxl-v")
    finally:
        unknown.unlink()


def test_hires_with_a_second_checkpoint(forge: ForgeWebui, alone: ForgeWebui) -> None:
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 1.0}
    hires |= {"hr_checkpoint_name": "sdxl-v-ztsnr.safetensors", "hr_additional_modules": ["Use same choices"]}
    second = {}
    for which, webui in (("with", forge), ("alone", alone)):
        run = webui.generate("sdxl-eps", **hires)
        assert run.first["prediction"] == "epsilon"
        assert run.first["sigma"] == pytest.approx(PLAIN_SIGMA_MAX, rel=1e-5)
        second[which] = next(step for step in run.of("step") if step["file"] == "sdxl-v-ztsnr.safetensors")
    assert second["alone"]["sigma"] == pytest.approx(PLAIN_SIGMA_MAX, rel=1e-5)
    assert second["with"]["sigma"] == pytest.approx(ZTSNR_SIGMA_MAX, rel=1e-5)
    assert second["with"]["prediction"] == "v_prediction"
    assert_as_wanted(forge.generate("sdxl-eps"), "sdxl-eps")


def test_refiner_in_mid_sampling(forge: ForgeWebui) -> None:
    run = forge.generate("sdxl-v", refiner_checkpoint="sd21-768-v.safetensors", refiner_switch_at=0.5)
    del run  # SDXL's conditioning does not fit SD2: only what is left behind matters here
    run = forge.generate("sdxl-eps", refiner_checkpoint="sdxl-v-ztsnr.safetensors", refiner_switch_at=0.5)
    steps = [(step["file"], step["prediction"]) for step in run.of("step")]
    assert steps == [("sdxl-eps.safetensors", "epsilon"), ("sdxl-v-ztsnr.safetensors", "v_prediction")]
    assert_as_wanted(forge.generate("sdxl-eps"), "sdxl-eps")


def _split(whole: Path, unet: Path, rest: Path) -> None:
    """The UNet under bare names with the marks of the whole, and all else as one additional module."""
    data = whole.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    entries = {k: v for k, v in json.loads(data[8 : 8 + size]).items() if k != "__metadata__"}
    prefix = "model.diffusion_model."
    parts = {unet: {}, rest: {}}
    for name, entry in entries.items():
        is_rest = name.startswith(("first_stage_model.", "conditioner."))
        parts[rest if is_rest else unet][name.removeprefix(prefix)] = entry
    for path, part in parts.items():
        header, body = {}, bytearray()
        for name, entry in part.items():
            start, end = entry["data_offsets"]
            header[name] = {**entry, "data_offsets": [len(body), len(body) + end - start]}
            body += data[8 + size + start : 8 + size + end]
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(body))


def test_bare_names_keep_their_marks(forge: ForgeWebui, alone: ForgeWebui, models: Path, tmp_path: Path) -> None:
    """Forge gives every key of a bare file the UNet's prefix, the marks too, and so loses them."""
    bare, rest = models / "bare.safetensors", tmp_path / "rest.safetensors"
    _split(models / "sdxl-v-ztsnr.safetensors", bare, rest)
    seen = {}
    try:
        for which, webui in (("with", forge), ("alone", alone)):
            module = webui.data / "models" / "VAE" / rest.name
            module.symlink_to(rest)
            webui.post("/sdapi/v1/refresh-checkpoints")
            webui.options(forge_additional_modules=[str(module)])
            seen[which] = webui.generate("bare").first
            webui.options(forge_additional_modules=[])
            module.unlink()
    finally:
        bare.unlink()
    assert seen["alone"]["prediction"] == "epsilon"
    assert seen["with"]["prediction"] == "v_prediction"
    assert seen["with"]["sigma"] == pytest.approx(ZTSNR_SIGMA_MAX, rel=1e-5)


def test_override_of_one_file_and_back(forge: ForgeWebui, models: Path) -> None:
    assert_as_wanted(forge.generate("sdxl-eps"), "sdxl-eps")
    forge.post("/modelsmith/v1/override", {"name": "sdxl-eps", "prediction": "v_prediction", "ztsnr": "on"})
    try:
        first = forge.generate().first
        assert first["prediction"] == "v_prediction"
        assert first["sigma"] == pytest.approx(ZTSNR_SIGMA_MAX, rel=1e-5)
    finally:
        forge.post("/modelsmith/v1/override", {"name": "sdxl-eps"})
    assert_as_wanted(forge.generate(), "sdxl-eps")


def test_switched_off_and_on_again(forge: ForgeWebui) -> None:
    assert_as_wanted(forge.generate("sd21-768-v"), "sd21-768-v")
    forge.options(modelsmith_enabled=False)
    try:
        assert forge.model()["prediction"] == "epsilon", "what Forge had set must be back at once"
        forge.generate("sdxl-v-ztsnr")
        assert forge.model()["ztsnr_flag"] is True
    finally:
        forge.options(modelsmith_enabled=True)
    assert_as_wanted(forge.generate(), "sdxl-v-ztsnr")


def test_other_samplers_follow(forge: ForgeWebui) -> None:
    for name, sampler in (("sdxl-v-ztsnr", "DDIM"), ("sdxl-v-ztsnr", "DPM++ 2M"), ("sdxl-v-ztsnr", "LCM")):
        first = forge.generate(name, sampler_name=sampler).first
        assert first["prediction"] == "v_prediction"
        expected = 1.7811 if sampler == "DDIM" else ZTSNR_SIGMA_MAX  # DDIM's two steps begin at t = 501
        assert first["sigma"] == pytest.approx(expected, rel=1e-4)
