"""Recipe checkpoints: a merge kept as a file of a few KB that a webui lists like any checkpoint and merges on loading.

The file is a valid safetensors file. Its metadata hold the recipe, what the result will be (so that identification
needs no weights), and by what its inputs are known; see ``identify.recipe_file`` for what stops other loaders.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from modelsmith.errors import BadFileError, MergeError, UsageError
from modelsmith.files.header import FileHeader, TensorInfo, read_header
from modelsmith.files.names import check_output_name
from modelsmith.files.writer import Entry, build_header
from modelsmith.identify import Report, identify_header
from modelsmith.identify.recipe_file import (
    FORMAT_VERSION,
    IDENTITY,
    RECIPE_CHECKPOINT,
    STOPPER,
    contents,
    facts,
    is_recipe_checkpoint,
)
from modelsmith.merge.plan import MergePlan, plan_merge
from modelsmith.merge.recipe import RECIPE_KEY, UNKNOWN_HASH
from modelsmith.merge.replay import request_from_recipe, sha256_of
from modelsmith.merge.request import MergeRequest

_HEAD, _TAIL = 1 << 20, 1 << 16
_DESCRIPTION = "A merge recipe without weights. Install the extension Modelsmith to use it as a checkpoint"
_NO_HASHES: Mapping[Path, str] = {}


@dataclass(frozen=True)
class RecipeCheckpoint:
    """One recipe checkpoint. recipe: as ``merge.recipe`` writes it. inputs: by what its models are known, in order."""

    path: Path
    recipe: Mapping[str, Any]
    inputs: tuple[Mapping[str, Any], ...]
    report: Report

    @property
    def digest(self) -> str:
        """The identity of what it makes: SHA-256 of the recipe and of the inputs' marks."""
        return _digest(self.recipe, self.inputs)


@dataclass(frozen=True)
class Sources:
    """Where inputs may be found. files: all candidates. hashes: SHA-256 of those whose hash the host knows."""

    files: tuple[Path, ...]
    hashes: Mapping[Path, str] = field(default_factory=lambda: _NO_HASHES)

    @staticmethod
    def of(files: Iterable[Path], hashes: Mapping[Path, str] = _NO_HASHES) -> Sources:
        """From any collection of paths."""
        return Sources(tuple(files), hashes)


def fingerprint(path: Path) -> str:
    """What tells a model file from others without reading it whole: SHA-256 of its size, first MiB and last 64 KiB.

    Raises BadFileError.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(str(size).encode())
            digest.update(file.read(_HEAD))
            file.seek(max(0, size - _TAIL))
            digest.update(file.read(_TAIL))
    except OSError as error:
        raise BadFileError(path, f"it cannot be read ({error.strerror})", "Check the file and its folder") from error
    return digest.hexdigest()


def _digest(recipe: Mapping[str, Any], inputs: Sequence[Mapping[str, Any]]) -> str:
    told = {key: value for key, value in recipe.items() if key not in ("output", "modelsmith")}
    return hashlib.sha256(json.dumps([told, list(inputs)], sort_keys=True).encode()).hexdigest()


def write_recipe_checkpoint(plan: MergePlan, target: Path, *, overwrite: bool = False) -> RecipeCheckpoint:
    """Write the recipe of a planned merge as a recipe checkpoint, whole or not at all, and return it.

    Raises UsageError for a name that is no plain file name or exists already, MergeError where it cannot be written.
    """
    check_output_name(target.name)
    if target.suffix.lower() != ".safetensors":
        raise UsageError(f"the recipe {target.name!r} is not named .safetensors", "Give it that ending")
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists already", "Choose another name or allow it to be replaced")
    if target.exists() and not is_recipe_checkpoint(read_header(target)):
        raise UsageError(f"{target} holds a model, which a recipe may not replace", "Choose another name")
    data = recipe_bytes(plan)
    aside = target.with_name(f".{target.name}.modelsmith-{os.getpid()}.tmp")
    try:
        aside.write_bytes(data)
        os.replace(aside, target)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise MergeError(f"{target} cannot be written ({error.strerror})", "Check the folder and its room") from error
    return read_recipe_checkpoint(target)


def recipe_bytes(plan: MergePlan) -> bytes:
    """The whole file of a plan's recipe checkpoint."""
    metadata = plan.metadata(plan.hashes())
    inputs = input_marks(plan)
    recipe = json.loads(metadata[RECIPE_KEY])
    said = {"version": FORMAT_VERSION, "report": facts(_result_report(plan)), "inputs": inputs}
    metadata[RECIPE_CHECKPOINT] = json.dumps(said, ensure_ascii=False)
    metadata.setdefault("modelspec.title", plan.request.output.stem)
    metadata["modelspec.description"] = _DESCRIPTION
    entries = [Entry(STOPPER, "F32", (1,)), Entry(IDENTITY, "U8", (32,))]
    return build_header(entries, metadata) + bytes(4) + bytes.fromhex(_digest(recipe, inputs))


def input_marks(plan: MergePlan) -> list[dict[str, Any]]:
    """By what each input of a plan is known again: ``file``, ``size``, ``sha256`` (None: not known), ``fingerprint``
    (of single files). Raises BadFileError."""
    return [
        {"file": one.path.name, "size": one.header.size, "sha256": None if known == UNKNOWN_HASH else known}
        | ({"fingerprint": fingerprint(one.path)} if one.path.is_file() else {})
        for one, known in zip(plan.inputs, plan.hashes(), strict=True)
    ]


