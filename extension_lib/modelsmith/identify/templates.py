"""Which tensors a family's model has, and how many of them a file lacks.

Templates are written with braces: ``{a,b}`` stands for each of its parts, ``{0-3}`` for each number, nested at will.
They were checked against key lists of sd-mecha, ComfyUI and diffusers (tests/identify/data).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TypedDict

from modelsmith.files.header import TensorInfo
from modelsmith.identify.architectures import Architecture, Variant
from modelsmith.identify.encoders import Encoder, Vae
from modelsmith.identify.template_texts import TEXTS, UNETS, UnetPlan
from modelsmith.identify.template_texts_more import MORE

_SHOWN = 5
_EMA_PREFIX = "model_ema.diffusion_model"


class Measure(TypedDict, total=False):
    """The fields of a component that completeness fills."""

    complete: bool | None
    missing: int
    expected: int
    missing_names: tuple[str, ...]


def measure(
    record: Architecture | Encoder | Vae,
    variant: Variant | None,
    tensors: Mapping[str, TensorInfo],
    quantization: str | None,
) -> Measure:
    """Compare the tensors of a component with the templates of its family; the nearest one counts.

    Empty where no template is known, and for files whose writer fuses and renames layers.
    """
    if quantization is not None and quantization.startswith("svdquant"):
        return {}
    best: tuple[int, frozenset[str], frozenset[str]] | None = None
    for name in _template_names(record, variant):
        wanted = template(name)
        missing = frozenset(key for key in wanted - tensors.keys() if not _spelled_otherwise(key, tensors))
        if best is None or len(missing) < best[0]:
            best = (len(missing), missing, wanted)
    if best is None:
        return {}
    count, missing, wanted = best
    shown = tuple(sorted(missing)[:_SHOWN])
    return {"complete": count == 0, "missing": count, "expected": len(wanted), "missing_names": shown}


def _template_names(record: Architecture | Encoder | Vae, variant: Variant | None) -> list[str]:
    if isinstance(record, Vae):
        if record.variant.startswith("kl-"):
            return _named(f"vae/{record.layout}/{record.channels}/{'f4' if 'f4' in record.variant else 'f8'}")
        return _named(f"vae/{record.layout}/{record.variant}")
    start = f"{record.id}/{record.layout}"
    own = [] if variant is None else _named(f"{start}/{variant.id}")
    return own or _named(start)


@lru_cache(maxsize=256)
def _named(start: str) -> list[str]:
    """The templates of that name; a model whose files come in several forms has one for each, told apart by a #."""
    return [name for name in _KNOWN if name == start or name.startswith(start + "#")]


# Names that other writers give to the same tensor.
_OTHER_SPELLINGS: tuple[tuple[str, str], ...] = (
    ("key_norm.scale", "key_norm.weight"),
    ("query_norm.scale", "query_norm.weight"),
    ("attentions.0.to_q.", "attentions.0.query."),
    ("attentions.0.to_k.", "attentions.0.key."),
    ("attentions.0.to_v.", "attentions.0.value."),
    ("attentions.0.to_out.0.", "attentions.0.proj_attn."),
    ("shared.weight", "encoder.embed_tokens.weight"),
)


def _spelled_otherwise(key: str, tensors: Mapping[str, TensorInfo]) -> bool:
    return any(one in key and key.replace(one, other) in tensors for one, other in _OTHER_SPELLINGS)


@lru_cache(maxsize=64)
def template(name: str) -> frozenset[str]:
    """All names that a template stands for. Raises KeyError for an unknown template."""
    if name in UNETS:
        plan = UNETS[name]
        return frozenset(expand(_unet(plan) if "/ldm" in name else _diffusers_unet(plan)))
    return frozenset(expand((TEXTS.get(name) or MORE[name]).split()))


_KNOWN: tuple[str, ...] = (*UNETS, *TEXTS, *MORE)


def expand(patterns: Iterable[str]) -> Iterator[str]:
    """Write out the braces of patterns, nested ones too."""
    for pattern in patterns:
        choices, rest = _alternatives(pattern + "}", 0)
        if rest != len(pattern) + 1:
            raise ValueError(f"unbalanced braces in {pattern!r}")
        yield from choices


def _alternatives(text: str, at: int) -> tuple[list[str], int]:
    """All strings that the text from ``at`` to its closing brace stands for, and the place after that brace."""
    found: list[str] = []
    current = [""]
    literal = at
    plain = True  # whether the present part holds no brace, so that it may be a range of numbers
    start = at
    while True:
        sign = text[at]
        if sign == "{":
            current = [head + text[literal:at] for head in current]
            inner, at = _alternatives(text, at + 1)
            current = [head + tail for head in current for tail in inner]
            literal = at
            plain = False
            continue
        if sign in ",}":
            first, dash, last = text[start:at].partition("-") if plain else ("", "", "")
            if dash and first.isdigit() and last.isdigit():
                found += map(str, range(int(first), int(last) + 1))
            else:
                found += [head + text[literal:at] for head in current]
            if sign == "}":
                return found, at + 1
            current, literal, plain, start = [""], at + 1, True, at + 1
        at += 1


