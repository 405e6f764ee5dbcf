"""The History view in a real browser: queued, made, edited, compared, deleted, traced from a picture's infotext."""

from __future__ import annotations

import hashlib
import re

from browser.conftest import App
from browser.page_object import ModelsmithPage

DEMO_A, DEMO_B = "modelsmith-demo-a", "modelsmith-demo-b"
TABLE, DETAIL = "modelsmith_history_table", "modelsmith_history_detail"


def act(tab: ModelsmithPage, name: str) -> None:
    tab.part(DETAIL).locator(f"[data-act={name}]").click()


def rows(tab: ModelsmithPage) -> list[str]:
    return tab.part(TABLE).locator("tbody tr .ms-file").all_inner_texts()


def open_row(tab: ModelsmithPage, file: str) -> None:
    tab.part(TABLE).locator("tbody tr").filter(has_text=file).first.click()


def wait_rows(tab: ModelsmithPage, count: int) -> None:
    tab.page.wait_for_function(
        f"() => document.querySelectorAll('#{TABLE} tbody tr').length === {count}", timeout=60_000
    )


def test_from_a_merge_to_its_replay(app: App, tab: ModelsmithPage) -> None:
    tab.open(app.url)
    tab.view("history")
    tab.part(TABLE).get_by_text("No merge has been made yet.").wait_for()
    tab.view("merge")
    tab.models(DEMO_A, DEMO_B)
    for name, button in (("queued", "modelsmith_merge_queue"), ("kept", "modelsmith_merge_recipe")):
        tab.field("modelsmith_output_name").fill(name)
        tab.wait_text("modelsmith_plan", f"{name}.safetensors")
        tab.page.locator(f"#{button}").click()
        tab.page.locator("#modelsmith_result .ms-done").filter(has_text=name).first.wait_for()
    tab.view("history")
    wait_rows(tab, 2)
    tab.part("modelsmith_history_queue").get_by_text("done", exact=True).first.wait_for()
    made, kept = app.models / "queued.safetensors", app.models / "kept.recipe.safetensors"
    assert made.exists()
    assert kept.stat().st_size < 20_000

    open_row(tab, "queued")
    tab.part(DETAIL).locator("[data-act=again]").wait_for()
    tab.screenshot("standalone-history")
    # Its models' hashes were not known: that of the file is read in the background, and comes into the page by itself.
    whole = hashlib.sha256(made.read_bytes()).hexdigest()
    tab.page.wait_for_function(
        f"digest => document.querySelector('#{DETAIL} .ms-digest')?.textContent === digest", arg=whole
    )
    tab.part(TABLE).get_by_text(whole[:10]).wait_for()
    act(tab, "again")
    wait_rows(tab, 3)
    assert (app.models / "queued-2.safetensors").read_bytes() == made.read_bytes()

    digest = hashlib.sha256(kept.read_bytes()).hexdigest()[:10]
    tab.field("modelsmith_history_trace").fill(f"a cat\nSteps: 2, Model hash: {digest}, Model: kept.recipe")
    tab.page.locator("#modelsmith_history_look").click()
    wait_rows(tab, 1)
    assert rows(tab) == ["kept.recipe.safetensors"]
    tab.page.locator("#modelsmith_history_all").click()
    wait_rows(tab, 3)


def test_rows_that_are_chosen_while_an_answer_is_on_its_way(app: App, tab: ModelsmithPage) -> None:
    tab.open_slowed(app.url)
    tab.view("history")
    wait_rows(tab, 3)
    tab.hold_back(400)
    for name in ("kept", "queued.", "queued-2"):
        open_row(tab, name)
        tab.page.wait_for_timeout(100)
    tab.part(DETAIL).locator(".ms-entry").filter(has_text="queued-2").wait_for()
    tickets = re.findall(r'"data":\["(\S+) [^]]*show', "\n".join(tab.page.evaluate("() => window.asked")))
    assert len(set(tickets)) == 3, "each was asked for; on a slow machine one may be said twice under its ticket"


def test_edit_compare_and_delete(app: App, tab: ModelsmithPage) -> None:
    tab.open(app.url)
    tab.view("history")
    wait_rows(tab, 3)
    open_row(tab, "kept")
    act(tab, "edit")
    tab.page.locator("#modelsmith_view_merge").wait_for(state="visible")
    assert DEMO_A in tab.field("modelsmith_model_a").input_value()
    tab.view("history")
    open_row(tab, "kept")
    act(tab, "compare")
    open_row(tab, "queued-2")
    tab.part(DETAIL).get_by_text("The two recipes are the same.").wait_for()
    open_row(tab, "kept")
    act(tab, "delete")
    tab.part(DETAIL).get_by_text("Press again to delete").wait_for()
    wait_rows(tab, 3)
    act(tab, "delete")
    wait_rows(tab, 2)
    assert (app.models / "kept.recipe.safetensors").exists()
