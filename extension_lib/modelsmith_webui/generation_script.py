"""The script class that the webui runs, and its controls in txt2img and img2img."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelsmith.decision import Override
from modelsmith_webui.generation import AUTOMATIC, RESCALES, Generation, choice_of, resolve_scheduler
from modelsmith_webui.xyz import PREDICTIONS, SWITCHES

if TYPE_CHECKING:
    from modelsmith.sampling_advice import Advice
    from modelsmith_webui.tab.texts import Texts

TAKES_OUT = "modelsmith"
# The webui's own controls that the advice reads, by the end of their elem_id.
WATCHED = ("sampling", "scheduler", "steps", "cfg_scale", "denoising_strength")


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
        setattr(control, "do_not_save_to_config", True)  # noqa: B010 - an attribute of the webui, unknown to gradio
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


def _chosen_checkpoint() -> Path | None:
    """The checkpoint of the selector; Forge loads it only when it is needed."""
    from modules import sd_models, shared

    info = sd_models.checkpoint_aliases.get(shared.opts.sd_model_checkpoint)
    return Path(info.filename) if info is not None else None


def _told(text: str) -> tuple[Path | None, bool]:
    """The checkpoint that the page's script names, None where it is not known; and whether the page has just begun."""
    from modules import sd_models

    try:
        found = json.loads(text)
        name, begins = str(found["name"]), bool(found.get("begins"))
    except (ValueError, TypeError, KeyError):
        return None, True
    info = sd_models.checkpoint_aliases.get(name) or sd_models.checkpoint_aliases.get(name.rsplit(" [", 1)[0])
    return (Path(info.filename) if info is not None else None), begins


