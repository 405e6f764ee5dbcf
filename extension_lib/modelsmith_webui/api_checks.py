"""What the routes that write nothing do: two models compared, and models checked for damage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modelsmith.convert.compare import check_file, compare
from modelsmith.convert.hash_list import match_hashes, parse_hash_list
from modelsmith.errors import Cancelled
from modelsmith.files.header import read_header
from modelsmith.japanese import Said
from modelsmith_webui.api_language import spoken
from modelsmith_webui.background import Work
from modelsmith_webui.host import Host, JobControl, ModelFile, listed_paths

Find = Callable[[list[ModelFile], str], ModelFile]


def compare_work(host: Host, find: Find, body: Any) -> Work:
    """The comparison of two models, found at once. Raises UnknownNameError."""
    files = host.model_files()
    first, second = find(files, body.first), find(files, body.second)

    def work(control: JobControl) -> dict[str, Any]:
        total = len(set(read_header(first.path).tensors) | set(read_header(second.path).tensors))
        seen = 0

        def asked() -> bool:
            nonlocal seen
            seen += 1
            control.report(
                min(1.0, seen / max(1, total)),
                Said(f"{seen:,} of {total:,} tensors", f"テンソル {total:,} 個中 {seen:,} 個"),
            )
            return control.cancelled()

        found = compare(first.path, second.path, asked)
        unequal = [one for one in found.differences if one.verdict != "equal"]
        tensors = [
            {"name": one.name, "verdict": one.verdict, "largest": one.largest, "share": one.share, "detail": one.detail}
            for one in unequal
        ]
        return {"same": found.same, "counts": found.counts(), "tensors": tensors}

    return work


def verify_work(host: Host, find: Find, body: Any) -> Work:
    """The check of the named models, or of all. Raises UnknownNameError, UsageError for a line that is no hash."""
    known = host.model_files()
    files = [find(known, name) for name in body.names] if body.names else known
    listed = match_hashes(parse_hash_list(body.hashes, "hashes"), listed_paths(files))

    def work(control: JobControl) -> dict[str, Any]:
        answers: list[dict[str, Any]] = []
        for number, file in enumerate(files):
            if control.cancelled():
                raise Cancelled
            control.report(number / len(files), file.path.name)
            told = host.cached_sha256(file) if body.known_hashes else None
            expected = listed.by_file.get(file.path, frozenset({told} if told else ()))
            found = check_file(
                file.path, values=body.read_values, expected=expected or None, cancelled=control.cancelled
            )
            answers.append(
                {
                    "name": file.name,
                    "problems": [spoken(problem) for problem in found.problems],
                    "sha256": found.sha256,
                    "hash_checked": bool(expected),
                }
            )
        bad = sum(bool(one["problems"]) for one in answers)
        return {"bad": bad, "files": answers, "not_found": list(listed.missing)}

    return work
