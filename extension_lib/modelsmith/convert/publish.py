"""Making a model ready for others: small, safe, well named, with clean metadata, hashes and a model card."""

from __future__ import annotations

import base64
import datetime
import importlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modelsmith.convert.card import CardFacts, model_card
from modelsmith.convert.casts import LossBook
from modelsmith.convert.hashes import Hashes, hash_file
from modelsmith.convert.jobs import settle_folder
from modelsmith.convert.model import Model, open_model
from modelsmith.convert.precision import Precision, parse_precision, set_precision
from modelsmith.convert.prune import PruneOptions, PruneReport, prune
from modelsmith.convert.repair import find_faults, mend
from modelsmith.convert.romanize import ascii_name
from modelsmith.convert.write import WriteOptions, WriteResult, write_model
from modelsmith.errors import BadFileError, UsageError
from modelsmith.files.names import made_name, output_path
from modelsmith.identify import Report, identify
from modelsmith.japanese import Said

_ARCHITECTURES = {
    "sd1": ("stable-diffusion-v1", "https://github.com/CompVis/stable-diffusion", "512x512"),
    "sd2": ("stable-diffusion-v2-512", "https://github.com/Stability-AI/stablediffusion", "512x512"),
    "sdxl": ("stable-diffusion-xl-v1-base", "https://github.com/Stability-AI/generative-models", "1024x1024"),
    "sdxl-refiner": (
        "stable-diffusion-xl-v1-refiner",
        "https://github.com/Stability-AI/generative-models",
        "1024x1024",
    ),
}
"""Values of Stability's ModelSpec 1.0 (Stability-AI/ModelSpec), and the size that the family was trained at."""

# What kohya's scripts, OneTrainer, ComfyUI and Lightning leave (ss_, ot_, prompt and workflow, epoch and global_step).
_PRIVATE = ("ss_", "ot_", "training", "prompt", "workflow", "dataset", "wandb", "user", "host", "path", "epoch",
            "global_step")  # fmt: skip
_STALE = ("modelspec.hash_sha256", "format", "sshs_model_hash", "sshs_legacy_hash")  # of the file that it was
_MAX_THUMBNAIL = 256 << 10
_TYPES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}


@dataclass(frozen=True)
class PublishOptions:
    """What the author decides.

    name: file name without ending, None for the suggestion. remove_private: drop training metadata (data set names,
    paths, prompts). resolution: as ``1024x1024``, None for the family's. thumbnail: a picture; one of more than 256 KiB
    is made smaller.
    repair: mend what ``modelsmith repair`` would mend by itself.
    """

    name: str | None = None
    title: str | None = None
    author: str | None = None
    license: str | None = None
    resolution: str | None = None
    thumbnail: Path | None = None
    precision: str = "fp16"
    remove_private: bool = False
    repair: bool = True


@dataclass(frozen=True)
class PublishPlan:
    """What would be written: shown before anything is. unsettled: faults that are left to the user; notes: what else
    there is to say."""

    source: Path
    target: Path
    report: Report
    metadata: Mapping[str, str]
    removed_metadata: tuple[str, ...]
    repairs: tuple[str, ...]
    pruned: PruneReport
    bytes_out: int
    unsettled: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def existing(self) -> tuple[Path, ...]:
        """Files that are there already and would be replaced: the model, its cards, its hash."""
        return tuple(path for path in (self.target, *companions(self.target)) if path.exists())


@dataclass(frozen=True)
class Published:
    """The finished model, its hashes and its two cards."""

    result: WriteResult
    hashes: Hashes
    cards: tuple[Path, ...]
    report: Report


def suggest_name(source: Path, title: str | None = None) -> str:
    """An ASCII file name without spaces, from the title or the present name."""
    return made_name(ascii_name(title or (source.name if source.is_dir() else source.stem)))


def plan_publish(source: Path, folder: Path, options: PublishOptions) -> PublishPlan:
    """Work out name, metadata and size without writing. Raises as the readers do, UsageError for bad options."""
    with open_model(source) as model:
        return _prepare(model, folder, options, LossBook())[0]


