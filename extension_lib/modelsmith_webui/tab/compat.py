"""The few places where gradio 3.41 and 4.40 differ, said once."""

from __future__ import annotations

import functools
import inspect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio.blocks import BlockContext
from gradio.context import Context


@functools.cache
def js_keyword() -> str:
    """What an event calls the JavaScript that runs before it: ``_js`` in gradio 3, ``js`` in gradio 4."""
    return "_js" if "_js" in inspect.signature(gr.Blocks.load).parameters else "js"


ANY_VALUES = inspect.Signature([inspect.Parameter("values", inspect.Parameter.VAR_POSITIONAL)])


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The handler without its annotations, which gradio would evaluate one by one, and with its signature at hand,
    which gradio would work out twice: together more than half of what an event costs."""

    def handler(*values: Any) -> Any:
        return function(*values)

    handler.__name__ = getattr(function, "__name__", "handler")
    handler.__annotations__ = {}
    setattr(handler, "__signature__", ANY_VALUES)  # noqa: B010 - inspect looks for it, the type checker knows none
    return handler


@contextmanager
def part_of_a_page(blocks: gr.Blocks) -> Iterator[None]:
    """As ``with blocks:``, for what a webui puts into its own page.

    At the end of a ``with`` gradio makes a web server with some forty routes, and a description of all components; the
    webui makes its own of the whole page and asks for neither. That is a third of what building the tab would cost.
    """
    blocks.__enter__()
    try:
        yield
    except BaseException as error:
        blocks.__exit__(type(error), error, error.__traceback__)
        raise
    blocks.attach_load_events()
    BlockContext.__exit__(blocks)
    if blocks.parent is None:
        Context.root_block = None
    blocks.exited = True


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
    extra: dict[str, Any] = {js_keyword(): js} if js else {}
    if not job:
        extra["queue"] = False
    handler = plain(function) if function is not None else None
    return event(
        fn=handler, inputs=list(inputs), outputs=list(outputs), api_name=False, show_progress="hidden", **extra
    )


def hear(field: Any, function: Callable[..., Sequence[Any]], outputs: Sequence[Any], inputs: Sequence[Any] = ()) -> Any:
    """Answer what the page's script tells the server through ``field``, a textbox out of sight.

    The script says one thing after the other, each behind a ticket of its own, and waits until the field holds the
    ticket alone: that is how it knows that it was heard. gradio drops an event while the last one of its kind is being
    answered, so what was not heard is said again under the same ticket, and a late answer to a repetition must not pass
    for one to what came after it. ``function(message, *inputs)`` is called once for each.
    """
    taken: deque[str] = deque(maxlen=64)

    def take(said: str, *values: Any) -> list[Any]:
        ticket, _, message = (said or "").partition(" ")
        if not message or ticket in taken:
            return [ticket, *(gr.update() for _ in outputs)]
        taken.append(ticket)
        return [ticket, *function(message, *values)]

    return listen(field.input, take, [field, *inputs], [field, *outputs])


def file_path(uploaded: Any) -> str | None:
    """The path behind a gr.File value: gradio 3 gives an object with a name, gradio 4 the path itself."""
    if uploaded is None:
        return None
    return str(getattr(uploaded, "name", uploaded))


def unsaved(component: Any) -> Any:
    """Keep a component out of the webui's ui-config.json: its choices or its range are made at run time."""
    component.do_not_save_to_config = True
    return component


def plan_again_button(elem_id: str, mark: str = "") -> Any:
    """A button out of sight that asks for a summary once more: the page's script presses it where gradio 3 dropped the
    event of a field because the last one was still being answered. ``mark`` keeps its text apart from the others'."""
    return unsaved(gr.Button(f"↻{mark}", elem_id=elem_id, elem_classes=["ms-out-of-sight"]))
