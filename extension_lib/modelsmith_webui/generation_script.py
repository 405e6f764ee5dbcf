"""The script class that the webui runs, and its controls in txt2img and img2img."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modelsmith.decision import Override
from modelsmith_webui.generation import AUTOMATIC, RESCALES, Generation
from modelsmith_webui.xyz import PREDICTIONS, SWITCHES

TAKES_OUT = "modelsmith"


def tr(text: str) -> str:
    """Marks a text that the webui itself translates, by its exact English form."""
    return text


def _labels(found: Override) -> tuple[str, str, str]:
    """The controls' values for a choice."""
    rescale = found.cfg_rescale
    return (
        AUTOMATIC if found.prediction == "auto" else found.prediction,
        AUTOMATIC if found.ztsnr == "auto" else found.ztsnr.title(),
        AUTOMATIC if rescale is None else f"{rescale:g}" if rescale else "Off",
    )


def _controls(prefix: str) -> list[Any]:
    import gradio as gr

    with gr.Row():
        made = [
            gr.Dropdown(list(PREDICTIONS), value=AUTOMATIC, label=tr("Prediction"), elem_id=f"{prefix}_prediction"),
            gr.Dropdown(list(SWITCHES), value=AUTOMATIC, label="ZTSNR", elem_id=f"{prefix}_ztsnr"),
            gr.Dropdown(
                RESCALES,
                value=AUTOMATIC,
                label=tr("CFG rescale"),
                elem_id=f"{prefix}_cfg_rescale",
                allow_custom_value=True,
            ),
        ]
    for control in made:
        # A choice for one picture is not the start value of the next session.
        control.do_not_save_to_config = True
    return made


def _paste_fields(generation: Generation, controls: list[Any]) -> list[Any]:
    from modules.infotext_utils import PasteField

    def takes_out(params: dict[str, Any]) -> None:
        """The API reads fields with an ``api`` name first and knows no callback: settings are taken out here."""
        generation.pasted(params)

    def value(index: int) -> Callable[[dict[str, Any]], str]:
        return lambda params: _labels(generation.pasted(params))[index]

    fields = [PasteField(control, value(index)) for index, control in enumerate(controls)]
    return [PasteField(controls[0], takes_out, api=TAKES_OUT), *fields]


def script_class(generation: Generation, scripts: Any) -> type:
    """The class for the webui; it finds it in the module of the script."""

    class ModelsmithScript(scripts.Script):
        """Always on: brings the model in line before a job builds its samplers."""

        def title(self) -> str:
            return "Modelsmith"

        def show(self, is_img2img: bool) -> Any:
            return scripts.AlwaysVisible

        def ui(self, is_img2img: bool) -> list[Any]:
            import gradio as gr

            prefix = f"modelsmith_{'img2img' if is_img2img else 'txt2img'}"
            with gr.Accordion("Modelsmith", open=False, elem_id=prefix):
                controls = _controls(prefix)
            self.infotext_fields = _paste_fields(generation, controls)
            return controls

        def before_process(self, p: Any, *_args: Any) -> None:
            generation.before_load(p)

        def process(self, p: Any, *args: Any) -> None:
            generation.begin(p, args)

        def before_process_batch(self, p: Any, *_args: Any, **_kwargs: Any) -> None:
            generation.before_batch(p)

        def process_before_every_sampling(self, p: Any, *_args: Any, **_kwargs: Any) -> None:
            generation.before_sampling(p)

        def postprocess(self, p: Any, _processed: Any, *_args: Any) -> None:
            generation.end(p)

    return ModelsmithScript
