"""The index: every model file of some folders with its report, kept in one JSON file, renewed in the background.

An entry holds as long as the file's size and time of change do, and those of the yaml beside it, which is evidence
too. Nothing here blocks: reading the index is one JSON file, and finding out what is new is a thread of its own.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from modelsmith import __version__
from modelsmith.files.sharded import PARTS
from modelsmith.identify.identifier import identify
from modelsmith.identify.messages import Language
from modelsmith.identify.report import Report

_log = logging.getLogger(__name__)

ENDINGS = frozenset({".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf"})
_FORMAT = 2  # of the cache file; another number, or another version of the library, and it is made anew
_MAX_DEPTH = 12
_SAVE_EVERY = 200

Stamp = tuple[int, int, int]
"""Size in bytes, and the times of change, in nanoseconds, of the file and of the yaml beside it (0 for none)."""


@dataclass(frozen=True)
class Entry:
    """One file of the library: the report as JSON, in English and with the sentences in Japanese beside."""

    path: str
    stamp: Stamp
    report: Mapping[str, object]
    japanese: Mapping[str, list[str] | str]

    def to_json(self, language: Language = "en") -> dict[str, object]:
        """The report with its sentences in a language."""
        return {**self.report, **(self.japanese if language == "ja" else {})}


def entry_of(path: Path, stamp: Stamp, report: Report) -> Entry:
    """Make an entry from a fresh report."""
    japanese: dict[str, list[str] | str] = {
        "warnings": [message.text("ja") for message in report.warnings],
        "advice": [message.text("ja") for message in report.advice],
    }
    error = report.error_text("ja")
    if error is not None:
        japanese["error"] = error
    return Entry(str(path), stamp, report.to_json("en"), japanese)


def stamp_of(path: Path) -> Stamp:
    """The stamp of a file or of a diffusers folder. Raises OSError where it is gone."""
    if path.is_dir():
        times = [(path / part).stat().st_mtime_ns for part in PARTS if (path / part).is_dir()]
        return len(times), max([path.stat().st_mtime_ns, *times]), 0
    found = path.stat()
    try:
        beside = path.with_suffix(".yaml").stat().st_mtime_ns
    except OSError:
        beside = 0
    return found.st_size, found.st_mtime_ns, beside


def find_models(folders: Iterable[Path]) -> Iterator[Path]:
    """Every model file under the folders, once; a diffusers folder counts as one model.

    Links are followed, hidden folders and folders met before are not; what cannot be listed is left out.
    """
    seen: set[tuple[int, int]] = set()
    found: set[Path] = set()
    for folder in folders:
        for path in _walk(Path(folder), seen, _MAX_DEPTH):
            if path not in found:
                found.add(path)
                yield path


def _walk(folder: Path, seen: set[tuple[int, int]], depth: int) -> Iterator[Path]:
    try:
        here = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        _log.debug("left out of the library: %s", error)
        return
    if (here.st_dev, here.st_ino) in seen:
        return
    seen.add((here.st_dev, here.st_ino))
    if any(entry.name == "model_index.json" for entry in entries):
        yield folder
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            is_folder = entry.is_dir()
        except OSError:
            continue
        if is_folder:
            if depth > 0:
                yield from _walk(Path(entry.path), seen, depth - 1)
        elif os.path.splitext(entry.name)[1].lower() in ENDINGS:
            yield Path(entry.path)


class Library:
    """The index of one cache file. Safe to use from several threads."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._loaded = False
        self._thread: threading.Thread | None = None
        self._wanted: tuple[Path, ...] | None = None
        self._stop = threading.Event()
        self._done = 0
        self._total = 0

    def entries(self) -> list[Entry]:
        """What is known now, by path; the first call reads the cache file, none looks at the model files."""
        self._load()
        with self._lock:
            return [self._entries[path] for path in sorted(self._entries)]

    def entry(self, path: Path) -> Entry | None:
        """What is known of one file, None where nothing is or where the file has changed since."""
        self._load()
        with self._lock:
            found = self._entries.get(str(path))
        try:
            return found if found is not None and found.stamp == stamp_of(path) else None
        except OSError:
            return None

    def progress(self) -> tuple[int, int]:
        """(files looked at, files in all) of the refresh that runs now; equal when none does."""
        with self._lock:
            return self._done, self._total

    @property
    def busy(self) -> bool:
        """Whether a refresh is running."""
        with self._lock:
            return self._thread is not None

    def refresh(self, folders: Iterable[Path], *, wait: bool = False) -> None:
        """Bring the index up to date in the background; ``wait`` returns only when that is done.

        A second call while one runs makes it run once more with the new folders.
        """
        self._load()
        with self._lock:
            self._wanted = tuple(Path(folder) for folder in folders)
            thread = self._thread
            if thread is None:
                thread = self._thread = threading.Thread(target=self._run, name="modelsmith-library", daemon=True)
                thread.start()
        if wait:
            thread.join()

    def close(self) -> None:
        """Stop a running refresh; what it has found so far is kept."""
        self._stop.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()
        self._stop.clear()

    # -- the thread

    def _run(self) -> None:
        while True:
            with self._lock:
                folders, self._wanted = self._wanted, None
                if folders is None or self._stop.is_set():
                    self._thread = None
                    self._done = self._total
                    return
            try:
                self._renew(folders)
            except OSError as error:  # a disk that goes away must not end in silence, nor take the thread with it
                _log.warning("the library could not be brought up to date: %s", error)

    def _renew(self, folders: tuple[Path, ...]) -> None:
        paths = list(find_models(folders))
        with self._lock:
            known = dict(self._entries)
            self._done, self._total = 0, len(paths)
        changed = set(known) != {str(path) for path in paths}
        fresh: dict[str, Entry] = {}
        unsaved = 0
        for path in paths:
            if self._stop.is_set():
                break
            entry = self._look(path, known.get(str(path)))
            if entry is not None:
                fresh[entry.path] = entry
                if entry is not known.get(entry.path):
                    unsaved += 1
                    changed = True
            with self._lock:
                self._done += 1
                if entry is not None:
                    self._entries[entry.path] = entry
            if unsaved >= _SAVE_EVERY:
                self._save()
                unsaved = 0
        if not self._stop.is_set():
            with self._lock:
                self._entries = fresh
        if changed:
            self._save()

    def _look(self, path: Path, known: Entry | None) -> Entry | None:
        try:
            stamp = stamp_of(path)
        except OSError:
            return None  # gone since the folder was listed
        if known is not None and known.stamp == stamp:
            return known
        return entry_of(path, stamp, identify(path))

    # -- the file

    def _load(self) -> None:
        with self._lock:
            if self._loaded:
                return
            self._loaded = True
            try:
                self._entries = _parse(self._cache.read_bytes())
            except FileNotFoundError:
                return
            except (OSError, ValueError, TypeError, RecursionError) as error:  # not a cache of ours, or a damaged one
                _log.info("the library is read anew: %s", error)

    def _save(self) -> None:
        """Write beside the file and rename: a reader never sees a half."""
        with self._lock:
            rows = [[e.path, e.stamp, e.report, e.japanese] for e in self._entries.values()]
        text = json.dumps({"format": _FORMAT, "version": __version__, "entries": rows}, separators=(",", ":"))
        beside = self._cache.with_name(f".{self._cache.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, self._cache)
        except OSError as error:
            _log.warning("the library's cache could not be written: %s", error)
            beside.unlink(missing_ok=True)


def _parse(data: bytes) -> dict[str, Entry]:
    found: object = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError("it is not a library")
    root = cast("dict[str, object]", found)
    if root.get("format") != _FORMAT or root.get("version") != __version__:
        return {}
    entries: dict[str, Entry] = {}
    for row in cast("list[tuple[str, list[int], dict[str, object], dict[str, list[str] | str]]]", root.get("entries")):
        path, (size, changed, beside), report, japanese = row
        entries[path] = Entry(path, (size, changed, beside), report, japanese)
    return entries
