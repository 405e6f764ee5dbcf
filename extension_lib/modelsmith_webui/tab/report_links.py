"""Ways from a report to what can be done about it: below the report, only where they lead somewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from modelsmith.errors import ModelsmithError
from modelsmith_webui.host import Host
from modelsmith_webui.tab.compat import listen
from modelsmith_webui.tab.convert_view import ConvertView
from modelsmith_webui.tab.convert_words import ACTIONS, VAE_ACTIONS
from modelsmith_webui.tab.files import find_labelled
from modelsmith_webui.tab.vae_view import VaeView

if TYPE_CHECKING:
    from modelsmith.identify import Report

REPAIRABLE = frozenset(
    {"prediction-conflict", "stray-v-pred", "stray-ztsnr", "position-ids-dtype", "position-ids-damaged", "twice",
     "mixed-metadata", "needs-vae", "needs-text-encoder"}
)  # fmt: skip
PRUNABLE = frozenset({"ema-both", "training-leftovers"})
"""Ids of the warnings that a repair, or pruning, does something about."""


OVERRIDABLE = frozenset({"prediction-conflict", "resolve-conflict", "undetermined-sd2", "v-ztsnr-unknown"})
CURABLE = frozenset({"fp16-sdxl-vae"})
"""Those that an override of this file, and the VAE view, do something about."""


def ways_of(report: Report, *, override: bool) -> dict[str, str]:
    """What can be done about each message of a report, by its id. ``override``: whether the host keeps overrides."""
    found: dict[str, str] = {}
    for message in (*report.warnings, *report.advice):
        if message.id in OVERRIDABLE and override:
            found[message.id] = "override"
        elif message.id in REPAIRABLE:
            found[message.id] = "repair"
        elif message.id in PRUNABLE:
            found[message.id] = "prune"
        elif message.id in CURABLE:
            found[message.id] = "vae"
    return found


class ReportLinks:
    """Buttons under the report of the Inspect view. Each opens the other view with the file chosen."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def build(self) -> None:
        with gr.Row(visible=False, elem_id="modelsmith_inspect_links", elem_classes=["ms-row", "ms-tools"]) as self.row:
            self.repair = gr.Button("Repair this file …", elem_id="modelsmith_link_repair", elem_classes=["ms-tool"])
            self.prune = gr.Button("Prune this file …", elem_id="modelsmith_link_prune", elem_classes=["ms-tool"])
            self.vae = gr.Button("Look at its VAE …", elem_id="modelsmith_link_vae", elem_classes=["ms-tool"])

    def connect(self, file: Any, views: Any, convert: ConvertView, vae: VaeView) -> None:
        """``file`` is the list of the Inspect view, ``views`` the tabs."""
        buttons = [self.row, self.repair, self.prune, self.vae]
        listen(file.change, self.offer, [file], buttons)
        target = [views, convert.fields["action"], convert.fields["file"]]
        listen(self.repair.click, lambda label: self._convert(label, "repair"), [file], target)
        listen(self.prune.click, lambda label: self._convert(label, "prune"), [file], target)
        listen(self.vae.click, self._vae, [file], [views, vae.fields["action"], vae.fields["file"]])

    def offer(self, label: str | None) -> list[Any]:
        """Which of the buttons lead somewhere for this file."""
        from modelsmith.identify import identify

        try:
            report = identify(find_labelled(self.host, label).path) if label else None
        except ModelsmithError:
            report = None
        shown = _leads(report) if report is not None and report.error is None else (False, False, False)
        return [gr.update(visible=any(shown)), *(gr.update(visible=one) for one in shown)]

    def _convert(self, label: str | None, action: str) -> list[Any]:
        return [gr.update(selected="convert"), gr.update(value=ACTIONS[action]), gr.update(value=label)]

    def _vae(self, label: str | None) -> list[Any]:
        return [gr.update(selected="vae"), gr.update(value=VAE_ACTIONS["measure"]), gr.update(value=label)]


def _leads(report: Report) -> tuple[bool, bool, bool]:
    """Whether there is something to repair, to prune, and a VAE to look at."""
    told = {message.id for message in (*report.warnings, *report.advice)}
    vae = report.kind == "vae" or any(part.name.startswith("vae") for part in report.components)
    return bool(told & REPAIRABLE), bool(told & PRUNABLE), vae
