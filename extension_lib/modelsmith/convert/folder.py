"""The same job on every model of a folder, resumable: what is done is written down and never done twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from modelsmith.errors import BadFileError, Cancelled, ModelsmithError, UsageError

ENDINGS = frozenset({".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".gguf"})
JOURNAL = ".modelsmith-journal.jsonl"


@dataclass(frozen=True)
class Task:
    """One file to be done. done: the journal says that it was, and its output is still there."""

    source: Path
    target: Path
    done: bool


@dataclass(frozen=True)
class Outcome:
    """What became of one task; error is None where it went well, skipped where nothing was to do."""

    task: Task
    error: ModelsmithError | None = None
    skipped: bool = False


def find_models(folder: Path, *, within: Path | None = None) -> list[Path]:
    """All model files under a folder, sorted; hidden ones and those in the folder ``within`` are left out.

    Raises UsageError where it is no folder.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", "Choose a folder")
    found: list[Path] = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in ENDINGS and not hidden and path.is_file():
            if within is not None and within != folder and path.is_relative_to(within):
                continue
            found.append(path)
    return found


def job_id(description: str) -> str:
    """A short name for a job's options: another job does the files again."""
    return hashlib.sha256(description.encode("utf-8")).hexdigest()[:16]


class Journal:
    """What was done, one JSON object a line, in the output folder. A line that was cut off by a crash is ignored."""

    def __init__(self, folder: Path, job: str) -> None:
        self.path = folder / JOURNAL
        self._job = job
        self._done: dict[str, dict[str, object]] = {}
        self._read()

    def _read(self) -> None:
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            raise BadFileError(self.path, f"the journal cannot be read ({error.strerror})", "Remove it") from error
        for line in lines:
            try:
                entry: object = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                known = cast("dict[str, object]", entry)
                if known.get("job") == self._job:
                    self._done[str(known.get("source"))] = known

    def is_done(self, source: Path, target: Path) -> bool:
        """Whether this very file was done to this target, and the target is as it was left."""
        entry = self._done.get(str(source.resolve()))
        if entry is None or entry.get("stamp") != _stamp(source) or entry.get("target") != str(target.resolve()):
            return False
        return entry.get("made") == _stamp(target)

    def note(self, source: Path, target: Path | None) -> None:
        """Write down that a file was done, to the disk before the next one begins. Raises UsageError."""
        entry = {"job": self._job, "source": str(source.resolve()), "stamp": _stamp(source)}
        if target is not None:
            entry.update(target=str(target.resolve()), made=_stamp(target))
        try:
            with self.path.open("ab") as file:
                if file.tell() and not self._ends_with_newline():
                    file.write(b"\n")
                file.write(json.dumps(entry, ensure_ascii=True).encode("ascii") + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written ({error.strerror})", "Choose another folder") from error
        self._done[str(source.resolve())] = dict(entry)

    def _ends_with_newline(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


def _stamp(path: Path) -> list[int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def plan_folder(sources: Iterable[Path], root: Path, output: Path, journal: Journal) -> list[Task]:
    """Where each file goes: the same place under ``output``. Two that would meet there keep their old ending too."""
    tasks: list[Task] = []
    taken: set[str] = set()
    for source in sources:
        relative = source.relative_to(root)
        target = output / relative.with_suffix(".safetensors")
        if str(target).lower() in taken:
            ending = relative.suffix.lstrip(".").lower()
            target = target.with_name(f"{relative.stem}-{ending}.safetensors")
        number = 2
        while str(target).lower() in taken:
            target = target.with_name(f"{relative.stem}-{number}.safetensors")
            number += 1
        taken.add(str(target).lower())
        tasks.append(Task(source, target, journal.is_done(source, target)))
    return tasks


def run_folder(
    tasks: Iterable[Task],
    journal: Journal,
    work: Callable[[Task], bool],
    told: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Do every task that is not done yet. One that fails is reported and the others go on; Cancelled ends the run.

    work: does one task and returns whether it wrote the target.
    """
    outcomes: list[Outcome] = []
    for task in tasks:
        outcome = Outcome(task, skipped=True) if task.done else _do(task, journal, work)
        outcomes.append(outcome)
        if told is not None:
            told(outcome)
    return outcomes


def _do(task: Task, journal: Journal, work: Callable[[Task], bool]) -> Outcome:
    try:
        task.target.parent.mkdir(parents=True, exist_ok=True)
        wrote = work(task)
        if wrote:
            journal.note(task.source, task.target)
        return Outcome(task, skipped=not wrote)
    except Cancelled:
        raise
    except ModelsmithError as error:
        return Outcome(task, error)
    except OSError as error:
        return Outcome(task, UsageError(f"{task.target.parent} cannot be made ({error.strerror})", "Choose another"))
