"""A small chart of a VAE's largest values by layer, beside what fp16 can hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from modelsmith_webui.tab.html import esc, tag, text_tag
from modelsmith_webui.tab.tables import cell, row, table
from modelsmith_webui.tab.texts import Texts

LIMIT = 65504.0
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 760, 190, 52, 12, 18
_LISTED = 12
_SCALE = {0: "1", 2: "100", 4: "10,000", 6: "1 M"}


@dataclass(frozen=True)
class Bar:
    """One layer in the order of the network. after is None where nothing was changed."""

    layer: str
    before: float
    after: float | None = None


def chart_html(bars: Sequence[Bar], tr: Texts) -> str:
    """The chart, and below it a table of the layers with the largest values."""
    return _svg(bars, tr) + _legend(bars, tr) + _largest(bars, tr)


def _svg(bars: Sequence[Bar], tr: Texts) -> str:
    top = max(6.0, math.ceil(math.log10(max(bar.before for bar in bars))))
    inner = _HEIGHT - _TOP - _BOTTOM

    def height(value: float) -> float:
        """Of a value on a scale from 1 to the top's power of ten; what lies below 1 is drawn as 1."""
        return inner * math.log10(max(1.0, value)) / top

    shapes: list[str] = []
    for power in range(0, round(top) + 1, 2):
        y = _HEIGHT - _BOTTOM - height(10.0**power)
        shapes.append(_line(y, "ms-chart-grid") + _label(y, _SCALE.get(power, f"1e{power}")))
    step = (_WIDTH - _LEFT) / len(bars)
    for index, bar in enumerate(bars):
        x = _LEFT + index * step
        told = f"{bar.layer}: {bar.before:,.0f}" + (f" → {bar.after:,.0f}" if bar.after is not None else "")
        css = "ms-chart-over" if bar.before > LIMIT else "ms-chart-bar"
        drawn = _rect(x, height(bar.before), step, css if bar.after is None else f"{css} ms-chart-faint")
        if bar.after is not None:
            drawn += _rect(x, height(bar.after), step, "ms-chart-after")
        shapes.append(f"<g>{text_tag('title', told)}{drawn}</g>")
    limit = _HEIGHT - _BOTTOM - height(LIMIT)
    shapes.append(_line(limit, "ms-chart-limit"))
    shapes.append(_label(limit, "65,504"))
    label = esc(tr("Largest value of each layer, from the first to the last"))
    head = f'<svg class="ms-layer-chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
    return head + "".join(shapes) + "</svg>"


def _rect(x: float, height: float, step: float, css: str) -> str:
    width, y = max(1.0, step * 0.76), _HEIGHT - _BOTTOM - height
    return f'<rect x="{x + step * 0.12:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{css}"/>'


def _line(y: float, css: str) -> str:
    return f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" class="{css}"/>'


def _label(y: float, text: str) -> str:
    return f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" class="ms-chart-word">{text}</text>'


def _legend(bars: Sequence[Bar], tr: Texts) -> str:
    cured = any(bar.after is not None for bar in bars)
    marks = [("ms-chart-over", tr("beyond fp16")), ("ms-chart-bar", tr("within fp16"))]
    marks += [("ms-chart-after", tr("after the cure"))] if cured else []
    words = "".join(tag("span", tag("i", "", css) + esc(word), "ms-chart-mark") for css, word in marks)
    return tag("div", words, "ms-chart-legend")


def _largest(bars: Sequence[Bar], tr: Texts) -> str:
    cured = any(bar.after is not None for bar in bars)
    rows: list[str] = []
    for bar in sorted(bars, key=lambda bar: -bar.before)[:_LISTED]:
        css = "ms-number ms-incomplete" if bar.before > LIMIT else "ms-number"
        cells = [tag("td", text_tag("code", bar.layer)), cell(f"{bar.before:,.1f}", css)]
        cells += [cell(f"{bar.after:,.1f}", "ms-number")] if bar.after is not None else []
        rows.append(row(*cells))
    heads = ("Layer", "Before", "After") if cured else ("Layer", "Largest value")
    inner = table(tr, heads, rows, "ms-layers")
    return tag("details", text_tag("summary", tr("The layers with the largest values")) + inner)
