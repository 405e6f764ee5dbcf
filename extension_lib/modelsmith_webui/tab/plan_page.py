"""What a merge is going to do, what it is doing and what it did, in plain words."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modelsmith.errors import ModelsmithError
from modelsmith_webui.tab.files import short_name
from modelsmith_webui.tab.html import facts, notice, notice_with, sentence, size_text, tag, text_tag
from modelsmith_webui.tab.texts import Texts
from modelsmith_webui.tab.words import PREDICTIONS

if TYPE_CHECKING:
    from modelsmith.merge.guard import Notice
    from modelsmith.merge.methods import MethodSpec
    from modelsmith.merge.plan import MergePlan
    from modelsmith.merge.request import MergeProgress, MergeResult
    from modelsmith_webui.tab.remedies import Remedy


_AND_MORE = re.compile(r"(.*) and ([\d,]+) more")


def _english(text: str, **values: object) -> str:
    return text.format(**values)


def seconds_text(seconds: float, tr: Callable[..., str] = _english) -> str:
    """A span of time as people say it."""
    whole = max(0, round(seconds))
    if whole < 60:
        return tr("{seconds} s", seconds=f"{seconds:.1f}" if 0 < seconds < 10 else str(whole))
    minutes, left = divmod(whole, 60)
    if minutes < 60:
        return tr("{minutes} min {seconds} s", minutes=minutes, seconds=f"{left:02d}")
    return tr("{hours} h {minutes} min", hours=minutes // 60, minutes=f"{minutes % 60:02d}")


def failure_html(error: Exception, tr: Texts, kind: str = "error") -> str:
    """The one clear message: what is wrong and what to do, in the user's language where the library has it."""
    if isinstance(error, ModelsmithError):
        return notice(kind, *tr.error(error), tr.message_language)
    return notice(kind, f"{type(error).__name__}: {error}")


def remedy_buttons(remedies: Sequence[Remedy]) -> str:
    """A button for each way out; the script tells the server which one was pressed."""
    inner = "".join(
        text_tag("button", one.label, "ms-mini ms-remedy", type="button", data_remedy=one.id) for one in remedies
    )
    return tag("div", inner, "ms-remedies") if inner else ""


def plainly(text: str, names: Iterable[str]) -> str:
    """A sentence with the models called by their short names; the whole ones stand in the list below it."""
    for name in sorted(set(names), key=len, reverse=True):
        # A name behind a stroke is part of a path, which stays whole.
        text = re.sub(rf"(?<![\w/\\]){re.escape(name)}", short_name(name).replace("\\", r"\\"), text)
    return text


def notice_html(found: Notice, tr: Texts, names: Iterable[str] = ()) -> str:
    """What a merge has to say. A list of tensors is folded away: that there are some is what matters at first."""
    text = plainly(found.said(tr.message_language), names)
    listed = dict(found.message.params).get("names", "") if found.message is not None else ""
    if ", " not in listed or not text.endswith(listed):
        return notice(found.level, text)
    head = sentence(text.removesuffix(listed).rstrip(" :："), tr.message_language)
    more = _AND_MORE.fullmatch(listed)
    if more:
        listed = tr("{names} and {count} more", names=more[1], count=more[2])
    inner = text_tag("summary", tr("Which ones")) + text_tag("p", listed)
    return notice_with(found.level, head, tag("details", inner, "ms-listed"))


def refusal_html(
    error: ModelsmithError, tr: Texts, remedies: Sequence[Remedy], names: Iterable[str] = (), folder: str = ""
) -> str:
    """Why a merge was not planned, and the ways out, one click away.

    names: of the models, as the host's list has them. folder: where the result goes, which needs no mention.
    """
    from modelsmith.merge.guard import PredictionMixError

    # A name that is taken is what one finds right after a merge: no cause for alarm.
    mild = isinstance(error, PredictionMixError) or any(one.id == "another" for one in remedies)
    kind = "warning" if mild else "error"
    told = (text.replace(f"{folder}{os.sep}", "") if folder else text for text in tr.error(error))
    message, remedy = (plainly(text, names) for text in told)
    return tag("div", notice(kind, message, remedy, tr.message_language) + remedy_buttons(remedies), "ms-refusal")


def _amounts(plan: MergePlan, tr: Texts) -> str:
    """The method and its numbers, as "Weighted sum, Alpha 0.5" or "Weighted sum, Alpha 0 to 1 by block"."""
    numbers = plan.parts.parameters
    known = [parameter for parameter in plan.method.parameters if parameter.id in numbers]
    values = [
        _amount(tr(parameter.label), numbers[parameter.id], plan.parts.blocks.get(parameter.id, {}), tr)
        for parameter in known
    ]
    return ", ".join([tr(plan.method.label), *values])


def _amount(label: str, value: float, blocks: Mapping[str, float], tr: Texts) -> str:
    """One parameter. Blocks with weights of their own stand for it: its own value then counts nowhere."""
    low, high = min(blocks.values(), default=value), max(blocks.values(), default=value)
    if low == high:
        return f"{label} {low:g}"
    return tr("{name} {low} to {high} by block", name=label, low=f"{low:g}", high=f"{high:g}")


def _outcome(plan: MergePlan, tr: Texts) -> str:
    """What the result is going to be: architecture, prediction, ZTSNR, precision."""
    from modelsmith.identify.report import LABELS

    architecture = plan.inputs[0].report.architecture
    parts = [LABELS.get(architecture, architecture)] if architecture else []
    parts.append(tr(PREDICTIONS.get(plan.verdict.type, plan.verdict.type)))
    if plan.verdict.ztsnr:
        parts.append("ZTSNR")
    parts.append(plan.request.dtype or plan.inputs[0].report.precision or "")
    return " · ".join(part for part in parts if part)


