"""From a header to a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from modelsmith.errors import BadFileError
from modelsmith.files.collection import collection_paused
from modelsmith.files.header import FileHeader, read_header
from modelsmith.identify.adapters import (
    hypernetwork_bases,
    is_adapter,
    is_hypernetwork,
    read_adapter,
    read_embedding,
)
from modelsmith.identify.advice import advise
from modelsmith.identify.draft import Draft
from modelsmith.identify.health import add_health, ema_of
from modelsmith.identify.messages import say
from modelsmith.identify.recipe_file import is_recipe_checkpoint, recipe_report
from modelsmith.identify.report import Kind, Report
from modelsmith.identify.split import Parts, split
from modelsmith.identify.whole import add_auxiliary, add_control, add_encoders, add_model, add_vaes, name_alone

_YAML_LIMIT = 200_000
_SHOWN_METADATA = 40
_SHOWN_LENGTH = 2_000


def identify(path: str | Path) -> Report:
    """Say what one file is. Never raises for a bad file: its report has kind ``unknown`` and an ``error``.

    A yaml of the same name beside it counts as evidence, because that is what a webui obeys.
    """
    target = Path(path)
    with collection_paused():
        try:
            header = read_header(target)
        except BadFileError as error:
            return unreadable(path, error)
        return replace(identify_header(header, yaml_text=near_yaml(target)), file=str(path))


def unreadable(path: str | Path, error: BadFileError) -> Report:
    """The report of a file that cannot be read."""
    message, remedy = error.in_language("ja")
    return Report(file=str(path), error=str(error), error_ja=f"{message}。{remedy}", advice=(say("again"),))


def near_yaml(path: Path) -> str | None:
    """The text of the yaml of the same name beside a file, None where there is none."""
    try:
        with path.with_suffix(".yaml").open("rb") as file:
            return file.read(_YAML_LIMIT).decode("utf-8", "replace")
    except (OSError, ValueError):
        return None


def identify_header(header: FileHeader, *, yaml_text: str | None = None) -> Report:
    """Say what a file is from its header; at most a few small tensors are read from the file itself."""
    if is_recipe_checkpoint(header):
        return recipe_report(header)
    draft = Draft(header, Parts())
    if is_adapter(header.tensors):
        _adapter(draft)
    elif (bases := read_embedding(header)) is not None:
        _small(draft, "textual_inversion", bases, "embedding")
    elif is_hypernetwork(header):
        _small(draft, "hypernetwork", hypernetwork_bases(header), "hypernetwork")
    else:
        draft.parts = split(header.tensors)
        _whole(draft, yaml_text)
    add_health(draft)
    advise(draft)
    return _finish(draft)


def _adapter(draft: Draft) -> None:
    found = read_adapter(draft.header)
    draft.kind = "lora"
    draft.candidates = found.bases
    draft.layout = found.layout
    draft.lora_type = found.type
    for part in found.parts:
        draft.components.append(draft.component(part, draft.header.tensors))


def _small(draft: Draft, kind: Kind, bases: tuple[str, ...], part: str) -> None:
    draft.kind = kind
    draft.candidates = bases
    draft.layout = "a1111/kohya"
    draft.components.append(draft.component(part, draft.header.tensors))


def _whole(draft: Draft, yaml_text: str | None) -> None:
    """A file that is no small one: ControlNet, checkpoint, diffusion model, text encoder or VAE."""
    if add_control(draft):
        return
    found = add_model(draft, yaml_text)
    if not found:
        name_alone(draft)
        return
    add_vaes(draft)
    add_encoders(draft)
    add_auxiliary(draft)
    if draft.parts.vaes or draft.parts.encoders:
        draft.kind = "checkpoint"
        if draft.layout in ("original", "original-bare"):
            draft.layout = "comfy-checkpoint"


def _finish(draft: Draft) -> Report:
    header = draft.header
    main = draft.components[0] if draft.components else None
    quantization = main.quantization if main else None
    precision = main.precision if main else None
    if main and quantization and len({part.precision for part in draft.components}) > 1:
        precision = "mixed"
    return Report(
        file=str(header.path),
        kind="unsafe" if header.forbidden else draft.kind,
        architecture=draft.candidates[0] if len(draft.candidates) == 1 else None,
        candidates=draft.candidates,
        variant=draft.variant,
        prediction=draft.prediction,
        components=tuple(draft.components),
        precision=precision,
        quantization=quantization,
        ema=ema_of(draft.parts),
        in_channels=draft.in_channels,
        layout=draft.layout,
        reduced=draft.reduced,
        inpainting=draft.inpainting,
        lora_type=draft.lora_type,
        format=header.format,
        size=header.size,
        tensors=len(header.tensors),
        warnings=tuple(draft.warnings),
        advice=tuple(draft.advice),
        metadata=_shown(header.metadata),
        globals=header.globals,
        forbidden=header.forbidden,
    )


def _shown(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata that a report carries: short values, no thumbnails, no more than a page."""
    short = {name: text for name, text in metadata.items() if len(text) <= _SHOWN_LENGTH and "thumbnail" not in name}
    return dict(list(short.items())[:_SHOWN_METADATA])
