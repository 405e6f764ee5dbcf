"""The rows of the library: every model file of the host with what is known of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from modelsmith.identify import Report, identify
from modelsmith_webui.host import Host, ModelFile
from modelsmith_webui.tab.files import label_of

Stamp = tuple[int, int]


@dataclass(frozen=True)
class LibraryRow:
    """One file. ``report`` is None while it waits for its turn."""

    label: str
    file: ModelFile
    report: Report | None
    sha256: str | None


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


class LibraryRows:
    """Reads headers in the background; a question is answered at once with what is known."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[Stamp, Report]] = {}
        self._reading: threading.Thread | None = None

    def rows(self) -> list[LibraryRow]:
        """All files; those not read since they changed have no report, and are being read now."""
        files = self.host.model_files()
        rows = [LibraryRow(label_of(file), file, self._report(file.path), self._sha256(file)) for file in files]
        missing = [row.file.path for row in rows if row.report is None]
        if missing:
            self._read(missing)
        return rows

    def _sha256(self, file: ModelFile) -> str | None:
        return file.sha256 or self.host.cached_sha256(file)

    def _report(self, path: Path) -> Report | None:
        with self._lock:
            known = self._known.get(path)
        return known[1] if known is not None and known[0] == _stamp(path) else None

    def _read(self, paths: list[Path]) -> None:
        with self._lock:
            if self._reading is not None and self._reading.is_alive():
                return
            self._reading = threading.Thread(target=self._work, args=(paths,), daemon=True, name="modelsmith-library")
            self._reading.start()

    def _work(self, paths: list[Path]) -> None:
        for path in paths:
            stamp = _stamp(path)
            if stamp is None:
                continue
            report = identify(path)
            with self._lock:
                self._known[path] = (stamp, report)

    def wait(self) -> None:
        """Read what is missing, and return when that is done."""
        self.rows()
        with self._lock:
            reading = self._reading
        if reading is not None:
            reading.join()
