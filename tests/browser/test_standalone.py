"""A newcomer's first steps in the standalone app, in a real browser."""

from __future__ import annotations

import shutil
import time
from typing import Any

import pytest
import torch
from playwright.sync_api import Route
from safetensors.torch import load_file

from browser.conftest import App
from browser.page_object import VIEWS, ModelsmithPage
from identify import headers

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


@pytest.mark.parametrize(("language", "picture"), [("", "inspect"), ("ja_JP", "inspect-ja")])
def test_inspect_as_the_readme_shows_it(app: App, tab: ModelsmithPage, language: str, picture: str) -> None:
    entries = {**headers.load("sdxl_base_fp16"), "v_pred": ("F16", [0]), "ztsnr": ("F16", [0])}
    said = {"modelspec.prediction_type": "v", "modelspec.title": "My anime v-pred"}
    headers.write(app.models / "my-anime-vpred.safetensors", entries, said)
    tab.open(f"{app.url}?__lang={language}")
    tab.choose("modelsmith_inspect_file", "my-anime-vpred")
    tab.page.locator("#modelsmith_inspect_page .ms-parts-chart").wait_for()
    assert ("v予測" if language else "v-prediction") in tab.text("modelsmith_inspect_page")
    place = "folder => { const one = document.querySelector('#modelsmith_inspect_page .ms-path'); "
    tab.page.evaluate(place + "one.textContent = one.textContent.replace(folder, '/models'); }", str(app.models))
    tab.page.wait_for_timeout(500)
    tab.screenshot(picture)
    (app.models / "my-anime-vpred.safetensors").unlink()
    tab.open(f"{app.url}?__lang=")


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


def test_inspect_shows_the_file_that_was_chosen_last(app: App, tab: ModelsmithPage) -> None:
    tab.open_slowed(app.url)
    tab.page.locator("#modelsmith_inspect_compare_panel .label-wrap").click()
    tab.choose("modelsmith_inspect_other", DEMO_A)
    tab.hold_back(1000)
    tab.choose("modelsmith_inspect_file", DEMO_A)
    tab.choose("modelsmith_inspect_file", DEMO_B)
    tab.page.locator(f"#modelsmith_inspect_page .ms-answer-to[data-chosen*='{DEMO_B}']").wait_for(state="attached")
    assert f"{DEMO_B}.safetensors" in tab.text("modelsmith_inspect_page")
    pair = f"[data-chosen*='{DEMO_B}'][data-chosen*='{DEMO_A}']"
    tab.page.locator(f"#modelsmith_inspect_compared .ms-answer-to{pair}").wait_for(state="attached")


def test_without_checkpoints_the_page_says_where_they_belong(app: App, tab: ModelsmithPage, tmp_path: Any) -> None:
    found = [path for path in app.models.iterdir() if path.suffix == ".safetensors"]
    for path in found:
        path.rename(tmp_path / path.name)
    try:
        tab.open(app.url)
        tab.wait_text("modelsmith_empty", f"There are no checkpoints in {app.models} yet.")
        for name in VIEWS:
            tab.view(name)
            tab.page.wait_for_timeout(300)
            tab.screenshot(f"standalone-empty-{name}")
    finally:
        for path in found:
            (tmp_path / path.name).rename(path)
    tab.view("merge")
    tab.part("modelsmith_empty").get_by_role("button", name="Look again").click()
    tab.part("modelsmith_empty").wait_for(state="hidden")
    tab.models(DEMO_A, DEMO_B)


def test_a_report_leads_into_the_merge(app: App, tab: ModelsmithPage) -> None:
    tab.open(app.url)
    tab.choose("modelsmith_inspect_file", DEMO_B)
    tab.page.locator("#modelsmith_inspect_page .ms-leads [data-way=merge]").click()
    tab.page.locator("#modelsmith_view_merge").wait_for(state="visible")
    tab.page.locator("#modelsmith_model_a_badge .ms-badge").first.wait_for()
    assert DEMO_B in tab.field("modelsmith_model_a").input_value()


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
    tab.models("middle", "middle")
    tab.field("modelsmith_output_name").fill("middle-merge")
    tab.wait_text("modelsmith_plan", "middle-merge.safetensors")
    tab.start()
    bar = tab.page.locator("#modelsmith_progress_panel .progressDiv").filter(has_text="left")
    bar.first.wait_for()
    assert "B/s" in bar.first.inner_text()
    tab.page.locator("#modelsmith_result .ms-done").wait_for(timeout=120_000)
    merged = app.models / "middle-merge.safetensors"
    assert merged.stat().st_size > 500_000_000
    merged.unlink()


