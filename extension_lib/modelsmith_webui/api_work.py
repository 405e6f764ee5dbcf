"""What each route of the API does: checks everything that can be checked at once, and gives the work for the job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from modelsmith.convert.components import CHOICES
from modelsmith.convert.jobs import ConvertJob, convert, plan_convert, repair
from modelsmith.convert.precision import parse_precision
from modelsmith.convert.prune import PruneOptions
from modelsmith.convert.publish import PublishOptions, plan_publish, publish, suggest_name
from modelsmith.convert.repair import Finding, RepairOptions
from modelsmith.convert.write import WriteOptions, WriteResult
from modelsmith.errors import UnknownNameError, UsageError
from modelsmith.files.header import read_header
from modelsmith.files.names import made_name, output_path
from modelsmith.japanese import Said
from modelsmith.merge.request import MergeRequest
from modelsmith.vae.bake import BakeRequest, ExtractRequest, run_bake, run_extract
from modelsmith.vae.calibration import CalibrationOptions
from modelsmith.vae.company import with_company
from modelsmith.vae.families import Identity, identify_vae
from modelsmith.vae.fix import FixRequest, run_fix
from modelsmith.vae.health import Measurement, check_header, measure
from modelsmith.vae.layout import Side, VaeFile, find_vae
from modelsmith.vae.measure import Watch
from modelsmith.vae.report import check_json, fix_json, move_json
from modelsmith_webui import api_lora
from modelsmith_webui.api_checks import compare_work, verify_work
from modelsmith_webui.api_language import spoken, word
from modelsmith_webui.api_merge import difference_work, merge_request, plan_of, replay_request
from modelsmith_webui.api_pictures import decoded, picture_files
from modelsmith_webui.background import Work
from modelsmith_webui.host import Host, JobControl, ModelFile
from modelsmith_webui.merging import bytes_text, merge_work, refuse_twice
from modelsmith_webui.places import make_folder, output_beside, output_of_kind
from modelsmith_webui.tab.convert_words import STAGES
from modelsmith_webui.vae_hints import hints, remember_cure, remember_measured

Find = Callable[[list[ModelFile], str], ModelFile]


@dataclass(frozen=True)
class Prepared:
    """plan: what would be done, as a plain object; None where there is nothing to say before."""

    work: Work
    plan: Callable[[], dict[str, Any]] | None = None
    title: str = ""


def _writing(control: JobControl, overwrite: bool) -> WriteOptions:
    def show(done: int, total: int) -> None:
        control.report(done / max(1, total), bytes_text(done, total))

    return WriteOptions(overwrite=overwrite, progress=show, cancelled=control.cancelled)


def _watch(control: JobControl) -> Watch:
    return Watch(lambda stage, done: control.report(done, word(STAGES.get(stage, stage))), control.cancelled)


def _free(target: Path, overwrite: bool) -> Path:
    """The target, checked before the job is queued. Raises UsageError where it exists and may not be replaced."""
    if target.exists() and not overwrite:
        raise UsageError(f"{target.name} exists already", "Choose another name, or allow it to be replaced")
    return target


def _written(host: Host, result: WriteResult) -> dict[str, Any]:
    host.keep_sha256(result.path, result.sha256)
    return {
        "output": result.path.name,
        "bytes_in": result.bytes_in,
        "bytes_out": result.bytes_out,
        "sha256": result.sha256,
        "seconds": round(result.seconds, 2),
        "notes": [spoken(note) for note in result.notes],
        "losses": {name: asdict(loss) for name, loss in result.losses.items()},
    }


def _findings(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    return [
        {
            "id": found.id,
            "what": spoken(found.what),
            "evidence": spoken(found.evidence),
            "remedy": spoken(found.remedy),
            "mendable": found.apply is not None,
        }
        for found in findings
    ]


def _convert(host: Host, find: Find, body: Any) -> Prepared:
    files = host.model_files()
    file = find(files, body.name)
    if body.precision:
        parse_precision(body.precision, clip=body.clip)
    for part in (*body.put, *((body.only,) if body.only else ())):
        if part not in CHOICES:
            raise UnknownNameError("part", part, CHOICES)
    job = ConvertJob(
        precision=body.precision,
        clip=body.clip,
        prune=PruneOptions(ema=body.ema, schedule=not body.keep_schedule) if body.prune else None,
        layout=body.layout,
        only=body.only,
        drop=tuple(body.drop),
        put=tuple((part, find(files, name).path) for part, name in body.put.items()),
    )
    suggestion = (file.path.stem, f"-{body.only or 'converted'}")
    if body.only in (None, "unet"):
        target = output_beside(file, body.output, *suggestion)
    else:
        target = output_of_kind(host, "vae" if body.only == "vae" else "text_encoder", body.output, *suggestion)

    def plan() -> dict[str, Any]:
        found = plan_convert(file.path, job)
        return {**asdict(found), "output": target.name}

    def work(control: JobControl) -> dict[str, Any]:
        make_folder(target.parent)
        return _written(host, convert(file.path, target, job, _writing(control, body.overwrite)))

    return Prepared(work, plan) if body.dry_run else _checked(Prepared(work, plan), target, body.overwrite)


def _checked(prepared: Prepared, target: Path, overwrite: bool) -> Prepared:
    _free(target, overwrite)
    return prepared


def _repair(host: Host, find: Find, body: Any) -> Prepared:
    files = host.model_files()
    file = find(files, body.name)
    donor = find(files, body.complete_from).path if body.complete_from else None
    options = RepairOptions(body.prediction, donor)
    target = output_beside(file, body.output, file.path.stem, "-repaired")

    def plan() -> dict[str, Any]:
        return {"findings": _findings(repair(file.path, None, options)[0]), "output": target.name}

    def work(control: JobControl) -> dict[str, Any]:
        findings, result = repair(file.path, target, options, _writing(control, body.overwrite))
        return {"findings": _findings(findings), "written": _written(host, result) if result is not None else None}

    return Prepared(work, plan) if body.dry_run else _checked(Prepared(work, plan), target, body.overwrite)


def _publish(host: Host, find: Find, body: Any) -> Prepared:
    file = find(host.model_files(), body.name)
    suggestion = suggest_name(file.path, body.title)
    name = body.output.strip() or (
        made_name(suggestion, f"-{body.precision}") if suggestion == file.path.stem else suggestion
    )
    parse_precision(body.precision)
    options = PublishOptions(
        name=name,
        title=body.title,
        author=body.author,
        license=body.license,
        resolution=body.resolution,
        precision=body.precision,
        remove_private=body.remove_private,
        repair=body.repair,
    )
    target, pictures = output_path(file.path.parent, name), decoded([body.thumbnail] if body.thumbnail else [])

    def plan() -> dict[str, Any]:
        with picture_files(pictures) as paths:
            found = plan_publish(file.path, file.path.parent, replace(options, thumbnail=next(iter(paths), None)))
        return {
            "output": found.target.name,
            "metadata": dict(found.metadata),
            "removed_metadata": list(found.removed_metadata),
            "repairs": [spoken(line) for line in found.repairs],
            "unsettled": [spoken(line) for line in found.unsettled],
            "notes": [spoken(line) for line in found.notes],
            "bytes_in": found.pruned.bytes_before,
            "bytes_out": found.bytes_out,
        }

    def work(control: JobControl) -> dict[str, Any]:
        with picture_files(pictures) as paths:
            shown = replace(options, thumbnail=next(iter(paths), None))
            made = publish(file.path, file.path.parent, shown, _writing(control, body.overwrite))
        known = {"sha256": made.hashes.sha256, "autov2": made.hashes.autov2, "autov3": made.hashes.autov3}
        return {**_written(host, made.result), "hashes": known, "cards": [card.name for card in made.cards]}

    return Prepared(work, plan) if body.dry_run else _checked(Prepared(work, plan), target, body.overwrite)


def _calibration(body: Any, images: tuple[Path, ...]) -> CalibrationOptions:
    return CalibrationOptions(body.latents, body.size, body.seed, images)


def _named(answer: dict[str, object]) -> dict[str, Any]:
    """Names in place of paths: who uses the API over a network need not know the folders."""
    return {key: Path(str(value)).name if key in ("file", "output") else value for key, value in answer.items()}


def _checked_vae(vae: VaeFile, identity: Identity, found: Measurement | None) -> dict[str, object]:
    """What a VAE is, in every language."""
    health = check_header(vae, identity)
    told = check_json(vae, identity, health, found)
    return {**told, **_evidence(identity), "reason": word(health.reason), "advice": word(health.advice)}


def _evidence(identity: Identity) -> dict[str, object]:
    lines = [{**vars(clue), "detail": Said(clue.detail, clue.in_language("ja")[1])} for clue in identity.clues]
    return {"evidence": lines}


def _vae_check(host: Host, find: Find, body: Any) -> Prepared:
    file = find(host.model_files(), body.name)
    vae, pictures = find_vae(read_header(file.path)), decoded(body.images)

    def work(control: JobControl) -> dict[str, Any]:
        identity = identify_vae(vae, with_company(vae, hints(host, file, body.family)))
        found = None
        if body.measure:
            with picture_files(pictures) as images:
                found = measure(vae, identity, _calibration(body, images), _watch(control))
            remember_measured(host, vae, found)
        return _named(_checked_vae(vae, identity, found))

    return Prepared(work)


def _vae_fix(host: Host, find: Find, body: Any) -> Prepared:
    file = find(host.model_files(), body.name)
    find_vae(read_header(file.path))
    target = _free(output_beside(file, body.output, file.path.stem, "-fp16-cured"), body.overwrite)
    sides: tuple[Side, ...] = ("decoder", "encoder") if body.part == "both" else (body.part,)
    pictures = decoded(body.images)

    def work(control: JobControl) -> dict[str, Any]:
        with picture_files(pictures) as images:
            request = FixRequest(
                file.path,
                target,
                sides=sides,
                headroom=body.headroom,
                calibration=_calibration(body, images),
                hints=hints(host, file, body.family),
                overwrite=body.overwrite,
                compare_bf16=body.compare_bf16,
            )
            result = run_fix(request, _watch(control))
        remember_cure(host, file, result)
        host.keep_sha256(result.path, result.sha256)
        return _named({**fix_json(result), **_evidence(result.identity)})

    return Prepared(work)


def _vae_bake(host: Host, find: Find, body: Any) -> Prepared:
    files = host.model_files()
    file, checkpoint = find(files, body.name), find(host.checkpoints(), body.checkpoint)
    find_vae(read_header(file.path))
    target = output_beside(checkpoint, body.output, f"{checkpoint.path.stem}-{file.path.stem}")
    _free(target, body.overwrite)

    def work(control: JobControl) -> dict[str, Any]:
        known = hints(host, file, body.family)
        request = BakeRequest(
            checkpoint.path, file.path, target, body.precision, body.force, known, overwrite=body.overwrite
        )
        result = run_bake(request, _watch(control))
        host.keep_sha256(result.path, result.sha256)
        return _named({**move_json(result), **_evidence(result.identity)})

    return Prepared(work)


def _vae_extract(host: Host, find: Find, body: Any) -> Prepared:
    file = find(host.model_files(), body.name)
    find_vae(read_header(file.path))
    if file.kind == "vae":
        target = output_beside(file, body.output, file.path.stem, f"-{body.naming}")
    else:
        target = output_of_kind(host, "vae", body.output, file.path.stem, "-vae")
    _free(target, body.overwrite)

    def work(control: JobControl) -> dict[str, Any]:
        make_folder(target.parent)
        known = hints(host, file, body.family)
        request = ExtractRequest(file.path, target, body.naming, body.precision, known, overwrite=body.overwrite)
        result = run_extract(request, _watch(control))
        return _named({**move_json(result), **_evidence(result.identity)})

    return Prepared(work)


def _merge(host: Host, find: Find, body: Any) -> Prepared:
    return _merging(host, merge_request(host, find, body), body)


def _merging(host: Host, request: MergeRequest, body: Any) -> Prepared:
    if not body.dry_run:
        refuse_twice(host, request)
    return Prepared(merge_work(host, request), plan_of(request), request.output.name)


def _difference(host: Host, find: Find, body: Any) -> Prepared:
    return Prepared(difference_work(host, find, body))


def _replay(host: Host, find: Find, body: Any) -> Prepared:
    return _merging(host, replay_request(host, find, body), body)


PREPARE: Mapping[str, Callable[[Host, Find, Any], Prepared]] = {
    "convert": _convert,
    "repair": _repair,
    "publish": _publish,
    "compare": lambda host, find, body: Prepared(compare_work(host, find, body)),
    "verify": lambda host, find, body: Prepared(verify_work(host, find, body)),
    "merge": _merge,
    "difference": _difference,
    "replay": _replay,
    "vae_check": _vae_check,
    "vae_fix": _vae_fix,
    "vae_bake": _vae_bake,
    "vae_extract": _vae_extract,
    "lora_bake": lambda host, find, body: Prepared(*api_lora.prepare_bake(host, find, body)),
    "lora_extract": lambda host, find, body: Prepared(*api_lora.prepare_extract(host, find, body)),
    "lora_merge": lambda host, find, body: Prepared(*api_lora.prepare_merge(host, find, body)),
    "lora_check": lambda host, find, body: Prepared(*api_lora.prepare_check(host, find, body)),
}
