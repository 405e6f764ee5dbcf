"""The tab and the badge in a real webui, in a real browser: inspect, merge, cancel, override."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser.page_object import ModelsmithPage
from host.server import Webui
from host.webui_page import modelsmith_tab


@pytest.fixture
def tab(chromium: Any, webui: Webui) -> Iterator[ModelsmithPage]:
    """The webui's page with our tab in front; afterwards nothing of ours may stand in the console."""
    with modelsmith_tab(chromium, webui) as found:
        yield found


def files(webui: Webui) -> set[str]:
    return {path.name for path in Path(webui.checkpoints).iterdir()}


def test_inspect_and_override(webui: Webui, tab: ModelsmithPage) -> None:
    tab.choose("modelsmith_inspect_file", "sdxl-v-ztsnr")
    tab.wait_text("modelsmith_inspect_page", "Prediction and how it is known")
    shown = tab.text("modelsmith_inspect_page")
    for wanted in ("SDXL", "v-prediction", "ZTSNR", "v_pred"):
        assert wanted in shown
    tab.screenshot(f"{webui.kind}-inspect")
    radio = tab.part("modelsmith_override_prediction")
    radio.locator("label", has_text="epsilon").click()
    tab.wait_text("modelsmith_override_saved", "Saved for this file.")
    radio.locator("label", has_text="automatic").click()
    tab.wait_text("modelsmith_override_saved", "Back to automatic.")


def test_merge_is_in_the_list_at_once(webui: Webui, tab: ModelsmithPage) -> None:
    tab.view("merge")
    tab.models("sd15.safetensors", "sd15-b")
    tab.field("modelsmith_output_name").fill("from-the-tab")
    tab.wait_text("modelsmith_plan", "from-the-tab.safetensors")
    tab.start()
    assert "from-the-tab.safetensors" in tab.wait_result("ms-done")
    tab.screenshot(f"{webui.kind}-merge")
    assert any("from-the-tab" in name for name in tab.choices("modelsmith_model_a"))
    titles = [model["title"] for model in webui.get("/sdapi/v1/sd-models")]
    assert any("from-the-tab" in title for title in titles)


def test_a_cancel_leaves_nothing(webui: Webui, tab: ModelsmithPage) -> None:
    tab.view("merge")
    tab.models("sdxl-eps", "sdxl-eps")
    tab.field("modelsmith_output_name").fill("never-to-be")
    tab.wait_text("modelsmith_plan", "never-to-be.safetensors")
    before = files(webui)
    tab.start()
    tab.page.locator("#modelsmith_progress_panel .progressDiv").first.wait_for()
    for _ in range(50):  # a small merge may end before a single click reaches it
        tab.part("modelsmith_merge_cancel").click()
        if tab.page.locator("#modelsmith_result .ms-notice").count():
            break
        tab.page.wait_for_timeout(20)
    shown = tab.wait_result("ms-notice")
    if "Nothing was written" in shown:
        assert files(webui) == before
    else:
        assert files(webui) - before == {"never-to-be.safetensors"}
        pytest.skip("the merge ended before it could be cancelled")


def test_models_of_two_prediction_types_are_refused(webui: Webui, tab: ModelsmithPage) -> None:
    tab.view("merge")
    tab.models("sdxl-eps", "sdxl-v-ztsnr")
    tab.wait_text("modelsmith_plan", "predicts neither")
    tab.part("modelsmith_mix").wait_for(state="visible")


def test_the_badge_follows_the_checkpoint(webui: Webui, tab: ModelsmithPage) -> None:
    badge = tab.page.locator(".ms-host-badge")
    holder = "#setting_sd_model_checkpoint, .model_selection"
    for name, wanted in (("sdxl-v-ztsnr", ("SDXL", "v-pred", "ZTSNR")), ("sd15.safetensors", ("SD1", "eps"))):
        tab.page.locator(holder).first.locator("input").first.click()
        tab.page.locator("ul.options li:visible").filter(has_text=name).first.click()
        for part in wanted:
            badge.filter(has_text=part).wait_for(timeout=120_000)
    assert badge.count() == 1
    assert "family" in str(badge.get_attribute("title")) or "SD1" in str(badge.get_attribute("title"))
    tab.screenshot(f"{webui.kind}-badge")
