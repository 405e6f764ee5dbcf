"""The library's table. Sorting and filtering happen in the page (javascript/modelsmith.js)."""

from __future__ import annotations

from collections.abc import Sequence

from modelsmith.identify.report import LABELS, Report
from modelsmith_webui.tab.html import badge, esc, size_text, tag, text_tag
from modelsmith_webui.tab.library_rows import LibraryRow
from modelsmith_webui.tab.report_page import empty_html
from modelsmith_webui.tab.texts import Texts
from modelsmith_webui.tab.words import KINDS, PREDICTIONS

COLUMNS = (
    "Name",
    "Kind",
    "Architecture",
    "Variant",
    "Prediction",
    "ZTSNR",
    "Precision",
    "Size",
    "Hash",
    "Warnings",
)


def library_html(rows: Sequence[LibraryRow], tr: Texts) -> str:
    """The whole table with its filter; a note where there is nothing to show."""
    if not rows:
        return empty_html(tr("No model files were found."))
    waiting = sum(row.report is None for row in rows)
    state = tag("span", tr("being read:") + " " + text_tag("b", waiting), "ms-waiting") if waiting else ""
    kinds = sorted({row.report.kind for row in rows if row.report is not None})
    options = text_tag("option", tr("All kinds"), value="")
    options += "".join(text_tag("option", tr(KINDS[kind]), value=kind) for kind in kinds)
    search = '<input class="ms-filter" type="search" aria-label="{0}" placeholder="{0}">'.format(esc(tr("Filter")))
    count = tag("span", text_tag("b", len(rows), "ms-shown") + f" / {len(rows)}", "ms-count")
    bar = search + tag("select", options, "ms-select ms-kind-filter", aria_label=tr("Kind")) + count + state
    head = "".join(
        text_tag("th", tr(name), "ms-number" if name == "Size" else "", scope="col", tabindex="0", aria_sort="none")
        for name in COLUMNS
    )
    body = "".join(_row(row, tr) for row in rows)
    table = tag("table", tag("thead", tag("tr", head)) + tag("tbody", body), "ms-table")
    data: dict[str, object] = {"data_waiting": waiting}
    return tag("div", tag("div", bar, "ms-library-bar") + tag("div", table, "ms-table-frame"), "ms-library", **data)


def _row(row: LibraryRow, tr: Texts) -> str:
    report = row.report
    cells = [text_tag("td", row.file.name, "ms-name", title=str(row.file.path))]
    if report is None:
        cells += [text_tag("td", "…")] + [text_tag("td", "") for _ in COLUMNS[2:]]
        return tag("tr", "".join(cells), data_name=row.label, data_kind="", tabindex="0")
    cells += [
        text_tag("td", tr(KINDS[report.kind])),
        text_tag("td", _architecture(report)),
        text_tag("td", report.variant or ""),
        text_tag("td", _prediction(report, tr)),
        text_tag("td", _ztsnr(report, tr)),
        text_tag("td", report.quantization or report.precision or ""),
        text_tag("td", size_text(report.size), "ms-number", data_sort=report.size),
        text_tag("td", (row.sha256 or "")[:10], "ms-hash", title=row.sha256 or ""),
        _warnings(report, tr),
    ]
    return tag("tr", "".join(cells), data_name=row.label, data_kind=report.kind, tabindex="0")


def _architecture(report: Report) -> str:
    names = (report.architecture,) if report.architecture else report.candidates
    return " / ".join(LABELS.get(name, name) for name in names)


def _is_model(report: Report) -> bool:
    return report.error is None and report.kind in ("checkpoint", "diffusion_model")


def _prediction(report: Report, tr: Texts) -> str:
    return tr(PREDICTIONS[report.prediction.type]) if _is_model(report) else ""


def _ztsnr(report: Report, tr: Texts) -> str:
    found = report.prediction.zero_terminal_snr
    return {True: tr("yes"), False: "", None: "?"}[found] if _is_model(report) else ""


def _warnings(report: Report, tr: Texts) -> str:
    texts = [report.error] if report.error else [warning.text(tr.message_language) for warning in report.warnings]
    if report.prediction.conflict:
        texts.insert(0, tr("contradicts itself"))
    if not texts:
        return text_tag("td", "", data_sort=0)
    return tag(
        "td", badge(str(len(texts)), "ms-bad" if report.error else "ms-warn", "\n".join(texts)), data_sort=len(texts)
    )
