"""The host's model files with what the index knows of them: for the tab's Library and for the API."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

from modelsmith.library import Library
from modelsmith.library.index import Entry
from modelsmith_webui.host import Host, ModelFile

INDEX_NAME = "library.json"


@dataclass(frozen=True)
class LibraryRow:
    """One file. ``report`` is the report as JSON, None while the file waits for its turn."""

    file: ModelFile
    report: Mapping[str, Any] | None
    sha256: str | None


class HostLibrary:
    """The index over the folders in which the host's files lie; read in the background, asked without waiting."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._index = Library(host.data_folder() / INDEX_NAME)

    def rows(self, language: Literal["en", "ja"] = "en", *, wait: bool = False) -> list[LibraryRow]:
        """All files of the host, with the sentences of their reports in ``language``.

        What is not known yet is read in the background; ``wait`` returns when that is done.
        """
        files = self._host.model_files()
        known = [self._index.entry(file.path) for file in files]  # each asks the disk whether its file has changed
        if wait or None in known:
            self._index.refresh(sorted({file.path.parent for file in files}), wait=wait)
            known = [entry or self._index.entry(file.path) for file, entry in zip(files, known, strict=True)]
        return [self._row(file, entry, language) for file, entry in zip(files, known, strict=True)]

    def _row(self, file: ModelFile, entry: Entry | None, language: Literal["en", "ja"]) -> LibraryRow:
        report = entry.to_json(language) if entry is not None else None
        return LibraryRow(file, report, file.sha256 or self._host.cached_sha256(file))

    @property
    def busy(self) -> bool:
        """Whether files are being read."""
        return self._index.busy


_lock = threading.Lock()
_libraries: WeakKeyDictionary[Host, HostLibrary] = WeakKeyDictionary()


def library_of(host: Host) -> HostLibrary:
    """The one library of a host: the tab and the API share it, and its cache file has one writer."""
    with _lock:
        if host not in _libraries:
            _libraries[host] = HostLibrary(host)
        return _libraries[host]
