"""Repeats a merge from its recipe: reads recipes wherever they stand, finds the inputs, gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from modelsmith import __version__
from modelsmith.devices import gpu_like
from modelsmith.errors import BadFileError, Cancelled
from modelsmith.files.header import read_header
from modelsmith.library.index import find_models
from modelsmith.lora.stack import LoraSpec
from modelsmith.merge.foreign_recipes import from_a1111, from_mecha, from_supermerger
from modelsmith.merge.guard import Notice, notice
from modelsmith.merge.messages import bad_file
from modelsmith.merge.recipe import RECIPE_KEY, RECIPE_VERSION, UNKNOWN_HASH, legacy_hash
from modelsmith.merge.request import MergeRequest

if TYPE_CHECKING:
    from modelsmith.merge.engine import IsCancelled, Progress
    from modelsmith.merge.request import MergeResult

Entry = Mapping[str, Any]
Find = Callable[[Entry], Path]


@dataclass(frozen=True)
class ReadRecipe:
    """A recipe in our own form, where it stood, who wrote it, and what of it could not be expressed."""

    path: Path
    recipe: Mapping[str, Any]
    program: str
    notices: tuple[Notice, ...] = ()


def request_from_recipe(recipe: Mapping[str, Any], find: Find, output: Path) -> MergeRequest:
    """The merge that a recipe tells, to be written to ``output``.

    find: gives the file of an entry of ``models`` or ``loras`` (``file``, ``size``, ``sha256``, and ``name`` and a
    nested ``recipe`` where there is one), or raises. Names are those of the recipe, so that the bytes come out the
    same whatever the files are called now. For what a GPU computed, a GPU is asked for where there is one. Raises
    BadFileError for a recipe that is damaged or of a later version.
    """
    version = recipe.get("version")
    if not isinstance(version, int) or not isinstance(recipe.get("method"), str):
        raise bad_file(output, "recipe-damaged", problem="it names no version or no method")
    if version > RECIPE_VERSION:
        raise bad_file(output, "recipe-newer", found=version, known=RECIPE_VERSION)
    models = cast("list[Entry]", recipe.get("models") or [])
    loras = cast("list[Entry]", recipe.get("loras") or [])
    paths = [find(entry) for entry in models]
    specs = [LoraSpec(find(one), float(one.get("strength", 1.0)), one.get("blocks")) for one in loras]
    found = [*zip(paths, models, strict=True), *zip((spec.path for spec in specs), loras, strict=True)]
    computed_on = str(recipe.get("device") or "")
    return MergeRequest(
        models=tuple(paths),
        method=str(recipe["method"]),
        output=output,
        parameters=dict(recipe.get("parameters") or {}),
        block_weights=dict(recipe.get("blocks") or {}),
        dtype=recipe.get("dtype"),
        missing=recipe.get("missing") or "take_a",
        allow_prediction_mix=recipe.get("allow_prediction_mix"),
        copy_metadata=bool(recipe.get("copy_metadata")),
        metadata=dict(recipe.get("metadata") or {}),
        known_hashes={path: str(entry["sha256"]) for path, entry in found if _full_hash(entry)},
        names={path: str(entry.get("name") or path.name) for path, entry in zip(paths, models, strict=True)},
        rules=dict(recipe.get("rules") or {}),
        finetune=str(recipe.get("finetune") or ""),
        loras=tuple(specs),
        component_dtypes=dict(recipe.get("component_dtypes") or {}),
        title=str(recipe.get("output") or ""),
        file_names={path: str(entry.get("file") or path.name) for path, entry in found},
        device=gpu_like(computed_on) if computed_on else "cpu",
        computed_on=computed_on,
    )


def _full_hash(entry: Entry) -> bool:
    digest = entry.get("sha256")
    return isinstance(digest, str) and len(digest) == 64 and digest != UNKNOWN_HASH


def read_recipe(path: Path) -> ReadRecipe:
    """The recipe in a file: a merged model's metadata, or a recipe of its own (JSON, or sd-mecha's text).

    Ours is preferred, then sd-mecha's, then A1111's or supermerger's. Raises BadFileError where there is none.
    """
    if path.suffix.lower() == ".mecha":
        return _mecha(path, _text(path))
    if path.suffix.lower() in (".json", ".txt", ".recipe"):
        text = _text(path)
        if text.startswith("version "):
            return _mecha(path, text)
        return _from_json(path, _object(path, text), None)
    metadata = read_header(path).metadata
    if RECIPE_KEY in metadata:
        return _own(path, _object(path, metadata[RECIPE_KEY]))
    if "mecha_recipe" in metadata:
        return _mecha(path, metadata["mecha_recipe"])
    if "sd_merge_recipe" in metadata:
        models = _object(path, metadata["sd_merge_models"]) if "sd_merge_models" in metadata else None
        return _from_json(path, _object(path, metadata["sd_merge_recipe"]), models)
    raise bad_file(path, "recipe-none")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise bad_file(path, "recipe-damaged", problem=error) from error


def _object(path: Path, text: str) -> dict[str, Any]:
    try:
        found: Any = json.loads(text)
    except ValueError as error:
        raise bad_file(path, "recipe-damaged", problem=error) from error
    if not isinstance(found, dict):
        raise bad_file(path, "recipe-damaged", problem="it is no JSON object")
    return cast("dict[str, Any]", found)


def _from_json(path: Path, found: dict[str, Any], models: dict[str, Any] | None) -> ReadRecipe:
    kind = found.get("type")
    if kind is None and RECIPE_KEY in found:
        inner = found[RECIPE_KEY]
        return _own(path, cast("dict[str, Any]", inner) if isinstance(inner, dict) else _object(path, str(inner)))
    if "method" in found:
        return _own(path, found)
    if kind == "webui":
        recipe, notices = from_a1111(path, found, models or {})
        return ReadRecipe(path, recipe, "A1111", notices)
    if kind == "sd-webui-supermerger":
        recipe, notices = from_supermerger(path, found, models or {})
        return ReadRecipe(path, recipe, "supermerger", notices)
    raise bad_file(path, "recipe-none")


def _own(path: Path, recipe: dict[str, Any]) -> ReadRecipe:
    made = str(recipe.get("modelsmith"))
    notices = () if made == __version__ else (notice("warning", "recipe-version", then=made, now=__version__),)
    return ReadRecipe(path, recipe, "Modelsmith", notices)


def _mecha(path: Path, text: str) -> ReadRecipe:
    recipe, notices = from_mecha(path, text)
    return ReadRecipe(path, recipe, "sd-mecha", notices)


@dataclass
class Finder:
    """Finds inputs in folders of models by hash, whatever they are called; files of the same name are tried first.

    hashes: SHA-256 that are known already, by path. Hashes computed here are kept for the life of the finder.
    """

    folders: tuple[Path, ...]
    hashes: dict[Path, str] = field(default_factory=dict[Path, str])
    cancelled: IsCancelled | None = None
    _files: list[Path] | None = None

    def __call__(self, entry: Entry) -> Path:
        """The file of an entry. Raises BadFileError with its hash where no folder holds it, Cancelled."""
        name = str(entry.get("file") or entry.get("name") or "")
        for path in self._candidates(entry, name):
            if self._is(path, entry):
                return path
        digest = str(entry.get("sha256") or entry.get("legacy_hash") or "unknown")
        rebuild = "; or let it be rebuilt from its own recipe" if entry.get("recipe") else ""
        raise bad_file(name, "recipe-input", digest=digest, name=name, rebuild=rebuild)

    def _candidates(self, entry: Entry, name: str) -> Iterable[Path]:
        """Files that may be it: those of its name first, then those of its size, or all where that is unknown."""
        given = Path(name)
        if given.is_absolute() and given.is_file():
            yield given
        if self._files is None:
            self._files = list(find_models(self.folders))
        plain = name.replace("\\", "/").rsplit("/", 1)[-1]
        same = [path for path in self._files if path.name == plain or path.stem == plain]
        yield from same
        if _hash_known(entry):
            size = entry.get("size")
            for path in self._files:
                if path not in same and path.is_file() and (size is None or path.stat().st_size == size):
                    yield path

    def _is(self, path: Path, entry: Entry) -> bool:
        size, digest, old = entry.get("size"), entry.get("sha256"), entry.get("legacy_hash")
        if isinstance(size, int) and path.is_file() and path.stat().st_size != size:
            return False
        if isinstance(digest, str) and digest and digest != UNKNOWN_HASH:
            return path.is_file() and self._sha256(path).startswith(digest.lower())
        if isinstance(old, str) and old:
            return path.is_file() and legacy_hash(path) == old
        return True

    def _sha256(self, path: Path) -> str:
        if path not in self.hashes:
            self.hashes[path] = sha256_of(path, self.cancelled)
        return self.hashes[path]


def _hash_known(entry: Entry) -> bool:
    digest = entry.get("sha256")
    return bool(entry.get("legacy_hash")) or (isinstance(digest, str) and bool(digest) and digest != UNKNOWN_HASH)


def sha256_of(path: Path, cancelled: IsCancelled | None = None) -> str:
    """SHA-256 of a file, read once. Raises BadFileError, Cancelled."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while data := file.read(1 << 22):
                digest.update(data)
                if cancelled is not None and cancelled():
                    raise Cancelled("cancelled")
    except OSError as error:
        raise BadFileError(path, f"it cannot be read ({error.strerror})", "Check the file") from error
    return digest.hexdigest()


