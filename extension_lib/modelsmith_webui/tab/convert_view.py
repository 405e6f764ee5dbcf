"""The view that changes files: convert, prune, repair, take apart, prepare for sharing, compare, verify."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import gradio as gr

from modelsmith.errors import ModelsmithError
from modelsmith_webui.host import Host, JobControl
from modelsmith_webui.tab.compat import listen, unsaved
from modelsmith_webui.tab.convert_files import FOLDER_PREFIX, file_choices
from modelsmith_webui.tab.convert_form import ConvertForm
from modelsmith_webui.tab.convert_words import (
    ABOUT,
    ACTIONS,
    EMA_CHOICES,
    LAYOUTS,
    PART_ACTIONS,
    PART_CHOICES,
    PART_PRECISIONS,
    START,
    TOLD,
)
from modelsmith_webui.tab.files import all_labels
from modelsmith_webui.tab.html import notice, text_tag
from modelsmith_webui.tab.job_panel import JobPanel, Values
from modelsmith_webui.tab.plan_page import failure_html
from modelsmith_webui.tab.texts import Texts

HINT = "Choose a file to see what would be done."


class ConvertView:
    """Builds the view and answers its events. Only the controls of the chosen action are shown."""

    def __init__(self, host: Host, tr: Texts) -> None:
        self.host, self.tr = host, tr
        self.panel = JobPanel(host, tr, "convert")
        self.fields: dict[str, Any] = {}
        self.groups: dict[str, Any] = {}

    # the page

    def build(self) -> None:
        with gr.Column(elem_id="modelsmith_convert", elem_classes=["ms-job-view"]):
            with gr.Row(elem_classes=["ms-row", "ms-merge-columns"]):
                with gr.Column(scale=3, min_width=320, elem_id="modelsmith_convert_left"):
                    self._build_choice()
                with gr.Column(scale=5, min_width=420, elem_id="modelsmith_convert_right"):
                    self._build_groups()
                    self._build_target()
            self.panel.build(HINT, START["convert"], "Stop")
        self._connect()

    def _add(self, name: str, component: Any) -> None:
        self.fields[name] = unsaved(component)

    def _radio(self, name: str, label: str, words: Any) -> None:
        choices, identifier = list(words.values()), f"modelsmith_convert_{name}"
        radio = gr.Radio(choices=choices, value=choices[0], label=label, elem_id=identifier, elem_classes=["ms-pills"])
        self._add(name, radio)

    def _files(self, name: str, label: str, choices: list[str], *, visible: bool = True) -> None:
        identifier = f"modelsmith_convert_{name}"
        box = gr.Dropdown(choices=choices, value=None, label=label, visible=visible, elem_id=identifier)
        self._add(name, box)

    def _check(self, name: str, label: str, *, value: bool = False) -> None:
        self._add(name, gr.Checkbox(value=value, label=label, elem_id=f"modelsmith_convert_{name}"))

    def _text(self, name: str, label: str, placeholder: str, *, visible: bool = True, lines: int = 1) -> None:
        box = gr.Textbox(
            value="",
            label=label,
            placeholder=placeholder,
            lines=lines,
            max_lines=1 if lines == 1 else 12,
            visible=visible,
            elem_id=f"modelsmith_convert_{name}",
        )
        self._add(name, box)

    def _build_choice(self) -> None:
        self._files("file", "File or folder to work on", file_choices(self.host))
        self._text("only", "Only files with these words in their names", "empty: all of the folder", visible=False)
        self._radio("action", "What to do", ACTIONS)
        self.about = gr.HTML(self._about("convert"), elem_id="modelsmith_convert_about")

    def _build_groups(self) -> None:
        labels = all_labels(self.host)
        with self._group("convert"):
            for name, label in (
                ("unet", "Precision of the diffusion model"),
                ("encoders", "Precision of the text encoders"),
                ("vae", "Precision of the VAE"),
            ):
                self._radio(name, label, PART_PRECISIONS)
            with gr.Row(elem_classes=["ms-row"]):
                self._check("clip", "Clip what fp16 cannot hold")
                self._check("pruning", "Prune as well")
        with self._group("prune"):
            self._radio("ema", "Averages (EMA)", EMA_CHOICES)
            self._check("keep_schedule", "Keep the schedule buffers")
        with self._group("repair"):
            self._radio("told", "What you know of its prediction type", TOLD)
            self._files("donor", "Take missing parts from", labels)
        with self._group("parts"):
            self._radio("part_action", "What to do with the part", PART_ACTIONS)
            self._radio("part", "Which part", PART_CHOICES)
            self._radio("layout", "Spelling of the names", LAYOUTS)
            self._files("part_donor", "Take the part from", labels, visible=False)
        with self._group("share"):
            self._text("title", "Title", "empty: the present name")
            with gr.Row(elem_classes=["ms-row"]):
                self._text("author", "Author", "empty: left as it is")
                self._text("license", "Licence", "for instance CC0-1.0")
                self._text("resolution", "Resolution of its pictures", "empty: the family's")
            self._add(
                "thumbnail",
                gr.File(
                    label="Picture to show with the model",
                    file_count="single",
                    file_types=["image"],
                    elem_id="modelsmith_convert_thumbnail",
                    height=88,
                ),
            )
            self._check("remove_private", "Take private training metadata away")
        with self._group("compare"):
            self._files("other", "Compare with", labels)
        with self._group("verify"):
            self._check("check_values", "Read the values too (finds NaN)", value=True)
            self._check("check_hash", "Compare with the hash that the host knows")
            self._text(
                "hash_list", "Compare with these hashes", "HASH  NAME on each line, as in a .sha256 file", lines=3
            )

    def _group(self, name: str) -> Any:
        self.groups[name] = gr.Column(visible=name == "convert", elem_id=f"modelsmith_convert_group_{name}")
        return self.groups[name]

    def _build_target(self) -> None:
        with gr.Row(elem_classes=["ms-row"], elem_id="modelsmith_convert_target") as self.target:
            self._add(
                "name",
                gr.Textbox(
                    value="",
                    label="Name of the result",
                    placeholder="empty: a name made from the file",
                    max_lines=1,
                    elem_id="modelsmith_convert_name",
                    scale=3,
                ),
            )
            self._add(
                "overwrite",
                gr.Checkbox(
                    value=False,
                    label="Replace what exists",
                    elem_id="modelsmith_convert_overwrite",
                    scale=2,
                    min_width=120,
                ),
            )

    @property
    def inputs(self) -> list[Any]:
        """In the order of ConvertForm's fields."""
        return [self.fields[field.name] for field in fields(ConvertForm)]

    @property
    def lists(self) -> list[Any]:
        return [self.fields[name] for name in ("file", "donor", "part_donor", "other")]

    # events

    def _connect(self) -> None:
        self.panel.connect(self.inputs, self.lists, self.work, self.offers)
        self.panel.follow([field.change for field in self.inputs], self.inputs, self.show_plan)
        self.panel.forget(self.fields["file"].input, self.fields["other"].input)
        shown = [self.about, self.panel.start, self.target, *self.groups.values()]
        listen(self.fields["action"].change, self.show_group, [self.fields["action"]], shown)
        listen(self.fields["file"].change, self.show_only, [self.fields["file"]], [self.fields["only"]])
        part = [self.fields["part_action"]]
        changed = [self.fields[name] for name in ("part", "layout", "part_donor")]
        listen(part[0].change, self.show_part, part, changed)

    def connect(self, tab: Any) -> None:
        """Offer the files that are there when the view is opened."""
        listen(tab.select, self.offers, [], self.lists)

    def _about(self, action: str) -> str:
        return text_tag("p", self.tr(ABOUT[action]), "ms-dim")

    def offers(self) -> list[Any]:
        """The files that the host has now, for each list."""
        choices = gr.update(choices=all_labels(self.host))
        return [gr.update(choices=file_choices(self.host)), choices, choices, choices]

    def show_group(self, action: str) -> list[Any]:
        """Show the controls of the chosen action only."""
        chosen = ConvertForm(action=action).what
        groups = [gr.update(visible=name == chosen) for name in self.groups]
        writes = gr.update(visible=chosen not in ("compare", "verify"))
        return [self._about(chosen), gr.update(value=self.tr(START[chosen])), writes, *groups]

    def show_only(self, label: str | None) -> Any:
        """Words to choose by are for folders."""
        return gr.update(visible=bool(label) and str(label).startswith(FOLDER_PREFIX))

    def show_part(self, action: str) -> list[Any]:
        """Show what the work on parts asks for."""
        work = ConvertForm(part_action=action).part_work
        names = gr.update(visible=work in ("only", "names"))
        return [gr.update(visible=work != "names"), names, gr.update(visible=work == "put")]

    def show_plan(self, values: Values) -> str:
        """What would be done now, or the one thing that stands in the way."""
        from modelsmith_webui.tab.convert_plan import plan_html

        form = ConvertForm.from_values(values)
        if form.lacks_a_file:
            return notice("info", self.tr("Choose the other file."))
        try:
            return plan_html(form, self.host, self.tr)
        except (ModelsmithError, OSError) as error:
            return failure_html(error, self.tr)

    def work(self, values: Values, control: JobControl) -> str:
        """Do it, inside a job of the host."""
        from modelsmith_webui.tab.convert_run import run

        return run(ConvertForm.from_values(values), self.host, control, self.tr)
