"""The shape of a VAE, read from its header: where it lies, how it is spelled, and how wide each level is.

Covered is the convolutional KL autoencoder of latent diffusion (Rombach et al., 2022) as SD1, SD2, SDXL, SD3, FLUX.1
and FLUX.2 use it, at any width and number of levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NoReturn

from modelsmith.errors import BadFileError
from modelsmith.identify.recipe_file import with_weights
from modelsmith.vae.keys import PREFIXES, Naming, canonical, is_attention_matrix

if TYPE_CHECKING:
    from modelsmith.files.header import FileHeader

Shape = tuple[int, ...]
Side = Literal["encoder", "decoder"]

GROUPS = 32
"""Groups of every GroupNorm in this family of networks."""

FLOAT_TYPES = ("F16", "BF16", "F32", "F64")

_NOT_CALCULATED = ("loss.", "model_ema.", "bn.", "logvar", "latents_mean", "latents_std")
_OTHER_KINDS = (
    ("decoder.middle.0.residual.0.gamma", "a Wan / Qwen-Image VAE"),
    ("decoder.mid_block.resnets.0.norm1.gamma", "a Wan / Qwen-Image VAE in diffusers naming"),
    ("decoder.layers.0.weight", "a tiny autoencoder (TAESD)"),
    ("decoder.layers.1.weight", "a tiny autoencoder (TAESD)"),
    ("taesd_decoder.1.weight", "a tiny autoencoder (TAESD)"),
)
_QUANT_MARKS = ("weight_scale", "scale_weight", "comfy_quant", "quant_state", "quant_map", "absmax", "qweight")


@dataclass(frozen=True)
class Level:
    """One resolution: how many channels its blocks give out, and how many blocks it has."""

    channels: int
    blocks: int


@dataclass(frozen=True)
class Layout:
    """The network. Levels are counted from the finest (0) to the coarsest, on both sides."""

    latent_channels: int
    image_channels: int
    down: tuple[Level, ...]
    up: tuple[Level, ...]
    encoder_mid: int
    decoder_mid: int
    attention: bool
    quant_conv: bool
    post_quant_conv: bool
    batch_norm: bool

    @property
    def factor(self) -> int:
        """Image pixels along one side of a latent pixel."""
        return 2 ** (len(self.up) - 1)

    def tensors(self) -> dict[str, Shape]:
        """Every tensor that the network calculates with, by canonical name, in the ldm shape."""
        return dict(_expected(self))


@dataclass(frozen=True)
class VaeFile:
    """A VAE found in a file.

    prefix: what stands before its names (empty for a file of its own). names: canonical name -> name in the file.
    extras: names in the file that belong to the VAE and take no part in its calculation (``loss.``, ``bn.``).
    """

    header: FileHeader
    prefix: str
    naming: Naming
    layout: Layout
    names: Mapping[str, str]
    extras: tuple[str, ...]

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The element types of the VAE's tensors, the most frequent first."""
        counts: dict[str, int] = {}
        for name in self.names.values():
            kind = self.header.tensors[name].dtype
            counts[kind] = counts.get(kind, 0) + 1
        return tuple(sorted(counts, key=lambda kind: -counts[kind]))


def find_vae(header: FileHeader) -> VaeFile:
    """Find the VAE in a file and check every tensor of it by name, type and shape.

    Raises BadFileError, which names the tensor, for a file without one, an unknown kind or shape, or a quantised one.
    """
    with_weights(header)
    for prefix in PREFIXES:
        bare = {name[len(prefix) :]: name for name in header.tensors if name.startswith(prefix)}
        if any(name.startswith(("decoder.", "taesd_decoder.")) for name in bare):
            return _read(header, prefix, bare)
    if any(name.startswith(("encoder.conv_in.", "encoder.down")) for name in header.tensors):
        raise BadFileError(header.path, "the VAE has no decoder", "Choose a file with the whole VAE")
    raise BadFileError(
        header.path,
        "there is no VAE in it (nothing under first_stage_model., vae. or decoder.)",
        "Choose a VAE or a checkpoint with one baked in",
    )


