"""The Convert and VAE views in a real webui, in a real browser: from the choice to the file in the webui's own list."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from browser.page_object import FLAGS, ModelsmithPage, find_chromium  # noqa: E402
from host.server import Webui  # noqa: E402
from host.webui_page import KNOWN_NOISE  # noqa: E402
from vae.vae_makers import narrow_layout, random_weights, spelled  # noqa: E402


@pytest.fixture(scope="module")
def page(running: Webui) -> Iterator[ModelsmithPage]:
    """The webui's page with our tab in front; afterwards nothing of ours may stand in the console."""
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium found (install chromium, or set MODELSMITH_CHROMIUM)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    folder = Path(running.checkpoints).parent / "VAE"
    layout = narrow_layout()
    save_file(spelled(layout, random_weights(layout, gain=3e5), "ldm"), folder / "hot.safetensors")
    full = narrow_layout(widths=(32, 32, 32, 32), blocks=2)
    save_file(spelled(full, random_weights(full), "ldm"), folder / "four-levels.safetensors")
    running.refresh()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.route(lambda url: "127.0.0.1" not in url, lambda route: route.abort())
        found = ModelsmithPage(context.new_page())
        found.page.goto(running.url("/"), wait_until="domcontentloaded")
        found.page.locator("#tabs > .tab-nav > button", has_text="Modelsmith").click(timeout=120_000)
        found.page.locator("#modelsmith_views").wait_for(state="visible")
        yield found
        browser.close()
    assert [error for error in found.errors if not any(noise in error for noise in KNOWN_NOISE)] == []


def radio(tab: ModelsmithPage, elem_id: str, text: str) -> None:
    tab.part(elem_id).locator("label").get_by_text(text, exact=True).first.click()


def start(tab: ModelsmithPage, view: str, css: str) -> str:
    tab.page.locator(f"#modelsmith_{view}_start").click()
    tab.page.locator(f"#modelsmith_{view}_result .{css}").first.wait_for(timeout=240_000)
    return tab.text(f"modelsmith_{view}_result")


def start_until(tab: ModelsmithPage, view: str, text: str) -> None:
    """Start, and wait for this in the result: that of an earlier job may still stand there."""
    tab.page.locator(f"#modelsmith_{view}_start").click()
    tab.part(f"modelsmith_{view}_result").get_by_text(text).first.wait_for(timeout=240_000)


def test_a_conversion_is_in_the_list_at_once(webui: Webui, page: ModelsmithPage) -> None:
    page.view("convert")
    page.choose("modelsmith_convert_file", "sd15.safetensors")
    radio(page, "modelsmith_convert_unet", "bf16")
    page.wait_text("modelsmith_convert_plan", "sd15-bf16.safetensors")
    assert "sd15-bf16.safetensors" in start(page, "convert", "ms-done")
    page.screenshot(f"{webui.kind}-convert-done")
    made = load_file(Path(webui.checkpoints) / "sd15-bf16.safetensors")
    assert made["model.diffusion_model.input_blocks.0.0.weight"].dtype == torch.bfloat16
    assert any("sd15-bf16" in model["title"] for model in webui.get("/sdapi/v1/sd-models"))
    assert any("sd15-bf16" in name for name in page.choices("modelsmith_convert_file"))


def test_files_are_checked_against_a_list(webui: Webui, page: ModelsmithPage) -> None:
    digest = hashlib.sha256((Path(webui.checkpoints) / "sd15.safetensors").read_bytes()).hexdigest()
    page.view("convert")
    page.choose("modelsmith_convert_file", "sd15.safetensors")
    radio(page, "modelsmith_convert_action", "Verify")
    page.field("modelsmith_convert_hash_list").fill(f"{digest}  sd15.safetensors")
    page.wait_text("modelsmith_convert_plan", "1 of 1 hashes belong to these files")
    start_until(page, "convert", "1 files checked, 0 with faults")
    page.field("modelsmith_convert_hash_list").fill(f"{'0' * 64}  sd15.safetensors")
    page.wait_text("modelsmith_convert_plan", "1 of 1 hashes belong to these files")
    start_until(page, "convert", "not one of those expected")
    page.screenshot(f"{webui.kind}-verify")


def test_a_vae_is_tried_on_a_picture_and_cured(webui: Webui, page: ModelsmithPage, tmp_path: Path) -> None:
    Image.new("RGB", (48, 32), (200, 30, 90)).save(tmp_path / "mine.png")
    page.view("vae")
    page.choose("modelsmith_vae_file", "hot.safetensors")
    page.wait_text("modelsmith_vae_page", "Latent channels")
    page.part("modelsmith_vae_pictures").locator("input[type=file]").set_input_files(str(tmp_path / "mine.png"))
    page.wait_text("modelsmith_vae_plan", "mine.png")
    shown = start(page, "vae", "ms-warning")
    assert "It overflows in fp16" in shown and "latent of mine.png" in shown
    page.screenshot(f"{webui.kind}-vae-measured")
    radio(page, "modelsmith_vae_action", "Cure for fp16")
    page.wait_text("modelsmith_vae_plan", "hot-fp16-cured.safetensors")
    assert "Cured and proved" in start(page, "vae", "ms-done")
    assert any("fp16-cured" in name for name in page.choices("modelsmith_vae_file"))


def test_a_word_said_in_the_view_is_the_webuis_own(webui: Webui, page: ModelsmithPage) -> None:
    """The tab, the mark beside the selector and the automatic choice have one memory."""
    page.view("vae")
    page.choose("modelsmith_vae_file", "four-levels.safetensors")
    radio(page, "modelsmith_vae_said", "SDXL")
    page.wait_text("modelsmith_vae_page", "you say so")
    state = webui.get("/modelsmith/v1/vae")["vae"]
    if state is not None:
        said = {Path(file["name"]).name: file["said"] for file in state["files"]}
        assert said["four-levels.safetensors"] == "sdxl"
    radio(page, "modelsmith_vae_said", "what the file says")
    page.part("modelsmith_vae_page").get_by_text("you say so").first.wait_for(state="detached")
    page.screenshot(f"{webui.kind}-vae")