def _result_report(plan: MergePlan) -> Report:
    """What identification will say of the merge's result, from the plan alone."""
    tensors = {job.entry.name: TensorInfo(job.entry.dtype, job.entry.shape, -1, job.entry.nbytes) for job in plan.jobs}
    header = FileHeader(plan.request.output, "safetensors", plan.output_bytes, tensors, plan.metadata(plan.hashes()))
    report = identify_header(header)
    prediction = replace(report.prediction, zero_terminal_snr=plan.verdict.ztsnr)
    known = {"epsilon", "v_prediction", "flow", "edm", "edm_v_prediction", "cascade"}
    if plan.verdict.type in known:
        prediction = replace(prediction, type=cast("Any", plan.verdict.type))
    return replace(report, prediction=prediction)


def read_recipe_checkpoint(path: Path) -> RecipeCheckpoint:
    """Read one. Raises BadFileError for another file, or one that is damaged or of a later version."""
    header = read_header(path)
    if not is_recipe_checkpoint(header):
        raise BadFileError(path, "it is no recipe checkpoint", "Choose a file that Modelsmith saved as a recipe")
    said = contents(header)
    if isinstance(said.get("version"), int) and said["version"] > FORMAT_VERSION:
        raise BadFileError(path, "the recipe was made by a later Modelsmith", "Update Modelsmith")
    report = identify_header(header)
    try:
        recipe: Any = json.loads(header.metadata.get(RECIPE_KEY, ""))
    except ValueError:
        recipe = None
    if not isinstance(recipe, dict) or not isinstance(said.get("inputs"), list) or report.error:
        raise BadFileError(path, "the recipe in it cannot be read", "Make the recipe checkpoint anew")
    inputs = cast("list[Mapping[str, Any]]", said["inputs"])
    return RecipeCheckpoint(path, cast("Mapping[str, Any]", recipe), tuple(inputs), report)


def find_input(checkpoint: RecipeCheckpoint, model: Mapping[str, Any], sources: Sources) -> Path:
    """The file of one of the recipe's models or LoRAs: by hash where it is known, else by size and fingerprint; a file
    that was renamed is found too. Raises BadFileError, which names the model and says how to mend it.
    """
    name, wanted = str(model.get("file", model.get("name"))), model.get("sha256")
    known = _mark_of(checkpoint, model)
    sha256: str | None = wanted if wanted and wanted != UNKNOWN_HASH else known.get("sha256")
    size: int | None = known.get("size", model.get("size"))
    mark: str | None = known.get("fingerprint")
    namesakes = [path for path in sources.files if path.name == name]
    for path in (*namesakes, *sources.files):
        if sha256 and sources.hashes.get(path) == sha256:
            return path
        if path.is_file() and size in (None, path.stat().st_size) and _is(path, mark, sha256, named=path.name == name):
            return path
    if namesakes:
        raise BadFileError(
            checkpoint.path,
            f"its model {name} is not the file that the recipe was made with: {namesakes[0]} has other contents",
            "Put the original back, or make the recipe anew with the file that is there now",
        )
    raise BadFileError(
        checkpoint.path,
        f"its model {name} is missing" if size is None else f"its model {name} ({size:,} bytes) is missing",
        "Put it into a folder of models and refresh the list; under another name it is found too",
    )


def _mark_of(checkpoint: RecipeCheckpoint, model: Mapping[str, Any]) -> Mapping[str, Any]:
    """By what one of the recipe's models is known again; both lists have one order. Nothing for a LoRA."""
    models = cast("list[Mapping[str, Any]]", checkpoint.recipe.get("models") or [])
    pairs = zip(models, checkpoint.inputs, strict=False)
    nothing: Mapping[str, Any] = {}
    return next((mark for one, mark in pairs if one == model), nothing)


def _is(path: Path, mark: str | None, sha256: str | None, *, named: bool) -> bool:
    """Whether a file of the right size is the one that is meant; its name decides where nothing else is known."""
    if mark:
        return fingerprint(path) == mark
    return sha256_of(path) == sha256 if sha256 else named


def request_for(checkpoint: RecipeCheckpoint, sources: Sources, output: Path | None = None) -> MergeRequest:
    """The merge that a recipe checkpoint stands for, to be written to ``output`` or kept in memory.

    Raises BadFileError for a model that is missing or changed.
    """
    return request_from_recipe(
        checkpoint.recipe,
        lambda model: find_input(checkpoint, model, sources),
        output or checkpoint.path.with_name(str(checkpoint.recipe.get("output", checkpoint.path.name))),
    )


def plan_in_memory(checkpoint: RecipeCheckpoint, sources: Sources) -> MergePlan:
    """The plan that ``in_memory.merge_to_tensors`` carries out. Raises as ``plan_merge`` does."""
    return plan_merge(request_for(checkpoint, sources), writes=False)


def plan_save(checkpoint: RecipeCheckpoint, sources: Sources, output: Path, *, overwrite: bool = False) -> MergePlan:
    """The plan that makes a real file of it: the bytes of the same merge made at once. Raises as ``plan_merge``."""
    return plan_merge(replace(request_for(checkpoint, sources, output), overwrite=overwrite))
