"""The view that says what a file is: choose one of the host's, or drop one in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from modelsmith.decision import Override
from modelsmith.errors import ModelsmithError, UsageError
from modelsmith_webui.host import Host, ModelFile
from modelsmith_webui.tab.compat import hear, listen, plan_again_button, unsaved
from modelsmith_webui.tab.files import all_labels, find_labelled
from modelsmith_webui.tab.html import notice, tag, text_tag
from modelsmith_webui.tab.plan_page import failure_html
from modelsmith_webui.tab.report_links import leads_of, ways_of
from modelsmith_webui.tab.report_page import Beside, empty_html, loaded_line, report_html
from modelsmith_webui.tab.texts import Texts
from modelsmith_webui.tab.words import OVERRIDE_PREDICTIONS, OVERRIDE_ZTSNR, id_of

NOTHING_CHOSEN = "Choose a model file, or drop one here, to see what it is."


def drop_html(tr: Texts) -> str:
    """Where a file can be dropped. The script reads its header and sends nothing else."""
    words = text_tag("span", tr("Drop a file to inspect")) + text_tag(
        "small", tr("Only the header of a .safetensors file is read.")
    )
    field = '<input type="file" accept=".safetensors,.sft">'
    return tag("label", words + field, "ms-drop", tabindex="0")


def _answer_to(*labels: str) -> str:
    """Tells the page's script which choices an answer belongs to: gradio 3 drops those that are made while the last
    answer is on its way, and they are then asked about once more."""
    return tag("span", "", "ms-answer-to", data_chosen="\n".join(labels), hidden="hidden")


@dataclass(frozen=True)
class Page:
    """What the view shows for one file."""

    html: str
    raw: dict[str, Any] | None
    override: Override | None


class InspectView:
    """Builds the view and answers its events. ``show`` is also what a row of the library calls."""

    def __init__(self, host: Host, tr: Texts) -> None:
        self.host, self.tr = host, tr
        self.can_override = "user_metadata" in host.capabilities

    def build(self) -> None:
        with gr.Row(elem_id="modelsmith_inspect_pick", elem_classes=["ms-row"]):
            self.file = unsaved(
                gr.Dropdown(
                    choices=all_labels(self.host),
                    value=None,
                    label="Model file",
                    elem_id="modelsmith_inspect_file",
                    scale=5,
                )
            )
            self.refresh = gr.Button(
                "Refresh files", elem_id="modelsmith_inspect_refresh", elem_classes=["ms-tool"], scale=0
            )
            gr.HTML(drop_html(self.tr), elem_id="modelsmith_inspect_drop")
            # Out of sight but in the page: the script writes the header of a dropped file here.
            self.dropped = unsaved(
                gr.Textbox(
                    value="",
                    label="Dropped header",
                    elem_id="modelsmith_inspect_dropped",
                    elem_classes=["ms-out-of-sight"],
                )
            )
        self.page = gr.HTML(empty_html(self.tr(NOTHING_CHOSEN)), elem_id="modelsmith_inspect_page")
        self._build_override()
        self._build_compare()
        self.again = plan_again_button("modelsmith_inspect_again", "i")
        with gr.Accordion("Raw report", open=False, elem_id="modelsmith_inspect_raw_panel"):
            self.raw = gr.JSON(label="Report as JSON", elem_id="modelsmith_inspect_raw")
        self._connect()

    def _build_override(self) -> None:
        with gr.Row(visible=False, elem_id="modelsmith_override", elem_classes=["ms-row", "ms-override"]) as panel:
            self.prediction = unsaved(
                gr.Radio(
                    choices=list(OVERRIDE_PREDICTIONS.values()),
                    value="automatic",
                    label="Prediction for this file",
                    elem_id="modelsmith_override_prediction",
                    min_width=380,
                )
            )
            self.ztsnr = unsaved(
                gr.Radio(
                    choices=list(OVERRIDE_ZTSNR.values()),
                    value="automatic",
                    label="Zero terminal SNR for this file",
                    elem_id="modelsmith_override_ztsnr",
                    min_width=300,
                )
            )
            self.saved = gr.HTML("", elem_id="modelsmith_override_saved")
        self.panel = panel

    def _build_compare(self) -> None:
        with gr.Accordion("Compare with another file", open=False, elem_id="modelsmith_inspect_compare_panel"):
            self.other = unsaved(
                gr.Dropdown(
                    choices=all_labels(self.host),
                    value=None,
                    label="The other model file",
                    elem_id="modelsmith_inspect_other",
                )
            )
            self.compared = gr.HTML("", elem_id="modelsmith_inspect_compared")

    def _connect(self) -> None:
        shown = [self.page, self.raw, self.panel, self.prediction, self.ztsnr, self.saved]
        listen(self.file.change, self.choose, [self.file], shown)
        hear(self.dropped, self.drop, shown)
        found = listen(self.refresh.click, self.refresh_files, [], [self.file, self.other])
        # A file may have been replaced, of which the unchanged choice says nothing.
        listen(found.then, self.look_again, [self.file], shown)
        listen(found.then, self.compare, [self.file, self.other], [self.compared])
        listen(self.again.click, self.choose, [self.file], shown)
        for event in (self.file.change, self.other.change, self.again.click):
            listen(event, self.compare, [self.file, self.other], [self.compared])
        for radio in (self.prediction, self.ztsnr):
            listen(radio.input, self.save_override, [self.file, self.prediction, self.ztsnr], [self.page, self.saved])
        self.outputs = shown

    def refresh_files(self) -> list[Any]:
        """Look for new files and offer them."""
        self.host.refresh_checkpoints()
        return self.offers()

    def offers(self) -> list[Any]:
        """The files that the host has now, for both lists."""
        return [self.offer(), self.offer()]

    def compare(self, label: str | None, other: str | None) -> str:
        """The chosen file beside the other one; nothing while one of the two is missing."""
        from modelsmith_webui.tab.compare_page import compare_html

        if not label or not other:
            return ""
        try:
            first, second = find_labelled(self.host, label), find_labelled(self.host, other)
        except ModelsmithError as error:
            return failure_html(error, self.tr) + _answer_to(label, other)
        return compare_html(first.path, second.path, self.tr) + _answer_to(label, other)

    def offer(self) -> Any:
        """The files that the host has now."""
        return gr.update(choices=all_labels(self.host))

    def page_of(self, path: Path, file: ModelFile | None) -> Page:
        """The page of one file; a bad file has a page that says so."""
        from modelsmith.identify import identify
        from modelsmith_webui.tab.preview import preview_uri

        report = identify(path)
        known = self.host.cached_sha256(file) if file else None
        status = loaded_line(self.host.status(), str(path), self.tr) if file else ""
        own = self.can_override and file is not None and file.kind == "checkpoint" and report.error is None
        beside = Beside()
        if file is not None:
            ways = ways_of(report, override=own)
            leads = leads_of(report, checkpoint=file.kind == "checkpoint")
            beside = Beside(str(path), known, status, preview_uri(path), ways, leads)
        return Page(report_html(report, self.tr, beside), report.to_json(), self.host.override(path) if own else None)

    def choose(self, label: str | None) -> list[Any]:
        """Show the chosen file."""
        page, *rest = self._updates(self._chosen(label))
        return [page + _answer_to(label or ""), *rest]

    def look_again(self, label: str | None) -> list[Any]:
        """Show the chosen file as it is now; where none is chosen, a dropped one stays."""
        return self.choose(label) if label else [gr.update() for _ in self.outputs]

    def _chosen(self, label: str | None) -> Page:
        if not label:
            return Page(empty_html(self.tr(NOTHING_CHOSEN)), None, None)
        try:
            file = find_labelled(self.host, label)
        except ModelsmithError as error:
            return Page(failure_html(error, self.tr), None, None)
        return self.page_of(file.path, file)

    def drop(self, message: str) -> list[Any]:
        """Show a file that was dropped in, by the header that the page has read of it."""
        from modelsmith_webui.tab.dropped import dropped_report

        try:
            report = dropped_report(message)
        except UsageError:
            told = self.tr("Only the header of a .safetensors file can be read from here.")
            remedy = self.tr("Put the file into the models folder and choose it in the list.")
            return self._updates(Page(notice("error", told, remedy), None, None))
        if report is None:
            return [gr.update() for _ in range(6)]
        return self._updates(Page(report_html(report, self.tr), report.to_json(), None))

    def save_override(self, label: str | None, prediction: str, ztsnr: str) -> list[Any]:
        """Keep the override and show what follows from it."""
        try:
            file = find_labelled(self.host, label or "")
            kept = self.host.override(file.path)
            chosen = Override.from_json(
                {
                    **kept.to_json(),
                    "prediction": id_of(OVERRIDE_PREDICTIONS, prediction),
                    "ztsnr": id_of(OVERRIDE_ZTSNR, ztsnr),
                }
            )
            self.host.set_override(file.path, chosen)
        except ModelsmithError as error:
            return [gr.update(), failure_html(error, self.tr)]
        text = self.tr("Saved for this file.") if not chosen.is_auto else self.tr("Back to automatic.")
        page = self.page_of(file.path, file).html
        return [page + _answer_to(label or ""), notice("done", text)]

    def _updates(self, page: Page) -> list[Any]:
        override = page.override or Override()
        return [
            page.html,
            page.raw,
            gr.update(visible=page.override is not None),
            gr.update(value=OVERRIDE_PREDICTIONS[override.prediction]),
            gr.update(value=OVERRIDE_ZTSNR[override.ztsnr]),
            "",
        ]
