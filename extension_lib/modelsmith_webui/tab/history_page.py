"""The history's table, one entry in full, the difference of two, and the queue, as HTML."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from modelsmith.errors import UnknownNameError
from modelsmith.merge.methods import get_method
from modelsmith_webui.background import Job
from modelsmith_webui.history import Entry
from modelsmith_webui.tab.html import facts, notice, size_text, tag, text_tag
from modelsmith_webui.tab.report_page import empty_html
from modelsmith_webui.tab.texts import Texts

KINDS = {"merge": "merged file", "recipe": "recipe checkpoint"}
STATES = {"queued": "waits", "running": "runs", "done": "done", "failed": "failed", "cancelled": "cancelled"}
COLUMNS = ("When", "File", "Made with", "Models", "Hash")


def weights_text(weights: object) -> str:
    """Block weights of a recipe as the text that the editor reads."""
    if not isinstance(weights, Mapping):
        return str(weights or "")
    known = cast("Mapping[str, Any]", weights)
    return ",".join(f"{name}={float(value):g}" for name, value in known.items())


def method_label(entry: Entry, tr: Texts) -> str:
    """The method's name for eyes, the id where this version does not know it."""
    try:
        return tr(get_method(str(entry.recipe.get("method"))).label)
    except UnknownNameError:
        return str(entry.recipe.get("method"))


def when_text(when: str) -> str:
    """A moment in the machine's own time zone, to the minute."""
    try:
        return datetime.fromisoformat(when).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return when


def action(name: str, label: str, identifier: str, **more: object) -> str:
    """A button that tells the server what to do with an entry or a job (javascript/modelsmith_history.js)."""
    return text_tag("button", label, "ms-act", type="button", data_act=name, data_id=identifier, **more)


def history_html(entries: Sequence[Entry], tr: Texts, chosen: Iterable[str] = ()) -> str:
    """The table, the latest first; a note where there is nothing."""
    if not entries:
        return empty_html(tr("No merge has been made yet."))
    marked = set(chosen)
    head = tag("tr", "".join(text_tag("th", tr(name), scope="col") for name in COLUMNS))
    rows = [_row(entry, tr, entry.id in marked) for entry in entries]
    table = tag("table", tag("thead", head) + tag("tbody", "".join(rows)), "ms-table")
    return tag("div", tag("div", table, "ms-table-frame"), "ms-history")


def _row(entry: Entry, tr: Texts, chosen: bool) -> str:
    cells = [
        text_tag("td", when_text(entry.when)),
        text_tag("td", entry.file, "ms-name"),
        text_tag("td", method_label(entry, tr)),
        text_tag("td", ", ".join(entry.models), "ms-name"),
        text_tag("td", (entry.sha256 or "")[:10], "ms-hash", title=entry.sha256 or ""),
    ]
    state = "true" if chosen else "false"
    return tag("tr", "".join(cells), "ms-chosen" if chosen else "", tabindex="0", data_id=entry.id, aria_selected=state)


def entry_html(entry: Entry, tr: Texts) -> str:
    """One entry in full with what can be done with it."""
    recipe = entry.recipe
    blocks: Mapping[str, Any] = recipe.get("blocks") or {}
    prediction: Mapping[str, Any] = recipe.get("prediction") or {}
    numbers = ", ".join(f"{name} {value:g}" for name, value in (recipe.get("parameters") or {}).items())
    rows = [
        (tr("File"), entry.file),
        (tr("Kind"), tr(KINDS.get(entry.kind, entry.kind))),
        (tr("When"), when_text(entry.when)),
        (tr("Time"), "" if entry.seconds is None else f"{entry.seconds:g} s"),
        (tr("Size"), "" if entry.size is None else size_text(entry.size)),
        ("SHA-256", entry.sha256 or ""),
        (tr("Models"), ", ".join(entry.models)),
        (tr("Method"), ", ".join(part for part in (method_label(entry, tr), numbers) if part)),
        *((tr("Block weights") + f" {name}", weights_text(weights)) for name, weights in blocks.items()),
        (tr("LoRAs"), ", ".join(f"{one.get('file')} {one.get('strength')}" for one in recipe.get("loras") or [])),
        (tr("Prediction"), str(prediction.get("type") or "")),
    ]
    acts = [
        action("edit", tr("Edit in Merge"), entry.id),
        *_remaking(entry, tr),
        action("compare", tr("Compare with the next one chosen"), entry.id),
        action("delete", tr("Delete from the history"), entry.id),
    ]
    text = json.dumps(recipe, indent=1, ensure_ascii=False)
    whole = tag("details", text_tag("summary", tr("The whole recipe")) + text_tag("pre", text), "ms-recipe")
    return tag("div", facts(rows) + tag("div", "".join(acts), "ms-acts") + whole, "ms-entry")


def _remaking(entry: Entry, tr: Texts) -> list[str]:
    if entry.kind == "recipe":
        return [action("file", tr("Save as file"), entry.id)]
    return [action("again", tr("Make again"), entry.id), action("recipe", tr("Save as recipe"), entry.id)]


def compare_html(first: Entry, second: Entry, found: Sequence[tuple[str, Any, Any]], tr: Texts) -> str:
    """What two recipes differ in."""
    if not found:
        return notice("info", tr("The two recipes are the same."))
    head = tag("tr", "".join(text_tag("th", text) for text in ("", first.file, second.file)))
    rows = [tag("tr", "".join(text_tag("td", "—" if value is None else value) for value in row)) for row in found[:300]]
    table = tag("table", tag("thead", head) + tag("tbody", "".join(rows)), "ms-table")
    return tag("div", tag("div", table, "ms-table-frame"), "ms-compare")


def queue_html(jobs: Sequence[Job], tr: Texts) -> str:
    """The jobs that wait or run, and the last that ended. ``data-busy`` tells the page to ask again."""
    active = [job for job in jobs if not job.over]
    shown = [*[job for job in jobs if job.over][-5:], *active]
    if not shown:
        return tag("div", notice("info", tr("The queue is empty.")), "ms-queue", data_busy=0)
    waiting = [job.id for job in active if job.state == "queued"]
    rows = "".join(_job(job, tr, waiting) for job in shown)
    table = tag("table", tag("tbody", rows), "ms-table")
    return tag("div", tag("div", table, "ms-table-frame"), "ms-queue", data_busy=len(active))


def _job(job: Job, tr: Texts, waiting: Sequence[str]) -> str:
    bar = f'<progress max="1" value="{job.progress:.4f}"></progress>' if job.state == "running" else ""
    state = text_tag("span", tr(STATES[job.state])) + bar
    acts: list[str] = []
    if job.id in waiting:
        place = waiting.index(job.id)
        if place > 0:
            acts.append(action("up", "▲", job.id, title=tr("Earlier"), aria_label=tr("Earlier")))
        if place < len(waiting) - 1:
            acts.append(action("down", "▼", job.id, title=tr("Later"), aria_label=tr("Later")))
    if not job.over:
        acts.append(action("cancel", tr("Cancel"), job.id))
    told = job.text if job.state == "running" else " ".join(part for part in (job.error, job.remedy) if part)
    if job.state == "cancelled":
        told = ""
    cells = [
        text_tag("td", job.title or job.kind, "ms-name"),
        tag("td", state),
        text_tag("td", told, "ms-name"),
        tag("td", tag("span", "".join(acts), "ms-acts")),
    ]
    return tag("tr", "".join(cells))
