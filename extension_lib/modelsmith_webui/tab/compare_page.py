"""Two files side by side: where their reports differ, and which tensors only one has or both have in another shape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from modelsmith.errors import BadFileError
from modelsmith.files.header import FileHeader, read_header
from modelsmith.identify import Report, identify
from modelsmith_webui.tab.html import notice, size_text, tag, text_tag
from modelsmith_webui.tab.plan_page import failure_html
from modelsmith_webui.tab.report_page import architecture_text, badge_row, layout_text, part_text, variant_text
from modelsmith_webui.tab.tables import row
from modelsmith_webui.tab.texts import Texts
from modelsmith_webui.tab.words import EMA, KINDS, PREDICTIONS, YES_NO

SHOWN = 12


def compare_html(first: Path, second: Path, tr: Texts) -> str:
    """The comparison of two model files, from their headers alone."""
    try:
        headers = read_header(first), read_header(second)
    except BadFileError as error:
        return failure_html(error, tr)
    reports = identify(first), identify(second)
    heads = "".join(
        tag("th", text_tag("div", PurePath(report.file).name, "ms-name") + badge_row(report, tr), scope="col")
        for report in reports
    )
    # What neither of the two has is left out.
    rows = [_line(name, pair) for name, pair in _facts(reports, tr) if any(pair)]
    body = tag("table", tag("thead", row(tag("th") + heads)) + tag("tbody", "".join(rows)), "ms-parts ms-side-by-side")
    return tag("div", body + _tensors(headers, tr), "ms-compared")


def _line(name: str, pair: tuple[str, str]) -> str:
    css = "" if pair[0] == pair[1] else "ms-differs"
    return tag("tr", text_tag("th", name, scope="row") + "".join(text_tag("td", one or "–") for one in pair), css)


def _facts(reports: tuple[Report, Report], tr: Texts) -> list[tuple[str, tuple[str, str]]]:
    """What the two reports say to the same question, the parts of both after it."""

    def both(values: Iterable[str]) -> tuple[str, str]:
        one, other = values
        return one, other

    found = [
        (tr("Kind"), both(tr(KINDS[report.kind]) for report in reports)),
        (tr("Architecture"), both(architecture_text(report, tr) for report in reports)),
        (tr("Variant"), both(variant_text(report.variant or "") for report in reports)),
        (tr("Prediction"), both(tr(PREDICTIONS[report.prediction.type]) for report in reports)),
        (tr("Zero terminal SNR"), both(tr(YES_NO[report.prediction.zero_terminal_snr]) for report in reports)),
        (tr("Precision"), both(report.precision or "" for report in reports)),
        (tr("Quantization"), both(report.quantization or "" for report in reports)),
        (tr("Key names"), both(layout_text(report.layout, tr) for report in reports)),
        (tr("EMA"), both(tr(EMA[report.ema]) if report.ema != "none" else "" for report in reports)),
        (tr("Size"), both(size_text(report.size) for report in reports)),
        (tr("Tensors"), both(f"{report.tensors:,}" for report in reports)),
    ]
    parts = [{part_text(part, tr): part for part in report.components} for report in reports]
    for name in dict.fromkeys([*parts[0], *parts[1]]):
        pair = both(
            f"{part.precision} · {size_text(part.bytes)}" if (part := of.get(name)) is not None else "" for of in parts
        )
        found.append((name, pair))
    return found


def _tensors(headers: tuple[FileHeader, FileHeader], tr: Texts) -> str:
    first, second = headers[0].tensors, headers[1].tensors
    only = [sorted(first.keys() - second.keys()), sorted(second.keys() - first.keys())]
    common = first.keys() & second.keys()
    shapes = sorted(name for name in common if first[name].shape != second[name].shape)
    dtypes = sum(first[name].dtype != second[name].dtype for name in common)
    if not any((*only, shapes)):
        said = tr("Both have the same tensors in the same shapes.")
        more = " " + tr("{count} of them are of another precision.", count=dtypes) if dtypes else ""
        return notice("done", said + more)
    inner = "".join(
        _names(tr("Only in {name}: {count} tensors", name=header.path.name, count=len(names)), names)
        for header, names in zip(headers, only, strict=True)
    )
    told = [f"{name}  {list(first[name].shape)} ↔ {list(second[name].shape)}" for name in shapes]
    return inner + _names(tr("Of another shape: {count} tensors", count=len(shapes)), told)


def _names(title: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    shown = "".join(text_tag("li", name) for name in names[:SHOWN])
    rest = text_tag("li", f"… +{len(names) - SHOWN:,}", "ms-dim") if len(names) > SHOWN else ""
    return tag("details", text_tag("summary", title) + tag("ul", shown + rest), "ms-names")