def publish(source: Path, folder: Path, options: PublishOptions, write: WriteOptions | None = None) -> Published:
    """Write the model, its hashes and its cards (``NAME.md``, ``NAME.ja.md``, ``NAME.sha256``) into ``folder``.

    Progress counts the output's bytes twice: as they are written, and as they are read back for the hashes.
    Raises UsageError, before anything is written, where one of the files exists and may not be replaced; a model that
    was written when the hashing is cancelled stays.
    """
    chosen = write or WriteOptions()
    with open_model(source) as model:
        book = LossBook()
        plan, precision = _prepare(model, folder, options, book)
        if not chosen.overwrite:
            _refuse_existing(plan)
        set_precision(model, precision, book)
        result = write_model(model, plan.target, book, _half_way(chosen, 0))
    result = replace(result, dropped=plan.pruned.dropped)
    hashes = hash_file(result.path, chosen.cancelled, _half_way(chosen, 1).progress)
    if hashes.sha256 != result.sha256:
        raise BadFileError(result.path, "what was read back is not what was written", "Check the disk and repeat")
    report = identify(result.path)
    facts = CardFacts(options.title or source.stem, options.author, options.license, result.path.name, hashes)
    english, japanese, digest = companions(result.path)
    _write_text(english, model_card(report, facts, "en"))
    _write_text(japanese, model_card(report, facts, "ja"))
    _write_text(digest, f"{hashes.sha256}  {result.path.name}\n")
    return Published(result, hashes, (english, japanese), report)


def companions(target: Path) -> tuple[Path, Path, Path]:
    """What is written beside a model: its card in English and in Japanese, and its hash."""
    english, japanese, digest = (target.with_name(target.stem + ending) for ending in (".md", ".ja.md", ".sha256"))
    return english, japanese, digest


def _refuse_existing(plan: PublishPlan) -> None:
    if plan.existing:
        names = ", ".join(path.name for path in plan.existing)
        raise UsageError(f"{names} exist already in {plan.target.parent}", "Choose another name or allow replacing")


def _half_way(write: WriteOptions, half: int) -> WriteOptions:
    """The options whose progress fills the first or the second half."""
    told = write.progress
    if told is None:
        return write

    def show(done: int, total: int) -> None:
        told(done + half * total, 2 * total)

    return replace(write, progress=show)


def _prepare(model: Model, folder: Path, options: PublishOptions, book: LossBook) -> tuple[PublishPlan, Precision]:
    report = identify(model.path)
    precision = parse_precision(options.precision)
    settle_folder(model, book)
    suggestion = suggest_name(model.path, options.title)
    target = output_path(folder, options.name or suggestion)
    if not target.name.isascii() or " " in target.name:
        model.notes.append(f"the file name {target.name} is not plain ASCII without spaces, as {suggestion} would be")
    repairs: list[Said] = []
    found = find_faults(model, report)
    unsettled = tuple(fault.with_evidence() for fault in found if fault.apply is None)
    model.notes += unsettled
    if options.repair:
        faults = [fault for fault in found if fault.apply is not None]
        mend(model, faults)
        repairs = [fault.with_remedy() for fault in faults]
    pruned = prune(model, PruneOptions())
    before = set(model.metadata)
    model.metadata = clean_metadata(model, report, options)
    removed = tuple(sorted(before - set(model.metadata)))
    size = _size(model, precision)
    said = dict(model.metadata)
    notes = tuple(note for note in model.notes if note not in unsettled and note not in repairs)
    plan = PublishPlan(model.path, target, report, said, removed, tuple(repairs), pruned, size, unsettled, notes)
    return plan, precision


def _size(model: Model, precision: Precision) -> int:
    """Bytes after the change of precision, worked out on a copy of the table."""
    trial = Model(model.path, model.header, dict(model.tensors), dict(model.metadata), dict(model.quantized))
    set_precision(trial, precision)
    return trial.bytes()


