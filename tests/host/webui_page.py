"""A webui's page with our tab in front, in a browser of its own context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from browser.page_object import ModelsmithPage
from host.server import Webui

# What the webuis themselves write to the console, with or without the extension.
KNOWN_NOISE = (
    "fonts.googleapis",
    "fonts.gstatic",
    "cdnjs.cloudflare",
    "favicon",
    "manifest.json",
    "net::ERR_",
    "/file=html/card-no-preview",
    "sd_model_checkpoint_sha",
)
SELECTOR = "#setting_sd_model_checkpoint, .model_selection"


def webui_tab(page: Any, label: str) -> None:
    """Bring a tab of the webui to the front."""
    page.locator("#tabs > .tab-nav > button").filter(has_text=label).first.click(timeout=120_000)


def chosen_checkpoint(page: Any) -> str:
    """What stands in the webui's own list of checkpoints."""
    return str(page.locator(SELECTOR).first.locator("input").first.input_value())


@contextmanager
def modelsmith_tab(
    chromium: Any, webui: Webui, *, size: tuple[int, int] = (1280, 900), theme: str = "", script: str = ""
) -> Iterator[ModelsmithPage]:
    """The page with our tab in front; afterwards nothing of ours may stand in the console.

    theme: light or dark, empty for the webui's own. script: runs before the page's own scripts.
    """
    context = chromium.new_context(viewport={"width": size[0], "height": size[1]})
    # A webui asks other machines for fonts and scripts; here nobody answers, so nobody should wait for them.
    context.route(lambda url: "127.0.0.1" not in url, lambda route: route.abort())
    if script:
        context.add_init_script(script)
    found = ModelsmithPage(context.new_page())
    found.page.goto(webui.url(f"/?__theme={theme}" if theme else "/"), wait_until="domcontentloaded")
    webui_tab(found.page, "Modelsmith")
    found.page.locator("#modelsmith_views").wait_for(state="visible")
    yield found
    context.close()
    ours = [error for error in found.errors if not any(noise in error for noise in KNOWN_NOISE)]
    assert not ours, "\n".join(ours)