def _read(header: FileHeader, prefix: str, bare: Mapping[str, str]) -> VaeFile:
    _refuse_other_kinds(header, bare)
    _refuse_quantised(header, bare)
    naming = _naming(header, bare)
    pattern = "decoder.up_blocks." if naming == "diffusers" else "decoder.up."
    levels = 1 + max((int(name[len(pattern) :].split(".")[0]) for name in bare if _counts(name, pattern)), default=-1)
    names: dict[str, str] = {}
    for name, actual in bare.items():
        names.setdefault(canonical(name, levels), actual)
    layout = _layout(header, names, levels)
    expected = layout.tensors()
    for name, shape in expected.items():
        _check_shape(header, names, name, shape)
    extras = [actual for name, actual in names.items() if name not in expected]
    for actual in extras:
        if not actual[len(prefix) :].startswith(_NOT_CALCULATED):
            _refuse(header, actual, "is none that a VAE of this shape has")
    return VaeFile(header, prefix, naming, layout, {name: names[name] for name in expected}, tuple(extras))


def _counts(name: str, pattern: str) -> bool:
    return name.startswith(pattern) and name[len(pattern) :].split(".")[0].isdigit()


def _refuse(header: FileHeader, tensor: str, problem: str) -> NoReturn:
    raise BadFileError(
        header.path,
        f"the VAE's tensor {tensor!r} {problem}",
        "Choose a complete VAE of SD1, SD2, SDXL, SD3, FLUX.1 or FLUX.2; nothing was written",
    )


def _refuse_other_kinds(header: FileHeader, bare: Mapping[str, str]) -> None:
    for name, kind in _OTHER_KINDS:
        if name in bare:
            raise BadFileError(
                header.path,
                f"tensor {bare[name]!r} shows {kind}, whose network is another one",
                "Choose a VAE of SD1, SD2, SDXL, SD3, FLUX.1 or FLUX.2",
            )
    entry = bare.get("decoder.conv_in.weight") or bare.get("decoder.conv_in.conv.weight")
    if entry is not None and len(header.tensors[entry].shape) == 5:
        _refuse(header, entry, "is five-dimensional: it is a video VAE")


def _refuse_quantised(header: FileHeader, bare: Mapping[str, str]) -> None:
    for name, actual in bare.items():
        if name.startswith(_NOT_CALCULATED):
            continue
        info = header.tensors[actual]
        if info.dtype not in FLOAT_TYPES or any(mark in name for mark in _QUANT_MARKS):
            raise BadFileError(
                header.path,
                f"the VAE is quantised (tensor {actual!r} is of type {info.dtype})",
                "Choose the VAE in fp32, bf16 or fp16",
            )


def _naming(header: FileHeader, bare: Mapping[str, str]) -> Naming:
    if "decoder.mid_block.resnets.0.conv1.weight" in bare:
        return "diffusers"
    if "decoder.mid.block_1.conv1.weight" in bare:
        return "ldm-nested" if "decoder.post_quant_conv.weight" in bare else "ldm"
    first = next(actual for name, actual in bare.items() if name.startswith(("decoder.", "taesd_decoder.")))
    _refuse(header, first, "belongs to a network of an unknown shape")


