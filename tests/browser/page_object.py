"""The tab as somebody uses it in a browser: the same steps for the standalone app and for a webui."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
VIEWS = ("inspect", "merge", "convert", "vae", "lora", "library", "history")
WAIT = 60_000.0  # milliseconds; a machine that runs other tests beside this one is slow


# Requests of gradio are noted, and held back for as long as the test says.
SLOWED = """(() => {
    const send = window.fetch;
    Object.assign(window, {asked: [], heldBack: 0});
    window.fetch = async (address, options, ...more) => {
        if (String(address).includes("/run/predict")) {
            window.asked.push(String(options?.body));
            await new Promise(done => setTimeout(done, window.heldBack));
        }
        return send(address, options, ...more);
    };
})()"""


def find_chromium() -> str | None:
    """The browser to drive: MODELSMITH_CHROMIUM, or the Chromium that is installed."""
    named = os.environ.get("MODELSMITH_CHROMIUM")
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return named or next((path for path in found if path), None)


class ModelsmithPage:
    """The Modelsmith tab in a page of Playwright."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        page.set_default_timeout(WAIT)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error.stack or error)))

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.page.wait_for_selector("#modelsmith_views")

    def open_slowed(self, url: str) -> None:
        """Open a page whose server can be made slow by :meth:`hold_back`."""
        self.page.add_init_script(SLOWED)
        self.open(url)

    def hold_back(self, milliseconds: int) -> None:
        """Every request to gradio leaves so much later from now on."""
        self.page.evaluate("milliseconds => { window.heldBack = milliseconds; }", milliseconds)

    def view(self, name: str) -> None:
        """Change to inspect, merge, library … ; the buttons stand in the order of the views and have no ids."""
        ids = self.page.locator("#modelsmith_views > .tabitem").evaluate_all("found => found.map(one => one.id)")
        self.page.locator("#modelsmith_views > .tab-nav > button").nth(ids.index(f"modelsmith_view_{name}")).click()
        self.page.locator(f"#modelsmith_view_{name}").wait_for(state="visible")

    def choose(self, elem_id: str, name: str) -> None:
        """Choose an entry of a dropdown."""
        from playwright.sync_api import TimeoutError as NotInTime

        field = self.part(elem_id).locator("input").first
        entry = self.page.locator(f"#{elem_id} ul li:visible, ul.options li:visible").filter(has_text=name).first
        for _ in range(10):  # a list that is renewed while it is open closes again
            field.click()
            try:
                entry.click(timeout=WAIT / 10)
            except NotInTime:
                field.blur()
                continue
            self.page.wait_for_timeout(100)
            shown = field.input_value()
            if not shown or name in shown:  # a list that was renewed meanwhile may have chosen its neighbour
                return
        raise AssertionError(f"{name} is not offered in {elem_id}")

    def choices(self, elem_id: str) -> list[str]:
        """The entries of a dropdown."""
        field = self.page.locator(f"#{elem_id} input").first
        field.click()
        self.page.locator("ul.options li:visible").first.wait_for()
        found = self.page.locator("ul.options li:visible").all_inner_texts()
        field.blur()  # not Escape: AUTOMATIC1111's own handler for it fails while no popup was ever open
        return [text.replace("✓", "").strip() for text in found]

    def part(self, elem_id: str) -> Any:
        """A component; gradio 3 gives some of them their id twice."""
        return self.page.locator(f"#{elem_id}").first

    def field(self, elem_id: str) -> Any:
        return self.part(elem_id).locator("textarea, input").first

    def text(self, elem_id: str) -> str:
        return str(self.part(elem_id).inner_text())

    def wait_text(self, elem_id: str, text: str) -> None:
        self.part(elem_id).get_by_text(text).first.wait_for()

    def models(self, *names: str) -> None:
        for slot, name in zip("abc", names, strict=False):
            self.choose(f"modelsmith_model_{slot}", name)
            self.page.locator(f"#modelsmith_model_{slot}_badge .ms-badge").first.wait_for()

    def start(self) -> None:
        self.page.locator("#modelsmith_merge_start").click()

    def progress_text(self) -> str:
        """What stands on the progress bar, waiting for it to say how many bytes are done."""
        bar = self.page.locator("#modelsmith_progress_panel .progressDiv").filter(has_text="/")
        bar.first.wait_for()
        return str(bar.first.inner_text())

    def wait_result(self, css: str) -> str:
        """The result once it is there: css is ms-done, ms-info (cancelled) or ms-error."""
        self.page.locator(f"#modelsmith_result .{css}").first.wait_for()
        return self.text("modelsmith_result")

    def screenshot(self, name: str) -> None:
        """Keep a picture in MODELSMITH_SCREENSHOTS, where that is set."""
        folder = os.environ.get("MODELSMITH_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)
