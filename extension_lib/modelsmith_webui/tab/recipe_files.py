"""Finds the files that a recipe names among those of the host, without reading any of them whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modelsmith.errors import BadFileError
from modelsmith_webui.host import Host


def finder(host: Host) -> Callable[[Mapping[str, Any]], Path]:
    """A function from an entry of a recipe's models or LoRAs to its file, by hash where the host knows it, else by name
    and size. It raises BadFileError where no file of the host is the one."""
    from modelsmith.merge.recipe import UNKNOWN_HASH

    files = host.model_files()

    def find(entry: Mapping[str, Any]) -> Path:
        name = str(entry.get("file") or entry.get("name") or "")
        digest = entry.get("sha256")
        if digest and digest != UNKNOWN_HASH:
            known = next((file.path for file in files if host.cached_sha256(file) == digest), None)
            if known is not None:
                return known
        size = entry.get("size")
        same = [file.path for file in files if file.path.name == name or file.name == name]
        for path in same:
            if not isinstance(size, int) or not path.is_file() or path.stat().st_size == size:
                return path
        problem = "another file has its name now" if same else "it is not in the host's folders"
        raise BadFileError(name, problem, "Put the model of the recipe back, or choose another in its place")

    return find
