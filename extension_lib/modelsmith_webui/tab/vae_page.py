"""What a VAE is, what would be done with it and what came of it, in plain words."""

from __future__ import annotations

import re
from pathlib import Path

from modelsmith.files.dtypes import dtype
from modelsmith.vae.bake import MoveResult
from modelsmith.vae.families import FAMILIES as KINDS
from modelsmith.vae.families import Clue, Identity
from modelsmith.vae.fix import FixResult
from modelsmith.vae.health import HeaderHealth, Measurement, check_header
from modelsmith.vae.layout import VaeFile
from modelsmith_webui.host import Host
from modelsmith_webui.places import free_bytes
from modelsmith_webui.tab.convert_words import FAMILIES, FITS, HEALTH, INPUT_WORDS
from modelsmith_webui.tab.html import badge, facts, notice, size_text, tag, text_tag
from modelsmith_webui.tab.layer_chart import Bar, chart_html
from modelsmith_webui.tab.plan_page import seconds_text
from modelsmith_webui.tab.report_page import layout_text
from modelsmith_webui.tab.texts import Texts
from modelsmith_webui.tab.vae_form import VaeForm
from modelsmith_webui.tab.words import GRADES

_MEASURED = {None: "", True: "It overflows in fp16.", False: "It stays within fp16 on what was tried."}
_HEALTH_BADGES = {"safe": "ms-good", "at_risk": "ms-warn", "unknown": ""}


def identity_html(vae: VaeFile, identity: Identity, tr: Texts, overflowed: bool | None = None) -> str:
    """Which family, how that is known, and whether it runs in fp16 as far as the header tells.

    overflowed: what running it here has shown, None where it was not run.
    """
    health = check_header(vae, identity)
    badges = badge(label_text(identity, tr), "ms-main") + badge(", ".join(dtype(name).label for name in vae.dtypes))
    badges += badge(tr(HEALTH[health.verdict]), _HEALTH_BADGES[health.verdict], _health_text(health, tr))
    if identity.conflict:
        badges += badge(tr("contradicts itself"), "ms-bad")
    place = tr("inside a checkpoint, under {prefix}", prefix=vae.prefix) if vae.prefix else tr("a file of its own")
    rows = [
        (tr("Latent channels"), str(vae.layout.latent_channels)),
        (tr("Key names"), layout_text(vae.naming, tr)),
        (tr("Place"), place),
        (tr("In fp16"), _health_text(health, tr)),
        (tr("Measured here"), _MEASURED[overflowed] and tr(_MEASURED[overflowed])),
    ]
    lines = "".join(_clue(clue, tr) for clue in identity.clues)
    known = (
        tag("ul", lines, "ms-evidence") if lines else text_tag("p", tr("Only its shape says which it is."), "ms-dim")
    )
    return tag("div", tag("div", badges, "ms-badges") + facts(rows) + known, "ms-report ms-vae") + _cured(health, tr)


def _health_text(health: HeaderHealth, tr: Texts) -> str:
    reason, advice = tr.said(tr(health.reason)), tr(health.advice)
    return f"{reason}。{advice}" if tr.message_language == "ja" else f"{reason}. {advice}"


def input_text(name: str, tr: Texts) -> str:
    """What a VAE was tried on, in the user's language; names of pictures stay as they are."""
    if name in INPUT_WORDS:
        return tr(name)
    for start, form in (("latent of ", "latent of {what}"), ("image of ", "image of {what}")):
        if name.startswith(start):
            return tr(form, what=input_text(name[len(start) :], tr))
    made = re.match(r"latent (\d+), (.+)\Z", name)
    return tr("latent {number}, {kind}", number=made[1], kind=input_text(made[2], tr)) if made else name


def _cured(health: HeaderHealth, tr: Texts) -> str:
    return notice("done", tr("This VAE was cured for fp16 before.")) if health.cured else ""


def label_text(identity: Identity, tr: Texts) -> str:
    """The families that a VAE may be of, in the user's language."""
    if tr.message_language != "ja":
        return identity.label()
    return " または ".join(KINDS[family].label for family in identity.families) or tr("unknown")


def _clue(clue: Clue, tr: Texts) -> str:
    mark = text_tag("span", tr(GRADES[clue.grade]), f"ms-grade ms-grade-{clue.grade}")
    source, detail = clue.in_language(tr.message_language)
    why = tag(
        "span",
        text_tag("code", source) + " " + text_tag("span", detail),
        "ms-why",
    )
    return tag("li", mark + text_tag("span", FAMILIES[clue.says], "ms-says") + why)