# ---- UNets: the patterns of a plan


_BOTH = ".{weight,bias}"


def _transformer(at: str, depth: int) -> list[str]:
    block = f"{at}.transformer_blocks.{{0-{depth - 1}}}"
    return [
        f"{at}.{{norm,proj_in,proj_out}}{_BOTH}",
        f"{block}.attn{{1,2}}.to_{{q,k,v}}.weight",
        f"{block}.attn{{1,2}}.to_out.0{_BOTH}",
        f"{block}.{{ff.net.0.proj,ff.net.2,norm1,norm2,norm3}}{_BOTH}",
    ]


def _unet(plan: UnetPlan) -> list[str]:
    """The names that CompVis' UNetModel gives (ldm/modules/diffusionmodules/openaimodel.py)."""
    residual = "{in_layers.{0,2},emb_layers.1,out_layers.{0,3}}"
    found = [f"{{time_embed.0,time_embed.2,out.0,out.2,input_blocks.0.0}}{_BOTH}"]
    if plan.label == "linear":
        found.append(f"label_emb.0.{{0,2}}{_BOTH}")
    elif plan.label == "table":
        found.append("label_emb.weight")
    index = 1
    levels = len(plan.down)
    for level, depths in enumerate(plan.down):
        for number, depth in enumerate(depths):
            found.append(f"input_blocks.{index}.0.{residual}{_BOTH}")
            if level in plan.widening and not number:
                found.append(f"input_blocks.{index}.0.skip_connection{_BOTH}")
            found += _transformer(f"input_blocks.{index}.1", depth) if depth else []
            index += 1
        if level < levels - 1:
            found.append(f"input_blocks.{index}.0.op{_BOTH}")
            index += 1
    found.append(f"middle_block.0.{residual}{_BOTH}")
    if plan.middle:
        found += [*_transformer("middle_block.1", plan.middle), f"middle_block.2.{residual}{_BOTH}"]
    index = 0
    for level, depths in enumerate(plan.up):
        for number, depth in enumerate(depths):
            found.append(f"output_blocks.{index}.0.{{{residual[1:-1]},skip_connection}}{_BOTH}")
            found += _transformer(f"output_blocks.{index}.1", depth) if depth else []
            if number == len(depths) - 1 and level < levels - 1:
                found.append(f"output_blocks.{index}.{2 if depth else 1}.conv{_BOTH}")
            index += 1
    return found


def _diffusers_unet(plan: UnetPlan) -> list[str]:
    """The names that diffusers' UNet2DConditionModel gives."""
    residual = "{norm1,conv1,time_emb_proj,norm2,conv2}"
    found = [f"{{conv_in,conv_out,conv_norm_out,time_embedding.linear_{{1,2}}}}{_BOTH}"]
    if plan.hidden:
        found.append(f"encoder_hid_proj{_BOTH}")
    if plan.label == "linear":
        found.append(f"{plan.embedding}.linear_{{1,2}}{_BOTH}")
    elif plan.label == "table":
        found.append("class_embedding.weight")
    last = len(plan.down) - 1
    for level, depths in enumerate(plan.down):
        at = f"down_blocks.{level}"
        found.append(f"{at}.resnets.{{0-{len(depths) - 1}}}.{residual}{_BOTH}")
        found += [f"{at}.resnets.0.conv_shortcut{_BOTH}"] if level in plan.widening else []
        found += [f"{at}.downsamplers.0.conv{_BOTH}"] if level < last else []
        for number, depth in enumerate(depths):
            found += _transformer(f"{at}.attentions.{number}", depth) if depth else []
    if plan.middle:
        found += [f"mid_block.resnets.{{0,1}}.{residual}{_BOTH}", *_transformer("mid_block.attentions.0", plan.middle)]
    for level, depths in enumerate(plan.up):
        at = f"up_blocks.{level}"
        found.append(f"{at}.resnets.{{0-{len(depths) - 1}}}.{{{residual[1:-1]},conv_shortcut}}{_BOTH}")
        found += [f"{at}.upsamplers.0.conv{_BOTH}"] if level < last else []
        for number, depth in enumerate(depths):
            found += _transformer(f"{at}.attentions.{number}", depth) if depth else []
    return found


# ---- EMA


def unflatten_ema(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The names of a UNet from those of its EMA copy.

    The copy's names have lost their dots (CompVis ldm/modules/ema.py), which cannot be guessed back, so those of the
    known UNets are looked up. What is not found keeps its flat name.
    """
    by_flat = {name.replace(".", ""): name for unet in UNETS if "/ldm" in unet for name in template(unet)}
    found: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        if name.startswith(_EMA_PREFIX):
            flat = name[len(_EMA_PREFIX) :]
            found[by_flat.get(flat, flat)] = info
    return found
