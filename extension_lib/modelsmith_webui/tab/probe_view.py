"""The button that asks the model in memory what it predicts, and what came of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import gradio as gr

from modelsmith.errors import ModelsmithError
from modelsmith_webui.tab.compat import listen
from modelsmith_webui.tab.html import facts, notice, tag
from modelsmith_webui.tab.plan_page import failure_html
from modelsmith_webui.tab.texts import Texts

if TYPE_CHECKING:
    from modelsmith_webui.probing import Finding

logger = logging.getLogger(__name__)


def _tr(text: str) -> str:
    """Marks a text that the webui itself translates, by its exact English form."""
    return text


def finding_html(found: Finding, tr: Texts) -> str:
    """The verdict and the numbers behind it."""
    kind = {True: "done", False: "warning", None: "info"}[found.agrees]
    if any(key.startswith("ztsnr") for key, _ in found.messages):
        kind = "warning"
    result = found.result
    rows = [
        (tr("File"), found.path.name),
        (tr("Noise given back at t = 999"), f"{result.gain:.3f}"),
        (tr("Correlation with the noise"), f"{result.correlation:.3f}"),
        (tr("Response to an offset at t = 999 and 950"), f"{result.response:.2f}, {result.earlier_response:.2f}"),
    ]
    return tag("div", notice(kind, found.text(tr)) + facts(rows), "ms-probe")


class ProbeView:
    """Builds the button where the host can ask, and answers it."""

    def __init__(self, host: Any, tr: Texts) -> None:
        self.host = host
        self.tr = tr

    def build(self) -> None:
        if not getattr(self.host, "can_probe", False):
            return
        with gr.Accordion(_tr("What does the model in memory predict?"), open=False, elem_id="modelsmith_probe_panel"):
            button = gr.Button(_tr("Ask the model"), elem_id="modelsmith_probe", scale=0)
            shown = gr.HTML("", elem_id="modelsmith_probe_result")
        # The answer comes after the running job, and on a CPU after a minute or two of its own.
        begun = listen(button.click, self.begin, [], [shown])
        listen(begun.then, self.ask, [], [shown], job=True)

    def begin(self) -> str:
        """Say at once that the question was taken."""
        return notice("info", self.tr("The model is being asked. On a CPU this can take minutes."))

    def ask(self) -> str:
        """Ask, and show the answer; the model in memory is asked as a job of its own."""
        try:
            return finding_html(self.host.prober.run(), self.tr)
        except ModelsmithError as error:
            return failure_html(error, self.tr)
        except (OSError, RuntimeError, ValueError) as error:
            # Out of memory, or a network that another extension changed: else "is being asked" would stand for ever.
            logger.exception("the model in memory could not be asked what it predicts")
            return notice("error", self.tr("The model gave no answer: {problem}", problem=error))
