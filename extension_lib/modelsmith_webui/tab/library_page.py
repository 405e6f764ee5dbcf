"""The library's table. Sorting and filtering happen in the page (javascript/modelsmith.js)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from modelsmith.identify.report import LABELS
from modelsmith_webui.library import LibraryRow
from modelsmith_webui.tab.files import label_of
from modelsmith_webui.tab.html import badge, esc, size_text, tag, text_tag
from modelsmith_webui.tab.report_page import empty_html, variant_text
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


def library_html(rows: Sequence[LibraryRow], tr: Texts, *, busy: bool) -> str:
    """The whole table with its filter; a note where there is nothing to show. ``busy``: more is being read."""
    if not rows:
        return empty_html(tr("No model files were found. What lies in the models folders is listed here."))
    waiting = sum(row.report is None for row in rows) if busy else 0
    state = tag("span", text_tag("span", tr("being read:")) + " " + text_tag("b", waiting), "ms-waiting")
    kinds = sorted({str(row.report["kind"]) for row in rows if row.report is not None})
    options = text_tag("option", tr("All kinds"), value="")
    options += "".join(text_tag("option", tr(KINDS[kind]), value=kind) for kind in kinds)
    search = '<input class="ms-filter" type="search" aria-label="{0}" placeholder="{0}">'.format(esc(tr("Filter")))
    count = tag("span", text_tag("b", len(rows), "ms-shown") + f" / {len(rows)}", "ms-count")
    bar = search + tag("select", options, "ms-select ms-kind-filter", aria_label=tr("Kind")) + count
    # Without a webui nobody computes hashes: an empty column would only take room.
    columns = [name for name in COLUMNS if name != "Hash" or any(row.sha256 for row in rows)]
    head = "".join(
        text_tag("th", tr(name), "ms-number" if name == "Size" else "", scope="col", tabindex="0", aria_sort="none")
        for name in columns
    )
    body = "".join(_row(row, tr, columns) for row in rows)
    table = tag("table", tag("thead", tag("tr", head)) + tag("tbody", body), "ms-table")
    inner = tag("div", bar + (state if waiting else ""), "ms-library-bar") + tag("div", table, "ms-table-frame")
    return tag("div", inner, "ms-library", data_waiting=waiting)


def _row(row: LibraryRow, tr: Texts, columns: Sequence[str]) -> str:
    report, label = row.report, label_of(row.file)
    cells = [tag("td", _name(row.file.name), "ms-name", title=str(row.file.path), data_sort=row.file.name)]
    if report is None:
        cells += [text_tag("td", "…")] + [text_tag("td", "") for _ in columns[2:]]
        return tag("tr", "".join(cells), data_name=label, data_kind="", tabindex="0")
    cells += [
        text_tag("td", tr("Cannot be read") if report["error"] else tr(KINDS[report["kind"]])),
        text_tag("td", _architecture(report)),
        text_tag("td", variant_text(report["variant"] or "")),
        text_tag("td", tr(PREDICTIONS[report["prediction"]["type"]]) if _is_model(report) else ""),
        text_tag("td", _ztsnr(report, tr)),
        text_tag("td", report["quantization"] or report["precision"] or ""),
        _size(row, report),
        *([text_tag("td", (row.sha256 or "")[:10], "ms-hash", title=row.sha256 or "")] if "Hash" in columns else []),
        _warnings(report, tr),
    ]
    return tag("tr", "".join(cells), data_name=label, data_kind=report["kind"], tabindex="0")


def _size(row: LibraryRow, report: Mapping[str, Any]) -> str:
    """The file's size, also of one that cannot be read."""
    size = report["size"]
    with contextlib.suppress(OSError):
        size = size or row.file.path.stat().st_size
    return text_tag("td", size_text(size), "ms-number", data_sort=size)


def _name(name: str) -> str:
    """The file's name, the folder that it lies in less loud before it; a line may end after each folder."""
    folder, slash, file = name.rpartition("/")
    place = "".join(esc(part) + "/<wbr>" for part in folder.split("/")) if slash else ""
    return (tag("span", place, "ms-folder") if place else "") + text_tag("span", file)


def _architecture(report: Mapping[str, Any]) -> str:
    names: list[str] = [report["architecture"]] if report["architecture"] else list(report["candidates"])
    return " / ".join(LABELS.get(name, name) for name in names)


def _is_model(report: Mapping[str, Any]) -> bool:
    return report["error"] is None and report["kind"] in ("checkpoint", "diffusion_model")


def _ztsnr(report: Mapping[str, Any], tr: Texts) -> str:
    found: bool | None = report["prediction"]["zero_terminal_snr"]
    return {True: tr("yes"), False: "", None: "?"}[found] if _is_model(report) else ""


def _warnings(report: Mapping[str, Any], tr: Texts) -> str:
    texts: list[str] = [report["error"]] if report["error"] else list(report["warnings"])
    if report["prediction"]["conflict"]:
        texts.insert(0, tr("contradicts itself"))
    if not texts:
        return text_tag("td", "", data_sort=0)
    mark = badge(str(len(texts)), "ms-bad" if report["error"] else "ms-warn", "\n".join(texts))
    return tag("td", mark, data_sort=len(texts))
