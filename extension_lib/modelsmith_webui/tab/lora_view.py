"""The view for LoRAs: bake them into a checkpoint, extract, merge and resize them, see whether one fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import gradio as gr

from modelsmith.devices import sees_gpu
from modelsmith.errors import ModelsmithError
from modelsmith_webui.host import Host, JobControl
from modelsmith_webui.places import make_folder
from modelsmith_webui.tab.compat import listen, unsaved
from modelsmith_webui.tab.files import checkpoint_names
from modelsmith_webui.tab.html import notice, text_tag
from modelsmith_webui.tab.job_panel import JobPanel, Values
from modelsmith_webui.tab.lora_form import LoraForm
from modelsmith_webui.tab.lora_rows import lora_files, rows_html
from modelsmith_webui.tab.lora_words import (
    CHECKPOINT_PRECISIONS,
    COMPONENTS,
    LORA_ABOUT,
    LORA_ACTIONS,
    LORA_PRECISIONS,
    LORA_START,
    NEEDED,
    SHOWN,
)
from modelsmith_webui.tab.plan_page import failure_html
from modelsmith_webui.tab.texts import Texts

FIRST = "bake"
MOST_RANK = 512
ROWS = "modelsmith_lora_list"


class LoraView:
    """Builds the view and answers its events. Only the controls of the chosen action are shown."""

    def __init__(self, host: Host, tr: Texts) -> None:
        self.host, self.tr = host, tr
        self.panel = JobPanel(host, tr, "lora")
        self.fields: dict[str, Any] = {}
        self.groups: dict[str, Any] = {}

    # the page

    def build(self) -> None:
        with gr.Column(elem_id="modelsmith_lora", elem_classes=["ms-job-view"]):
            with gr.Row(elem_classes=["ms-row", "ms-merge-columns"]):
                with gr.Column(scale=5, min_width=400, elem_id="modelsmith_lora_left"):
                    self._build_choice()
                with gr.Column(scale=4, min_width=360, elem_id="modelsmith_lora_right"):
                    self._build_work()
            self.panel.build(NEEDED["checkpoint"], LORA_START[FIRST], "Stop the work")
        self._connect()

    def _build_choice(self) -> None:
        self._radio("action", "What to do with LoRAs", LORA_ACTIONS)
        self.about = gr.HTML(self._about(FIRST), elem_id="modelsmith_lora_about")
        names = checkpoint_names(self.host)
        self._files("lora", "LoRA to work on", self._loras())
        self._files("checkpoint", "Checkpoint for the LoRAs", names)
        self._files("tuned", "Tuned model", names)
        self._files("base", "Model that it came from", names)
        with self._group("rows"):
            # The script draws the rows and keeps them as JSON in the field.
            self.rows = gr.HTML(self.rows_html(), elem_id="modelsmith_lora_list_rows")
            box = gr.Textbox(value="", label="Rows of LoRAs", elem_id=ROWS, elem_classes=["ms-out-of-sight"])
            self.fields["rows"] = unsaved(box)

    def _build_work(self) -> None:
        self._check("exact", "Keep every rank: they add up, and nothing is lost", value=True)
        self._slider("rank", "Rank of the LoRA", (1, MOST_RANK, 32, 1))
        self._slider("energy", "Share of the change to keep (1: always the full rank)", (0.5, 1, 1, 0.005))
        self._radio("parts", "Parts to take", COMPONENTS)
        self._radio("precision", "Precision of the checkpoint", {name: name for name in CHECKPOINT_PRECISIONS})
        self._radio("half", "Precision of the LoRA", LORA_PRECISIONS)
        self._check("strict", "Stop where a module finds no place")
        self._check("gpu", "Find singular values on the GPU", visible=False)
        with self._group("more"), gr.Accordion("More about the extraction", open=False, elem_id="modelsmith_lora_more"):
            box = gr.Textbox(
                value="",
                label="Rank of larger kernels",
                placeholder="empty: the same; 0: leave them out",
                max_lines=1,
                elem_id="modelsmith_lora_conv_rank",
            )
            self.fields["conv_rank"] = unsaved(box)
            self._check("differences", "Biases and norms too, as full differences", visible=True)
            self._number("threshold", "Leave out what changes less than", 0.0)
            self._slider("clamp", "Clamp factors beyond this quantile (1: none)", (0.9, 1, 1, 0.005), visible=True)
            self._number("seed", "Seed of the search", 0)
        with self._group("target"), gr.Row(elem_classes=["ms-row"], elem_id="modelsmith_lora_target_row"):
            box = gr.Textbox(
                value="",
                label="Name of the new LoRA or checkpoint",
                placeholder="empty: a name made from the files",
                max_lines=1,
                elem_id="modelsmith_lora_name",
                scale=3,
            )
            self.fields["name"] = unsaved(box)
            self._check("overwrite", "Replace what has that name", visible=True)

    def _shown(self, name: str) -> bool:
        return name in SHOWN[FIRST]

    def _group(self, name: str) -> Any:
        self.groups[name] = gr.Column(visible=self._shown(name), elem_id=f"modelsmith_lora_group_{name}")
        return self.groups[name]

    def _radio(self, name: str, label: str, words: Mapping[str, str]) -> None:
        choices = list(words.values())
        radio = gr.Radio(
            choices=choices,
            value=choices[0],
            label=label,
            visible=name == "action" or self._shown(name),
            elem_id=f"modelsmith_lora_{name}",
            elem_classes=["ms-pills"],
        )
        self.fields[name] = unsaved(radio)

    def _files(self, name: str, label: str, choices: list[str]) -> None:
        identifier, shown = f"modelsmith_lora_{name}", self._shown(name)
        self.fields[name] = unsaved(
            gr.Dropdown(choices=choices, value=None, label=label, visible=shown, elem_id=identifier)
        )

    def _check(self, name: str, label: str, *, value: bool = False, visible: bool | None = None) -> None:
        shown = self._shown(name) if visible is None else visible
        identifier = f"modelsmith_lora_{name}"
        self.fields[name] = unsaved(
            gr.Checkbox(value=value, label=label, visible=shown, elem_id=identifier, min_width=120, scale=2)
        )

    def _slider(
        self, name: str, label: str, numbers: tuple[float, float, float, float], *, visible: bool | None = None
    ) -> None:
        """numbers: lowest, highest, value and step."""
        low, high, value, step = numbers
        shown = self._shown(name) if visible is None else visible
        slider = gr.Slider(
            low, high, value=value, step=step, label=label, visible=shown, elem_id=f"modelsmith_lora_{name}"
        )
        self.fields[name] = unsaved(slider)

    def _number(self, name: str, label: str, value: float) -> None:
        self.fields[name] = unsaved(gr.Number(value=value, label=label, elem_id=f"modelsmith_lora_{name}"))

    def _loras(self) -> list[str]:
        return [file.name for file in lora_files(self.host)]

    def rows_html(self) -> str:
        """The place where the script draws the rows."""
        return rows_html(self.host, ROWS)

    @property
    def inputs(self) -> list[Any]:
        """In the order of LoraForm's fields."""
        return [self.fields[field.name] for field in fields(LoraForm)]

    @property
    def lists(self) -> list[Any]:
        return [*(self.fields[name] for name in ("checkpoint", "tuned", "base", "lora")), self.rows]

    # events

    def _connect(self) -> None:
        self.panel.connect(self.inputs, self.lists, self.work, self.offers)
        self.panel.follow([field.change for field in self.inputs], self.inputs, self.show_plan)
        action, exact = self.fields["action"], self.fields["exact"]
        for field in (action, exact):
            listen(field.change, self.show_action, [action, exact], self.shown_by_action)
        # A name, and what was said of the last work, belong to that work.
        listen(action.input, lambda: ["", ""], [], [self.fields["name"], self.panel.result])

    def connect(self, tab: Any) -> None:
        """Offer the files that are there when the view is opened, and the GPU where there is one."""
        listen(tab.select, self.offers, [], self.lists)
        listen(tab.select, self.offer_gpu, [self.fields["action"]], [self.fields["gpu"]])

    def _about(self, action: str) -> str:
        return text_tag("p", self.tr(LORA_ABOUT[action]), "ms-dim")

    def offers(self) -> list[Any]:
        """The files that the host has now, for each list."""
        checkpoints = gr.update(choices=checkpoint_names(self.host))
        return [checkpoints, checkpoints, checkpoints, gr.update(choices=self._loras()), self.rows_html()]

    def offer_gpu(self, action: str) -> Any:
        """Show the choice where torch sees a GPU and the action can use it."""
        return gr.update(visible="gpu" in SHOWN[LoraForm(action=action).what] and sees_gpu())

    @property
    def _switched(self) -> list[str]:
        """The fields and groups that come and go with the action."""
        named = {name for names in SHOWN.values() for name in names}
        return [name for name in (*self.fields, *self.groups) if name in named]

    @property
    def shown_by_action(self) -> list[Any]:
        """What :meth:`show_action` updates."""
        parts = {**self.fields, **self.groups}
        return [self.about, self.panel.start, *(parts[name] for name in self._switched)]

    def show_action(self, action: str, exact: bool = True) -> list[Any]:
        """Show the controls of the chosen action only; ranks that are kept need no choice."""
        chosen = LoraForm(action=action).what
        shown = set(SHOWN[chosen])
        if chosen == "merge" and exact:
            shown -= {"rank", "energy", "gpu"}
        if "gpu" in shown and not sees_gpu():
            shown.remove("gpu")
        # What a check finds stands in the summary already.
        start = gr.update(value=self.tr(LORA_START[chosen]), visible=chosen != "check")
        return [self._about(chosen), start, *(gr.update(visible=name in shown) for name in self._switched)]

    def show_plan(self, values: Values) -> str:
        """What would be done now, or the one thing that stands in the way."""
        form = LoraForm.from_values(values)
        try:
            if form.missing:
                return notice("info", self.tr(form.missing))
            return self._planned(form)
        except (ModelsmithError, OSError) as error:
            return failure_html(error, self.tr)

    def _planned(self, form: LoraForm) -> str:
        from modelsmith.lora.bake import plan_bake
        from modelsmith.lora.combine import plan_combine
        from modelsmith.lora.extract import plan_extract
        from modelsmith_webui.tab import lora_page

        if form.what == "check":
            return self._checked(form)
        if form.what == "bake":
            return lora_page.bake_plan_html(plan_bake(form.bake(self.host)), self.tr)
        if form.what == "extract":
            make_folder(form.target(self.host).parent)  # the host's folder of LoRAs, whose disk is asked about
            return lora_page.extract_plan_html(plan_extract(form.extract(self.host)), self.tr)
        return lora_page.combine_plan_html(plan_combine(form.combine(self.host)), self.tr)

    def _checked(self, form: LoraForm) -> str:
        from modelsmith.lora.info import describe
        from modelsmith_webui.tab.files import find_checkpoint
        from modelsmith_webui.tab.lora_page import info_html

        model = find_checkpoint(self.host, form.checkpoint, "").path if form.checkpoint else None
        return info_html(describe(form.file(self.host).path, model), self.tr)

    def work(self, values: Values, control: JobControl) -> str:
        """Do it, inside a job of the host."""
        from modelsmith.lora.bake import bake
        from modelsmith.lora.combine import combine
        from modelsmith.lora.extract import extract
        from modelsmith_webui.tab import lora_page
        from modelsmith_webui.tab.job_text import done_of, write_options

        form = LoraForm.from_values(values)
        if form.missing:
            return notice("info", self.tr(form.missing))
        if form.what == "check":
            return self._checked(form)
        make_folder(form.target(self.host).parent)
        if form.what == "bake":
            told = write_options(control, self.tr, form.overwrite)
            baked = bake(form.bake(self.host), told.progress, told.cancelled)
            self.host.keep_sha256(baked.path, baked.sha256)
            self.host.refresh_checkpoints()
            return lora_page.baked_html(baked, self._title(baked.path), self.tr)
        show = done_of(control)
        if form.what == "extract":
            return lora_page.extracted_html(extract(form.extract(self.host), show, control.cancelled), self.tr)
        return lora_page.combined_html(combine(form.combine(self.host), show, control.cancelled), self.tr)

    def _title(self, path: Path) -> str:
        return next((file.name for file in self.host.checkpoints() if file.path == path), path.name)
