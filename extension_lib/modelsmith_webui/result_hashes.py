"""The hashes of merged files that could not be computed while they were written: read in the background afterwards.

The hash of a file begins with its header, and the header of a merge holds the hashes of its models. Where those were
not known beforehand they are complete only with the last byte, so that a merge cannot hash its own result in passing.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelsmith.errors import BadFileError, UnknownNameError
from modelsmith_webui.history import Entry, history_of
from modelsmith_webui.host import Host, ModelFile

logger = logging.getLogger(__name__)

# A webui that loads the new model hashes it itself; before this has passed, nothing is read.
HOST_FIRST_SECONDS = 20.0
BLOCK_BYTES = 4 << 20
# After each block the reader rests this much of the time that the block took, so that what else runs has the disk.
REST = 1.0


class ResultHashes:
    """One reader for a host, at work only while something is wanted of it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = threading.Lock()
        # Entries by id, in the order in which they are read, with the file where it is known.
        self._wanted: dict[str, Path | None] = {}
        self._reader: threading.Thread | None = None

    def want(self, entries: Iterable[Entry]) -> None:
        """Find out the hashes of those that have none and whose file is still there."""
        self._add({one.id: None for one in entries if lacks_hash(one)})

    def made(self, entry: Entry, path: Path) -> None:
        """Find out the hash of a file that was just written, which the host's list may not have yet."""
        if lacks_hash(entry):
            self._add({entry.id: path})

    def _add(self, wanted: Mapping[str, Path | None]) -> None:
        with self._lock:
            self._wanted = {**wanted, **self._wanted}
            if self._wanted and self._reader is None:
                # A daemon: a webui that is being closed does not wait for it, and the next start asks again.
                self._reader = threading.Thread(target=self._serve, name="modelsmith-hashes", daemon=True)
                self._reader.start()

    def told(self, entries: Sequence[Entry]) -> tuple[list[Entry], frozenset[str]]:
        """The entries as they are now, after those without a hash were asked for, and which of them are being read."""
        self.want(entries)
        waiting = self.waiting
        # Read again after the question: what was learnt in between is among the entries, or still waiting.
        known = {one.id: one for one in history_of(self._host).entries()}
        return [known.get(one.id, one) for one in entries], waiting

    @property
    def waiting(self) -> frozenset[str]:
        """The entries whose hash is being read or will be."""
        with self._lock:
            return frozenset(self._wanted)

    def _serve(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._reader = None
                    return
                identifier, path = next(iter(self._wanted.items()))
            try:
                self._find_out(identifier, path)
            except (OSError, BadFileError, UnknownNameError) as error:
                logger.info("the hash of a merge is not known: %s", error)
            finally:
                with self._lock:
                    del self._wanted[identifier]

    def _find_out(self, identifier: str, path: Path | None) -> None:
        history = history_of(self._host)
        found = result_file(self._host, history.entry(identifier))
        file = ModelFile(path.name, path, "checkpoint") if found is None and path is not None else found
        if file is None:
            return
        if "webui" in self._host.capabilities:
            time.sleep(max(0.0, HOST_FIRST_SECONDS - (time.time() - file.path.stat().st_mtime)))
        digest = self._host.cached_sha256(file) or self._read(file)
        if digest is not None:
            history.learn(identifier, digest)
            self._host.keep_sha256(file.path, digest)

    def _read(self, file: ModelFile) -> str | None:
        """The file's hash; None where it changed meanwhile."""
        before, digest = _stamp(file.path), hashlib.sha256()
        with file.path.open("rb") as source:
            while True:
                begun = time.monotonic()
                block = source.read(BLOCK_BYTES)
                if not block:
                    break
                digest.update(block)
                time.sleep((time.monotonic() - begun) * REST)
        return digest.hexdigest() if _stamp(file.path) == before else None


def lacks_hash(entry: Entry) -> bool:
    """Whether an entry has a file, but not its hash."""
    return entry.kind == "merge" and entry.sha256 is None


def result_file(host: Host, entry: Entry) -> ModelFile | None:
    """The file that a merge made, under whatever name it has now; None where it is not in the host's list any more.

    It is told by its size and by the recipe in its header.
    """
    files = sorted(host.checkpoints(), key=lambda file: file.path.name != entry.file)
    return next((file for file in files if is_result(file.path, entry)), None)


def is_result(path: Path, entry: Entry) -> bool:
    """Whether a file is what a merge made."""
    return _size(path) == entry.size and _recipe(path) == entry.recipe


def _recipe(path: Path) -> Mapping[str, Any] | None:
    from modelsmith.merge.replay import read_recipe

    try:
        return read_recipe(path).recipe
    except BadFileError:
        return None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


_readers: weakref.WeakKeyDictionary[Host, ResultHashes] = weakref.WeakKeyDictionary()
_guard = threading.Lock()


def result_hashes_of(host: Host) -> ResultHashes:
    """The one reader of a host."""
    with _guard:
        if host not in _readers:
            _readers[host] = ResultHashes(host)
        return _readers[host]