def clean_metadata(model: Model, report: Report, options: PublishOptions) -> dict[str, str]:
    """The fields of ModelSpec 1.0 from what is known, what was there and is no private matter, and the rest as asked.

    Raises UsageError for a thumbnail that is no picture or too large, or a resolution that is none.
    """
    kept = {
        name: text
        for name, text in model.metadata.items()
        if not (options.remove_private and is_private(name)) and name not in _STALE
    }
    known = _ARCHITECTURES.get(report.architecture or "")
    fields: dict[str, str] = {"modelspec.sai_model_spec": "1.0.0"}
    if known is not None:
        fields["modelspec.architecture"] = _architecture(report, known[0])
        fields["modelspec.implementation"] = known[1]
        fields.update(_resolution(options, kept, known[2]))
    if report.prediction.type in ("epsilon", "v_prediction") and not report.prediction.conflict:
        fields["modelspec.prediction_type"] = "v" if report.prediction.type == "v_prediction" else "epsilon"
    for name, value in (("title", options.title), ("author", options.author), ("license", options.license)):
        if value:
            fields[f"modelspec.{name}"] = value
    kept.setdefault("modelspec.title", options.title or model.path.stem)
    kept.setdefault("modelspec.date", datetime.date.today().isoformat())
    if options.thumbnail is not None:
        fields["modelspec.thumbnail"] = _thumbnail(options.thumbnail)
    return {**kept, **fields}


def is_private(name: str) -> bool:
    """Whether a metadata field tells how, where or on what a model was trained."""
    return name.lower().startswith(_PRIVATE)


def _architecture(report: Report, name: str) -> str:
    if name == "stable-diffusion-v2-512" and report.prediction.type == "v_prediction":
        return "stable-diffusion-v2-768-v"
    return f"{name}/inpainting" if report.inpainting else name


def _resolution(options: PublishOptions, kept: Mapping[str, str], usual: str) -> dict[str, str]:
    text = options.resolution or kept.get("modelspec.resolution") or usual
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdigit() and 0 < int(side) <= 16384 for side in sides):
        raise UsageError(f"the resolution {text!r} is none", "Write it as 1024x1024")
    return {"modelspec.resolution": "x".join(sides)}


def _thumbnail(path: Path) -> str:
    """A picture as a data URI, as ModelSpec keeps it; a larger one is made smaller where Pillow is there."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"the thumbnail {path} cannot be read ({error.strerror})", "Choose another file") from error
    if not any(data.startswith(start) for start in _TYPES):
        raise UsageError(f"the thumbnail {path} is no JPEG, PNG or WebP picture", "Choose another file")
    if len(data) > _MAX_THUMBNAIL:
        data = _smaller(path, data)
    kind = next(kind for start, kind in _TYPES.items() if data.startswith(start))
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _smaller(path: Path, data: bytes) -> bytes:
    """The picture as a JPEG of at most 512 pixels a side, of 256 where that is still too much."""
    too_large = UsageError(f"the thumbnail {path} has {len(data):,} bytes", f"Make it smaller than {_MAX_THUMBNAIL:,}")
    try:
        pillow: Any = importlib.import_module("PIL.Image")  # a host has it; its types differ between versions
    except ImportError:
        raise too_large from None
    for side in (512, 256):
        made = io.BytesIO()
        try:
            with pillow.open(io.BytesIO(data)) as picture:
                picture.thumbnail((side, side))
                picture.convert("RGB").save(made, "JPEG", quality=85)
        except (OSError, ValueError, pillow.DecompressionBombError) as error:
            raise UsageError(f"the thumbnail {path} cannot be read ({error})", "Choose another file") from error
        if len(made.getvalue()) <= _MAX_THUMBNAIL:
            return made.getvalue()
    raise too_large


def _write_text(path: Path, text: str) -> None:
    """Write beside the target and rename, so that no half text remains."""
    temporary = path.with_name(f".{path.name}.modelsmith-{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"{path} cannot be written ({error.strerror})", "Choose another folder") from error
