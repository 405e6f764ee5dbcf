"""The view that merges: models, method, weights, a summary of what will be made, start and cancel."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from modelsmith.devices import sees_gpu
from modelsmith.errors import Cancelled, ModelsmithError
from modelsmith.merge.mix_choices import CHOICES
from modelsmith_webui.host import Host, JobControl, find_file
from modelsmith_webui.tab.compat import hear, listen, plan_again_button, unsaved
from modelsmith_webui.tab.html import answer_mark, notice, text_tag
from modelsmith_webui.tab.merge_extras import MergeExtras
from modelsmith_webui.tab.merge_form import STOP_AT_MIX, MergeForm, field_names
from modelsmith_webui.tab.model_slots import RECIPE_OF, ModelSlots, own_recipe
from modelsmith_webui.tab.plan_page import (
    failure_html,
    plan_html,
    recipe_made_html,
    refusal_html,
    reporter,
    result_html,
)
from modelsmith_webui.tab.recipe_files import finder
from modelsmith_webui.tab.remedies import SAVE_FIRST, Remedies
from modelsmith_webui.tab.speed import Speed
from modelsmith_webui.tab.texts import Texts
from modelsmith_webui.tab.turns import Turns
from modelsmith_webui.tab.weights_panel import WeightsPanel
from modelsmith_webui.tab.words import PRECISIONS

if TYPE_CHECKING:
    from modelsmith.merge.request import MergeResult

logger = logging.getLogger(__name__)
ENDED_KEPT = 8


class MergeView:
    """Builds the view and answers its events."""

    def __init__(self, host: Host, tr: Texts) -> None:
        self.host, self.tr = host, tr
        self.turns = Turns()
        self.slots, self.weights, self.extras = ModelSlots(host, tr), WeightsPanel(host, tr), MergeExtras(host, tr)
        self.remedies, self.speed = Remedies(host, tr), Speed(host)
        self.own: dict[str, Any] = {}
        self.ended: dict[str, str] = {}

    # the page

    def build(self) -> None:
        with gr.Column(elem_id="modelsmith_merge", elem_classes=["ms-merge-view"]):
            with gr.Row(elem_classes=["ms-row", "ms-merge-columns"]):
                with gr.Column(scale=4, min_width=360, elem_id="modelsmith_merge_left"):
                    self.slots.build()
                    self._build_target()
                    self.extras.build()
                with gr.Column(scale=5, min_width=420, elem_id="modelsmith_merge_right"):
                    self.weights.build()
            self._build_output()
        self._connect()

    def _build_target(self) -> None:
        with gr.Row(elem_classes=["ms-row"], elem_id="modelsmith_output"):
            self.own["name"] = unsaved(
                gr.Textbox(
                    value="",
                    label="Name of the new file",
                    placeholder="empty: made from the models",
                    max_lines=1,
                    elem_id="modelsmith_output_name",
                    scale=3,
                )
            )
            self.own["overwrite"] = unsaved(
                gr.Checkbox(
                    value=False,
                    label="Replace an existing file",
                    elem_id="modelsmith_overwrite",
                    scale=2,
                    min_width=120,
                )
            )
        self.own["precision"] = gr.Radio(
            choices=list(PRECISIONS),
            value="as model A",
            label="Output precision",
            elem_id="modelsmith_precision",
            elem_classes=["ms-pills"],
        )
        self.own["use_gpu"] = unsaved(
            gr.Checkbox(
                value=False,
                label="Use the GPU where it helps",
                info="Methods over whole tensors, such as rotations and singular values, are computed there. The last "
                "bits may differ. Not yet tried on a real GPU.",
                visible=False,
                elem_id="modelsmith_use_gpu",
            )
        )

    def _build_output(self) -> None:
        self.plan = gr.HTML(self._hint(), elem_id="modelsmith_plan")
        self.own["mix"] = unsaved(
            gr.Radio(
                choices=[STOP_AT_MIX, *CHOICES.values()],
                value=STOP_AT_MIX,
                label="When prediction types would be mixed",
                visible=False,
                elem_id="modelsmith_mix",
                elem_classes=["ms-pills"],
            )
        )
        with gr.Row(elem_classes=["ms-row", "ms-run"]):
            self.start = gr.Button("Merge", variant="primary", elem_id="modelsmith_merge_start")
            self.cancel = gr.Button("Cancel", elem_id="modelsmith_merge_cancel")
            self.queue = gr.Button("Add to the queue", elem_id="modelsmith_merge_queue")
            self.unsaved_merge = gr.Button("Merge without saving", elem_id="modelsmith_merge_recipe")
            self.choose = gr.Checkbox(
                value=True,
                label="Choose the result in the checkpoint list",
                elem_id="modelsmith_choose_result",
                visible="webui" in self.host.capabilities,
            )
        with gr.Column(elem_id="modelsmith_progress_panel"):
            gr.HTML("", elem_id="modelsmith_progress")
        self.result = gr.HTML("", elem_id="modelsmith_result")
        self.task = gr.Textbox(value="", visible=False, label="Merge task", elem_id="modelsmith_task")
        # Out of sight but in the page: the script says here which button of the summary was pressed.
        asked = gr.Textbox(value="", label="Asked for", elem_id="modelsmith_asked", elem_classes=["ms-out-of-sight"])
        self.asked = unsaved(asked)
        self.plan_again = plan_again_button("modelsmith_plan_again")

    @property
    def fields(self) -> Mapping[str, Any]:
        """Every component that a form is read from, by the form's field names."""
        return {**self.slots.fields, **self.weights.fields, **self.extras.fields, **self.own}

    @property
    def inputs(self) -> list[Any]:
        """In the order that MergeForm.from_values reads."""
        fields = self.fields
        return [fields[name] for name in field_names()]

    # events

    def _connect(self) -> None:
        self.slots.connect()
        method, a = self.weights.fields["method"], self.slots.fields["a"]
        self.weights.connect(a, self.slots.fields["b"], self.slots.fields["c"])
        # "input", so that a form that is filled in keeps its own numbers.
        listen(method.input, self.method_chosen, [method, a], self.shown_by_method)
        ticketed = [self.task, *self.inputs]
        for component in self.inputs:
            listen(component.change, self.show_plan, ticketed, [self.plan, self.own["mix"]], js="modelsmithPlan")
        listen(self.plan_again.click, self.show_plan, ticketed, [self.plan, self.own["mix"]], js="modelsmithPlan")
        # What a dropped event of a model's field would have changed, too.
        self.slots.show_again(self.plan_again.click)
        listen(self.plan_again.click, self.weights.show_blocks, [a, method], [self.weights.editor])
        hear(self.asked, self.take_remedy, self.filled, self.inputs)
        outputs = [*self.slots.lists, self.result]
        job = self.host.wrap_job(self.merge, extra_outputs=[gr.update() for _ in self.slots.lists])
        done = listen(self.start.click, job, ticketed, outputs, js=self.host.progress_script, job=True)
        # The name may be taken now, and the time that a merge takes is known.
        listen(done.then, self.show_plan, ticketed, [self.plan, self.own["mix"]], js="modelsmithMerged")
        listen(self.cancel.click, self.host.interrupt, [self.task], js="modelsmithStop_merge")
        queued = listen(self.queue.click, self.enqueue, ticketed, [self.result], js="modelsmithAsk_queue")
        listen(queued.then, None, js="modelsmithAnswered_queue")
        kept = listen(self.unsaved_merge.click, self.write_recipe, ticketed, outputs, js="modelsmithAsk_recipe")
        listen(kept.then, None, js="modelsmithAnswered_recipe")

    def connect_load(self, load: Any) -> None:
        """A page that is loaded anew offers the files that are there now, and the controls of the saved method."""
        method, a = self.weights.fields["method"], self.slots.fields["a"]
        listen(load, self.slots.offers_since_start, [], self.slots.lists)
        listen(load, self.extras.rows_html, [], [self.extras.rows])
        listen(load, self.method_chosen, [method, a], self.shown_by_method)
        listen(load, self.offer_gpu, [], [self.own["use_gpu"]])

    @staticmethod
    def offer_gpu() -> Any:
        """Show the choice where there is a GPU: asked when a page is loaded, since the start waits for no torch."""
        return gr.update(visible=sees_gpu())

    @property
    def shown_by_method(self) -> list[Any]:
        """What :meth:`method_chosen` updates."""
        return [*self.slots.shown_by_method, *self.extras.shown_by_method, *self.weights.shown_by_method]

    def method_chosen(self, label: str, a: str | None = None) -> list[Any]:
        """Show the formula, and only the slots and controls that the method has."""
        return [*self.slots.for_method(label), *self.extras.for_method(label), *self.weights.for_method(label, a)]

    @property
    def filled(self) -> list[Any]:
        """What :meth:`fill` updates: every field, what is shown with the method, and the line that says so."""
        shown = [*self.slots.shown_by_method, self.weights.formula, self.weights.editor]
        return [*self.inputs, *shown, self.result]

    def fill(self, form: MergeForm) -> list[Any]:
        """Put a form into the fields, for a remedy, a replay or an edit from the history."""
        label = form.spec.label
        updates = {name: gr.update(value=value) for name, value in zip(field_names(), form.values(), strict=True)}
        updates["method"] = gr.update(value=label)
        shown = self.weights.for_method(label, form.models[0], form.parameters)
        controls = [name for name in field_names() if name.startswith(("parameter_", "blocks_"))]
        rules = [name for name in field_names() if name.startswith("rules_")]
        for name, update in zip([*controls, *rules], [*shown[2:], *self.extras.for_method(label)], strict=True):
            updates[name] = {**updates[name], **update}
        return [*updates.values(), *self.slots.for_method(label), *shown[:2], ""]

    def fill_recipe(self, recipe: Mapping[str, Any]) -> list[Any]:
        """Put a recipe into the fields, for a replay or an edit. Raises BadFileError where one of its files is gone."""
        from modelsmith.merge.replay import request_from_recipe

        request = request_from_recipe(recipe, finder(self.host), self.host.checkpoint_folder() / "recipe.safetensors")
        return self.fill(MergeForm.from_request(request, self.host))

    def take_remedy(self, message: str, *values: Any) -> list[Any]:
        """Put the form of the remedy that was pressed into the fields, or the recipe of a model; or show what a job
        ended with that was started before the page was loaded."""
        from modelsmith.files.header import read_header

        nothing = [gr.update() for _ in self.filled]
        try:
            asked = json.loads(message)
            if "ended" in asked:
                return [*nothing[:-1], self.ended.get(str(asked["ended"]), "")]
            wanted = str(asked["remedy"])
            if wanted.startswith(SAVE_FIRST):
                return [*nothing[:-1], self._save_first(wanted.removeprefix(SAVE_FIRST))]
            if wanted.startswith(RECIPE_OF):
                file = find_file(self.host.checkpoints(), wanted.removeprefix(RECIPE_OF))
                return self.fill_recipe(own_recipe(read_header(file.path)))
            remedy = self.remedies.find(MergeForm.from_values(values), wanted)
        except ModelsmithError as error:
            return [*nothing[:-1], failure_html(error, self.tr)]
        except (ValueError, KeyError, TypeError) as error:
            logger.info("no remedy was taken: %s", error)
            return nothing
        return self.fill(remedy.form) if remedy else nothing

    def _save_first(self, name: str) -> str:
        """Make a file of a recipe checkpoint, in the queue. Raises the library's errors."""
        from modelsmith_webui.merging import free_path, open_recipe, queue_merge, request_again

        file = find_file(self.host.checkpoints(), name)
        request = request_again(self.host, open_recipe(file.path), "")
        job = queue_merge(self.host, replace(request, output=free_path(request.output)))
        told = self.tr("{name} is in the queue; the History view shows how far it has come.", name=job.title)
        return notice("done", told, self.tr("When it is done, refresh the list and choose it."))

    def _hint(self, missing: Sequence[str] = ()) -> str:
        told = self.tr("Choose the models to see what will be made.")
        if len(missing) == 1:
            told = self.tr("Choose model {letter} to see what will be made.", letter=missing[0])
        return text_tag("div", told, "ms-plan-empty")

    def show_plan(self, ticket: str, *values: Any) -> list[Any]:
        """The summary of what would be made now; nothing new where a later answer was shown already."""
        html, mix = self.plan_of(MergeForm.from_values(values))
        return [html + answer_mark(ticket), mix] if self.turns.may_show(ticket) else [gr.update(), gr.update()]

    def plan_of(self, form: MergeForm) -> list[Any]:
        """The summary, or the one thing that stands in the way with its ways out; and whether to offer a merge across
        prediction types."""
        from modelsmith.merge.guard import PredictionMixError
        from modelsmith.merge.plan import plan_merge
        from modelsmith_webui.merging import remember_shown

        insisting = gr.update(visible=form.mix != STOP_AT_MIX)
        try:
            plan = plan_merge(form.request(self.host))
            remember_shown(self.host, plan.request)
            remedies = self.remedies.for_plan(form, plan)
            html = plan_html(plan, self.tr, remedies, self.speed.expected_seconds(plan))
            return [html, insisting]
        except ModelsmithError as error:
            if form.missing():
                return [self._hint(form.missing()), insisting]
            names = [name for name in form.models if name]
            folder = str(self.host.checkpoint_folder())
            html = refusal_html(error, self.tr, self.remedies.for_error(form, error), names, folder)
            return [html, self._mix_choices(form) if isinstance(error, PredictionMixError) else insisting]

    def _mix_choices(self, form: MergeForm) -> Any:
        """What the result of a merge across prediction types may be called: the types of its models, no others."""
        from modelsmith.identify import identify

        types = dict.fromkeys(identify(file.path).prediction.type for file in form.chosen(self.host))
        choices = [STOP_AT_MIX, *(CHOICES[name] for name in types if name in CHOICES)]
        return gr.update(visible=True, choices=choices, value=form.mix if form.mix in choices else STOP_AT_MIX)

    def merge(self, task: str, *values: Any) -> list[Any]:
        """Run the merge as the host's job. The last output is HTML, to which a webui adds its own line."""
        html = self._merged(MergeForm.from_values(values))
        # The page may be gone by now: one that is loaded anew asks for this.
        self.ended = dict([*self.ended.items(), (task, html)][-ENDED_KEPT:])
        return [*self.slots.offers(), html]

    def _merged(self, form: MergeForm) -> str:
        try:
            return result_html(*self._run(form, self.host.job_control()), self.tr)
        except Cancelled:
            return notice("info", self.tr("Cancelled. Nothing was written."))
        except (ModelsmithError, OSError, MemoryError) as error:
            logger.warning("the merge failed: %s", error)
            return failure_html(error, self.tr)

    def _run(self, form: MergeForm, control: JobControl) -> tuple[MergeResult, str]:
        """Merge, and remember how fast it was and what was done. Returns the result and its name in the host's list."""
        from modelsmith.merge.engine import run_merge
        from modelsmith.merge.plan import plan_merge
        from modelsmith_webui.history import history_of

        plan = plan_merge(form.request(self.host))
        result = run_merge(plan, reporter(self.tr, control.report), control.cancelled)
        self.speed.learn(plan, result)
        history_of(self.host).merged(plan, result)
        self.host.refresh_checkpoints()
        return result, self._title(result.path)

    def _title(self, path: Path) -> str:
        return next((file.name for file in self.host.checkpoints() if file.path == path), path.name)

    def enqueue(self, _ticket: str, *values: Any) -> str:
        """Let the merge wait for its turn, so that the next one can be set up at once."""
        from modelsmith.merge.plan import plan_merge
        from modelsmith_webui.background import queue_of
        from modelsmith_webui.merging import refuse_twice

        form = MergeForm.from_values(values)
        try:
            plan = plan_merge(form.request(self.host))
            refuse_twice(self.host, plan.request)
            form = replace(form, name=plan.request.output.stem)

            def work(control: JobControl) -> dict[str, Any]:
                result, _ = self._run(form, control)
                return {"file": result.path.name, "seconds": round(result.seconds, 2), "sha256": result.sha256}

            job = queue_of(self.host).start("merge", work, plan.request.output.name)
        except ModelsmithError as error:
            return failure_html(error, self.tr)
        waiting = sum(not one.over for one in queue_of(self.host).jobs())
        text = self.tr("{name} is in the queue, which has {count} now.", name=job.title, count=waiting)
        return notice("done", text)

    def write_recipe(self, _ticket: str, *values: Any) -> list[Any]:
        """Keep the merge as a recipe checkpoint: a small file that the webui merges when it is chosen."""
        from modelsmith_webui.merging import save_recipe

        form = MergeForm.from_values(values)
        try:
            # A name that was left open is made free; one that was typed and is taken is told.
            unnamed = not form.name.strip() and not form.overwrite
            made = save_recipe(self.host, form.request(self.host), numbered=unnamed)
        except (ModelsmithError, OSError) as error:
            return [*self.slots.offers(), failure_html(error, self.tr)]
        return [*self.slots.offers(), recipe_made_html(made.path, self.tr, self._title(made.path))]
