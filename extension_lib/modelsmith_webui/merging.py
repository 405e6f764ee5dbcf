"""Merges as they are asked for from tab, API, queue and history: run, recorded, written as recipes, made again."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelsmith.errors import UsageError
from modelsmith.files.names import output_path
from modelsmith.identify import Report
from modelsmith.japanese import Said
from modelsmith.merge.engine import run_merge
from modelsmith.merge.guard import Notice
from modelsmith.merge.plan import MergePlan, plan_merge
from modelsmith.merge.recipe_checkpoint import (
    RecipeCheckpoint,
    read_recipe_checkpoint,
    request_for,
    write_recipe_checkpoint,
)
from modelsmith.merge.request import MergeProgress, MergeRequest, MergeResult
from modelsmith_webui.background import Job, queue_of
from modelsmith_webui.history import Entry, history_of
from modelsmith_webui.host import Host, JobControl
from modelsmith_webui.recipe_loading import is_recipe, sources_of

RECIPE_ENDING = ".recipe"
Show = Callable[[MergeProgress], None]


def run_request(
    host: Host, request: MergeRequest, control: JobControl, show: Show | None = None
) -> tuple[MergePlan, MergeResult]:
    """Plan a merge, run it and record it. Raises the library's errors, Cancelled among them."""

    def plain(progress: MergeProgress) -> None:
        done, total = progress.done_bytes, max(1, progress.total_bytes)
        control.report(done / total, bytes_text(done, total))

    plan = plan_merge(request)
    result = run_merge(plan, show or plain, control.cancelled)
    history_of(host).merged(plan, result)
    return plan, result


def result_json(result: MergeResult) -> dict[str, Any]:
    """What the API tells of a merge."""
    return {
        "output": result.path.name,
        "bytes_out": result.bytes,
        "sha256": result.sha256,
        "seconds": round(result.seconds, 2),
        "notices": notices_json(result.notices),
    }


def notices_json(notices: Sequence[Notice]) -> list[dict[str, Any]]:
    """Notices of a merge for the API. id: which sentence it is, the same in every language and with every model."""
    return [
        {
            "id": found.message.id if found.message is not None else None,
            "level": found.level,
            "text": Said(found.text, found.said("ja")),
        }
        for found in notices
    ]


def bytes_text(done: int, total: int) -> str:
    """How far a job has come."""
    return Said(f"{done:,} of {total:,} bytes", f"{total:,} バイト中 {done:,} バイト")


def merge_work(host: Host, request: MergeRequest) -> Callable[[JobControl], dict[str, Any]]:
    """The work of a queued merge. It is planned anew when its turn comes: files may have changed while it waited."""
    return lambda control: result_json(run_request(host, request, control)[1])


def refuse_twice(host: Host, request: MergeRequest) -> None:
    """Raises UsageError where a merge of that name waits or runs; the file itself is not there yet to tell."""
    if any(job.title == request.output.name and not job.over for job in queue_of(host).jobs()):
        raise UsageError(f"{request.output.name} is in the queue already", "Choose another name")


def queue_merge(host: Host, request: MergeRequest) -> Job:
    """Check a merge and queue it. Raises the library's errors."""
    refuse_twice(host, request)
    plan_merge(request)
    return queue_of(host).start("merge", merge_work(host, request), request.output.name)


# recipes


def recipe_path(folder: Path, name: str) -> Path:
    """Where the recipe checkpoint ``name`` lies: ``mix`` is ``mix.recipe.safetensors``, so that lists show what it is.

    Raises UsageError for a name that is no plain file name.
    """
    stem = name.strip().removesuffix(".safetensors").removesuffix(RECIPE_ENDING)
    return output_path(folder, f"{stem}{RECIPE_ENDING}.safetensors")


def free_path(path: Path) -> Path:
    """The path itself where nothing is there yet, else with a number: ``mix-2.safetensors``, ``mix-2.recipe…``."""
    stem, dot, more = path.name.partition(".")
    number, found = 2, path
    while found.exists():
        found = path.with_name(f"{stem}-{number}{dot}{more}")
        number += 1
    return found


def save_recipe(host: Host, request: MergeRequest, *, numbered: bool = False) -> RecipeCheckpoint:
    """Write a merge as a recipe checkpoint beside where its file would be, record it, and show it in the host's list.

    numbered: take a free name where the name is taken. Raises the library's errors.
    """
    plan = plan_merge(request, writes=False)
    target = recipe_path(request.output.parent, request.output.stem)
    target = free_path(target) if numbered else target
    made = write_recipe_checkpoint(plan, target, overwrite=request.overwrite)
    history_of(host).written(plan, made.path)
    host.refresh_checkpoints()
    return made


def checkpoint_of(entry: Entry) -> RecipeCheckpoint:
    """A history entry in the form from which it can be made again."""
    return RecipeCheckpoint(Path(entry.file), entry.recipe, entry.inputs, Report(file=entry.file))


def open_recipe(path: Path) -> RecipeCheckpoint:
    """The recipe in a recipe checkpoint, or in a file that Modelsmith merged. Raises BadFileError."""
    if is_recipe(path):
        return read_recipe_checkpoint(path)
    from modelsmith.merge.replay import read_recipe

    return RecipeCheckpoint(path, read_recipe(path).recipe, (), Report(file=str(path)))


def request_again(host: Host, checkpoint: RecipeCheckpoint, output: str, *, overwrite: bool = False) -> MergeRequest:
    """The merge of a recipe, to be written into the host's checkpoint folder as ``output``; by its old name where that
    is empty. Raises the library's errors: BadFileError for a model that is missing or changed.
    """
    name = output.strip() or str(checkpoint.recipe.get("output") or checkpoint.path.name)
    target = output_path(host.checkpoint_folder(), name)
    sources = sources_of(host, loras=bool(checkpoint.recipe.get("loras")))
    return replace(request_for(checkpoint, sources, target), overwrite=overwrite)


# the merge that stands in the tab

_shown: weakref.WeakKeyDictionary[Host, MergeRequest] = weakref.WeakKeyDictionary()


def remember_shown(host: Host, request: MergeRequest) -> None:
    """Keep what the Merge tab shows now, for axes of the X/Y/Z plot that vary it."""
    _shown[host] = request


def shown_request(host: Host) -> MergeRequest | None:
    """What the Merge tab showed last, where it was a merge that can be made."""
    return _shown.get(host)
