"""Axes for the webui's X/Y/Z plot. A value is kept on the one cell's job and reaches no other picture."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

LABEL = "[Modelsmith] "
# Attribute of a processing object: what the axes chose for its pictures.
CHOSEN = "modelsmith_axes"
PREDICTIONS = ("Automatic", "epsilon", "v_prediction")
SWITCHES = ("Automatic", "On", "Off")
# Of the axis for VAEs, beside the names of files.
AUTOMATIC_VAE, BAKED_VAE = "Automatic", "In the checkpoint"


def _apply(field: str) -> Callable[[Any, Any, Any], None]:
    def apply(p: Any, value: Any, _values: Any) -> None:
        # A new dict: the plot copies the job shallowly for each cell.
        setattr(p, CHOSEN, {**getattr(p, CHOSEN, {}), field: value})

    return apply


def _one_of(known: tuple[str, ...]) -> Callable[[Any, Any], None]:
    def confirm(_p: Any, values: Any) -> None:
        for value in values:
            if str(value) not in known:
                raise RuntimeError(f"Modelsmith: {value!r} is not one of {', '.join(known)}")

    return confirm


def _share(_p: Any, values: Any) -> None:
    for value in values:
        if not 0.0 <= float(value) <= 1.0:
            raise RuntimeError(f"Modelsmith: CFG rescale goes from 0 to 1, not {value}")


def _vae_axis(option: Any, vae: Any) -> Any:
    def names() -> list[str]:
        return [AUTOMATIC_VAE, BAKED_VAE, *(name for name, _ in vae.listed())]

    def confirm(p: Any, values: Any) -> None:
        _one_of(tuple(names()))(p, values)

    return option(f"{LABEL}VAE", str, _apply("vae"), confirm=confirm, cost=0.7, choices=names)


def axes(option: Any, vae: Any = None) -> list[Any]:
    """The axes, made with the plot's own AxisOption class. ``vae`` is the host's VaeKeeper, None where it has none."""
    found = [
        option(
            f"{LABEL}Prediction",
            str,
            _apply("prediction"),
            confirm=_one_of(PREDICTIONS),
            choices=lambda: list(PREDICTIONS),
        ),
        option(f"{LABEL}ZTSNR", str, _apply("ztsnr"), confirm=_one_of(SWITCHES), choices=lambda: list(SWITCHES)),
        option(f"{LABEL}CFG rescale", float, _apply("cfg_rescale"), confirm=_share),
    ]
    return found if vae is None else [*found, _vae_axis(option, vae)]


def add_axes(scripts_data: Any, vae: Any = None) -> None:
    """Add the axes to the plot's list, once: the plot's module may outlive a reload of the UI, or be run anew."""
    for data in scripts_data:
        module = data.module
        if data.script_class.__module__ != "xyz_grid.py" or not hasattr(module, "axis_options"):
            continue
        # Axes of an earlier load of this extension hold its old code.
        module.axis_options[:] = [axis for axis in module.axis_options if not axis.label.startswith(LABEL)]
        module.axis_options.extend(axes(module.AxisOption, vae))
        return
    logger.info("no X/Y/Z plot in this webui: its axes are left out")
