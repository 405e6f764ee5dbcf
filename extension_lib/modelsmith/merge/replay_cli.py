"""``modelsmith replay``: repeat a merge from its recipe."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from modelsmith.speech_cli import Parser, bar, write


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:  # pyright: ignore[reportPrivateUsage]
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
    parser.add_argument(
        "--device",
        metavar="DEVICE",
        help="cpu, cuda, cuda:0 or auto (default: as the recipe says, the CPU where no GPU is here)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output where it exists")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``replay``: exit status 0 done; errors are raised for the dispatcher to show."""
    from modelsmith.merge.cli import write_notices, write_result
    from modelsmith.merge.replay import Finder, ReplayOptions, read_recipe, replay
    from modelsmith.merge.request import MergeProgress

    source: Path = arguments.recipe
    found = read_recipe(source)
    write_notices(found.notices)
    if arguments.show:
        write(json.dumps(found.recipe, ensure_ascii=False, indent=1))
        return 0
    name = str(found.recipe.get("output") or f"{source.stem}-replayed.safetensors")
    output: Path = arguments.output or source.parent / name
    finder = Finder((*arguments.models, source.parent))
    with bar(arguments.quiet, leave=True) as shown:

        def show(progress: MergeProgress) -> None:
            shown.total = progress.total_bytes
            shown.update(progress.done_bytes - shown.n)

        options = ReplayOptions(arguments.overwrite, arguments.rebuild, show, device=arguments.device)
        result = replay(found.recipe, finder, output, options)
    write_notices(result.notices)
    write_result(result)
    return 0
