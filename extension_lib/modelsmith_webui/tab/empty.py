"""What stands above the views while the host has no checkpoints: where they belong, and what works without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from modelsmith_webui.host import Host
from modelsmith_webui.tab.compat import listen
from modelsmith_webui.tab.html import notice_with, press, text_tag
from modelsmith_webui.tab.texts import Texts

LOOK_AGAIN = "modelsmith_empty_look"


class EmptyNotice:
    """One notice for all views, gone as soon as there is a checkpoint."""

    def __init__(self, host: Host, tr: Texts) -> None:
        self.host, self.tr = host, tr

    def build(self) -> None:
        html, shown = self._html()
        self.place = gr.HTML(html, visible=shown, elem_id="modelsmith_empty", elem_classes=["ms-above"])
        self.look = gr.Button("Look for models", elem_id=LOOK_AGAIN, elem_classes=["ms-out-of-sight"])

    def connect(self, load: Any, refreshes: Sequence[Any], offers: Sequence[tuple[Any, Sequence[Any]]]) -> None:
        """``refreshes`` are buttons after which there may be other files; ``offers`` fill the lists of the views."""
        listen(load, self.update, [], [self.place])
        for button in refreshes:
            listen(button.click, self.update, [], [self.place])
        looked = listen(self.look.click, self._look, [], [self.place])
        for function, outputs in offers:
            looked = listen(looked.then, function, [], outputs)

    def _look(self) -> Any:
        self.host.refresh_checkpoints()
        return self.update()

    def update(self) -> Any:
        html, shown = self._html()
        return gr.update(value=html, visible=shown)

    def _html(self) -> tuple[str, bool]:
        if self.host.checkpoints():
            return "", False
        told = self.tr("There are no checkpoints in {folder} yet.", folder=self.host.checkpoint_folder())
        remedy = self.tr("Put .safetensors files there and look again. A file can also be dropped into Inspect.")
        more = text_tag("span", remedy, "ms-notice-remedy") + " " + press(self.tr("Look again"), LOOK_AGAIN)
        return notice_with("info", told, more), True
