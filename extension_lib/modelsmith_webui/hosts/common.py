"""What all webui adapters share: from a checkpoint's path to the decision, remembered while nothing changed."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from modelsmith.decision import Decision, Override, decide
from modelsmith_webui.overrides import metadata_path, read_override

if TYPE_CHECKING:
    from modelsmith.identify import Report

logger = logging.getLogger(__name__)

Stamp = tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True)
class Resolution:
    """All that is known about one checkpoint."""

    path: Path
    report: Report
    override: Override
    decision: Decision


path_of = lru_cache(maxsize=256)(Path)
"""One path object for a file name: what is known of a file is kept by it, and asked for at each step of a picture."""


@lru_cache(maxsize=64)
def _beside(path: Path) -> tuple[str, str, str]:
    """A checkpoint, its yaml and its metadata, ready to be looked for at each step of a picture."""
    return str(path), str(path.with_suffix(".yaml")), str(metadata_path(path))


def file_stamp(path: str) -> tuple[int, int] | None:
    """What changes when a file does; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


class Resolver:
    """Resolves checkpoints; an answer is kept until the file, its yaml, its metadata or the switch changes."""

    def __init__(self, enabled: Callable[[], bool]) -> None:
        self._enabled = enabled
        self._lock = threading.Lock()
        self._reports: dict[Path, tuple[Stamp, Report]] = {}
        # What the running job set for its own pictures, and the checkpoint that it is for.
        self.image: tuple[Path, Override] | None = None
        # For each thread: a page that sets an override while a picture begins must not be told of the old one.
        self._local = threading.local()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within this, each question is answered once: nothing looks at the disk again for the same answer."""
        if getattr(self._local, "held", None) is not None:
            yield
            return
        self._local.held = {}
        try:
            yield
        finally:
            self._local.held = None

    def report(self, path: Path) -> Report:
        """The report of a file, read again only when the file or the yaml beside it changed."""
        from modelsmith.identify import identify

        file, yaml, _ = _beside(path)
        stamp = (file_stamp(file), file_stamp(yaml))
        with self._lock:
            known = self._reports.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        report = identify(path)
        with self._lock:
            self._reports[path] = (stamp, report)
        return report

    def resolve(self, path: str | Path) -> Resolution:
        """Report, override and decision for one checkpoint, as the running job wants it."""
        path = path if isinstance(path, Path) else path_of(path)
        image = self.image[1] if self.image is not None and self.image[0] == path else None
        return self.without_image(path, image)

    def without_image(self, path: str | Path, image: Override | None = None) -> Resolution:
        """The same with another choice for one picture than the running job's: none, or ``image``."""
        path = path if isinstance(path, Path) else path_of(path)
        if image is not None and image.is_auto:
            image = None
        held: dict[tuple[Path, Override | None], Resolution] | None = getattr(self._local, "held", None)
        if held is not None and (path, image) in held:
            return held[path, image]
        report = self.report(path)
        override = read_override(path) if os.path.exists(_beside(path)[2]) else Override()
        found = Resolution(path, report, override, decide(report, override, image=image, enabled=self._enabled()))
        if held is not None:
            held[path, image] = found
        return found
