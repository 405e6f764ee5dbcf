"""What is remembered about VAEs: a person's word on one, and what checkpoints have taught. A small JSON file."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from modelsmith.vae.families import FAMILIES, FamilyId, Fingerprints, family_named

logger = logging.getLogger(__name__)

Stamp = tuple[int, int]


class VaeMemory:
    """Kept in ``path``, or for the lifetime of the object where ``path`` is None. Safe to use from several threads.

    A VAE goes by its fingerprints, so a copy under another name is known again. A damaged file counts as empty.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.RLock()
        found = _read(path) if path is not None else {}
        self._said: dict[str, str] = _table(found, "said")
        self._allowed: dict[str, list[str]] = _table(found, "allowed")
        self._taught: dict[str, list[Any]] = _table(found, "taught")
        self._measured: dict[str, list[Any]] = _table(found, "measured")

    def said(self, prints: Fingerprints) -> str | None:
        """The family that a person has said this VAE is of."""
        found = self._said.get(_key(prints))
        return found if found in FAMILIES else None

    def say(self, prints: Fingerprints, family: str | None) -> None:
        """Remember a person's word, or forget it with None. Raises UnknownNameError for an unknown family."""
        with self._lock:
            self._said.pop(_key(prints), None)
            if family is not None:
                self._said[_key(prints)] = family_named(family).id
            self._save()

    def allowed(self, prints: Fingerprints, families: frozenset[FamilyId]) -> bool:
        """Whether a person wants this VAE with models of one of these families although it does not fit."""
        return not families.isdisjoint(cast("list[FamilyId]", self._allowed.get(_key(prints), [])))

    def allow(self, prints: Fingerprints, families: frozenset[FamilyId], wanted: bool) -> None:
        """Remember, or forget, that a VAE is to be used with models of these families anyway."""
        with self._lock:
            kept = set(self._allowed.pop(_key(prints), [])) - families
            kept |= families if wanted else set()
            if kept:
                self._allowed[_key(prints)] = sorted(kept)
            self._save()

    def learn(self, path: Path, stamp: Stamp, teach: Callable[[], Mapping[str, FamilyId]]) -> None:
        """Remember what a checkpoint teaches; ``teach`` is asked only where the file is new or has changed."""
        known = self._taught.get(str(path))
        if known is not None and known[:2] == list(stamp):
            return
        lesson = teach()
        with self._lock:
            self._taught[str(path)] = [*stamp, dict(lesson)]
            self._save()

    def measured(self, values: str) -> bool | None:
        """Whether a VAE overflowed in fp16 when it was run here; None where it was not.

        values: its :func:`modelsmith.vae.health.values_print`.
        """
        found = self._measured.get(values)
        return found[0] if found is not None else None

    def note_measured(self, values: str, overflows: bool, peak: float) -> None:
        """Remember what a run showed. peak: the largest activation."""
        with self._lock:
            self._measured[values] = [overflows, round(peak, 1)]
            self._save()

    @property
    def any_measured(self) -> bool:
        """Whether there is anything to look up, for which small tensors have to be read."""
        return bool(self._measured)

    def told(self) -> dict[str, str]:
        """Fingerprint -> family as checkpoints taught it, without those that they disagree about."""
        found: dict[str, set[str]] = {}
        with self._lock:
            lessons = [lesson[2] for lesson in self._taught.values()]
        for lesson in lessons:
            for digest, family in lesson.items():
                found.setdefault(digest, set()).add(family)
        return {digest: next(iter(families)) for digest, families in found.items() if len(families) == 1}

    def _save(self) -> None:
        if self._path is None:
            return
        text = json.dumps(
            {"said": self._said, "allowed": self._allowed, "taught": self._taught, "measured": self._measured}, indent=1
        )
        aside = self._path.with_name(f".{self._path.name}.modelsmith-{os.getpid()}.tmp")
        try:
            aside.write_text(text, encoding="utf-8")
            os.replace(aside, self._path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            logger.warning("%s cannot be written (%s): what is known of VAEs is lost at the end", self._path, error)


def _key(prints: Fingerprints) -> str:
    return f"{prints.space[:24]}-{prints.decoder[:24]}"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s cannot be read (%s): it is begun anew", path, error)
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _table(found: dict[str, Any], name: str) -> dict[str, Any]:
    """One of the tables, without entries of another form than this class writes."""
    form: dict[str, type] = {"said": str, "allowed": list, "taught": list, "measured": list}
    table = found.get(name)
    if not isinstance(table, dict):
        return {}
    entries = cast("dict[str, Any]", table)
    kept = {key: value for key, value in entries.items() if isinstance(value, form[name])}
    if name == "measured":
        return {key: value for key, value in kept.items() if len(value) == 2 and isinstance(value[0], bool)}
    if name == "taught":
        return {key: value for key, value in kept.items() if len(value) == 3 and isinstance(value[2], dict)}
    return kept
