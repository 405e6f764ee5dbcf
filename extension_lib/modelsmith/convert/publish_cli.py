"""What ``modelsmith publish`` does and how it tells of it."""

from __future__ import annotations

import argparse

from modelsmith.convert.commands_cli import print_result, write_options
from modelsmith.convert.publish import PublishOptions, PublishPlan, plan_publish, publish
from modelsmith.errors import UsageError


def run_publish(arguments: argparse.Namespace) -> int:
    """Carry out ``publish``: 0 done; errors are raised."""
    if not arguments.output.is_dir():
        raise UsageError(f"{arguments.output} is no folder", "Create it first")
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
    if arguments.dry_run:
        _print_plan(plan_publish(arguments.source, arguments.output, options))
        return 0
    with write_options(arguments, arguments.source.name) as write:
        done = publish(arguments.source, arguments.output, options, write)
    print_result(done.result)
    print(f"  AutoV2 {done.hashes.autov2}, AutoV3 {done.hashes.autov3}")
    for card in done.cards:
        print(f"  card {card}")
    return 0


def _print_plan(plan: PublishPlan) -> None:
    print(f"{plan.source} -> {plan.target}")
    print(f"  {plan.report.badge()}; bytes {plan.pruned.bytes_before:,} -> {plan.bytes_out:,}")
    for repair in plan.repairs:
        print(f"  repair: {repair}")
    for fault in plan.unsettled:
        print(f"  left to you: {fault}")
    for name, text in plan.metadata.items():
        print(f"  {name}: {text[:80]}")
    for name in plan.removed_metadata:
        print(f"  removed: {name}")
    for path in plan.existing:
        print(f"  exists already: {path}")
