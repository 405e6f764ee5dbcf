"""Start, stop, progress and result: the same panel below every view that runs a job of the host."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from modelsmith.errors import Cancelled, ModelsmithError
from modelsmith_webui.host import Host, JobControl
from modelsmith_webui.tab.compat import hear, listen, plan_again_button, unsaved
from modelsmith_webui.tab.html import answer_mark, notice, tag
from modelsmith_webui.tab.plan_page import failure_html
from modelsmith_webui.tab.texts import Texts
from modelsmith_webui.tab.turns import Turns

logger = logging.getLogger(__name__)

Values = Sequence[Any]
ENDED_KEPT = 8


class JobPanel:
    """``view`` is the view's name in element ids; the page's script finds the panel by it.

    The handlers get the values of the view's inputs. plan: returns the summary as HTML. work: returns the
    result as HTML. after: returns the updates for the lists of files once a job has ended.
    """

    def __init__(self, host: Host, tr: Texts, view: str) -> None:
        self.host, self.tr, self.view = host, tr, view
        self.turns = Turns()
        self.ended: dict[str, str] = {}

    def build(self, hint: str, start: str, stop: str) -> None:
        """Add the components; the words are button texts."""
        prefix = f"modelsmith_{self.view}"
        self.plan = gr.HTML(notice("info", self.tr(hint)), elem_id=f"{prefix}_plan")
        with gr.Row(elem_classes=["ms-row", "ms-run"]):
            self.start = unsaved(gr.Button(start, variant="primary", elem_id=f"{prefix}_start"))
            self.stop = gr.Button(stop, elem_id=f"{prefix}_stop")
        with gr.Column(elem_id=f"{prefix}_progress_panel", elem_classes=["ms-progress-panel"]):
            gr.HTML("", elem_id=f"{prefix}_progress", elem_classes=["ms-progress-place"])
        self.result = gr.HTML("", elem_id=f"{prefix}_result")
        # Out of sight but in the page: the script asks here what a job ended with.
        asked = gr.Textbox(
            value="", label=f"Asked of {self.view}", elem_id=f"{prefix}_asked", elem_classes=["ms-out-of-sight"]
        )
        self.asked = unsaved(asked)
        self.plan_again = plan_again_button(f"{prefix}_plan_again", self.view[0])

    def connect(
        self,
        inputs: Sequence[Any],
        lists: Sequence[Any],
        work: Callable[[Values, JobControl], str],
        after: Callable[[], list[Any]],
    ) -> None:
        """Wire start and stop; ``lists`` are the dropdowns of files, which a finished job refreshes."""
        task = gr.Textbox(value="", visible=False, label=f"Task of {self.view}", elem_id=f"modelsmith_{self.view}_task")
        count = {"data_view": self.view, "data_inputs": 1 + len(inputs)}
        gr.HTML(tag("div", "", "ms-view-data", hidden="hidden", **count), elem_id=f"modelsmith_{self.view}_data")
        self.task = unsaved(task)
        outputs = [*lists, self.result]

        def run(task: str, *values: Any) -> list[Any]:
            *offers, html = self._run(work, values, after)
            # The page may be gone by now: one that is loaded anew asks for this.
            self.ended = dict([*self.ended.items(), (str(task), html)][-ENDED_KEPT:])
            # The last output is HTML, to which a webui adds its own line.
            return [*offers, html]

        job = self.host.wrap_job(run, extra_outputs=[gr.update() for _ in lists])
        script = f"modelsmithStart_{self.view}" if self.host.progress_script else None
        self.done = listen(self.start.click, job, [self.task, *inputs], outputs, js=script, job=True)
        listen(self.stop.click, self.host.interrupt, [self.task], js=f"modelsmithStop_{self.view}")
        hear(self.asked, lambda message: [*after(), self._ended(message)], outputs)

    def _ended(self, message: str) -> str:
        """What a job ended with that was started before the page was loaded; the message names it."""
        try:
            return self.ended.get(str(json.loads(message)["ended"]), "")
        except (ValueError, KeyError, TypeError) as error:
            logger.info("no job is asked about: %s", error)
            return ""

    def follow(self, events: Sequence[Any], inputs: Sequence[Any], plan: Callable[[Values], str]) -> None:
        """Ask for the plan at every change; an answer that a later one overtook is not shown."""

        def show(ticket: str, *values: Any) -> Any:
            html = plan(values)
            return html + answer_mark(ticket) if self.turns.may_show(ticket) else gr.update()

        for event in (*events, self.plan_again.click):
            listen(event, show, [self.task, *inputs], [self.plan], js=f"modelsmithAsk_{self.view}")
        # What was to be made is there now, and the disk has less room.
        listen(self.done.then, show, [self.task, *inputs], [self.plan], js=f"modelsmithAfter_{self.view}")

    def forget(self, *events: Any) -> None:
        """Clear what was said of the last work: it is not about what is chosen now."""
        for event in events:
            listen(event, lambda: "", [], [self.result])

    def _run(
        self, work: Callable[[Values, JobControl], str], values: Values, after: Callable[[], list[Any]]
    ) -> list[Any]:
        try:
            html = work(values, self.host.job_control())
        except Cancelled:
            html = notice("info", self.tr("Cancelled. Nothing was written."))
        except (ModelsmithError, OSError, MemoryError) as error:
            logger.warning("the job failed: %s", error)
            html = failure_html(error, self.tr)
        self.host.refresh_checkpoints()
        return [*after(), html]
