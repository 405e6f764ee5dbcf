"""A newcomer's first evening inside a real webui, in a real browser: from a file that is looked at to a picture."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest

pytest.importorskip("torch", reason="merges need it")

from browser.conftest import write_large
from browser.page_object import ModelsmithPage
from host.pictures import picture, pixels
from host.server import Webui
from host.webui_page import chosen_checkpoint, modelsmith_tab, webui_tab

FEW = ["sd15", "sd15-b", "sdxl-eps", "sdxl-v-ztsnr"]
TABLE, DETAIL, QUEUE = "modelsmith_history_table", "modelsmith_history_detail", "modelsmith_history_queue"
V1 = "/modelsmith/v1"
# AUTOMATIC1111 itself writes this to the console when the width or the height of the picture is changed.
SIZE_NOISE = "Cannot read properties of undefined (reading 'props')"


@pytest.fixture(scope="module")
def evening(make_webui: Callable[..., Webui]) -> Iterator[Webui]:
    """A webui as a newcomer has it; two models are large enough for a merge that can be watched."""
    webui = make_webui("evening", FEW)
    webui.install_extension()
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in ("large-a", "large-b"):
            write_large(webui.checkpoints, f"{name}.safetensors", monkeypatch)
    webui.start()
    yield webui
    webui.stop()


@pytest.fixture
def tab(chromium: Any, evening: Webui) -> Iterator[ModelsmithPage]:
    with modelsmith_tab(chromium, evening) as found:
        yield found


def bars(tab: ModelsmithPage) -> Any:
    return tab.page.locator("#modelsmith_editor .ms-bars-main .ms-bar")


def row(tab: ModelsmithPage) -> list[float]:
    text = tab.field("modelsmith_blocks_alpha").input_value()
    return [float(item) for item in text.split(",") if item and "=" not in item]


def paint(tab: ModelsmithPage, first: int, last: int) -> None:
    """Drag across the bars, from low on the first to high on the last."""
    boxes = [bars(tab).nth(index).bounding_box() for index in (first, last)]
    (left, right), mouse = boxes, tab.page.mouse
    mouse.move(left["x"] + left["width"] / 2, left["y"] + left["height"] * 0.9)
    mouse.down()
    mouse.move(right["x"] + right["width"] / 2, right["y"] + right["height"] * 0.1, steps=40)
    mouse.up()


def name(tab: ModelsmithPage, wanted: str) -> None:
    tab.field("modelsmith_output_name").fill(wanted)
    tab.wait_text("modelsmith_plan", f"{wanted}.safetensors")
    tab.page.locator("#modelsmith_plan .ms-plan").wait_for()


def wait_chosen(tab: ModelsmithPage, wanted: str) -> float:
    """Until the webui's own list shows the checkpoint; seconds."""
    begun = time.monotonic()
    while time.monotonic() < begun + 60:
        if wanted in chosen_checkpoint(tab.page):
            return time.monotonic() - begun
        tab.page.wait_for_timeout(50)
    raise AssertionError(f"{wanted} is not chosen but {chosen_checkpoint(tab.page)!r}")


def files(webui: Webui) -> set[str]:
    return {path.name for path in webui.checkpoints.iterdir()}


def test_look_at_a_file_paint_and_be_refused(evening: Webui, tab: ModelsmithPage) -> None:
    tab.choose("modelsmith_inspect_file", "sdxl-v-ztsnr")
    tab.wait_text("modelsmith_inspect_page", "Prediction and how it is known")
    assert "v-prediction" in tab.text("modelsmith_inspect_page")
    tab.view("merge")
    tab.models("sdxl-eps", "sdxl-v-ztsnr")
    tab.page.locator("#modelsmith_plan .ms-warning").first.wait_for()
    assert "v-prediction" in tab.text("modelsmith_plan")
    tab.page.locator('#modelsmith_plan [data-remedy="difference"]').click()
    tab.page.locator("#modelsmith_slot_c").wait_for(state="visible")
    tab.choose("modelsmith_model_c", "sdxl-eps")
    tab.page.locator("#modelsmith_plan .ms-plan").wait_for()
    bars(tab).nth(19).wait_for()
    paint(tab, 2, 14)
    painted = row(tab)
    assert painted[2] < 0.3 and painted[14] > 0.7, painted
    assert all(low <= high for low, high in pairwise(painted[2:15])), painted
    tab.screenshot(f"{evening.kind}-evening-guard")


