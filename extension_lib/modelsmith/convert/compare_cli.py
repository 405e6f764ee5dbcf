"""What ``modelsmith compare`` and ``modelsmith verify`` do and how they tell of it."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from modelsmith.convert.commands_cli import is_collection
from modelsmith.convert.compare import Checked, Comparison, Difference, check_file, compare
from modelsmith.convert.folder import find_models
from modelsmith.convert.hash_list import HashList, Matched, match_hashes, read_hash_list
from modelsmith.speech_cli import say, told, words, write

_WORDS = {
    "equal": "equal",
    "rounded": "equal after rounding",
    "different": "different",
    "shape": "of another shape",
    "only_a": "in the first only",
    "only_b": "in the second only",
}


def run_compare(arguments: argparse.Namespace) -> int:
    """Carry out ``compare``: 0 equal (after rounding), 1 different; errors are raised."""
    found = compare(arguments.first, arguments.second)
    if arguments.json:
        shown = [vars(difference) for difference in found.differences if arguments.all or difference.verdict != "equal"]
        write(json.dumps({"same": found.same, "counts": found.counts(), "tensors": shown}, ensure_ascii=False))
    else:
        _print(found, everything=arguments.all)
    return 0 if found.same else 1


def _print(found: Comparison, *, everything: bool) -> None:
    for difference in found.differences:
        if everything or difference.verdict not in ("equal", "rounded"):
            write(_line(difference))
    write(", ".join(f"{number} {words(_WORDS[verdict])}" for verdict, number in found.counts().items()))


def _line(difference: Difference) -> str:
    facts = [words("{} and {}", *difference.detail.split(" and "))] if difference.detail else []
    if difference.verdict in ("rounded", "different"):
        facts.append(words("largest difference {}", f"{difference.largest:.3g}"))
        facts.append(words("{} % of the values", f"{100 * difference.share:.3g}"))
    verdict = words(_WORDS[difference.verdict])
    return f"{difference.name}: {verdict}" + (f" ({', '.join(facts)})" if facts else "")


def run_verify(arguments: argparse.Namespace) -> int:
    """Carry out ``verify``: 0 all sound, 1 where one is not or one of the list is not there; a missing folder or list
    is raised."""
    lists = read_hash_list(arguments.hashes) if arguments.hashes else None
    files: list[Path] = []
    whole = False
    for path in arguments.paths:
        whole = whole or is_collection(path)
        files += find_models(path) if is_collection(path) else [path]
    matched = _matched(lists or {}, files)
    checked: list[dict[str, object]] = []
    bad = 0
    for path in files:
        expected = matched.by_file.get(path)
        result = check_file(path, values=not arguments.no_values, expected=expected)
        bad += bool(result.problems)
        checked.append({"path": str(path), "problems": list(result.problems), "sha256": result.sha256})
        if not arguments.json:
            _print_checked(result, listed=lists is None or expected is not None)
    missing = matched.missing if whole else ()
    if arguments.json:
        write(json.dumps(checked + [{"path": name, "problems": ["missing"], "sha256": None} for name in missing],
                         ensure_ascii=False))  # fmt: skip
    else:
        for name in missing:
            say("{}: in the list, but not there", name)
        say("{} checked, {} bad", len(files), bad)
    return 1 if bad or missing else 0


def _matched(listed: HashList, files: list[Path]) -> Matched:
    """The hashes of each file, which the list may call by its path below the folder of them all."""
    try:
        folder = os.path.commonpath([path.absolute().parent for path in files])
    except ValueError:  # no files, or on different drives
        return match_hashes(listed, {path: path.name for path in files})
    return match_hashes(listed, {path: os.path.relpath(path.absolute(), folder) for path in files})


def _print_checked(result: Checked, *, listed: bool) -> None:
    if result.problems:
        write(f"{result.path}: " + "; ".join(told(problem) for problem in result.problems))
    elif listed:
        say("{}: sound", result.path)
    else:
        say("{}: sound, but not in the list", result.path)
