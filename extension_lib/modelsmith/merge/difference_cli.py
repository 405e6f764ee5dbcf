"""``modelsmith difference``: where two models differ, block by block."""

from __future__ import annotations

import argparse
import json
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from modelsmith.speech_cli import Parser, words, write

if TYPE_CHECKING:
    from modelsmith.merge.difference import DifferenceMap


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """Add the ``difference`` command."""
    parser = subparsers.add_parser(
        "difference",
        help="compare two checkpoints block by block",
        description="How far B is from A in every block; with C, how large B - C is against A.",
    )
    parser.add_argument("a", type=Path, metavar="A", help="the first model")
    parser.add_argument("b", type=Path, metavar="B", help="the second model")
    parser.add_argument("c", type=Path, metavar="C", nargs="?", help="compare B - C with A")
    parser.add_argument("--json", action="store_true", help="give the numbers as JSON")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``difference``: exit status 0; errors are raised for the dispatcher to show."""
    from tqdm import tqdm

    from modelsmith.merge.difference import difference_map

    with tqdm(total=100, unit="%", disable=True if arguments.quiet else None, leave=False) as bar:

        def show(share: float) -> None:
            bar.update(int(share * 100) - bar.n)

        found = difference_map(arguments.a, arguments.b, arguments.c, progress=show)
    if arguments.json:
        names = [path.name for path in (arguments.a, arguments.b, arguments.c) if path is not None]
        write(json.dumps({"models": names, **found.to_json()}, ensure_ascii=False))
    else:
        write("\n".join(table(found, third=arguments.c is not None)))
    return 0


def table(found: DifferenceMap, *, third: bool) -> list[str]:
    """The lines of the readable form: a row for every block, with a bar for the relative length of the change."""
    change = "|B-C|/|A|" if third else "|B-A|/|A|"
    titles = words("block"), words("cosine"), words("largest")
    lines = [f"{_wide(titles[0], 8, left=True)} {change:>10} {_wide(titles[1], 9)} {_wide(titles[2], 10)}"]
    top = max((block.relative_l2 or 0.0 for block in found.blocks.values()), default=0.0) or 1.0
    for name, block in found.blocks.items():
        relative = "-" if block.relative_l2 is None else f"{block.relative_l2:.5f}"
        cosine = "-" if block.cosine is None else f"{block.cosine:.5f}"
        bar = "#" * round(20 * (block.relative_l2 or 0.0) / top)
        lines.append(f"{name:<8} {relative:>10} {cosine:>9} {block.largest:>10.4g} {bar}".rstrip())
    for names, what in (
        (found.missing, "{} tensors not in every model: {}"),
        (found.shapes, "{} tensors of different shapes: {}"),
        (found.not_finite, "{} tensors with values that are NaN or infinite, which were left out: {}"),
    ):
        if names:
            shown = ", ".join(names[:5])
            shown = words("{} and {} more", shown, len(names) - 5) if len(names) > 5 else shown
            lines.append(words(what, len(names), shown))
    return lines


def _wide(title: str, width: int, *, left: bool = False) -> str:
    """A title in a column; letters of Japanese take two places."""
    gap = " " * max(0, width - len(title) - sum(unicodedata.east_asian_width(letter) in "WF" for letter in title))
    return title + gap if left else gap + title
