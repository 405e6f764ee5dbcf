"""Choosing one of the host's files, or those of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modelsmith.errors import UsageError
from modelsmith_webui.host import Host, ModelFile
from modelsmith_webui.tab.files import find_labelled, label_of

FOLDER_PREFIX = "Folder / "


def file_choices(host: Host) -> list[str]:
    """Every model file of the host, then its folders."""
    files = host.model_files()
    return [*(label_of(file) for file in files), *groups(files)]


def groups(files: Sequence[ModelFile]) -> dict[str, list[ModelFile]]:
    """Folders of the host that hold two model files or more (in folders below too), by the name that is shown."""
    by_folder: dict[Path, list[ModelFile]] = {}
    bases = {file.path.parent for file in files}
    for file in files:
        for folder in bases:
            if file.path.is_relative_to(folder):
                by_folder.setdefault(folder, []).append(file)
    shown: dict[str, list[ModelFile]] = {}
    for folder, held in sorted(by_folder.items(), key=lambda pair: pair[0].as_posix().lower()):
        above = next((base for base in reversed(folder.parents) if base in bases), folder)
        inner = folder.relative_to(above).as_posix()
        name = above.name + ("" if inner == "." else f"/{inner}")
        if len(held) > 1:
            shown.setdefault(FOLDER_PREFIX + name, held)
    return shown


def chosen_files(host: Host, label: str, only: str = "") -> list[ModelFile]:
    """The file behind a label of the tab, or those of a folder; of a folder only names that hold each word of ``only``.

    Raises UnknownNameError, UsageError where a folder has no such file.
    """
    if not label.startswith(FOLDER_PREFIX):
        return [find_labelled(host, label)]
    words = only.lower().split()
    held = groups(host.model_files()).get(label, [])
    found = [file for file in held if all(word in file.name.lower() for word in words)]
    if not found:
        raise UsageError(f"{label} holds no such model file", "Choose again, or change the words")
    return found
