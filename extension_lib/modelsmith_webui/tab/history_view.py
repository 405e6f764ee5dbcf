"""The view of what was merged and of what is still to be: history, queue, and the way from a picture to its recipe."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from modelsmith.errors import ModelsmithError, UnknownNameError
from modelsmith_webui.host import Host
from modelsmith_webui.tab.compat import hear, listen, unsaved
from modelsmith_webui.tab.html import notice, tag, text_tag
from modelsmith_webui.tab.merge_form import MergeForm
from modelsmith_webui.tab.plan_page import failure_html
from modelsmith_webui.tab.texts import Texts

if TYPE_CHECKING:
    from modelsmith_webui.history import Entry

logger = logging.getLogger(__name__)
Fill = Callable[[MergeForm], list[Any]]


class HistoryView:
    """Rows and their buttons speak through one field out of sight, which the page's script writes."""

    def __init__(self, host: Host, tr: Texts) -> None:
        self.host, self.tr = host, tr
        self._filled: list[Any] = []
        self._fill: Fill = lambda _form: []

    def build(self) -> None:
        empty = tag("div", text_tag("span", self.tr("The queue is empty."), "ms-dim"), "ms-queue", data_busy=0)
        self.queue = gr.HTML(empty, elem_id="modelsmith_history_queue")
        with gr.Row(elem_classes=["ms-row", "ms-tools"], elem_id="modelsmith_history_tools"):
            self.text = unsaved(
                gr.Textbox(
                    value="",
                    label="Model hash or infotext of a picture",
                    placeholder="shows the merge that made its model",
                    max_lines=2,
                    elem_id="modelsmith_history_trace",
                    scale=4,
                )
            )
            self.look = gr.Button("Look up", elem_id="modelsmith_history_look", elem_classes=["ms-tool"])
            self.all = gr.Button("Show all", elem_id="modelsmith_history_all", elem_classes=["ms-tool"])
            self.poll = gr.Button("Follow the queue", elem_id="modelsmith_history_poll")
        with gr.Row(elem_classes=["ms-row"], elem_id="modelsmith_history_columns"):
            with gr.Column(scale=6, min_width=420):
                self.table = gr.HTML("", elem_id="modelsmith_history_table")
            with gr.Column(scale=5, min_width=360, elem_id="modelsmith_history_side"):
                self.detail = gr.HTML(self._hint(), elem_id="modelsmith_history_detail")
        asked = gr.Textbox(value="", label="Asked of the history", elem_id="modelsmith_history_asked")
        self.asked = unsaved(asked)
        for hidden in (self.poll, self.asked):
            # Out of sight but in the page: the script presses and writes them.
            hidden.elem_classes = [*(hidden.elem_classes or []), "ms-out-of-sight"]

    def connect(self, tab: Any, views: Any, filled: Sequence[Any], fill: Fill) -> None:
        """Wire the view. ``views`` are the tabs; ``fill`` gives the updates of ``filled`` that show a form in Merge."""
        self._filled, self._fill = list(filled), fill
        listen(tab.select, self.show, [], [self.queue, self.table])
        listen(self.all.click, self.show_all, [], [self.queue, self.table, self.detail])
        listen(self.poll.click, self.follow, [], [self.queue, self.table])
        listen(self.look.click, self.trace, [self.text], [self.table, self.detail])
        listen(self.text.submit, self.trace, [self.text], [self.table, self.detail])
        hear(self.asked, self.act, [self.queue, self.table, self.detail, views, *self._filled])

    # what is shown

    def _hint(self) -> str:
        return text_tag("div", self.tr("Choose a merge to see how it was made."), "ms-empty")

    def show(self) -> list[Any]:
        return [self._queue(), self._table()]

    def show_all(self) -> list[Any]:
        """All merges again, after a look-up."""
        return [*self.show(), self._hint()]

    def follow(self) -> list[Any]:
        """The queue as it is now; the history too once nothing is under way any more."""
        from modelsmith_webui.background import queue_of

        over = all(job.over for job in queue_of(self.host).jobs())
        return [self._queue(), self._table() if over else gr.update()]

    def trace(self, text: str) -> list[Any]:
        """The entries behind a model hash or a picture's infotext."""
        from modelsmith_webui.history import history_of, model_hash
        from modelsmith_webui.result_hashes import result_hashes_of
        from modelsmith_webui.tab.history_page import history_html

        if model_hash(text or "") is None:
            told = self.tr("That holds no model hash.")
            remedy = self.tr("Paste the infotext of a picture, or the hash itself: 8 digits or more.")
            return [gr.update(), notice("info", told, remedy)]
        found = history_of(self.host).trace(text)
        if found:
            return [history_html(found, self.tr, [found[0].id]), self._entry_html(found[0])]
        told = self.tr("No merge in the history made that model.")
        reading = len(result_hashes_of(self.host).waiting)
        remedy = (
            self.tr("Hashes that are still being read: {count}. Look again in a moment.", count=reading)
            if reading
            else ""
        )
        return [gr.update(), notice("info", told, remedy)]

    def _queue(self) -> str:
        from modelsmith_webui.background import queue_of
        from modelsmith_webui.tab.history_page import queue_html

        return queue_html(queue_of(self.host).jobs(), self.tr)

    def _table(self) -> str:
        from modelsmith_webui.history import history_of
        from modelsmith_webui.result_hashes import result_hashes_of
        from modelsmith_webui.tab.history_page import history_html

        entries, hashing = result_hashes_of(self.host).told(history_of(self.host).entries())
        return history_html(entries, self.tr, hashing=hashing)

    def _entry_html(self, entry: Entry) -> str:
        from modelsmith_webui.result_hashes import result_hashes_of
        from modelsmith_webui.tab.history_page import entry_html

        (known,), hashing = result_hashes_of(self.host).told([entry])
        listed = next((file.name for file in self.host.checkpoints() if file.path.name == known.file), "")
        return entry_html(known, self.tr, known.id in hashing, listed)

    # what is done

    def act(self, message: str) -> list[Any]:
        """Answer a row or a button: ``{"act": ..., "id": ..., "other": ...}``."""
        try:
            asked = json.loads(message)
            name, identifier = str(asked["act"]), str(asked["id"])
            answer = getattr(self, f"_do_{name}", None)
        except (ValueError, KeyError, TypeError):
            return self._answer()
        if answer is None:
            return self._answer()
        try:
            return answer(identifier, str(asked.get("other") or ""))
        except (ModelsmithError, OSError) as error:
            logger.info("%s: %s", name, error)
            return self._answer(detail=failure_html(error, self.tr) + self._entry_or_nothing(identifier))

    def _entry_or_nothing(self, identifier: str) -> str:
        try:
            return self._entry_html(self._entry(identifier))
        except UnknownNameError:
            return ""

    def _answer(self, *, detail: Any = None, anew: bool = False, form: MergeForm | None = None) -> list[Any]:
        """Updates for queue, table, detail, tabs and the Merge view's fields; None leaves a part as it is.

        anew: draw the table again. Which of its rows are chosen the page's script marks itself.
        """
        still = gr.update()
        fields = self._fill(form) if form is not None else [gr.update() for _ in self._filled]
        return [
            self._queue(),
            self._table() if anew else still,
            still if detail is None else detail,
            gr.update(selected="merge") if form is not None else gr.update(),
            *fields,
        ]

    def _entry(self, identifier: str) -> Entry:
        from modelsmith_webui.history import history_of

        return history_of(self.host).entry(identifier)

    def _do_show(self, identifier: str, _other: str) -> list[Any]:
        return self._answer(detail=self._entry_html(self._entry(identifier)))

    def _do_compare(self, identifier: str, other: str) -> list[Any]:
        from modelsmith_webui.history import history_of
        from modelsmith_webui.tab.history_page import compare_html

        found = history_of(self.host).compare(identifier, other)
        return self._answer(detail=compare_html(self._entry(identifier), self._entry(other), found, self.tr))

    def _do_edit(self, identifier: str, _other: str) -> list[Any]:
        from modelsmith_webui.merging import checkpoint_of, request_again

        request = request_again(self.host, checkpoint_of(self._entry(identifier)), "")
        return self._answer(form=MergeForm.from_request(request, self.host))

    def _do_again(self, identifier: str, _other: str) -> list[Any]:
        """Made once more under a name that is free, in the queue."""
        return self._queued(identifier)

    def _do_file(self, identifier: str, _other: str) -> list[Any]:
        return self._queued(identifier)

    def _queued(self, identifier: str) -> list[Any]:
        from modelsmith_webui.merging import checkpoint_of, free_path, queue_merge, request_again

        request = request_again(self.host, checkpoint_of(self._entry(identifier)), "")
        job = queue_merge(self.host, replace(request, output=free_path(request.output)))
        text = self.tr("{name} is in the queue; the History view shows how far it has come.").format(name=job.title)
        return self._answer(detail=notice("done", text) + self._entry_html(self._entry(identifier)))

    def _do_recipe(self, identifier: str, _other: str) -> list[Any]:
        from modelsmith_webui.merging import checkpoint_of, request_again, save_recipe

        request = request_again(self.host, checkpoint_of(self._entry(identifier)), "")
        made = save_recipe(self.host, request, numbered=True)
        text = self.tr("The recipe {name} is in the checkpoint list. It is merged when it is chosen.")
        told = notice("done", text.format(name=made.path.name))
        return self._answer(detail=told + self._entry_html(self._entry(identifier)), anew=True)

    def _do_delete(self, identifier: str, _other: str) -> list[Any]:
        from modelsmith_webui.history import history_of

        history_of(self.host).delete(identifier)
        return self._answer(detail=self._hint(), anew=True)

    def _do_cancel(self, identifier: str, _other: str) -> list[Any]:
        from modelsmith_webui.background import queue_of

        queue_of(self.host).cancel(identifier)
        return self._answer()

    def _do_up(self, identifier: str, _other: str) -> list[Any]:
        return self._moved(identifier, -1)

    def _do_down(self, identifier: str, _other: str) -> list[Any]:
        return self._moved(identifier, 1)

    def _moved(self, identifier: str, by: int) -> list[Any]:
        from modelsmith_webui.background import queue_of

        queue = queue_of(self.host)
        waiting = [job.id for job in queue.jobs() if job.state == "queued"]
        if identifier in waiting:
            queue.move(identifier, waiting.index(identifier) + by)
        return self._answer()
