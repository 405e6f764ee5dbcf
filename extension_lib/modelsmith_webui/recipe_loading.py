"""Loads recipe checkpoints in a webui: merges on the fly, straight into the host's own load, and writes nothing.

The host asks for a file's weights and gets those that the engine would have written. Hash, title, infotext, X/Y/Z plot,
hires and refiner checkpoints see an ordinary checkpoint. A recipe that cannot be made is refused before the host lets
go of the model in memory.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from modelsmith.errors import ModelsmithError
from modelsmith_webui import settings
from modelsmith_webui.host import Host

logger = logging.getLogger(__name__)

LARGEST = 16 << 20
"""No recipe checkpoint is larger, so that the headers of real models need not be read to know that they are none."""

GIB = 1 << 30
_installs = itertools.count()
# What was merged last for each file, by the recipe's digest. The module outlives a reload of the UI, as the model does.
_merged: dict[str, str] = {}
_recipes: dict[Path, tuple[tuple[int, int], bool]] = {}


def is_recipe(path: str | Path) -> bool:
    """Whether a file is a recipe checkpoint; quick for large files, and for those that were asked about before."""
    from modelsmith.files.header import read_header
    from modelsmith.identify.recipe_file import is_recipe_checkpoint

    path = Path(path)
    try:
        found = path.stat()
        if path.suffix.lower() != ".safetensors" or found.st_size > LARGEST:
            return False
        stamp = (found.st_mtime_ns, found.st_size)
        known = _recipes.get(path)
        if known is None or known[0] != stamp:
            known = _recipes[path] = (stamp, is_recipe_checkpoint(read_header(path)))
    except (OSError, ModelsmithError):
        return False
    return known[1]


def sources_of(host: Host, *, loras: bool = False) -> Any:
    """Where the inputs of recipes may be: the host's checkpoints (and its LoRAs), with the hashes that it knows."""
    from modelsmith.merge.recipe_checkpoint import Sources

    files = host.checkpoints()
    if loras:
        files = [*files, *(file for file in host.model_files() if file.kind == "lora")]
    hashes = {file.path: known for file in files if (known := host.cached_sha256(file))}
    return Sources(tuple(file.path for file in files), hashes)


@dataclass
class _Prepared:
    digest: str
    tensors: dict[str, Any]


