"""The rows of the library: every model file of the host with what is known of it."""

from __future__ import annotations

from dataclasses import dataclass

from modelsmith.identify import Report, identify
from modelsmith_webui.host import Host, ModelFile
from modelsmith_webui.tab.files import label_of


@dataclass(frozen=True)
class LibraryRow:
    """One file. ``report`` is None while it waits for its turn."""

    label: str
    file: ModelFile
    report: Report | None
    sha256: str | None


class LibraryRows:
    def __init__(self, host: Host) -> None:
        self.host = host

    def rows(self) -> list[LibraryRow]:
        return [
            LibraryRow(label_of(file), file, identify(file.path), self.host.cached_sha256(file))
            for file in self.host.model_files()
        ]
