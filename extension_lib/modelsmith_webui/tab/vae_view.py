"""The view for VAEs: what one is, whether it runs in fp16, the cure, and putting it in or taking it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import gradio as gr

from modelsmith.errors import ModelsmithError
from modelsmith_webui.host import Host, JobControl, listed_path
from modelsmith_webui.places import make_folder
from modelsmith_webui.tab.compat import listen, unsaved
from modelsmith_webui.tab.convert_words import FAMILIES, NAMINGS, VAE_ABOUT, VAE_ACTIONS, VAE_PRECISIONS
from modelsmith_webui.tab.files import PREFIXES, all_labels, checkpoint_names
from modelsmith_webui.tab.html import notice, text_tag
from modelsmith_webui.tab.job_panel import JobPanel, Values
from modelsmith_webui.tab.plan_page import failure_html
from modelsmith_webui.tab.texts import Texts
from modelsmith_webui.tab.vae_form import VaeForm
from modelsmith_webui.tab.words import id_of

# Only VAEs and checkpoints have a VAE.
_NOT_HERE = tuple(prefix for kind, prefix in PREFIXES.items() if kind != "vae")

HINT = "Choose a VAE, or a checkpoint with one in it."


class VaeView:
    """Builds the view and answers its events."""

    def __init__(self, host: Host, tr: Texts) -> None:
        self.host, self.tr = host, tr
        self.panel = JobPanel(host, tr, "vae")
        self.fields: dict[str, Any] = {}

    # the page

    def build(self) -> None:
        with gr.Column(elem_id="modelsmith_vae", elem_classes=["ms-job-view"]):
            with gr.Row(elem_classes=["ms-row", "ms-merge-columns"]):
                with gr.Column(scale=5, min_width=400, elem_id="modelsmith_vae_left"):
                    self._files("file", "VAE, or a checkpoint with one in it", self._sources())
                    self._radio("said", "Family, where you know it better", FAMILIES)
                    self.page = gr.HTML("", elem_id="modelsmith_vae_page")
                with gr.Column(scale=4, min_width=360, elem_id="modelsmith_vae_right"):
                    self._build_work()
            self.panel.build(HINT, VAE_ACTIONS["measure"], "Stop the run")
        self._connect()

    def _build_work(self) -> None:
        self._radio("action", "What to do with the VAE", VAE_ACTIONS)
        self.about = gr.HTML(self._about("measure"), elem_id="modelsmith_vae_about")
        with gr.Column(elem_id="modelsmith_vae_trying") as self.trying:  # gr.File itself does not hide in gradio 4
            box = gr.File(
                label="Pictures to try it on (it is run on made-up latents anyway)",
                file_count="multiple",
                file_types=["image"],
                elem_id="modelsmith_vae_pictures",
                height=88,
            )
            self.fields["pictures"] = unsaved(box)
        self._files("checkpoint", "Checkpoint to put it into", checkpoint_names(self.host), visible=False)
        self._check("force", "Also when it belongs to another family", visible=False)
        self._radio(
            "precision", "Precision to write the VAE in", {name: name for name in VAE_PRECISIONS}, visible=False
        )
        self._radio("naming", "Spelling of the VAE's names", NAMINGS, visible=False)
        with gr.Row(visible=False, elem_classes=["ms-row"], elem_id="modelsmith_vae_target") as self.target:
            box = gr.Textbox(
                value="",
                label="Name of the new VAE or checkpoint",
                placeholder="empty: a name made from the file",
                max_lines=1,
                elem_id="modelsmith_vae_name",
                scale=3,
            )
            self.fields["name"] = unsaved(box)
            self._check("overwrite", "Replace a file of that name")

    def _radio(self, name: str, label: str, words: Mapping[str, str], *, visible: bool = True) -> None:
        choices, identifier = list(words.values()), f"modelsmith_vae_{name}"
        radio = gr.Radio(
            choices=choices,
            value=choices[0],
            label=label,
            visible=visible,
            elem_id=identifier,
            elem_classes=["ms-pills"],
        )
        self.fields[name] = unsaved(radio)

    def _files(self, name: str, label: str, choices: list[str], *, visible: bool = True) -> None:
        box = gr.Dropdown(choices=choices, value=None, label=label, visible=visible, elem_id=f"modelsmith_vae_{name}")
        self.fields[name] = unsaved(box)

    def _check(self, name: str, label: str, *, visible: bool = True) -> None:
        box = gr.Checkbox(value=False, label=label, visible=visible, elem_id=f"modelsmith_vae_{name}", min_width=120)
        self.fields[name] = unsaved(box)

    def _sources(self) -> list[str]:
        """VAEs first, then checkpoints."""
        labels = [label for label in all_labels(self.host) if not label.startswith(_NOT_HERE)]
        return sorted(labels, key=lambda label: not label.startswith(PREFIXES["vae"]))

    @property
    def inputs(self) -> list[Any]:
        """In the order of VaeForm's fields."""
        return [self.fields[field.name] for field in fields(VaeForm)]

    @property
    def lists(self) -> list[Any]:
        return [self.fields["file"], self.fields["checkpoint"]]

    # events

    def _connect(self) -> None:
        self.panel.connect(self.inputs, self.lists, self.work, self.offers)
        self.panel.follow([field.change for field in self.inputs], self.inputs, self.show_plan)
        shown = [self.trying, *(self.fields[name] for name in ("checkpoint", "force", "precision", "naming"))]
        listen(
            self.fields["action"].change,
            self.show_action,
            [self.fields["action"]],
            [self.about, self.panel.start, self.target, *shown],
        )
        file, said = self.fields["file"], self.fields["said"]
        for event in (file.change, self.panel.plan_again.click):
            listen(event, self.look, [file], [said, self.page])
        self.panel.forget(file.input)
        listen(said.input, self.say, [file, said], [self.page])

    def connect(self, tab: Any) -> None:
        """Offer the files that are there when the view is opened."""
        listen(tab.select, self.offers, [], self.lists)

    def _about(self, action: str) -> str:
        return text_tag("p", self.tr(VAE_ABOUT[action]), "ms-dim")

    def offers(self) -> list[Any]:
        """The files that the host has now, for each list."""
        return [gr.update(choices=self._sources()), gr.update(choices=checkpoint_names(self.host))]

    def show_action(self, action: str) -> list[Any]:
        """Show the controls of the chosen action only."""
        chosen = VaeForm(action=action).what
        baking, moving = chosen == "bake", chosen in ("bake", "extract")
        states = (chosen != "measure", not moving, baking, baking, moving, chosen == "extract")
        updates = [gr.update(visible=state) for state in states]
        return [self._about(chosen), gr.update(value=self.tr(VAE_ACTIONS[chosen])), *updates]

    def look(self, label: str | None) -> list[Any]:
        """What the chosen VAE is, and what was said of it before."""
        from modelsmith_webui.vae_hints import remembered_word

        form = VaeForm(file=label)
        try:
            word = remembered_word(self.host, form.chosen(self.host)) if label else None
        except ModelsmithError:
            word = None  # the page says what is wrong
        return [gr.update(value=FAMILIES[word or ""]), self._page(form)]

    def say(self, label: str | None, said: str | None) -> str:
        """Remember what the user says of the chosen VAE; from then on every view and the automatic choice know it."""
        from modelsmith_webui.vae_hints import remember_word

        form = VaeForm(file=label, said=said or FAMILIES[""])
        if label:
            try:
                remember_word(self.host, form.chosen(self.host), id_of(FAMILIES, form.said))
            except (ModelsmithError, OSError) as error:
                return failure_html(error, self.tr)
        return self._page(form)

    def _page(self, form: VaeForm) -> str:
        from modelsmith_webui.tab.vae_page import identity_html
        from modelsmith_webui.vae_hints import measured

        if not form.file:
            return ""  # the summary below says what to do
        try:
            vae, identity = form.look(self.host, form.chosen(self.host))
            return identity_html(vae, identity, self.tr, measured(self.host, vae))
        except (ModelsmithError, OSError) as error:
            return failure_html(error, self.tr)

    def show_plan(self, values: Values) -> str:
        """What would be done now, or the one thing that stands in the way."""
        from modelsmith_webui.tab.vae_page import plan_html

        form = VaeForm.from_values(values)
        if not form.file:
            return notice("info", self.tr(HINT))
        if form.what == "bake" and not form.checkpoint:
            return notice("info", self.tr("Choose the checkpoint to put it into."))
        try:
            return plan_html(form, self.host, self.tr)
        except (ModelsmithError, OSError) as error:
            return failure_html(error, self.tr)

    def work(self, values: Values, control: JobControl) -> str:
        """Do it, inside a job of the host."""
        from modelsmith.vae.bake import run_bake, run_extract
        from modelsmith.vae.fix import NothingToCure, run_fix
        from modelsmith.vae.health import measure
        from modelsmith_webui.tab.job_text import watch
        from modelsmith_webui.tab.vae_page import fixed_html, measured_html, moved_html
        from modelsmith_webui.vae_hints import remember_cure, remember_measured

        form, looking = VaeForm.from_values(values), watch(control, self.tr)
        file = form.chosen(self.host)
        if form.what == "measure":
            vae, identity = form.look(self.host, file)
            found = measure(vae, identity, form.calibration(), looking)
            remember_measured(self.host, vae, found)
            return measured_html(listed_path(file), found, self.tr)
        make_folder(form.target(self.host, file).parent)
        if form.what == "bake":
            baked = run_bake(form.bake(self.host, file), looking)
            self.host.keep_sha256(baked.path, baked.sha256)
            return moved_html(baked, self.tr, baked=True)
        if form.what == "extract":
            return moved_html(run_extract(form.extract(self.host, file), looking), self.tr, baked=False)
        try:
            result = run_fix(form.fix(self.host, file), looking)
            remember_cure(self.host, file, result)
            self.host.keep_sha256(result.path, result.sha256)
            return fixed_html(result, self.tr)
        except NothingToCure as error:
            return failure_html(error, self.tr, "info")