class AdviceLine:
    """The line and the button of one tab; wired when the webui has built the controls that it watches."""

    def __init__(self, generation: Generation, is_img2img: bool) -> None:
        self._generation = generation
        self._tab = "img2img" if is_img2img else "txt2img"
        self._missing = {f"{self._tab}_{name}": name for name in WATCHED}
        self._watched: dict[str, Any] = {}
        self._wired = False
        self._own: list[Any] = []
        # The checkpoint that the choices in the controls were made for.
        self._choices_for: Path | None = None

    @cached_property
    def _tr(self) -> Texts:
        from modelsmith_webui.tab.texts import Texts

        return Texts(self._generation.host.language)

    def build(self, controls: list[Any]) -> None:
        """Add the line and the button below ``controls``.

        The webui's API has the script's UI built again, twice for each tab, to read default values from it: once the
        line is wired, what is built is thrown away.
        """
        import gradio as gr

        if self._wired:
            return
        prefix = f"modelsmith_{self._tab}"
        with gr.Row():
            line = gr.HTML("", elem_id=f"{prefix}_advice")
            button = gr.Button(tr("Use what fits"), elem_id=f"{prefix}_fit", size="sm")
        # The page's script tells here which checkpoint is chosen now; the selector may not be built yet.
        chosen = gr.Textbox("", label="Checkpoint", elem_id=f"{prefix}_checkpoint", elem_classes=["ms-out-of-sight"])
        setattr(chosen, "do_not_save_to_config", True)  # noqa: B010 - an attribute of the webui, unknown to gradio
        self._own = [*controls, line, button, chosen]
        self._wire()

    def watch(self, script: Any) -> None:
        """Ask the webui for the components to watch as it builds them.

        It is asked by name: a script's ``after_component`` would be called for each of the page's hundreds.
        """
        for elem_id in self._missing:
            script.on_after_component(partial(self._seen, elem_id), elem_id=elem_id)

    def _seen(self, elem_id: str, built: Any) -> None:
        """The webui has built a component of this name, ``built.component``; the first one counts."""
        name = self._missing.pop(elem_id, None)
        if name is not None:
            self._watched[name] = built.component
            self._wire()

    def _wire(self) -> None:
        if self._missing or not self._own:
            return
        from modelsmith_webui.tab.compat import plain

        self._wired = True
        show = plain(self.show)
        *controls, line, button, chosen = self._own
        inputs = [chosen, *(self._watched[name] for name in WATCHED), *controls]
        for control in inputs[1:]:
            if control is not self._watched["steps"]:
                control.change(show, inputs, [line], queue=False, show_progress=False)
        fitting = [self._watched["scheduler"], self._watched["cfg_scale"], line]
        button.click(plain(self.fit), inputs, fitting, queue=False, show_progress=False)
        chosen.change(plain(self.checkpoint_chosen), inputs, [*controls, line], queue=False, show_progress=False)

    def advice(self, values: tuple[Any, ...], path: Path | None) -> Advice | None:
        """The advice for the values of the watched controls and our own, for a picture of a checkpoint."""
        from modelsmith.sampling_advice import Sampling

        sampler, scheduler, steps, cfg, strength, *own = values
        image = choice_of(dict(zip(("prediction", "ztsnr", "cfg_rescale"), own, strict=True)))
        if path is None or self._generation.resolver is None:
            return None
        sampling = Sampling(
            sampler=str(sampler),
            scheduler=resolve_scheduler(sampler, scheduler),
            steps=int(steps),
            cfg=float(cfg),
            rescale=self._generation.rescale(path, image),
            strength=float(strength) if self._tab == "img2img" else None,
            sigma_max=self._generation.sigma_max(),
        )
        return self._generation.advice(path, sampling, image)

    def _html(self, found: Advice | None) -> str:
        from modelsmith.sampling_advice import TEXTS

        if found is None:
            return ""
        text = " ".join(self._tr(TEXTS[key], **values) for key, values in found.messages)
        return f'<p class="ms-advice ms-advice-{found.level}">{html.escape(text)}</p>'

    def show(self, told: str, *values: Any) -> str:
        """The line, after a control was changed.

        The page goes before the webui, which may still be loading what was chosen there.
        """
        path = _told(told)[0] or _chosen_checkpoint()
        if any(value != AUTOMATIC for value in values[len(WATCHED) :]):
            self._choices_for = self._choices_for or self._generation.pasted_for or path
        else:
            self._choices_for = None
        return self._html(self.advice(values, path))

    def checkpoint_chosen(self, told: str, *values: Any) -> list[Any]:
        """Our controls and the line, after another checkpoint was chosen: choices made for the old one end with it."""
        import gradio as gr

        path, begins = _told(told)
        kept = begins or path is None or path in (self._choices_for, self._generation.pasted_for)
        if not kept:
            self._choices_for = None
            values = (*values[: len(WATCHED)], *[AUTOMATIC] * (len(values) - len(WATCHED)))
        line = self._html(self.advice(values, path))
        own = [gr.update() if kept else gr.update(value=value) for value in values[len(WATCHED) :]]
        return [*own, line]

    def fit(self, told: str, *values: Any) -> list[Any]:
        """A fitting scheduler and CFG scale where those that are chosen do not fit, and the line that follows."""
        import gradio as gr

        found = self.advice(values, _told(told)[0] or _chosen_checkpoint())
        changed = list(values)
        if found is not None:
            changed[1] = found.scheduler or changed[1]
            changed[3] = found.cfg or changed[3]
        return [gr.update(value=changed[1]), gr.update(value=changed[3]), self.show(told, *changed)]


def script_class(generation: Generation, scripts: Any) -> type:
    """The class for the webui; it finds it in the module of the script."""

    class ModelsmithScript(scripts.Script):
        """Always on: brings the model in line before a job builds its samplers."""

        def title(self) -> str:
            return "Modelsmith"

        def show(self, is_img2img: bool) -> Any:
            self.advice_line = AdviceLine(generation, is_img2img)
            self.advice_line.watch(self)
            return scripts.AlwaysVisible

        def ui(self, is_img2img: bool) -> list[Any]:
            import gradio as gr

            prefix = f"modelsmith_{'img2img' if is_img2img else 'txt2img'}"
            with gr.Accordion("Modelsmith", open=False, elem_id=prefix):
                controls = _controls(prefix)
                self.advice_line.build(controls)
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
