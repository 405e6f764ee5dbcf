"""Two small checkpoints to try things on: every key name of Stable Diffusion 1.5, narrow tensors, finite values.

They are for looking and merging; they make no pictures.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Shape = tuple[int, ...]
Named = Iterator[tuple[str, Shape]]

NAMES = ("modelsmith-demo-a.safetensors", "modelsmith-demo-b.safetensors")

# Stable Diffusion 1.5 has 320, 768, 768 and 128 here. A tenth to a quarter of it keeps a file near 35 MB, and all
# widths divide by the 32 groups of the group norms.
UNET_WIDTH, CONTEXT_WIDTH, TEXT_WIDTH, VAE_WIDTH = 32, 64, 64, 32
VOCABULARY, POSITIONS, TEXT_LAYERS = 49408, 77, 12


def _layer(name: str, *shape: int) -> Named:
    """A weight of ``shape`` and its bias."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", (shape[0],)


def _residual(name: str, width_in: int, width: int) -> Named:
    yield from _layer(f"{name}.in_layers.0", width_in)
    yield from _layer(f"{name}.in_layers.2", width, width_in, 3, 3)
    yield from _layer(f"{name}.emb_layers.1", width, 4 * UNET_WIDTH)
    yield from _layer(f"{name}.out_layers.0", width)
    yield from _layer(f"{name}.out_layers.3", width, width, 3, 3)
    if width_in != width:
        yield from _layer(f"{name}.skip_connection", width, width_in, 1, 1)


def _attention(name: str, width: int) -> Named:
    yield from _layer(f"{name}.norm", width)
    yield from _layer(f"{name}.proj_in", width, width, 1, 1)
    block = f"{name}.transformer_blocks.0"
    for part, context in (("attn1", width), ("attn2", CONTEXT_WIDTH)):
        yield f"{block}.{part}.to_q.weight", (width, width)
        yield f"{block}.{part}.to_k.weight", (width, context)
        yield f"{block}.{part}.to_v.weight", (width, context)
        yield from _layer(f"{block}.{part}.to_out.0", width, width)
    yield from _layer(f"{block}.ff.net.0.proj", 8 * width, width)
    yield from _layer(f"{block}.ff.net.2", width, 4 * width)
    for norm in ("norm1", "norm2", "norm3"):
        yield from _layer(f"{block}.{norm}", width)
    yield from _layer(f"{name}.proj_out", width, width, 1, 1)


def _unet() -> Named:
    """Four levels of widths 1, 2, 4, 4; two residual blocks a level going down, three going up."""
    yield from _layer("time_embed.0", 4 * UNET_WIDTH, UNET_WIDTH)
    yield from _layer("time_embed.2", 4 * UNET_WIDTH, 4 * UNET_WIDTH)
    yield from _layer("input_blocks.0.0", UNET_WIDTH, 4, 3, 3)
    widths = [UNET_WIDTH * factor for factor in (1, 2, 4, 4)]
    skips, width, index = [UNET_WIDTH], UNET_WIDTH, 0
    for level, wanted in enumerate(widths):
        for _ in range(2):
            index += 1
            yield from _residual(f"input_blocks.{index}.0", width, wanted)
            if level < 3:
                yield from _attention(f"input_blocks.{index}.1", wanted)
            width = wanted
            skips.append(width)
        if level < 3:
            index += 1
            yield from _layer(f"input_blocks.{index}.0.op", width, width, 3, 3)
            skips.append(width)
    yield from _residual("middle_block.0", width, width)
    yield from _attention("middle_block.1", width)
    yield from _residual("middle_block.2", width, width)
    yield from _upward(widths, width, skips)
    yield from _layer("out.0", UNET_WIDTH)
    yield from _layer("out.2", 4, UNET_WIDTH, 3, 3)


def _upward(widths: list[int], width: int, skips: list[int]) -> Named:
    index = 0
    for level in (3, 2, 1, 0):
        for block in range(3):
            yield from _residual(f"output_blocks.{index}.0", width + skips.pop(), widths[level])
            width = widths[level]
            if level < 3:
                yield from _attention(f"output_blocks.{index}.1", width)
            if block == 2 and level > 0:
                name = f"output_blocks.{index}.{1 if level == 3 else 2}.conv"
                yield from _layer(name, width, width, 3, 3)
            index += 1


def _vae_block(name: str, width_in: int, width: int) -> Named:
    yield from _layer(f"{name}.norm1", width_in)
    yield from _layer(f"{name}.conv1", width, width_in, 3, 3)
    yield from _layer(f"{name}.norm2", width)
    yield from _layer(f"{name}.conv2", width, width, 3, 3)
    if width_in != width:
        yield from _layer(f"{name}.nin_shortcut", width, width_in, 1, 1)


