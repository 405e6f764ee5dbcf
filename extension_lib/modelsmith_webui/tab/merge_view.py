"""The view that merges: models, method, weights, a summary of what will be made, start and cancel."""

from __future__ import annotations

import logging
from typing import Any

import gradio as gr

from modelsmith.errors import Cancelled, ModelsmithError
from modelsmith.identify import identify
from modelsmith.merge.blocks import PLAIN
from modelsmith.merge.engine import run_merge
from modelsmith.merge.guard import CHOICES, PredictionMixError
from modelsmith.merge.plan import plan_merge
from modelsmith_webui.api import find_file
from modelsmith_webui.host import Host
from modelsmith_webui.tab.block_editor import editor_html
from modelsmith_webui.tab.compat import listen, unsaved
from modelsmith_webui.tab.files import checkpoint_names
from modelsmith_webui.tab.html import notice, tag
from modelsmith_webui.tab.merge_form import (
    SLOTS,
    STOP_AT_MIX,
    MergeForm,
    all_parameters,
    block_parameters,
    layout_of,
    methods,
)
from modelsmith_webui.tab.plan_page import failure_html, formula_html, plan_html, reporter, result_html
from modelsmith_webui.tab.report_page import badge_row
from modelsmith_webui.tab.texts import Texts
from modelsmith_webui.tab.turns import Turns
from modelsmith_webui.tab.words import PRECISIONS

logger = logging.getLogger(__name__)

SLOT_LABELS = ("Model A", "Model B", "Model C")


