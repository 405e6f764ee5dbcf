"""Axes of the X/Y/Z plot that vary a merge: each cell is made through a recipe checkpoint, merged in memory.

The merge is the recipe checkpoint that is chosen (or that the axis "Merge: recipe" names), else the one that stands in
the Merge tab. A cell's recipe is a file of a few KB in Modelsmith's own folder, so that its hash, its infotext and
the history tell the merge that made it. Only what differs from the cell before is computed, as far as the cache goes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelsmith.errors import ModelsmithError, UnknownNameError, UsageError
from modelsmith_webui.host import Host
from modelsmith_webui.recipe_loading import is_recipe

logger = logging.getLogger(__name__)

LABEL = "[Modelsmith] Merge: "
# Attribute of a processing object: what the axes chose for its pictures.
WANTED = "modelsmith_merge"
INFOTEXT = "Modelsmith merge"
FOLDER = "xyz"
LONGEST = 120
NUMBERS = ("alpha", "beta")


class NoMergeError(UsageError):
    """No recipe checkpoint is chosen, and the Merge tab shows no merge."""


def _apply(field: str) -> Callable[[Any, Any, Any], None]:
    def apply(p: Any, value: Any, _values: Any) -> None:
        # A new dict: the plot copies the job shallowly for each cell.
        setattr(p, WANTED, {**getattr(p, WANTED, {}), field: value})

    return apply


def axes(option: Any, host: Host) -> list[Any]:
    """The axes, made with the plot's own AxisOption class."""

    def axis(field: str, label: str, kind: Any, choices: Any = None) -> Any:
        return option(LABEL + label, kind, _apply(field), confirm=_confirm(host, field), cost=1.0, choices=choices)

    return [
        axis("recipe", "recipe", str, lambda: _recipes(host)),
        axis("alpha", "alpha", float),
        axis("beta", "beta", float),
        axis("method", "method", str, _methods),
        axis("preset", "preset", str, _presets),
        axis("block", "block", str),
        axis("lora", "LoRA strength", str),
    ]


def add_axes(scripts_data: Any, host: Host) -> None:
    """Add the axes to the plot's list, once; clear what the plots of earlier runs left in our folder."""
    for path in (host.data_folder() / FOLDER).glob("*.recipe.safetensors"):
        path.unlink(missing_ok=True)
    for data in scripts_data:
        module = data.module
        if data.script_class.__module__ == "xyz_grid.py" and hasattr(module, "axis_options"):
            module.axis_options[:] = [one for one in module.axis_options if not one.label.startswith(LABEL)]
            module.axis_options.extend(axes(module.AxisOption, host))
            return


def _recipes(host: Host) -> list[str]:
    return [file.name for file in host.checkpoints() if is_recipe(file.path)]


def _methods() -> list[str]:
    from modelsmith.merge.methods import get_method
    from modelsmith.merge.methods.spec import METHODS

    get_method("weighted_sum")  # the registry fills when it is first asked
    return [spec.label for spec in METHODS.values()]


def _presets() -> list[str]:
    from modelsmith.merge.presets import PRESETS

    return list(PRESETS)


def _confirm(host: Host, field: str) -> Callable[[Any, Any], None]:
    """Check all values before the first picture; the plot shows a RuntimeError."""

    def confirm(p: Any, values: Any) -> None:
        others = {**getattr(p, WANTED, {})}
        for value in values:
            wanted = {**others, field: value}
            try:
                request = base_request(host, p, wanted)
            except NoMergeError:
                return  # another axis may name the recipe
            except ModelsmithError as error:
                raise RuntimeError(f"Modelsmith: {error}") from error
            try:
                varied(request, wanted)
            except ModelsmithError as error:
                raise RuntimeError(f"Modelsmith: {error}") from error

    return confirm


def base_request(host: Host, p: Any, wanted: Mapping[str, Any]) -> Any:
    """The merge that a job's axes vary. Raises UsageError where there is none, and what its models raise."""
    from modelsmith_webui.host import find_file
    from modelsmith_webui.merging import open_recipe, request_again, shown_request

    name = wanted.get("recipe") or _checkpoint_of(p)
    files = host.checkpoints()
    if name:
        try:
            path = find_file(files, str(name)).path
        except UnknownNameError:
            if wanted.get("recipe"):
                raise
            path = None
        if path is not None and is_recipe(path):
            return replace(request_again(host, open_recipe(path), path.stem.removesuffix(".recipe")), overwrite=True)
    if wanted.get("recipe"):
        raise UsageError(f"{name} is no recipe checkpoint", "Choose one that was saved as a recipe")
    found = shown_request(host)
    if found is None:
        raise NoMergeError(
            "there is no merge to vary", "Choose a recipe checkpoint, or set up a merge in the Modelsmith tab"
        )
    return found


def _checkpoint_of(p: Any) -> str:
    from modelsmith_webui.hosts.webui import chosen_checkpoint

    return str((getattr(p, "override_settings", None) or {}).get("sd_model_checkpoint") or chosen_checkpoint())