def _vae_middle(side: str, width: int) -> Named:
    yield from _vae_block(f"{side}.mid.block_1", width, width)
    yield from _layer(f"{side}.mid.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from _layer(f"{side}.mid.attn_1.{part}", width, width, 1, 1)
    yield from _vae_block(f"{side}.mid.block_2", width, width)


def _vae() -> Named:
    widths = [VAE_WIDTH * factor for factor in (1, 2, 4, 4)]
    width = VAE_WIDTH
    yield from _layer("encoder.conv_in", width, 3, 3, 3)
    for level, wanted in enumerate(widths):
        for block in range(2):
            yield from _vae_block(f"encoder.down.{level}.block.{block}", width, wanted)
            width = wanted
        if level < 3:
            yield from _layer(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    yield from _vae_middle("encoder", width)
    yield from _layer("encoder.norm_out", width)
    yield from _layer("encoder.conv_out", 8, width, 3, 3)
    yield from _layer("decoder.conv_in", width, 4, 3, 3)
    yield from _vae_middle("decoder", width)
    for level in (3, 2, 1, 0):
        for block in range(3):
            yield from _vae_block(f"decoder.up.{level}.block.{block}", width, widths[level])
            width = widths[level]
        if level > 0:
            yield from _layer(f"decoder.up.{level}.upsample.conv", width, width, 3, 3)
    yield from _layer("decoder.norm_out", width)
    yield from _layer("decoder.conv_out", 3, width, 3, 3)
    yield from _layer("quant_conv", 8, 8, 1, 1)
    yield from _layer("post_quant_conv", 4, 4, 1, 1)


def _text_encoder() -> Named:
    yield "embeddings.token_embedding.weight", (VOCABULARY, TEXT_WIDTH)
    yield "embeddings.position_embedding.weight", (POSITIONS, TEXT_WIDTH)
    for index in range(TEXT_LAYERS):
        layer = f"encoder.layers.{index}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _layer(f"{layer}.self_attn.{part}", TEXT_WIDTH, TEXT_WIDTH)
        yield from _layer(f"{layer}.layer_norm1", TEXT_WIDTH)
        yield from _layer(f"{layer}.mlp.fc1", 4 * TEXT_WIDTH, TEXT_WIDTH)
        yield from _layer(f"{layer}.mlp.fc2", TEXT_WIDTH, 4 * TEXT_WIDTH)
        yield from _layer(f"{layer}.layer_norm2", TEXT_WIDTH)
    yield from _layer("final_layer_norm", TEXT_WIDTH)


def demo_shapes() -> dict[str, Shape]:
    """Every key of a demo checkpoint and its shape; the names are those of Stable Diffusion 1.5."""
    found: dict[str, Shape] = {}
    for prefix, part in (
        ("model.diffusion_model.", _unet()),
        ("first_stage_model.", _vae()),
        ("cond_stage_model.transformer.text_model.", _text_encoder()),
    ):
        found.update((prefix + name, shape) for name, shape in part)
    return found


def _values(name: str, shape: Shape, random: np.random.Generator) -> NDArray[np.float16]:
    """Values of the size that a trained layer has: norms near 1, biases near 0, weights scaled by their inputs."""
    import numpy as np

    if len(shape) == 1:
        middle = 1.0 if name.endswith(".weight") else 0.0
        return (middle + 0.02 * random.standard_normal(shape, dtype=np.float32)).astype(np.float16)
    inputs = max(1, int(np.prod(shape[1:])))
    return (random.standard_normal(shape, dtype=np.float32) / inputs**0.5).astype(np.float16)


def write_demo(path: Path, seed: int) -> Path:
    """Write one demo checkpoint (fp16, about 35 MB). It is written beside its target and renamed when whole."""
    import numpy as np

    header: dict[str, object] = {"__metadata__": {"format": "pt", "modelspec.title": f"Modelsmith demo {path.stem}"}}
    shapes, offset = demo_shapes(), 0
    for name, shape in shapes.items():
        end = offset + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(seed)
    aside = path.with_name(f".{path.name}.modelsmith-{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for name, shape in shapes.items():
                file.write(_values(name, shape, random).tobytes())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def write_demos(folder: Path) -> list[Path]:
    """Write the two demo checkpoints into ``folder``, making it where it is missing. Existing files are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for seed, name in enumerate(NAMES, start=1):
        path = folder / name
        if not path.exists():
            written.append(write_demo(path, seed))
    return written
