"""Callbacks are registered under the file that is told, and by the public way where the webui takes none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from modelsmith_webui import callbacks


def test_the_file_is_told_where_the_webui_takes_it() -> None:
    seen: list[Any] = []

    def add_callback(known: list[Any], fun: Any, *, name: Any = None, category: str = "", filename: Any = None) -> None:
        seen.append((known, fun, category, filename))

    lists = {"callbacks_ui_tabs": []}
    webui = SimpleNamespace(add_callback=add_callback, callback_map=lists, on_other=lambda fun: seen.append(fun))
    callbacks.register(webui, "ui_tabs", len, "file.py")
    assert seen == [(lists["callbacks_ui_tabs"], len, "ui_tabs", "file.py")]
    callbacks.register(webui, "other", max, "file.py")
    assert seen[1] is max


def test_another_webui_is_asked_by_its_public_function() -> None:
    seen: list[Any] = []
    webui = SimpleNamespace(add_callback=lambda known, fun: None, callback_map={"callbacks_ui_tabs": []})
    webui.on_ui_tabs = seen.append
    callbacks.register(webui, "ui_tabs", len, "file.py")
    del webui.callback_map
    callbacks.register(webui, "ui_tabs", max, "file.py")
    assert seen == [len, max]
