"""The panel in txt2img, in a real webui and a real browser: the advice, choices for one picture, pasted texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from host.server import Webui

SELECTOR = "#setting_sd_model_checkpoint, .model_selection"
PREFIX = "#modelsmith_txt2img"


class Panel:
    """The page of txt2img with our accordion open."""

    def __init__(self, page: Any) -> None:
        self.page = page
        page.locator(f"{PREFIX}_advice, {PREFIX}_prediction").first.wait_for(state="attached", timeout=120_000)
        page.locator(f"{PREFIX} .label-wrap").first.click()
        page.locator(f"{PREFIX}_prediction").wait_for(state="visible")

    def checkpoint(self, name: str) -> None:
        self.page.locator(SELECTOR).first.locator("input").first.click()
        self.page.locator("ul.options li:visible").filter(has_text=name).first.click()

    def choose(self, control: str, value: str) -> None:
        self.page.locator(f"{control} input").first.click()
        self.page.locator("ul.options li:visible").filter(has_text=value).first.click()

    def value(self, control: str) -> str:
        return str(self.page.locator(f"{control} input").first.input_value())

    def wait_value(self, control: str, value: str) -> None:
        for _ in range(600):
            if self.value(control) == value:
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"{control} is {self.value(control)!r}, not {value!r}")

    def own(self) -> list[str]:
        return [self.value(f"{PREFIX}_{name}") for name in ("prediction", "ztsnr", "cfg_rescale")]

    def advice(self) -> Any:
        return self.page.locator(f"{PREFIX}_advice .ms-advice")


@pytest.fixture
def panel(chromium: Any, webui: Webui) -> Iterator[Panel]:
    webui.select("sd15")
    context = chromium.new_context(viewport={"width": 1400, "height": 1000})
    context.route(lambda url: "127.0.0.1" not in url, lambda route: route.abort())
    page = context.new_page()
    page.goto(webui.url("/"), wait_until="domcontentloaded")
    yield Panel(page)
    context.close()
    webui.select("sd15")


def test_advice_and_choices_follow_the_checkpoint(webui: Webui, panel: Panel) -> None:
    assert panel.advice().count() == 0
    panel.choose("#txt2img_scheduler", "Karras")
    panel.checkpoint("sdxl-v-ztsnr.safetensors")
    panel.advice().filter(has_text="Karras spends").wait_for(timeout=120_000)
    panel.page.locator(f"{PREFIX}_fit").click()
    panel.wait_value("#txt2img_scheduler", "SGM Uniform")
    panel.advice().filter(has_text="SGM Uniform fits").wait_for(timeout=60_000)
    panel.choose(f"{PREFIX}_ztsnr", "Off")
    panel.wait_value(f"{PREFIX}_ztsnr", "Off")
    panel.advice().wait_for(state="detached", timeout=60_000)
    # Said for that checkpoint's pictures, it is not said for those of the next one.
    panel.checkpoint("sdxl-eps.safetensors")
    panel.wait_value(f"{PREFIX}_ztsnr", "Automatic")
    assert panel.own() == ["Automatic"] * 3
    assert panel.advice().count() == 0


def paste(panel: Panel, text: str) -> None:
    panel.page.locator("#txt2img_prompt textarea").first.fill(text)
    panel.page.locator("#paste").first.click()


def test_a_pasted_text_sets_the_picture_and_no_settings(webui: Webui, panel: Panel) -> None:
    import json

    webui.select("sdxl-eps")
    choice = {"alwayson_scripts": {"Modelsmith": {"args": ["v_prediction", "On", "0.5"]}}}
    webui.txt2img(**choice, cfg_scale=6)
    text = str(json.loads(webui.answer["info"])["infotexts"][0])
    assert "Noise Schedule: Zero Terminal SNR" in text
    paste(panel, text)
    panel.wait_value(f"{PREFIX}_prediction", "v_prediction")
    panel.page.wait_for_timeout(3000)
    assert panel.own() == ["v_prediction", "On", "0.5"]
    chips = panel.page.locator("#txt2img_override_settings").all_inner_texts()
    assert not any("Noise Schedule" in chip or "Downcast" in chip for chip in chips)
    assert webui.get("/sdapi/v1/options")["sd_noise_schedule"] == "Default"
    # A text of a plain model takes the choices back.
    webui.txt2img()
    paste(panel, str(json.loads(webui.answer["info"])["infotexts"][0]))
    panel.wait_value(f"{PREFIX}_prediction", "Automatic")
    assert panel.own() == ["Automatic"] * 3


def test_a_model_is_asked_in_the_tab(webui: Webui, panel: Panel) -> None:
    webui.txt2img()
    panel.page.locator("#tabs > .tab-nav > button", has_text="Modelsmith").click()
    panel.page.locator("#modelsmith_probe_panel .label-wrap").click()
    panel.page.locator("#modelsmith_probe").click()
    panel.page.locator("#modelsmith_probe_result", has_text="being asked").first.wait_for(timeout=30_000)
    # Neo computes attention on a CPU in one piece: 50 CPU seconds for the five answers.
    shown = panel.page.locator("#modelsmith_probe_result :is(.ms-probe, .ms-error)").first
    shown.wait_for(timeout=300_000)
    assert "sd15.safetensors" in str(shown.inner_text())
    assert "999" in str(shown.inner_text())
