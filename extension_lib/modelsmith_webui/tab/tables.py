"""Tables of the Convert and VAE views."""

from __future__ import annotations

from collections.abc import Sequence

from modelsmith_webui.tab.html import tag, text_tag
from modelsmith_webui.tab.texts import Texts

SHOWN = 30
_NUMBERS = ("Size now", "Size then", "Before", "After", "Largest value")


def row(*cells: str) -> str:
    """A row of cells that are HTML already."""
    return tag("tr", "".join(cells))


def cell(text: object, css: str = "") -> str:
    """A cell of plain text."""
    return text_tag("td", text, css)


def table(tr: Texts, heads: Sequence[str], rows: Sequence[str], css: str = "", shown: int = SHOWN) -> str:
    """A table with translated heads and the first rows; how many were left out is said below it."""
    titles = "".join(text_tag("th", tr(head), "ms-number" if head in _NUMBERS else "") for head in heads)
    body = tag("tbody", "".join(rows[:shown]))
    more = text_tag("p", tr("and {count} more", count=len(rows) - shown), "ms-dim") if len(rows) > shown else ""
    return tag("table", tag("thead", row(titles)) + body, f"ms-parts {css}".strip()) + more