def varied(request: Any, wanted: Mapping[str, Any]) -> Any:
    """The request with what the axes chose. Raises the library's errors.

    A block that has a weight of its own keeps it when alpha or beta change; those that follow the parameter follow.
    """
    from modelsmith.merge.methods import get_method

    if wanted.get("method"):
        label = str(wanted["method"])
        spec = next((one for one in _specs() if label in (one.label, one.id)), None) or get_method(label)
        own = {parameter.id for parameter in spec.parameters}
        by_block = {parameter.id for parameter in spec.parameters if parameter.per_block}
        request = replace(
            request,
            method=spec.id,
            parameters={name: value for name, value in request.parameters.items() if name in own},
            block_weights={name: value for name, value in request.block_weights.items() if name in by_block},
        )
    for name in NUMBERS:
        if wanted.get(name) is not None:
            request = _with_number(request, name, float(wanted[name]))
    if wanted.get("preset"):
        request = _with_weights(request, str(wanted["preset"]), keep=False)
    if wanted.get("block"):
        request = _with_weights(request, str(wanted["block"]), keep=True)
    return _with_lora(request, str(wanted["lora"])) if wanted.get("lora") else request


def _specs() -> list[Any]:
    from modelsmith.merge.methods import get_method
    from modelsmith.merge.methods.spec import METHODS

    get_method("weighted_sum")
    return list(METHODS.values())


def _layout(request: Any) -> Any:
    from modelsmith.files.header import read_header
    from modelsmith.identify import identify_header
    from modelsmith.merge.blocks import layout_for

    header = read_header(request.models[0])
    return layout_for(identify_header(header).architecture, header.tensors)


def _with_number(request: Any, name: str, value: float) -> Any:
    from modelsmith.merge.methods import get_method
    from modelsmith.merge.plan import named_weights

    spec = get_method(request.method)
    spec.parameter(name)
    before = request.parameters.get(name, spec.parameter(name).default)
    weights = dict(request.block_weights)
    if name in weights:
        own = named_weights(weights[name], _layout(request))
        weights[name] = {block: weight for block, weight in own.items() if weight != before}
    return replace(request, parameters={**request.parameters, name: value}, block_weights=weights)


def _with_weights(request: Any, text: str, *, keep: bool) -> Any:
    """Block weights from a preset's name or from ``OUT03=0.5 IN01=1``, with ``beta:`` before them for beta.

    A name like OUT stands for all blocks that begin with it. keep: other blocks keep what they have.
    """
    from modelsmith.merge.methods import get_method
    from modelsmith.merge.plan import named_weights

    parameter, colon, rest = text.partition(":")
    if not colon:
        per_block = [one.id for one in get_method(request.method).parameters if one.per_block]
        if not per_block:
            raise UsageError(f"{get_method(request.method).label} takes no block weights", "Choose another method")
        parameter, rest = per_block[0], text
    layout = _layout(request)
    weights: dict[str, float] = {}
    for item in re.split(r"[\s;]+", rest.strip()):
        name, equals, value = item.partition("=")
        matching = [block.id for block in layout.blocks if re.fullmatch(rf"{re.escape(name)}\d*", block.id)]
        if equals and matching:
            item = ",".join(f"{block}={value}" for block in matching)
        weights.update(named_weights(item, layout))
    before = named_weights(request.block_weights.get(parameter.strip(), {}), layout) if keep else {}
    return replace(request, block_weights={**request.block_weights, parameter.strip(): {**before, **weights}})


def _with_lora(request: Any, text: str) -> Any:
    """The strength of all LoRAs (``0.5``), or of those that have a name (``name=0.5``)."""
    name, equals, value = text.rpartition("=")
    try:
        strength = float(value)
    except ValueError:
        raise UsageError(f"{text!r} is no strength", "Give a number, or NAME=number") from None
    wanted = name.strip().lower() if equals else ""
    chosen = [one for one in request.loras if not wanted or wanted in one.path.stem.lower()]
    if not chosen:
        raise UsageError(f"the merge has no LoRA {name}".rstrip(), "Add it to the recipe first")
    loras = tuple(replace(one, strength=strength) if one in chosen else one for one in request.loras)
    return replace(request, loras=loras)


def prepare(host: Host, p: Any) -> None:
    """Let a job load the merge that its axes chose; called before the webui looks at the job's checkpoint.

    Raises RuntimeError with what stands in the way. Webuis only report what a script raises here and go on with another
    model, so the job is interrupted too: no picture is better than one of a merge that was not asked for.
    """
    wanted: Mapping[str, Any] = getattr(p, WANTED, {})
    if not wanted:
        return
    try:
        path = _write(host, varied(base_request(host, p, wanted), wanted), wanted)
    except (ModelsmithError, OSError) as error:
        host.interrupt()
        raise RuntimeError(f"Modelsmith: {error}") from error
    from modelsmith_webui.hosts.webui import register_checkpoint

    told = ", ".join(f"{field} {value}" for field, value in wanted.items())
    # New dicts: cells share those of the job that they were copied from.
    p.override_settings = {**(p.override_settings or {}), "sd_model_checkpoint": register_checkpoint(path)}
    p.extra_generation_params = {**(p.extra_generation_params or {}), INFOTEXT: told}


def _write(host: Host, request: Any, wanted: Mapping[str, Any]) -> Path:
    from modelsmith.files.names import made_name
    from modelsmith.merge.plan import plan_merge
    from modelsmith.merge.recipe_checkpoint import write_recipe_checkpoint

    folder = host.data_folder() / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    told = " ".join(str(value) if field == "block" else f"{field}={value}" for field, value in wanted.items())
    name = made_name(re.sub(r"[^\w.=+-]+", "_", f"{request.output.stem} {told}")[:LONGEST].strip("._ "))
    target = folder / f"{name}.recipe.safetensors"
    return write_recipe_checkpoint(plan_merge(request, writes=False), target, overwrite=True).path
