"""What a merge may have beside its models: LoRAs baked in, rules for single tensors, adjustments, precision by part."""

from __future__ import annotations

from typing import Any

import gradio as gr

from modelsmith_webui.host import Host
from modelsmith_webui.tab.compat import unsaved
from modelsmith_webui.tab.lora_rows import rows_html
from modelsmith_webui.tab.merge_form import AS_THE_REST, COMPONENTS, all_parameters, block_parameters, methods
from modelsmith_webui.tab.texts import Texts
from modelsmith_webui.tab.words import PRECISIONS


class MergeExtras:
    """Builds the two folded panels. ``fields`` are the components by the form's field names."""

    def __init__(self, host: Host, tr: Texts) -> None:
        self.host, self.tr = host, tr
        self.fields: dict[str, Any] = {}

    def build(self) -> None:
        with gr.Accordion("LoRAs to bake in", open=False, elem_id="modelsmith_loras_panel"):
            # The script draws the rows (javascript/modelsmith_loras.js) and keeps them as JSON in the field.
            self.rows = gr.HTML(self.rows_html(), elem_id="modelsmith_lora_rows")
            self.fields["loras"] = unsaved(
                gr.Textbox(value="", label="LoRA rows", elem_id="modelsmith_loras", elem_classes=["ms-out-of-sight"])
            )
        with gr.Accordion("Advanced", open=False, elem_id="modelsmith_merge_advanced"):
            for name in block_parameters():
                self.fields[f"rules_{name}"] = unsaved(
                    gr.Textbox(
                        value="",
                        label=f"Rules for single tensors: {all_parameters()[name].label}",
                        placeholder="one a line: blocks:elements:weight, such as  OUT03-OUT05:attn2 ff:0.2",
                        lines=2,
                        max_lines=8,
                        visible=name == "alpha",
                        elem_id=f"modelsmith_rules_{name}",
                        elem_classes=["ms-weights-text"],
                    )
                )
            self.fields["finetune"] = unsaved(
                gr.Textbox(
                    value="",
                    label="Adjust the result",
                    placeholder="such as  detail=1, contrast=0.5  or eight numbers",
                    max_lines=1,
                    elem_id="modelsmith_finetune",
                )
            )
            with gr.Row(elem_classes=["ms-row"], elem_id="modelsmith_part_precisions"):
                for name, label in COMPONENTS.items():
                    choices = [AS_THE_REST, *(key for key, dtype in PRECISIONS.items() if dtype)]
                    self.fields[f"dtype_{name}"] = unsaved(
                        gr.Dropdown(
                            choices=choices,
                            value=AS_THE_REST,
                            label=f"Precision: {label}",
                            elem_id=f"modelsmith_dtype_{name}",
                            min_width=120,
                        )
                    )

    @property
    def shown_by_method(self) -> list[Any]:
        """What :meth:`for_method` updates."""
        return [self.fields[f"rules_{name}"] for name in block_parameters()]

    @staticmethod
    def for_method(label: str) -> list[Any]:
        """Show the rules of those parameters only that the method has."""
        own = {parameter.id for parameter in methods()[label].parameters if parameter.per_block}
        return [gr.update(visible=name in own) for name in block_parameters()]

    def rows_html(self) -> str:
        """The place where the script draws the rows."""
        return rows_html(self.host, "modelsmith_loras")
