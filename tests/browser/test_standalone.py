"""A newcomer's first steps in the standalone app, in a real browser."""

from __future__ import annotations

import shutil
import time
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from browser.conftest import App
from browser.page_object import ModelsmithPage

DEMO_A, DEMO_B = "modelsmith-demo-a", "modelsmith-demo-b"


def files(app: App) -> set[str]:
    """Everything in the folder of models, hidden files too."""
    return {path.name for path in app.models.iterdir()}


def test_inspect(app: App, tab: ModelsmithPage) -> None:
    tab.open(app.url)
    tab.choose("modelsmith_inspect_file", DEMO_A)
    tab.wait_text("modelsmith_inspect_page", "Prediction and how it is known")
    shown = tab.text("modelsmith_inspect_page")
    for wanted in (f"{DEMO_A}.safetensors", "SD1", "fp16", "epsilon", "CLIP-L", str(app.models)):
        assert wanted in shown
    tab.screenshot("standalone-inspect")


def test_inspect_a_dropped_file(app: App, tab: ModelsmithPage, tmp_path: Any) -> None:
    broken = tmp_path / "cut-off.safetensors"
    broken.write_bytes((app.models / f"{DEMO_A}.safetensors").read_bytes()[:5000])
    other = tmp_path / "notes.ckpt"
    other.write_bytes(b"no model at all")
    tab.open(app.url)
    sent: list[int] = []
    tab.page.on("request", lambda request: sent.append(len(request.post_data_buffer or b"")))
    zone = tab.page.locator("#modelsmith_inspect_drop input[type=file]")
    zone.set_input_files(str(app.models / f"{DEMO_A}.safetensors"))
    tab.wait_text("modelsmith_inspect_page", "Prediction and how it is known")
    header = int.from_bytes((app.models / f"{DEMO_A}.safetensors").read_bytes()[:8], "little")
    assert max(sent) < 2 * header + 20_000, "the weights stay where they are"
    zone.set_input_files(str(broken))
    tab.page.locator("#modelsmith_inspect_page .ms-error").wait_for()
    assert "cut-off.safetensors" in tab.text("modelsmith_inspect_page")
    zone.set_input_files(str(other))
    tab.wait_text("modelsmith_inspect_page", "Only the header of a .safetensors file")


def test_inspect_leads_on_and_compares(app: App, tab: ModelsmithPage) -> None:
    tab.open(app.url)
    tab.choose("modelsmith_inspect_file", DEMO_A)
    tab.page.locator("#modelsmith_inspect_page .ms-parts-chart").wait_for()
    tab.page.locator("#modelsmith_inspect_compare_panel .label-wrap").click()
    tab.choose("modelsmith_inspect_other", DEMO_B)
    tab.page.locator("#modelsmith_inspect_compared .ms-side-by-side").wait_for()
    assert f"{DEMO_B}.safetensors" in tab.text("modelsmith_inspect_compared")
    tab.screenshot("standalone-inspect-compare")


def test_merge_from_choice_to_list(app: App, tab: ModelsmithPage) -> None:
    tab.open(app.url)
    tab.view("merge")
    tab.models(DEMO_A, DEMO_B)
    tab.field("modelsmith_output_name").fill("first-merge")
    tab.wait_text("modelsmith_plan", "first-merge.safetensors")
    assert "Weighted sum, Alpha 0.5" in tab.text("modelsmith_plan")
    tab.screenshot("standalone-merge")
    tab.start()
    assert "first-merge.safetensors" in tab.wait_result("ms-done")
    assert "first-merge.safetensors" in tab.choices("modelsmith_model_a")
    merged = load_file(app.models / "first-merge.safetensors")
    a, b = (load_file(app.models / f"{name}.safetensors") for name in (DEMO_A, DEMO_B))
    key = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    exact = (a[key].double() + b[key].double()) / 2
    torch.testing.assert_close(merged[key], exact.half(), rtol=0, atol=0)
    assert all(bool(value.isfinite().all()) for value in merged.values())


def test_progress_is_seen_and_a_cancel_leaves_nothing(app: App, tab: ModelsmithPage) -> None:
    tab.open(app.url)
    tab.view("merge")
    tab.models("large-a", "large-b")
    tab.field("modelsmith_output_name").fill("large-merge")
    tab.wait_text("modelsmith_plan", "large-merge.safetensors")
    before = files(app)
    tab.start()
    seen = tab.progress_text()
    assert "GB" in seen
    tab.screenshot("standalone-progress")
    asked = time.monotonic()
    tab.page.locator("#modelsmith_merge_cancel").click()
    assert "Nothing was written" in tab.wait_result("ms-info")
    assert time.monotonic() - asked < 10
    tab.page.locator("#modelsmith_progress_panel .progressDiv").wait_for(state="detached")
    assert files(app) == before


@pytest.mark.slow
def test_a_long_merge_shows_bytes_speed_and_time_left_and_ends(app: App, tab: ModelsmithPage) -> None:
    tab.open(app.url)
    tab.view("merge")
    tab.models("large-a", "large-b")
    tab.field("modelsmith_output_name").fill("large-merge")
    tab.wait_text("modelsmith_plan", "large-merge.safetensors")
    tab.start()
    bar = tab.page.locator("#modelsmith_progress_panel .progressDiv").filter(has_text="left")
    bar.first.wait_for()
    assert "B/s" in bar.first.inner_text()
    tab.page.locator("#modelsmith_result .ms-done").wait_for(timeout=120_000)
    merged = app.models / "large-merge.safetensors"
    assert merged.stat().st_size > 2_000_000_000
    merged.unlink()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"modelsmith_output_name": "../outside"}, "has a path in it"),
        ({"modelsmith_output_name": DEMO_A}, "exists already"),
        ({"modelsmith_blocks_alpha": "0.1, 0.2"}, "2 block weights were given"),
    ],
)
def test_wrong_inputs_get_one_clear_message(app: App, tab: ModelsmithPage, fields: dict[str, str], told: str) -> None:
    tab.open(app.url)
    tab.view("merge")
    tab.models(DEMO_A, DEMO_B)
    for name, value in fields.items():
        tab.field(name).fill(value)
    tab.wait_text("modelsmith_plan", told)
    before = files(app)
    tab.start()
    assert told in tab.wait_result("ms-error")
    assert files(app) == before


