"""Where new files go, said once for the tab and the API.

A new file lies beside the one that it was made of; a part that was taken out goes to the folder of its kind.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from modelsmith.errors import UsageError
from modelsmith.files.names import check_output_name, made_name, output_path
from modelsmith_webui.host import Host, ModelFile


def output_beside(file: ModelFile, name: str, stem: str, ending: str = "") -> Path:
    """The new file beside ``file``: ``name``, or one made of ``stem`` and ``ending`` where that is empty.

    Raises UsageError.
    """
    return output_path(file.path.parent, name.strip() or made_name(stem, ending))


def output_of_kind(host: Host, kind: str, name: str, stem: str, ending: str = "") -> Path:
    """As :func:`output_beside`, in the host's folder for ``kind``, which may not exist yet."""
    folder = host.checkpoint_folder() if kind == "checkpoint" else host.part_folder(kind)
    return output_path(folder, name.strip() or made_name(stem, ending))


def make_folder(folder: Path) -> None:
    """Make the folder of an output where it is missing. Raises UsageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {folder} cannot be made ({error.strerror})", "Make it by hand") from error


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder that may not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def output_folder(host: Host, name: str, suggestion: str) -> Path:
    """The folder for the results of many files, under the host's checkpoint folder. Raises UsageError."""
    return host.checkpoint_folder() / check_output_name(name.strip() or suggestion)


def common_folder(files: Sequence[ModelFile]) -> Path:
    """The folder that holds all of them. Raises UsageError where they lie on different drives."""
    try:
        return Path(os.path.commonpath([file.path.parent for file in files]))
    except ValueError as error:
        raise UsageError("the files lie on different drives", "Choose files of one drive at a time") from error
