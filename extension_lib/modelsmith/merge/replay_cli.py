"""``modelsmith replay``: repeat a merge from its recipe."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """Add the ``replay`` command."""
    parser = subparsers.add_parser(
        "replay",
        help="repeat a merge from its recipe",
        description="Repeat a merge from the recipe in a merged file (of Modelsmith, A1111, supermerger or sd-mecha) "
        "or in a file of its own (JSON, .mecha). Inputs are found by their hash, whatever they are called now.",
    )
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="a merged file or a recipe file")
    parser.add_argument(
        "--models", type=Path, nargs="+", default=[], metavar="DIR", help="folders that hold the inputs"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="the new file (default: the recipe's name)")
    parser.add_argument("--rebuild", action="store_true", help="make missing inputs that were merges themselves")
    parser.add_argument("--show", action="store_true", help="print the recipe as JSON and stop")
    parser.add_argument("--overwrite", action="store_true", help="replace the output where it exists")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``replay``: exit status 0 done; errors are raised for the dispatcher to show."""
    from tqdm import tqdm

    from modelsmith.merge.replay import Finder, ReplayOptions, read_recipe, replay
    from modelsmith.merge.request import MergeProgress

    source: Path = arguments.recipe
    found = read_recipe(source)
    for told in found.notices:
        print(f"{told.level}: {told.text}", file=sys.stderr)
    if arguments.show:
        print(json.dumps(found.recipe, ensure_ascii=False, indent=1))
        return 0
    name = str(found.recipe.get("output") or f"{source.stem}-replayed.safetensors")
    output: Path = arguments.output or source.parent / name
    finder = Finder((*arguments.models, source.parent))
    with tqdm(total=0, unit="B", unit_scale=True, disable=arguments.quiet or None) as bar:

        def show(progress: MergeProgress) -> None:
            bar.total = progress.total_bytes
            bar.update(progress.done_bytes - bar.n)

        options = ReplayOptions(arguments.overwrite, arguments.rebuild, show)
        result = replay(found.recipe, finder, output, options)
    for told in result.notices:
        print(f"{told.level}: {told.text}", file=sys.stderr)
    print(f"{result.path} ({result.bytes:,} bytes, {result.seconds:.1f} s)")
    if result.sha256:
        print(f"sha256 {result.sha256}")
    return 0
