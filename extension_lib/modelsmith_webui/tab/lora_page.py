"""What a LoRA holds, what would be made of LoRAs and what came of it, in plain words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modelsmith_webui.places import free_bytes
from modelsmith_webui.tab.html import facts, notice, notice_with, sentence, size_text, tag, text_tag
from modelsmith_webui.tab.plan_page import next_steps, seconds_text
from modelsmith_webui.tab.texts import Texts

if TYPE_CHECKING:
    from modelsmith.lora.bake import BakePlan, BakeResult
    from modelsmith.lora.combine import CombinePlan, CombineResult
    from modelsmith.lora.extract import ExtractPlan, ExtractResult
    from modelsmith.lora.info import LoraInfo
    from modelsmith.lora.match import MatchReport

_LISTED = 200


def labels_text(architectures: Iterable[str], tr: Texts) -> str:
    """The architectures in words."""
    from modelsmith.identify.report import LABELS

    return tr(" or ").join(LABELS.get(one, one) for one in architectures) or tr("cannot be told")


def ranks_text(ranks: Sequence[int], tr: Texts) -> str:
    """One rank, or from the least to the largest."""
    if not ranks:
        return tr("none")
    low, high = min(ranks), max(ranks)
    return str(low) if low == high else tr("{low} to {high}", low=low, high=high)


def folded(kind: str, text: str, names: Sequence[str], tr: Texts) -> str:
    """A message with a list behind it; nothing where the list is empty."""
    if not names:
        return ""
    shown = ", ".join(names[:_LISTED])
    if len(names) > _LISTED:
        shown = tr("{names} and {count} more", names=shown, count=len(names) - _LISTED)
    inner = text_tag("summary", tr("Which ones")) + text_tag("p", shown)
    return notice_with(kind, sentence(text, tr.message_language), tag("details", inner, "ms-listed"))


def match_html(report: MatchReport, tr: Texts) -> str:
    """How one LoRA fits the checkpoint, and every module that does not, by reason."""
    matched = tr("{name}: {count} modules find their place.", name=report.path.name, count=report.modules)
    if not report.unmatched:
        return notice("done", matched)
    reasons: dict[str, list[str]] = {}
    for name, reason in report.unmatched.items():
        reasons.setdefault(reason, []).append(name)
    lost = (
        folded("warning", tr("{count} do not: {why}", count=len(names), why=tr.said(reason)), names, tr)
        for reason, names in reasons.items()
    )
    return notice("info", matched) + "".join(lost)


def plan_of(rows: Iterable[tuple[str, str]], target: Path, notes: str, tr: Texts) -> str:
    """The summary before the start."""
    place = [(tr("Written to"), str(target)), (tr("Free disk space"), size_text(free_bytes(target.parent)))]
    return tag("div", text_tag("h4", tr("What will be made")) + notes + facts([*rows, *place]), "ms-plan")


def bake_plan_html(plan: BakePlan, tr: Texts) -> str:
    """What a bake would make."""
    request = plan.request
    loras = "; ".join(
        f"{one.path.stem} × {one.strength:g}" + (f" ({tr('Block weights')}: {one.blocks})" if one.blocks else "")
        for one in request.loras
    )
    rows = [
        (tr("From"), f"{request.model.name}, {size_text(request.model.stat().st_size)}"),
        (tr("LoRAs"), loras),
        (tr("Tensors that change"), f"{plan.changed:,}"),
        (tr("Size"), size_text(plan.bytes)),
    ]
    return plan_of(rows, request.output, "".join(match_html(one, tr) for one in plan.reports), tr)


def extract_plan_html(plan: ExtractPlan, tr: Texts) -> str:
    """What an extraction would make."""
    request = plan.request
    most = tr("at most {size}", size=size_text(plan.most_bytes))
    rows = [
        (tr("From"), request.tuned.name),
        (tr("Without"), request.base.name),
        (tr("Architecture"), labels_text([plan.architecture] if plan.architecture else [], tr)),
        (tr("Modules"), tr("{count}, those that do not differ are left out", count=f"{plan.modules:,}")),
        (tr("Size"), most),
    ]
    text = tr("{count} tensors are only in the model that it came from.", count=len(plan.missing))
    return plan_of(rows, request.output, folded("info", text, plan.missing, tr), tr)


def combine_plan_html(plan: CombinePlan, tr: Texts) -> str:
    """What a merge of LoRAs would make."""
    request = plan.request
    rows = [
        (tr("LoRAs"), "; ".join(f"{one.path.stem} × {one.strength:g}" for one in request.loras)),
        (tr("Architecture"), labels_text(plan.architectures, tr)),
        (tr("Modules"), f"{plan.modules:,}"),
        (tr("Rank"), tr("at most {size}", size=max(plan.ranks)) if plan.ranks else ""),
    ]
    return plan_of(rows, request.output, _leftover(plan.leftover, tr), tr)


def _leftover(names: Sequence[str], tr: Texts) -> str:
    text = tr("{count} tensors are of no kind that is known and are left out.", count=len(names))
    return folded("warning", text, names, tr)


def _written(result: BakeResult | CombineResult | ExtractResult, tr: Texts) -> list[tuple[str, str]]:
    return [
        (tr("File"), result.path.name),
        (tr("Size"), size_text(result.bytes)),
        (tr("Time"), seconds_text(result.seconds, tr)),
        ("SHA-256", result.sha256 or ""),
    ]


def baked_html(result: BakeResult, title: str, tr: Texts) -> str:
    """What a bake wrote. title: its name in the host's list of checkpoints."""
    head = notice("done", tr("Written. The new file is in the list.")) + next_steps(title, tr)
    rows = [*_written(result, tr), (tr("Tensors that changed"), f"{result.changed:,}")]
    return head + "".join(match_html(one, tr) for one in result.reports) + facts(rows)


