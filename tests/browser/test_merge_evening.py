"""A newcomer's first evening with the Merge view: weights, the guard and its remedy, a merge, a recipe, a queue."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from browser.conftest import App
from browser.page_object import ModelsmithPage
from modelsmith.merge.blocks import LAYOUTS, parse_weights
from modelsmith_webui.tab.block_editor import Layer, editor_html
from modelsmith_webui.tab.texts import Texts

DEMO_A, DEMO_B = "modelsmith-demo-a", "modelsmith-demo-b"
CHECKPOINTS = 1000
PASTE = """text => {
    const data = new DataTransfer();
    data.setData("text/plain", text);
    const event = new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true});
    document.querySelector("#modelsmith_editor .ms-bar").dispatchEvent(event);
}"""


def open_merge(app: App, tab: ModelsmithPage, *models: str) -> None:
    tab.open(app.url)
    tab.view("merge")
    tab.models(*(models or (DEMO_A, DEMO_B)))
    bars(tab).nth(25).wait_for()


def bars(tab: ModelsmithPage) -> Any:
    return tab.page.locator("#modelsmith_editor .ms-bars-main .ms-bar")


def planned(tab: ModelsmithPage) -> None:
    """Wait for the summary of a merge that can be done."""
    tab.page.locator("#modelsmith_plan .ms-plan").wait_for()


def press(tab: ModelsmithPage, name: str) -> None:
    tab.page.locator("#modelsmith_editor button").get_by_text(name, exact=True).click()


def choose_preset(tab: ModelsmithPage, value: str) -> None:
    tab.page.locator("#modelsmith_editor select").select_option(value)


def row(tab: ModelsmithPage, name: str = "alpha") -> list[float]:
    """The numbers in the text field, without blocks that are named."""
    text = tab.field(f"modelsmith_blocks_{name}").input_value()
    return [float(item) for item in text.split(",") if item and "=" not in item]


def test_weights_without_a_mouse(app: App, tab: ModelsmithPage) -> None:
    open_merge(app, tab)
    keys = tab.page.keyboard
    tab.page.locator("#modelsmith_editor button").get_by_text("Clear", exact=True).focus()
    keys.press("Tab")
    focused = tab.page.locator("#modelsmith_editor .ms-bar:focus-visible")
    assert focused.get_attribute("aria-label") == "BASE, Base (everything else)"
    assert focused.get_attribute("aria-valuetext") == "0.5, follows"
    assert focused.locator(".ms-bar-track").evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    keys.press("ArrowRight")
    keys.press("Home")
    keys.press("ArrowRight")
    keys.type("0.35")
    keys.press("Enter")
    keys.press("ArrowRight")
    keys.type("75")
    keys.press("ArrowRight")
    assert row(tab)[:5] == [0.5, 0.0, 0.35, 0.75, 0.5]
    keys.press("Control+z")
    assert row(tab)[:4] == [0.5, 0.0, 0.35, 0.5]
    keys.press("Control+y")
    assert row(tab)[:4] == [0.5, 0.0, 0.35, 0.75]
    bars(tab).nth(1).focus()
    keys.press("Shift+ArrowRight")
    keys.press("Shift+ArrowRight")
    press(tab, "Invert")
    assert row(tab)[:5] == [0.5, 1.0, 0.65, 0.25, 0.5]
    handle = tab.page.get_by_role("slider", name="All of OUT")
    handle.focus()
    keys.type("0.2")
    keys.press("Enter")
    assert row(tab)[14:] == [0.2] * 12
    assert bars(tab).nth(25).get_attribute("aria-valuenow") == "0.2"
    choose_preset(tab, "place:sd-mecha")
    assert tab.field("modelsmith_blocks_alpha").input_value().endswith(",TIME=0.5")
    choose_preset(tab, "place:supermerger")
    assert "TIME" not in tab.field("modelsmith_blocks_alpha").input_value()
    side = tab.page.locator('#modelsmith_editor [data-block="CLIP"]')
    side.focus()
    keys.press("End")
    assert tab.field("modelsmith_blocks_alpha").input_value().endswith(",CLIP=1")
    keys.press("Delete")
    assert "CLIP" not in tab.field("modelsmith_blocks_alpha").input_value()


def test_curve_tools_bend_the_whole_run(app: App, tab: ModelsmithPage) -> None:
    open_merge(app, tab)
    tab.field("modelsmith_blocks_alpha").fill(",".join(["0.5", "0", *["0.9"] * 23, "1"]))
    tab.page.wait_for_timeout(700)
    press(tab, "Line")
    assert row(tab)[1:4] == [0.0, 0.0417, 0.0833] and row(tab)[25] == 1.0
    press(tab, "Ease")
    eased = row(tab)
    assert eased[1] == 0.0 and eased[13] == 0.5 and eased[2] < 0.01 and eased[0] == 0.5
    press(tab, "Mirror")
    assert row(tab)[1:] == eased[:0:-1]
    press(tab, "Invert")
    assert row(tab)[1:] == pytest.approx(eased[1:], abs=2e-4)
    press(tab, "Scale")
    assert row(tab)[25] == 0.5
    before = row(tab)
    press(tab, "Smooth")
    assert max(row(tab)[1:]) < max(before[1:])
    for _ in range(6):
        press(tab, "Undo")
    assert row(tab)[1:4] == [0.0, 0.9, 0.9]


def test_a_slider_that_counts_nowhere_is_dimmed(app: App, tab: ModelsmithPage) -> None:
    open_merge(app, tab)
    slider = tab.page.locator("#modelsmith_parameter_alpha.ms-idle")
    assert slider.count() == 0
    choose_preset(tab, "SMOOTHSTEP")
    slider.first.wait_for()
    assert "counts nowhere" in str(slider.first.get_attribute("title"))
    press(tab, "Clear")
    slider.first.wait_for(state="detached")
    choose_preset(tab, "SMOOTHSTEP")
    slider.first.wait_for()
    tab.choose("modelsmith_method", "Average")  # has no weights at all
    slider.first.wait_for(state="detached")


def test_a_summary_that_takes_its_time_says_so(app: App, tab: ModelsmithPage) -> None:
    open_merge(app, tab)
    planned(tab)

    def slow(route: Any) -> None:
        time.sleep(1.5)
        route.continue_()

    tab.page.route("**/run/**", slow)
    tab.field("modelsmith_output_name").fill("awaited")
    asking = tab.page.locator("#modelsmith_plan.ms-asking")
    asking.first.wait_for()
    assert asking.first.get_attribute("data-asking") == "Working it out …"
    tab.page.unroute("**/run/**")
    tab.wait_text("modelsmith_plan", "awaited.safetensors")
    asking.first.wait_for(state="detached")


def test_a_result_can_be_inspected(app: App, tab: ModelsmithPage) -> None:
    open_merge(app, tab)
    tab.field("modelsmith_output_name").fill("looked-at")
    tab.wait_text("modelsmith_plan", "looked-at.safetensors")
    tab.start()
    tab.wait_result("ms-done")
    tab.part("modelsmith_result").get_by_role("button", name="Inspect it").click()
    tab.page.locator("#modelsmith_view_inspect").wait_for(state="visible")
    tab.page.locator("#modelsmith_inspect_page .ms-title").get_by_text("looked-at.safetensors").wait_for()
    (app.models / "looked-at.safetensors").unlink()


def test_text_of_other_tools_is_understood(app: App, tab: ModelsmithPage) -> None:
    open_merge(app, tab)
    tab.page.evaluate(PASTE, "MY_PRESET\t" + ",".join(["0.25"] * 26))
    assert row(tab) == [0.25] * 26
    tab.page.evaluate(PASTE, "[" + " ".join(["0.5"] * 25) + "]")
    assert len(row(tab)) == 0 or row(tab)[1:] == [0.5] * 25
    tab.page.evaluate(PASTE, "GRAD_V")
    assert row(tab)[:3] == [0.0, 1.0, 0.9167]
    tab.page.evaluate(PASTE, "no weights at all")
    tab.page.locator("#modelsmith_editor .ms-blocks-said").get_by_text("These are no weights").wait_for()
    folded = """text => {
        const order = ["BASE", ...Array.from({length: 9}, (u, i) => "IN0" + i), "M00",
            ...Array.from({length: 9}, (u, i) => "OUT0" + i), "VAE"];
        const data = {order, row: order, fold: true, presets: {}, names: new Set(order)};
        return window.ModelsmithWeights.write(window.ModelsmithWeights.pasted(text, data), data);
    }"""
    text = ",".join(str(number) for number in range(26))
    assert tab.page.evaluate(folded, text) == ",".join(str(n) for n in [*range(10), *range(13, 23), 0])


def test_a_transformer_takes_the_base_of_a_preset_and_of_26_values(app: App, tab: ModelsmithPage) -> None:
    """The VAE follows BASE, which no plain list of a transformer has: bars, field and library must agree on it."""
    layout = LAYOUTS["flux1"]
    tab.open(app.url)
    tab.view("merge")
    editor = editor_html(layout, Texts(lambda: ""), [Layer("alpha", "Alpha")], {})
    tab.page.evaluate("html => { document.querySelector('#modelsmith_editor').innerHTML = html; }", editor)
    field = tab.field("modelsmith_blocks_alpha")
    bars = tab.page.locator("#modelsmith_editor .ms-bar")
    bars.nth(layout.positional.index("OUT")).wait_for()

    def shown() -> dict[str, float]:
        tab.page.wait_for_timeout(700)  # the bars look at the field twice a second
        found = bars.evaluate_all("all => all.map(one => [one.dataset.block, +one.getAttribute('aria-valuenow')])")
        return dict(found)

    def merged(text: str) -> dict[str, float]:
        weights = layout.resolve(parse_weights(text, layout), 0.5)
        return {name: pytest.approx(value, abs=1e-4) for name, value in weights.items() if name != "BASE"}

    choose_preset(tab, "GRAD_V")
    assert shown() == merged("GRAD_V") == merged(field.input_value()) and shown()["VAE"] == 0.0
    field.fill("GRAD_V")
    assert shown() == merged("GRAD_V")
    tab.page.evaluate(PASTE, ",".join(["0.2", *["0.6"] * 25]))
    assert shown() == merged(field.input_value())
    assert [shown()[name] for name in ("VAE", "CLIP_L", "T5", "IN", "S37")] == [0.2, 0.2, 0.2, 0.6, 0.6]
    tab.page.evaluate(PASTE, ",".join(["0.6"] * 25))
    assert shown() == merged(field.input_value()) and shown()["VAE"] == 0.5
    field.fill("GRAD_V,BASE=0.3")
    assert shown() == merged("GRAD_V,BASE=0.3") and shown()["VAE"] == 0.3


def test_layers_presets_of_ones_own_and_the_map(app: App, tab: ModelsmithPage) -> None:
    open_merge(app, tab)
    tab.choose("modelsmith_method", "Triple sum")
    layer = tab.page.locator("#modelsmith_editor .ms-layer").get_by_text("Beta")
    layer.wait_for()
    layer.click()
    tab.page.locator("#modelsmith_editor select").select_option("GRAD_A")
    assert row(tab, "beta")[1:3] == [0.0, 0.0833] and row(tab, "alpha") == []
    press(tab, "Save as preset")
    said = tab.page.locator("#modelsmith_editor .ms-blocks-said")
    tab.page.keyboard.type("SMOOTHSTEP")
    tab.page.keyboard.press("Enter")
    tab.page.locator("#modelsmith_preset_said .ms-error").get_by_text("is a known one").wait_for()
    tab.page.wait_for_timeout(700)
    assert (
        said.inner_text() == "" and tab.page.locator("#modelsmith_editor option[value='own:SMOOTHSTEP']").count() == 0
    )
    tab.page.keyboard.press("Control+A")
    tab.page.keyboard.type("evening")
    tab.page.keyboard.press("Enter")
    said.get_by_text("Saved.").wait_for()
    assert tab.page.locator("#modelsmith_preset_said .ms-error").count() == 0
    kept = app.models / ".modelsmith" / "presets.json"
    end = time.monotonic() + 10
    while not kept.exists() and time.monotonic() < end:
        tab.page.wait_for_timeout(100)
    assert list(json.loads(kept.read_text())["presets"]) == ["evening"]
    tab.open(app.url)
    tab.view("merge")
    tab.models(DEMO_A, DEMO_B)
    tab.page.locator("#modelsmith_editor select").select_option("own:evening")
    assert row(tab)[1:3] == [0.0, 0.0833]
    tab.page.locator("#modelsmith_difference_start").click()
    tab.wait_text("modelsmith_difference_result", "B against A")
    tab.page.locator("#modelsmith_editor .ms-with-map").wait_for()
    hot = tab.page.locator("#modelsmith_editor .ms-bar-heat").evaluate_all("all => all.map(one => +one.style.opacity)")
    assert max(hot) > 0.5 > min(hot)
    bars(tab).nth(5).focus()
    assert "differs by" in tab.page.locator("#modelsmith_editor .ms-blocks-info").inner_text()
    tab.screenshot("standalone-difference")


def test_the_guard_refuses_and_its_remedy_is_one_click_away(app: App, tab: ModelsmithPage) -> None:
    tensors = load_file(app.models / f"{DEMO_B}.safetensors")
    save_file(tensors, app.models / "demo-v-pred.safetensors", {"modelspec.prediction_type": "v"})
    open_merge(app, tab, DEMO_A, "demo-v-pred")
    tab.page.locator("#modelsmith_plan .ms-warning").wait_for()
    assert "v-prediction" in tab.text("modelsmith_plan")
    tab.screenshot("standalone-guard")
    tab.page.locator('#modelsmith_plan [data-remedy^="preset:OUT_FROM"]').click()
    planned(tab)
    assert "FINAL=" in tab.field("modelsmith_blocks_alpha").input_value()
    tab.field("modelsmith_blocks_alpha").fill("")
    tab.page.locator('#modelsmith_plan [data-remedy="difference"]').click()
    tab.page.locator("#modelsmith_slot_c").wait_for(state="visible")
    tab.wait_text("modelsmith_method_formula", "B − C")
    assert tab.field("modelsmith_parameter_alpha").input_value() == "1"
    tab.choose("modelsmith_model_c", f"{DEMO_A}.safetensors")
    planned(tab)
    assert "v-prediction" in tab.text("modelsmith_plan")


def test_a_lora_row_a_merge_and_its_recipe(app: App, tab: ModelsmithPage) -> None:
    open_merge(app, tab)
    tab.page.locator("#modelsmith_loras_panel").get_by_text("LoRAs to bake in").click()
    tab.page.locator("#modelsmith_lora_rows button").get_by_text("Add a LoRA").click()
    tab.page.keyboard.type("nowhere")
    tab.page.keyboard.press("Tab")
    tab.wait_text("modelsmith_plan", "nowhere")
    tab.page.locator("#modelsmith_lora_rows button[aria-label=Remove]").click()
    planned(tab)
    tab.page.locator("#modelsmith_editor select").select_option("GRAD_V")
    tab.field("modelsmith_output_name").fill("evening")
    tab.wait_text("modelsmith_plan", "evening.safetensors")
    tab.start()
    assert "evening.safetensors" in tab.wait_result("ms-done")
    tab.wait_text("modelsmith_plan", "exists already")
    tab.page.locator('#modelsmith_plan [data-remedy="another"]').click()
    tab.wait_text("modelsmith_plan", "evening-2.safetensors")
    press(tab, "Clear")
    tab.choose("modelsmith_model_b", "evening")
    badge = tab.page.locator("#modelsmith_model_b_badge .ms-recipe")
    badge.locator("summary").click()
    badge.get_by_text("Put this recipe into the fields").click()
    tab.page.wait_for_function(
        "document.querySelector('#modelsmith_blocks_alpha textarea').value.startsWith('0,1,0.9167')"
    )
    assert DEMO_B in tab.part("modelsmith_model_b").locator("input").first.input_value()
    tab.page.locator("#modelsmith_merge_recipe").click()
    assert "Choosing it merges in memory" in tab.wait_result("ms-done")
    tab.field("modelsmith_output_name").fill("queued")
    tab.wait_text("modelsmith_plan", "queued.safetensors")
    tab.page.locator("#modelsmith_merge_queue").click()
    tab.wait_text("modelsmith_result", "is in the queue")
    end = time.monotonic() + 30
    while not (app.models / "queued.safetensors").exists() and time.monotonic() < end:
        tab.page.wait_for_timeout(200)
    one, two = (load_file(app.models / f"{name}.safetensors") for name in ("evening", "queued"))
    assert all(one[key].equal(two[key]) for key in one)


def write_relative(app: App, name: str) -> None:
    """A model that differs from demo A the more, the later the block, as a finetune of the output blocks does."""
    generator = torch.Generator().manual_seed(7)
    layout = LAYOUTS["sd1"]
    run = [name for name in layout.positional if name != "BASE"]
    tensors = load_file(app.models / f"{DEMO_A}.safetensors")
    for key, value in tensors.items():
        block = layout.block_of(key)
        share = 0.02 + 0.3 * (run.index(block) / len(run)) ** 2 if block in run else 0.01
        if value.is_floating_point() and value.numel() > 1:
            noise = torch.randn(value.shape, generator=generator) * value.float().std() * share
            tensors[key] = (value.float() + noise).to(value.dtype)
    save_file(tensors, app.models / name)


@pytest.mark.parametrize(("language", "picture"), [("", "merge"), ("ja_JP", "merge-ja")])
def test_the_view_with_all_that_it_shows(app: App, tab: ModelsmithPage, language: str, picture: str) -> None:
    """Also the picture in the README."""
    write_relative(app, "harbour-ink.safetensors")
    tab.open(f"{app.url}?__lang={language}")
    tab.view("merge")
    tab.models(DEMO_A, "harbour-ink")
    bars(tab).nth(25).wait_for()
    tab.page.locator("#modelsmith_editor select").select_option("SMOOTHSTEP")
    tab.page.locator("#modelsmith_difference_start").click()
    tab.page.locator("#modelsmith_editor .ms-with-map").wait_for()
    hot = tab.page.locator("#modelsmith_editor .ms-bars-main .ms-bar-heat").evaluate_all(
        "all => all.map(one => +one.style.opacity)"
    )
    assert hot[25] == max(hot) and hot[25] > 3 * hot[2], tab.text("modelsmith_difference_result")
    tab.field("modelsmith_output_name").fill("harbour-mix")
    tab.wait_text("modelsmith_plan", "harbour-mix.safetensors")
    planned(tab)
    bars(tab).nth(23).hover()
    assert ("作られるもの" if language else "What will be made") in tab.text("modelsmith_plan")
    tab.page.wait_for_timeout(700)
    shorten = """folder => document.querySelectorAll('#modelsmith_plan dd').forEach(one => {
        one.textContent = one.textContent.replace(folder, 'models');
    })"""
    tab.page.evaluate(shorten, str(app.models))  # the test's own folder says nothing to a reader
    tab.screenshot(picture)
    tab.open(f"{app.url}?__lang=")


def test_first_paint_with_a_thousand_checkpoints(app: App, tab: ModelsmithPage) -> None:
    """How soon the view is painted after the click. 200 ms is what is wanted, and 33 to 127 ms were seen on a machine
    with other work; the bound leaves a busy one five times that."""
    source = app.models / f"{DEMO_A}.safetensors"
    names = [app.models / f"many-{number:04d}.safetensors" for number in range(CHECKPOINTS)]
    for name in names:
        name.hardlink_to(source)
    try:
        tab.open(app.url)
        tab.page.wait_for_timeout(2000)
        milliseconds = tab.page.evaluate(
            """() => new Promise(done => {
                const tabs = document.querySelectorAll('#modelsmith_views > .tab-nav > button');
                const begun = performance.now();
                tabs[1].click();
                const look = () => {
                    const view = document.querySelector('#modelsmith_view_merge');
                    if (view && view.offsetHeight > 0) {
                        requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - begun)));
                    } else requestAnimationFrame(look);
                };
                look();
            })"""
        )
        print(f"first paint of Merge with {CHECKPOINTS} checkpoints: {milliseconds:.0f} ms")
        assert milliseconds < 1000
        tab.choose("modelsmith_model_a", "many-0007")
        tab.page.locator("#modelsmith_model_a_badge .ms-badge").first.wait_for()
    finally:
        for name in names:
            name.unlink()


def test_a_first_evening_in_one_go(app: App, tab: ModelsmithPage) -> None:
    """Inspect, the guard and its remedy, weights by hand, a merge, a cancel, a replay from the history, Japanese."""
    tensors = load_file(app.models / f"{DEMO_B}.safetensors")
    save_file(tensors, app.models / "lantern-v.safetensors", {"modelspec.prediction_type": "v"})
    tab.open(app.url)
    tab.choose("modelsmith_inspect_file", "lantern-v")
    tab.wait_text("modelsmith_inspect_page", "v-prediction")
    tab.view("merge")
    tab.models(DEMO_A, "lantern-v")
    tab.page.locator('#modelsmith_plan [data-remedy="preset:PARTS_ONLY"]').click()
    planned(tab)
    tab.page.locator('#modelsmith_editor [data-block="CLIP"]').focus()
    tab.page.keyboard.type("0.25")
    tab.page.keyboard.press("Enter")
    tab.field("modelsmith_output_name").fill("lantern-mix")
    tab.wait_text("modelsmith_plan", "lantern-mix.safetensors")
    tab.start()
    assert "lantern-mix.safetensors" in tab.wait_result("ms-done")
    tab.models("large-a", "large-b")
    press(tab, "Clear")
    tab.field("modelsmith_output_name").fill("too-large")
    tab.wait_text("modelsmith_plan", "too-large.safetensors")
    tab.start()
    tab.progress_text()
    tab.page.locator("#modelsmith_merge_cancel").click()
    assert "Nothing was written" in tab.wait_result("ms-info")
    tab.view("history")
    rows = tab.part("modelsmith_history_table").locator("tbody tr").filter(has_text="lantern-mix")
    rows.first.click()
    tab.part("modelsmith_history_detail").locator("[data-act=again]").click()
    tab.part("modelsmith_history_table").locator("tbody tr").filter(has_text="lantern-mix-2").wait_for()
    one, two = (app.models / f"lantern-mix{end}.safetensors" for end in ("", "-2"))
    assert one.read_bytes() == two.read_bytes()
    tab.page.locator("#modelsmith_language").select_option("ja_JP")
    tab.page.locator("#modelsmith_views > .tab-nav > button").filter(has_text="履歴").wait_for()
    tab.view("history")
    rows.first.click()
    tab.part("modelsmith_history_detail").get_by_text("もう一度作る").wait_for()
    tab.open(f"{app.url}?__lang=")
    for path in (one, two, app.models / "lantern-v.safetensors"):
        path.unlink()
