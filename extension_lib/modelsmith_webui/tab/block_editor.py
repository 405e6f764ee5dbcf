"""What the page's block-weight editor (javascript/modelsmith_blocks.js) is given: the blocks of A and the presets."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from modelsmith.merge.blocks import PLACEMENTS, Block, BlockLayout, preset_weights, presets_for
from modelsmith.merge.presets import PRESETS
from modelsmith_webui.tab.html import tag, text_tag
from modelsmith_webui.tab.texts import Texts

if TYPE_CHECKING:
    from modelsmith.files.header import FileHeader

_NUMBERED = re.compile(r"^(.*?)( \d+)$")

# What a block is made of, told by its tensors' names; the first that fits counts.
CONTENTS: tuple[tuple[str, str], ...] = (
    (r"\.attn1\.", "self-attention"),
    (r"\.attn2\.", "cross-attention"),
    (r"\.in_layers\.", "residual block"),
    (r"\.0\.op\.", "downsampling"),
    (r"output_blocks\.\d+\.\d\.conv\.", "upsampling"),
    (r"\.ff\.|mlp|feed_forward|\.fc\d\.", "feed-forward"),
    (r"_mod\.|modulation|adaLN", "modulation"),
    (r"attn|attention|\.qkv\.|\.linear1\.", "attention"),
    (r"embed|(?:img|txt|time|vector|guidance)_in\.", "embedding"),
    (r"conv", "convolution"),
)


@cache
def _contents() -> tuple[tuple[re.Pattern[str], str], ...]:
    """CONTENTS, compiled when the first file's blocks are looked at: no start of a webui needs them."""
    return tuple((re.compile(pattern), word) for pattern, word in CONTENTS)


SETS: Mapping[str, str] = {
    "base": "BASE", "in": "IN", "middle": "MID", "out": "OUT", "text": "Text", "vae": "VAE", "other": "Other",
}  # fmt: skip
# Bars become narrow beyond this number: then only every fifth carries its number.
MANY = 34


@dataclass(frozen=True)
class Layer:
    """One row of weights: its label, and the ids of the text field and the slider that it belongs to."""

    id: str
    label: str

    def to_json(self) -> dict[str, str]:
        return {
            "id": self.id,
            "label": self.label,
            "text": f"modelsmith_blocks_{self.id}",
            "slider": f"modelsmith_parameter_{self.id}",
        }


def block_title(label: str, tr: Texts) -> str:
    """A block's label in the user's language: "Input 4" is the word "Input" and its number."""
    found = _NUMBERED.match(label)
    return tr(found.group(1)) + found.group(2) if found else tr(label)


def count_text(count: int) -> str:
    """A count of values as people say it: 12.9 M."""
    for limit, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return str(count)


def block_contents(layout: BlockLayout, header: FileHeader | None, tr: Texts) -> dict[str, str]:
    """For each block of a model what it holds: kinds of layers, number of tensors and of values."""
    if header is None:
        return {}
    tensors, values = Counter[str](), Counter[str]()
    words: dict[str, dict[str, None]] = {}
    for key, info in header.tensors.items():
        name = layout.block_of(key)
        size = 1
        for length in info.shape:
            size *= length
        tensors[name] += 1
        values[name] += size
        word = next((word for pattern, word in _contents() if pattern.search(key)), None)
        if word:
            words.setdefault(name, {})[word] = None
    return {
        name: ", ".join(
            [
                *(tr(word) for word in words.get(name, {})),
                tr("{count} tensors", count=tensors[name]),
                tr("{count} values", count=count_text(values[name])),
            ]
        )
        for name in tensors
    }


def _set_of(block: Block, tr: Texts) -> tuple[str, str]:
    """The group that has a handle of its own: its id and its title."""
    if block.group == "blocks":
        found = _NUMBERED.match(block.label)
        return block.id.rstrip("0123456789"), tr(found.group(1) if found else block.label)
    return block.group, tr(SETS[block.group])


def _short(block: Block, index: int, count: int) -> str:
    number = re.search(r"\d+$", block.id)
    if block.group not in ("in", "out", "blocks") or not number:
        return {"M00": "M"}.get(block.id, block.id)
    return number.group() if count <= MANY or int(number.group()) % 5 == 0 else ""


