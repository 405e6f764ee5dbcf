"""Registers callbacks with the webui, without the search of the whole stack by which it finds out who registers.

That search (``inspect.stack()``, with the sources of all frames) takes a tenth of a second for each callback once a
webui's modules are loaded. Where the webui lets the file be told, it is told.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def register(script_callbacks: Any, kind: str, function: Callable[..., Any], file: str) -> None:
    """As ``script_callbacks.on_<kind>(function)``; ``file`` is the one that the callback is named after."""
    lists = getattr(script_callbacks, "callback_map", {})
    add = getattr(script_callbacks, "add_callback", None)
    key = f"callbacks_{kind}"
    if add is not None and key in lists and {"filename", "category"} <= set(inspect.signature(add).parameters):
        add(lists[key], function, category=kind, filename=file)
    else:
        getattr(script_callbacks, f"on_{kind}")(function)
