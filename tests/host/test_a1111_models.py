"""In a running AUTOMATIC1111: which config a checkpoint gets, and what the sampler is given."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from host.a1111_expectations import EXPECTED, PLAIN, SDXL_V, ZTSNR, ZTSNR_998, Expected, check, generate
from host.server import Webui, WebuiError

WEBUI = "a1111"


@pytest.fixture
def extra_checkpoint(webui: Webui, checkpoint_folder: Path) -> Any:
    """Copies a checkpoint under another name, with or without files beside it; all are removed afterwards."""
    made: list[Path] = []

    def add(source: str, name: str) -> Path:
        target = webui.checkpoints / f"{name}.safetensors"
        shutil.copy2(checkpoint_folder / f"{source}.safetensors", target)
        made.append(target)
        webui.refresh()
        return target

    yield add
    webui.select("sd15")
    for target in made:
        for beside in target.parent.glob(f"{target.stem}.*"):
            beside.unlink()
    webui.refresh()


@pytest.fixture
def alone(started_alone: Webui) -> Webui:
    """The same webui without Modelsmith."""
    started_alone.options(sd_noise_schedule="Default", sd_checkpoints_limit=1)
    return started_alone


def knows_marks(webui: Webui) -> bool:
    """Whether it is the version after 1.10.1, which looks for marks itself."""
    return (webui.root / "configs" / "sd_xl_v.yaml").is_file()


def test_the_webui_alone_runs_a_marked_file_as_epsilon(alone: Webui) -> None:
    if knows_marks(alone):
        pytest.skip("this version reads the marks of SDXL files by itself")
    alone.select("sdxl-v-ztsnr")
    first = alone.txt2img()[0]
    assert (first["prediction"], Path(first["config"]).name) == ("epsilon", "sd_xl_base.yaml")
    assert first["sigma"] == pytest.approx(PLAIN, rel=1e-5)


def test_stale_ztsnr_table_of_a_swap(webui: Webui, alone: Webui) -> None:
    """The option on for one SD1 file, off again, then one without a table of its own: the webui alone keeps it."""
    for host in (webui, alone):
        host.select("sd15")
        host.options(sd_noise_schedule="Zero Terminal SNR")
        assert host.txt2img()[0]["sigma"] == pytest.approx(ZTSNR, rel=1e-5)
        host.select("sd15-b")
        host.options(sd_noise_schedule="Default")
        first = host.txt2img()[0]
        if host is alone:
            assert first["sigma"] == pytest.approx(ZTSNR, rel=1e-5)
        else:
            check([first], "sd15-b")


def test_stale_parameterization_of_a_swap(webui: Webui, alone: Webui) -> None:
    """A model object that something has set to v-prediction keeps that for the next SD1 file."""
    for host in (webui, alone):
        host.select("sd15")
        host.txt2img()
        host.post("/modelsmith-probe/v1/parameterization?value=v", {})
        host.select("sd15-b")
        first = host.txt2img()[0]
        assert first["prediction"] == ("v_prediction" if host is alone else "epsilon")


def test_what_is_said_for_a_file_goes_before_the_option_for_all(webui: Webui) -> None:
    name = "sdxl-v-ztsnr.safetensors"
    webui.select("sdxl-v-ztsnr")
    webui.options(sd_noise_schedule="Zero Terminal SNR")
    try:
        webui.post("/modelsmith/v1/override", {"name": name, "ztsnr": "off"})
        check(webui.txt2img(), "sdxl-v-ztsnr", Expected(SDXL_V, "v_prediction", PLAIN))
        assert "Noise Schedule" not in webui.answer["info"]
    finally:
        webui.post("/modelsmith/v1/override", {"name": name})
        (webui.checkpoints / "sdxl-v-ztsnr.json").unlink(missing_ok=True)
    check(webui.txt2img(), "sdxl-v-ztsnr")
    webui.select("sdxl-v")
    assert webui.txt2img()[0]["sigma"] == pytest.approx(ZTSNR, rel=1e-5), "the option stands where nothing was said"


def test_a_model_that_this_webui_cannot_run_is_named(webui: Webui) -> None:
    from host.checkpoints import SDXL, Recipe, write

    path = write(webui.checkpoints, Recipe("cosxl", SDXL, markers=("edm_vpred.sigma_max",), seed=4))
    webui.refresh()
    try:
        webui.select("cosxl")
        webui.txt2img()
        assert any("which gives noise" in note for note in webui.get("/modelsmith/v1/status")["loaded"]["notes"])
        assert "cosxl.safetensors: the file is a model of type edm_v_prediction" in webui.output()
    finally:
        webui.select("sd15")
        path.unlink()
        webui.refresh()


@pytest.mark.parametrize("name", EXPECTED)
def test_selected_checkpoint(webui: Webui, name: str, report: Callable[..., None]) -> None:
    webui.select(name)
    webui.clear()
    webui.select("sd15-b" if name == "sd15" else "sd15")
    webui.select(name)
    loads = [event for event in webui.events() if event["event"] == "weights"]
    assert loads[-1]["unexpected"] in ([], ["v_pred"], ["v_pred", "ztsnr"], ["ztsnr", "v_pred"])
    assert not any(event["event"] == "vanilla_sd2_test" for event in webui.events())
    first = check(webui.txt2img(), name)
    config = Path(first["config"]).name
    report("selected", name, config, first["prediction"], f"{first['sigma']:.2f}", first["wrapper"])


@pytest.mark.parametrize("sampler", ["DPM++ 2M", "Euler a", "Heun", "DPM++ SDE"])
def test_other_samplers_start_at_the_same_noise(webui: Webui, sampler: str) -> None:
    webui.select("sdxl-v-ztsnr")
    check(webui.txt2img(sampler_name=sampler, scheduler="Karras"), "sdxl-v-ztsnr")


def test_timestep_sampler_uses_the_rescaled_table(webui: Webui) -> None:
    webui.select("sdxl-v-ztsnr")
    steps = webui.txt2img(sampler_name="DDIM")
    assert steps[0]["prediction"] == "v_prediction"
    assert steps[0]["sigma"] == 501  # the webui's own spacing of two steps; the table is what matters
    assert webui.state()["model"]["sigma_max"] == pytest.approx(ZTSNR, rel=1e-5)


def test_back_and_forth(webui: Webui, report: Callable[..., None]) -> None:
    order = ("sdxl-v-ztsnr", "sdxl-eps", "sdxl-v-ztsnr", "sd15", "sd21-768v", "sd2-base", "sd21-768v", "sdxl-v")
    seen = [generate(webui, name) for name in order]
    for name, first in zip(order, seen, strict=True):
        config = Path(first["config"]).name
        report("switched", name, config, first["prediction"], f"{first['sigma']:.2f}", first["wrapper"])


def test_two_kept_in_memory(webui: Webui, report: Callable[..., None]) -> None:
    webui.options(sd_checkpoints_limit=2)
    order = ("sdxl-v-ztsnr", "sdxl-eps", "sdxl-v-ztsnr", "sdxl-eps", "sdxl-v-ztsnr")
    objects: dict[str, set[int]] = {}
    for name in order:
        first = generate(webui, name)
        objects.setdefault(name, set()).add(webui.state()["model"]["object"])
        report("two in memory", name, Path(first["config"]).name, first["prediction"], f"{first['sigma']:.2f}", "")
    assert [len(found) for found in objects.values()] == [1, 1], "a model in memory was built again"


def test_checkpoints_cached_in_memory(webui: Webui, alone: Webui) -> None:
    """The version after 1.10.1 caches weights from which it has taken the mark: the second time it finds epsilon."""
    webui.options(sd_checkpoint_cache=2)
    try:
        for name in ("sdxl-v-ztsnr", "sdxl-eps", "sdxl-v-ztsnr", "sdxl-eps", "sd15", "sdxl-v-ztsnr"):
            generate(webui, name)
    finally:
        webui.options(sd_checkpoint_cache=0)
    if not knows_marks(alone):
        return
    alone.options(sd_checkpoint_cache=2)
    try:
        # SD1 between, so that the model is built anew.
        seen = []
        for name in ("sdxl-v-ztsnr", "sd15", "sdxl-v-ztsnr"):
            alone.select(name)
            seen.append(alone.txt2img()[0]["prediction"])
        assert seen == ["v_prediction", "epsilon", "epsilon"]
    finally:
        alone.options(sd_checkpoint_cache=0)


@pytest.mark.parametrize("step", [0, 1])
def test_after_an_exception_in_sampling(webui: Webui, step: int, report: Callable[..., None]) -> None:
    webui.select("sdxl-v-ztsnr")
    webui.fail_at(step)
    with pytest.raises(WebuiError, match="a test asked for this failure"):
        webui.txt2img()
    first = check(webui.txt2img(), "sdxl-v-ztsnr")
    report("after exception", "sdxl-v-ztsnr", "", first["prediction"], f"{first['sigma']:.2f}", first["wrapper"])
    webui.fail_at(step)
    with pytest.raises(WebuiError, match="a test asked for this failure"):
        webui.txt2img()
    first = generate(webui, "sdxl-eps")
    report("after exception", "sdxl-eps", "", first["prediction"], f"{first['sigma']:.2f}", first["wrapper"])


def test_override_settings_of_one_job(webui: Webui) -> None:
    webui.select("sdxl-eps")
    override = {"sd_model_checkpoint": "sdxl-v-ztsnr.safetensors"}
    check(webui.txt2img(override_settings=override), "sdxl-v-ztsnr")
    check(webui.txt2img(), "sdxl-eps")


def test_first_img2img_after_switching(webui: Webui) -> None:
    webui.select("sdxl-eps")
    webui.txt2img()
    picture = webui.answer["images"][0]
    webui.select("sdxl-v-ztsnr")
    check(webui.img2img(init_images=[picture], denoising_strength=1.0), "sdxl-v-ztsnr")
    webui.select("sdxl-eps")
    check(webui.img2img(init_images=[picture], denoising_strength=1.0), "sdxl-eps")


@pytest.mark.parametrize(("first", "second"), [("sdxl-v-ztsnr", "sdxl-eps"), ("sdxl-eps", "sdxl-v-ztsnr")])
def test_hires_checkpoint(webui: Webui, first: str, second: str) -> None:
    webui.select(first)
    steps = webui.txt2img(
        enable_hr=True,
        hr_scale=2,
        hr_upscaler="Latent",
        hr_checkpoint_name=f"{second}.safetensors",
        denoising_strength=1.0,
    )
    check(steps, first)
    check([step for step in steps if step["file"] == f"{second}.safetensors"], second)


def test_refiner(webui: Webui) -> None:
    """The second model of a job takes over at its own prediction type."""
    webui.select("sdxl-eps")
    steps = webui.txt2img(steps=4, refiner_checkpoint="sdxl-v.safetensors", refiner_switch_at=0.5)
    check(steps, "sdxl-eps")
    last = steps[-1]
    assert (last["file"], last["prediction"]) == ("sdxl-v.safetensors", "v_prediction")


def test_noise_schedule_option_leaves_nothing_behind(webui: Webui) -> None:
    """The webui alone keeps the rescaled table for the next SD1 file once the option was on."""
    webui.select("sd15")
    webui.options(sd_noise_schedule="Zero Terminal SNR")
    assert webui.txt2img()[0]["sigma"] == pytest.approx(ZTSNR, rel=1e-5), "the user's option is honoured"
    webui.select("sd15-b")
    webui.options(sd_noise_schedule="Default")
    check(webui.txt2img(), "sd15-b")
    generate(webui, "sd15")


def test_noise_schedule_option_does_not_rescale_twice(webui: Webui) -> None:
    webui.select("sdxl-v-ztsnr")
    webui.options(sd_noise_schedule="Zero Terminal SNR")
    check(webui.txt2img(), "sdxl-v-ztsnr")
    assert webui.state()["model"]["sigma_998"] == pytest.approx(ZTSNR_998, rel=1e-5)


def test_downcast_option_does_not_make_noise_infinite(webui: Webui) -> None:
    webui.select("sdxl-v-ztsnr")
    webui.options(use_downcasted_alpha_bar=True)
    check(webui.txt2img(), "sdxl-v-ztsnr")
    assert "Downcast alphas_cumprod" not in webui.answer["info"]


def test_config_beside_the_file_wins(webui: Webui, extra_checkpoint: Callable[[str, str], Path]) -> None:
    stock = webui.root / "repositories/generative-models/configs/inference/sd_xl_base.yaml"
    file = extra_checkpoint("sdxl-v-ztsnr", "with-yaml")
    shutil.copy2(stock, file.with_suffix(".yaml"))
    webui.select("with-yaml")
    steps = webui.txt2img()
    assert steps[0]["config"] == str(file.with_suffix(".yaml"))


def test_damaged_file_leaves_the_model_in_memory_right(
    webui: Webui, extra_checkpoint: Callable[[str, str], Path]
) -> None:
    file = extra_checkpoint("sdxl-eps", "damaged")
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 3)
    for name in ("sdxl-v-ztsnr", "sdxl-eps", "sdxl-v-ztsnr"):
        generate(webui, name)
        # The webui prints the error and keeps the checkpoint that was chosen before.
        webui.select("damaged")
        check(webui.txt2img(), name)


def test_change_of_vae(webui: Webui, checkpoint_folder: Path) -> None:
    """Each change of the VAE announces the model anew."""
    from host.checkpoints import write_vae

    write_vae(webui.data / "models" / "VAE", "small-vae")
    webui.post("/sdapi/v1/refresh-vae", {})
    webui.select("sdxl-v-ztsnr")
    webui.clear()
    for name in ("small-vae.safetensors", "Automatic", "small-vae.safetensors"):
        webui.options(sd_vae=name)
    assert [event["event"] for event in webui.events()].count("model_loaded") == 3
    check(webui.txt2img(), "sdxl-v-ztsnr")
    webui.select("sdxl-eps")
    check(webui.txt2img(), "sdxl-eps")


def test_override_of_the_loaded_file(webui: Webui, extra_checkpoint: Callable[[str, str], Path]) -> None:
    file = extra_checkpoint("sd15", "overridden")
    file.with_suffix(".json").write_text('{"description": "mine", "vae": "Automatic"}')
    webui.select("overridden")
    check(webui.txt2img(), "overridden", EXPECTED["sd15"])
    webui.post("/modelsmith/v1/override", {"name": file.name, "prediction": "v_prediction", "ztsnr": "on"})
    forced = Expected("v1-inference.yaml", "v_prediction", ZTSNR)
    check(webui.txt2img(), "overridden", forced)
    # Chosen anew, it gets a config of its own, so that nothing is left for the next SD1 file.
    generate(webui, "sd15-b")
    webui.select("overridden")
    check(webui.txt2img(), "overridden", Expected("v1-inference-v-", "v_prediction", ZTSNR))
    generate(webui, "sd15-b")
    webui.select("overridden")
    webui.post("/modelsmith/v1/override", {"name": file.name, "prediction": "auto", "ztsnr": "auto"})
    check(webui.txt2img(), "overridden", Expected("v1-inference-v-", "epsilon", PLAIN))
    assert file.with_suffix(".json").read_text().count('"description": "mine"') == 1


def test_override_of_a_file_kept_in_memory(webui: Webui) -> None:
    webui.options(sd_checkpoints_limit=2)
    generate(webui, "sdxl-v-ztsnr")
    generate(webui, "sdxl-eps")
    webui.post("/modelsmith/v1/override", {"name": "sdxl-v-ztsnr.safetensors", "ztsnr": "off"})
    try:
        webui.select("sdxl-v-ztsnr")
        check(webui.txt2img(), "sdxl-v-ztsnr", Expected(SDXL_V, "v_prediction", PLAIN))
    finally:
        webui.post("/modelsmith/v1/override", {"name": "sdxl-v-ztsnr.safetensors", "ztsnr": "auto"})
        (webui.checkpoints / "sdxl-v-ztsnr.json").unlink(missing_ok=True)
    check(webui.txt2img(), "sdxl-v-ztsnr")


def test_switched_off_and_on_again(webui: Webui) -> None:
    generate(webui, "sdxl-v-ztsnr")
    by_itself = knows_marks(webui)
    off = EXPECTED["sdxl-v-ztsnr"] if by_itself else Expected("sd_xl_base.yaml", "epsilon", PLAIN)
    webui.options(modelsmith_enabled=False)
    first = webui.txt2img()[0]
    assert first["prediction"] == off.prediction
    assert first["sigma"] == pytest.approx(off.sigma, rel=1e-5)
    webui.select("sdxl-eps")
    webui.select("sdxl-v-ztsnr")
    check(webui.txt2img(), "sdxl-v-ztsnr", off)
    webui.options(modelsmith_enabled=True)
    check(webui.txt2img(), "sdxl-v-ztsnr", Expected(off.config, "v_prediction", ZTSNR))
    generate(webui, "sdxl-eps")
    generate(webui, "sdxl-v-ztsnr")


def test_status_says_what_was_set(webui: Webui) -> None:
    generate(webui, "sdxl-v-ztsnr")
    status = webui.get("/modelsmith/v1/status")
    loaded = status["loaded"]
    assert status["host"] == "A1111"
    assert (loaded["file"], loaded["prediction"]) == ("sdxl-v-ztsnr.safetensors", "v_prediction")
    assert loaded["zero_terminal_snr"] is True
    assert loaded["applied"] is True
    assert loaded["sigma_max"] == pytest.approx(ZTSNR, rel=1e-5)
    webui.options(sigma_max=60)
    try:
        assert any("sigma max" in note for note in webui.get("/modelsmith/v1/status")["loaded"]["notes"])
    finally:
        webui.options(sigma_max=0)


def test_own_schedule_of_a_file_is_kept(webui: Webui) -> None:
    """An SD1 file that brings a table of its own is sampled with it; the next one is not."""
    import numpy as np

    from host.checkpoints import SD1, Recipe, write

    cosine = np.cos((np.arange(1000) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    write(webui.checkpoints, Recipe("own-table", SD1, schedule=cosine, seed=3))
    webui.refresh()
    try:
        webui.select("own-table")
        sigma = float(((1 - cosine[-1]) / cosine[-1]) ** 0.5)
        check(webui.txt2img(), "own-table", Expected("v1-inference.yaml", "epsilon", sigma))
        generate(webui, "sd15-b")
    finally:
        (webui.checkpoints / "own-table.safetensors").unlink()
        webui.refresh()