def _rows(blocks: Sequence[Block], tr: Texts, holds: Mapping[str, str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for index, block in enumerate(blocks):
        name, title = _set_of(block, tr)
        row = {"id": block.id, "title": block_title(block.label, tr), "group": block.group, "set": name}
        row |= {"setTitle": title, "short": _short(block, index, len(blocks)), "holds": holds.get(block.id, "")}
        rows.append(row | ({"follows": block.follows} if block.follows else {}))
    return rows


def _presets(layout: BlockLayout) -> dict[str, list[float] | dict[str, float]]:
    """The known presets, to four places as the text field shows them: whole rows, or, where a preset names only some
    blocks, those by name."""
    rows: dict[str, list[float] | dict[str, float]] = {}
    for name, given in presets_for(layout).items():
        weights = {block: round(value, 4) for block, value in given.items()}
        rows[name] = list(weights.values()) if name in PRESETS else weights
    return rows


def placements(layout: BlockLayout) -> dict[str, dict[str, str]]:
    """By program, the block whose weight the time embedding has there; programs that do not know the layout are left
    out, and all of them where the layout has no block of its own for it."""
    if "TIME" not in layout.ids:
        return {}
    family = layout.id.split("-")[0].upper()
    known = {name: moves for name, moves in PLACEMENTS.items() if "(" not in name or family in _families(name)}
    return {name: dict(moves) for name, moves in known.items() if {*moves.values()} <= {"A", *layout.ids}}


def _families(program: str) -> list[str]:
    """``SD1`` and ``SD2`` of "Chattiori (SD1, SD2)"."""
    return program.partition("(")[2].rstrip(")").split(", ")


def _number(value: float, places: int) -> str:
    text = repr(round(value, places))
    return text.removesuffix(".0")


def weights_text(layout: BlockLayout, weights: Mapping[str, float], default: float, places: int = 4) -> str:
    """Weights as the text that the editor writes: a full row, then single blocks by name."""
    row = layout.resolve(weights, default)
    rest = [f"{name}={_number(value, places)}" for name, value in weights.items() if name not in layout.positional]
    return ",".join([*(_number(row[name], places) for name in layout.positional), *rest])


def main_blocks(layout: BlockLayout) -> list[Block]:
    """The bars that stand in one row: BASE, IN to OUT (and SDXL's VAE), or the numbered blocks of a transformer."""
    numbered = [block for block in layout.blocks if block.group == "blocks"]
    return numbered or [layout.block(name) for name in layout.positional]


def side_blocks(layout: BlockLayout) -> list[Block]:
    """The other bars: text encoders, VAE, embedders, last layers. A transformer's BASE holds nothing of its own."""
    main = {block.id for block in main_blocks(layout)}
    unused = {"BASE"} - set(layout.positional)
    order = ("in", "out", "text", "vae", "other", "base")
    found = [block for block in layout.blocks if block.id not in main | unused]
    return sorted(found, key=lambda block: order.index(block.group))


def editor_data(
    layout: BlockLayout, tr: Texts, layers: Sequence[Layer], own: Mapping[str, str], header: FileHeader | None = None
) -> dict[str, Any]:
    """The layout as the script reads it; empty for a layout with one block, which has nothing to edit."""
    if len(layout.positional) < 2:
        return {}
    holds = block_contents(layout, header, tr)
    return {
        "layout": layout.id,
        "label": layout.label,
        "main": _rows(main_blocks(layout), tr, holds),
        "side": _rows(side_blocks(layout), tr, holds),
        "order": list(layout.positional),
        "row": list(preset_weights("ALL_A", layout)),
        "fold": layout.id == "sdxl",
        "presets": _presets(layout),
        "places": placements(layout),
        "own": dict(own),
        "layers": [{**layer.to_json(), "label": tr(layer.label)} for layer in layers],
    }


def editor_html(
    layout: BlockLayout, tr: Texts, layers: Sequence[Layer], own: Mapping[str, str], header: FileHeader | None = None
) -> str:
    """The place where the script draws the bars, tied to the text fields and sliders of the layers."""
    data = editor_data(layout, tr, layers, own, header) if layers else {}
    if not data:
        told = (
            tr("Choose model A to see its blocks.") if layers else tr("This method has no weights for single blocks.")
        )
        return text_tag("div", told, "ms-blocks-empty")
    return tag("div", "", "ms-blocks", data_editor=json.dumps(data, separators=(",", ":"), ensure_ascii=False))
