"""Choosing several of the host's files, or all of a folder."""

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


def chosen_files(host: Host, labels: Sequence[str]) -> list[ModelFile]:
    """The files behind labels of the tab, folders opened, each file once. Raises UnknownNameError, UsageError."""
    found: dict[Path, ModelFile] = {}
    known = groups(host.model_files()) if any(label.startswith(FOLDER_PREFIX) for label in labels) else {}
    for label in labels:
        if label in known:
            found.update({file.path: file for file in known[label]})
        elif label.startswith(FOLDER_PREFIX):
            raise UsageError(f"{label} holds no model files any more", "Choose again")
        else:
            file = find_labelled(host, label)
            found[file.path] = file
    return list(found.values())
