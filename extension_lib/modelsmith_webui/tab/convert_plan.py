"""What the Convert view is going to do, in plain words: read from headers, nothing written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from modelsmith.convert.card import CardFacts, model_card
from modelsmith.convert.folder import Journal, Task, job_id, plan_folder
from modelsmith.convert.hash_list import match_hashes, parse_hash_list
from modelsmith.convert.hashes import Hashes
from modelsmith.convert.jobs import ConvertPlan, plan_convert, repair
from modelsmith.convert.publish import PublishPlan, companions, plan_publish, suggest_name
from modelsmith.convert.repair import Finding
from modelsmith.errors import ModelsmithError, UsageError
from modelsmith.files.header import read_header
from modelsmith_webui.host import Host, ModelFile, listed_paths
from modelsmith_webui.places import common_folder, free_bytes
from modelsmith_webui.tab.convert_form import ConvertForm
from modelsmith_webui.tab.convert_words import DROPPED, FAULTS, LEFT
from modelsmith_webui.tab.html import esc, facts, notice, size_text, tag, text_tag
from modelsmith_webui.tab.tables import cell, row, table
from modelsmith_webui.tab.texts import Texts

ROWS = 40
_NO_HASHES = Hashes("", None)


def plan_html(form: ConvertForm, host: Host, tr: Texts) -> str:
    """The summary for what is chosen now. Raises the library's errors where something stands in the way."""
    files = form.chosen(host)
    if not files:
        return notice("info", tr("Choose a file to see what would be done."))
    if form.what == "verify":
        return _frame(tr("What will be checked"), _verify(form, files, tr))
    if len(files) > 1:
        return _frame(tr("What will be made"), _many(form, host, files, tr))
    file = files[0]
    shown: dict[str, Callable[[ConvertForm, Host, ModelFile, Texts], str]] = {
        "repair": _repair,
        "share": _share,
        "compare": _compare,
    }
    if form.what in shown:
        title = tr("What will be compared") if form.what == "compare" else tr("What will be made")
        return _frame(title, shown[form.what](form, host, file, tr))
    return _frame(tr("What will be made"), _convert(form, host, file, tr))


def _frame(title: str, inner: str) -> str:
    return tag("div", text_tag("h4", title) + inner, "ms-plan")


def _sizes(before: int, after: int, tr: Texts) -> str:
    text = f"{size_text(before)} → {size_text(after)}"
    if before and after != before:
        text += f" ({100 * (after - before) / before:+.0f} %)"
    return text if after != before else f"{text} ({tr('no change')})"


def _where(source: Path, target: Path, form: ConvertForm, tr: Texts) -> tuple[list[tuple[str, str]], str]:
    """Rows and a warning about the place of the output. Raises UsageError where it is that of the input."""
    if target.exists() and target.samefile(source):
        raise UsageError(f"{target} is the input itself", "Choose another name; the original is never changed")
    rows = [(tr("Written to"), str(target)), (tr("Free disk space"), size_text(free_bytes(target.parent)))]
    if target.exists() and not form.overwrite:
        return rows, notice("warning", tr("A file of this name exists already."), tr("Choose another name."))
    return rows, ""


def dropped_text(dropped: dict[str, int], tr: Texts) -> str:
    return ", ".join(f"{count} {tr(DROPPED.get(kind, kind))}" for kind, count in dropped.items()) or tr("nothing")


def notes_html(notes: Sequence[str], tr: Texts) -> str:
    """What the library noticed on the way, each a sentence of its own."""
    texts = [tr.said(note) for note in notes]
    return "".join(notice("info", text[:1].upper() + text[1:]) for text in texts)


def _convert(form: ConvertForm, host: Host, file: ModelFile, tr: Texts) -> str:
    plan = plan_convert(file.path, form.job(host))
    target = form.target(host, file)
    place, warning = _where(file.path, target, form, tr)
    rows = [
        (tr("Size"), _sizes(plan.bytes_in, plan.bytes_out, tr)),
        (tr("Tensors"), f"{plan.tensors_in} → {plan.tensors_out}"),
        (tr("Quantization"), ", ".join(plan.quantized)),
        (tr("Left out"), dropped_text(plan.pruned.dropped, tr) if plan.pruned else ""),
        *place,
    ]
    return facts(rows) + notes_html(plan.notes, tr) + _useless(form, file, plan, tr) + warning