def _beside(plan: MergePlan, tr: Texts) -> list[tuple[str, str]]:
    """What the merge has beside its models: LoRAs, rules, adjustments, precision by part."""
    request = plan.request
    loras = "; ".join(
        f"{one.path.stem} × {one.strength:g}" + (f" ({tr('Block weights')}: {one.blocks})" if one.blocks else "")
        for one in request.loras
    )
    return [
        (tr("LoRAs"), loras),
        (tr("Rules for tensors"), ", ".join(name for name, text in request.rules.items() if text)),
        (tr("Adjusted by"), request.finetune),
        (tr("Precision of parts"), ", ".join(f"{name} {dtype}" for name, dtype in request.component_dtypes.items())),
    ]


def _sentence(plan: MergePlan, tr: Texts, seconds: float | None) -> str:
    """What will happen, as one would say it."""
    said = tr("A new file of {size}: {what}.", size=size_text(plan.output_bytes), what=_outcome(plan, tr))
    if seconds is not None:
        said += "" if tr.message_language == "ja" else " "
        time = seconds_text(seconds, tr)
        said += tr("Ready in about {time}, as fast as merges were here before.", time=time)
    return said


def plan_html(plan: MergePlan, tr: Texts, remedies: Sequence[Remedy] = (), seconds: float | None = None) -> str:
    """The summary before the start: what will be made, where, how large, and what to look out for.

    seconds: the time expected from this machine's own measured speed, None where none was measured yet.
    """
    rows = [
        *((one.letter, one.name) for one in plan.inputs),
        (tr("Method"), _amounts(plan, tr)),
        (tr("Computed on"), plan.parts.device),
        *_beside(plan, tr),
        (tr("Written to"), str(plan.request.output)),
        (tr("Free disk space"), size_text(plan.free_bytes)),
        (tr("Expected time"), tr("known after the first merge here") if seconds is None else ""),
    ]
    names = [one.name for one in plan.inputs]
    notices = "".join(notice_html(found, tr, names) for found in plan.notices)
    head = text_tag("h4", tr("What will be made")) + text_tag("p", _sentence(plan, tr, seconds), "ms-sentence")
    return tag("div", head + notices + remedy_buttons(remedies) + facts(rows), "ms-plan")


class ProgressText:
    """Turns progress into the short line under the bar: bytes, speed and time left."""

    def __init__(self, tr: Texts) -> None:
        self._tr = tr

    def __call__(self, progress: MergeProgress) -> tuple[float, str]:
        """The fraction done and the line."""
        fraction, line = self._moved(progress)
        return fraction, self._tr("Comparing the models") + f" · {line}" if progress.stage == "measuring" else line

    def _moved(self, progress: MergeProgress) -> tuple[float, str]:
        total = max(1, progress.total_bytes)
        fraction = min(1.0, progress.done_bytes / total)
        amount = f"{size_text(progress.done_bytes)} / {size_text(progress.total_bytes)}"
        if progress.seconds < 0.2 or progress.done_bytes == 0:
            return fraction, amount
        speed = progress.done_bytes / progress.seconds
        left = seconds_text((progress.total_bytes - progress.done_bytes) / speed, self._tr)
        return fraction, f"{amount} · {size_text(round(speed))}/s · " + self._tr("{time} left", time=left)


def reporter(tr: Texts, report: Callable[[float, str], None]) -> Callable[[MergeProgress], None]:
    text = ProgressText(tr)

    def show(progress: MergeProgress) -> None:
        report(*text(progress))

    return show


def result_html(result: MergeResult, title: str, tr: Texts) -> str:
    """What was made, and how fast. title: the new file's name in the host's list of checkpoints."""
    speed = size_text(round(result.bytes / result.seconds)) + "/s" if result.seconds > 0 else ""
    rows = [
        (tr("File"), result.path.name),
        (tr("Size"), size_text(result.bytes)),
        (tr("Time"), ", ".join(part for part in (seconds_text(result.seconds, tr), speed) if part)),
        ("SHA-256", result.sha256 or ""),
    ]
    notices = "".join(notice_html(found, tr) for found in result.notices)
    done = notice("done", tr("Merged. The new file is in the checkpoint list."))
    return tag("div", done + next_steps(title, tr) + facts(rows) + notices, "ms-result")


def recipe_made_html(path: Path, tr: Texts, title: str) -> str:
    """A recipe checkpoint was written: what it is, and what it is not."""
    done = notice("done", tr("{name} stands in the checkpoint list. Choosing it merges in memory.", name=path.name))
    told = tr("The file has {size}: it holds the recipe, not the weights. The models that it names must stay.",
              size=size_text(path.stat().st_size))  # fmt: skip
    return tag("div", done + next_steps(title, tr) + text_tag("p", told, "ms-dim"), "ms-result")


def next_steps(title: str, tr: Texts) -> str:
    """What can be done with a new file: look at it, and make it the webui's checkpoint, where there is a selector."""
    if not title:
        return ""
    choose = text_tag("button", tr("Use it for pictures"), "ms-mini ms-choose", type="button", data_choose=title)
    look = text_tag("button", tr("Inspect it"), "ms-mini", type="button", data_open=title)
    return tag("div", choose + look, "ms-remedies")


def formula_html(spec: MethodSpec, tr: Texts) -> str:
    """What a method computes and what it is good for."""
    known_as = tr(spec.label)
    name = text_tag("b", known_as) if known_as != spec.label else ""
    return tag("div", name + text_tag("code", tr(spec.formula)) + text_tag("span", tr(spec.summary)), "ms-formula")
