"""Small checkpoints with the true key names of whole ones, for webuis whose models the probe narrows to them.

Context widths, depths and block counts are the real ones, so everything that tells architectures apart is real. Only
the UNet's and the VAE's base widths and the number of text encoder layers are reduced. Weights are small random
numbers; the text encoders, whose output does not matter here, are zeros that take no room on most file systems.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

Shape = tuple[int, ...]
Entries = Iterator[tuple[str, Shape]]

CONTEXT_LENGTH = 77
VOCABULARY = 49408
LATENT_CHANNELS = 4
VAE_MULTIPLIERS = (1, 2, 4, 4)
# The bias that tells v-prediction from epsilon in SD2: its standard deviation is above 0.09 in v-prediction models.
SD2_TELLING_BIAS = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"


@dataclass(frozen=True)
class Family:
    """What differs between the UNets and text encoders of the families."""

    multipliers: tuple[int, ...]
    depths: tuple[int, ...]  # transformer blocks per level, 0 where the level has no attention
    context: int
    linear_projection: bool
    vector: int  # width of the pooled vector input, 0 without one
    width: int  # smallest base width that the attention heads of the family allow


SD1 = Family((1, 2, 4, 4), (1, 1, 1, 0), 768, False, 0, 32)
SD2 = Family((1, 2, 4, 4), (1, 1, 1, 0), 1024, True, 0, 64)
SDXL = Family((1, 2, 4), (0, 2, 10), 2048, True, 2816, 32)


@dataclass(frozen=True)
class Recipe:
    """One checkpoint to write."""

    name: str
    family: Family
    markers: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    v_prediction_bias: bool = False  # SD2's telling bias
    schedule: np.ndarray | None = None  # an alphas_cumprod tensor of the file's own
    in_channels: int = LATENT_CHANNELS
    unet_width: int = 0  # 0: the family's smallest
    vae_width: int = 32
    text_layers: int = 2
    seed: int = 0


def _linear(name: str, out: int, into: int, bias: bool = True) -> Entries:
    yield f"{name}.weight", (out, into)
    if bias:
        yield f"{name}.bias", (out,)


def _conv(name: str, out: int, into: int, size: int = 3) -> Entries:
    yield f"{name}.weight", (out, into, size, size)
    yield f"{name}.bias", (out,)


def _norm(name: str, width: int) -> Entries:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _residual(name: str, into: int, out: int, embedding: int) -> Entries:
    yield from _norm(f"{name}.in_layers.0", into)
    yield from _conv(f"{name}.in_layers.2", out, into)
    yield from _linear(f"{name}.emb_layers.1", out, embedding)
    yield from _norm(f"{name}.out_layers.0", out)
    yield from _conv(f"{name}.out_layers.3", out, out)
    if into != out:
        yield from _conv(f"{name}.skip_connection", out, into, 1)


def _attention(name: str, width: int, context: int) -> Entries:
    yield from _linear(f"{name}.to_q", width, width, bias=False)
    yield from _linear(f"{name}.to_k", width, context, bias=False)
    yield from _linear(f"{name}.to_v", width, context, bias=False)
    yield from _linear(f"{name}.to_out.0", width, width)


def _transformer(name: str, width: int, depth: int, family: Family) -> Entries:
    yield from _norm(f"{name}.norm", width)
    for part in ("proj_in", "proj_out"):
        if family.linear_projection:
            yield from _linear(f"{name}.{part}", width, width)
        else:
            yield from _conv(f"{name}.{part}", width, width, 1)
    for index in range(depth):
        block = f"{name}.transformer_blocks.{index}"
        yield from _attention(f"{block}.attn1", width, width)
        yield from _linear(f"{block}.ff.net.0.proj", width * 8, width)
        yield from _linear(f"{block}.ff.net.2", width, width * 4)
        yield from _attention(f"{block}.attn2", width, family.context)
        for number in (1, 2, 3):
            yield from _norm(f"{block}.norm{number}", width)


def _input_side(prefix: str, family: Family, width: int, in_channels: int) -> Iterator[tuple[str, Shape] | int]:
    """The encoder's tensors; every int is the width of a skip connection."""
    yield from _conv(f"{prefix}.0.0", width, in_channels)
    yield width
    index, current = 1, width
    for level, multiplier in enumerate(family.multipliers):
        for _ in range(2):
            yield from _residual(f"{prefix}.{index}.0", current, width * multiplier, width * 4)
            current = width * multiplier
            if family.depths[level]:
                yield from _transformer(f"{prefix}.{index}.1", current, family.depths[level], family)
            yield current
            index += 1
        if level < len(family.multipliers) - 1:
            yield from _conv(f"{prefix}.{index}.0.op", current, current)
            yield current
            index += 1


