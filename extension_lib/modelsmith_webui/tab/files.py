"""The host's model files as a dropdown shows them, and back."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from modelsmith.errors import UsageError
from modelsmith_webui.host import Host, ModelFile, find_file

# What stands before a name that is no checkpoint's: names are unique within a kind only.
PREFIXES = {"vae": "VAE / ", "lora": "LoRA / ", "text_encoder": "Text encoder / ", "other": "Other / "}


_ENDING = re.compile(r"(?:\.recipe)?\.(?:safetensors|sft|ckpt|pt|pth|bin|gguf)\Z", re.IGNORECASE)


def short_name(name: str) -> str:
    """A model's name in a sentence: without its folder, its ending and the hash of a title."""
    title = name.rsplit(" [", 1)[0] if name.endswith("]") else name
    return _ENDING.sub("", PurePosixPath(title.replace("\\", "/")).name) or name


def label_of(file: ModelFile) -> str:
    """What the list of all model files shows."""
    return PREFIXES.get(file.kind, "") + file.name


def all_labels(host: Host) -> list[str]:
    return [label_of(file) for file in host.model_files()]


def checkpoint_names(host: Host) -> list[str]:
    return [file.name for file in host.checkpoints()]


def find_labelled(host: Host, label: str) -> ModelFile:
    """The file behind a label of :func:`all_labels`. Raises UnknownNameError."""
    for kind, prefix in PREFIXES.items():
        if label.startswith(prefix):
            return find_file([file for file in host.model_files() if file.kind == kind], label[len(prefix) :])
    return find_file(host.model_files(), label)


def find_checkpoint(host: Host, name: str | None, slot: str) -> ModelFile:
    """The checkpoint chosen in a slot (A, B, C). Raises UsageError where none is, UnknownNameError for a wrong name."""
    if not name:
        raise UsageError(f"model {slot} is not chosen", "Choose a checkpoint.")
    return find_file(host.checkpoints(), name)
