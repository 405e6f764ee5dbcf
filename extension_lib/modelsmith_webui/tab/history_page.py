"""The history's table, one entry in full, the difference of two, and the queue, as HTML."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from modelsmith.errors import UnknownNameError
from modelsmith.merge.methods import get_method
from modelsmith_webui.background import Job
from modelsmith_webui.history import Entry
from modelsmith_webui.tab.files import short_name
from modelsmith_webui.tab.html import esc, facts_html, notice, sentence, size_text, tag, text_tag
from modelsmith_webui.tab.plan_page import seconds_text
from modelsmith_webui.tab.report_page import empty_html
from modelsmith_webui.tab.texts import Texts
from modelsmith_webui.tab.words import PREDICTIONS

if TYPE_CHECKING:
    from modelsmith.merge.methods import MethodSpec

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
KINDS = {"merge": "merged file", "recipe": "recipe checkpoint"}
STATES = {"queued": "waits", "running": "runs", "done": "done", "failed": "failed", "cancelled": "cancelled"}
COLUMNS = ("When", "File", "Hash")


def weights_text(weights: object) -> str:
    """Block weights of a recipe as the text that the editor reads."""
    if not isinstance(weights, Mapping):
        return str(weights or "")
    known = cast("Mapping[str, Any]", weights)
    return ", ".join(f"{name}={float(value):g}" for name, value in known.items())


def weights_html(weights: object) -> str:
    """Block weights as a row of small bars, and as text."""
    if not isinstance(weights, Mapping):
        return esc(weights or "")
    values = {name: float(value) for name, value in cast("Mapping[str, Any]", weights).items()}
    bars = "".join(
        tag("i", title=f"{name} {value:g}", style=f"height:{100 * min(1.0, max(0.0, value)):.0f}%")
        for name, value in values.items()
    )
    return tag("span", bars, "ms-spark", aria_hidden="true") + text_tag("span", weights_text(weights), "ms-weights")


def _spec(entry: Entry) -> MethodSpec | None:
    """The method; None where this version does not know it."""
    try:
        return get_method(str(entry.recipe.get("method")))
    except UnknownNameError:
        return None


def method_label(entry: Entry, tr: Texts) -> str:
    """The method's name for eyes, the id where this version does not know it."""
    spec = _spec(entry)
    return tr(spec.label) if spec is not None else str(entry.recipe.get("method"))


def parameter_label(entry: Entry, name: str, tr: Texts) -> str:
    """A parameter's name for eyes, the id where this version does not know it."""
    spec = _spec(entry)
    known = {parameter.id: parameter.label for parameter in spec.parameters} if spec is not None else {}
    return tr(known[name]) if name in known else name


def when_text(when: str) -> str:
    """A moment in the machine's own time zone, to the minute."""
    try:
        return datetime.fromisoformat(when).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return when


def action(name: str, label: str, identifier: str, **more: object) -> str:
    """A button that tells the server what to do with an entry or a job (javascript/modelsmith_history.js)."""
    return text_tag("button", label, "ms-act", type="button", data_act=name, data_id=identifier, **more)


def nothing_html(tr: Texts) -> str:
    """What stands in place of the table before the first merge."""
    return empty_html(tr("No merge has been made yet. What you merge is listed here with its recipe."))


def history_html(
    entries: Sequence[Entry], tr: Texts, chosen: Iterable[str] = (), hashing: Container[str] = frozenset()
) -> str:
    """The table, the latest first; a note where there is nothing. hashing: the entries whose hash is being read."""
    if not entries:
        return nothing_html(tr)
    marked = set(chosen)
    head = tag("tr", "".join(text_tag("th", tr(name), scope="col") for name in COLUMNS))
    rows = [_row(entry, tr, entry.id in marked, entry.id in hashing) for entry in entries]
    table = tag("table", tag("thead", head) + tag("tbody", "".join(rows)), "ms-table")
    return tag("div", tag("div", table, "ms-table-frame"), "ms-history")


def _row(entry: Entry, tr: Texts, chosen: bool, hashing: bool) -> str:
    made = f"{method_label(entry, tr)} · {' + '.join(short_name(name) for name in entry.models)}"
    file = text_tag("span", entry.file, "ms-file") + text_tag("small", made, title=", ".join(entry.models))
    cells = [text_tag("td", when_text(entry.when)), tag("td", file, "ms-name"), hash_cell(entry, tr, hashing)]
    state = "true" if chosen else "false"
    return tag("tr", "".join(cells), "ms-chosen" if chosen else "", tabindex="0", data_id=entry.id, aria_selected=state)


