"""The marks beside a webui's selectors: in the line of the label, beside it, as a sign alone where room is short."""

from __future__ import annotations

from typing import Any

import pytest

from browser.conftest import App
from browser.page_object import ModelsmithPage

# A selector as the webuis have them: a label above a field.
BUILD = """width => {
    const holder = document.createElement("div");
    holder.id = "made-up-selector";
    holder.style.cssText = `position: relative; width: ${width}px; padding: 10px 0; font: 12px sans-serif`;
    holder.innerHTML = '<label><span>VAE / Text Encoder</span></label><input>';
    const mark = document.createElement("span");
    mark.className = "ms-host-badge";
    mark.title = "photo-sd1.safetensors is in use (fits).";
    holder.append(mark);
    document.body.append(holder);
    window.Modelsmith.besideLabel(holder, mark, "✓ photo-sd1.safetensors", "✓");
}"""
MEASURE = """() => {
    const holder = document.getElementById("made-up-selector"), mark = holder.querySelector(".ms-host-badge");
    const text = document.createRange();
    text.selectNodeContents(holder.querySelector("span"));
    const [one, two] = [mark.getBoundingClientRect(), text.getBoundingClientRect()];
    const middle = box => box.top + box.height / 2;
    return {text: mark.textContent, apart: one.left >= two.right, off: Math.abs(middle(one) - middle(two)),
            inside: one.right <= holder.getBoundingClientRect().right};
}"""


@pytest.mark.parametrize(("width", "text"), [(160, "✓"), (480, "✓ photo-sd1.safetensors")])
def test_a_mark_takes_the_form_that_has_room(app: App, tab: ModelsmithPage, width: int, text: str) -> None:
    tab.open(app.url)
    tab.page.evaluate(BUILD, width)
    found: dict[str, Any] = tab.page.evaluate(MEASURE)
    assert found["text"] == text
    assert found["apart"] and found["inside"] and found["off"] <= 1


def test_a_mark_follows_a_label_that_was_hidden(app: App, tab: ModelsmithPage) -> None:
    """A webui draws a selector anew while its page is scrolled; a label that is away then has no place to go by."""
    tab.open(app.url)
    tab.page.evaluate(BUILD, 480)
    change = "shown => { document.querySelector('#made-up-selector label').style.display = shown; }"
    again = "() => { const one = document.querySelector('#made-up-selector'); one.style.width = '160px'; }"
    tab.page.evaluate(change, "none")
    tab.page.evaluate(again)
    tab.page.wait_for_timeout(700)
    assert tab.page.evaluate(MEASURE)["text"] == "✓ photo-sd1.safetensors", "left as it was"
    tab.page.evaluate(change, "")
    tab.page.wait_for_function("() => document.querySelector('#made-up-selector .ms-host-badge').textContent === '✓'")
    assert tab.page.evaluate(MEASURE)["off"] <= 1
