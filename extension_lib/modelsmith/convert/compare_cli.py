"""What ``modelsmith compare`` and ``modelsmith verify`` do and how they tell of it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from modelsmith.convert.commands_cli import is_collection
from modelsmith.convert.compare import Comparison, check_file, compare, read_hash_list
from modelsmith.convert.folder import find_models

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
        print(json.dumps({"same": found.same, "counts": found.counts(), "tensors": shown}, ensure_ascii=False))
    else:
        _print(found, everything=arguments.all)
    return 0 if found.same else 1


def _print(found: Comparison, *, everything: bool) -> None:
    for difference in found.differences:
        if difference.verdict in ("equal", "rounded") and not everything:
            continue
        facts = [difference.detail] if difference.detail else []
        if difference.verdict in ("rounded", "different"):
            facts.append(f"largest difference {difference.largest:.3g}")
            facts.append(f"{100 * difference.share:.3g} % of the values")
        told = f" ({', '.join(facts)})" if facts else ""
        print(f"{difference.name}: {_WORDS[difference.verdict]}{told}")
    print(", ".join(f"{number} {_WORDS[verdict]}" for verdict, number in found.counts().items()))


def run_verify(arguments: argparse.Namespace) -> int:
    """Carry out ``verify``: 0 all sound, 1 where one is not; a missing folder or list is raised."""
    lists = read_hash_list(arguments.hashes) if arguments.hashes else None
    files: list[Path] = []
    for path in arguments.paths:
        files += find_models(path) if is_collection(path) else [path]
    checked: list[dict[str, object]] = []
    bad = 0
    for path in files:
        expected = lists.get(path.name) if lists is not None else None
        result = check_file(path, values=not arguments.no_values, expected=expected)
        missing = lists is not None and expected is None
        bad += bool(result.problems)
        checked.append({"path": str(path), "problems": list(result.problems), "sha256": result.sha256})
        if not arguments.json:
            state = "; ".join(result.problems) or ("sound, but not in the list" if missing else "sound")
            print(f"{path}: {state}")
    if arguments.json:
        print(json.dumps(checked, ensure_ascii=False))
    else:
        print(f"{len(files)} checked, {bad} bad")
    return 1 if bad else 0
