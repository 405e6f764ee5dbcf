"""Lists of hashes, as ``sha256sum`` writes them, and which of a list belong to which files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from modelsmith.errors import BadFileError, UsageError

HashList = Mapping[str, frozenset[str]]
"""Hashes by the name beside them, with the folders that were written there."""


@dataclass(frozen=True)
class Matched:
    """Which hashes belong to which file. missing: names of the list that belong to none of the files."""

    by_file: Mapping[Path, frozenset[str]]
    missing: tuple[str, ...]


def match_hashes(listed: HashList, files: Mapping[Path, str]) -> Matched:
    """Find the file of each name in the list. files: paths, and how each is called in its folder of models.

    Two names agree where one is the end of the other: ``anime/model`` belongs to no file of ``photo/``, ``model`` may
    be in any folder. Of several that agree the one with the most folders in common counts.
    """
    best: dict[Path, tuple[tuple[int, bool], set[str]]] = {}
    for name in listed:
        parts = _parts(name)
        fits = [
            ((_common(parts, path.absolute().parts), parts == own), path)
            for path, own in ((path, _parts(known)) for path, known in files.items())
            if _common(parts, own) == min(len(parts), len(own))
        ]
        for fit, path in (pair for pair in fits if pair[0] == max(fits)[0]):
            reached, names = best.get(path, (fit, set[str]()))
            if fit >= reached:
                best[path] = (fit, {name} | names if fit == reached else {name})
    found = {name for _, names in best.values() for name in names}
    by_file = {path: frozenset[str]().union(*(listed[name] for name in names)) for path, (_, names) in best.items()}
    return Matched(by_file, tuple(sorted(set(listed) - found)))


def _parts(name: str) -> tuple[str, ...]:
    """The folders and the name, of either system's spelling."""
    path = PureWindowsPath(name)
    return path.relative_to(path.anchor).parts


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """How many parts are the same, counted from the end."""
    count = 0
    while count < min(len(first), len(second)) and first[-1 - count] == second[-1 - count]:
        count += 1
    return count


def read_hash_list(path: Path) -> dict[str, frozenset[str]]:
    """A list from a file, as for :func:`parse_hash_list`. Raises BadFileError where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadFileError(path, f"the list of hashes cannot be read ({error})", "Check the file") from error
    return parse_hash_list(text, str(path))


def parse_hash_list(text: str, origin: str = "the list") -> dict[str, frozenset[str]]:
    """A list from a text as ``sha256sum`` writes it: ``HASH  NAME``, or ``NAME HASH``, one a line.

    origin: what the error names. Raises UsageError for a line that holds no hash.
    """
    found: dict[str, frozenset[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        first, _, rest = line.strip().partition(" ")
        last = line.strip().rpartition(" ")
        pairs = ((first, rest), (last[2], last[0]))
        pair = next(((digest.lower(), name) for digest, name in pairs if _is_hash(digest) and name.strip()), None)
        if pair is None:
            raise UsageError(f"line {number} of {origin} holds no hash and name", "Write HASH  NAME on each line")
        name = PureWindowsPath(pair[1].strip().removeprefix("*").rstrip(":").strip()).as_posix()
        found[name] = found.get(name, frozenset()) | {pair[0]}
    return found


def _is_hash(text: str) -> bool:
    return len(text) in (10, 12, 64) and all(letter in "0123456789abcdefABCDEF" for letter in text)
