"""The models of a merge: slots A, B, C and more, what is in them, and how one of them was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import gradio as gr

from modelsmith.errors import ModelsmithError
from modelsmith_webui.host import Host, find_file
from modelsmith_webui.tab.compat import listen, unsaved
from modelsmith_webui.tab.files import checkpoint_names
from modelsmith_webui.tab.html import esc, tag, text_tag
from modelsmith_webui.tab.merge_form import SLOTS, methods
from modelsmith_webui.tab.plan_page import failure_html
from modelsmith_webui.tab.texts import Texts

if TYPE_CHECKING:
    from modelsmith.files.header import FileHeader

SLOT_LABELS = ("Model A", "Model B", "Model C")
A1111_KEY = "sd_merge_recipe"
# What the page asks for with the button of a recipe, before the model's name.
RECIPE_OF = "recipe of "


def _parsed(text: str | None) -> dict[str, Any]:
    try:
        found: Any = json.loads(text or "null")
    except ValueError:
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def own_recipe(header: FileHeader) -> dict[str, Any]:
    """The recipe that Modelsmith wrote into a file; empty where there is none."""
    from modelsmith.merge.recipe import RECIPE_KEY

    return _parsed(header.metadata.get(RECIPE_KEY))


def _method_line(recipe: Mapping[str, Any], tr: Texts) -> str:
    label = next((label for label, spec in methods().items() if spec.id == recipe.get("method")), "")
    numbers = cast("Mapping[str, Any]", recipe.get("parameters") or {})
    shown = [f"{name} {value:g}" for name, value in numbers.items() if isinstance(value, (int, float))]
    return ", ".join([tr(label) or str(recipe.get("method", "")), *shown])


def recipe_html(header: FileHeader, tr: Texts, model: str = "") -> str:
    """How a merged file was made: ours in detail, A1111's own in a line; empty where it is no merge.

    model: its name in the list, for the button that puts its recipe into the fields.
    """
    recipe = own_recipe(header)
    if recipe:
        models = cast("list[Mapping[str, Any]]", recipe.get("models") or [])
        names = "".join(
            text_tag("li", f"{letter} = {one.get('name', '')}")
            for letter, one in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", models, strict=False)
        )
        inner = text_tag("p", _method_line(recipe, tr)) + tag("ul", names)
        if model:
            again = {"type": "button", "data_remedy": RECIPE_OF + model}
            inner += text_tag("button", tr("Put this recipe into the fields"), "ms-mini", **again)
    else:
        other = _parsed(header.metadata.get(A1111_KEY))
        if not other:
            return ""
        method = other.get("interp_method") or other.get("type") or ""
        inner = text_tag("p", f"{method} {other.get('multiplier', '')}".strip())
    return tag("details", text_tag("summary", tr("Made by a merge")) + inner, "ms-recipe")


class ModelSlots:
    """Builds the slots and answers their events. ``fields`` are the components by the form's field names."""

    def __init__(self, host: Host, tr: Texts) -> None:
        self.host, self.tr = host, tr
        self.fields: dict[str, Any] = {}
        self.badges: dict[str, Any] = {}

    def build(self) -> None:
        names = self.built = checkpoint_names(self.host)
        for slot, label in zip(SLOTS, SLOT_LABELS, strict=True):
            name = slot.lower()
            with gr.Column(elem_id=f"modelsmith_slot_{name}", elem_classes=["ms-slot"], visible=slot != "C") as column:
                identifier = f"modelsmith_model_{name}"
                self.fields[name] = unsaved(gr.Dropdown(choices=names, value=None, label=label, elem_id=identifier))
                self.badges[name] = gr.HTML("", elem_id=f"{identifier}_badge", elem_classes=["ms-slot-badge"])
            if slot == "C":
                self.third = column
        with gr.Column(elem_id="modelsmith_slot_more", elem_classes=["ms-slot"], visible=False) as self.further:
            more = gr.Dropdown(
                choices=names,
                value=[],
                multiselect=True,
                label="More models (D, E, …)",
                elem_id="modelsmith_model_more",
            )
            self.fields["more"] = unsaved(more)
            self.badges["more"] = gr.HTML("", elem_id="modelsmith_model_more_badge", elem_classes=["ms-slot-badge"])
        with gr.Row(elem_classes=["ms-row", "ms-tools"], elem_id="modelsmith_slot_tools"):
            self.refresh = gr.Button("Refresh list", elem_id="modelsmith_refresh", elem_classes=["ms-tool"])
            self.swap = gr.Button("Swap A and B", elem_id="modelsmith_swap", elem_classes=["ms-tool"])
            self.swap_later = gr.Button(
                "Swap B and C", elem_id="modelsmith_swap_bc", elem_classes=["ms-tool"], visible=False
            )
            self.loaded = gr.Button(
                "Loaded checkpoint as A",
                elem_id="modelsmith_use_loaded",
                elem_classes=["ms-tool"],
                visible="loaded_model" in self.host.capabilities,
            )

    @property
    def lists(self) -> list[Any]:
        """Every dropdown of checkpoints, in the order of :meth:`offers`."""
        return [self.fields[name] for name in ("a", "b", "c", "more")]

    def connect(self) -> None:
        for name in self.badges:
            self._badge_at(self.fields[name].change, name)
        listen(self.refresh.click, self.refresh_lists, [], self.lists)
        a, b, c = (self.fields[name] for name in ("a", "b", "c"))
        listen(self.swap.click, lambda one, two: (two, one), [a, b], [a, b])
        listen(self.swap_later.click, lambda one, two: (two, one), [b, c], [b, c])
        listen(self.loaded.click, self.use_loaded, [], [a])

    def _badge_at(self, event: Any, name: str) -> None:
        show = self.more_badges if name == "more" else self.badge
        listen(event, show, [self.fields[name]], [self.badges[name]])

    def show_again(self, event: Any) -> None:
        """Draw all badges at an event."""
        for name in self.badges:
            self._badge_at(event, name)

    @property
    def shown_by_method(self) -> list[Any]:
        """What :meth:`for_method` updates."""
        return [self.third, self.further, self.swap_later]

    @staticmethod
    def for_method(label: str) -> list[Any]:
        """Show as many slots as the method takes."""
        high = methods()[label].models[1]
        third = gr.update(visible=(high or 3) >= 3)
        return [third, gr.update(visible=high is None), third]

    def badge(self, name: str | None) -> str:
        """What the chosen checkpoint is, in short, and how it was made."""
        from modelsmith.files.header import read_header
        from modelsmith.identify import identify
        from modelsmith_webui.tab.report_page import badge_row

        if not name:
            return ""
        try:
            path = find_file(self.host.checkpoints(), name).path
            report = identify(path)
            recipe = recipe_html(read_header(path), self.tr, name) if report.error is None else ""
        except ModelsmithError as error:
            return failure_html(error, self.tr)
        return tag("div", badge_row(report, self.tr), "ms-badges") + recipe

    def more_badges(self, names: list[str] | None) -> str:
        """One line for each further model, with the letter that the formula calls it by."""
        lines = [
            tag("div", text_tag("b", letter) + " " + esc(name) + self.badge(name), "ms-more-line")
            for letter, name in zip("DEFGHIJKLMNOPQRSTUVWXYZ", names or [], strict=False)
        ]
        return "".join(lines)

    def refresh_lists(self) -> list[Any]:
        """Look for new files and offer them in every slot."""
        self.host.refresh_checkpoints()
        return self.offers()

    def offers(self) -> list[Any]:
        """The checkpoints that the host has now, for each list."""
        names = checkpoint_names(self.host)
        return [gr.update(choices=names) for _ in self.lists]

    def offers_since_start(self) -> list[Any]:
        """As :meth:`offers` for a page that is loaded: nothing where the list is still that of the start, for a list
        that is renewed under somebody's hand can lose the choice."""
        return self.offers() if checkpoint_names(self.host) != self.built else [gr.update() for _ in self.lists]

    def use_loaded(self) -> Any:
        """The checkpoint in memory as model A."""
        path = self.host.loaded_checkpoint()
        name = next((file.name for file in self.host.checkpoints() if file.path == path), None)
        return gr.update(value=name) if name else gr.update()
