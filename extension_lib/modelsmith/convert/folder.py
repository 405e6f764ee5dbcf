"""The same job on every model of a folder, resumable: what is done is written down and never done twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from modelsmith.errors import BadFileError, Cancelled, ModelsmithError, UsageError
from modelsmith.files.names import made_name, output_path
from modelsmith.files.sharded import PARTS

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


def is_model_folder(path: Path) -> bool:
    """Whether a folder is one model: the parts of diffusers, or shards with their index, or one part with its
    configuration."""
    if not path.is_dir():
        return False
    if any((path / part).is_dir() for part in PARTS) or any(path.glob("*.index.json")):
        return True
    return (path / "config.json").exists()


def find_models(folder: Path, *, within: Path | None = None) -> list[Path]:
    """All models under a folder, sorted: files, and folders that are one model.

    Hidden ones and those in the folder ``within`` are left out. Raises UsageError where it is no folder.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", "Choose a folder")
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        found += [here / name for name in folders if not name.startswith(".") and is_model_folder(here / name)]
        folders[:] = [name for name in folders if not name.startswith(".") and here / name not in found]
        found += [here / name for name in files if not name.startswith(".") and _is_model(here / name)]
    if within is not None and within != folder:
        found = [path for path in found if not path.is_relative_to(within)]
    return sorted(found)


def _is_model(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS and path.is_file()


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
        entry = self._entry(source)
        if entry is None:
            return False
        if entry.get("target") is None:  # nothing was to be written
            return True
        return entry.get("target") == str(target.resolve()) and entry.get("made") == _stamp(target)

    def target_of(self, source: Path) -> Path | None:
        """Where this very file was written to by this job; None where it was not."""
        entry = self._entry(source)
        target = entry.get("target") if entry is not None else None
        return Path(str(target)) if target is not None else None

    def _entry(self, source: Path) -> dict[str, object] | None:
        entry = self._done.get(str(source.resolve()))
        return entry if entry is not None and entry.get("stamp") == _stamp(source) else None

    def note(self, source: Path, target: Path | None, made: Path | None = None) -> None:
        """Write down that a file was done, to the disk before the next one begins. Raises UsageError.

        target: None where nothing was to be written. made: the whole file while it has not got its name yet, so that
        no moment is left at which it has its name and is not written down.
        """
        entry = {"job": self._job, "source": str(source.resolve()), "stamp": _stamp(source)}
        if target is not None:
            entry.update(target=str(target.resolve()), made=_stamp(made or target))
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

    def noting(self, task: Task) -> Callable[[Path], None]:
        """What writes a task down when its file is whole, for ``WriteOptions.finished``."""
        return lambda temporary: self.note(task.source, task.target, temporary)

    def _ends_with_newline(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


def _stamp(path: Path) -> list[int] | None:
    """Size and time of a file; of a folder all its bytes and the latest time in it."""
    try:
        found = path.stat()
        if not path.is_dir():
            return [found.st_size, found.st_mtime_ns]
        inner = [one.stat() for one in path.rglob("*") if one.is_file()]
    except OSError:
        return None
    return [sum(one.st_size for one in inner), max((one.st_mtime_ns for one in inner), default=0)]


def plan_folder(
    sources: Iterable[Path],
    root: Path,
    output: Path,
    journal: Journal,
    named: Callable[[Path], str] | None = None,
) -> list[Task]:
    """Where each file goes: the same place under ``output``. Two that would meet there keep their old ending too.

    What was done before keeps its place, whatever came to the folder since. named: gives the name without ending.
    """
    known = list(sources)
    places = {source: journal.target_of(source) for source in known}
    taken = {str(place).lower() for place in places.values() if place is not None}
    tasks: list[Task] = []
    for source in known:
        target = _place(source, root, output, named)
        earlier = places[source]
        if earlier is not None and earlier.parent == target.parent.resolve():
            target = target.with_name(earlier.name)
        elif str(target.resolve()).lower() in taken:
            target = _free_place(target, source, taken)
        taken.add(str(target.resolve()).lower())
        tasks.append(Task(source, target, journal.is_done(source, target)))
    return tasks


def _place(source: Path, root: Path, output: Path, named: Callable[[Path], str] | None) -> Path:
    stem = source.name if source.is_dir() else source.stem
    return (
        output / source.relative_to(root).parent / f"{named(source) if named is not None else _kept(stem)}.safetensors"
    )


def _kept(stem: str) -> str:
    """The name as it is, or the nearest that a new file may have."""
    try:
        return output_path(Path(), f"{stem}.safetensors").stem
    except UsageError:
        return made_name(stem)


def _free_place(target: Path, source: Path, taken: Container[str]) -> Path:
    ending, number = source.suffix.lstrip(".").lower() or "2", 2
    place = target.with_name(f"{target.stem}-{ending}.safetensors")
    while str(place.resolve()).lower() in taken:
        place = target.with_name(f"{target.stem}-{number}.safetensors")
        number += 1
    return place


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
        if not wrote or not journal.is_done(task.source, task.target):
            journal.note(task.source, task.target if wrote else None)
        return Outcome(task, skipped=not wrote)
    except Cancelled:
        raise
    except ModelsmithError as error:
        return Outcome(task, error)
    except OSError as error:
        return Outcome(task, UsageError(f"{task.target.parent} cannot be made ({error.strerror})", "Choose another"))
