"""One report as a page for a person: what the file is, what to do, and how that is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING

from modelsmith_webui.host import LoadedStatus
from modelsmith_webui.tab.html import (
    badge,
    esc,
    facts,
    notice,
    notice_with,
    section,
    sentence,
    size_text,
    tag,
    text_tag,
)
from modelsmith_webui.tab.texts import Texts
from modelsmith_webui.tab.words import EMA, GRADES, KINDS, LAYOUTS, PARTS, PREDICTIONS, SAYS, STATES, YES_NO

if TYPE_CHECKING:
    from modelsmith.identify.report import Component, Evidence, Report


# The types that have a schedule of betas, which may end in pure noise or not.
SCHEDULED = ("epsilon", "v_prediction")


def badge_row(report: Report, tr: Texts) -> str:
    """The badges of a report: the short form that also stands beside the checkpoint selector."""
    if report.error is not None and report.kind != "unsafe":
        return badge(tr(STATES["unreadable"]), "ms-bad")
    if report.kind == "unsafe":
        return badge(tr(KINDS["unsafe"]), "ms-bad", _told(report, tr))
    words = variant_text(report.badge()).split(" · ")
    parts = [badge(tr(part), "ms-main" if index == 0 else "") for index, part in enumerate(words)]
    if report.prediction.conflict:
        parts.append(badge(tr("contradicts itself"), "ms-bad"))
    elif report.warnings:
        parts.append(badge(tr("see warnings"), "ms-warn", _told(report, tr)))
    return "".join(part for part in parts if part)


def _told(report: Report, tr: Texts) -> str:
    return "\n".join(message.text(tr.message_language) for message in report.warnings)


def variant_text(variant: str) -> str:
    """A variant for eyes: ``dev-or-kontext-or-krea`` stands for three that one header fits."""
    return variant.replace("-or-", " / ")


def _head(report: Report, tr: Texts, beside: Beside) -> str:
    said = report.error is not None or report.kind in ("unsafe", "unknown")  # then the badge says what it is
    kind = "" if said else text_tag("span", tr(KINDS.get(report.kind, report.kind)), "ms-kind")
    title = text_tag("div", PurePath(report.file).name, "ms-title") + tag(
        "div", kind + badge_row(report, tr), "ms-badges"
    )
    inner = title + (text_tag("div", beside.place, "ms-path") if beside.place else "")
    buttons = "".join(_way(way, tr) for way in beside.leads)
    inner += tag("div", buttons, "ms-leads") if buttons else ""
    if beside.picture is None:
        return tag("header", inner, "ms-report-head")
    image = f'<img class="ms-preview" src="{esc(beside.picture)}" alt="{esc(tr("Preview picture of this file"))}">'
    return tag("header", image + tag("div", inner), "ms-report-head ms-with-preview")


def _way(way: str, tr: Texts) -> str:
    """A button that leads to what can be done; the page's script knows the way."""
    return text_tag("button", tr(WAYS[way]), "ms-mini ms-way", type="button", data_way=way)


def _evidence(evidence: Evidence, tr: Texts) -> str:
    grade = text_tag("span", tr(GRADES[evidence.grade]), f"ms-grade ms-grade-{evidence.grade}")
    says = text_tag("span", tr(SAYS.get(evidence.says, evidence.says)), "ms-says")
    source = text_tag("code", evidence.source_text(tr.message_language))
    return tag(
        "li",
        grade
        + says
        + tag("span", source + " " + text_tag("span", evidence.detail_text(tr.message_language)), "ms-why"),
    )


def _prediction(report: Report, tr: Texts) -> str:
    found = report.prediction
    if report.kind not in ("checkpoint", "diffusion_model") and not found.evidence:
        return ""  # nothing that predicts
    rows = [(tr("Prediction"), tr(PREDICTIONS.get(found.type, found.type)))]
    if found.type in SCHEDULED:
        rows.append((tr("Zero terminal SNR"), tr(YES_NO[found.zero_terminal_snr])))
    inner = facts(rows)
    if found.conflict:
        inner += notice("warning", tr("The file contradicts itself about its prediction type."))
    lines = "".join(_evidence(evidence, tr) for evidence in found.evidence)
    inner += tag("ul", lines, "ms-evidence") if lines else text_tag("p", tr("The file itself says nothing."), "ms-dim")
    return section(tr("Prediction and how it is known"), inner, "ms-prediction")


