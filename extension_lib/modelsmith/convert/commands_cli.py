"""What ``modelsmith convert`` and ``modelsmith repair`` do, and how they tell of it."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from modelsmith.convert.casts import Loss
from modelsmith.convert.folder import Journal, Outcome, Task, find_models, job_id, plan_folder, run_folder
from modelsmith.convert.jobs import ConvertJob, ConvertPlan, convert, plan_convert, repair
from modelsmith.convert.prune import Ema, PruneOptions
from modelsmith.convert.repair import Finding, RepairOptions
from modelsmith.convert.write import WriteOptions, WriteResult
from modelsmith.errors import ModelsmithError, UsageError
from modelsmith.files.sharded import PARTS

_SHOWN = 12


def run_convert(arguments: argparse.Namespace) -> int:
    """Carry out ``convert``: 0 done, 1 where a file of a folder failed; other errors are raised."""
    job = _job(arguments)
    if is_collection(arguments.source):
        return _many(arguments, f"convert {job!r}", lambda task, options: _convert_one(task, job, options), job)
    target = _target(arguments.source, arguments.output)
    if arguments.dry_run:
        print_plan(arguments.source, target, plan_convert(arguments.source, job))
        return 0
    with write_options(arguments, arguments.source.name) as options:
        result = convert(arguments.source, target, job, options)
    print_result(result)
    return 0


def _convert_one(task: Task, job: ConvertJob, options: WriteOptions) -> bool:
    print_result(convert(task.source, task.target, job, options))
    return True


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
    """Whether a path is a folder of models, not one model: no index of shards and no parts of diffusers in it."""
    if not path.is_dir():
        return False
    if any((path / part).is_dir() for part in PARTS) or any(path.glob("*.index.json")):
        return False
    return not (path / "config.json").exists()


def _target(source: Path, output: Path) -> Path:
    if output.is_dir():
        return output / ((source.name if source.is_dir() else source.stem) + ".safetensors")
    if output.suffix.lower() not in (".safetensors", ".sft"):
        raise UsageError(f"{output} does not end in .safetensors", "Outputs are written in that format only")
    return output


def _many(
    arguments: argparse.Namespace,
    description: str,
    work: Callable[[Task, WriteOptions], bool],
    job: ConvertJob | RepairOptions,
) -> int:
    root, output = Path(arguments.source), arguments.output
    if output is None:
        raise UsageError("a folder needs an output folder", "Give one with --output")
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is no folder", "A folder of models needs a folder for the outputs")
    if output.resolve() == root.resolve():
        raise UsageError(f"{output} is the folder itself", "Choose another folder; the originals are never changed")
    journal = Journal(output, job_id(description))
    tasks = plan_folder(find_models(root, within=output), root, output, journal)
    if arguments.dry_run:
        return _plan_many(tasks, job)
    output.mkdir(parents=True, exist_ok=True)

    def one(task: Task) -> bool:
        with write_options(arguments, task.source.name) as options:
            return work(task, options)

    outcomes = run_folder(tasks, journal, one, _tell)
    failed = sum(outcome.error is not None for outcome in outcomes)
    skipped = sum(outcome.skipped for outcome in outcomes)
    print(f"{len(outcomes) - failed - skipped} done, {skipped} skipped, {failed} failed")
    return 1 if failed else 0


def _tell(outcome: Outcome) -> None:
    if outcome.error is not None:
        print(f"failed: {outcome.error}", file=sys.stderr)
    elif outcome.task.done:
        print(f"{outcome.task.source}: done before")


def _plan_many(tasks: list[Task], job: ConvertJob | RepairOptions) -> int:
    failed = 0
    for task in tasks:
        try:
            if task.done:
                print(f"{task.source}: done before")
            elif isinstance(job, ConvertJob):
                print_plan(task.source, task.target, plan_convert(task.source, job))
            else:
                print_findings(task.source, repair(task.source, None, job)[0], mended=False)
        except ModelsmithError as error:
            failed += 1
            print(f"would fail: {error}", file=sys.stderr)
    return 1 if failed else 0


@contextlib.contextmanager
def write_options(arguments: argparse.Namespace, title: str) -> Generator[WriteOptions, None, None]:
    """Options for writing that show a progress bar on a terminal."""
    with tqdm(
        desc=title[:40], unit="B", unit_scale=True, disable=True if arguments.quiet else None, leave=False
    ) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield WriteOptions(overwrite=bool(arguments.overwrite), progress=show)


def run_repair(arguments: argparse.Namespace) -> int:
    """Carry out ``repair``: 0 done (or nothing to do), 1 where a file of a folder failed; other errors are raised."""
    options = RepairOptions(arguments.prediction, arguments.complete_from)
    if is_collection(arguments.source):
        return _many(arguments, f"repair {options!r}", lambda task, write: _repair_one(task, options, write), options)
    target = _target(arguments.source, arguments.output) if arguments.output and not arguments.dry_run else None
    with write_options(arguments, arguments.source.name) as write:
        findings, result = repair(arguments.source, target, options, write)
    print_findings(arguments.source, findings, mended=result is not None)
    if result is not None:
        print_result(result, notes=False)
    return 0


def _repair_one(task: Task, options: RepairOptions, write: WriteOptions) -> bool:
    findings, result = repair(task.source, task.target, options, write)
    print_findings(task.source, findings, mended=result is not None)
    return result is not None


def print_findings(source: Path, findings: list[Finding], *, mended: bool) -> None:
    """Each fault with its evidence and what is, or would be, done."""
    if not findings:
        print(f"{source}: nothing to repair")
        return
    print(f"{source}:")
    for finding in findings:
        verb: Literal["done", "would be"] = "done" if mended else "would be"
        remedy = f"{verb}: {finding.remedy}" if finding.remedy else "left to you"
        print(f"  {finding.what}\n    evidence: {finding.evidence}\n    {remedy}")


def print_plan(source: Path, target: Path, plan: ConvertPlan) -> None:
    """What a conversion would give."""
    print(f"{source} -> {target}")
    print(f"  tensors {plan.tensors_in} -> {plan.tensors_out}, bytes {plan.bytes_in:,} -> {plan.bytes_out:,}")
    if plan.quantized:
        print(f"  quantised: {', '.join(plan.quantized)}")
    if plan.pruned is not None:
        dropped = ", ".join(f"{number} {kind}" for kind, number in plan.pruned.dropped.items())
        print(f"  pruned: {dropped or 'nothing'}")
    for note in plan.notes:
        print(f"  note: {note}")


def print_result(result: WriteResult, *, notes: bool = True) -> None:
    """What was written, and what the change of precision cost."""
    print(f"{result.path}: {result.bytes_in:,} -> {result.bytes_out:,} bytes in {result.seconds:.1f} s")
    print(f"  SHA-256 {result.sha256}")
    for note in result.notes if notes else ():
        print(f"  note: {note}")
    print_losses(result.losses)


def print_losses(losses: dict[str, Loss]) -> None:
    """The largest error, and by name every tensor that overflowed or was not finite."""
    if not losses:
        return
    worst = max(losses, key=lambda name: losses[name].largest_error)
    if losses[worst].largest_error:
        print(f"  largest rounding error {losses[worst].largest_error:.3g} in {worst}")
    vanished = sum(loss.vanished for loss in losses.values())
    if vanished:
        print(f"  {vanished:,} values became zero")
    bad = [(name, loss) for name, loss in losses.items() if loss.clipped or loss.nan or loss.infinite]
    for name, loss in bad[:_SHOWN]:
        told = ((loss.clipped, "out of range"), (loss.nan, "NaN"), (loss.infinite, "infinite before"))
        print(f"  warning: {name}: {', '.join(f'{number:,} {what}' for number, what in told if number)}")
    if len(bad) > _SHOWN:
        print(f"  warning: and {len(bad) - _SHOWN} more tensors")