def _useless(form: ConvertForm, file: ModelFile, plan: ConvertPlan, tr: Texts) -> str:
    same = plan.bytes_in == plan.bytes_out and plan.tensors_in == plan.tensors_out
    idle = form.what == "prune" or (form.what == "convert" and not form.precision())
    if same and idle and file.path.suffix.lower() == ".safetensors":
        return notice("info", tr("Nothing would change but the name."))
    return ""


def findings_html(findings: Sequence[Finding], tr: Texts, *, done: bool) -> str:
    """Each fault, how it is known, and what is or would be done about it."""
    if not findings:
        return notice("done", tr("Nothing is wrong with this file."))
    rows: list[str] = []
    for found in findings:
        fault = text_tag("strong", tr(FAULTS.get(found.id, found.id))) + text_tag(
            "div", tr.said(found.what), "ms-small"
        )
        remedy = tr.said(found.remedy) or tr(LEFT.get(found.id, LEFT[""]))
        mark = "ms-grade-proof" if found.apply is not None and done else "ms-grade-strong" if found.apply else ""
        rows.append(
            row(tag("td", fault), cell(tr.said(found.evidence), "ms-small"), tag("td", text_tag("span", remedy, mark)))
        )
    return table(tr, ("Fault", "Evidence", "What is done"), rows, "ms-findings")


def _repair(form: ConvertForm, host: Host, file: ModelFile, tr: Texts) -> str:
    findings, _ = repair(file.path, None, form.repair_options(host))
    html = findings_html(findings, tr, done=False)
    if any(found.apply is not None for found in findings):
        rows, warning = _where(file.path, form.target(host, file), form, tr)
        return html + facts([(tr("Size"), size_text(file.path.stat().st_size)), *rows]) + warning
    return html


def _share(form: ConvertForm, host: Host, file: ModelFile, tr: Texts) -> str:
    options = form.publish_options(file)
    plan = plan_publish(file.path, file.path.parent, options)
    place, warning = _where(file.path, plan.target, form, tr)
    others = [path.name for path in plan.existing if path != plan.target]
    if others and not form.overwrite and not warning:
        told = tr("These files exist already: {names}.", names=", ".join(others))
        warning = notice("warning", told, tr("Choose another name."))
    rows = [
        (tr("Size"), _sizes(plan.pruned.bytes_before, plan.bytes_out, tr)),
        (tr("Left out"), dropped_text(plan.pruned.dropped, tr)),
        (tr("Repaired"), "; ".join(tr.said(one) for one in plan.repairs)),
        (tr("Left to you"), "; ".join(tr.said(one) for one in plan.unsettled)),
        (tr("Metadata taken away"), ", ".join(plan.removed_metadata)),
        *place,
    ]
    kept = [(name, text[:120]) for name, text in plan.metadata.items()]
    cards = _cards(form, plan, tr)
    metadata = tag("details", text_tag("summary", tr("Metadata")) + facts(kept))
    return facts(rows) + notes_html(plan.notes, tr) + warning + metadata + cards


def _cards(form: ConvertForm, plan: PublishPlan, tr: Texts) -> str:
    """The model cards as they will be, but for the hashes, which are known only when the file is written."""
    title = form.title.strip() or plan.source.stem
    author, licence = form.author.strip() or None, form.license.strip() or None
    known = CardFacts(title, author, licence, plan.target.name, _NO_HASHES)
    english, japanese = (
        "\n".join(line for line in model_card(plan.report, known, language).splitlines() if "``" not in line)
        for language in ("en", "ja")
    )
    first = tag("details", text_tag("summary", tr("Model card, English")) + tag("pre", esc(english), "ms-card"))
    return first + tag(
        "details", text_tag("summary", tr("Model card, Japanese")) + tag("pre", esc(japanese), "ms-card")
    )


