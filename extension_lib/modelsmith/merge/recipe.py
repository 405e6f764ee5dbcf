"""What the output's metadata say: A1111's two entries, our own recipe, and the modelspec fields that still hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, cast

from modelsmith import __version__
from modelsmith.files.tensors import FileStamp
from modelsmith.merge.guard import Verdict
from modelsmith.merge.inputs import MergeInput
from modelsmith.merge.request import MergeRequest

if TYPE_CHECKING:
    from modelsmith.lora.stack import LoraSpec

RECIPE_KEY = "modelsmith_recipe"
RECIPE_VERSION = 2
"""Since 2: rules, finetune, loras, component_dtypes; every block weight that is not the parameter's own value."""

UNKNOWN_HASH = "0" * 64
"""Holds the place of a hash that is computed while the input streams by."""

_KEPT_MODELSPEC = ("sai_model_spec", "implementation", "resolution", "license")
_A1111_NAMES = {"weighted_sum": "Weighted sum", "add_difference": "Add difference"}


@dataclass(frozen=True)
class RecipeParts:
    """All that the recipe tells: the request, its inputs, the prediction verdict and the weights as resolved.

    device: what the GPU is called that computes it; empty on the CPU.
    """

    request: MergeRequest
    inputs: tuple[MergeInput, ...]
    verdict: Verdict
    parameters: Mapping[str, float]
    blocks: Mapping[str, Mapping[str, float]]
    layout: str
    widened: bool
    device: str = ""