def start_large(tab: ModelsmithPage, name: str) -> None:
    tab.view("merge")
    tab.models("large-a", "large-b")
    tab.field("modelsmith_output_name").fill(name)
    tab.wait_text("modelsmith_plan", f"{name}.safetensors")
    tab.start()
    tab.progress_text()


def cancel(tab: ModelsmithPage) -> None:
    tab.page.locator("#modelsmith_merge_cancel").click()
    assert "Nothing was written" in tab.wait_result("ms-info")


def test_a_running_merge_is_found_again_after_a_reload(app: App, tab: ModelsmithPage) -> None:
    tab.open(app.url)
    before = files(app)
    start_large(tab, "left-alone")
    tab.open(app.url)
    tab.view("merge")
    assert "GB" in tab.progress_text()
    assert "ms-running" in str(tab.page.locator(".ms-merge-view").get_attribute("class"))
    cancel(tab)
    assert files(app) == before
    tab.open(app.url)
    tab.view("merge")
    tab.page.wait_for_timeout(700)
    assert tab.page.locator("#modelsmith_progress_panel .progressDiv").count() == 0


def test_refreshing_looks_at_the_chosen_file_again(app: App, tab: ModelsmithPage) -> None:
    path = app.models / "replaced.safetensors"
    shutil.copy(app.models / f"{DEMO_A}.safetensors", path)
    tab.open(app.url)
    tab.page.locator("#modelsmith_inspect_refresh").click()
    tab.choose("modelsmith_inspect_file", "replaced.safetensors")
    tab.page.locator("#modelsmith_inspect_page .ms-columns").wait_for()
    path.write_bytes(path.read_bytes()[:-5])
    tab.page.locator("#modelsmith_inspect_refresh").click()
    tab.page.locator("#modelsmith_inspect_page").get_by_text("cut short").first.wait_for()
    path.unlink()


def test_two_windows_take_turns(app: App, tab: ModelsmithPage) -> None:
    tab.open(app.url)
    other = ModelsmithPage(tab.page.context.new_page())
    other.open(app.url)
    other.view("merge")
    other.models(DEMO_A, DEMO_B)
    other.field("modelsmith_output_name").fill("second-window")
    other.wait_text("modelsmith_plan", "second-window.safetensors")
    tab.page.bring_to_front()
    start_large(tab, "first-window")
    other.page.bring_to_front()
    waits = other.page.locator("#modelsmith_progress_panel .progressDiv").filter(has_text="Waits until")
    other.start()
    waits.wait_for()
    cancel(other)
    waits.wait_for(state="detached")
    assert "GB" in tab.progress_text()
    other.start()
    waits.wait_for()
    tab.page.bring_to_front()
    cancel(tab)
    assert "second-window.safetensors" in other.wait_result("ms-done")
    (app.models / "second-window.safetensors").unlink()
    assert other.errors == []


def test_a_file_that_is_gone_by_the_start_gets_one_message(app: App, tab: ModelsmithPage) -> None:
    shutil.copy(app.models / f"{DEMO_B}.safetensors", app.models / "soon-gone.safetensors")
    tab.open(app.url)
    tab.view("merge")
    tab.models(DEMO_A, "soon-gone")
    tab.page.locator("#modelsmith_plan .ms-plan").wait_for()
    before = files(app) - {"soon-gone.safetensors"}
    (app.models / "soon-gone.safetensors").unlink()
    tab.start()
    assert "soon-gone" in tab.wait_result("ms-error")
    assert files(app) == before


