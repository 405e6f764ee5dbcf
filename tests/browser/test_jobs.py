"""Starting jobs in a real browser: once and not twice, and what they ended with after a reload."""

from __future__ import annotations

from browser.conftest import App
from browser.page_object import ModelsmithPage
from browser.test_convert import DEMO_A, DEMO_B, open_convert, radio

START, RESULT = "#modelsmith_convert_start", "#modelsmith_convert_result"


def set_up(app: App, tab: ModelsmithPage, name: str, model: str = "large-a") -> None:
    """A conversion that takes its time, ready to be started."""
    open_convert(app, tab)
    tab.choose("modelsmith_convert_file", model)
    radio(tab, "modelsmith_convert_unet", "bf16")
    tab.field("modelsmith_convert_name").fill(name)
    tab.wait_text("modelsmith_convert_plan", f"{name}.safetensors")


def press(tab: ModelsmithPage, selector: str) -> None:
    """As from the keyboard, whatever the button looks like."""
    tab.page.locator(selector).first.evaluate("button => button.click()")


def wait_bar(tab: ModelsmithPage) -> None:
    tab.page.locator("#modelsmith_convert_progress_panel .progressDiv").filter(has_text="/").first.wait_for()


def test_a_job_that_runs_is_not_started_again(app: App, tab: ModelsmithPage) -> None:
    set_up(app, tab, "once")
    tab.page.locator(START).first.dblclick()
    wait_bar(tab)
    assert tab.page.locator(START).first.get_attribute("aria-disabled") == "true"
    press(tab, START)
    tab.page.locator(f"{RESULT} .ms-done").first.wait_for()
    tab.wait_text("modelsmith_convert_plan", "A file of this name exists already")  # told anew by itself
    tab.page.wait_for_timeout(1500)
    assert tab.page.locator(f"{RESULT} .ms-error").count() == 0
    press(tab, START)  # of use again, and refused by what exists now
    tab.page.locator(f"{RESULT} .ms-error").first.wait_for()
    tab.field("modelsmith_convert_name").fill("twice")
    tab.wait_text("modelsmith_convert_plan", "twice.safetensors")
    press(tab, START)
    wait_bar(tab)
    tab.page.locator("#modelsmith_convert_stop").first.click()
    tab.page.locator(f"{RESULT} .ms-info").first.wait_for()
    assert tab.page.locator(START).first.is_enabled()
    (app.models / "once.safetensors").unlink()


def test_a_reloaded_page_is_told_how_its_job_ended(app: App, tab: ModelsmithPage) -> None:
    set_up(app, tab, "while-away")
    tab.page.locator(START).first.click()
    wait_bar(tab)
    tab.open(app.url)
    tab.view("convert")
    wait_bar(tab)
    press(tab, START)  # it runs still: nothing happens
    tab.page.locator(f"{RESULT} .ms-done").first.wait_for()
    assert "while-away.safetensors" in tab.text("modelsmith_convert_result")
    assert any("while-away" in name for name in tab.choices("modelsmith_convert_file"))
    assert tab.page.locator(START).first.is_enabled()
    (app.models / "while-away.safetensors").unlink()


def test_a_job_that_ended_while_the_page_was_away_is_told(app: App, tab: ModelsmithPage) -> None:
    set_up(app, tab, "meanwhile")
    tab.page.locator(START).first.click()
    wait_bar(tab)
    tab.page.goto("about:blank")
    other = ModelsmithPage(tab.page.context.new_page())
    other.open(app.url)
    other.view("convert")
    other.page.locator(f"{RESULT} .ms-done").first.wait_for()
    assert "meanwhile.safetensors" in other.text("modelsmith_convert_result") and other.errors == []
    (app.models / "meanwhile.safetensors").unlink()


def test_a_double_click_merges_once(app: App, tab: ModelsmithPage) -> None:
    tab.open(app.url)
    tab.view("merge")
    tab.models(DEMO_A, DEMO_B)
    tab.page.locator("#modelsmith_plan .ms-facts").first.wait_for()
    before = {path.name for path in app.models.iterdir()}
    tab.page.locator("#modelsmith_merge_start").first.dblclick()
    tab.wait_result("ms-done")
    tab.page.wait_for_timeout(1500)
    assert len({path.name for path in app.models.glob("*.safetensors")} - before) == 1
    tab.field("modelsmith_output_name").fill("queued-once")
    tab.wait_text("modelsmith_plan", "queued-once.safetensors")
    tab.page.locator("#modelsmith_merge_queue").first.dblclick()
    tab.page.locator("#modelsmith_result").get_by_text("is in the queue").first.wait_for()
    tab.page.wait_for_timeout(1500)
    assert tab.page.locator("#modelsmith_result .ms-error").count() == 0
    assert tab.page.locator("#modelsmith_merge_queue").first.is_enabled()