def legacy_hash(path: Path) -> str:
    """A1111's old model hash: the first eight hex digits of the SHA-256 of 64 KiB at 1 MiB (modules/hashes)."""
    with path.open("rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]


def build_metadata(parts: RecipeParts, hashes: Sequence[str]) -> dict[str, str]:
    """All metadata of the output. ``hashes``: SHA-256 of the inputs in order; UNKNOWN_HASH keeps a place."""
    request = parts.request
    metadata: dict[str, str] = {}
    if request.copy_metadata:
        for one in parts.inputs:
            metadata.update(one.header.metadata)
    # Neither the inputs' modelspec nor how their layers were quantised is true of the result.
    metadata = {
        key: value
        for key, value in metadata.items()
        if not key.startswith("modelspec.") and key != "_quantization_metadata"
    }
    metadata.update(request.metadata)
    metadata["format"] = "pt"
    metadata.update(modelspec(parts))
    metadata["sd_merge_recipe"] = json.dumps(_a1111_recipe(parts, hashes))
    metadata["sd_merge_models"] = json.dumps(_a1111_models(parts.inputs, hashes))
    metadata[RECIPE_KEY] = json.dumps(own_recipe(parts, hashes), ensure_ascii=False)
    return metadata


def modelspec(parts: RecipeParts) -> dict[str, str]:
    """The modelspec fields that are true of the result: those of A that a merge does not touch, and the prediction."""
    a = parts.inputs[0]
    result = {
        f"modelspec.{key}": a.header.metadata[f"modelspec.{key}"]
        for key in _KEPT_MODELSPEC
        if f"modelspec.{key}" in a.header.metadata
    }
    source = parts.inputs[parts.verdict.type_from].header.metadata
    if "modelspec.architecture" in source:
        result["modelspec.architecture"] = source["modelspec.architecture"]
    spelled = {"epsilon": "epsilon", "v_prediction": "v"}.get(parts.verdict.type)
    if spelled and a.report.architecture in ("sd1", "sd2", "sdxl", "sdxl-refiner"):
        # kohya's spelling of the first, ComfyUI's name of the second; readers know one or the other.
        result["modelspec.prediction_type"] = spelled
        result["modelspec.predict_key"] = spelled
    return result


def own_recipe(parts: RecipeParts, hashes: Sequence[str]) -> dict[str, Any]:
    """Our own recipe, from which the merge can be repeated byte for byte; what a GPU computed, on such a GPU."""
    request = parts.request
    recipe: dict[str, Any] = {
        "version": RECIPE_VERSION,
        "modelsmith": __version__,
        "method": request.method,
        "parameters": dict(parts.parameters),
        "blocks": {name: dict(weights) for name, weights in parts.blocks.items()},
        "layout": parts.layout,
        "rules": dict(request.rules),
        "finetune": request.finetune,
        "loras": [_lora(request, spec) for spec in request.loras],
        "dtype": request.dtype,
        "component_dtypes": dict(request.component_dtypes),
        "missing": request.missing,
        "allow_prediction_mix": request.allow_prediction_mix,
        "copy_metadata": request.copy_metadata,
        "metadata": dict(request.metadata),
        "output": output_title(request),
        "prediction": {"type": parts.verdict.type, "zero_terminal_snr": parts.verdict.ztsnr},
        "models": [_model(request, one, digest) for one, digest in zip(parts.inputs, hashes, strict=True)],
    }
    if parts.device:
        # No matter of the version: who knows no devices repeats it on the CPU, with the same values but for last bits.
        recipe["device"] = parts.device
    return recipe


def output_title(request: MergeRequest) -> str:
    """How the recipe calls the output: by its file's name, also where it is written again under another one."""
    return request.title or request.output.name


def _lora(request: MergeRequest, spec: LoraSpec) -> dict[str, Any]:
    stamp = FileStamp.of(spec.path)
    return {
        "file": request.file_names.get(spec.path, spec.path.name),
        "size": stamp.size,
        "sha256": request.known_hashes.get(spec.path) or _sha256(spec.path, stamp),
        "strength": spec.strength,
        "blocks": spec.blocks,
    }


@lru_cache(maxsize=256)
def _sha256(path: Path, stamp: FileStamp) -> str:
    """SHA-256 of a small file, computed once for each state of it."""
    del stamp
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def _model(request: MergeRequest, one: MergeInput, digest: str) -> dict[str, Any]:
    name = request.file_names.get(one.path, one.path.name)
    entry: dict[str, Any] = {"name": one.name, "file": name, "size": one.header.size, "sha256": digest}
    nested = _parsed(one.header.metadata.get(RECIPE_KEY))
    if nested is not None:
        entry["recipe"] = nested
    return entry


def _a1111_recipe(parts: RecipeParts, hashes: Sequence[str]) -> dict[str, Any]:
    """The entry that A1111's own merger writes (modules/extras.py), with the same keys; ``type`` names the program."""
    request = parts.request
    in_channels = parts.inputs[0].report.in_channels
    others = [one.report.in_channels for one in parts.inputs]
    method = _A1111_NAMES.get(request.method, request.method)
    return {
        "type": "modelsmith",
        "primary_model_hash": hashes[0],
        "secondary_model_hash": hashes[1] if len(hashes) > 1 else None,
        "tertiary_model_hash": hashes[2] if len(hashes) > 2 else None,
        "interp_method": method,
        "multiplier": parts.parameters.get("alpha"),
        "save_as_half": request.dtype == "fp16",
        "custom_name": PurePath(output_title(request)).stem,
        "config_source": 0,
        "bake_in_vae": "None",
        "discard_weights": "",
        "is_inpainting": 9 in (in_channels, *others),
        "is_instruct_pix2pix": 8 in (in_channels, *others),
    }


def _a1111_models(inputs: Sequence[MergeInput], hashes: Sequence[str]) -> dict[str, Any]:
    models: dict[str, Any] = {}
    places: dict[Path, str] = {}
    for one, digest in zip(inputs, hashes, strict=True):
        key = digest
        if digest == UNKNOWN_HASH:  # a place for each file; the lengths stay the same
            key = places.setdefault(one.path, f"{len(places):064x}")
        models[key] = {
            "name": one.name,
            "legacy_hash": legacy_hash(one.path) if one.path.is_file() else None,
            "sd_merge_recipe": _parsed(one.header.metadata.get("sd_merge_recipe")),
        }
        earlier = _parsed(one.header.metadata.get("sd_merge_models"))
        if earlier:
            models.update(earlier)
    return models


def _parsed(text: str | None) -> dict[str, Any] | None:
    """JSON objects inside metadata, as A1111 unpacks them when it reads a file; None for anything else."""
    if not text or not text.startswith("{"):
        return None
    try:
        found: Any = json.loads(text)
    except ValueError:
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None
