"""LoRAs in a real browser, in the standalone app: extracted, merged, resized, checked and baked in."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file

from browser.conftest import App
from browser.page_object import ModelsmithPage
from browser.test_convert import radio

DEMO_A, DEMO_B = "modelsmith-demo-a", "modelsmith-demo-b"
UP = "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"


def open_lora(app: App, tab: ModelsmithPage, url: str = "") -> None:
    """Open the view and let the lists that it asks for then arrive, before anything is chosen from them."""
    tab.open(url or app.url)
    with tab.page.expect_response(lambda answer: "/queue/" in answer.url or "/run/" in answer.url):
        tab.view("lora")
    tab.page.wait_for_timeout(1500)


def set_number(tab: ModelsmithPage, elem_id: str, number: float) -> None:
    field = tab.part(elem_id).locator("input[type=number]").first
    field.fill(str(number))
    field.blur()


def add_row(tab: ModelsmithPage, name: str, strength: float = 1.0, rows: str = "modelsmith_lora_list_rows") -> None:
    place = tab.part(rows)
    place.get_by_role("button").filter(has_text="LoRA").last.click()
    row = place.locator(".ms-lora-row").last
    row.locator(".ms-lora-name").fill(name)
    row.locator(".ms-lora-name").blur()
    row.locator(".ms-lora-strength").fill(str(strength))
    row.locator(".ms-lora-strength").blur()


def start(tab: ModelsmithPage, name: str) -> str:
    """Press the button and wait until the result names the file."""
    tab.page.locator("#modelsmith_lora_start").click()
    tab.page.locator("#modelsmith_lora_result .ms-facts dd").get_by_text(name, exact=True).first.wait_for()
    return tab.text("modelsmith_lora_result")


def extract(app: App, tab: ModelsmithPage, rank: int, name: str) -> dict[str, Any]:
    radio(tab, "modelsmith_lora_action", "Extract")
    tab.part("modelsmith_lora_tuned").wait_for(state="visible")
    tab.choose("modelsmith_lora_tuned", DEMO_B)
    tab.choose("modelsmith_lora_base", DEMO_A)
    set_number(tab, "modelsmith_lora_rank", rank)
    tab.field("modelsmith_lora_name").fill(name)
    tab.field("modelsmith_lora_name").blur()
    tab.wait_text("modelsmith_lora_plan", f"{name}.safetensors")
    assert f"<lora:{name}:1>" in start(tab, f"{name}.safetensors")
    return load_file(app.models / "Lora" / f"{name}.safetensors")


def test_extracted_checked_and_baked_in(app: App, tab: ModelsmithPage) -> None:
    open_lora(app, tab)
    tab.screenshot("standalone-lora")
    made = extract(app, tab, 4, "evening")
    assert made[UP].shape[1] == 4
    tab.screenshot("standalone-lora-extract")

    radio(tab, "modelsmith_lora_action", "Check")
    tab.choose("modelsmith_lora_lora", "evening")
    tab.choose("modelsmith_lora_checkpoint", DEMO_A)
    tab.wait_text("modelsmith_lora_plan", "modules find their place")
    assert "SD1" in tab.text("modelsmith_lora_plan") and not tab.part("modelsmith_lora_start").is_visible()
    tab.screenshot("standalone-lora-check")

    radio(tab, "modelsmith_lora_action", "Bake in")
    add_row(tab, "evening", 0.5)
    tab.wait_text("modelsmith_lora_plan", "evening × 0.5")
    tab.screenshot("standalone-lora-bake")
    assert "354 modules find their place" in start(tab, "modelsmith-demo-a-evening.safetensors")
    tab.screenshot("standalone-lora-baked")
    key = "model.diffusion_model.middle_block.1.proj_in.weight"
    before = load_file(app.models / f"{DEMO_A}.safetensors")[key].float()
    after = load_file(app.models / "modelsmith-demo-a-evening.safetensors")[key].float()
    change = made[UP].float().flatten(1) @ made[UP.replace("up", "down")].float().flatten(1)
    torch.testing.assert_close(after.flatten(1), before.flatten(1) + 0.5 * change, rtol=2e-3, atol=2e-3)


def test_merged_resized_and_led_to_from_its_report(app: App, tab: ModelsmithPage) -> None:
    open_lora(app, tab)
    extract(app, tab, 3, "one")
    extract(app, tab, 5, "two")
    radio(tab, "modelsmith_lora_action", "Merge LoRAs")
    add_row(tab, "one")
    tab.wait_text("modelsmith_lora_plan", "at least two LoRAs are needed")
    add_row(tab, "two", -0.5)
    tab.field("modelsmith_lora_name").fill("both")
    tab.field("modelsmith_lora_name").blur()
    tab.wait_text("modelsmith_lora_plan", "two × -0.5")
    start(tab, "both.safetensors")
    assert load_file(app.models / "Lora" / "both.safetensors")[UP].shape[1] == 8
    tab.screenshot("standalone-lora-merge")

    radio(tab, "modelsmith_lora_action", "Resize")
    tab.choose("modelsmith_lora_lora", "both")
    set_number(tab, "modelsmith_lora_rank", 2)
    tab.field("modelsmith_lora_name").fill("")
    tab.field("modelsmith_lora_name").blur()
    tab.wait_text("modelsmith_lora_plan", "both-rank2.safetensors")
    start(tab, "both-rank2.safetensors")
    assert load_file(app.models / "Lora" / "both-rank2.safetensors")[UP].shape[1] == 2

    tab.open(app.url)
    tab.choose("modelsmith_inspect_file", "both-rank2")
    tab.page.locator('#modelsmith_view_inspect [data-way="lora"]').click()
    tab.part("modelsmith_lora").wait_for(state="visible")
    tab.wait_text("modelsmith_lora_plan", "both-rank2.safetensors")


def test_a_choice_that_is_missing_and_a_name_that_is_taken(app: App, tab: ModelsmithPage) -> None:
    open_lora(app, tab)
    tab.wait_text("modelsmith_lora_plan", "Choose the checkpoint.")
    tab.choose("modelsmith_lora_checkpoint", DEMO_A)
    tab.wait_text("modelsmith_lora_plan", "Add the LoRAs.")
    add_row(tab, "no such thing")
    tab.page.locator("#modelsmith_lora_plan .ms-error").wait_for()


def test_in_japanese(app: App, tab: ModelsmithPage) -> None:
    open_lora(app, tab, f"{app.url}?__lang=ja_JP")
    tab.wait_text("modelsmith_lora_plan", "チェックポイントを選んでください。")
    tab.screenshot("standalone-lora-ja")
    tab.open(f"{app.url}?__lang=")


def test_an_emptied_strength_keeps_the_last_one(app: App, tab: ModelsmithPage) -> None:
    """In this view and in Merge, which have the same rows."""
    open_lora(app, tab)
    for view, rows, text in (
        ("lora", "modelsmith_lora_list_rows", "modelsmith_lora_list"),
        ("merge", "modelsmith_lora_rows", "modelsmith_loras"),
    ):
        tab.view(view)
        if view == "merge":
            tab.page.locator("#modelsmith_loras_panel").get_by_text("LoRAs to bake in").click()
        add_row(tab, "some", 0.8, rows)
        strength = tab.part(rows).locator(".ms-lora-strength")
        strength.fill("")
        assert '"strength":0.8' in tab.field(text).input_value()
        strength.blur()
        assert strength.input_value() == "0.8"
        strength.fill("0")
        assert '"strength":0,' in tab.field(text).input_value()