class RecipeLoading:
    """Takes hold of the host's loading; ``host`` tells where inputs are."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._key: str | None = None
        self._patches: list[tuple[Any, str, Callable[..., Any]]] = []
        self._prepared: dict[str, _Prepared] = {}
        self._lock = threading.RLock()
        self._cache: Any = None  # a BlockCache, made when the first recipe is merged: torch is heavy to import

    # merging

    @property
    def cache(self) -> Any:
        """The BlockCache of merged tensors."""
        if self._cache is None:
            from modelsmith.merge.block_cache import BlockCache

            self._cache = BlockCache()
        return self._cache

    def plan(self, path: str | Path) -> Any:
        """The plan of a recipe checkpoint and its digest. Raises the library's errors; nothing is loaded."""
        from modelsmith.merge.recipe_checkpoint import plan_in_memory, read_recipe_checkpoint

        checkpoint = read_recipe_checkpoint(Path(path))
        sources = sources_of(self._host, loras=bool(checkpoint.recipe.get("loras")))
        return plan_in_memory(checkpoint, sources), checkpoint.digest

    def changed(self, path: str) -> bool:
        """Whether a recipe is another one than when it was last merged."""
        from modelsmith.merge.recipe_checkpoint import read_recipe_checkpoint

        known = _merged.get(path)
        return known is not None and read_recipe_checkpoint(Path(path)).digest != known

    def prepare(self, path: str) -> None:
        """Merge now, for the load that follows."""
        with self._lock:
            self._prepared.clear()
            plan, digest = self.plan(path)
            self._prepared[path] = _Prepared(digest, self._merge(path, plan))

    def tensors(self, path: str) -> dict[str, Any]:
        """The weights of a recipe checkpoint. Raises the library's errors."""
        with self._lock:
            plan, digest = self.plan(path)
            prepared = self._prepared.pop(path, None)
            made = prepared.tensors if prepared and prepared.digest == digest else self._merge(path, plan)
            _merged[path] = digest
            return made

    def _merge(self, path: str, plan: Any) -> dict[str, Any]:
        from modelsmith.merge.in_memory import merge_to_tensors

        self.cache.limit = round(float(settings.get(settings.RECIPE_CACHE)) * GIB)
        control = _HostJob()
        started = time.monotonic()
        found = merge_to_tensors(plan, self.cache, control.show, control.cancelled)
        seconds = time.monotonic() - started
        for notice in found.notices:
            logger.warning("%s: %s", Path(path).name, notice.text)
        text = "%s: merged in memory in %.1f s, %d tensors computed, %d from the cache"
        logger.info(text, Path(path).name, seconds, found.computed, found.reused)
        self._record(plan, path, seconds)
        return found.tensors

    def _record(self, plan: Any, path: str, seconds: float) -> None:
        from modelsmith_webui.history import history_of

        history_of(self._host).loaded(plan, Path(path), seconds)

    # taking hold

    def install(self) -> None:
        """Patch what the host loads checkpoints with; again changes nothing."""
        if self._key is not None:
            return
        self._key = f"modelsmith-recipes-{next(_installs)}"
        if _has("modules_forge.forge_loader") or not _has("backend.loader"):
            self._install_ldm()
        else:
            self._install_forge()

    def uninstall(self) -> None:
        """Undo the patches, and forget what is cached. Wrappers that others have wrapped since do nothing any more."""
        if self._key is None:
            return
        from modules import patches

        key, self._key = self._key, None
        for module, name, replacement in self._patches:
            if getattr(module, name) is replacement:
                patches.undo(key, module, name)
        self._patches.clear()
        self._prepared.clear()
        if self._cache is not None:
            self._cache.clear()

    def _patch(self, module: Any, name: str, answer: Callable[..., Any]) -> None:
        """Put ``answer(original, *args, **kwargs)`` in a function's place, while this is installed."""
        from modules import patches

        original, key = getattr(module, name, None), self._key
        if original is None:
            return

        @functools.wraps(original)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            return original(*args, **kwargs) if self._key != key else answer(original, *args, **kwargs)

        patches.patch(key, module, name, replacement)
        self._patches.append((module, name, replacement))

    # AUTOMATIC1111, and the family with the LDM backend

    def _install_ldm(self) -> None:
        from modules import sd_models

        self._patch(sd_models, "read_state_dict", self._read_state_dict)
        self._patch(sd_models, "get_checkpoint_state_dict", self._checkpoint_state_dict)
        self._patch(sd_models, "reload_model_weights", self._reload_ldm)
        self._patch(sd_models, "load_model", self._load_ldm)

    def _read_state_dict(self, original: Any, checkpoint_file: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_recipe(checkpoint_file):
            return original(checkpoint_file, *args, **kwargs)
        from modules import devices, sd_models, shared

        place = kwargs.get("map_location") or (args[1] if len(args) > 1 else None)
        place = place or shared.weight_load_location or devices.get_optimal_device_name()
        tensors = self.tensors(str(checkpoint_file))
        return sd_models.get_state_dict_from_checkpoint({name: one.to(place) for name, one in tensors.items()})

    def _checkpoint_state_dict(self, original: Any, checkpoint_info: Any, timer: Any) -> Any:
        from modules import sd_models

        cached: Any = getattr(sd_models, "checkpoints_loaded", {})
        if not is_recipe(checkpoint_info.filename) or checkpoint_info in cached:
            return original(checkpoint_info, timer)
        checkpoint_info.calculate_shorthash()
        found = sd_models.read_state_dict(checkpoint_info.filename)
        timer.record("merge recipe")
        return found

    def _reload_ldm(self, original: Any, sd_model: Any = None, info: Any = None, forced_reload: bool = False) -> Any:
        from modules import sd_models

        info = info or sd_models.select_checkpoint()
        if not is_recipe(info.filename):
            return original(sd_model, info, forced_reload)
        changed = self.changed(info.filename)
        if changed:
            self._forget(info.filename)
        forced = forced_reload or changed
        if forced or not self._in_memory(sd_model, info.filename):
            self._make_sure(info.filename)
        return original(sd_model, info, forced)

    def _load_ldm(
        self, original: Any, checkpoint_info: Any = None, already_loaded_state_dict: Any = None, **more: Any
    ) -> Any:
        from modules import sd_models

        info = checkpoint_info or sd_models.select_checkpoint()
        waiting = info.filename in self._prepared
        if already_loaded_state_dict is None and not waiting and is_recipe(info.filename):
            forced = bool(more.get("forced_reload"))
            if forced or not self._in_memory(None, info.filename):
                self._make_sure(info.filename)
        return original(info, already_loaded_state_dict, **more)

    def _make_sure(self, path: str) -> None:
        """Fail now if the recipe cannot be made. A1111 unhooks the old model before it reads the new weights and keeps
        both in memory anyway, so there the merge is done beforehand; the others free the old one first."""
        if _has("modules_forge"):
            self.plan(path)
        else:
            self.prepare(path)

    def _in_memory(self, sd_model: Any, path: str) -> bool:
        from modules import sd_models

        data = sd_models.model_data
        models = [sd_model, getattr(data, "sd_model", None), *getattr(data, "loaded_sd_models", [])]
        return any(getattr(getattr(one, "sd_checkpoint_info", None), "filename", None) == path for one in models)

    def _forget(self, path: str) -> None:
        """Take the earlier recipe's weights out of the host's caches."""
        from modules import sd_models

        cached: Any = getattr(sd_models, "checkpoints_loaded", None) or {}
        for info in [info for info in cached if info.filename == path]:
            del cached[info]
        model = getattr(sd_models.model_data, "sd_model", None)
        if _has("modules_forge") and getattr(model, "filename", None) == path:
            cast("Any", model).filename = ""  # Classic takes the same name for the same model and knows no force

    # Forge, newmain_newforge and Neo

    def _install_forge(self) -> None:
        from modules import processing, sd_models

        # Neo's fast refiner takes the function out of backend.utils when it needs it.
        homes = [importlib.import_module(f"backend.{name}") for name in ("loader", "utils")]
        for module in (*homes, sd_models):
            self._patch(module, "load_torch_file", self._load_torch_file)
        for module in (sd_models, processing):
            self._patch(module, "forge_model_reload", self._reload_forge)

    def _load_torch_file(self, original: Any, ckpt: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(ckpt, str) or not is_recipe(ckpt):
            return original(ckpt, *args, **kwargs)
        device = kwargs.get("device")
        found = self.tensors(ckpt)
        if device is not None:
            found = {name: tensor.to(device) for name, tensor in found.items()}
        # Neo asks for the file's metadata, where it looks for how weights are quantised; ours are plain.
        return (found, {}) if kwargs.get("return_metadata") else found

    def _reload_forge(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        from modules import sd_models

        data = sd_models.model_data
        wanted: Mapping[str, Any] = getattr(data, "forge_loading_parameters", None) or {}
        info = wanted.get("checkpoint_info")
        if info is not None and is_recipe(info.filename):
            if self.changed(info.filename):
                data.forge_hash = ""
            if data.forge_hash != str(wanted):
                self.plan(info.filename)
        return original(*args, **kwargs)


class _HostJob:
    """Shows the merge in the host's progress line; stops it when the user interrupts from now on."""

    def __init__(self) -> None:
        from modules import shared

        self._state = shared.state
        self._before = bool(self._state.interrupted)

    def show(self, progress: Any) -> None:
        share = progress.done_bytes / max(1, progress.total_bytes)
        self._state.textinfo = f"Merging: {share:.0%}"

    def cancelled(self) -> bool:
        return bool(self._state.interrupted) and not self._before


def _has(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