def hash_cell(entry: Entry, tr: Texts, hashing: bool) -> str:
    """The short hash, as pictures name it; a mark that it is being read, which the page's script replaces."""
    if entry.sha256:
        return text_tag("td", entry.sha256[:10], "ms-hash", title=entry.sha256)
    if hashing:
        return text_tag("td", "…", "ms-hash", title=tr("being read"), data_waits=entry.id)
    return text_tag("td", "–", "ms-hash", title=tr("not known: the file is not there any more"))


def entry_html(entry: Entry, tr: Texts, hashing: bool = False, listed: str = "") -> str:
    """One entry in full with what can be done with it. listed: how the host's list calls its file, where it does."""
    acts = [
        action("edit", tr("Edit in Merge"), entry.id),
        *([text_tag("button", tr("Inspect it"), "ms-act", type="button", data_open=listed)] if listed else []),
        *_remaking(entry, tr),
        action("compare", tr("Compare with another …"), entry.id),
        action("delete", tr("Delete from the history"), entry.id),
    ]
    text = json.dumps(entry.recipe, indent=1, ensure_ascii=False)
    whole = tag("details", text_tag("summary", tr("The whole recipe")) + text_tag("pre", text), "ms-recipe")
    head = text_tag("h4", entry.file, "ms-entry-title") + tag("div", "".join(acts), "ms-acts")
    facts = facts_html([*_file_facts(entry, tr, hashing), *_recipe_facts(entry, tr)])
    return tag("div", head + facts + whole, "ms-entry", data_id=entry.id)


def _file_facts(entry: Entry, tr: Texts, hashing: bool) -> list[tuple[str, str]]:
    """What was made, as names and HTML."""
    waits: dict[str, object] = {"data_waits": entry.id} if hashing else {}
    digest = text_tag("span", entry.sha256 or tr("being read"), "ms-digest", **waits)
    return [
        (tr("Kind"), esc(tr(KINDS.get(entry.kind, entry.kind)))),
        (tr("When"), esc(when_text(entry.when))),
        (tr("Time"), "" if entry.seconds is None else esc(seconds_text(entry.seconds, tr))),
        (tr("Size"), "" if entry.size is None else esc(size_text(entry.size))),
        ("SHA-256", digest if entry.sha256 or hashing else ""),
    ]


def _recipe_facts(entry: Entry, tr: Texts) -> list[tuple[str, str]]:
    """What it was made of and how, as names and HTML."""
    recipe = entry.recipe
    blocks: Mapping[str, Any] = recipe.get("blocks") or {}
    numbers: Mapping[str, Any] = recipe.get("parameters") or {}
    prediction: Mapping[str, Any] = recipe.get("prediction") or {}
    models = (esc(f"{letter} = {name}") for letter, name in zip(_LETTERS, entry.models, strict=False))
    loras = ", ".join(f"{one.get('file')} × {one.get('strength')}" for one in recipe.get("loras") or [])
    return [
        (tr("Models"), "<br>".join(models)),
        (tr("Method"), esc(method_label(entry, tr))),
        *((parameter_label(entry, name, tr), esc(f"{value:g}")) for name, value in numbers.items()),
        *(
            (f"{tr('Block weights')}: {parameter_label(entry, name, tr)}", weights_html(weights))
            for name, weights in blocks.items()
        ),
        (tr("LoRAs"), esc(loras)),
        (tr("Computed on"), esc(str(recipe.get("device") or ""))),
        (tr("Prediction"), esc(tr(PREDICTIONS.get(str(prediction.get("type")), "")))),
    ]


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
        return tag("div", text_tag("span", tr("The queue is empty."), "ms-dim"), "ms-queue", data_busy=0)
    waiting = [job.id for job in active if job.state == "queued"]
    rows = "".join(_job(job, tr, waiting) for job in shown)
    table = tag("table", tag("tbody", rows), "ms-table")
    inner = text_tag("h4", tr("Queue")) + tag("div", table, "ms-table-frame")
    return tag("div", inner, "ms-queue ms-section", data_busy=len(active))


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
    told = tr.said(job.text) if job.state == "running" else ""
    if job.state == "failed":
        told = " ".join(sentence(tr.said(part), tr.message_language) for part in (job.error, job.remedy) if part)
    cells = [
        text_tag("td", job.title or job.kind, "ms-name"),
        tag("td", state),
        text_tag("td", told, "ms-name"),
        tag("td", tag("span", "".join(acts), "ms-acts")),
    ]
    return tag("tr", "".join(cells))
