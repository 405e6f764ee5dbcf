"""One conversion from options to file, with a plan that says beforehand what would come of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from modelsmith.convert.casts import LossBook
from modelsmith.convert.components import Layout, drop, family_of, is_checkpoint, keep_only, to_diffusers, to_ldm
from modelsmith.convert.exchange import put_in
from modelsmith.convert.model import Model, open_model
from modelsmith.convert.precision import PARTS, Precision, decode_all, parse_precision, set_precision
from modelsmith.convert.prune import PruneOptions, PruneReport, prune
from modelsmith.convert.repair import Finding, RepairOptions, find_faults, mend
from modelsmith.convert.write import WriteOptions, WriteResult, write_model
from modelsmith.errors import UnknownNameError, UsageError
from modelsmith.files.sharded import PARTS as FOLDER_PARTS
from modelsmith.identify import identify

_FOLDER_PREFIXES = tuple(f"{part}." for part in FOLDER_PARTS)


@dataclass(frozen=True)
class ConvertJob:
    """What to do with a model; everything that is not named stays as it is.

    precision: as for :func:`parse_precision`, empty to keep. put: parts and the files that they come from.
    """

    precision: str = ""
    clip: bool = False
    prune: PruneOptions | None = None
    layout: Layout | None = None
    only: str | None = None
    drop: tuple[str, ...] = ()
    put: tuple[tuple[str, Path], ...] = ()


@dataclass(frozen=True)
class ConvertPlan:
    """What a conversion would give. bytes are those of the tensors; quantized: schemes that the input has."""

    tensors_in: int
    tensors_out: int
    bytes_in: int
    bytes_out: int
    pruned: PruneReport | None
    notes: tuple[str, ...]
    quantized: tuple[str, ...]


def plan_convert(source: Path, job: ConvertJob) -> ConvertPlan:
    """Read headers and small tensors only, and work out what would be written. Raises as :func:`convert` does."""
    with open_model(source) as model:
        tensors_in, bytes_in = len(model.tensors), sum(info.nbytes for info in model.header.tensors.values())
        schemes = tuple(sorted({packed.scheme for packed in model.quantized.values()}))
        report = prepare(model, job)[1]
        return ConvertPlan(tensors_in, len(model.tensors), bytes_in, model.bytes(), report, tuple(model.notes), schemes)


def convert(source: Path, target: Path, job: ConvertJob, options: WriteOptions | None = None) -> WriteResult:
    """Carry the job out. The source is only read.

    Raises BadFileError, UnsafeFileError, UsageError, UnknownNameError, NoSpaceError or Cancelled; nothing half-written
    is kept.
    """
    with open_model(source) as model:
        book, pruned = prepare(model, job)
        result = write_model(model, target, book, options)
    return result if pruned is None else replace(result, dropped=pruned.dropped)


def prepare(model: Model, job: ConvertJob) -> tuple[LossBook, PruneReport | None]:
    """Change the model's table as the job says: prune, parts, names, precision, in this order."""
    precision = parse_precision(job.precision, clip=job.clip) if job.precision else Precision({}, job.clip)
    for part in job.drop:
        if part not in PARTS:
            raise UnknownNameError("part", part, PARTS)
    book = LossBook()
    report = prune(model, job.prune) if job.prune is not None else None
    layout = job.layout or _layout_of_folder(model, job.only)
    renamed = layout is not None or (job.put and not is_checkpoint(model))
    if renamed or job.only not in (None, "unet"):
        decode_all(model, precision, book)
    for part, path in job.put:
        with open_model(path) as donor:
            decode_all(donor, Precision({}), book)
            put_in(model, donor, part, book)
    for part in PARTS:
        if part in job.drop:
            drop(model, part)
    if layout == "ldm":
        to_ldm(model)
    if job.only is not None:
        keep_only(model, job.only)
    if layout == "diffusers":
        to_diffusers(model)
    set_precision(model, precision, book)
    return book, report


def is_diffusers_folder(model: Model) -> bool:
    """Whether the names are those of a whole diffusers folder, one part in each sub-folder."""
    if model.header.format != "sharded" or not any((model.path / part).is_dir() for part in FOLDER_PARTS):
        return False
    return all(name.startswith(_FOLDER_PREFIXES) for name in model.tensors)


def settle_folder(model: Model, book: LossBook) -> None:
    """Make a checkpoint of a whole diffusers folder; other models stay as they are. Raises UsageError as ``convert``
    does."""
    if _layout_of_folder(model, None) is not None:
        decode_all(model, Precision({}), book)
        to_ldm(model)


def _layout_of_folder(model: Model, only: str | None) -> Layout | None:
    """A whole diffusers folder becomes a checkpoint; of a family without one, its parts can be taken out.

    Raises UsageError for such a family where no part was asked for.
    """
    if not is_diffusers_folder(model):
        return None
    if family_of(model.tensors) is not None:
        return "ldm"
    if only is None:
        folders = [part for part in FOLDER_PARTS if any(name.startswith(f"{part}.") for name in model.tensors)]
        raise UsageError(
            f"{model.path} is a diffusers folder of a family that has no checkpoints of one file",
            f"Convert its parts one by one: {', '.join(str(model.path / part) for part in folders)}",
        )
    if only == "unet":
        roots = tuple(f"{part}." for part in ("unet", "transformer", "prior", "decoder"))
        named = {name.partition(".")[2]: node for name, node in model.tensors.items() if name.startswith(roots)}
        model.tensors = named or model.tensors
    return None


def repair(
    source: Path, target: Path | None, options: RepairOptions, write: WriteOptions | None = None
) -> tuple[list[Finding], WriteResult | None]:
    """Find the faults of a model and, with a target and anything to mend, write the mended model.

    Returns the findings, and None where nothing was written.
    """
    report = identify(source)
    with open_model(source) as model:
        book = LossBook()
        settle_folder(model, book)
        findings = find_faults(model, report, options, book)
        if target is None or not any(finding.apply is not None for finding in findings):
            return findings, None
        mend(model, findings)
        return findings, write_model(model, target, book, write)
