"""What the block-weight editor in the page (javascript/modelsmith.js) is given: the blocks of A and the presets."""

from __future__ import annotations

import json
import re
from typing import Any

from modelsmith.merge.blocks import BlockLayout, preset_weights
from modelsmith.merge.presets import PRESETS
from modelsmith_webui.tab.html import tag, text_tag
from modelsmith_webui.tab.texts import Texts

_NUMBERED = re.compile(r"^(.*?)( \d+)$")


def block_title(label: str, tr: Texts) -> str:
    """A block's label in the user's language: "Input 4" is the word "Input" and its number."""
    found = _NUMBERED.match(label)
    return tr(found.group(1)) + found.group(2) if found else tr(label)


def _blocks(layout: BlockLayout, tr: Texts) -> list[dict[str, str]]:
    found = [layout.block(name) for name in layout.positional]
    return [{"id": block.id, "title": block_title(block.label, tr), "group": block.group} for block in found]


def _presets(layout: BlockLayout) -> dict[str, list[float]]:
    """Every preset as values in the layout's order, to four places: that is what the text field shows."""
    rows: dict[str, list[float]] = {}
    for name in PRESETS:
        weights = layout.resolve(preset_weights(name, layout), 0.0)
        rows[name] = [round(weights[block], 4) for block in layout.positional]
    return rows


def editor_data(layout: BlockLayout, tr: Texts) -> dict[str, Any]:
    """The layout as the script reads it; a layout with one block has nothing to edit."""
    if len(layout.positional) < 2:
        return {"layout": layout.id, "label": layout.label, "blocks": [], "presets": {}}
    return {
        "layout": layout.id,
        "label": layout.label,
        "blocks": _blocks(layout, tr),
        "presets": _presets(layout),
    }


def editor_html(layout: BlockLayout, tr: Texts, *, text_id: str, slider_id: str) -> str:
    """The place where the script draws the bars, tied to the text field and the slider of the same parameter."""
    data = editor_data(layout, tr)
    if not data["blocks"]:
        return text_tag("div", tr("Choose model A to see its blocks."), "ms-blocks-empty")
    encoded = json.dumps(data, separators=(",", ":"))
    return tag("div", "", "ms-blocks", data_editor=encoded, data_text=text_id, data_slider=slider_id)
