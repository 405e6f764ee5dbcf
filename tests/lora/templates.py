"""Names of SD1's, SDXL's and FLUX.1's layers in all namings, from a walk over diffusers' configurations.

The walk is the test's own: it knows how many blocks, resnets and attentions a UNet has and emits the original and the
diffusers name of each layer side by side, so that the library's tables are checked against something else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """One layer: its names in the original and in diffusers' code, its weight's shape, whether it has a bias."""

    original: str
    diffusers: str
    shape: tuple[int, ...]
    bias: bool = True


@dataclass(frozen=True)
class UNet:
    """A UNet as diffusers configures it; ``depths`` per level (0: no attention), ``middle`` of the middle block."""

    depths: tuple[int, ...]
    middle: int
    context: int
    linear_projection: bool
    label: int = 0
    width: int = 8
    multipliers: tuple[int, ...] = (1, 2, 4, 4)


SD1 = UNet((1, 1, 1, 0), 1, 12, False)
SD2 = UNet((1, 1, 1, 0), 1, 16, True)
SDXL = UNet((0, 2, 10), 10, 20, True, label=24, multipliers=(1, 2, 4))


def _resnet(original: str, diffusers: str, inner: int, outer: int, time: int) -> Iterator[Layer]:
    yield Layer(f"{original}.in_layers.0", f"{diffusers}.norm1", (inner,))
    yield Layer(f"{original}.in_layers.2", f"{diffusers}.conv1", (outer, inner, 3, 3))
    yield Layer(f"{original}.emb_layers.1", f"{diffusers}.time_emb_proj", (outer, time))
    yield Layer(f"{original}.out_layers.0", f"{diffusers}.norm2", (outer,))
    yield Layer(f"{original}.out_layers.3", f"{diffusers}.conv2", (outer, outer, 3, 3))
    if inner != outer:
        yield Layer(f"{original}.skip_connection", f"{diffusers}.conv_shortcut", (outer, inner, 1, 1))


def _attention(config: UNet, original: str, diffusers: str, width: int, depth: int) -> Iterator[Layer]:
    tail = () if config.linear_projection else (1, 1)
    yield Layer(f"{original}.norm", f"{diffusers}.norm", (width,))
    yield Layer(f"{original}.proj_in", f"{diffusers}.proj_in", (width, width, *tail))
    yield Layer(f"{original}.proj_out", f"{diffusers}.proj_out", (width, width, *tail))
    for index in range(depth):
        block = f".transformer_blocks.{index}"
        for which, inner in ((1, width), (2, config.context)):
            for name, columns in (("to_q", width), ("to_k", inner), ("to_v", inner)):
                rest = f"{block}.attn{which}.{name}"
                yield Layer(original + rest, diffusers + rest, (width, columns), False)
            rest = f"{block}.attn{which}.to_out.0"
            yield Layer(original + rest, diffusers + rest, (width, width))
        for rest, shape in (("ff.net.0.proj", (8 * width, width)), ("ff.net.2", (width, 4 * width))):
            yield Layer(f"{original}{block}.{rest}", f"{diffusers}{block}.{rest}", shape)
        for number in (1, 2, 3):
            yield Layer(f"{original}{block}.norm{number}", f"{diffusers}{block}.norm{number}", (width,))


def unet_layers(config: UNet) -> Iterator[Layer]:
    """Every layer of a UNet, in the order of its code."""
    time = 4 * config.width
    yield Layer("time_embed.0", "time_embedding.linear_1", (time, config.width))
    yield Layer("time_embed.2", "time_embedding.linear_2", (time, time))
    if config.label:
        yield Layer("label_emb.0.0", "add_embedding.linear_1", (time, config.label))
        yield Layer("label_emb.0.2", "add_embedding.linear_2", (time, time))
    yield Layer("input_blocks.0.0", "conv_in", (config.width, 4, 3, 3))
    number, now, skips = 0, config.width, [config.width]
    levels = len(config.multipliers)
    for level, multiplier in enumerate(config.multipliers):
        width = config.width * multiplier
        for index in range(2):
            number += 1
            yield from _resnet(f"input_blocks.{number}.0", f"down_blocks.{level}.resnets.{index}", now, width, time)
            now = width
            if config.depths[level]:
                place = f"down_blocks.{level}.attentions.{index}"
                yield from _attention(config, f"input_blocks.{number}.1", place, now, config.depths[level])
            skips.append(now)
        if level < levels - 1:
            number += 1
            yield Layer(f"input_blocks.{number}.0.op", f"down_blocks.{level}.downsamplers.0.conv", (now, now, 3, 3))
            skips.append(now)
    yield from _resnet("middle_block.0", "mid_block.resnets.0", now, now, time)
    yield from _attention(config, "middle_block.1", "mid_block.attentions.0", now, config.middle)
    yield from _resnet("middle_block.2", "mid_block.resnets.1", now, now, time)
    number = 0
    for up, level in enumerate(reversed(range(levels))):
        width = config.width * config.multipliers[level]
        for index in range(3):
            inner = now + skips.pop()
            yield from _resnet(f"output_blocks.{number}.0", f"up_blocks.{up}.resnets.{index}", inner, width, time)
            now, sub = width, 1
            if config.depths[level]:
                place = f"up_blocks.{up}.attentions.{index}"
                yield from _attention(config, f"output_blocks.{number}.1", place, now, config.depths[level])
                sub = 2
            if index == 2 and level > 0:
                original = f"output_blocks.{number}.{sub}.conv"
                yield Layer(original, f"up_blocks.{up}.upsamplers.0.conv", (now, now, 3, 3))
            number += 1
    yield Layer("out.0", "conv_norm_out", (now,))
    yield Layer("out.2", "conv_out", (4, now, 3, 3))


def clip_layers(depth: int, width: int) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Name in transformers' CLIP, name in OpenCLIP, and shape, of every linear layer; in_proj is named thrice."""
    for index in range(depth):
        ours, open_clip = f"text_model.encoder.layers.{index}", f"transformer.resblocks.{index}"
        for name in "qkv":
            yield f"{ours}.self_attn.{name}_proj", f"{open_clip}.attn.in_proj", (width, width)
        yield f"{ours}.self_attn.out_proj", f"{open_clip}.attn.out_proj", (width, width)
        yield f"{ours}.mlp.fc1", f"{open_clip}.mlp.c_fc", (4 * width, width)
        yield f"{ours}.mlp.fc2", f"{open_clip}.mlp.c_proj", (width, 4 * width)