def _layout(header: FileHeader, names: Mapping[str, str], levels: int) -> Layout:
    def shape(name: str, rank: int = 4) -> Shape:
        if name not in names:
            _refuse(header, name, "is missing")
        found = header.tensors[names[name]].shape
        if len(found) != rank:
            _refuse(header, names[name], f"has the shape {list(found)} instead of {rank} dimensions")
        return found

    def side(start: str) -> tuple[Level, ...]:
        found: list[Level] = []
        for level in range(levels):
            blocks = 0
            while f"{start}.{level}.block.{blocks}.conv1.weight" in names:
                blocks += 1
            found.append(Level(shape(f"{start}.{level}.block.0.conv1.weight")[0], blocks))
        return tuple(found)

    if levels == 0:
        _refuse(header, "decoder.up.0.block.0.conv1.weight", "is missing")
    return Layout(
        latent_channels=shape("decoder.conv_in.weight")[1],
        image_channels=shape("decoder.conv_out.weight")[0],
        down=side("encoder.down"),
        up=side("decoder.up"),
        encoder_mid=shape("encoder.mid.block_1.conv1.weight")[0],
        decoder_mid=shape("decoder.conv_in.weight")[0],
        attention="decoder.mid.attn_1.norm.weight" in names,
        quant_conv="quant_conv.weight" in names,
        post_quant_conv="post_quant_conv.weight" in names,
        batch_norm="bn.running_mean" in names,
    )


def _check_shape(header: FileHeader, names: Mapping[str, str], name: str, shape: Shape) -> None:
    if name not in names:
        _refuse(header, name, f"is missing (its shape would be {list(shape)})")
    found = header.tensors[names[name]].shape
    if found == shape or (is_attention_matrix(name) and found == shape[:2]):
        if name.endswith(("norm1.weight", "norm2.weight", "norm.weight", "norm_out.weight")) and shape[0] % GROUPS:
            _refuse(header, names[name], f"has {shape[0]} channels, which do not make {GROUPS} groups")
        return
    _refuse(header, names[name], f"has the shape {list(found)} where {list(shape)} belongs")


def _expected(layout: Layout) -> Iterator[tuple[str, Shape]]:
    latent, image = layout.latent_channels, layout.image_channels
    finest = layout.down[0].channels
    yield from _conv("encoder.conv_in", image, finest, 3)
    width = finest
    for number, level in enumerate(layout.down):
        for block in range(level.blocks):
            yield from _block(f"encoder.down.{number}.block.{block}", width, level.channels)
            width = level.channels
        if number + 1 < len(layout.down):
            yield from _conv(f"encoder.down.{number}.downsample.conv", width, width, 3)
    yield from _middle("encoder", width, layout.attention)
    yield from _norm("encoder.norm_out", width)
    yield from _conv("encoder.conv_out", width, 2 * latent, 3)
    if layout.quant_conv:
        yield from _conv("quant_conv", 2 * latent, 2 * latent, 1)
    if layout.post_quant_conv:
        yield from _conv("post_quant_conv", latent, latent, 1)
    width = layout.decoder_mid
    yield from _conv("decoder.conv_in", latent, width, 3)
    yield from _middle("decoder", width, layout.attention)
    for number, level in reversed(list(enumerate(layout.up))):
        for block in range(level.blocks):
            yield from _block(f"decoder.up.{number}.block.{block}", width, level.channels)
            width = level.channels
        if number:
            yield from _conv(f"decoder.up.{number}.upsample.conv", width, width, 3)
    yield from _norm("decoder.norm_out", width)
    yield from _conv("decoder.conv_out", width, image, 3)


def _middle(side: Side, width: int, attention: bool) -> Iterator[tuple[str, Shape]]:
    yield from _block(f"{side}.mid.block_1", width, width)
    if attention:
        yield from _norm(f"{side}.mid.attn_1.norm", width)
        for layer in ("q", "k", "v", "proj_out"):
            yield from _conv(f"{side}.mid.attn_1.{layer}", width, width, 1)
    yield from _block(f"{side}.mid.block_2", width, width)


def _block(name: str, before: int, after: int) -> Iterator[tuple[str, Shape]]:
    yield from _norm(f"{name}.norm1", before)
    yield from _conv(f"{name}.conv1", before, after, 3)
    yield from _norm(f"{name}.norm2", after)
    yield from _conv(f"{name}.conv2", after, after, 3)
    if before != after:
        yield from _conv(f"{name}.nin_shortcut", before, after, 1)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _conv(name: str, before: int, after: int, size: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (after, before, size, size)
    yield f"{name}.bias", (after,)
