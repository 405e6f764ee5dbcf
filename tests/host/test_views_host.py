"""Each view inside a real webui, in both themes and two widths: pictures to look at, and nothing that jumps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from browser.page_object import VIEWS, ModelsmithPage
from host.server import Webui
from host.webui_page import modelsmith_tab

# Collects every shift of something that was painted already; those soon after a click too, which browsers leave out
# of their own sum.
WATCH = """
window.modelsmithShifts = [];
new PerformanceObserver(list => {
    for (const entry of list.getEntries()) {
        const nodes = entry.sources.map(source => source.node).filter(node => node && node.nodeType === 1);
        const ours = nodes.filter(node => node.closest("#tab_modelsmith"));
        if (ours.length) {
            const names = ours.map(node => node.id || (node.closest("[id]") || {}).id + " " + node.className);
            window.modelsmithShifts.push({value: entry.value, names: names});
        }
    }
}).observe({type: "layout-shift", buffered: true});
"""
# The mark between good and in need of mending is 0.1 (web.dev/articles/cls); a view of ours stays far below it.
MOST = 0.02
SIZES = {"1280": (1280, 900), "1920": (1920, 1080)}


def shifts(tab: ModelsmithPage) -> list[dict[str, Any]]:
    return tab.page.evaluate("() => window.modelsmithShifts.splice(0)")


def settle(tab: ModelsmithPage) -> None:
    from playwright.sync_api import TimeoutError as NotInTime

    with contextlib.suppress(NotInTime):  # Forge's page keeps one answer of the server open as long as it is there
        tab.page.wait_for_load_state("networkidle", timeout=4000)
    tab.page.wait_for_timeout(600)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_views_open_without_a_jump(
    chromium: Any, webui: Webui, theme: str, size: str, report: Callable[..., None]
) -> None:
    with modelsmith_tab(chromium, webui, size=SIZES[size], theme=theme, script=WATCH) as tab:
        settle(tab)
        shifts(tab)
        worst: dict[str, float] = {}
        told: dict[str, list[str]] = {}
        for view in (*VIEWS, *VIEWS):
            tab.view(view)
            settle(tab)
            found = shifts(tab)
            worst[view] = max(worst.get(view, 0.0), sum(one["value"] for one in found))
            told.setdefault(view, []).extend(name for one in found for name in one["names"])
        tab.page.evaluate(PUSH)
        settle(tab)
        assert sum(one["value"] for one in shifts(tab)) > MOST, "a shift that was made on purpose was not seen"
        fill(tab)
        for view in VIEWS:
            tab.view(view)
            settle(tab)
            tab.screenshot(f"{webui.flavour}-{view}-{theme}-{size}")
        line = ", ".join(f"{view} {value:.4f}" for view, value in worst.items())
        report("layout shift", webui.flavour, theme, size, line)
        assert {view: told[view] for view, value in worst.items() if value > MOST} == {}


# A shift of our own making, of what stands below it, to know that shifts are seen.
PUSH = """() => {
    const block = document.createElement("div");
    block.style.height = "240px";
    document.querySelector("#modelsmith_views .tabitem[style*=block]").prepend(block);
    setTimeout(() => block.remove(), 400);
}"""

OVERLAPS = """() => Array.from(document.querySelectorAll(".ms-host-badge, .ms-vae-mark")).map(mark => {
    const text = document.createRange();
    text.selectNodeContents(mark.parentElement.querySelector("[data-testid=block-info], label > span"));
    const [one, two] = [mark.getBoundingClientRect(), text.getBoundingClientRect()];
    const apart = one.left >= two.right || one.right <= two.left || one.top >= two.bottom || one.bottom <= two.top;
    return {mark: mark.textContent, apart: apart, width: Math.round(one.width)};
})"""


@pytest.mark.parametrize("size", SIZES)
def test_marks_beside_the_selectors_leave_labels_free(chromium: Any, webui: Webui, size: str) -> None:
    webui.select("sdxl-v-ztsnr")
    webui.txt2img()
    try:
        with modelsmith_tab(chromium, webui, size=SIZES[size]) as tab:
            tab.page.locator(".ms-host-badge").first.wait_for()
            if webui.kind == "forge":
                tab.page.locator(".ms-vae-mark").first.wait_for()
            found = tab.page.evaluate(OVERLAPS)
            assert found and all(one["apart"] for one in found), found
            tab.screenshot(f"{webui.flavour}-marks-{size}")
    finally:
        webui.select("sd15")


def fill(tab: ModelsmithPage) -> None:
    """Something to see in each view."""
    tab.view("inspect")
    tab.choose("modelsmith_inspect_file", "sdxl-v-ztsnr")
    tab.wait_text("modelsmith_inspect_page", "Prediction and how it is known")
    tab.view("merge")
    tab.models("sd15.safetensors", "sd15-b")
    tab.page.locator("#modelsmith_editor select").first.select_option("SMOOTHSTEP")
    tab.page.locator("#modelsmith_plan .ms-plan").wait_for()
    tab.view("convert")
    tab.choose("modelsmith_convert_file", "sdxl-v-ztsnr")
    tab.view("vae")
    tab.choose("modelsmith_vae_file", "sd15.safetensors")
    settle(tab)