def part_text(component: Component, tr: Texts) -> str:
    """What a part is called: text encoders by their own names, which are the same in every language."""
    from modelsmith.identify.report import LABELS

    if component.name in PARTS:
        return tr(PARTS[component.name])
    known = LABELS.get(component.architecture or "", "")
    if _plain(known) == _plain(component.name):
        return known
    return LABELS.get(component.name.replace("_", "-"), component.name)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def precision_text(component: Component, tr: Texts) -> str:
    """The precision, and how the part is quantised where that is another word."""
    words = dict.fromkeys(word for word in (component.precision, component.quantization) if word)
    return " · ".join(tr(word) for word in words)


def _component_row(component: Component, tr: Texts) -> str:
    from modelsmith.identify.report import LABELS

    state = "" if component.complete is None else tr("complete") if component.complete else tr("incomplete")
    if component.complete is False and component.expected:
        missing = tr("{missing} of {expected} tensors missing", missing=component.missing, expected=component.expected)
        state = f"{state}: {missing}"
    precision = precision_text(component, tr)
    words = [part_text(component, tr)]
    words += [LABELS.get(component.architecture, component.architecture)] if component.architecture else []
    name = " · ".join(dict.fromkeys([*words, component.known_as] if component.known_as else words))
    cells = text_tag("td", name) + tag("td", badge(precision, f"ms-p-{component.precision.split('_')[0]}"))
    cells += text_tag("td", size_text(component.bytes) if component.bytes else "", "ms-number")
    return tag("tr", cells + text_tag("td", state, "ms-incomplete" if component.complete is False else ""))


def _components(components: Sequence[Component], tr: Texts) -> str:
    if not components:
        return ""
    total = sum(component.bytes for component in components)
    chart = _chart(components, total, tr) if total else ""
    names = (("Part", ""), ("Precision", ""), ("Size", "ms-number"), ("State", ""))
    head = "".join(text_tag("th", tr(name), css) for name, css in names)
    rows = "".join(_component_row(component, tr) for component in components)
    return section(tr("Parts"), chart + tag("table", tag("thead", tag("tr", head)) + tag("tbody", rows), "ms-parts"))


def _chart(components: Sequence[Component], total: int, tr: Texts) -> str:
    """Every part as wide as its share of the bytes, coloured by its precision, with its name where there is room."""
    shares = ""
    for component in components:
        share = component.bytes / total
        if not component.bytes:
            continue
        name = part_text(component, tr)
        told = f"{name}: {component.precision}, {size_text(component.bytes)} ({100 * share:.1f} %)"
        label = text_tag("span", name) + text_tag("small", tr(component.precision)) if share > 0.1 else ""
        css = f"ms-share-part ms-p-{component.precision.split('_')[0]}"
        shares += tag("div", label, css, style=f"flex:{component.bytes} 1 0", title=told)
    return tag("div", shares, "ms-parts-chart", role="img", aria_label=tr("Shares of the parts in the file"))


def architecture_text(report: Report, tr: Texts) -> str:
    """The architecture's name; where the header does not decide, all that fit."""
    from modelsmith.identify.report import LABELS

    if report.architecture:
        return LABELS.get(report.architecture, report.architecture)
    names = ", ".join(LABELS.get(name, name) for name in report.candidates)
    return tr("one of: {names}", names=names) if names else tr("unknown")


def layout_text(layout: str | None, tr: Texts) -> str:
    """By whose names the tensors go."""
    return tr(LAYOUTS.get(layout, layout)) if layout else ""


