"""What the API's routes on LoRAs do: from a body to a request, its plan, and the work of the job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from modelsmith.devices import find_gpu
from modelsmith.errors import UsageError
from modelsmith.lora.bake import BakeRequest, bake, plan_bake
from modelsmith.lora.combine import CombineRequest, combine, plan_combine
from modelsmith.lora.extract import ExtractRequest, extract, plan_extract
from modelsmith.lora.factorise import RankChoice
from modelsmith.lora.info import describe
from modelsmith.lora.report import (
    bake_json,
    bake_plan_json,
    combine_json,
    combine_plan_json,
    extract_json,
    extract_plan_json,
    matches_json,
)
from modelsmith.lora.stack import LoraSpec
from modelsmith_webui.host import Host, JobControl, ModelFile
from modelsmith_webui.merging import bytes_text
from modelsmith_webui.places import make_folder, output_beside, output_of_kind
from modelsmith_webui.tab.job_text import done_of
from modelsmith_webui.tab.lora_rows import find_lora, lora_files

Find = Callable[[list[ModelFile], str], ModelFile]
Answer = dict[str, Any]
Work = Callable[[JobControl], Answer]
Plan = Callable[[], Answer]

_MOST = 1 << 30


def _named(told: dict[str, object]) -> Answer:
    """Names in place of paths: who uses the API over a network need not know the folders."""
    loras = told.get("loras")
    if isinstance(loras, list):
        told = {**told, "loras": [{**one, "file": Path(str(one["file"])).name} for one in loras]}
    if "path" in told:
        told = {"output": Path(str(told.pop("path"))).name, **told}
    return dict(told)


def _rows(host: Host, given: Sequence[Any]) -> tuple[LoraSpec, ...]:
    """The LoRAs that a body names. Raises UsageError where there are none, UnknownNameError."""
    if not given:
        raise UsageError("no LoRA is chosen", "Choose a LoRA")
    known = lora_files(host)
    return tuple(LoraSpec(find_lora(known, one.name).path, one.strength, one.blocks or None) for one in given)


def prepare_bake(host: Host, find: Find, body: Any) -> tuple[Work, Plan, str]:
    """LoRAs baked into a checkpoint. Raises the library's errors, as do the following."""
    checkpoint = find(host.checkpoints(), body.checkpoint)
    loras = _rows(host, body.loras)
    stems = [checkpoint.path.stem, *(spec.path.stem for spec in loras)]
    target = output_beside(checkpoint, body.output, "-".join(stems))
    request = BakeRequest(
        checkpoint.path, loras, target, body.precision, body.overwrite, body.any_architecture, body.strict
    )
    plan = plan_bake(request)

    def work(control: JobControl) -> Answer:
        def show(done: int, total: int) -> None:
            control.report(done / max(1, total), bytes_text(done, total))

        result = bake(request, show, control.cancelled)
        host.keep_sha256(result.path, result.sha256)
        return _named(bake_json(result))

    return work, lambda: {"output": target.name, **_named(bake_plan_json(plan))}, target.name


def prepare_extract(host: Host, find: Find, body: Any) -> tuple[Work, Plan, str]:
    """A LoRA of what a tuned model has beyond its base."""
    known = host.checkpoints()
    base, tuned = find(known, body.base), find(known, body.tuned)
    target = output_of_kind(host, "lora", body.output, tuned.path.stem, "-lora")
    make_folder(target.parent)
    conv = body.rank if body.conv_rank is None else body.conv_rank
    request = ExtractRequest(
        base.path,
        tuned.path,
        target,
        RankChoice(body.rank, body.energy, body.method, body.clamp, body.seed),
        RankChoice(conv, body.energy, body.method, body.clamp, body.seed) if conv else None,
        body.components,
        body.differences,
        body.threshold,
        body.precision,
        body.overwrite,
        body.device,
    )
    find_gpu(request.device)
    plan = plan_extract(request)

    def work(control: JobControl) -> Answer:
        return _named(extract_json(extract(request, done_of(control), control.cancelled)))

    return work, lambda: {"output": target.name, **extract_plan_json(plan)}, target.name


def prepare_merge(host: Host, _find: Find, body: Any) -> tuple[Work, Plan, str]:
    """One LoRA of several, or one LoRA with another rank."""
    loras = _rows(host, body.loras)
    resize = None
    if body.rank is not None or body.energy is not None:
        resize = RankChoice(_MOST if body.rank is None else body.rank, body.energy, seed=body.seed)
    first = find_lora(lora_files(host), body.loras[0].name)
    target = output_beside(first, body.output, "-".join(spec.path.stem for spec in loras), "-merged")
    request = CombineRequest(loras, target, resize, body.precision, body.overwrite, body.device)
    find_gpu(request.device)
    plan = plan_combine(request)

    def work(control: JobControl) -> Answer:
        return _named(combine_json(combine(request, done_of(control), control.cancelled)))

    return work, lambda: {"output": target.name, **combine_plan_json(plan)}, target.name


def prepare_check(host: Host, find: Find, body: Any) -> tuple[Work, None, str]:
    """What a LoRA holds, and how it fits a checkpoint."""
    file = find_lora(lora_files(host), body.name)
    model = find(host.checkpoints(), body.checkpoint).path if body.checkpoint else None

    def work(_control: JobControl) -> Answer:
        info = describe(file.path, model)
        told = {**info.to_json(), "file": file.path.name}
        if info.match is not None:
            match = matches_json([info.match])[0]
            told["match"] = {"modules": match["modules"], "unmatched": match["unmatched"]}
        return told

    return work, None, ""
