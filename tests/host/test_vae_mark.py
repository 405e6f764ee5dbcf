"""The mark beside the VAE selector in a real webui, in a real browser: what it says, and what pressing it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from browser.page_object import FLAGS, ModelsmithPage, find_chromium
from host.server import Webui
from host.vae_files import write_vae_file

WRONG, FITTING = "anime-xl", "photo-sd1"


@pytest.fixture(scope="module")
def started(make_webui: Callable[..., Webui]) -> Iterator[Webui]:
    if find_chromium() is None:
        pytest.skip("no Chromium found (install chromium, or set MODELSMITH_CHROMIUM)")
    webui = make_webui("mark", ["sd15"])
    folder = webui.data / "models" / "VAE"
    write_vae_file(folder / f"{WRONG}.safetensors", family="sdxl", seed=1)
    write_vae_file(folder / f"{FITTING}.safetensors", family="sd", seed=2)
    webui.install_extension()
    webui.start()
    if webui.kind == "forge":
        webui.txt2img(steps=1)  # Forge loads nothing before the first job
    yield webui
    webui.stop()


@pytest.fixture
def page(started: Webui) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        context = browser.new_context(viewport={"width": 1400, "height": 900})
        context.route(lambda url: "127.0.0.1" not in url, lambda route: route.abort())
        found = context.new_page()
        found.set_default_timeout(90_000)
        found.goto(started.url("/"), wait_until="domcontentloaded")
        yield found
        browser.close()


def open_list(page: Any) -> None:
    holder = page.locator(".ms-vae-holder")
    holder.locator("input").first.click()
    page.locator("ul.options li:visible").first.wait_for()


def choose(page: Any, name: str) -> None:
    open_list(page)
    page.locator("ul.options li:visible").filter(has_text=name).first.click()
    page.locator(".ms-vae-holder input").first.blur()


def test_mark_panel_and_list(started: Webui, page: Any) -> None:
    mark = page.locator(".ms-vae-mark")
    mark.wait_for()
    # Forge's selector leaves room for the sign alone; what it says in full is told by pointing at it, or read aloud.
    assert mark.inner_text() == ("✓" if started.kind == "forge" else "✓ in the checkpoint")
    assert mark.get_attribute("data-full") == "✓ in the checkpoint"
    assert "The VAE in the checkpoint is in use (fits)." in str(mark.get_attribute("aria-label"))
    open_list(page)
    page.locator("ul.options li.ms-vae-wrong").first.wait_for()
    struck = page.locator("ul.options li.ms-vae-wrong:visible").all_inner_texts()
    assert [text.replace("✓", "").strip() for text in struck] == [f"{WRONG}.safetensors"]
    page.locator(".ms-vae-holder input").first.blur()

    choose(page, WRONG)
    page.locator(".ms-vae-mark.ms-vae-warned").wait_for()
    assert "is not used: it is a VAE of SDXL" in str(mark.get_attribute("title"))
    mark.click()
    panel = page.locator(".ms-vae-panel")
    assert f"{WRONG}.safetensors is not used" in panel.inner_text()
    ModelsmithPage(page).screenshot(f"{started.kind}-vae-mark")
    panel.get_by_role("button", name="Use it anyway").click()
    page.wait_for_function(
        "name => document.querySelector('.ms-vae-panel')?.innerText.includes(name + ' is in use')",
        arg=f"{WRONG}.safetensors",
    )
    assert started.get("/modelsmith/v1/vae")["vae"]["using"] == f"{WRONG}.safetensors"
    panel.get_by_role("button", name="No longer use it").click()
    panel.get_by_role("button", name="Use it anyway").wait_for()
    assert started.get("/modelsmith/v1/vae")["vae"]["using"] is None
    page.locator("body").click(position={"x": 5, "y": 5})
    panel.wait_for(state="detached")
