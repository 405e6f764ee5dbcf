"""In a running reForge or Classic: what the sampler and the UNet are given for each checkpoint.

``sigma_`` values are of the table that the running sampler was built with, ``lookup_`` values of the one in which the
UNet looks up timesteps. What the webui does without Modelsmith is seen too (``alone``), so that each of its faults
that is mended here is shown to be one.
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

from host.checkpoints import SDXL, Recipe, write, write_vae
from host.ldm_forge_expectations import (
    COMPARED,
    EXPECTED,
    HIRES,
    MISTAKEN_TIMESTEP,
    PLAIN,
    ZTSNR,
    ZTSNR_998,
    builds_sd2,
    check,
    check_tables,
    fail,
    first_step,
    generate,
    is_classic,
    rescales_as_it_loads,
    rescales_lookup,
    skip_what_is_unknown,
    unet_calls,
)
from host.server import Webui, WebuiError

WEBUI = "ldm_forge"

ADVANCED = "advanced model sampling for reforge"
ADVANCED_REST = ["v_prediction", 120.0, 0.002, 500.0, 0.03, 2.0, 3.0, 1.73, 1.15, 0.5, 1024, 1024]


@pytest.fixture
def keeps_models(webui: Webui) -> None:
    # Classic had the option for a while after it lost what it is for.
    if is_classic(webui) or "sd_checkpoints_limit" not in webui.get("/sdapi/v1/options"):
        pytest.skip("this webui keeps one model")


@pytest.fixture
def alone(started_alone: Webui) -> Webui:
    """The same webui without Modelsmith."""
    limit = {} if is_classic(started_alone) else {"sd_checkpoints_limit": 1}
    started_alone.options(sd_noise_schedule="Default", **limit)
    return started_alone


def advanced(webui: Webui, zsnr: bool, prediction: str = "v_prediction") -> list[dict[str, Any]]:
    """A run with Advanced Model Sampling ticked."""
    values = [True, "Discrete", prediction, zsnr, *ADVANCED_REST]
    return webui.txt2img(alwayson_scripts={ADVANCED: {"args": values}})


@pytest.fixture
def has_advanced(webui: Webui) -> None:
    scripts = webui.get("/sdapi/v1/scripts")["txt2img"]
    if ADVANCED not in scripts:
        pytest.skip("this webui has no Advanced Model Sampling")


@pytest.mark.parametrize("name", EXPECTED)
def test_selected_checkpoint(webui: Webui, schedule: Any, name: str, report: Callable[..., None]) -> None:
    skip_what_is_unknown(webui, name)
    first = generate(webui, name, schedule)
    status = webui.get("/modelsmith/v1/status")["loaded"]
    assert status["applied"]
    assert (status["prediction"], status["zero_terminal_snr"]) == EXPECTED[name]
    seen = [f"{first[f'{table}_{index}']:.6g}" for table in ("sigma", "lookup") for index in COMPARED]
    report("selected", name, first["prediction"], f"{first['sigma']:.2f}", *seen)


@pytest.mark.parametrize("name", EXPECTED)
def test_alone(alone: Webui, name: str, report: Callable[..., None]) -> None:
    """What the webui does by itself, for the table only."""
    skip_what_is_unknown(alone, name)
    first = first_step(alone, name)
    assert first["file"] == f"{name}.safetensors"
    seen = [f"{first[f'{table}_{index}']:.6g}" for table in ("sigma", "lookup") for index in COMPARED]
    report("alone", name, first["prediction"], f"{first['sigma']:.2f}", *seen)


def test_back_and_forth(webui: Webui, schedule: Any) -> None:
    for name in ("sdxl-v-ztsnr", "sdxl-eps", "sdxl-v-ztsnr", "sd15", "sd21-768v", "sd2-base", "sdxl-v"):
        if not name.startswith("sd2") or builds_sd2(webui):
            generate(webui, name, schedule)


@pytest.mark.usefixtures("keeps_models")
def test_models_kept_in_memory(webui: Webui, schedule: Any) -> None:
    webui.options(sd_checkpoints_limit=2)
    objects: dict[str, set[int]] = {}
    for name in ("sdxl-v-ztsnr", "sdxl-eps", "sdxl-v-ztsnr", "sdxl-eps", "sdxl-v-ztsnr"):
        generate(webui, name, schedule)
        objects.setdefault(name, set()).add(webui.state()["model"]["object"])
    assert [len(seen) for seen in objects.values()] == [1, 1], "they were kept"


def test_override_settings_of_one_job(webui: Webui, schedule: Any) -> None:
    webui.select("sdxl-eps")
    override = {"sd_model_checkpoint": "sdxl-v-ztsnr.safetensors"}
    check(webui, webui.txt2img(override_settings=override), "sdxl-v-ztsnr", schedule)
    check(webui, webui.txt2img(), "sdxl-eps", schedule)


def test_after_an_exception_in_sampling(webui: Webui, schedule: Any) -> None:
    for _ in range(2):
        fail(webui, "sdxl-v-ztsnr")
    for _ in range(2):
        check(webui, webui.txt2img(), "sdxl-v-ztsnr", schedule)
    fail(webui, "sdxl-v-ztsnr")
    generate(webui, "sdxl-eps", schedule)


def test_alone_rescales_again_after_an_exception(alone: Webui) -> None:
    if is_classic(alone):
        pytest.skip("Classic rescales with every batch, with or without an exception")
    alone.select("sd15")
    fail(alone, "sdxl-v-ztsnr")
    assert alone.txt2img()[0]["lookup_998"] > 100 * ZTSNR_998, "rescaled three times; seen: 943882"


def test_exception_under_the_hosts_own_option(webui: Webui, alone: Webui, schedule: Any) -> None:
    """The option puts ZTSNR on an epsilon model; an exception leaves it there when the option is long off again."""
    # Classic does not honour its option on an epsilon model.
    for host, sigma in ((webui, PLAIN), (alone, PLAIN if is_classic(alone) else ZTSNR)):
        host.options(sd_noise_schedule="Zero Terminal SNR")
        fail(host, "sdxl-eps")
        host.options(sd_noise_schedule="Default")
        assert host.txt2img()[0]["sigma"] == pytest.approx(sigma, rel=1e-5)
    check(webui, webui.txt2img(), "sdxl-eps", schedule)


def test_noise_schedule_option_is_honoured_and_not_doubled(webui: Webui, schedule: Any) -> None:
    webui.options(sd_noise_schedule="Zero Terminal SNR")
    for name in ("sdxl-v-ztsnr", "sdxl-v"):
        first = first_step(webui, name)
        assert first["sigma"] == pytest.approx(ZTSNR, rel=1e-5)
        assert first["sigma_998"] == pytest.approx(ZTSNR_998, rel=1e-4)
        assert first["lookup_998"] == pytest.approx(ZTSNR_998, rel=1e-4)
    webui.options(sd_noise_schedule="Default")
    check(webui, webui.txt2img(), "sdxl-v", schedule)


def test_noise_schedule_option_on_an_epsilon_model_is_said(webui: Webui) -> None:
    webui.options(sd_noise_schedule="Zero Terminal SNR")
    first_step(webui, "sdxl-eps")
    assert "Noise schedule" in webui.get("/modelsmith/v1/status")["loaded"]["notes"][0]


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


def test_many_batches_keep_the_tables(webui: Webui, schedule: Any) -> None:
    webui.select("sdxl-v-ztsnr")
    check(webui, webui.txt2img(steps=1, n_iter=8), "sdxl-v-ztsnr", schedule)
    check(webui, webui.txt2img(), "sdxl-v-ztsnr", schedule)


def test_vae_changes(webui: Webui, schedule: Any) -> None:
    """A change of the VAE announces the same model as loaded once more."""
    write_vae(webui.data / "models" / "VAE", "other")
    webui.post("/sdapi/v1/refresh-vae", {})
    generate(webui, "sdxl-v-ztsnr", schedule)
    for name in ("other.safetensors", "None", "other.safetensors", "Automatic"):
        webui.clear()
        webui.options(sd_vae=name)
        assert [event["event"] for event in webui.events()].count("model_loaded") <= 1
        check(webui, webui.txt2img(), "sdxl-v-ztsnr", schedule)


def test_hires_checkpoint(webui: Webui, alone: Webui, schedule: Any) -> None:
    """The webui sets up the first model only, so a second one with ZTSNR begins at 14.61, on reForge at t = 880.

    Classic of early 2025 sets up the sampler's table of every model that it loads, and never the UNet's.
    """
    early = is_classic(alone) and not rescales_lookup(alone)
    for host, sigma in ((webui, ZTSNR), (alone, ZTSNR if early else PLAIN)):
        host.select("sdxl-eps")
        steps = host.txt2img(**HIRES, hr_checkpoint_name="sdxl-v-ztsnr.safetensors")
        calls = unet_calls(host)
        assert (steps[0]["file"], steps[0]["prediction"]) == ("sdxl-eps.safetensors", "epsilon")
        assert steps[0]["sigma"] == pytest.approx(PLAIN, rel=1e-5)
        second = next(step for step in steps if step["file"] == "sdxl-v-ztsnr.safetensors")
        assert second["prediction"] == "v_prediction"
        assert second["sigma"] == pytest.approx(sigma, rel=1e-5)
        begins = next(call for call in calls if call["prediction"] == "v_prediction")
        if host is webui:
            assert begins["timestep"] == 999
            assert second["sigma_998"] == pytest.approx(ZTSNR_998, rel=1e-4)
        else:
            assert begins["timestep"] in (999, MISTAKEN_TIMESTEP)
    check(webui, webui.txt2img(), "sdxl-eps", schedule)


@pytest.mark.usefixtures("keeps_models")
def test_hires_checkpoint_kept_in_memory(webui: Webui) -> None:
    webui.options(sd_checkpoints_limit=2)
    for _ in range(2):
        webui.select("sdxl-eps")
        steps = webui.txt2img(**HIRES, hr_checkpoint_name="sdxl-v-ztsnr.safetensors")
        assert steps[0]["sigma"] == pytest.approx(PLAIN, rel=1e-5)
        second = next(step for step in steps if step["file"] == "sdxl-v-ztsnr.safetensors")
        assert second["sigma"] == pytest.approx(ZTSNR, rel=1e-5)


def test_refiner(webui: Webui, alone: Webui, schedule: Any) -> None:
    """The second model of a job takes over with its own type and tables, the first one finds its own again.

    The webui alone leaves it the plain table, on reForge beside a lookup table with ZTSNR, on Classic of early 2025 the
    other way round: a wrong timestep each step.
    """
    for host in (webui, alone):
        host.select("sdxl-eps")
        steps = host.txt2img(steps=4, refiner_checkpoint="sdxl-v-ztsnr.safetensors", refiner_switch_at=0.5)
        assert (steps[0]["file"], steps[0]["prediction"]) == ("sdxl-eps.safetensors", "epsilon")
        last = steps[-1]
        assert last["file"] == "sdxl-v-ztsnr.safetensors"
        if host is webui:
            check_tables(last, "sdxl-v-ztsnr", schedule)
            check(webui, webui.txt2img(), "sdxl-eps", schedule)
        else:
            early = is_classic(alone) and not rescales_lookup(alone)
            assert last["sigma_900"] == pytest.approx(schedule[str(early)]["900"], rel=1e-4)
            mistaken = schedule[str(rescales_as_it_loads(alone))]["900"]
            assert last["lookup_900"] == pytest.approx(mistaken, rel=1e-4)


def test_ztsnr_mark_without_v_prediction(webui: Webui) -> None:
    """An epsilon model under the rescaled table paints every picture in one tint."""
    path = write(webui.checkpoints, Recipe("ztsnr-alone", SDXL, ("ztsnr",), text_layers=3))
    webui.refresh()
    first = first_step(webui, "ztsnr-alone")
    webui.select("sd15")
    path.unlink()
    webui.refresh()
    assert first["prediction"] == "epsilon"
    assert first["sigma"] == pytest.approx(PLAIN, rel=1e-5)


def test_override_of_a_file_without_marks(webui: Webui, schedule: Any) -> None:
    generate(webui, "sdxl-eps", schedule)
    webui.post("/modelsmith/v1/override", {"name": "sdxl-eps", "prediction": "v_prediction", "ztsnr": "on"})
    for again in (False, True):
        if again:
            webui.select("sd15")
            webui.select("sdxl-eps")
        first = webui.txt2img()[0]
        assert first["prediction"] == "v_prediction"
        assert first["sigma"] == pytest.approx(ZTSNR, rel=1e-5)
        assert first["lookup_998"] == pytest.approx(ZTSNR_998, rel=1e-4)
        assert unet_calls(webui)[0]["std"] < 5
    webui.post("/modelsmith/v1/override", {"name": "sdxl-eps"})
    check(webui, webui.txt2img(), "sdxl-eps", schedule)


def test_override_to_epsilon(webui: Webui) -> None:
    webui.select("sdxl-v-ztsnr")
    webui.post("/modelsmith/v1/override", {"name": "sdxl-v-ztsnr", "prediction": "epsilon"})
    first = webui.txt2img()[0]
    webui.post("/modelsmith/v1/override", {"name": "sdxl-v-ztsnr"})
    assert first["prediction"] == "epsilon"
    assert first["sigma"] == pytest.approx(PLAIN, rel=1e-5)
    assert first["lookup_999"] == pytest.approx(PLAIN, rel=1e-5)


TABLES = [f"{table}_{index}" for table in ("sigma", "lookup") for index in COMPARED]


def test_switched_off_and_on_again(webui: Webui, alone: Webui, schedule: Any) -> None:
    """Off means as the webui had it, at once and for the next model."""
    compared = [*TABLES, "prediction", "ztsnr_flag", "leftovers"]
    alone.select("sd15")
    alone.select("sdxl-v-ztsnr")
    bare = alone.state()["model"]
    generate(webui, "sdxl-v-ztsnr", schedule)
    webui.options(modelsmith_enabled=False)
    off = webui.state()["model"]
    assert {name: off[name] for name in compared} == {name: bare[name] for name in compared}
    assert off["ztsnr_flag"] is True
    other = "sd21-768v" if builds_sd2(webui) else "sdxl-v"
    webui.select(other)
    alone.select(other)
    assert webui.state()["model"]["prediction"] == alone.state()["model"]["prediction"]
    webui.options(modelsmith_enabled=True)
    generate(webui, "sdxl-v-ztsnr", schedule)
    assert webui.state()["model"]["ztsnr_flag"] is False


@pytest.mark.usefixtures("has_advanced")
def test_advanced_model_sampling_has_its_way(webui: Webui, alone: Webui, schedule: Any) -> None:
    """A ticked job runs as it would without Modelsmith; the one after it as the file wants."""
    for zsnr in (True, False):
        for name in ("sdxl-eps", "sdxl-v-ztsnr"):
            seen = []
            for host in (webui, alone):
                host.select("sd15")
                host.select(name)
                first = advanced(host, zsnr)[0]
                seen.append((first["sigma"], first["prediction"], unet_calls(host)[0]))
            assert seen[0] == seen[1]
            generate(webui, name, schedule)
            generate(webui, name, schedule)


@pytest.mark.usefixtures("has_advanced")
def test_alone_is_left_damaged_by_advanced_model_sampling(alone: Webui) -> None:
    """After one ticked run on an epsilon model the next one begins at 14.61, which it takes for t = 880."""
    alone.select("sd15")
    alone.select("sdxl-eps")
    advanced(alone, zsnr=True)
    alone.txt2img()
    assert unet_calls(alone)[0]["timestep"] == pytest.approx(MISTAKEN_TIMESTEP, abs=1)


def test_back_to_the_good_one_after_a_failed_load(webui: Webui, schedule: Any) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path: Path = webui.checkpoints / "unknown.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    webui.refresh()
    generate(webui, "sdxl-v-ztsnr", schedule)
    try:
        webui.select("unknown")
        webui.txt2img()
    except WebuiError as error:
        assert error.code == 500
    path.unlink()
    webui.refresh()
    generate(webui, "sdxl-v", schedule)
    generate(webui, "sdxl-v-ztsnr", schedule)


@pytest.mark.parametrize("sampler", ["DPM++ 2M", "Euler a", "LCM"])
def test_other_samplers_start_at_the_same_noise(webui: Webui, sampler: str) -> None:
    first = first_step(webui, "sdxl-v-ztsnr", sampler_name=sampler)
    assert first["prediction"] == "v_prediction"
    assert first["sigma"] == pytest.approx(ZTSNR, rel=1e-5)


def test_timestep_sampler_uses_the_rescaled_table(webui: Webui, schedule: Any) -> None:
    """The webui's own spacing of two DDIM steps begins at t = 501."""
    first_step(webui, "sdxl-v-ztsnr", sampler_name="DDIM")
    call = unet_calls(webui)[0]
    assert call["timestep"] == 501
    assert call["sigma"] == pytest.approx(schedule["True"]["500"], rel=0.01)