def _facts(report: Report, tr: Texts, sha256: str | None) -> str:
    rows = [
        (tr("Architecture"), architecture_text(report, tr)),
        (tr("Variant"), variant_text(report.variant or "")),
        (tr("Key names"), layout_text(report.layout, tr)),
        (tr("Size"), size_text(report.size) if report.size else ""),
        (tr("Precision"), tr(report.precision) if report.precision else ""),
        (tr("Quantization"), report.quantization or ""),
        (tr("Input channels"), str(report.in_channels or "")),
        (tr("EMA"), tr(EMA[report.ema]) if report.ema != "none" else ""),
        (tr("Tensors"), f"{report.tensors:,}" if report.tensors else ""),
        (tr("SHA-256 (known to the host)"), sha256 or ""),
    ]
    return section(tr("File"), facts(rows))


def _messages(report: Report, tr: Texts, ways: Mapping[str, str] | None = None) -> str:
    """All warnings and advice; ``ways`` has the ways that are open, by the id of the message that they help."""
    inner = ""
    alarm = "error" if report.kind == "unsafe" else "warning"
    for kind, messages in ((alarm, report.warnings), ("info", report.advice)):
        for message in messages:
            way = (ways or {}).get(message.id)
            inner += notice_with(kind, message.text(tr.message_language), _way(way, tr) if way is not None else "")
    return inner


WAYS: Mapping[str, str] = {
    "merge": "Use in Merge …",
    "convert": "Convert it …",
    "repair": "Repair it …",
    "prune": "Prune it …",
    "vae": "Look at its VAE …",
    "lora": "Work with this LoRA …",
    "override": "Set it for this file",
}
"""Where a report leads, by id; the page's script knows the ways."""


def loaded_line(status: LoadedStatus | None, report_path: str, tr: Texts) -> str:
    """What the model in memory was set to, when it is the file of this page."""
    if status is None or str(status.path) != report_path or status.decision.prediction is None:
        return ""
    parts = [tr(PREDICTIONS[status.decision.prediction]), tr("ZTSNR on") if status.decision.ztsnr else tr("ZTSNR off")]
    if status.sigma_max:
        parts.append(f"σ max {status.sigma_max:.2f}")
    if status.config:
        parts.append(status.config)
    return notice("done" if status.applied else "info", tr("In memory now: {state}", state=", ".join(parts)))


@dataclass(frozen=True)
class Beside:
    """What the page shows that is not in the report itself.

    place: where the file lies. extra: HTML shown under the head. picture: a data URI. ways: what can be done about a
    message, by its id. leads: what can be done with the file, for buttons under its name.
    """

    place: str = ""
    sha256: str | None = None
    extra: str = ""
    picture: str | None = None
    ways: Mapping[str, str] = field(default_factory=dict[str, str])
    leads: Sequence[str] = ()


def report_html(report: Report, tr: Texts, beside: Beside | None = None) -> str:
    """The whole page of one file."""
    beside = beside or Beside()
    head = _head(report, tr, beside)
    if report.error is not None:
        # The file's name and place stand above, and what to do is part of the error.
        told = (report.error_text(tr.message_language) or "").removeprefix(f"{report.file}: ")
        told = sentence(told[:1].upper() + told[1:], tr.message_language)
        return tag("article", head + notice("error", told), "ms-report")
    body = beside.extra + _messages(report, tr, beside.ways)
    left = _prediction(report, tr) + _components(report.components, tr)
    right = _facts(report, tr, beside.sha256) + _metadata(report, tr)
    columns = "".join(tag("div", column, "ms-column") for column in (left, right) if column)
    return tag("article", head + body + tag("div", columns, "ms-columns"), "ms-report")


def _metadata(report: Report, tr: Texts) -> str:
    rows = [(key, value if len(value) <= 200 else value[:200] + " …") for key, value in report.metadata.items()]
    return section(tr("Metadata"), facts(rows)) if rows else ""


def empty_html(text: str) -> str:
    """The page while nothing is chosen."""
    return tag("div", esc(text), "ms-empty")
