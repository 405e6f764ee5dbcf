"""The view of all model files: one table from the index in the background; a row opens its report."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from modelsmith_webui.host import Host
from modelsmith_webui.tab.compat import hear, listen, unsaved
from modelsmith_webui.tab.inspect_view import InspectView
from modelsmith_webui.tab.report_page import empty_html
from modelsmith_webui.tab.texts import Texts


class LibraryView:
    """Nothing is read before the view is opened; then the table shows what the index knows, and fills up."""

    def __init__(self, host: Host, tr: Texts, inspect: InspectView) -> None:
        self.host, self.tr, self.inspect = host, tr, inspect

    def build(self) -> None:
        with gr.Row(elem_classes=["ms-row", "ms-tools"], elem_id="modelsmith_library_tools"):
            self.refresh = gr.Button("Read again", elem_id="modelsmith_library_refresh", elem_classes=["ms-tool"])
            # Out of sight but in the page: the script presses it while files are still being read.
            self.poll = gr.Button("Look again", elem_id="modelsmith_library_poll", elem_classes=["ms-out-of-sight"])
        self.table = gr.HTML(empty_html(self.tr("Reading the model files …")), elem_id="modelsmith_library_table")
        # Out of sight but in the page: the script writes the opened row here.
        self.open = unsaved(
            gr.Textbox(
                value="", label="Opened row", elem_id="modelsmith_library_open", elem_classes=["ms-out-of-sight"]
            )
        )

    def connect(self, tab: Any, views: Any) -> None:
        """Wire the view; ``views`` are the tabs, so that a row can lead to its report."""
        listen(tab.select, self.show, [], [self.table])
        listen(self.poll.click, self.show, [], [self.table])
        listen(self.refresh.click, self.read_again, [], [self.table])
        hear(self.open, self.open_row, [self.inspect.file, views, *self.inspect.outputs])

    def show(self) -> str:
        from modelsmith_webui.library import library_of
        from modelsmith_webui.tab.library_page import library_html

        library = library_of(self.host)
        rows = library.rows(self.tr.message_language)
        return library_html(rows, self.tr, busy=library.busy)

    def read_again(self) -> str:
        self.host.refresh_checkpoints()
        return self.show()

    def open_row(self, message: str) -> list[Any]:
        """Show the report of the row that the page asks for, in the Inspect view."""
        try:
            label = str(json.loads(message)["name"])
        except (ValueError, KeyError, TypeError):
            return [gr.update() for _ in range(2 + len(self.inspect.outputs))]
        return [gr.update(value=label), gr.update(selected="inspect"), *self.inspect.choose(label)]
