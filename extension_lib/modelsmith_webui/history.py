"""Every merge that was made here, with its recipe: kept as JSON lines in Modelsmith's data folder.

Merges from the tab, the API and the queue, recipe checkpoints that were written, loaded or saved as files: all are
recorded alike, so that each can be made again, changed, compared, and found from the model hash of an image.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

from modelsmith.errors import BadFileError, MergeError, UnknownNameError
from modelsmith_webui.host import Host

UNKNOWN_HASH = "0" * 64  # as merge.recipe has it, whose import is heavy

logger = logging.getLogger(__name__)

FILE = "history.jsonl"
MOST = 1000
"""Entries that are kept; the oldest are forgotten first."""

KINDS = ("merge", "recipe")
_HASH = re.compile(r"(?:^|[\s,])Model hash:\s*([0-9a-fA-F]{8,64})")
_BARE_HASH = re.compile(r"^[0-9a-fA-F]{8,64}$")
# Fields of a recipe that say where and by which version it was made, not what was made.
_INCIDENTAL = ("output", "modelsmith", "version")


@dataclass(frozen=True)
class Entry:
    """One merge. kind: ``merge`` made a file, ``recipe`` is a recipe checkpoint. when: UTC, ISO 8601. seconds: of the
    merge, for a recipe of the last one in memory. sha256: of the file, None where it is not known. inputs: marks by
    which the models are found again. uses: how often a recipe was merged in memory.
    """

    id: str
    kind: str
    when: str
    file: str
    seconds: float | None = None
    sha256: str | None = None
    size: int | None = None
    uses: int = 0
    recipe: Mapping[str, Any] = field(default_factory=dict[str, Any])
    inputs: tuple[Mapping[str, Any], ...] = ()

    @property
    def models(self) -> list[str]:
        """The names of the models that went in."""
        return [str(model.get("name", model.get("file", "?"))) for model in self.recipe.get("models", [])]

    def to_json(self, *, whole: bool = False) -> dict[str, Any]:
        """For the API: everything but the recipe, or with it."""
        found = asdict(self) | {"models": self.models, "method": self.recipe.get("method")}
        if not whole:
            del found["recipe"], found["inputs"]
        return found


def _entry(found: object) -> Entry | None:
    if not isinstance(found, dict):
        return None
    values = cast("dict[str, Any]", found)
    try:
        known = {name: values[name] for name in Entry.__dataclass_fields__ if name in values}
        return Entry(**{**known, "inputs": tuple(known.get("inputs", ()))})
    except TypeError:
        return None


def model_hash(text: str) -> str | None:
    """The hash that a text is, or that an infotext in it names; None where there is none."""
    match = _BARE_HASH.match(text.strip()) or _HASH.search(text)
    if match is None:
        return None
    return (match.group(1) if match.re is _HASH else match.group(0)).lower()


def now() -> str:
    """This moment, as entries spell it."""
    return datetime.now(timezone.utc).replace(microsecond=0).isoformat()


class History:
    """The history of one host's data folder. Safe to use from several threads."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = threading.RLock()
        self._known: tuple[tuple[int, int] | None, list[Entry]] = (None, [])

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return self._host.data_folder() / FILE

    # reading

    def entries(self) -> list[Entry]:
        """All entries, the latest first. A line that cannot be read is passed over."""
        with self._lock:
            # In the file, a recipe that was used again stands behind what was made after it.
            found = sorted(self._read(), key=lambda entry: entry.when)
        return found[::-1]

    def entry(self, identifier: str) -> Entry:
        """Raises UnknownNameError."""
        for found in self.entries():
            if found.id == identifier:
                return found
        raise UnknownNameError("history entry", identifier, [one.id for one in self.entries()])

    def recipe(self, identifier: str) -> Mapping[str, Any]:
        """The recipe of an entry. Raises UnknownNameError."""
        return self.entry(identifier).recipe

    def trace(self, text: str) -> list[Entry]:
        """The entries that made a model, by its hash or by the infotext of an image; the latest first."""
        wanted = model_hash(text)
        if wanted is None:
            return []
        entries = self.entries()
        found = [one for one in entries if (one.sha256 or "").startswith(wanted)]
        if found:
            return found
        return self._known_to_host(wanted, entries)

    def _known_to_host(self, wanted: str, entries: Sequence[Entry]) -> list[Entry]:
        """Those without a hash whose file the host has hashed meanwhile, as it does with each model that it loads."""
        from modelsmith_webui.result_hashes import is_result, lacks_hash

        hashes = {file.path: self._host.cached_sha256(file) or file.sha256 for file in self._host.checkpoints()}
        found: list[Entry] = []
        for path, digest in hashes.items():
            if digest is None or not digest.startswith(wanted):
                continue
            for one in entries:
                if lacks_hash(one) and is_result(path, one):
                    self.learn(one.id, digest)
                    found.append(replace(one, sha256=digest))
        return found

    def compare(self, first: str, second: str) -> list[tuple[str, Any, Any]]:
        """What two recipes differ in: the place (``blocks.alpha.IN00``), and both values. Raises UnknownNameError."""
        left, right = (_flat(self.recipe(one)) for one in (first, second))
        places = list(dict.fromkeys([*left, *right]))
        pairs = [(place, left.get(place), right.get(place)) for place in places]
        # A hash that one of the two never learnt is no difference.
        return [(place, one, two) for place, one, two in pairs if one != two and UNKNOWN_HASH not in (one, two)]

    # writing

    def add(self, entry: Entry) -> Entry:
        """Record one; a recipe checkpoint that is recorded already, by its hash, is renewed instead."""
        with self._lock:
            known = self._read()
            same = [one for one in known if one.kind == "recipe" == entry.kind and one.sha256 == entry.sha256]
            if same:
                entry = replace(entry, id=same[-1].id, when=same[-1].when, uses=same[-1].uses + entry.uses)
                self._write([*(one for one in known if one not in same), entry])
                return entry
            if len(known) >= MOST:
                self._write([*known[len(known) - MOST + 1 :], entry])
            else:
                self._append(entry)
        return entry

    def delete(self, identifier: str) -> None:
        """Forget an entry; the file it made stays. Raises UnknownNameError."""
        with self._lock:
            gone = self.entry(identifier)
            self._write([one for one in self._read() if one.id != gone.id])

    def learn(self, identifier: str, sha256: str) -> None:
        """Keep the hash of an entry's file, which was not known when it was recorded. Raises UnknownNameError."""
        with self._lock:
            entry = self.entry(identifier)
            self._write([replace(one, sha256=sha256) if one.id == entry.id else one for one in self._read()])

    def merged(self, plan: Any, result: Any) -> Entry | None:
        """Record a merge that made a file: its plan, and the engine's result. A hash that the engine could not compute
        is found out in the background."""
        from modelsmith_webui.result_hashes import result_hashes_of

        made = Entry(
            id=secrets.token_hex(6),
            kind="merge",
            when=now(),
            file=result.path.name,
            seconds=round(result.seconds, 2),
            sha256=result.sha256,
            size=result.bytes,
            recipe=json.loads(result.recipe),
        )
        kept = self._record(made, plan)
        self._host.keep_sha256(result.path, result.sha256)
        if kept is not None:
            result_hashes_of(self._host).made(kept, result.path)
        return kept

    def written(self, plan: Any, path: Path, *, seconds: float | None = None, uses: int = 0) -> Entry | None:
        """Record a recipe checkpoint that was written, or (``uses`` 1) merged in memory."""
        from modelsmith.merge.recipe_checkpoint import read_recipe_checkpoint

        try:
            digest, size = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
            recipe = dict(read_recipe_checkpoint(path).recipe)
        except (OSError, BadFileError) as error:
            logger.warning("the recipe is not recorded: %s", error)
            return None
        spent = None if seconds is None else round(seconds, 2)
        made = Entry(secrets.token_hex(6), "recipe", now(), path.name, spent, digest, size, uses, recipe)
        return self._record(made, plan)

    def loaded(self, plan: Any, path: Path, seconds: float) -> Entry | None:
        """Record that a recipe checkpoint was merged in memory."""
        return self.written(plan, path, seconds=seconds, uses=1)

    def _record(self, entry: Entry, plan: Any) -> Entry | None:
        """A merge that was made must not fail for want of its record."""
        from modelsmith.merge.recipe_checkpoint import input_marks

        try:
            return self.add(replace(entry, inputs=tuple(input_marks(plan))))
        except (OSError, BadFileError, MergeError) as error:
            logger.warning("the merge is not recorded: %s", error)
            return None

    # the file

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    def _read(self) -> list[Entry]:
        stamp = self._stamp()
        if stamp is None:
            return []
        if self._known[0] != stamp:
            found: list[Entry] = []
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    entry = _entry(json.loads(line))
                except ValueError:
                    continue
                if entry is not None:
                    found.append(entry)
            self._known = (stamp, found)
        return list(self._known[1])

    def _append(self, entry: Entry) -> None:
        line = json.dumps(asdict(entry), ensure_ascii=False)
        with self.path.open("a+b") as file:
            # A line that a killed process left unfinished must not swallow this one.
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else "\n" + line
            file.write(line.encode() + b"\n")

    def _write(self, entries: list[Entry]) -> None:
        aside = self.path.with_name(f".{FILE}.modelsmith-{os.getpid()}.tmp")
        lines = [json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in entries]
        aside.write_text("".join(lines), encoding="utf-8")
        os.replace(aside, self.path)


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    """Nested objects and lists as one table, without what is incidental."""
    if isinstance(value, Mapping):
        items = [(str(key), one) for key, one in cast("Mapping[Any, Any]", value).items()]
        pairs = [(f"{place}.{key}" if place else key, one) for key, one in items if place or key not in _INCIDENTAL]
    elif isinstance(value, list):
        pairs = [(f"{place}[{number}]", one) for number, one in enumerate(cast("list[Any]", value))]
    else:
        return {place: value}
    found: dict[str, Any] = {}
    for key, one in pairs:
        found.update(_flat(one, key))
    return found


_histories: dict[str, History] = {}
_guard = threading.Lock()


def history_of(host: Host) -> History:
    """The one history of a host's data folder, for tab, API and loading alike."""
    folder = str(host.data_folder())
    with _guard:
        if folder not in _histories:
            _histories[folder] = History(host)
        return _histories[folder]
