"""How a merge mixes: the method, its numbers, the weights of blocks, and a map of where the models differ."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from modelsmith.errors import Cancelled, ModelsmithError
from modelsmith.merge.blocks import LAYOUTS, PLAIN, BlockLayout
from modelsmith_webui.host import Host, find_file
from modelsmith_webui.tab.block_editor import Layer, editor_html
from modelsmith_webui.tab.compat import hear, listen, unsaved
from modelsmith_webui.tab.files import find_checkpoint
from modelsmith_webui.tab.html import answer_mark, notice, tag, text_tag
from modelsmith_webui.tab.merge_form import all_parameters, block_parameters, layout_of, methods
from modelsmith_webui.tab.plan_page import failure_html, formula_html
from modelsmith_webui.tab.texts import Texts

if TYPE_CHECKING:
    from modelsmith.files.header import FileHeader
    from modelsmith.merge.user_presets import UserPresets

logger = logging.getLogger(__name__)


def percent_text(share: float) -> str:
    """A share in percent, to two places that count and never in powers of ten."""
    return f"{share * 100:.0f}" if share >= 0.1 else f"{share * 100:.2g}"


class WeightsPanel:
    """Builds the panel and answers its events. ``fields`` are the components by the form's field names."""

    def __init__(self, host: Host, tr: Texts) -> None:
        self.host, self.tr = host, tr
        self.fields: dict[str, Any] = {}

    def build(self) -> None:
        known = methods()
        first = next(iter(known.values()))
        method = gr.Dropdown(choices=list(known), value=first.label, label="Method", elem_id="modelsmith_method")
        self.fields["method"] = method
        self.formula = gr.HTML(formula_html(first, self.tr), elem_id="modelsmith_method_formula")
        own = {parameter.id: parameter for parameter in first.parameters}
        for name, parameter in all_parameters().items():
            spec = own.get(name, parameter)
            self.fields[f"parameter_{name}"] = unsaved(
                gr.Slider(
                    minimum=spec.low,
                    maximum=spec.high,
                    step=spec.step,
                    value=spec.default,
                    label=spec.label,
                    visible=name in own,
                    elem_id=f"modelsmith_parameter_{name}",
                )
            )
        self.editor = gr.HTML(self._editor(None, first.label), elem_id="modelsmith_editor")
        for name in block_parameters():
            self.fields[f"blocks_{name}"] = unsaved(
                gr.Textbox(
                    value="",
                    label=f"Block weights: {all_parameters()[name].label}",
                    placeholder="empty: the same weight everywhere",
                    lines=2,  # a whole row has room, so that nothing below moves when one is chosen
                    max_lines=3,
                    visible=name in own and own[name].per_block,
                    elem_id=f"modelsmith_blocks_{name}",
                    elem_classes=["ms-weights-text"],
                )
            )
        self._build_difference()

    def _build_difference(self) -> None:
        with gr.Row(elem_classes=["ms-row", "ms-tools"], elem_id="modelsmith_difference_tools"):
            self.show_difference = gr.Button(
                "Show where they differ", elem_id="modelsmith_difference_start", elem_classes=["ms-tool"]
            )
            self.stop_difference = gr.Button(
                "Stop comparing", elem_id="modelsmith_difference_stop", elem_classes=["ms-tool", "ms-while-running"]
            )
            with gr.Column(
                elem_id="modelsmith_difference_progress_panel", elem_classes=["ms-progress-panel"], min_width=120
            ):
                gr.HTML("", elem_id="modelsmith_difference_progress", elem_classes=["ms-progress-place"])
        self.difference = gr.HTML("", elem_id="modelsmith_difference_result")
        # Out of sight but in the page: the script writes a preset here.
        edit = gr.Textbox(
            value="", label="Preset to keep", elem_id="modelsmith_preset_edit", elem_classes=["ms-out-of-sight"]
        )
        self.preset_edit = unsaved(edit)
        self.preset_said = gr.HTML("", elem_id="modelsmith_preset_said")

    def connect(self, a: Any, b: Any, c: Any) -> None:
        """Wire the panel; ``a``, ``b`` and ``c`` are the slots' dropdowns."""
        listen(a.change, self.show_blocks, [a, self.fields["method"]], [self.editor])
        for slot in (a, b, c):  # a map of other models would mislead
            listen(slot.change, lambda: "", [], [self.difference])
        hear(self.preset_edit, lambda message: [self.preset_answer(message)], [self.preset_said])
        task = unsaved(
            gr.Textbox(value="", visible=False, label="Task of difference", elem_id="modelsmith_difference_task")
        )
        inputs = [a, b, c, self.fields["method"]]
        data = {"data_view": "difference", "data_inputs": 1 + len(inputs)}
        gr.HTML(tag("div", "", "ms-view-data", hidden="hidden", **data), elem_id="modelsmith_difference_data")
        job = self.host.wrap_job(self.compare, extra_outputs=[])
        script = "modelsmithStart_difference" if self.host.progress_script else None
        listen(self.show_difference.click, job, [task, *inputs], [self.difference], js=script, job=True)
        listen(self.stop_difference.click, self.host.interrupt, [task], js="modelsmithStop_difference")

    # what the method has

    @property
    def shown_by_method(self) -> list[Any]:
        """What :meth:`for_method` updates."""
        sliders = [self.fields[f"parameter_{name}"] for name in all_parameters()]
        texts = [self.fields[f"blocks_{name}"] for name in block_parameters()]
        return [self.formula, self.editor, *sliders, *texts]

    def for_method(self, label: str, a: str | None, values: dict[str, float] | None = None) -> list[Any]:
        """Show the formula, and only the controls that the method has, at its defaults or at ``values``."""
        spec, given = methods()[label], values or {}
        own = {parameter.id: parameter for parameter in spec.parameters}
        sliders = [
            gr.update(
                visible=True,
                minimum=own[name].low,
                maximum=own[name].high,
                step=own[name].step,
                value=given.get(name, own[name].default),
                label=own[name].label,
            )
            if name in own
            else gr.update(visible=False)
            for name in all_parameters()
        ]
        texts = [gr.update(visible=name in own and own[name].per_block) for name in block_parameters()]
        return [formula_html(spec, self.tr), self._editor(a, label), *sliders, *texts]

    def show_blocks(self, a: str | None, label: str) -> str:
        """Model A decides which blocks there are."""
        return self._editor(a, label)

    def _editor(self, model: str | None, label: str) -> str:
        layout, header = PLAIN, None
        if model:
            try:
                layout, header = self._layout(model)
            except ModelsmithError as error:
                logger.info("no blocks are shown: %s", error)
        layers = [
            Layer(parameter.id, parameter.label) for parameter in methods()[label].parameters if parameter.per_block
        ]
        return editor_html(layout, self.tr, layers, self.own_presets(), header)

    @property
    def presets(self) -> UserPresets:
        """The user's own presets, in the host's data folder."""
        from modelsmith.merge.user_presets import FILE, UserPresets

        return UserPresets(self.host.data_folder() / FILE)

    def own_presets(self) -> dict[str, str]:
        """Their texts by name; none where the file is damaged."""
        try:
            return self.presets.all()
        except ModelsmithError as error:
            logger.warning("no presets are shown: %s", error)
            return {}

    def _layout(self, model: str) -> tuple[BlockLayout, FileHeader]:
        return layout_of(find_file(self.host.checkpoints(), model))

    # presets and the map

    def preset_answer(self, message: str) -> str:
        """Why a preset was not kept, if so, and the mark by which the page's script knows what that answers."""
        try:
            asked = json.loads(message)
            return self.keep_preset(asked) + answer_mark(str(asked.get("ticket")))
        except (ValueError, AttributeError) as error:
            logger.warning("the page sent no preset: %s", error)
            return notice("error", self.tr("The preset could not be saved."))

    def keep_preset(self, found: Mapping[str, Any]) -> str:
        """Save the preset that the page sends, or delete it. Returns why that could not be, if so."""
        try:
            name, text, layout = str(found["name"]), str(found["text"]), LAYOUTS[str(found["layout"])]
        except (KeyError, TypeError) as error:
            logger.warning("the page sent no preset: %s", error)
            return notice("error", self.tr("The preset could not be saved."))
        try:
            if text:
                self.presets.save(name, text, layout)
            else:
                self.presets.delete(name)
        except ModelsmithError as error:
            return failure_html(error, self.tr)
        return ""

    def compare(self, _task: str, a: str | None, b: str | None, c: str | None, label: str) -> list[Any]:
        """Measure block by block how far B (or B − C) is from A. Returns the map for the page, as the only output."""
        from modelsmith.merge.difference import difference_map

        control = self.host.job_control()
        takes_c = methods()[label].effect == "difference" and bool(c)
        try:
            chosen = [("A", a), ("B", b)] + ([("C", c)] if takes_c else [])
            paths = [find_checkpoint(self.host, name, slot).path for slot, name in chosen]
            found = difference_map(
                *paths, progress=lambda share: control.report(share, self.tr("Comparing")), cancelled=control.cancelled
            ).to_json()
        except Cancelled:
            return [notice("info", self.tr("Cancelled. Nothing was compared."))]
        except (ModelsmithError, OSError, MemoryError) as error:
            logger.warning("the comparison failed: %s", error)
            return [failure_html(error, self.tr)]
        return [self._map_html(found, "B − C" if takes_c else "B")]

    def _map_html(self, found: dict[str, Any], what: str) -> str:
        values = {name: one["relative_l2"] for name, one in found["blocks"].items() if one["relative_l2"] is not None}
        if not values:
            return notice("info", self.tr("Nothing could be compared."))
        most = max(values, key=lambda name: values[name])
        slim = {"layout": found["layout"], "blocks": {name: {"relative_l2": value} for name, value in values.items()}}
        text = self.tr(
            "{what} against A: behind each bar, how far the block lies from A. Most in {block}: {percent} %.",
            what=what, block=most, percent=percent_text(values[most]),
        )  # fmt: skip
        scale = tag("span", "", "ms-heat-scale")
        data = tag("span", "", "ms-difference-data", hidden="hidden", data_map=json.dumps(slim, separators=(",", ":")))
        return tag("div", scale + text_tag("span", text) + data, "ms-difference-legend", role="status")