def test_bars_and_text_stay_in_step(app: App, tab: ModelsmithPage) -> None:
    tab.open(app.url)
    tab.view("merge")
    tab.models(DEMO_A)
    bars = tab.page.locator("#modelsmith_editor .ms-bars-main .ms-bar")
    bars.nth(25).wait_for()
    assert bars.count() == 26
    bars.nth(3).focus()
    tab.page.keyboard.press("End")
    text = tab.field("modelsmith_blocks_alpha")
    assert text.input_value().split(",")[2:5] == ["0.5", "1", "0.5"]
    text.fill(",".join(["0.25"] * 26))
    tab.page.wait_for_function(
        "document.querySelectorAll('#modelsmith_editor .ms-bar')[3].getAttribute('aria-valuenow') === '0.25'"
    )
    tab.page.locator("#modelsmith_editor select").select_option("GRAD_V")
    assert text.input_value().startswith("0,1,0.9167")
    tab.screenshot("standalone-blocks")
    tab.page.locator("#modelsmith_editor .ms-mini").get_by_text("Clear").click()
    assert text.input_value() == ""


def test_painting_across_the_bars(app: App, tab: ModelsmithPage) -> None:
    tab.open(app.url)
    tab.view("merge")
    tab.models(DEMO_A)
    tab.page.locator("#modelsmith_editor .ms-bars-main .ms-bar").nth(25).wait_for()
    tracks = tab.page.locator("#modelsmith_editor .ms-bars-main .ms-bar-track")
    first, last = tracks.nth(1).bounding_box(), tracks.nth(12).bounding_box()
    assert first and last
    tab.page.mouse.move(first["x"] + 5, first["y"] + first["height"] - 1)
    tab.page.mouse.down()
    tab.page.mouse.move(last["x"] + 5, last["y"] + 1, steps=3)
    tab.page.mouse.up()
    values = [float(value) for value in tab.field("modelsmith_blocks_alpha").input_value().split(",")]
    assert values[0] == 0.5 and values[13:] == [0.5] * 13
    assert values[1] < 0.05 < 0.95 < values[12]
    assert values[1:13] == sorted(values[1:13])


def test_library(app: App, tab: ModelsmithPage) -> None:
    tab.open(app.url)
    tab.view("library")
    rows = tab.page.locator("#modelsmith_library_table tbody tr")
    tab.page.locator("#modelsmith_library_table .ms-library[data-waiting='0']").wait_for()
    assert rows.count() >= 4
    tab.screenshot("standalone-library")
    size = tab.page.locator("#modelsmith_library_table th").nth(7)
    size.click()
    size.click()
    assert size.get_attribute("aria-sort") == "descending"
    read = "cells => cells.map(cell => Number(cell.dataset.sort))"
    sizes = rows.locator("td.ms-number").evaluate_all(read)
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]
    before = rows.count()
    shutil.copy(app.models / f"{DEMO_B}.safetensors", app.models / "added-later.safetensors")
    tab.page.locator("#modelsmith_library_refresh").click()
    rows.nth(before).wait_for()
    sizes = rows.locator("td.ms-number").evaluate_all(read)
    assert sizes == sorted(sizes, reverse=True), "a table that is renewed keeps its order"
    tab.page.locator("#modelsmith_library_table .ms-library[data-waiting='0']").wait_for()
    (app.models / "added-later.safetensors").unlink()
    assert size.get_attribute("aria-sort") == "descending"
    tab.page.locator("#modelsmith_library_table .ms-filter").fill("demo-b")
    assert tab.page.locator("#modelsmith_library_table tbody tr:visible").count() == 1
    tab.page.locator("#modelsmith_library_table tbody tr:visible").click()
    tab.page.locator("#modelsmith_view_inspect").wait_for(state="visible")
    tab.wait_text("modelsmith_inspect_page", f"{DEMO_B}.safetensors")


def test_japanese(app: App, tab: ModelsmithPage) -> None:
    tab.open(app.url)
    tab.page.locator("#modelsmith_language").select_option("ja_JP")
    tab.page.locator("#modelsmith_views > .tab-nav > button").filter(has_text="マージ").wait_for()
    tab.view("merge")
    tab.models(DEMO_A, DEMO_B)
    tab.wait_text("modelsmith_plan", "作られるもの")
    tab.page.locator("#modelsmith_model_a").get_by_text("モデルA").wait_for()
    tab.screenshot("standalone-merge-ja")
    tab.open(app.url + "?__lang=&__theme=dark")
    tab.view("merge")
    tab.models(DEMO_A, DEMO_B)
    tab.wait_text("modelsmith_plan", "What will be made")
    tab.screenshot("standalone-merge-dark")


def test_nothing_is_asked_of_another_machine(app: App, tab: ModelsmithPage) -> None:
    asked: list[str] = []
    tab.page.on("request", lambda request: asked.append(request.url))
    tab.open(app.url)
    tab.page.wait_for_timeout(1500)
    assert [url for url in asked if not url.startswith((app.url, "data:", "blob:"))] == []
