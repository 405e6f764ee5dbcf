"""The few places where gradio 3.41 and 4.40 differ, said once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any


def js_keyword(event: Any) -> str:
    """What an event calls the JavaScript that runs before it: ``_js`` in gradio 3, ``js`` in gradio 4."""
    return "_js" if "_js" in inspect.signature(event).parameters else "js"


def listen(
    event: Any,
    function: Callable[..., Any] | None,
    inputs: Sequence[Any] = (),
    outputs: Sequence[Any] = (),
    *,
    js: str | None = None,
    job: bool = False,
) -> Any:
    """Connect ``function`` to a component's ``event`` (``button.click``).

    Quick events skip the queue, so that they answer while a merge runs. ``job`` marks a long one, which takes its turn.
    No event is offered in the host's API page: the routes under /modelsmith/v1 are for that.
    """
    extra: dict[str, Any] = {js_keyword(event): js} if js else {}
    if not job:
        extra["queue"] = False
    return event(
        fn=function, inputs=list(inputs), outputs=list(outputs), api_name=False, show_progress="hidden", **extra
    )


def file_path(uploaded: Any) -> str | None:
    """The path behind a gr.File value: gradio 3 gives an object with a name, gradio 4 the path itself."""
    if uploaded is None:
        return None
    return str(getattr(uploaded, "name", uploaded))


def unsaved(component: Any) -> Any:
    """Keep a component out of the webui's ui-config.json: its choices or its range are made at run time."""
    component.do_not_save_to_config = True
    return component