@dataclass(frozen=True)
class ReplayOptions:
    """How to repeat a merge.

    rebuild: make inputs that were merges themselves and are gone from their recipes. device: where to compute, else as
    the recipe says; inputs that are rebuilt follow their own recipes, since they must come out the same.
    """

    overwrite: bool = False
    rebuild: bool = False
    progress: Progress | None = None
    cancelled: IsCancelled | None = None
    device: str | None = None


def replay(recipe: Mapping[str, Any], find: Find, output: Path, options: ReplayOptions | None = None) -> MergeResult:
    """Repeat a merge. The bytes are those of the first time where version, inputs and what computes are the same.

    Raises what ``find``, ``plan_merge`` and ``run_merge`` raise, and BadFileError for an input that was rebuilt but
    came out with another hash.
    """
    from modelsmith.merge.engine import run_merge
    from modelsmith.merge.plan import plan_merge

    options = options or ReplayOptions()
    workshop = Workshop(find, output.parent, options)
    try:
        request = request_from_recipe(recipe, workshop, output)
        device = options.device or request.device
        plan = plan_merge(replace(request, overwrite=options.overwrite, device=device))
        return run_merge(plan, options.progress, options.cancelled)
    finally:
        workshop.clear()


class Workshop:
    """Finds inputs, and rebuilds from their own recipes those that cannot be found, where the options allow it, and
    those that never were files but steps of a recipe; ``clear`` removes them again."""

    def __init__(self, find: Find, folder: Path, options: ReplayOptions) -> None:
        self._find = find
        self._folder = folder
        self._options = options
        self._made: dict[str, Path] = {}
        self._place: Path | None = None
        self._count = 0

    def __call__(self, entry: Entry) -> Path:
        """The file of an entry, found or rebuilt. Raises what the finder raises where there is no recipe for it."""
        nested, step = isinstance(entry.get("recipe"), dict), "sha256" not in entry
        if not (nested and step):
            try:
                return self._find(entry)
            except BadFileError:
                if not (nested and self._options.rebuild):
                    raise
        key = json.dumps(entry["recipe"], sort_keys=True)
        if key not in self._made:
            self._made[key] = self._rebuild(entry)
        return self._made[key]

    def _rebuild(self, entry: Entry) -> Path:
        from modelsmith.merge.engine import run_merge
        from modelsmith.merge.plan import plan_merge

        if self._place is None:
            self._place = Path(tempfile.mkdtemp(prefix=".modelsmith-replay-", dir=self._folder))
        self._count += 1
        target = self._place / f"{self._count}.safetensors"
        request = request_from_recipe(cast("Mapping[str, Any]", entry["recipe"]), self, target)
        plan = plan_merge(request)
        result = run_merge(plan, self._options.progress, self._options.cancelled)
        found = result.sha256 or sha256_of(target, self._options.cancelled)
        wanted = entry.get("sha256", UNKNOWN_HASH)
        if wanted not in (UNKNOWN_HASH, found):
            told = {"name": entry.get("file"), "found": found, "wanted": wanted}
            then, now = request.computed_on, plan.parts.device
            if then and then != now:
                raise bad_file(target, "recipe-rebuilt-device", **told, then=then, now=now or "@cpu")
            raise bad_file(target, "recipe-rebuilt", **told)
        return target

    def clear(self) -> None:
        """Remove what was rebuilt."""
        if self._place is not None:
            shutil.rmtree(self._place, ignore_errors=True)
