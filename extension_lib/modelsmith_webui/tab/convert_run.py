"""Does what the Convert view's form says, inside a job of the host, and tells what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from modelsmith.convert.casts import Loss
from modelsmith.convert.compare import Checked, Comparison, Difference, check_file, compare
from modelsmith.convert.folder import Outcome, Task, run_folder
from modelsmith.convert.hash_list import match_hashes, parse_hash_list
from modelsmith.convert.jobs import convert, repair
from modelsmith.convert.publish import Published, publish
from modelsmith.convert.write import WriteOptions, WriteResult
from modelsmith.errors import Cancelled, UsageError
from modelsmith.files.header import read_header
from modelsmith_webui.host import Host, JobControl, ModelFile, listed_path, listed_paths
from modelsmith_webui.places import make_folder
from modelsmith_webui.tab.convert_form import ConvertForm
from modelsmith_webui.tab.convert_plan import findings_html, folder_tasks, notes_html, other_file
from modelsmith_webui.tab.convert_words import VERDICTS
from modelsmith_webui.tab.html import facts, notice, size_text, tag, text_tag
from modelsmith_webui.tab.job_text import Share, counted, write_options
from modelsmith_webui.tab.plan_page import seconds_text
from modelsmith_webui.tab.tables import SHOWN, cell, row, table
from modelsmith_webui.tab.texts import Texts


def run(form: ConvertForm, host: Host, control: JobControl, tr: Texts) -> str:
    """Carry the form out and return the result as HTML. Raises the library's errors, Cancelled among them."""
    files = form.chosen(host)
    if not files:
        raise UsageError("no file is chosen", "Choose one")
    if form.what == "verify":
        return _verify(form, host, control, tr, files)
    if len(files) > 1:
        return _many(form, host, control, tr, files)
    if form.what == "compare":
        return _compare(files[0], other_file(form, host), control, tr)
    if form.what == "share":
        return _share(form, host, files[0], write_options(control, tr, form.overwrite), tr)
    target = form.target(host, files[0])
    make_folder(target.parent)
    options = write_options(control, tr, form.overwrite)
    if form.what != "repair":
        return _written(host, convert(files[0].path, target, form.job(host), options), tr)
    findings, result = repair(files[0].path, target, form.repair_options(host), options)
    if result is None:
        return notice("info", tr("Nothing was written: there is nothing that can be mended."))
    return _written(host, result, tr, notes=False) + findings_html(findings, tr, done=True)


def _written(host: Host, result: WriteResult, tr: Texts, *, notes: bool = True) -> str:
    host.keep_sha256(result.path, result.sha256)
    speed = size_text(round(result.bytes_out / result.seconds)) + "/s" if result.seconds > 0 else ""
    rows = [
        (tr("File"), result.path.name),
        (tr("Size"), f"{size_text(result.bytes_in)} → {size_text(result.bytes_out)}"),
        (tr("Time"), ", ".join(part for part in (seconds_text(result.seconds, tr), speed) if part)),
        ("SHA-256", result.sha256),
    ]
    told = notes_html(result.notes, tr) if notes else ""
    return (
        notice("done", tr("Written. The new file is in the list."))
        + facts(rows)
        + told
        + losses_html(result.losses, tr)
    )


def losses_html(losses: Mapping[str, Loss], tr: Texts) -> str:
    """What the change of precision cost: the largest error, and by name every tensor that lost values."""
    if not losses:
        return text_tag("p", tr("No value was lost or out of range."), "ms-dim")
    worst = max(losses, key=lambda name: losses[name].largest_error)
    vanished = sum(loss.vanished for loss in losses.values())
    rows = [
        (
            tr("Largest rounding error"),
            f"{losses[worst].largest_error:.3g} ({worst})" if losses[worst].largest_error else "",
        ),
        (tr("Values that became zero"), f"{vanished:,}" if vanished else ""),
    ]
    bad = [(name, loss) for name, loss in losses.items() if loss.clipped or loss.nan or loss.infinite]
    if not bad:
        return facts(rows)
    head = notice("warning", tr("{count} tensors hold values that the new precision cannot hold.", count=len(bad)))
    return facts(rows) + head + table(tr, ("Tensor", "Lost"), [_loss_row(name, loss, tr) for name, loss in bad])


def _loss_row(name: str, loss: Loss, tr: Texts) -> str:
    told = [
        tr("{count} out of range", count=f"{loss.clipped:,}") if loss.clipped else "",
        f"{loss.nan:,} NaN" if loss.nan else "",
        tr("{count} infinite before", count=f"{loss.infinite:,}") if loss.infinite else "",
    ]
    return row(tag("td", text_tag("code", name)), cell(", ".join(part for part in told if part)))


def _share(form: ConvertForm, host: Host, file: ModelFile, options: WriteOptions, tr: Texts) -> str:
    made: Published = publish(file.path, file.path.parent, form.publish_options(file), options)
    rows = [
        ("AutoV2", made.hashes.autov2),
        ("AutoV3", made.hashes.autov3 or ""),
        (tr("Model cards"), ", ".join(card.name for card in made.cards)),
    ]
    return _written(host, made.result, tr) + facts(rows)


def _compare(first: ModelFile, second: ModelFile, control: JobControl, tr: Texts) -> str:
    names = set(read_header(first.path).tensors) | set(read_header(second.path).tensors)
    found: Comparison = compare(first.path, second.path, counted(control, len(names), tr("Comparing")))
    verdict = "; ".join(f"{count} {tr(VERDICTS[kind])}" for kind, count in found.counts().items())
    head = notice("done", tr("The two models are the same."), verdict) if found.same else ""
    head = head or notice("warning", tr("The two models differ."), verdict)
    unequal = [one for one in found.differences if one.verdict != "equal"]
    unequal.sort(key=lambda one: (one.verdict == "rounded", -one.largest))
    rows = [_difference_row(one, tr) for one in unequal]
    return head + (table(tr, ("Tensor", "Verdict", "Largest difference"), rows) if rows else "")


