"""Puts a VAE into a checkpoint, and takes one out, in either spelling, streamed from file to file."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from modelsmith import __version__
from modelsmith.errors import BadFileError
from modelsmith.files.header import FileHeader, read_header
from modelsmith.files.tensors import TensorSource, open_tensors
from modelsmith.files.writer import Entry, StreamingWriter, WriterOptions, Written
from modelsmith.identify.recipe_file import with_weights
from modelsmith.vae.company import architecture_of, with_company
from modelsmith.vae.families import FAMILIES, FAMILY_RECORD, Fit, Hints, Identity, fits, identify_vae
from modelsmith.vae.health import FIX_RECORD
from modelsmith.vae.keys import PREFIXES, Naming, is_attention_matrix, spell
from modelsmith.vae.layout import Layout, Shape, VaeFile, find_vae
from modelsmith.vae.measure import Watch
from modelsmith.vae.output import check_target, converted, kept_metadata, merged_metadata, wanted_dtype

BAKE_RECORD = "modelsmith_vae_bake"

_CARRIED = ("bn.", "latents_mean", "latents_std")
"""What belongs to a VAE beside its network and has to go where it goes; training losses do not."""

_COMFY_ARCHITECTURES = frozenset({"flux1", "flux2", "chroma", "z-image", "lumina2"})
"""Whose checkpoints keep the VAE under ``vae.`` (ComfyUI's naming); the others use ``first_stage_model.``."""


@dataclass(frozen=True)
class BakeRequest:
    """A VAE to put into a checkpoint. dtype: fp32, bf16 or fp16, None for the VAE's own.

    force: bake even a VAE that belongs to another family. hints: what is known of the VAE's family.
    """

    checkpoint: Path
    vae: Path
    target: Path
    dtype: str | None = None
    force: bool = False
    hints: Hints = field(default_factory=Hints)
    overwrite: bool = False


@dataclass(frozen=True)
class ExtractRequest:
    """A VAE to take out of a checkpoint, or to write anew in another spelling.

    naming: ``ldm`` is what the webuis read, ``diffusers`` what its library reads.
    """

    source: Path
    target: Path
    naming: Literal["ldm", "diffusers"] = "ldm"
    dtype: str | None = None
    hints: Hints = field(default_factory=Hints)
    overwrite: bool = False


@dataclass(frozen=True)
class MoveResult:
    """A finished bake or extraction. fit: whether the VAE is known to suit the checkpoint (bake only)."""

    path: Path
    sha256: str | None
    bytes: int
    seconds: float
    identity: Identity
    fit: Fit
    tensors: int
    replaced: int


@dataclass(frozen=True)
class _Part:
    """One tensor of the VAE on its way: the entry to write, and the name that it has in its file."""

    entry: Entry
    actual: str


def run_bake(request: BakeRequest, watch: Watch | None = None) -> MoveResult:
    """Write a checkpoint with another VAE in it; every other tensor is copied byte for byte.

    The names follow the VAE that was in the checkpoint, or the architecture's custom where there was none.
    Raises BadFileError for a VAE of another shape or family, and for a file that is no checkpoint; nothing is written.
    """
    watch = watch or Watch()
    started = time.monotonic()
    for source in (request.checkpoint, request.vae):
        check_target(source, request.target, request.overwrite)
    dtype = wanted_dtype(request.dtype)
    header = with_weights(read_header(request.checkpoint))
    vae = find_vae(read_header(request.vae))
    identity = identify_vae(vae, with_company(vae, request.hints))
    architecture = _require_checkpoint(header)
    fit = _require_fit(request, header, vae, identity, architecture)
    prefix = _prefix_in(header, architecture)
    parts = _parts(vae, prefix, _naming_in(header, prefix, vae.layout), dtype)
    kept = [name for name in header.tensors if not name.startswith(prefix)]
    record = {"by": f"modelsmith {__version__}", "file": request.vae.name, "family": list(identity.families)}
    metadata = merged_metadata(kept_metadata(header), FIX_RECORD, vae.header.metadata.get(FIX_RECORD))
    metadata[BAKE_RECORD] = json.dumps(record)
    entries = [Entry(name, header.tensors[name].dtype, header.tensors[name].shape) for name in kept]
    entries += [part.entry for part in parts]
    options = WriterOptions(overwrite=request.overwrite)
    with (
        open_tensors(header) as source,
        open_tensors(vae.header) as donor,
        StreamingWriter(request.target, entries, metadata, options) as writer,
    ):
        for number, name in enumerate(kept):
            watch.step("copying", number / len(entries))
            writer.write(name, source.load(name))
        for number, tensor in _tensors(vae, parts, donor):
            watch.step("baking", (len(kept) + number) / len(entries))
            writer.write(parts[number].entry.name, tensor)
        source.check_unchanged()
        donor.check_unchanged()
        written = writer.finish()
    return _result(written, started, identity, fit, len(parts), len(header.tensors) - len(kept))


def run_extract(request: ExtractRequest, watch: Watch | None = None) -> MoveResult:
    """Write the VAE of a checkpoint (or a VAE file) as a file of its own, in the chosen spelling.

    The output's metadata say which family it belongs to where that is settled, since its header no longer shows it.
    Raises BadFileError for a file without a VAE of a known shape; nothing is written.
    """
    watch = watch or Watch()
    started = time.monotonic()
    check_target(request.source, request.target, request.overwrite)
    vae = find_vae(read_header(request.source))
    identity = identify_vae(vae, with_company(vae, request.hints))
    naming: Naming = "diffusers" if request.naming == "diffusers" else _ldm_naming(vae.layout)
    parts = _parts(vae, "", naming, wanted_dtype(request.dtype))
    metadata = {"format": "pt", "modelsmith_vae_source": request.source.name}
    if identity.family is not None and identity.grade in ("proof", "strong"):
        metadata[FAMILY_RECORD] = identity.family
    metadata = merged_metadata(metadata, FIX_RECORD, vae.header.metadata.get(FIX_RECORD))
    options = WriterOptions(overwrite=request.overwrite)
    entries = [part.entry for part in parts]
    with (
        open_tensors(vae.header) as source,
        StreamingWriter(request.target, entries, metadata, options) as writer,
    ):
        for number, tensor in _tensors(vae, parts, source):
            watch.step("extracting", number / len(parts))
            writer.write(parts[number].entry.name, tensor)
        source.check_unchanged()
        written = writer.finish()
    return _result(written, started, identity, "unsure", len(parts), 0)


def _result(written: Written, started: float, identity: Identity, fit: Fit, tensors: int, replaced: int) -> MoveResult:
    seconds = time.monotonic() - started
    return MoveResult(written.path, written.sha256, written.bytes, seconds, identity, fit, tensors, replaced)


def _parts(vae: VaeFile, prefix: str, naming: Naming, dtype: str | None) -> list[_Part]:
    levels = len(vae.layout.up)
    shapes = vae.layout.tensors()
    found: list[_Part] = []
    for name, actual in vae.names.items():
        shape: Shape = shapes[name]
        if naming == "diffusers" and is_attention_matrix(name):
            shape = shape[:2]
        kind = dtype or vae.header.tensors[actual].dtype
        found.append(_Part(Entry(prefix + spell(name, naming, levels), kind, shape), actual))
    for actual in vae.extras:
        name = actual[len(vae.prefix) :]
        if name.startswith(_CARRIED):
            info = vae.header.tensors[actual]
            found.append(_Part(Entry(prefix + name, info.dtype, info.shape), actual))
    return found


def _tensors(vae: VaeFile, parts: list[_Part], source: TensorSource) -> Iterator[tuple[int, Tensor]]:
    for number, part in enumerate(parts):
        tensor = source.load(part.actual)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BadFileError(
                vae.header.path,
                f"the VAE's tensor {part.actual!r} has NaN or infinite values",
                "The file is damaged or its making overflowed: get the VAE again",
            )
        if tensor.is_floating_point():
            tensor = converted(tensor, part.entry.dtype, vae.header, part.actual)
        yield number, tensor.reshape(part.entry.shape)


def _require_checkpoint(header: FileHeader) -> str | None:
    if not any(name.startswith("model.diffusion_model.") for name in header.tensors):
        raise BadFileError(
            header.path,
            "it is no checkpoint (nothing under model.diffusion_model.), so that a VAE would not be found in it",
            "Choose a checkpoint; a bare diffusion model keeps its VAE in a file of its own",
        )
    return architecture_of(header)


def _require_fit(
    request: BakeRequest, header: FileHeader, vae: VaeFile, identity: Identity, architecture: str | None
) -> Fit:
    for prefix in PREFIXES[:-1]:
        entry = header.tensors.get(f"{prefix}decoder.conv_in.weight")
        channels = vae.layout.latent_channels
        if entry is not None and len(entry.shape) == 4 and entry.shape[1] != channels:
            raise BadFileError(
                request.vae,
                f"the VAE has {channels} latent channels, {header.path.name} needs {entry.shape[1]}",
                "Choose a VAE of the checkpoint's own family",
            )
    fit = fits(identity, architecture) if architecture is not None else "unsure"
    if fit == "does_not_fit" and not (request.force and _same_channels(vae, architecture)):
        told = f"it is a VAE of {identity.label()}, and {header.path.name} is {architecture}"
        if not identity.families:
            wanted = " / ".join(one.label for one in FAMILIES.values() if architecture in one.architectures)
            told = f"the family of this VAE cannot be told, and {header.path.name} needs one of {wanted}"
        raise BadFileError(
            request.vae,
            told,
            "Choose a VAE of the checkpoint's own family, or say that it is to be baked all the same",
        )
    return fit


def _same_channels(vae: VaeFile, architecture: str | None) -> bool:
    wanted = {family.latent_channels for family in FAMILIES.values() if architecture in family.architectures}
    return vae.layout.latent_channels in wanted


def _prefix_in(header: FileHeader, architecture: str | None) -> str:
    for prefix in PREFIXES[:-1]:
        if any(name.startswith(prefix) for name in header.tensors):
            return prefix
    return "vae." if architecture in _COMFY_ARCHITECTURES else "first_stage_model."


def _naming_in(header: FileHeader, prefix: str, layout: Layout) -> Naming:
    if any(name.startswith((f"{prefix}decoder.mid_block.", f"{prefix}decoder.up_blocks.")) for name in header.tensors):
        return "diffusers"
    return _ldm_naming(layout)


def _ldm_naming(layout: Layout) -> Naming:
    """FLUX.2's original files keep the two 1x1 convolutions inside encoder and decoder."""
    return "ldm-nested" if layout.batch_norm and layout.quant_conv else "ldm"