def _output_side(prefix: str, family: Family, width: int, skips: list[int]) -> Entries:
    index, current = 0, width * family.multipliers[-1]
    for level in reversed(range(len(family.multipliers))):
        out = width * family.multipliers[level]
        for number in range(3):
            yield from _residual(f"{prefix}.{index}.0", current + skips.pop(), out, width * 4)
            current, part = out, 1
            if family.depths[level]:
                yield from _transformer(f"{prefix}.{index}.1", current, family.depths[level], family)
                part = 2
            if level and number == 2:
                yield from _conv(f"{prefix}.{index}.{part}.conv", current, current)
            index += 1


def unet(family: Family, width: int, in_channels: int = LATENT_CHANNELS) -> Entries:
    """Names and shapes of a UNet in the original (ldm, sgm) naming."""
    prefix = "model.diffusion_model"
    yield from _linear(f"{prefix}.time_embed.0", width * 4, width)
    yield from _linear(f"{prefix}.time_embed.2", width * 4, width * 4)
    if family.vector:
        yield from _linear(f"{prefix}.label_emb.0.0", width * 4, family.vector)
        yield from _linear(f"{prefix}.label_emb.0.2", width * 4, width * 4)
    skips: list[int] = []
    for entry in _input_side(f"{prefix}.input_blocks", family, width, in_channels):
        if isinstance(entry, int):
            skips.append(entry)
        else:
            yield entry
    top = width * family.multipliers[-1]
    yield from _residual(f"{prefix}.middle_block.0", top, top, width * 4)
    yield from _transformer(f"{prefix}.middle_block.1", top, family.depths[-1] or 1, family)
    yield from _residual(f"{prefix}.middle_block.2", top, top, width * 4)
    yield from _output_side(f"{prefix}.output_blocks", family, width, skips)
    yield from _norm(f"{prefix}.out.0", width)
    yield from _conv(f"{prefix}.out.2", LATENT_CHANNELS, width)


def _vae_block(name: str, into: int, out: int) -> Entries:
    yield from _norm(f"{name}.norm1", into)
    yield from _conv(f"{name}.conv1", out, into)
    yield from _norm(f"{name}.norm2", out)
    yield from _conv(f"{name}.conv2", out, out)
    if into != out:
        yield from _conv(f"{name}.nin_shortcut", out, into, 1)


