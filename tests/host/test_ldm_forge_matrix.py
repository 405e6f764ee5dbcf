"""In a running reForge or Classic: every further way in which one model takes another one's place, or is met again.

Each cell holds the prediction type and both tables against diffusers' schedule. Choosing a checkpoint over the API,
override_settings, exceptions, VAEs and the override of a file are in test_ldm_forge_models.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from host.ldm_forge_expectations import HIRES, check, check_tables, generate, is_classic, unet_calls
from host.server import Webui, WebuiError

WEBUI = "ldm_forge"

# How many models the webui keeps in memory, the first model of a job and the second one.
PAIRS = [
    (1, "sdxl-eps", "sdxl-v-ztsnr"),
    (1, "sdxl-v-ztsnr", "sdxl-v"),
    (2, "sdxl-eps", "sdxl-v-ztsnr"),
    (2, "sdxl-v-ztsnr", "sdxl-eps"),
]


def keep(webui: Webui, limit: int) -> None:
    """Set how many models the webui keeps in memory."""
    if limit > 1 and is_classic(webui):
        pytest.skip("this webui keeps one model")
    if limit > 1:
        webui.options(sd_checkpoints_limit=limit)


def choose_in_page(webui: Webui, name: str) -> None:
    """What the checkpoint menu above the tabs does when a person chooses from it."""
    titles = {one["model_name"]: one["title"] for one in webui.get("/sdapi/v1/sd-models")}
    webui.press(titles[name], "", elem_id="change_checkpoint")


def test_chosen_in_the_page(webui: Webui) -> None:
    for name in ("sdxl-v-ztsnr", "sdxl-eps", "sdxl-v-ztsnr"):
        choose_in_page(webui, name)
        check(webui, webui.txt2img(), name)


def test_chosen_once_more(webui: Webui) -> None:
    """Loading is skipped, the model is not announced."""
    for name in ("sdxl-v-ztsnr", "sdxl-eps"):
        for _ in range(2):
            generate(webui, name)


def test_image_to_image_after_switching(webui: Webui) -> None:
    generate(webui, "sdxl-eps")
    picture = webui.answer["images"][0]
    for name in ("sdxl-v-ztsnr", "sdxl-eps"):
        webui.select(name)
        check(webui, webui.img2img(init_images=[picture], denoising_strength=1.0), name)


def plotted(webui: Webui, *names: str) -> list[dict[str, Any]]:
    """The steps of an X/Y/Z plot over checkpoints."""
    info = webui.get("/sdapi/v1/script-info")
    script = next(one for one in info if one["name"] == "x/y/z plot" and not one["is_img2img"])
    axis = script["args"][0]["choices"].index("Checkpoint name")
    values = [f"{name}.safetensors" for name in names]
    wanted = {"Draw legend": False, "Include Sub Images": True, "Include Sub Grids": False}
    rest = [wanted.get(str(arg["label"]), arg["value"]) for arg in script["args"][9:]]
    # The webuis differ in whether they read the line of text or the list.
    arguments = [axis, ",".join(values), values, 0, "", [], 0, "", [], *rest]
    try:
        return webui.txt2img(script_name="x/y/z plot", script_args=arguments)
    except WebuiError as error:
        if "uni_pc_order" not in error.text:
            raise
        pytest.skip("every plot fails in this Classic: it reads an option that is gone")


@pytest.mark.parametrize("limit", [1, 2])
def test_axis_of_checkpoints(webui: Webui, limit: int, report: Callable[..., None]) -> None:
    keep(webui, limit)
    webui.select("sd15")
    names = ("sdxl-eps", "sdxl-v-ztsnr", "sdxl-v", "sdxl-eps")
    steps = plotted(webui, *names)
    assert len(steps) == 2 * len(names)
    # An axis is worked through in the order that loads least: told by the file.
    for name in set(names):
        cells = [step for step in steps if step["file"] == f"{name}.safetensors"]
        assert len(cells) == 2 * names.count(name)
        for step in cells:
            check_tables(step, name)
    starts = [call for call in unet_calls(webui) if call["timestep"] == 999]
    assert len(starts) >= len(names)
    report("X/Y/Z", f"{limit} in memory", *(f"{step['file']} {step['sigma']:.2f}" for step in steps[::2]))
    check(webui, webui.txt2img(), "sd15")


@pytest.mark.parametrize(("limit", "first", "second"), PAIRS)
def test_second_checkpoint_of_a_hires_pass(webui: Webui, limit: int, first: str, second: str) -> None:
    keep(webui, limit)
    for _ in range(limit):
        webui.select(first)
        steps = webui.txt2img(**HIRES, hr_checkpoint_name=f"{second}.safetensors")
        check(webui, steps, first)
        passes = [step for step in steps if step["file"] == f"{second}.safetensors"]
        assert len(passes) == 2
        for step in passes:
            check_tables(step, second)
    check(webui, webui.txt2img(), first)


@pytest.mark.parametrize(("limit", "first", "second"), PAIRS)
def test_refiner_takes_over(webui: Webui, limit: int, first: str, second: str) -> None:
    keep(webui, limit)
    for _ in range(limit):
        webui.select(first)
        steps = webui.txt2img(steps=4, refiner_checkpoint=f"{second}.safetensors", refiner_switch_at=0.5)
        check(webui, steps, first)
        refined = [step for step in steps if step["file"] == f"{second}.safetensors"]
        assert 0 < len(refined) < len(steps)
        for step in refined:
            check_tables(step, second)
    check(webui, webui.txt2img(), first)


@pytest.mark.parametrize(("limit", "way"), [(1, "hires"), (2, "refiner")])
def test_exception_after_the_second_model_took_over(webui: Webui, limit: int, way: str) -> None:
    keep(webui, limit)
    second = "sdxl-v-ztsnr.safetensors"
    # Only the second model's part comes as far as the step that fails.
    wishes: dict[str, Any] = (
        {**HIRES, "hr_checkpoint_name": second, "hr_second_pass_steps": 4}
        if way == "hires"
        else {"steps": 4, "refiner_checkpoint": second, "refiner_switch_at": 0.5}
    )
    webui.select("sdxl-eps")
    webui.fail_at(3)
    with pytest.raises(WebuiError, match="a test asked for this failure"):
        webui.txt2img(**wishes)
    assert [event["file"] for event in webui.events() if event["event"] == "step"][-1] == second
    for name in ("sdxl-eps", "sdxl-v-ztsnr", "sdxl-eps"):
        generate(webui, name)


def test_interrupt_in_the_hires_pass(webui: Webui) -> None:
    webui.select("sdxl-eps")
    wishes = {**HIRES, "hr_checkpoint_name": "sdxl-v-ztsnr.safetensors", "hr_second_pass_steps": 150}
    running = threading.Thread(target=webui.txt2img, kwargs=wishes)
    running.start()
    while sum(event["event"] == "step" for event in webui.events()) < 4:
        time.sleep(0.05)
    webui.post("/sdapi/v1/interrupt", {})
    running.join()
    assert sum(event["event"] == "step" for event in webui.events()) < 150
    for name in ("sdxl-eps", "sdxl-v-ztsnr", "sdxl-eps"):
        generate(webui, name)


def test_checkpoints_cached_in_memory(webui: Webui) -> None:
    if "sd_checkpoint_cache" not in webui.get("/sdapi/v1/options"):
        pytest.skip("this webui caches no checkpoints")
    webui.options(sd_checkpoint_cache=2)
    try:
        for name in ("sdxl-v-ztsnr", "sdxl-eps", "sdxl-v-ztsnr", "sdxl-eps"):
            generate(webui, name)
    finally:
        webui.options(sd_checkpoint_cache=0)
        if is_classic(webui):
            # With the cache off it still loads what was kept in it, and uses it up: the second load then fails.
            webui.stop()
            webui.start()


def test_loaded_again_by_force(webui: Webui) -> None:
    generate(webui, "sdxl-v-ztsnr")
    webui.post("/sdapi/v1/unload-checkpoint", {})
    webui.post("/sdapi/v1/reload-checkpoint", {})
    check(webui, webui.txt2img(), "sdxl-v-ztsnr")
    generate(webui, "sdxl-eps")


def test_a_model_kept_in_memory_hears_of_its_override(webui: Webui) -> None:
    keep(webui, 2)
    name = "sdxl-v-ztsnr.safetensors"
    generate(webui, "sdxl-v-ztsnr")
    generate(webui, "sdxl-eps")
    webui.post("/modelsmith/v1/override", {"name": name, "ztsnr": "off"})
    try:
        webui.select("sdxl-v-ztsnr")
        first = webui.txt2img()[0]
        # As one without ZTSNR.
        check_tables({**first, "file": "sdxl-v.safetensors"}, "sdxl-v")
    finally:
        webui.post("/modelsmith/v1/override", {"name": name})
        (webui.checkpoints / "sdxl-v-ztsnr.json").unlink(missing_ok=True)
    check(webui, webui.txt2img(), "sdxl-v-ztsnr")


@pytest.mark.slow
def test_reload_of_the_page(webui: Webui) -> None:
    """The page's scripts are executed anew and the model is kept, without being announced."""
    generate(webui, "sdxl-v-ztsnr")
    before = webui.state()
    for _ in range(2):
        webui.reload_page()
        state = webui.state()
        assert state["functions"] == before["functions"]
        assert state["model"]["object"] == before["model"]["object"]
        check(webui, webui.txt2img(), "sdxl-v-ztsnr")
    generate(webui, "sdxl-eps")
    generate(webui, "sdxl-v-ztsnr")


@pytest.mark.slow
def test_disabled_as_an_extension_and_enabled_again(webui: Webui) -> None:
    """In the webui's list of extensions, with the reload of the page that this takes; the model stays in memory."""
    generate(webui, "sdxl-v-ztsnr")
    before = webui.state()
    webui.options(disabled_extensions=[webui.extension.name])
    try:
        webui.reload_page()
        state = webui.state()
        model = state["model"]
        assert "modelsmith" not in str(state["functions"]).replace("modelsmith_probe", "")
        assert model["object"] == before["model"]["object"]
        assert model["ztsnr_flag"] is True, "the webui's own way is open again"
        webui.select("sdxl-eps")
        webui.txt2img()
    finally:
        webui.options(disabled_extensions=[])
        webui.reload_page()
    assert webui.state()["functions"] == before["functions"]
    check(webui, webui.txt2img(), "sdxl-eps")
    generate(webui, "sdxl-v-ztsnr")