def plan_html(form: VaeForm, host: Host, tr: Texts) -> str:
    """What would be done now. Raises the library's errors where something stands in the way."""
    file = form.chosen(host)
    if form.what == "measure":
        text = tr("The VAE is run on the CPU on three small made-up latents; a full-size one takes a while.")
        pictures = ", ".join(path.name for path in form.calibration().images)
        inner = text_tag("h4", tr("What will be measured")) + text_tag("p", text, "ms-dim")
        return tag("div", inner + facts([(tr("Pictures"), pictures)]), "ms-plan")
    target = form.target(host, file)
    source = form.into(host).path if form.what == "bake" else file.path
    rows = [
        (tr("From"), f"{source.name}, {size_text(source.stat().st_size)}"),
        (tr("VAE from"), f"{file.path.name}, {size_text(file.path.stat().st_size)}" if form.what == "bake" else ""),
        (tr("Pictures"), ", ".join(path.name for path in form.calibration().images) if form.what == "fix" else ""),
        *_place(target, tr),
    ]
    warning = ""
    if target.exists() and not form.overwrite:
        warning = notice("warning", tr("A file of this name exists already."), tr("Choose another name."))
    return tag("div", text_tag("h4", tr("What will be made")) + facts(rows) + warning, "ms-plan")


def _place(target: Path, tr: Texts) -> list[tuple[str, str]]:
    return [(tr("Written to"), str(target)), (tr("Free disk space"), size_text(free_bytes(target.parent)))]


def measured_html(name: str, found: Measurement, tr: Texts) -> str:
    """Which file, and each layer's largest value beside fp16's limit."""
    peak = found.peak
    told = f"{peak.value:,.0f} ({peak.layer})"
    if found.overflows:
        head = notice("warning", tr("It overflows in fp16."), tr("Run it in bf16 or fp32, or cure it."))
    else:
        head = notice("done", tr("It stays within fp16 on what was tried."))
    tried = "; ".join(input_text(one, tr) for one in found.inputs)
    rows = [(tr("File"), name), (tr("Largest value"), told), (tr("Tried on"), tried)]
    return head + facts(rows) + chart_html([Bar(layer.layer, layer.value) for layer in found.layers], tr)


def fixed_html(result: FixResult, tr: Texts) -> str:
    """The new file and its proof."""
    proof = result.proof
    before = {layer.layer: layer.value for layer in result.before.layers}
    bars = [Bar(layer.layer, before[layer.layer], layer.value) for layer in result.after.layers]
    rows = [
        (tr("File"), result.path.name),
        (tr("Largest value"), f"{result.before.peak.value:,.0f} → {result.after.peak.value:,.0f}"),
        (tr("Difference of the fp32 output"), f"{proof.fp32.largest:.1e}"),
        (tr("Error in fp16, mean"), f"{proof.fp16.mean:.1e}"),
        (
            tr("Calculated in fp16 itself"),
            tr("on everything")
            if proof.native
            else tr("on a small part, largest error {error}", error=f"{proof.small.largest:.1e}")
            if proof.small
            else "",
        ),
        (tr("Error of the original in bf16, mean"), f"{proof.bf16.mean:.1e}" if proof.bf16 else ""),
        (tr("Tensors scaled"), str(len(result.exponents))),
        (tr("Values that lost bits"), f"{result.inexact:,}" if result.inexact else ""),
        (tr("Time"), seconds_text(result.seconds, tr)),
        ("SHA-256", result.sha256 or ""),
    ]
    head = notice("done", tr("Cured and proved. The new file is in the list."))
    return head + facts(rows) + chart_html(bars, tr)


def moved_html(result: MoveResult, tr: Texts, *, baked: bool) -> str:
    """What a bake or an extraction wrote."""
    rows = [
        (tr("File"), result.path.name),
        (tr("VAE of"), label_text(result.identity, tr)),
        (tr("Tensors"), str(result.tensors)),
        (tr("Size"), size_text(result.bytes)),
        (tr("Time"), seconds_text(result.seconds, tr)),
        ("SHA-256", result.sha256 or ""),
    ]
    head = notice("done", tr("Written. The new file is in the list."))
    if baked:
        head += notice("info" if result.fit == "fits" else "warning", tr(FITS[result.fit]))
    return head + facts(rows)
