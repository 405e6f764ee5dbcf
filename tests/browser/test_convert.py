"""Convert and VAE in a real browser, in the standalone app: from the choice to the file in the list."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from browser.conftest import App
from browser.page_object import ModelsmithPage
from vae.vae_makers import narrow_layout, random_weights, spelled

DEMO_A, DEMO_B = "modelsmith-demo-a", "modelsmith-demo-b"
IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"


def radio(tab: ModelsmithPage, elem_id: str, text: str) -> None:
    tab.part(elem_id).locator("label").get_by_text(text, exact=True).first.click()


def open_convert(app: App, tab: ModelsmithPage) -> None:
    """Open the view and let the list of files that it asks for then arrive, before anything is chosen from it."""
    tab.open(app.url)
    with tab.page.expect_response(lambda answer: "/queue/" in answer.url or "/run/" in answer.url):
        tab.view("convert")
    tab.page.wait_for_timeout(1500)


def start(tab: ModelsmithPage, view: str, css: str) -> str:
    """Press the button and wait for the result: ms-done, ms-warning, ms-info or ms-error."""
    tab.page.locator(f"#modelsmith_{view}_start").click()
    tab.page.locator(f"#modelsmith_{view}_result .{css}").first.wait_for()
    return tab.text(f"modelsmith_{view}_result")


def write_faulty(app: App, name: str) -> None:
    tensors = load_file(app.models / f"{DEMO_A}.safetensors")
    tensors[IDS] = torch.arange(77, dtype=torch.float32).reshape(1, 77)
    save_file(tensors, app.models / name)


def test_convert_from_choice_to_list(app: App, tab: ModelsmithPage) -> None:
    open_convert(app, tab)
    tab.choose("modelsmith_convert_file", DEMO_A)
    radio(tab, "modelsmith_convert_unet", "fp8 e4m3")
    tab.wait_text("modelsmith_convert_plan", "modelsmith-demo-a-fp8_e4m3.safetensors")
    assert "→" in tab.text("modelsmith_convert_plan")
    tab.screenshot("standalone-convert")
    assert "modelsmith-demo-a-fp8_e4m3.safetensors" in start(tab, "convert", "ms-done")
    tab.screenshot("standalone-convert-done")
    made = load_file(app.models / "modelsmith-demo-a-fp8_e4m3.safetensors")
    assert made["model.diffusion_model.middle_block.0.in_layers.2.weight"].dtype == torch.float8_e4m3fn
    assert any("fp8_e4m3" in name for name in tab.choices("modelsmith_convert_file"))


def hold_first_answer(tab: ModelsmithPage) -> list[Any]:
    """Keep the next question that the page asks the server, until it is let go on."""
    held: list[Any] = []

    def hold(route: Any) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    tab.page.route(re.compile(r"/(queue/join|run/predict|api/predict)"), hold)
    return held


@pytest.mark.parametrize("moment", ["after the choice", "while the list is open"])
def test_a_choice_made_while_the_list_arrives_is_kept(app: App, tab: ModelsmithPage, moment: str) -> None:
    """Opening the view asks for the files that are there now; whoever chooses before the answer keeps the choice."""
    tab.open(app.url)
    held = hold_first_answer(tab)
    tab.view("convert")
    field = tab.part("modelsmith_convert_file").locator("input").first
    field.click()
    entry = tab.page.locator("ul.options li:visible").filter(has_text=DEMO_B).first
    entry.wait_for()
    assert len(held) == 1, "the view asked for nothing"
    if moment == "while the list is open":
        with tab.page.expect_response(lambda answer: "/queue/" in answer.url or "/run/" in answer.url):
            held[0].continue_()
        tab.page.wait_for_timeout(1500)
    entry.click(timeout=3000)
    radio(tab, "modelsmith_convert_unet", "bf16")
    if moment == "after the choice":
        tab.page.wait_for_timeout(500)
        held[0].continue_()
    tab.wait_text("modelsmith_convert_plan", "modelsmith-demo-b-bf16.safetensors")
    tab.page.wait_for_timeout(1500)
    assert DEMO_B in tab.field("modelsmith_convert_file").input_value()
    assert "modelsmith-demo-b-bf16.safetensors" in tab.text("modelsmith_convert_plan")


def test_repair_shows_what_is_wrong_and_mends_it(app: App, tab: ModelsmithPage) -> None:
    write_faulty(app, "faulty.safetensors")
    open_convert(app, tab)
    tab.choose("modelsmith_convert_file", "faulty.safetensors")
    radio(tab, "modelsmith_convert_action", "Repair")
    tab.wait_text("modelsmith_convert_plan", "Damaged position_ids")
    tab.screenshot("standalone-repair")
    assert "faulty-repaired.safetensors" in start(tab, "convert", "ms-done")
    assert load_file(app.models / "faulty-repaired.safetensors")[IDS].dtype == torch.int64


def test_a_running_conversion_is_cancelled(app: App, tab: ModelsmithPage) -> None:
    open_convert(app, tab)
    tab.choose("modelsmith_convert_file", "large-a")
    radio(tab, "modelsmith_convert_unet", "fp32")
    tab.wait_text("modelsmith_convert_plan", "large-a-fp32.safetensors")
    before = {path.name for path in app.models.iterdir()}
    tab.page.locator("#modelsmith_convert_start").click()
    bar = tab.page.locator("#modelsmith_convert_progress_panel .progressDiv").filter(has_text="/")
    bar.first.wait_for()
    tab.screenshot("standalone-convert-progress")
    tab.page.locator("#modelsmith_convert_stop").click()
    tab.page.locator("#modelsmith_convert_result .ms-info").first.wait_for()
    assert "Nothing was written" in tab.text("modelsmith_convert_result")
    bar.first.wait_for(state="detached")
    assert {path.name for path in app.models.iterdir()} == before


def test_every_action_looks_right(app: App, tab: ModelsmithPage) -> None:
    """Each action shows its own controls, in both themes and in Japanese."""
    shown: dict[str, str] = {
        "Prune": "keep_schedule",
        "Parts": "part",
        "Share": "title",
        "Compare": "other",
        "Verify": "check_values",
    }
    for query, suffix in (("?__lang=&__theme=light", "light"), ("?__lang=&__theme=dark", "dark")):
        tab.open(app.url + query)
        tab.view("convert")
        tab.choose("modelsmith_convert_file", DEMO_B)
        for action, field in shown.items():
            radio(tab, "modelsmith_convert_action", action)
            tab.part(f"modelsmith_convert_{field}").wait_for(state="visible")
            tab.part("modelsmith_convert_unet").wait_for(state="hidden")
            tab.page.wait_for_timeout(700)
            tab.screenshot(f"standalone-convert-{action.lower()}-{suffix}")
    tab.open(app.url + "?__lang=ja_JP&__theme=light")
    tab.view("convert")
    tab.choose("modelsmith_convert_file", DEMO_B)
    tab.wait_text("modelsmith_convert_plan", "作られるもの")
    tab.screenshot("standalone-convert-ja")
    tab.open(app.url + "?__lang=&__theme=light")


def write_hot_vae(app: App) -> None:
    """A narrow VAE that overflows in fp16."""
    (app.models / "VAE").mkdir(exist_ok=True)
    layout = narrow_layout()
    save_file(spelled(layout, random_weights(layout, gain=3e5), "ldm"), app.models / "VAE" / "sdxl-hot.safetensors")


def test_a_vae_is_measured_and_cured(app: App, tab: ModelsmithPage) -> None:
    write_hot_vae(app)
    tab.open(app.url)
    tab.view("vae")
    tab.choose("modelsmith_vae_file", "sdxl-hot.safetensors")
    tab.wait_text("modelsmith_vae_page", "Latent channels")
    tab.wait_text("modelsmith_vae_plan", "What will be measured")
    tab.screenshot("standalone-vae")
    assert "It overflows in fp16" in start(tab, "vae", "ms-warning")
    tab.page.locator("#modelsmith_vae_result svg.ms-layer-chart").wait_for()
    tab.screenshot("standalone-vae-measured")
    radio(tab, "modelsmith_vae_action", "Cure for fp16")
    tab.wait_text("modelsmith_vae_plan", "sdxl-hot-fp16-cured.safetensors")
    assert "Cured and proved" in start(tab, "vae", "ms-done")
    tab.page.locator("#modelsmith_vae_result summary").click()
    tab.screenshot("standalone-vae-cured")
    assert (app.models / "VAE" / "sdxl-hot-fp16-cured.safetensors").exists()
    assert any("fp16-cured" in name for name in tab.choices("modelsmith_vae_file"))


def test_the_vae_view_in_the_dark_and_in_japanese(app: App, tab: ModelsmithPage) -> None:
    write_hot_vae(app)
    for query, suffix, told in (
        ("?__lang=&__theme=dark", "dark", "It overflows"),
        ("?__lang=ja_JP", "ja", "あふれます"),
    ):
        tab.open(app.url + query)
        tab.view("vae")
        tab.choose("modelsmith_vae_file", "sdxl-hot.safetensors")
        tab.page.locator("#modelsmith_vae_page .ms-facts").wait_for()
        assert told in start(tab, "vae", "ms-warning")
        tab.page.locator("#modelsmith_vae_action label").nth(2).click()
        tab.part("modelsmith_vae_checkpoint").wait_for(state="visible")
        tab.screenshot(f"standalone-vae-{suffix}")
    tab.open(app.url + "?__lang=&__theme=light")


def test_a_report_leads_to_its_repair(app: App, tab: ModelsmithPage) -> None:
    write_faulty(app, "old-merge.safetensors")
    tab.open(app.url)
    tab.choose("modelsmith_inspect_file", "old-merge")
    repair = tab.page.locator("#modelsmith_inspect_page .ms-leads [data-way=repair]")
    repair.wait_for()
    tab.screenshot("standalone-inspect-links")
    repair.click()
    tab.page.locator("#modelsmith_view_convert").wait_for(state="visible")
    tab.wait_text("modelsmith_convert_plan", "old-merge-repaired.safetensors")
    tab.wait_text("modelsmith_convert_plan", "Damaged position_ids")


def test_a_verdict_names_its_vae_and_goes_with_it(app: App, tab: ModelsmithPage) -> None:
    write_hot_vae(app)
    tab.open(app.url)
    tab.view("vae")
    tab.choose("modelsmith_vae_file", "sdxl-hot.safetensors")
    tab.wait_text("modelsmith_vae_plan", "What will be measured")
    assert "sdxl-hot.safetensors" in start(tab, "vae", "ms-warning")
    tab.choose("modelsmith_vae_file", DEMO_A)
    tab.page.locator("#modelsmith_vae_result .ms-warning").wait_for(state="detached")