def _vae_middle(name: str, width: int) -> Entries:
    yield from _vae_block(f"{name}.block_1", width, width)
    yield from _norm(f"{name}.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from _conv(f"{name}.attn_1.{part}", width, width, 1)
    yield from _vae_block(f"{name}.block_2", width, width)


def vae(width: int) -> Entries:
    """Names and shapes of the SD1 / SDXL autoencoder."""
    prefix = "first_stage_model"
    widths = [width * multiplier for multiplier in VAE_MULTIPLIERS]
    yield from _conv(f"{prefix}.encoder.conv_in", width, 3)
    current = width
    for level, out in enumerate(widths):
        for number in range(2):
            yield from _vae_block(f"{prefix}.encoder.down.{level}.block.{number}", current, out)
            current = out
        if level < len(widths) - 1:
            yield from _conv(f"{prefix}.encoder.down.{level}.downsample.conv", out, out)
    yield from _vae_middle(f"{prefix}.encoder.mid", current)
    yield from _norm(f"{prefix}.encoder.norm_out", current)
    yield from _conv(f"{prefix}.encoder.conv_out", LATENT_CHANNELS * 2, current)
    yield from _conv(f"{prefix}.decoder.conv_in", current, LATENT_CHANNELS)
    yield from _vae_middle(f"{prefix}.decoder.mid", current)
    for level in reversed(range(len(widths))):
        for number in range(3):
            yield from _vae_block(f"{prefix}.decoder.up.{level}.block.{number}", current, widths[level])
            current = widths[level]
        if level:
            yield from _conv(f"{prefix}.decoder.up.{level}.upsample.conv", current, current)
    yield from _norm(f"{prefix}.decoder.norm_out", current)
    yield from _conv(f"{prefix}.decoder.conv_out", 3, current)
    yield from _conv(f"{prefix}.quant_conv", LATENT_CHANNELS * 2, LATENT_CHANNELS * 2, 1)
    yield from _conv(f"{prefix}.post_quant_conv", LATENT_CHANNELS, LATENT_CHANNELS, 1)


def clip_text(prefix: str, width: int, layers: int) -> Entries:
    """Names and shapes of a text encoder in Hugging Face's naming (CLIP-L)."""
    yield f"{prefix}.embeddings.token_embedding.weight", (VOCABULARY, width)
    yield f"{prefix}.embeddings.position_embedding.weight", (CONTEXT_LENGTH, width)
    for index in range(layers):
        layer = f"{prefix}.encoder.layers.{index}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from _linear(f"{layer}.self_attn.{part}", width, width)
        yield from _norm(f"{layer}.layer_norm1", width)
        yield from _linear(f"{layer}.mlp.fc1", width * 4, width)
        yield from _linear(f"{layer}.mlp.fc2", width, width * 4)
        yield from _norm(f"{layer}.layer_norm2", width)
    yield from _norm(f"{prefix}.final_layer_norm", width)


def open_clip_text(prefix: str, width: int, layers: int) -> Entries:
    """Names and shapes of a text encoder in OpenCLIP's naming (CLIP-H, CLIP-G)."""
    yield f"{prefix}.positional_embedding", (CONTEXT_LENGTH, width)
    yield f"{prefix}.text_projection", (width, width)
    yield f"{prefix}.logit_scale", ()
    yield f"{prefix}.token_embedding.weight", (VOCABULARY, width)
    for index in range(layers):
        layer = f"{prefix}.transformer.resblocks.{index}"
        yield from _norm(f"{layer}.ln_1", width)
        yield f"{layer}.attn.in_proj_weight", (width * 3, width)
        yield f"{layer}.attn.in_proj_bias", (width * 3,)
        yield from _linear(f"{layer}.attn.out_proj", width, width)
        yield from _norm(f"{layer}.ln_2", width)
        yield from _linear(f"{layer}.mlp.c_fc", width * 4, width)
        yield from _linear(f"{layer}.mlp.c_proj", width, width * 4)
    yield from _norm(f"{prefix}.ln_final", width)


def text_encoders(family: Family, layers: int) -> Entries:
    """The text encoders of a family under the prefixes that its checkpoints use."""
    if family is SD1:
        yield from clip_text("cond_stage_model.transformer.text_model", 768, layers)
    elif family is SD2:
        yield from open_clip_text("cond_stage_model.model", 1024, layers)
    else:
        yield from clip_text("conditioner.embedders.0.transformer.text_model", 768, layers)
        yield from open_clip_text("conditioner.embedders.1.model", 1280, layers)


def _is_norm(name: str) -> bool:
    part = name.split(".")[-2] if "." in name else ""
    is_numbered = part == "0" and (".in_layers.0." in name or ".out_layers.0." in name or ".out.0." in name)
    return is_numbered or "norm" in part or part.startswith("ln_")


def _values(name: str, shape: Shape, random: np.random.Generator, is_text: bool) -> np.ndarray | None:
    """float16 values of one tensor; None stands for zeros."""
    if _is_norm(name):
        return np.ones(shape, np.float16) if name.endswith(".weight") else None
    if is_text and "position" in name:
        # No layer of a text encoder may put out zeros: webuis divide by the mean of what it gives.
        return random.normal(0.1, 0.2, shape).astype(np.float16)
    if is_text or len(shape) < 2:
        return None
    fan_in = math.prod(shape[1:])
    return (random.standard_normal(shape, np.float32) * (0.5 / math.sqrt(fan_in))).astype(np.float16)


def write(folder: Path, recipe: Recipe) -> Path:
    """Write the checkpoint as ``folder/<name>.safetensors`` and return its path."""
    random = np.random.default_rng(recipe.seed)
    family = recipe.family
    width = recipe.unet_width or family.width
    entries = [(name, shape, False) for name, shape in unet(family, width, recipe.in_channels)]
    entries += [(name, shape, False) for name, shape in vae(recipe.vae_width)]
    entries += [(name, shape, True) for name, shape in text_encoders(family, recipe.text_layers)]
    plan: list[tuple[str, str, Shape, np.ndarray | None]] = []
    for name, shape, is_text in entries:
        values = _values(name, shape, random, is_text)
        if name == SD2_TELLING_BIAS and family is SD2:
            values = random.normal(0.0, 0.3 if recipe.v_prediction_bias else 0.01, shape).astype(np.float16)
        plan.append((name, "F16", shape, values))
    plan += [(marker, "F32", (1,), np.zeros(1, np.float32)) for marker in recipe.markers]
    if recipe.schedule is not None:
        schedule = recipe.schedule.astype(np.float32)
        plan.append(("alphas_cumprod", "F32", schedule.shape, schedule))
    folder.mkdir(parents=True, exist_ok=True)
    return _write_safetensors(folder / f"{recipe.name}.safetensors", plan, recipe.metadata)


def write_vae(folder: Path, name: str, width: int = 32) -> Path:
    """Write a VAE of its own, as users put it into models/VAE."""
    random = np.random.default_rng(9)
    prefix = "first_stage_model."
    plan = [(n.removeprefix(prefix), "F16", shape, _values(n, shape, random, False)) for n, shape in vae(width)]
    return _write_safetensors(folder / f"{name}.safetensors", plan, {})


def write_lora(folder: Path, name: str, family: Family, *, rank: int = 4, seed: int = 5) -> Path:
    """Write a LoRA over the attention and feed-forward layers of the family's UNet, in kohya's naming."""
    random = np.random.default_rng(seed)
    plan: list[tuple[str, str, Shape, np.ndarray | None]] = []
    for key, shape in unet(family, family.width):
        if ".transformer_blocks." not in key or not key.endswith(".weight") or len(shape) != 2:
            continue
        module = "lora_unet_" + key.removeprefix("model.diffusion_model.").removesuffix(".weight").replace(".", "_")
        for part, size in (("lora_up", (shape[0], rank)), ("lora_down", (rank, shape[1]))):
            values = (random.standard_normal(size, np.float32) * 0.2).astype(np.float16)
            plan.append((f"{module}.{part}.weight", "F16", size, values))
        plan.append((f"{module}.alpha", "F16", (1,), np.full(1, rank, np.float16)))
    folder.mkdir(parents=True, exist_ok=True)
    return _write_safetensors(folder / f"{name}.safetensors", plan, {})


def _write_safetensors(
    path: Path, plan: list[tuple[str, str, Shape, np.ndarray | None]], metadata: dict[str, str]
) -> Path:
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, dtype, shape, _ in plan:
        size = math.prod(shape) * (2 if dtype == "F16" else 4)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, dtype, shape, values in plan:
            if values is None:
                file.seek(math.prod(shape) * (2 if dtype == "F16" else 4), 1)
            else:
                file.write(values.tobytes())
        file.truncate(8 + len(text) + offset)
    return path
