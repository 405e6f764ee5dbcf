"""What has its place in a real browser: narrow windows, long names, text that can be read."""

from __future__ import annotations

import shutil

import pytest

from browser.conftest import App
from browser.page_object import ModelsmithPage
from browser.test_convert import DEMO_A, DEMO_B, open_convert, radio
from browser.test_jobs import START, set_up, wait_bar

CONTRAST = """bar => {
    const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const light = colour => {
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
        const parts = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map(value => value / 255);
        const [r, g, b] = parts.map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
    };
    const of = (name, what) => light(getComputedStyle(name ? bar.querySelector(name) : bar)[what]);
    const text = of(".progress-text", "color");
    return [of(".progress", "backgroundColor"), of("", "backgroundColor")].map(
        behind => Math.max(text, behind) / Math.min(text, behind));
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_text_on_the_bar_can_be_read(app: App, tab: ModelsmithPage, theme: str) -> None:
    set_up(app, tab, "readable")
    tab.page.evaluate("theme => document.body.classList.toggle('dark', theme === 'dark')", theme)
    tab.page.locator(START).first.click()
    wait_bar(tab)
    bar = tab.page.locator("#modelsmith_convert_progress_panel .progressDiv").first
    assert min(bar.evaluate(CONTRAST)) > 4.5
    tab.screenshot(f"standalone-bar-{theme}")
    tab.page.locator("#modelsmith_convert_stop").first.click()
    tab.page.locator("#modelsmith_convert_result .ms-info").first.wait_for()


def test_a_long_name_leaves_its_row_the_other_columns(app: App, tab: ModelsmithPage) -> None:
    name = "long" * 55
    shutil.copy(app.models / f"{DEMO_A}.safetensors", app.models / f"{name}.safetensors")
    open_convert(app, tab)
    tab.choose("modelsmith_convert_file", "Folder / ")
    radio(tab, "modelsmith_convert_action", "Prune")
    cell = tab.page.locator("#modelsmith_convert_plan .ms-parts tbody tr", has_text=name).first.locator("td").last
    cell.wait_for()
    box = cell.bounding_box()
    assert box is not None and box["x"] + box["width"] <= 1280
    (app.models / f"{name}.safetensors").unlink()


def test_a_narrow_window_shows_every_control(app: App, tab: ModelsmithPage) -> None:
    tab.page.set_viewport_size({"width": 360, "height": 800})
    tab.open(app.url)
    tab.view("library")
    tab.page.locator("#modelsmith_library_table .ms-name", has_text=DEMO_B).first.wait_for()
    button = tab.page.locator("#modelsmith_library_refresh").first.bounding_box()
    field = tab.page.locator("#modelsmith_library_table .ms-filter").first.bounding_box()
    assert button is not None and field is not None
    assert button["y"] + button["height"] <= field["y"] or button["x"] >= field["x"] + field["width"]
    tab.screenshot("standalone-library-narrow")
    tab.view("history")
    for one in ("modelsmith_history_look", "modelsmith_history_all"):
        box = tab.page.locator(f"#{one}").first.bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 360
    tab.screenshot("standalone-history-narrow")
