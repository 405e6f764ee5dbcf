"""Presses buttons of a webui's gradio page over HTTP, as the browser does (gradio 3.41 and 4.40)."""

from __future__ import annotations

import json
import urllib.request
import uuid
from typing import Any

from host.server import Webui

PRESS_LIMIT = 300.0


def _handler(config: dict[str, Any], button: str, inputs: int) -> tuple[int, int, bool]:
    """Index, button id and whether it is queued, of the one click handler that fits.

    The button is named by its text or its elem_id; the handler has this many inputs.
    """
    buttons = [component for component in config["components"] if component["type"] == "button"]
    ids = {c["id"] for c in buttons if button in (c["props"].get("value"), c["props"].get("elem_id"))}
    found: list[tuple[int, int, bool]] = []
    for index, dependency in enumerate(config["dependencies"]):
        for target in dependency["targets"]:
            # gradio 3 lists [id, event] too, some versions only the id
            component, event = target if isinstance(target, list) else (target, dependency.get("trigger", "click"))
            if component in ids and event == "click" and len(dependency["inputs"]) == inputs:
                found.append((dependency.get("id", index), component, dependency.get("queue") is not False))
    assert len(found) == 1, f"{len(found)} handlers for {button!r} with {inputs} inputs"
    return found[0]


def press(webui: Webui, button: str, values: list[Any]) -> str:
    """Press the button (its text or elem_id) with these values in its inputs; what comes back, as text."""
    config = webui.get("/config")
    index, trigger, queued = _handler(config, button, len(values))
    session = uuid.uuid4().hex
    body = {"data": values, "fn_index": index, "session_hash": session, "event_data": None}
    if not queued or str(config.get("version", "")).startswith("3."):
        return json.dumps(webui.post("/run/predict", body))
    webui.post("/queue/join", {**body, "trigger_id": trigger})
    with urllib.request.urlopen(webui.url(f"/queue/data?session_hash={session}"), timeout=PRESS_LIMIT) as stream:
        for line in stream:
            message = json.loads(line[5:]) if line.startswith(b"data:") else {}
            if message.get("msg") == "process_completed":
                return json.dumps(message)
    raise AssertionError(f"the page gave no answer to {button!r}")
