"""What ``modelsmith publish`` does and how it tells of it."""

from __future__ import annotations

import argparse
from dataclasses import replace

from modelsmith.convert.commands_cli import (
    FolderWork,
    is_collection,
    print_dropped,
    print_notes,
    print_result,
    run_many,
    write_options,
)
from modelsmith.convert.folder import Task
from modelsmith.convert.publish import (
    Published,
    PublishOptions,
    PublishPlan,
    companions,
    plan_publish,
    publish,
    suggest_name,
)
from modelsmith.convert.write import WriteOptions
from modelsmith.errors import UsageError
from modelsmith.identify.cli import badge
from modelsmith.speech_cli import say, told, words, write


def run_publish(arguments: argparse.Namespace) -> int:
    """Carry out ``publish``: 0 done, 1 where a file of a folder failed; other errors are raised."""
    options = PublishOptions(
        name=arguments.name,
        title=arguments.title,
        author=arguments.author,
        license=arguments.license,
        resolution=arguments.resolution,
        thumbnail=arguments.thumbnail,
        precision=arguments.precision,
        remove_private=arguments.remove_private,
        repair=not arguments.no_repair,
    )
    if is_collection(arguments.source):
        return run_many(arguments, _publish_folder(options))
    if not arguments.output.is_dir():
        raise UsageError(f"{arguments.output} is no folder", "Create it first")
    if arguments.dry_run:
        _print_plan(plan_publish(arguments.source, arguments.output, options))
        return 0
    with write_options(arguments, arguments.source.name) as write_with:
        _print(publish(arguments.source, arguments.output, options, write_with))
    return 0


def _publish_folder(options: PublishOptions) -> FolderWork:
    """Every model under a name made from its own. Raises UsageError for options that only one model can have."""
    if options.name or options.title or options.thumbnail:
        raise UsageError("--name, --title and --thumbnail are for one model", "Leave them out for a folder")

    def named(task: Task) -> PublishOptions:
        return replace(options, name=task.target.name)

    def plan(task: Task) -> tuple[int, int]:
        found = plan_publish(task.source, task.target.parent, named(task))
        _print_plan(found)
        return found.pruned.bytes_before, found.bytes_out

    def work(task: Task, writing: WriteOptions) -> bool:
        _print(publish(task.source, task.target.parent, named(task), writing))
        return True

    def settled(task: Task) -> bool:
        return all(path.exists() for path in companions(task.target))

    return FolderWork(f"publish {options!r}", plan, work, suggest_name, settled)


def _print(done: Published) -> None:
    print_result(done.result)
    write(f"  AutoV2 {done.hashes.autov2}, AutoV3 {done.hashes.autov3}")
    for card in done.cards:
        say("  card {}", card)


def _print_plan(plan: PublishPlan) -> None:
    write(f"{plan.source} -> {plan.target}")
    say("  {}; bytes {} -> {}", badge(plan.report), f"{plan.pruned.bytes_before:,}", f"{plan.bytes_out:,}")
    print_dropped(plan.pruned.dropped)
    for repair in plan.repairs:
        say("  repair: {}", told(repair))
    for fault in plan.unsettled:
        say("  left to you: {}", told(fault))
    print_notes(plan.notes)
    for name, text in plan.metadata.items():
        write(f"  {name}: {text[:80]}")
    for name in plan.removed_metadata:
        say("  removed: {}", name)
    for path in plan.existing:
        say("  exists already: {}", path)
    write(words("  cards and hash: {}", ", ".join(path.name for path in companions(plan.target))))