def test_merge_and_be_given_the_checkpoint(evening: Webui, tab: ModelsmithPage, report: Callable[..., None]) -> None:
    tab.view("merge")
    tab.models("sd15.safetensors", "sd15-b")
    bars(tab).nth(25).wait_for()
    paint(tab, 14, 25)
    name(tab, "evening")
    tab.start()
    assert "evening.safetensors" in tab.wait_result("ms-done")
    seconds = wait_chosen(tab, "evening")
    assert any("evening" in one for one in tab.choices("modelsmith_model_a"))
    if evening.kind != "forge":
        assert evening.get("/sdapi/v1/options")["sd_model_checkpoint"].startswith("evening")
    report("evening", evening.flavour, "merged", f"the webui's list shows the result {seconds:.1f} s after it is said")


def test_cancel_a_large_merge(evening: Webui, tab: ModelsmithPage, report: Callable[..., None]) -> None:
    tab.view("merge")
    tab.models("large-a", "large-b")
    name(tab, "never-to-be")
    before = files(evening)
    tab.start()
    said = tab.progress_text()
    begun = time.monotonic()
    tab.part("modelsmith_merge_cancel").click()
    assert "Nothing was written" in tab.wait_result("ms-info")
    seconds = time.monotonic() - begun
    assert files(evening) == before
    report("evening", evening.flavour, "cancelled", f"at {said!r}; told {seconds:.1f} s after the click")


def generate(tab: ModelsmithPage) -> tuple[str, str]:
    """Press Generate in the txt2img tab; the picture's infotext, and its pixels hashed."""
    page, before = tab.page, list(tab.errors)
    webui_tab(page, "txt2img")
    page.locator("#txt2img_prompt textarea").first.fill("a cat")
    for field, value in (("steps", 2), ("width", 64), ("height", 64), ("seed", 7)):
        number = page.locator(f"#txt2img_{field} input[type=number]").first
        number.fill(str(value))
        number.press("Tab")
    page.locator("#txt2img_generate").click()
    info = page.locator("#html_info_txt2img").filter(has_text="Model hash")
    info.first.wait_for(timeout=240_000)
    picture = page.locator("#txt2img_gallery img").first
    picture.wait_for()
    tab.errors[:] = before + [error for error in tab.errors[len(before) :] if SIZE_NOISE not in error]
    found = page.request.get(str(picture.evaluate("one => one.src")))
    return str(info.first.inner_text()), pixels(base64.b64encode(found.body()).decode())


def test_a_picture_from_a_recipe_and_the_way_back(
    evening: Webui, tab: ModelsmithPage, report: Callable[..., None]
) -> None:
    tab.view("merge")
    tab.models("sd15.safetensors", "sd15-b")
    bars(tab).nth(25).wait_for()
    paint(tab, 3, 22)
    name(tab, "unsaved")
    before = files(evening)
    tab.page.locator("#modelsmith_merge_recipe").click()
    assert "Choosing it merges in memory" in tab.wait_result("ms-done")
    wait_chosen(tab, "unsaved.recipe")
    assert files(evening) - before == {"unsaved.recipe.safetensors"}
    text, image = generate(tab)
    digest = hashlib.sha256((evening.checkpoints / "unsaved.recipe.safetensors").read_bytes()).hexdigest()
    assert f"Model hash: {digest[:10]}" in text and "Model: unsaved.recipe" in text  # Neo has them the other way
    assert files(evening) - before == {"unsaved.recipe.safetensors"}
    tab.screenshot(f"{evening.kind}-evening-picture")
    webui_tab(tab.page, "Modelsmith")
    tab.view("history")
    tab.field("modelsmith_history_trace").fill(text)
    tab.page.locator("#modelsmith_history_look").click()
    tab.page.wait_for_function(f"() => document.querySelectorAll('#{TABLE} tbody tr').length === 1")
    assert "unsaved.recipe.safetensors" in tab.text(TABLE)
    tab.part(DETAIL).get_by_text("recipe checkpoint").wait_for()
    tab.screenshot(f"{evening.kind}-evening-traced")
    # Saved as a file from here, it makes the same picture.
    tab.part(DETAIL).locator("[data-act=file]").click()
    end = time.monotonic() + 60
    while not (evening.checkpoints / "unsaved.safetensors").exists() and time.monotonic() < end:
        tab.page.wait_for_timeout(200)
    evening.refresh()
    evening.select("unsaved")
    said = dict(re.findall(r"(Sampler|Schedule type): ([^,\n]+)", text))
    more = {"sampler_name": said["Sampler"], "scheduler": said.get("Schedule type", "Automatic")}
    assert picture(evening, negative_prompt="", seed=7, **more) == image
    report("evening", evening.flavour, "picture in txt2img", f"{text.splitlines()[-1][:90]} … is traced to its recipe")