def _difference_row(one: Difference, tr: Texts) -> str:
    largest = (
        f"{one.largest:.3g} ({100 * one.share:.3g} %)"
        if one.verdict in ("rounded", "different")
        else one.detail.replace(" and ", " / ")
    )
    return row(tag("td", text_tag("code", one.name)), cell(tr(VERDICTS[one.verdict])), cell(largest))


def _verify(form: ConvertForm, host: Host, control: JobControl, tr: Texts, files: Sequence[ModelFile]) -> str:
    listed = parse_hash_list(form.hash_list)
    matched = match_hashes(listed, listed_paths(files))
    checked: list[tuple[ModelFile, Checked, bool]] = []
    for number, file in enumerate(files):
        control.report(number / len(files), f"{number + 1} / {len(files)} · {listed_path(file)}")
        if control.cancelled():
            raise Cancelled
        known = host.cached_sha256(file) if form.check_hash else None
        expected = matched.by_file.get(file.path, frozenset({known} if known else ()))
        result = check_file(file.path, values=form.check_values, expected=expected or None, cancelled=control.cancelled)
        checked.append((file, result, bool(form.check_hash or listed) and not expected))
    bad = sum(bool(result.problems) for _, result, _ in checked)
    text = tr("{count} files checked, {bad} with faults.", count=len(files), bad=bad)
    rows = "".join(_checked_row(file, result, unknown, tr) for file, result, unknown in checked)
    head = tag("tr", "".join(text_tag("th", tr(name)) for name in ("File", "State")))
    told = notice("warning" if bad else "done", text)
    if matched.missing:
        names = ", ".join(matched.missing[:SHOWN])
        told += notice("info", tr("In the list, but not among the files: {names}.", names=names))
    return told + tag("table", tag("thead", head) + tag("tbody", rows), "ms-parts")


def _checked_row(file: ModelFile, result: Checked, unknown: bool, tr: Texts) -> str:
    if not result.problems:
        state = tr("sound; no hash of it is known") if unknown else tr("sound")
        return row(cell(listed_path(file)), cell(state, "ms-grade-proof"))
    lines = "".join(text_tag("div", tr.said(problem)) for problem in result.problems[:SHOWN])
    if len(result.problems) > SHOWN:
        lines += text_tag("div", tr("and {count} more", count=len(result.problems) - SHOWN))
    return row(cell(listed_path(file)), tag("td", lines, "ms-incomplete"))


def _many(form: ConvertForm, host: Host, control: JobControl, tr: Texts, files: Sequence[ModelFile]) -> str:
    tasks, journal = folder_tasks(form, host, files)
    make_folder(form.target_folder(host))
    names, sizes = listed_paths(files), {task.source: task.source.stat().st_size for task in tasks}
    total, done = max(1, sum(sizes.values())), 0
    written: list[WriteResult] = []

    def work(task: Task) -> bool:
        nonlocal done
        title = f"{tasks.index(task) + 1} / {len(tasks)} · {names[task.source]}"
        options = write_options(control, tr, form.overwrite, Share(done / total, sizes[task.source] / total, title))
        ours = journal.is_done(task.source, task.target)
        options = replace(options, overwrite=form.overwrite or ours, finished=journal.noting(task))
        if control.cancelled():
            raise Cancelled
        done += sizes[task.source]
        if form.what == "repair":
            result = repair(task.source, task.target, form.repair_options(host), options)[1]
        elif form.what == "share":
            named = replace(form.shared_options(), name=task.target.name)
            result = publish(task.source, task.target.parent, named, options).result
        else:
            result = convert(task.source, task.target, form.job(host), options)
        if result is not None:
            host.keep_sha256(result.path, result.sha256)
            written.append(result)
        return result is not None

    outcomes = run_folder(tasks, journal, work)
    made = {result.path: result for result in written}
    rows = [_outcome_row(names[one.task.source], one, made.get(one.task.target), tr) for one in outcomes]
    return _outcomes_head(outcomes, tr) + table(tr, ("File", "Size now", "Size then", "State"), rows, shown=200)


def _outcomes_head(outcomes: Sequence[Outcome], tr: Texts) -> str:
    failed = sum(outcome.error is not None for outcome in outcomes)
    skipped = sum(outcome.skipped for outcome in outcomes)
    counts = {"done": len(outcomes) - failed - skipped, "skipped": skipped, "failed": failed}
    return notice("warning" if failed else "done", tr("{done} written, {skipped} skipped, {failed} failed.", **counts))


def _outcome_row(name: str, outcome: Outcome, result: WriteResult | None, tr: Texts) -> str:
    lost = sum(loss.clipped + loss.nan + loss.infinite for loss in result.losses.values()) if result else 0
    state, css = tr("done before"), "ms-grade-proof"
    if outcome.error is not None:
        state, css = tr.error(outcome.error)[0], "ms-incomplete"
    elif lost:
        state, css = tr("written; {count} values out of range or not finite", count=f"{lost:,}"), "ms-incomplete"
    elif result is not None:
        state = tr("written")
    elif not outcome.task.done:
        state, css = tr("nothing to mend"), ""
    sizes = (size_text(result.bytes_in), size_text(result.bytes_out)) if result else ("", "")
    return row(cell(name), *(cell(size, "ms-number") for size in sizes), cell(state, css))