def _compare(form: ConvertForm, host: Host, file: ModelFile, tr: Texts) -> str:
    other = other_file(form, host)
    if other.path == file.path:
        raise UsageError("both are the same file", "Choose another one to compare with")
    rows = [
        (name, f"{one.path.name}, {size_text(one.path.stat().st_size)}, {len(read_header(one.path).tensors)}")
        for name, one in ((tr("First file, size, tensors"), file), (tr("Second file, size, tensors"), other))
    ]
    return facts(rows)


def other_file(form: ConvertForm, host: Host) -> ModelFile:
    """The file to compare with. Raises UsageError, UnknownNameError."""
    found = ConvertForm(file=form.other).chosen(host)
    if not found:
        raise UsageError("the file to compare with is not chosen", "Choose it")
    return found[0]


def _verify(form: ConvertForm, files: Sequence[ModelFile], tr: Texts) -> str:
    total = sum(file.path.stat().st_size for file in files)
    listed = parse_hash_list(form.hash_list)
    missing = match_hashes(listed, listed_paths(files)).missing
    count = sum(len(hashes) for hashes in listed.values())
    found = count - sum(len(listed[name]) for name in missing)
    told = tr("{found} of {count} hashes belong to these files", found=found, count=count) if listed else ""
    return facts([(tr("Files"), str(len(files))), (tr("Size"), size_text(total)), (tr("Hashes"), told)])


def folder_tasks(form: ConvertForm, host: Host, files: Sequence[ModelFile]) -> tuple[list[Task], Journal]:
    """Where each of several files goes, and what was done before. Raises UsageError."""
    output = form.target_folder(host)
    jobs: dict[str, Callable[[], object]] = {
        "repair": lambda: form.repair_options(host),
        "share": form.shared_options,
    }
    work = form.what if form.what in jobs else "convert"
    journal = Journal(output, job_id(f"{work} {jobs[work]() if work in jobs else form.job(host)!r}"))
    sources = [file.path for file in files if not file.path.is_relative_to(output)]
    named = suggest_name if work == "share" else None
    tasks = plan_folder(sources, common_folder(files), output, journal, named)
    return [replace(task, done=task.done and (work != "share" or _is_whole(task))) for task in tasks], journal


def _is_whole(task: Task) -> bool:
    """Whether the cards and the hash are there too."""
    return all(path.exists() for path in companions(task.target))


def _many(form: ConvertForm, host: Host, files: Sequence[ModelFile], tr: Texts) -> str:
    tasks, _ = folder_tasks(form, host, files)
    names = listed_paths(files)
    lines = [_task(form, host, task, names[task.source], tr) for task in tasks]
    before, after = sum(line[1] for line in lines), sum(line[2] for line in lines)
    output = form.target_folder(host)
    rows = [
        (tr("Files"), str(len(tasks))),
        (tr("Size"), _sizes(before, after, tr)),
        (tr("Written to"), str(output)),
        (tr("Free disk space"), size_text(free_bytes(output))),
    ]
    return facts(rows) + table(tr, ("File", "Size now", "Size then", "State"), [line[0] for line in lines], shown=ROWS)


def _task(form: ConvertForm, host: Host, task: Task, name: str, tr: Texts) -> tuple[str, int, int]:
    """The row of one file and its bytes before and after."""
    before = after = 0
    try:
        before = task.source.stat().st_size
        if task.done:
            state, css = tr("done before"), "ms-grade-proof"
        elif form.what == "repair":
            findings = repair(task.source, None, form.repair_options(host))[0]
            mended = sum(found.apply is not None for found in findings)
            state, css = tr("{count} faults to mend", count=mended) if mended else tr("nothing to mend"), ""
            after = before if mended else 0
        elif form.what == "share":
            options = replace(form.shared_options(), name=task.target.name)
            after = plan_publish(task.source, task.target.parent, options).bytes_out
            state, css = tr("to be written"), ""
        else:
            plan = plan_convert(task.source, form.job(host))
            after, state, css = plan.bytes_out, tr("to be written"), ""
    except ModelsmithError as error:
        state, css = tr.error(error)[0], "ms-incomplete"
    except OSError as error:
        state, css = str(error), "ms-incomplete"
    sizes = (cell(size_text(before), "ms-number"), cell(size_text(after) if after else "", "ms-number"))
    return row(cell(name), *sizes, cell(state, css)), before if after else 0, after
