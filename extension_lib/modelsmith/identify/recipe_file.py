"""Recipe checkpoints: small files that hold a merge's recipe in place of weights, and what identification says of them.

Without Modelsmith such a file must fail and stay whole. Forge moves away every file that safetensors refuses, so it
is a readable one; its one weight has a name that every SD checkpoint has and a shape that none has, so that A1111
refuses it instead of building an empty model, and Forge, which finds no diffusion model in it, does not recognise it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from modelsmith.errors import BadFileError
from modelsmith.files.header import FileHeader
from modelsmith.identify.messages import say
from modelsmith.identify.report import Component, Prediction, Report
from modelsmith.identify.report import evidence as evidence_of

RECIPE_CHECKPOINT = "modelsmith_recipe_checkpoint"
"""The metadata entry that tells a recipe checkpoint from the result of a merge, which also carries its recipe."""

FORMAT_VERSION = 1
STOPPER = "first_stage_model.quant_conv.bias"
"""The weight that stops AUTOMATIC1111; real ones have shape (8,)."""

IDENTITY = "modelsmith.recipe"
"""The tensor with the recipe's SHA-256, so that hashes of the data alone differ between recipes too."""

_PLAIN = ("kind", "architecture", "variant", "precision", "quantization", "ema", "in_channels", "layout")
_FLAGS = ("reduced", "inpainting")
_COMPONENT = (
    "name",
    "precision",
    "quantization",
    "complete",
    "missing",
    "expected",
    "architecture",
    "tensors",
    "bytes",
)


def is_recipe_checkpoint(header: FileHeader) -> bool:
    """Whether a file is a recipe checkpoint, by its metadata."""
    return RECIPE_CHECKPOINT in header.metadata


def with_weights(header: FileHeader) -> FileHeader:
    """The header itself. Raises BadFileError for a recipe checkpoint, which has no weights to work on."""
    if is_recipe_checkpoint(header):
        raise BadFileError(
            header.path,
            "it is a recipe checkpoint, which holds no weights",
            "Save it as a file first: Save as file in the History view, or modelsmith replay",
        )
    return header


def contents(header: FileHeader) -> dict[str, Any]:
    """What the file says of itself: ``version``, ``report``, ``inputs``; empty where it cannot be read."""
    try:
        found: Any = json.loads(header.metadata.get(RECIPE_CHECKPOINT, ""))
    except ValueError:
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def facts(report: Report) -> dict[str, Any]:
    """What a report of the merged model says, to be kept in the recipe checkpoint."""
    found: dict[str, Any] = {name: getattr(report, name) for name in (*_PLAIN, *_FLAGS)}
    found["candidates"] = list(report.candidates)
    prediction = report.prediction
    found["prediction"] = {"type": prediction.type, "zero_terminal_snr": prediction.zero_terminal_snr}
    found["components"] = [{name: getattr(part, name) for name in _COMPONENT} for part in report.components]
    return found


def recipe_report(header: FileHeader) -> Report:
    """The report of a recipe checkpoint: of the model that it makes, with ``recipe`` set.

    A damaged one is of kind ``unknown`` and has an ``error``.
    """
    found = contents(header).get("report")
    try:
        return _report(header, cast("Mapping[str, Any]", found))
    except (TypeError, KeyError, AttributeError):
        problem = f"{header.path}: the recipe cannot be read. Make the recipe checkpoint anew"
        return Report(file=str(header.path), error=problem, recipe=True, format=header.format, size=header.size)


def _report(header: FileHeader, found: Mapping[str, Any]) -> Report:
    said = found["prediction"]
    evidence = evidence_of("recipe", say("why-recipe"), "strong", str(said["type"]))
    prediction = Prediction(said["type"], said["zero_terminal_snr"], evidence=(evidence,))
    parts = tuple(Component(**{name: part[name] for name in _COMPONENT}) for part in found["components"])
    values = {name: found[name] for name in (*_PLAIN, *_FLAGS)}
    return Report(
        file=str(header.path),
        candidates=tuple(found["candidates"]),
        prediction=prediction,
        components=parts,
        format=header.format,
        size=header.size,
        tensors=sum(part.tensors for part in parts),
        metadata={key: text for key, text in header.metadata.items() if key.startswith("modelspec.")},
        recipe=True,
        **values,
    )
