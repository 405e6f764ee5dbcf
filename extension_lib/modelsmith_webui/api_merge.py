"""What the API's routes on merges do: from a body to a request, a plan, a difference map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from modelsmith.errors import UsageError
from modelsmith.files.names import output_path
from modelsmith.identify import Report
from modelsmith.lora.stack import LoraSpec
from modelsmith.merge.difference import difference_map
from modelsmith.merge.plan import MergePlan, plan_merge
from modelsmith.merge.recipe_checkpoint import RecipeCheckpoint
from modelsmith.merge.request import MergeRequest
from modelsmith_webui.api_language import spoken
from modelsmith_webui.history import history_of
from modelsmith_webui.host import Host, JobControl, ModelFile
from modelsmith_webui.merging import checkpoint_of, notices_json, open_recipe, request_again

Find = Callable[[list[ModelFile], str], ModelFile]


def merge_request(host: Host, find: Find, body: Any, *, writes: bool = True) -> MergeRequest:
    """The merge that a MergeBody asks for, checked. Raises the library's errors."""
    known = host.checkpoints()
    files = [find(known, name) for name in body.models]
    loras: list[LoraSpec] = []
    if body.loras:
        listed = [file for file in host.model_files() if file.kind == "lora"]
        loras = [LoraSpec(find(listed, one.name).path, one.strength, one.blocks or None) for one in body.loras]
    request = MergeRequest(
        models=tuple(file.path for file in files),
        method=body.method,
        output=output_path(host.checkpoint_folder(), body.output),
        parameters=body.parameters,
        block_weights=body.block_weights,
        known_hashes={file.path: digest for file in files if (digest := host.cached_sha256(file))},
        names={file.path: file.name for file in files},
        dtype=body.precision,
        overwrite=body.overwrite,
        allow_prediction_mix=body.allow_prediction_mix,
        rules=body.rules,
        finetune=body.finetune,
        loras=tuple(loras),
        component_dtypes=body.component_precision,
        device=body.device or "cpu",
    )
    plan_merge(request, writes=writes)
    return request


def plan_json(plan: MergePlan) -> dict[str, Any]:
    """What a plan tells."""
    return {
        "output": plan.request.output.name,
        "bytes_out": plan.output_bytes,
        "free_bytes": plan.free_bytes,
        "summary": spoken(plan.summary),
        "gpu": plan.parts.device or None,
        "prediction": {"type": plan.verdict.type, "zero_terminal_snr": plan.verdict.ztsnr},
        "notices": notices_json(plan.notices),
    }


def plan_of(request: MergeRequest) -> Callable[[], dict[str, Any]]:
    """Answers with the plan of a request."""
    return lambda: plan_json(plan_merge(request))


def recipe_of_body(host: Host, find: Find, body: Any) -> RecipeCheckpoint:
    """The recipe that a body names: by a checkpoint that holds one, by a history entry, or given in full."""
    given = [one for one in (body.name, body.history, body.recipe) if one]
    if len(given) != 1:
        raise UsageError("one recipe is needed", "Give either name, history or recipe")
    if body.name:
        return open_recipe(find(host.checkpoints(), body.name).path)
    if body.history:
        return checkpoint_of(history_of(host).entry(body.history))
    recipe: dict[str, Any] = body.recipe
    path = host.checkpoint_folder() / "recipe.safetensors"
    return RecipeCheckpoint(path, recipe, (), Report(file=path.name))


def replay_request(host: Host, find: Find, body: Any) -> MergeRequest:
    """The merge of a recipe, checked. Raises the library's errors."""
    request = _request_again(host, find, body)
    plan_merge(request)
    return request


def _request_again(host: Host, find: Find, body: Any) -> MergeRequest:
    """The merge of the recipe that a body names, on the device that it names."""
    request = request_again(host, recipe_of_body(host, find, body), body.output, overwrite=body.overwrite)
    return replace(request, device=body.device) if body.device else request


def difference_work(host: Host, find: Find, body: Any) -> Callable[[JobControl], dict[str, Any]]:
    """The work of a difference map."""
    known = host.checkpoints()
    a, b = find(known, body.a).path, find(known, body.b).path
    c = find(known, body.c).path if body.c else None

    def work(control: JobControl) -> dict[str, Any]:
        def show(share: float) -> None:
            control.report(share, f"{share:.0%}")

        return dict(difference_map(a, b, c, progress=show, cancelled=control.cancelled).to_json())

    return work


def recipe_request(host: Host, find: Find, body: Any) -> MergeRequest:
    """The merge that a recipe checkpoint is to be made of. Raises the library's errors."""
    if body.models:
        return merge_request(host, find, body, writes=False)
    request = _request_again(host, find, body)
    return replace(request, title=request.output.name) if body.output else request
