"""Events of the webui as a list that the tests read over HTTP, and a failure on request."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

EVENTS: list[dict[str, Any]] = []
# Sampling step at which the next job is made to fail, None for no failure.
_failure: dict[str, int | None] = {"step": None}


class RequestedFailureError(Exception):
    """Raised inside the sampler when a test asks for it."""


def _host() -> Any:
    """What of the probe differs between webuis."""
    if importlib.util.find_spec("ldm_patched") is not None:
        from modelsmith_probe import ldm_forge

        return ldm_forge
    if importlib.util.find_spec("modules_forge") is not None:
        from modelsmith_probe import forge

        return forge
    from modelsmith_probe import a1111

    return a1111


def add(event: str, **facts: Any) -> None:
    EVENTS.append({"event": event, **facts})


def install() -> None:
    """Take hold of the webui once; a reload of the UI keeps its modules, so a second call does nothing."""
    from modules import sd_samplers_cfg_denoiser

    denoiser = sd_samplers_cfg_denoiser.CFGDenoiser
    if getattr(denoiser, "modelsmith_probe", False):
        return
    denoiser.modelsmith_probe = True
    original = denoiser.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _failure["step"] is not None and self.step >= _failure["step"]:
            _failure["step"] = None
            raise RequestedFailureError("a test asked for this failure")
        return original(self, *args, **kwargs)

    denoiser.forward = forward
    _host().install()


def watch_guidance(script_callbacks: Any) -> None:
    """What guidance did in each step, where the probe knows how to see that in this webui."""
    watch = getattr(_host(), "watch_guidance", None)
    if watch is not None:
        watch(script_callbacks)


def model_loaded(model: Any) -> None:
    add("model_loaded", **_host().describe(model))


def sampler_step(params: Any) -> None:
    from modelsmith_probe import guidance

    guidance.before_step(params)
    sampler = getattr(params.denoiser, "sampler", None)
    add(
        "step",
        step=int(params.sampling_step),
        sigma=float(params.sigma.flatten()[0]),
        input_std=float(params.x.float().std()),
        sampler=str(getattr(sampler, "funcname", None)),
        **_host().describe_sampler(params),
    )


def state() -> dict[str, Any]:
    from modules import shared

    from modelsmith_probe import record

    host = _host()
    loaded = host.current_model()
    return {
        "model": host.describe(loaded) if loaded is not None else None,
        "in_memory": [host.describe(model) for model in host.models_in_memory()],
        "functions": host.functions(),
        "python_modules": sorted(
            name for name in list(sys.modules) if name.split(".")[0] in ("modelsmith", "modelsmith_webui")
        ),
        "options": sorted(name for name in shared.opts.data_labels if name.startswith("modelsmith")),
        "saved_options": sorted(name for name in shared.opts.data if name.startswith("modelsmith")),
        "events": len(record.EVENTS),
    }


def add_routes(_demo: Any, app: Any) -> None:
    from modelsmith_probe import guidance, ideal, names

    @app.get("/modelsmith-probe/v1/state")
    def _state() -> Any:
        return state()

    @app.get("/modelsmith-probe/v1/log")
    def _log() -> Any:
        return EVENTS

    @app.post("/modelsmith-probe/v1/clear")
    def _clear() -> Any:
        EVENTS.clear()
        return {}

    @app.post("/modelsmith-probe/v1/fail")
    def _fail(step: int) -> Any:
        _failure["step"] = step
        return {}

    @app.post("/modelsmith-probe/v1/prompt")
    def _prompt(strength: float) -> Any:
        guidance.set_strength(strength)
        return {}

    @app.post("/modelsmith-probe/v1/parameterization")
    def _parameterization(value: str) -> Any:
        _host().set_parameterization(value)
        return {}

    @app.post("/modelsmith-probe/v1/ideal")
    def _ideal(kind: str) -> Any:
        ideal.replace(_host().network(_host().current_model()), kind)
        return {}

    @app.post("/modelsmith-probe/v1/foreign-rescale")
    def _foreign(phi: float) -> Any:
        _host().foreign_rescale(phi)
        return {}

    @app.post("/modelsmith-probe/v1/names")
    def _names(wanted: list[str]) -> Any:
        return {name: names.describe(name, _host().current_model()) for name in wanted}

    @app.get("/modelsmith-probe/v1/routes")
    def _routes() -> Any:
        return sorted(route.path for route in app.routes)
