"""What ``modelsmith convert`` and ``modelsmith repair`` do, and how they tell of it."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from modelsmith.convert.casts import Loss
from modelsmith.convert.folder import (
    Journal,
    Outcome,
    Task,
    find_models,
    is_model_folder,
    job_id,
    plan_folder,
    run_folder,
)
from modelsmith.convert.jobs import ConvertJob, ConvertPlan, convert, plan_convert, repair
from modelsmith.convert.prune import Ema, PruneOptions
from modelsmith.convert.repair import Finding, RepairOptions
from modelsmith.convert.write import WriteOptions, WriteResult
from modelsmith.errors import ModelsmithError, UsageError
from modelsmith.files.header import read_header
from modelsmith.speech_cli import bar, say, told, told_error, warn, words, write


def run_convert(arguments: argparse.Namespace) -> int:
    """Carry out ``convert``: 0 done, 1 where a file of a folder failed; other errors are raised."""
    job = _job(arguments)
    if is_collection(arguments.source):
        return run_many(arguments, _convert_folder(job))
    target = _target(arguments.source, arguments.output)
    if arguments.dry_run:
        print_plan(arguments.source, target, plan_convert(arguments.source, job))
        return 0
    with write_options(arguments, arguments.source.name) as options:
        result = convert(arguments.source, target, job, options)
    print_result(result, clip=job.clip)
    return 0


def _convert_folder(job: ConvertJob) -> FolderWork:
    def plan(task: Task) -> tuple[int, int]:
        found = plan_convert(task.source, job)
        print_plan(task.source, task.target, found)
        return found.bytes_in, found.bytes_out

    def work(task: Task, options: WriteOptions) -> bool:
        print_result(convert(task.source, task.target, job, options), clip=job.clip)
        return True

    return FolderWork(f"convert {job!r}", plan, work)


def _job(arguments: argparse.Namespace) -> ConvertJob:
    ema: Ema = arguments.ema or "drop"
    if (arguments.ema or arguments.keep_schedule) and not arguments.prune:
        raise UsageError("--ema and --keep-schedule say how to prune", "Add --prune")
    pruning = PruneOptions(ema=ema, schedule=not arguments.keep_schedule) if arguments.prune else None
    put: list[tuple[str, Path]] = []
    for item in arguments.put:
        part, mark, path = str(item).partition("=")
        if not mark or not path:
            raise UsageError(f"--put {item!r} names no file", "Write it as vae=FILE")
        put.append((part, Path(path)))
    return ConvertJob(
        precision=arguments.precision,
        clip=arguments.clip,
        prune=pruning,
        layout=arguments.layout,
        only=arguments.only,
        drop=tuple(arguments.drop),
        put=tuple(put),
    )


def is_collection(path: Path) -> bool:
    """Whether a path is a folder of models, not one model."""
    return path.is_dir() and not is_model_folder(path)


def _target(source: Path, output: Path) -> Path:
    if output.is_dir():
        return output / ((source.name if source.is_dir() else source.stem) + ".safetensors")
    if output.suffix.lower() not in (".safetensors", ".sft"):
        raise UsageError(f"{output} does not end in .safetensors", "Outputs are written in that format only")
    return output


@dataclass(frozen=True)
class FolderWork:
    """What is done to every model of a folder.

    description: tells one job from another. plan: says what would be done and gives the bytes before and after.
    work: does it and gives whether anything was written. named: the name of an output, None for that of the model.
    settled: whether all that belongs to an output is there.
    """

    description: str
    plan: Callable[[Task], tuple[int, int]]
    work: Callable[[Task, WriteOptions], bool]
    named: Callable[[Path], str] | None = None
    settled: Callable[[Task], bool] = lambda task: True


def run_many(arguments: argparse.Namespace, folder: FolderWork) -> int:
    """Do something to every model of a folder, or say what would be done; what was done before is left alone."""
    root, output = Path(arguments.source), arguments.output
    if output is None:
        raise UsageError("a folder needs an output folder", "Give one with --output")
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is no folder", "A folder of models needs a folder for the outputs")
    if output.resolve() == root.resolve():
        raise UsageError(f"{output} is the folder itself", "Choose another folder; the originals are never changed")
    journal = Journal(output, job_id(folder.description))
    tasks = plan_folder(find_models(root, within=output), root, output, journal, folder.named)
    tasks = [replace(task, done=task.done and folder.settled(task)) for task in tasks]
    if arguments.dry_run:
        return _plan_many(tasks, folder)
    output.mkdir(parents=True, exist_ok=True)

    def one(task: Task) -> bool:
        with write_options(arguments, task.source.name) as options:
            ours = journal.is_done(task.source, task.target)
            written = replace(options, overwrite=options.overwrite or ours, finished=journal.noting(task))
            return folder.work(task, written)

    outcomes = run_folder(tasks, journal, one, _tell)
    failed = sum(outcome.error is not None for outcome in outcomes)
    skipped = sum(outcome.skipped for outcome in outcomes)
    say("{} done, {} skipped, {} failed", len(outcomes) - failed - skipped, skipped, failed)
    return 1 if failed else 0


def _tell(outcome: Outcome) -> None:
    if outcome.error is not None:
        warn("failed: {}", told_error(outcome.error))
    elif outcome.task.done:
        say("{}: done before", outcome.task.source)


def _plan_many(tasks: Sequence[Task], folder: FolderWork) -> int:
    failed = done = before = after = 0
    for task in tasks:
        try:
            if task.done:
                done += 1
                say("{}: done before", task.source)
            else:
                sizes = folder.plan(task)
                before, after = before + sizes[0], after + sizes[1]
        except ModelsmithError as error:
            failed += 1
            warn("would fail: {}", told_error(error))
    open_ones = len(tasks) - done - failed
    say("{} to do, bytes {} -> {}; {} done before, {} would fail", open_ones, f"{before:,}", f"{after:,}", done, failed)
    return 1 if failed else 0


@contextlib.contextmanager
def write_options(arguments: argparse.Namespace, title: str) -> Generator[WriteOptions, None, None]:
    """Options for writing that show a progress bar on a terminal."""
    with bar(arguments.quiet, title) as shown:

        def show(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        hashing = not getattr(arguments, "no_hash", False)
        yield WriteOptions(overwrite=bool(arguments.overwrite), progress=show, hashing=hashing)


def run_repair(arguments: argparse.Namespace) -> int:
    """Carry out ``repair``: 0 done (or nothing to do), 1 where a file of a folder failed; other errors are raised."""
    options = RepairOptions(arguments.prediction, arguments.complete_from)
    if is_collection(arguments.source):
        return run_many(arguments, _repair_folder(options))
    target = _target(arguments.source, arguments.output) if arguments.output and not arguments.dry_run else None
    with write_options(arguments, arguments.source.name) as writing:
        findings, result = repair(arguments.source, target, options, writing)
    print_findings(arguments.source, findings, mended=result is not None)
    if result is not None:
        print_result(result, notes=_others(result, findings))
    elif target is not None and findings:
        say("nothing was written: nothing of this can be mended without you")
    return 0


def _repair_folder(options: RepairOptions) -> FolderWork:
    def plan(task: Task) -> tuple[int, int]:
        findings = repair(task.source, None, options)[0]
        print_findings(task.source, findings, mended=False)
        size = read_header(task.source).size if any(finding.apply is not None for finding in findings) else 0
        return size, size

    def work(task: Task, writing: WriteOptions) -> bool:
        findings, result = repair(task.source, task.target, options, writing)
        print_findings(task.source, findings, mended=result is not None)
        if result is not None:
            print_result(result, notes=_others(result, findings))
        return result is not None

    return FolderWork(f"repair {options!r}", plan, work)


def _others(result: WriteResult, findings: Sequence[Finding]) -> tuple[str, ...]:
    """The notes that say something else than the findings."""
    known = {str(finding.with_remedy()) for finding in findings}
    return tuple(note for note in result.notes if str(note) not in known)


def print_findings(source: Path, findings: Sequence[Finding], *, mended: bool) -> None:
    """Each fault with its evidence and what is, or would be, done."""
    if not findings:
        say("{}: nothing to repair", source)
        return
    write(f"{source}:")
    for finding in findings:
        write(f"  {told(finding.what)}")
        say("    evidence: {}", told(finding.evidence))
        if not finding.remedy:
            say("    left to you")
        elif mended:
            say("    done: {}", told(finding.remedy))
        else:
            say("    would be: {}", told(finding.remedy))


def print_plan(source: Path, target: Path, plan: ConvertPlan) -> None:
    """What a conversion would give."""
    write(f"{source} -> {target}")
    numbers = plan.tensors_in, plan.tensors_out, f"{plan.bytes_in:,}", f"{plan.bytes_out:,}"
    say("  tensors {} -> {}, bytes {} -> {}", *numbers)
    if plan.quantized:
        say("  quantised: {}", ", ".join(plan.quantized))
    if plan.pruned is not None:
        print_dropped(plan.pruned.dropped)
    print_notes(plan.notes)


def print_dropped(dropped: dict[str, int]) -> None:
    """How many tensors of each kind are left out."""
    kinds = {"ema": "{} averages (EMA)", "schedule": "{} schedule buffers", "training": "{} training leftovers"}
    left = ", ".join(words(kinds[kind], number) for kind, number in dropped.items())
    say("  left out: {}", left or words("nothing"))


def print_notes(notes: Sequence[str]) -> None:
    """What was noticed on the way."""
    for note in notes:
        say("  note: {}", told(note))


def print_result(result: WriteResult, *, clip: bool = False, notes: Sequence[str] | None = None) -> None:
    """What was written, and what the change of precision cost. notes: those to tell, None for all."""
    sizes = f"{result.bytes_in:,}", f"{result.bytes_out:,}"
    say("{}: {} -> {} bytes in {} s", result.path, *sizes, f"{result.seconds:.1f}")
    if result.sha256:
        write(f"  SHA-256 {result.sha256}")
    if result.dropped is not None:
        print_dropped(result.dropped)
    print_notes(result.notes if notes is None else notes)
    print_losses(result.losses, clip=clip)


def print_losses(losses: dict[str, Loss], *, clip: bool = False) -> None:
    """The largest error, and by name every tensor that overflowed or was not finite.

    clip: whether what was out of range became the largest value, and not infinite.
    """
    if not losses:
        return
    worst = max(losses, key=lambda name: losses[name].largest_error)
    if losses[worst].largest_error:
        say("  largest rounding error {} in {}", f"{losses[worst].largest_error:.3g}", worst)
    vanished = sum(loss.vanished for loss in losses.values())
    if vanished:
        say("  {} values became zero", f"{vanished:,}")
    for name, loss in losses.items():
        facts = [
            words("{} out of range", f"{loss.clipped:,}") if loss.clipped else "",
            words("{} NaN", f"{loss.nan:,}") if loss.nan else "",
            words("{} infinite before", f"{loss.infinite:,}") if loss.infinite else "",
        ]
        if any(facts):
            say("  warning: {}: {}", name, ", ".join(fact for fact in facts if fact))
    clipped = [loss.clipped for loss in losses.values() if loss.clipped]
    if clipped and clip:
        say(
            "  {} values of {} tensors were out of range and took the largest value there is",
            sum(clipped),
            len(clipped),
        )
    elif clipped:
        say("  {} values of {} tensors were out of range: infinite in fp16 and bf16, the largest value in fp8 "
            "(--clip gives fp16 its largest value)", sum(clipped), len(clipped))  # fmt: skip