class MergeView:
    """Builds the view and answers its events."""

    def __init__(self, host: Host, tr: Texts) -> None:
        self.host, self.tr = host, tr
        self.turns = Turns()
        self.sliders: dict[str, Any] = {}
        self.texts: dict[str, Any] = {}
        self.editors: dict[str, Any] = {}

    # the page

    def build(self) -> None:
        with gr.Column(elem_id="modelsmith_merge", elem_classes=["ms-merge-view"]):
            with gr.Row(elem_classes=["ms-row", "ms-merge-columns"]):
                with gr.Column(scale=4, min_width=360, elem_id="modelsmith_merge_left"):
                    self._build_models()
                    self._build_target()
                with gr.Column(scale=5, min_width=420, elem_id="modelsmith_merge_right"):
                    self._build_weights()
            self._build_output()
        self._connect()

    def _build_models(self) -> None:
        names = checkpoint_names(self.host)
        self.slots: list[Any] = []
        self.badges: list[Any] = []
        for slot, label in zip(SLOTS, SLOT_LABELS, strict=True):
            with gr.Column(
                elem_id=f"modelsmith_slot_{slot.lower()}", elem_classes=["ms-slot"], visible=slot != "C"
            ) as column:
                identifier = f"modelsmith_model_{slot.lower()}"
                self.slots.append(unsaved(gr.Dropdown(choices=names, value=None, label=label, elem_id=identifier)))
                self.badges.append(gr.HTML("", elem_id=f"{identifier}_badge", elem_classes=["ms-slot-badge"]))
            if slot == "C":
                self.third = column
        with gr.Row(elem_classes=["ms-row", "ms-tools"]):
            self.refresh = gr.Button("Refresh list", elem_id="modelsmith_refresh", elem_classes=["ms-tool"])
            self.swap = gr.Button("Swap A and B", elem_id="modelsmith_swap", elem_classes=["ms-tool"])
            self.loaded = gr.Button(
                "Loaded checkpoint as A",
                elem_id="modelsmith_use_loaded",
                elem_classes=["ms-tool"],
                visible="loaded_model" in self.host.capabilities,
            )

    def _build_weights(self) -> None:
        known = methods()
        first = next(iter(known.values()))
        self.method = gr.Dropdown(choices=list(known), value=first.label, label="Method", elem_id="modelsmith_method")
        self.formula = gr.HTML(formula_html(first, self.tr), elem_id="modelsmith_method_formula")
        own = {parameter.id: parameter for parameter in first.parameters}
        for name, parameter in all_parameters().items():
            spec = own.get(name, parameter)
            self.sliders[name] = unsaved(
                gr.Slider(
                    minimum=spec.low,
                    maximum=spec.high,
                    step=spec.step,
                    value=spec.default,
                    label=spec.label,
                    visible=name in own,
                    elem_id=f"modelsmith_parameter_{name}",
                )
            )
        for name in block_parameters():
            shown = name in own and own[name].per_block
            self.editors[name] = gr.HTML(self._editor(name, None), elem_id=f"modelsmith_editor_{name}", visible=shown)
            self.texts[name] = unsaved(
                gr.Textbox(
                    value="",
                    label=f"Block weights: {all_parameters()[name].label}",
                    placeholder="empty: the same weight everywhere",
                    lines=1,
                    max_lines=3,
                    visible=shown,
                    elem_id=f"modelsmith_blocks_{name}",
                    elem_classes=["ms-weights-text"],
                )
            )

    def _build_target(self) -> None:
        with gr.Row(elem_classes=["ms-row"], elem_id="modelsmith_output"):
            self.name = unsaved(
                gr.Textbox(
                    value="",
                    label="Name of the new file",
                    placeholder="empty: made from the models",
                    max_lines=1,
                    elem_id="modelsmith_output_name",
                    scale=3,
                )
            )
            self.overwrite = unsaved(
                gr.Checkbox(
                    value=False,
                    label="Replace an existing file",
                    elem_id="modelsmith_overwrite",
                    scale=2,
                    min_width=120,
                )
            )
        self.precision = gr.Radio(
            choices=list(PRECISIONS), value="as model A", label="Output precision", elem_id="modelsmith_precision"
        )

    def _build_output(self) -> None:
        self.mix = unsaved(
            gr.Radio(
                choices=[STOP_AT_MIX, *CHOICES.values()],
                value=STOP_AT_MIX,
                label="When prediction types would be mixed",
                visible=False,
                elem_id="modelsmith_mix",
            )
        )
        self.plan = gr.HTML(self._hint(), elem_id="modelsmith_plan")
        with gr.Row(elem_classes=["ms-row", "ms-run"]):
            self.start = gr.Button("Merge", variant="primary", elem_id="modelsmith_merge_start")
            self.cancel = gr.Button("Cancel", elem_id="modelsmith_merge_cancel")
        with gr.Column(elem_id="modelsmith_progress_panel"):
            gr.HTML("", elem_id="modelsmith_progress")
        self.result = gr.HTML("", elem_id="modelsmith_result")
        self.task = gr.Textbox(value="", visible=False, label="Merge task", elem_id="modelsmith_task")

    @property
    def inputs(self) -> list[Any]:
        """In the order that MergeForm.from_values reads."""
        fixed = [*self.slots, self.method, self.name, self.precision, self.overwrite, self.mix]
        return [*fixed, *self.sliders.values(), *self.texts.values()]

    # events

    def _connect(self) -> None:
        editors = list(self.editors.values())
        for index, slot in enumerate(self.slots):
            extra = editors if index == 0 else []
            answer = self.first_chosen if index == 0 else self.badge
            listen(slot.change, answer, [slot], [self.badges[index], *extra])
        listen(
            self.method.change,
            self.method_chosen,
            [self.method],
            [self.formula, self.third, *self.sliders.values(), *self.texts.values(), *editors],
        )
        listen(self.refresh.click, self.refresh_lists, [], self.slots)
        listen(self.swap.click, lambda a, b: (b, a), self.slots[:2], self.slots[:2])
        listen(self.loaded.click, self.use_loaded, [], [self.slots[0]])
        ticketed, planned = [self.task, *self.inputs], [self.plan, self.mix]
        for component in self.inputs:
            listen(component.change, self.show_plan, ticketed, planned, js="modelsmithPlan")
        outputs = [*self.slots, self.result]
        job = self.host.wrap_job(self.merge, extra_outputs=[gr.update() for _ in self.slots])
        listen(self.start.click, job, [self.task, *self.inputs], outputs, js=self.host.progress_script, job=True)
        listen(self.cancel.click, self.host.interrupt)

    def _hint(self) -> str:
        return notice("info", self.tr("Choose the models to see what will be made."))

    def _editor(self, parameter: str, model: str | None) -> str:
        layout = PLAIN
        if model:
            try:
                layout = layout_of(find_file(self.host.checkpoints(), model))
            except ModelsmithError as error:
                logger.info("no blocks are shown: %s", error)
        return editor_html(
            layout,
            self.tr,
            text_id=f"modelsmith_blocks_{parameter}",
            slider_id=f"modelsmith_parameter_{parameter}",
        )

    def badge(self, name: str | None) -> str:
        """What the chosen checkpoint is, in short."""
        if not name:
            return ""
        try:
            report = identify(find_file(self.host.checkpoints(), name).path)
        except ModelsmithError as error:
            return notice("error", error.message, error.remedy)
        return tag("div", badge_row(report, self.tr), "ms-badges")

    def first_chosen(self, name: str | None) -> list[Any]:
        """Model A decides which blocks there are."""
        return [self.badge(name), *(self._editor(parameter, name) for parameter in self.editors)]

    def method_chosen(self, label: str) -> list[Any]:
        """Show the formula, and only the controls that the method has."""
        spec = methods()[label]
        own = {parameter.id: parameter for parameter in spec.parameters}
        sliders = [
            gr.update(
                visible=True,
                minimum=own[name].low,
                maximum=own[name].high,
                step=own[name].step,
                value=own[name].default,
                label=own[name].label,
            )
            if name in own
            else gr.update(visible=False)
            for name in self.sliders
        ]
        blocks = [gr.update(visible=name in own and own[name].per_block) for name in self.texts]
        third = gr.update(visible=(spec.models[1] or 3) >= 3)
        return [formula_html(spec, self.tr), third, *sliders, *blocks, *blocks]

    def refresh_lists(self) -> list[Any]:
        """Look for new files and offer them in every slot."""
        self.host.refresh_checkpoints()
        return self.offers()

    def offers(self) -> list[Any]:
        """The checkpoints that the host has now, for each slot."""
        names = checkpoint_names(self.host)
        return [gr.update(choices=names) for _ in self.slots]

    def use_loaded(self) -> Any:
        """The checkpoint in memory as model A."""
        path = self.host.loaded_checkpoint()
        name = next((file.name for file in self.host.checkpoints() if file.path == path), None)
        return gr.update(value=name) if name else gr.update()

    def show_plan(self, ticket: str, *values: Any) -> list[Any]:
        """The summary of what would be made now; nothing new where a later answer was shown already."""
        answer = self.plan_of(MergeForm.from_values(values))
        return answer if self.turns.may_show(ticket) else [gr.update(), gr.update()]

    def plan_of(self, form: MergeForm) -> list[Any]:
        """The summary, or the one thing that stands in the way; and whether to offer a merge across types."""
        insisting = form.mix != STOP_AT_MIX
        try:
            return [plan_html(plan_merge(form.request(self.host)), self.tr), gr.update(visible=insisting)]
        except PredictionMixError as error:
            return [notice("warning", error.message, error.remedy), gr.update(visible=True)]
        except ModelsmithError as error:
            if form.missing():
                return [self._hint(), gr.update(visible=insisting)]
            return [failure_html(error), gr.update(visible=insisting)]

    def merge(self, _task: str, *values: Any) -> list[Any]:
        """Run the merge as the host's job. The last output is HTML, to which a webui adds its own line."""
        form = MergeForm.from_values(values)
        control = self.host.job_control()
        try:
            plan = plan_merge(form.request(self.host))
            result = run_merge(plan, reporter(self.tr, control.report), control.cancelled)
        except Cancelled:
            return [*self.offers(), notice("info", self.tr("Cancelled. Nothing was written."))]
        except (ModelsmithError, OSError, MemoryError) as error:
            logger.warning("the merge failed: %s", error)
            return [*self.offers(), failure_html(error)]
        self.host.refresh_checkpoints()
        return [*self.offers(), result_html(result, self.tr)]