# What moved, in shares of the window as browsers measure it; nothing is left out for being near a click.
WATCH_SHIFTS = """() => {
    window.moved = [];
    const name = node => node && (node.id || node.className);
    const told = entry => entry.sources.map(one => [name(one.node), one.previousRect.y, one.currentRect.y]);
    new PerformanceObserver(list => list.getEntries().forEach(entry => {
        if (entry.value > 0.0005) window.moved.push([entry.value, JSON.stringify(told(entry))]);
    })).observe({type: "layout-shift", buffered: true});
}"""


def test_nothing_jumps_from_opening_to_the_merged_file(app: App, tab: ModelsmithPage) -> None:
    tab.page.add_init_script(f"({WATCH_SHIFTS})()")
    tab.open(app.url)
    for name in ("merge", "convert", "vae", "history", "merge"):
        tab.view(name)
        tab.page.wait_for_timeout(200)
    tab.models(DEMO_A, DEMO_B)
    tab.page.locator("#modelsmith_editor select").select_option("GRAD_V")
    tab.field("modelsmith_output_name").fill("unmoved")
    tab.wait_text("modelsmith_plan", "unmoved.safetensors")
    tab.start()
    assert "unmoved.safetensors" in tab.wait_result("ms-done")
    tab.page.wait_for_timeout(400)
    moved = tab.page.evaluate("window.moved")
    (app.models / "unmoved.safetensors").unlink()
    assert sum(value for value, _ in moved) < 0.02, moved


@pytest.mark.parametrize("width", [1024, 1280, 1920])
def test_nothing_is_wider_than_the_window(app: App, tab: ModelsmithPage, width: int) -> None:
    tab.page.set_viewport_size({"width": width, "height": 900})
    tab.open(app.url)
    for name in VIEWS:
        tab.view(name)
        if name == "merge":
            tab.models(DEMO_A, DEMO_B)
        tab.page.wait_for_timeout(200)
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width, name


def test_wrong_inputs_get_one_clear_message(app: App, tab: ModelsmithPage) -> None:
    tab.open(app.url)
    tab.view("merge")
    tab.models(DEMO_A, DEMO_B)
    before = files(app)
    for field, value, told in (
        ("modelsmith_output_name", "../outside", "has a path in it"),
        ("modelsmith_output_name", DEMO_A, "exists already"),
        ("modelsmith_blocks_alpha", "0.1, 0.2", "2 block weights were given"),
    ):
        tab.field(field).fill(value)
        tab.wait_text("modelsmith_plan", told)
        tab.start()
        tab.page.locator("#modelsmith_result .ms-error").filter(has_text=told).first.wait_for()
        tab.field(field).fill("")
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


def test_library_asks_on_while_a_file_takes_long(app: App, tab: ModelsmithPage) -> None:
    tab.open(app.url)
    tab.view("library")
    tab.page.locator("#modelsmith_library_table .ms-library[data-waiting='0']").wait_for()
    tab.view("merge")
    alike = 0

    def reading(route: Route) -> None:
        nonlocal alike
        answer = route.fetch()
        text = answer.text()
        if "data-waiting" in text and alike < 3:
            alike += 1
            text = text.replace('data-waiting=\\"0\\"', 'data-waiting=\\"1\\"')
        route.fulfill(response=answer, body=text)

    tab.page.route("**/run/predict*", reading)
    tab.view("library")
    tab.page.locator("#modelsmith_library_table .ms-library[data-waiting='1']").wait_for()
    tab.page.locator("#modelsmith_library_table .ms-library[data-waiting='0']").wait_for()
    assert alike == 3
    tab.page.unroute_all(behavior="wait")


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


def test_the_page_asks_the_api_in_its_own_language(app: App, tab: ModelsmithPage) -> None:
    asked: list[str] = []
    tab.page.on("request", lambda one: asked.append(one.headers.get("accept-language", "")) if "/v1/" in one.url else 0)
    question = "() => window.Modelsmith.ask('identify?name=modelsmith-demo-a.safetensors').then(one => one.prediction)"
    for language, wanted in (("ja_JP", "ja"), ("", "en")):
        tab.open(f"{app.url}?__lang={language}")
        asked.clear()
        detail = tab.page.evaluate(question)["evidence"][0]["detail"]
        assert asked == [wanted]
        assert any("\u3040" <= letter <= "\u9fff" for letter in detail) == (wanted == "ja"), detail
