"""Routes that start jobs and follow them. Names are those of the host's lists, outputs are names only, never a path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter

from modelsmith.errors import ModelsmithError, UnknownNameError
from modelsmith_webui.api_language import in_asked_language
from modelsmith_webui.api_models import (
    CompareBody,
    ConvertBody,
    DifferenceBody,
    JobAnswer,
    LoraBakeBody,
    LoraCheckBody,
    LoraExtractBody,
    LoraMergeBody,
    MergeBody,
    PublishBody,
    RepairBody,
    ReplayBody,
    StartedAnswer,
    VaeBakeBody,
    VaeCheckBody,
    VaeExtractBody,
    VaeFixBody,
    VerifyBody,
)
from modelsmith_webui.api_recipes import add_recipe_routes, refused
from modelsmith_webui.background import Background, queue_of
from modelsmith_webui.host import Host, ModelFile

Find = Callable[[list[ModelFile], str], ModelFile]


def _starter(host: Host, find: Find, background: Background) -> Callable[[str, Any], dict[str, Any]]:
    """What every route that starts a job does: the job, or with ``dry_run`` its plan alone."""

    def start(kind: str, body: Any) -> dict[str, Any]:
        # What the work needs is heavy: it is imported when the first job is asked for.
        from modelsmith_webui import api_work

        try:
            prepared = api_work.PREPARE[kind](host, find, body)
            if getattr(body, "dry_run", False) and prepared.plan is not None:
                return {"plan": in_asked_language(prepared.plan())}
            return {"job": in_asked_language(background.start(kind, prepared.work, prepared.title).to_json())}
        except ModelsmithError as error:
            raise refused(error) from error

    return start


def add_job_routes(router: APIRouter, host: Host, find: Find) -> None:
    """Add the routes. ``find`` gives the file of a list that has a name, or raises UnknownNameError."""
    background = queue_of(host)
    start = _starter(host, find, background)

    def post_convert(body: ConvertBody) -> Any:
        """Write a model anew: format, precision per part, pruned, layout, parts. Result: file, sizes, hash, losses."""
        return start("convert", body)

    def post_repair(body: RepairBody) -> Any:
        """Find what is wrong with a model and write a mended copy. Result: findings with evidence, file or null."""
        return start("repair", body)

    def post_publish(body: PublishBody) -> Any:
        """Make a copy ready for others. Result: file, hashes, model cards."""
        return start("publish", body)

    def post_compare(body: CompareBody) -> Any:
        """Compare two models tensor by tensor. Result: counts, and every tensor that is not equal."""
        return start("compare", body)

    def post_verify(body: VerifyBody) -> Any:
        """Check models for damage: header, sizes, values, hashes. Result: each file with its problems."""
        return start("verify", body)

    def post_merge(body: MergeBody) -> Any:
        """Merge checkpoints. Result: file, hash, notices. With `dry_run` the plan alone."""
        return start("merge", body)

    def post_difference(body: DifferenceBody) -> Any:
        """Compare B, or B − C, with A block by block. Result: relative L2, cosine and largest change of each block."""
        return start("difference", body)

    def post_replay(body: ReplayBody) -> Any:
        """Make a recipe into a file: of a recipe checkpoint, of a history entry, or given. The bytes are the same."""
        return start("replay", body)

    for path, answer in (
        ("/convert", post_convert),
        ("/repair", post_repair),
        ("/publish", post_publish),
        ("/compare", post_compare),
        ("/verify", post_verify),
        ("/merge", post_merge),
        ("/difference", post_difference),
        ("/recipe/replay", post_replay),
    ):
        router.add_api_route(path, answer, methods=["POST"], response_model=StartedAnswer)
    _add_vae_jobs(router, start)
    _add_lora_jobs(router, start)
    _add_following(router, background)
    add_recipe_routes(router, host, find)


def _add_vae_jobs(router: APIRouter, start: Callable[[str, Any], dict[str, Any]]) -> None:
    def post_check(body: VaeCheckBody) -> Any:
        """What a VAE is, how that is known, whether it runs in fp16; with `measure` each layer's largest value."""
        return start("vae_check", body)

    def post_fix(body: VaeFixBody) -> Any:
        """Write a VAE (or a checkpoint) that runs in fp16 with the same output. Result: the file and its proof."""
        return start("vae_fix", body)

    def post_bake(body: VaeBakeBody) -> Any:
        """Put a VAE into a checkpoint, into a new file."""
        return start("vae_bake", body)

    def post_extract(body: VaeExtractBody) -> Any:
        """Take the VAE out of a checkpoint, or write a VAE anew."""
        return start("vae_extract", body)

    for path, answer in (
        ("/vae/check", post_check),
        ("/vae/fix", post_fix),
        ("/vae/bake", post_bake),
        ("/vae/extract", post_extract),
    ):
        router.add_api_route(path, answer, methods=["POST"], response_model=StartedAnswer)


def _add_lora_jobs(router: APIRouter, start: Callable[[str, Any], dict[str, Any]]) -> None:
    def post_bake(body: LoraBakeBody) -> Any:
        """Bake LoRAs into a checkpoint, into a new file. Result: file, hash, how each LoRA fits."""
        return start("lora_bake", body)

    def post_extract(body: LoraExtractBody) -> Any:
        """Make a LoRA of what two checkpoints differ in. Result: file, ranks, the kept share, what is not in it."""
        return start("lora_extract", body)

    def post_merge(body: LoraMergeBody) -> Any:
        """Make one LoRA of several, or change the rank of one. Result: file, ranks, the kept share."""
        return start("lora_merge", body)

    def post_check(body: LoraCheckBody) -> Any:
        """What a LoRA holds, and which of its modules find their place in a checkpoint."""
        return start("lora_check", body)

    for path, answer in (
        ("/lora/bake", post_bake),
        ("/lora/extract", post_extract),
        ("/lora/merge", post_merge),
        ("/lora/check", post_check),
    ):
        router.add_api_route(path, answer, methods=["POST"], response_model=StartedAnswer)


def _add_following(router: APIRouter, background: Background) -> None:
    def get_jobs() -> Any:
        """All jobs that are remembered: those that wait or run, and the last hundred that ended."""
        return in_asked_language([job.to_json() for job in background.jobs()])

    def get_job(job_id: str) -> Any:
        """How far a job has come, and its result or error once it has ended."""
        try:
            return in_asked_language(background.job(job_id).to_json())
        except UnknownNameError as error:
            raise refused(error) from error

    def post_cancel(job_id: str) -> Any:
        """Ask a job to stop. It ends as `cancelled` a moment later; nothing half-written is kept."""
        try:
            return in_asked_language(background.cancel(job_id).to_json())
        except UnknownNameError as error:
            raise refused(error) from error

    router.add_api_route("/jobs", get_jobs, methods=["GET"], response_model=list[JobAnswer])
    router.add_api_route("/jobs/{job_id}", get_job, methods=["GET"], response_model=JobAnswer)
    router.add_api_route("/jobs/{job_id}/cancel", post_cancel, methods=["POST"], response_model=JobAnswer)
