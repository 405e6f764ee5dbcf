"""Ways from a report to what can be done with its file: buttons only where they lead somewhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from modelsmith_webui.tab.compat import listen
from modelsmith_webui.tab.convert_view import ConvertView
from modelsmith_webui.tab.convert_words import ACTIONS, VAE_ACTIONS
from modelsmith_webui.tab.files import PREFIXES
from modelsmith_webui.tab.lora_view import LoraView
from modelsmith_webui.tab.lora_words import LORA_ACTIONS
from modelsmith_webui.tab.merge_view import MergeView
from modelsmith_webui.tab.report_page import WAYS
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


def leads_of(report: Report, *, checkpoint: bool) -> list[str]:
    """What can be done with a file, in the order of the buttons. ``checkpoint``: whether the host lists it as one."""
    if report.error is not None or report.kind == "unsafe":
        return []
    told = {message.id for message in (*report.warnings, *report.advice)}
    vae = report.kind == "vae" or any(part.name.startswith("vae") for part in report.components)
    known = report.kind in ("checkpoint", "diffusion_model", "vae", "text_encoder") and not report.recipe
    offered = (
        ("merge", checkpoint and report.kind in ("checkpoint", "diffusion_model")),
        ("convert", known),
        ("vae", vae and not report.recipe),
        ("lora", report.kind == "lora"),
        ("repair", bool(told & REPAIRABLE)),
        ("prune", bool(told & PRUNABLE)),
    )
    return [way for way, leads in offered if leads]


@dataclass(frozen=True)
class WaysTo:
    """The views that a report leads to."""

    merge: MergeView
    convert: ConvertView
    vae: VaeView
    lora: LoraView


class ReportLinks:
    """Buttons out of sight, which those in the report press (javascript/modelsmith_inspect.js). Each opens the other
    view with the file chosen."""

    def build(self) -> None:
        with gr.Row(elem_id="modelsmith_inspect_links", elem_classes=["ms-out-of-sight"]):
            self.merge = gr.Button(WAYS["merge"], elem_id="modelsmith_link_merge")
            self.convert = gr.Button(WAYS["convert"], elem_id="modelsmith_link_convert")
            self.repair = gr.Button(WAYS["repair"], elem_id="modelsmith_link_repair")
            self.prune = gr.Button(WAYS["prune"], elem_id="modelsmith_link_prune")
            self.vae = gr.Button(WAYS["vae"], elem_id="modelsmith_link_vae")
            self.lora = gr.Button(WAYS["lora"], elem_id="modelsmith_link_lora")

    def connect(self, file: Any, views: Any, to: WaysTo) -> None:
        """``file`` is the list of the Inspect view, ``views`` the tabs."""
        listen(self.merge.click, self._merge, [file], [views, to.merge.slots.fields["a"]])
        target = [views, to.convert.fields["action"], to.convert.fields["file"]]
        for button, action in ((self.convert, "convert"), (self.repair, "repair"), (self.prune, "prune")):
            listen(button.click, partial(self._convert, action), [file], target)
        listen(self.vae.click, self._vae, [file], [views, to.vae.fields["action"], to.vae.fields["file"]])
        listen(self.lora.click, self._lora, [file], [views, to.lora.fields["action"], to.lora.fields["lora"]])

    @staticmethod
    def _merge(label: str | None) -> list[Any]:
        return [gr.update(selected="merge"), gr.update(value=label)]

    @staticmethod
    def _convert(action: str, label: str | None) -> list[Any]:
        return [gr.update(selected="convert"), gr.update(value=ACTIONS[action]), gr.update(value=label)]

    @staticmethod
    def _vae(label: str | None) -> list[Any]:
        return [gr.update(selected="vae"), gr.update(value=VAE_ACTIONS["measure"]), gr.update(value=label)]

    @staticmethod
    def _lora(label: str | None) -> list[Any]:
        name = (label or "").removeprefix(PREFIXES["lora"])
        return [gr.update(selected="lora"), gr.update(value=LORA_ACTIONS["check"]), gr.update(value=name)]
