"""VAE files as users have them in models/VAE, and checkpoints whose own VAE is damaged or missing. Small ones."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from host.checkpoints import clip_text, vae

PREFIX = "first_stage_model."
# What diffusers writes into the config.json of a VAE.
SCALING = {"sd": 0.18215, "sdxl": 0.13025}


def write_vae_file(path: Path, *, family: str | None = None, channels: int = 4, width: int = 32, seed: int = 1) -> Path:
    """A VAE of its own. ``family`` writes the configuration beside it that tells it; without, nothing tells it."""
    random = np.random.default_rng(seed)
    header: dict[str, Any] = {}
    blobs: list[bytes] = []
    offset = 0
    for name, shape in vae(width):
        shape = _with_channels(name, shape, channels)
        values = random.standard_normal(shape, np.float32) * 0.5 / math.sqrt(math.prod(shape[1:]) or 1)
        if "norm" in name and name.endswith("weight"):
            values = 1 + 0.05 * random.standard_normal(shape, np.float32)
        data = values.astype(np.float16).tobytes()
        header[name.removeprefix(PREFIX)] = {
            "dtype": "F16",
            "shape": list(shape),
            "data_offsets": [offset, offset + len(data)],
        }
        blobs.append(data)
        offset += len(data)
    _write(path, header, blobs)
    if family is not None:
        config = {"_class_name": "AutoencoderKL", "scaling_factor": SCALING[family]}
        path.with_suffix(".json").write_text(json.dumps(config))
    return path


def _with_channels(name: str, shape: tuple[int, ...], channels: int) -> tuple[int, ...]:
    """The shape of a tensor of the usual VAE with another number of latent channels."""
    bare = name.removeprefix(PREFIX)
    if bare.startswith("encoder.conv_out"):
        return (2 * channels, *shape[1:])
    if bare.startswith("decoder.conv_in"):
        return shape if len(shape) == 1 else (shape[0], channels, *shape[2:])
    if bare.startswith(("quant_conv", "post_quant_conv")):
        count = channels if bare.startswith("post") else 2 * channels
        return (count,) if len(shape) == 1 else (count, count, 1, 1)
    return shape


def change_vae(source: Path, target: Path, *, remove: bool) -> Path:
    """Copy a checkpoint with its own VAE removed, or with infinity in the decoder's last layer."""
    with source.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
        metadata = header.pop("__metadata__", None)
        written: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
        blobs: list[bytes] = []
        offset = 0
        for name, entry in header.items():
            if remove and name.startswith(PREFIX):
                continue
            start, end = entry["data_offsets"]
            file.seek(8 + length + start)
            data = file.read(end - start)
            if name == f"{PREFIX}decoder.conv_out.weight":
                data = np.full(len(data) // 2, np.inf, np.float16).tobytes()
            written[name] = {**entry, "data_offsets": [offset, offset + len(data)]}
            blobs.append(data)
            offset += len(data)
    _write(target, written, blobs)
    return target


def split_checkpoint(whole: Path, unet: Path, rest: Path) -> None:
    """The UNet under bare names with the marks of the whole, and all else as one additional module."""
    data = whole.read_bytes()
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    parts: dict[Path, tuple[dict[str, Any], list[bytes]]] = {unet: ({}, []), rest: ({}, [])}
    sizes = dict.fromkeys(parts, 0)
    for name, entry in json.loads(data[8:begin]).items():
        if name == "__metadata__":
            continue
        target = rest if name.startswith((PREFIX, "conditioner.")) else unet
        start, end = entry["data_offsets"]
        header, blobs = parts[target]
        offsets = [sizes[target], sizes[target] + end - start]
        header[name.removeprefix("model.diffusion_model.")] = {**entry, "data_offsets": offsets}
        blobs.append(data[begin + start : begin + end])
        sizes[target] = offsets[1]
    for path, (header, blobs) in parts.items():
        _write(path, header, blobs)


def _write(path: Path, header: dict[str, Any], blobs: list[bytes]) -> None:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(blobs)


def write_clip_l(path: Path, layers: int = 2) -> Path:
    """A text encoder of its own, as users put it into models/text_encoder."""
    random = np.random.default_rng(7)
    header: dict[str, Any] = {}
    blobs: list[bytes] = []
    offset = 0
    for name, shape in clip_text("text_model", 768, layers):
        data = (0.05 * random.standard_normal(shape, np.float32)).astype(np.float16).tobytes()
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        blobs.append(data)
        offset += len(data)
    _write(path, header, blobs)
    return path