Shapes = dict[str, tuple[int, ...]]


def unet_shapes(config: UNet, prefix: str = "model.diffusion_model.") -> Shapes:
    """Keys and shapes of a UNet in the original layout."""
    shapes: Shapes = {}
    for layer in unet_layers(config):
        shapes[f"{prefix}{layer.original}.weight"] = layer.shape
        if layer.bias:
            shapes[f"{prefix}{layer.original}.bias"] = layer.shape[:1]
    return shapes


def clip_shapes(prefix: str, depth: int, width: int) -> Shapes:
    """Keys and shapes of transformers' CLIP under a prefix."""
    shapes: Shapes = {
        f"{prefix}text_model.embeddings.token_embedding.weight": (16, width),
        f"{prefix}text_model.embeddings.position_embedding.weight": (7, width),
    }
    for name, _, shape in clip_layers(depth, width):
        shapes |= {f"{prefix}{name}.weight": shape, f"{prefix}{name}.bias": shape[:1]}
    for index in range(depth):
        for which in (1, 2):
            base = f"{prefix}text_model.encoder.layers.{index}.layer_norm{which}"
            shapes |= {f"{base}.weight": (width,), f"{base}.bias": (width,)}
    return shapes | {f"{prefix}text_model.final_layer_norm.{end}": (width,) for end in ("weight", "bias")}


def openclip_shapes(prefix: str, depth: int, width: int) -> Shapes:
    """Keys and shapes of OpenCLIP's text encoder under a prefix."""
    shapes: Shapes = {
        f"{prefix}positional_embedding": (7, width),
        f"{prefix}text_projection": (width, width),
        f"{prefix}token_embedding.weight": (16, width),
    }
    for _, name, shape in clip_layers(depth, width):
        rows = 3 * width if name.endswith("in_proj") else shape[0]
        ends = ("_weight", "_bias") if name.endswith("in_proj") else (".weight", ".bias")
        shapes |= {f"{prefix}{name}{ends[0]}": (rows, shape[1]), f"{prefix}{name}{ends[1]}": (rows,)}
    for index in range(depth):
        for which in (1, 2):
            base = f"{prefix}transformer.resblocks.{index}.ln_{which}"
            shapes |= {f"{base}.weight": (width,), f"{base}.bias": (width,)}
    return shapes | {f"{prefix}ln_final.{end}": (width,) for end in ("weight", "bias")}


def flux_shapes(double: int, single: int, width: int = 16, prefix: str = "model.diffusion_model.") -> Shapes:
    """Keys and shapes of FLUX.1's transformer."""
    layers: Shapes = {
        "img_in": (width, 64),
        "txt_in": (width, 40),
        "time_in.in_layer": (width, 256),
        "time_in.out_layer": (width, width),
        "vector_in.in_layer": (width, 12),
        "vector_in.out_layer": (width, width),
        "guidance_in.in_layer": (width, 256),
        "guidance_in.out_layer": (width, width),
        "final_layer.linear": (64, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
    }
    for index in range(double):
        for side in ("img", "txt"):
            base = f"double_blocks.{index}.{side}"
            layers |= {
                f"{base}_attn.qkv": (3 * width, width),
                f"{base}_attn.proj": (width, width),
                f"{base}_mod.lin": (6 * width, width),
                f"{base}_mlp.0": (4 * width, width),
                f"{base}_mlp.2": (width, 4 * width),
            }
    for index in range(single):
        layers |= {
            f"single_blocks.{index}.linear1": (7 * width, width),
            f"single_blocks.{index}.linear2": (width, 5 * width),
            f"single_blocks.{index}.modulation.lin": (3 * width, width),
        }
    shapes: Shapes = {}
    for name, shape in layers.items():
        shapes |= {f"{prefix}{name}.weight": shape, f"{prefix}{name}.bias": shape[:1]}
    for index in range(double):
        for side in ("img", "txt"):
            for which in ("query", "key"):
                shapes[f"{prefix}double_blocks.{index}.{side}_attn.norm.{which}_norm.scale"] = (4,)
    return shapes


def sd1_shapes() -> Shapes:
    """A whole SD1 checkpoint without its VAE."""
    return unet_shapes(SD1) | clip_shapes("cond_stage_model.transformer.", 12, 12)


def sd2_shapes() -> Shapes:
    """A whole SD2 checkpoint without its VAE."""
    return unet_shapes(SD2) | openclip_shapes("cond_stage_model.model.", 23, 16)


def sdxl_shapes() -> Shapes:
    """A whole SDXL checkpoint without its VAE."""
    first = clip_shapes("conditioner.embedders.0.transformer.", 12, 12)
    return unet_shapes(SDXL) | first | openclip_shapes("conditioner.embedders.1.model.", 32, 20)