def press(tab: ModelsmithPage, button: Any) -> None:
    """Press where the button stands, as a hand does. Playwright's own click waits until it has stood still, and the
    queue is drawn anew with every step of a job."""
    from playwright.sync_api import TimeoutError as NotInTime

    button.wait_for(timeout=5_000)
    box = button.bounding_box()
    if box is None:
        raise NotInTime("it was drawn anew")
    tab.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


LARGE = ("queue-large-a", "queue-large-b", "queue-large-c")


def test_a_queue_of_several_and_a_replay(evening: Webui, tab: ModelsmithPage, report: Callable[..., None]) -> None:
    from playwright.sync_api import TimeoutError as NotInTime

    tab.view("merge")
    for models, names in (
        (("large-a", "large-b"), list(LARGE)),  # so many that the small ones still wait when the view is open
        (("sd15.safetensors", "sd15-b"), ["queue-1", "queue-2", "queue-3"]),
    ):
        tab.models(*models)
        for one in names:
            name(tab, one)
            tab.page.locator("#modelsmith_merge_queue").click()
            tab.page.locator("#modelsmith_result .ms-done").filter(has_text=one).first.wait_for()
    tab.view("history")
    queue = tab.part(QUEUE)
    press(tab, queue.locator("tr").filter(has_text="queue-3").locator("[data-act=up]"))
    # One after the other: the table is drawn anew when an answer comes.
    queue.locator("tr").filter(has_text="queue-3").locator("[data-act=down]").wait_for()
    order = [str(job["title"]) for job in evening.get(f"{V1}/queue")]
    assert order.index("queue-3.safetensors") == order.index("queue-2.safetensors") - 1
    cancelled: set[str] = set()
    for one in reversed(LARGE):  # those that wait, before the one that runs is done
        with suppress(NotInTime):  # where the disk is fast it is done by now
            button = queue.locator("tr").filter(has_text=one).locator("[data-act=cancel]")
            press(tab, button)
            button.wait_for(state="detached", timeout=20_000)
            cancelled.add(one)
    for one in ("queue-1", "queue-2", "queue-3"):
        queue.locator("tr").filter(has_text=one).get_by_text("done", exact=True).wait_for(timeout=120_000)
    tab.screenshot(f"{evening.kind}-evening-queue")
    ended = [job for job in evening.get(f"{V1}/jobs") if job["title"].startswith("queue-")]
    states = {str(job["title"]).removesuffix(".safetensors"): job["state"] for job in ended}
    assert set(states) == {*LARGE, "queue-1", "queue-2", "queue-3"}
    assert states["queue-1"] == states["queue-2"] == states["queue-3"] == "done"
    assert all(states[one] in (("cancelled", "done") if one in cancelled else ("done",)) for one in LARGE)
    tab.part(TABLE).locator("tbody tr").filter(has_text="queue-1").first.click()
    tab.part(DETAIL).locator("[data-act=again]").click()
    queue.locator("tr").filter(has_text="queue-1-2").get_by_text("done", exact=True).wait_for(timeout=120_000)
    one, two = ((evening.checkpoints / f"{file}.safetensors").read_bytes() for file in ("queue-1", "queue-1-2"))
    assert one == two
    report(
        "evening", evening.flavour, "queue", f"{order} after one was moved up; large: {[states[one] for one in LARGE]}"
    )


def test_in_japanese(evening: Webui, chromium: Any) -> None:
    evening.options(localization="ja_JP")
    evening.reload_page()
    try:
        with modelsmith_tab(chromium, evening) as tab:
            labels = tab.page.locator("#modelsmith_views > .tab-nav > button").all_inner_texts()
            assert [label.strip() for label in labels][:2] == ["調べる", "マージ"]
            tab.view("merge")
            tab.models("sd15.safetensors", "sd15-b")
            tab.wait_text("modelsmith_plan", "作られるもの")
            assert tab.page.locator("#modelsmith_merge_start").inner_text() == "マージ"
            tab.screenshot(f"{evening.kind}-evening-ja")
    finally:
        evening.options(localization="None")
        evening.reload_page()
