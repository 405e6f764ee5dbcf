"""What a VAE is run on to see how large its activations become: seeded Gaussian latents, and images where given."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modelsmith.errors import BadFileError, UsageError
from modelsmith.vae.layout import Layout
from modelsmith.vae.network import Weights, encode

SMALL_SIDE = 4
"""Latent pixels a side of a run in fp16 itself, which a CPU does at half a billion products a second: a VAE of SDXL's
width takes about half a minute on one core, four times as long with 8."""

_KINDS = ("white noise", "smooth noise", "flat colour")
_BATCH_NORM_EPS = 1e-4
"""FLUX.2 un-normalises its packed latents with the running statistics and this epsilon (black-forest-labs/flux2)."""


@dataclass(frozen=True)
class CalibrationOptions:
    """What to run a VAE on.

    latents: how many Gaussian latents, of three kinds in turn (white, smooth, flat). size: their side in latent pixels.
    seed: of all of them. images: pictures to encode and decode as well. image_size: longest side they are cut to.
    """

    latents: int = 3
    size: int = 32
    seed: int = 0
    images: tuple[Path, ...] = ()
    image_size: int = 256

    def __post_init__(self) -> None:
        if self.latents < 1 or self.size < 2:
            raise UsageError("calibration needs at least one latent of at least 2 x 2")
        if self.image_size < 16:
            raise UsageError("calibration images need at least 16 pixels a side")


Inputs = tuple[tuple[str, Tensor], ...]
"""Names for people, and what to run: [1, C, H, W] in fp32."""


@dataclass(frozen=True)
class Calibration:
    """The inputs of the decoder and of the encoder."""

    latents: Inputs
    images: Inputs


@dataclass(frozen=True)
class LatentScale:
    """How the diffusion model's latents relate to the VAE's: vae = model / scale + shift."""

    scale: float = 1.0
    shift: float = 0.0


def gaussian_latents(
    layout: Layout, scale: LatentScale, options: CalibrationOptions, statistics: Weights | None = None
) -> Inputs:
    """Seeded latents as the diffusion model would hand them to the decoder.

    statistics: FLUX.2's ``bn.running_mean`` and ``bn.running_var``.
    """
    return tuple(
        (f"latent {number + 1}, {_KINDS[number % 3]}", _latent(layout, scale, options, number, statistics))
        for number in range(options.latents)
    )


def given_images(layout: Layout, options: CalibrationOptions) -> Inputs:
    """The images that were given, as the encoder takes them. Raises BadFileError for an unreadable one."""
    return tuple((path.name, read_image(path, layout.factor, options.image_size)) for path in options.images)


def image_latents(layout: Layout, weights: Weights, images: Inputs) -> Inputs:
    """The latents (means) of images, encoded in fp32."""
    with torch.no_grad():
        return tuple(
            (f"latent of {name}", encode(layout, weights, image)[:, : layout.latent_channels]) for name, image in images
        )


def made_images(layout: Layout, decoded: Mapping[str, Tensor], options: CalibrationOptions) -> Inputs:
    """The encoder's inputs where no image was given: what the decoder made, and an image of noise."""
    made = [(f"image of {name}", image.clamp(-1, 1)) for name, image in decoded.items()]
    generator = torch.Generator().manual_seed(options.seed)
    side = options.size * layout.factor
    noise = torch.rand((1, layout.image_channels, side, side), generator=generator) * 2 - 1
    return (*made, ("image of noise", noise))


def small_inputs(layout: Layout, calibration: Calibration) -> Calibration:
    """The corner of the first latent, and of the first image, that has SMALL_SIDE latent pixels a side."""
    side = SMALL_SIDE
    latents = tuple((f"{name}, {side} x {side} of it", value[..., :side, :side]) for name, value in calibration.latents)
    pixels = side * layout.factor
    images = tuple((f"{name}, a corner of it", value[..., :pixels, :pixels]) for name, value in calibration.images)
    return Calibration(latents[:1], images[:1])


def read_image(path: Path, factor: int, longest: int) -> Tensor:
    """Read a picture as [1, 3, H, W] in -1..1, made smaller to ``longest`` and cut to whole latent pixels."""
    try:
        pillow: Any = importlib.import_module("PIL.Image")  # a host has it; its types differ between versions
    except ImportError as error:
        raise UsageError("images cannot be read without Pillow", "Install it, or calibrate without images") from error
    try:
        with pillow.open(path) as opened:
            picture: Any = opened.convert("RGB")
    except (OSError, ValueError, pillow.DecompressionBombError) as error:
        raise BadFileError(path, "it is no readable image", "Choose PNG, JPEG or WebP pictures") from error
    picture.thumbnail((longest, longest))
    width: int = picture.width - picture.width % factor
    height: int = picture.height - picture.height % factor
    if not width or not height:
        raise BadFileError(path, f"the image is smaller than {factor} pixels", "Choose a larger one")
    picture = picture.crop((0, 0, width, height))
    flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return flat.reshape(height, width, 3).permute(2, 0, 1)[None].float() / 127.5 - 1


def _latent(
    layout: Layout, scale: LatentScale, options: CalibrationOptions, number: int, statistics: Weights | None
) -> Tensor:
    kind = _KINDS[number % 3]
    packed = statistics is not None
    channels = layout.latent_channels * (4 if packed else 1)
    side = max(1, options.size // 2) if packed else options.size
    generator = torch.Generator().manual_seed(options.seed * 1000 + number)
    coarse = {"white noise": side, "smooth noise": max(2, side // 4), "flat colour": 1}[kind]
    noise = torch.randn((1, channels, coarse, coarse), generator=generator)
    if coarse != side:
        noise = F.interpolate(noise, size=(side, side), mode="bicubic" if coarse > 1 else "nearest")
    if statistics is not None:
        return _unpacked(noise, statistics)
    return noise / scale.scale + scale.shift


def _unpacked(noise: Tensor, statistics: Weights) -> Tensor:
    """FLUX.2: undo the batch normalisation of 2 x 2 packed latents, then unpack them."""
    mean = statistics["bn.running_mean"].float()[None, :, None, None]
    deviation = (statistics["bn.running_var"].float() + _BATCH_NORM_EPS).sqrt()[None, :, None, None]
    return F.pixel_shuffle(noise * deviation + mean, 2)


def image_paths(names: Sequence[str]) -> tuple[Path, ...]:
    """Turn names of pictures, or of folders of pictures, into paths. Raises UsageError where one does not exist."""
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found += sorted(
                entry for entry in path.iterdir() if entry.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"}
            )
        elif path.is_file():
            found.append(path)
        else:
            raise UsageError(f"{path} is neither an image nor a folder")
    return tuple(found)
