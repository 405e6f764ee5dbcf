"""What a dotted name is in this webui."""

from __future__ import annotations

import importlib
import inspect
import re
from types import ModuleType
from typing import Any


def _find(name: str, loaded: Any) -> Any:
    parts = name.split(".")
    if parts[0] == "loaded":
        found = loaded
        rest = parts[1:]
    else:
        for length in range(len(parts), 0, -1):
            try:
                found = importlib.import_module(".".join(parts[:length]))
            except ImportError:
                continue
            rest = parts[length:]
            break
        else:
            raise AttributeError(name)
    for part in rest:
        found = getattr(found, part)
    return found


def describe(name: str, loaded: Any) -> str | None:
    """The signature of a function, "class", "module", "value", or None where there is none."""
    try:
        found = _find(name, loaded)
    except AttributeError:
        return None
    if isinstance(found, ModuleType):
        return "module"
    if isinstance(found, type):
        return "class"
    if not inspect.isroutine(found):
        return "value"
    try:
        parameters = inspect.signature(found).parameters.values()
    except ValueError:
        return "function"
    # Without annotations, which say nothing of how a function may be called, and without addresses, which change.
    text = ", ".join(str(one.replace(annotation=one.empty)) for one in parameters)
    return "(" + re.sub(r" at 0x[0-9a-f]+", "", text) + ")"