def lora_html(result: CombineResult | ExtractResult, notes: str, tr: Texts) -> str:
    """The LoRA that was written, and how to use it."""
    head = notice("done", tr("Written. The new file is in the list."))
    rows = [
        *_written(result, tr),
        (tr("Modules"), f"{result.modules:,}"),
        (tr("Rank"), ranks_text(result.ranks, tr)),
        (tr("Kept of the change"), f"{100 * result.energy:.2f} %"),
        (tr("In a prompt"), f"<lora:{result.path.stem}:1>"),
    ]
    return head + notes + facts(rows)


def extracted_html(result: ExtractResult, tr: Texts) -> str:
    """What an extraction wrote, and what it could not carry."""
    left = tr("{count} tensors differ, but are not in the LoRA.", count=len(result.left_out))
    missing = tr("{count} tensors are only in the model that it came from.", count=len(result.missing))
    notes = folded("info", left, result.left_out, tr) + folded("info", missing, result.missing, tr)
    return lora_html(result, notes, tr)


def combined_html(result: CombineResult, tr: Texts) -> str:
    """What a merge of LoRAs wrote."""
    return lora_html(result, _leftover(result.leftover, tr), tr)


def info_html(info: LoraInfo, tr: Texts) -> str:
    """What a LoRA holds, and how it fits the checkpoint where one was given."""

    def amounts(counts: Mapping[str, int] | Mapping[int, int]) -> str:
        return ", ".join(f"{key} ({count:,})" for key, count in Counter(counts).most_common())

    parts = {"unet": f"{info.diffusion:,}", "encoders": f"{info.text:,}"}
    modules = tr("{unet} in the diffusion model, {encoders} in text encoders", **parts)
    known = info.to_json()["metadata"]
    metadata = [(key, str(value)) for key, value in known.items()] if isinstance(known, dict) else []
    rows = [
        (tr("File"), info.file.path.name),
        (tr("Architecture"), labels_text(info.architectures, tr)),
        (tr("Kinds"), amounts(info.kinds)),
        (tr("Rank"), amounts(info.ranks)),
        (tr("Modules"), modules),
        *metadata,
    ]
    match = match_html(info.match, tr) if info.match is not None else ""
    return match + facts(rows) + _leftover(info.file.leftover, tr)
