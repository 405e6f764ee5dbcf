"""Text encoders and VAEs as data: what stands beside a diffusion model, or alone in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelsmith.files.header import TensorInfo
from modelsmith.identify.conditions import All, AnyOf, Condition, Has, Lacks, Not, Rank, Side
from modelsmith.identify.view import View


@dataclass(frozen=True)
class Encoder:
    """A text encoder: ``stem`` is what precedes the names in ``when``; several stems may be tried."""

    id: str
    label: str
    component: str
    layout: str
    when: Condition


@dataclass(frozen=True)
class Vae:
    """A VAE: the architectures that it serves; more than one where the header is the same."""

    variant: str
    bases: tuple[str, ...]
    layout: str
    channels: int
    when: Condition


# ---- text encoders

_CLIP = "encoder.layers.0.layer_norm1.weight"  # a norm is never packed, so its length is the width
_CLIP_KINDS = (
    (768, "clip-l", "CLIP-L", "clip_l"),
    (1024, "clip-h", "CLIP-H", "clip_h"),
    (1280, "clip-g", "CLIP-G", "clip_g"),
)
_OPEN = "transformer.resblocks.0.ln_1.weight"
_T5 = All(
    Has("encoder.block.0.layer.0.SelfAttention.k.weight"), Side("encoder.block.0.layer.0.layer_norm.weight", 0, 4096)
)
_UMT5_BIAS = Has(
    "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"
)  # on every block, not the first
_T5_GGUF = All(Has("enc.blk.0.attn_k.weight"), Side("enc.blk.0.attn_norm.weight", 0, 4096))
_UMT5_GGUF_BIAS = Has("enc.blk.1.attn_rel_b.weight")
_LLM = "layers.0.input_layernorm.weight"
_LLM_GGUF = "blk.0.attn_norm.weight"
_Q_NORM = Has("layers.0.self_attn.q_norm.weight")
_K_BIAS = Has("layers.0.self_attn.k_proj.bias")
_SANDWICH = Has("layers.0.post_feedforward_layernorm.weight")
_Q_NORM_GGUF = Has("blk.0.attn_q_norm.weight")
_K_BIAS_GGUF = Has("blk.0.attn_k.bias")
_SANDWICH_GGUF = Has("blk.0.post_ffw_norm.weight")
_ANCHORS = (_CLIP, _OPEN, "encoder.block.0.layer.0.layer_norm.weight", "enc.blk.0.attn_norm.weight", _LLM, _LLM_GGUF)
_QWEN3 = ((1024, "qwen3-0.6b", "Qwen3 0.6B"), (2560, "qwen3-4b", "Qwen3 4B"), (4096, "qwen3-8b", "Qwen3 8B"))

ENCODERS: tuple[Encoder, ...] = (
    *(Encoder(i, label, part, "transformers", Side(_CLIP, 0, width)) for width, i, label, part in _CLIP_KINDS),
    *(Encoder(i, label, part, "openclip", Side(_OPEN, 0, width)) for width, i, label, part in _CLIP_KINDS),
    Encoder("t5-xxl", "T5-XXL", "t5xxl", "transformers", All(_T5, Not(_UMT5_BIAS))),
    Encoder("umt5-xxl", "UMT5-XXL", "umt5xxl", "transformers", All(_T5, _UMT5_BIAS)),
    Encoder("t5-xxl", "T5-XXL", "t5xxl", "gguf", All(_T5_GGUF, Not(_UMT5_GGUF_BIAS))),
    Encoder("umt5-xxl", "UMT5-XXL", "umt5xxl", "gguf", All(_T5_GGUF, _UMT5_GGUF_BIAS)),
    Encoder("gemma2-2b", "Gemma 2 2B", "gemma2_2b", "transformers", All(Side(_LLM, 0, 2304), _SANDWICH, Not(_Q_NORM))),
    Encoder(
        "gemma2-2b", "Gemma 2 2B", "gemma2_2b", "gguf", All(Side(_LLM_GGUF, 0, 2304), _SANDWICH_GGUF, Not(_Q_NORM_GGUF))
    ),
    Encoder(
        "qwen2.5-vl-7b",
        "Qwen2.5-VL 7B",
        "qwen25_7b",
        "transformers",
        All(Side(_LLM, 0, 3584), Side("layers.0.self_attn.k_proj.bias", 0, 512), Not(_Q_NORM), Not(_SANDWICH)),
    ),
    Encoder(
        "qwen2.5-vl-7b",
        "Qwen2.5-VL 7B",
        "qwen25_7b",
        "gguf",
        All(Side(_LLM_GGUF, 0, 3584), Side("blk.0.attn_k.bias", 0, 512), Not(_Q_NORM_GGUF)),
    ),
    *(
        Encoder(
            i,
            label,
            i.replace("-", "_").replace(".", ""),
            "transformers",
            All(Side(_LLM, 0, width), _Q_NORM, Not(_K_BIAS), Not(_SANDWICH)),
        )
        for width, i, label in _QWEN3
    ),
    *(
        Encoder(
            i,
            label,
            i.replace("-", "_").replace(".", ""),
            "gguf",
            All(Side(_LLM_GGUF, 0, width), _Q_NORM_GGUF, Not(_K_BIAS_GGUF), Not(_SANDWICH_GGUF)),
        )
        for width, i, label in _QWEN3
    ),
    Encoder(
        "mistral3-24b",
        "Mistral 3 24B",
        "mistral3_24b",
        "transformers",
        All(
            Side(_LLM, 0, 5120),
            Not(_Q_NORM),
            Not(_K_BIAS),
            Not(_SANDWICH),
            Side("layers.0.mlp.gate_proj.weight", 0, 32768),
        ),
    ),
    Encoder(
        "mistral3-24b",
        "Mistral 3 24B",
        "mistral3_24b",
        "gguf",
        All(Side(_LLM_GGUF, 0, 5120), Not(_Q_NORM_GGUF), Not(_K_BIAS_GGUF), Side("blk.0.ffn_gate.weight", 0, 32768)),
    ),
)

# ---- encoders of reduced width: their names and the number of their layers tell


def _norm_width(view: View) -> int | None:
    for name in _ANCHORS:
        width = view.side(name, 0)
        if width is not None:
            return width
    return None


# Widths that other models of the same families have (T5 and CLIP of all sizes, Gemma, Qwen, Mistral, Llama).
_OTHERS = frozenset({512, 640, 768, 1024, 1280, 1408, 1536, 1664, 2048, 2304, 2560, 3072, 3584, 4096, 5120, 8192})


@dataclass(frozen=True)
class _Narrow:
    """The width is no real model's, so that the number of layers may tell which model was made narrow."""

    blocks: str
    counts: tuple[int, ...]
    extra: Condition

    def __call__(self, view: View) -> bool:
        return (
            _norm_width(view) not in _OTHERS and view.depth(*self.blocks.split("#")) in self.counts and self.extra(view)
        )


_CLIP_LAYERS = (("clip-l", (11, 12)), ("clip-h", (22, 23, 24)), ("clip-g", (31, 32)))
_T5_BLOCK = "encoder.block.#.layer.0.layer_norm.weight"
_LLM_LAYER = "layers.#.input_layernorm.weight"
_PLAIN_LLM = All(Not(_Q_NORM), Not(_K_BIAS), Not(_SANDWICH))


def _narrowed(id_: str, layout: str, condition: Condition) -> Encoder:
    record = next(record for record in ENCODERS if record.id == id_ and record.layout == layout)
    return Encoder(record.id, record.label, record.component, layout, condition)


NARROW: tuple[Encoder, ...] = (
    *(_narrowed(i, "transformers", _Narrow("encoder.layers.#.layer_norm1.weight", n, All())) for i, n in _CLIP_LAYERS),
    *(_narrowed(i, "openclip", _Narrow("transformer.resblocks.#.ln_1.weight", n, All())) for i, n in _CLIP_LAYERS),
    _narrowed("t5-xxl", "transformers", _Narrow(_T5_BLOCK, (24,), Not(_UMT5_BIAS))),
    _narrowed("umt5-xxl", "transformers", _Narrow(_T5_BLOCK, (24,), _UMT5_BIAS)),
    _narrowed("gemma2-2b", "transformers", _Narrow(_LLM_LAYER, (26,), All(_SANDWICH, Not(_Q_NORM)))),
    _narrowed("qwen2.5-vl-7b", "transformers", _Narrow(_LLM_LAYER, (28,), All(_K_BIAS, Not(_Q_NORM)))),
    _narrowed("qwen3-0.6b", "transformers", _Narrow(_LLM_LAYER, (28,), All(_Q_NORM, Not(_K_BIAS), Not(_SANDWICH)))),
    _narrowed("mistral3-24b", "transformers", _Narrow(_LLM_LAYER, (40,), _PLAIN_LLM)),
)
"""A narrow Qwen3 of 36 layers is either of two models and is left without a name."""


def is_narrow(record: Encoder) -> bool:
    """Whether the record is of an encoder of reduced width."""
    return isinstance(record.when, _Narrow)


# What may stand before the names above: wrappers of transformers, of ComfyUI and of old checkpoints.
_STEMS = (
    "",
    "text_model.",
    "transformer.text_model.",
    "transformer.",
    "model.",
    "transformer.model.",
    "language_model.model.",
    "model.language_model.",
    "language_model.",
    "model.language_model.model.",
    "model.text_model.",
    "text_encoder.",
)


def find_encoder(tensors: Mapping[str, TensorInfo], make: View) -> tuple[Encoder, View] | None:
    """The record that an encoder's tensors meet, and the view under the stem at which they do."""
    for stem in _STEMS:
        if not _anchor(tensors, stem):
            continue
        inner = (
            {name[len(stem) :]: info for name, info in tensors.items() if name.startswith(stem)} if stem else tensors
        )
        view = make.under(inner, stem)
        for record in (*ENCODERS, *NARROW):
            if record.when(view):
                return record, view
    return None


def _anchor(tensors: Mapping[str, TensorInfo], stem: str) -> bool:
    return any(stem + name in tensors for name in _ANCHORS)


def looks_like_encoder(tensors: Mapping[str, TensorInfo]) -> bool:
    """Some text encoder or language model, known or not."""
    return any(_anchor(tensors, stem) for stem in _STEMS)


# ---- VAEs

_LDM = Has("decoder.mid.block_1.conv1.weight")
_DIFFUSERS = Has("decoder.mid_block.resnets.0.conv1.weight")
_IN = "decoder.conv_in.weight"
_FLAT = Rank(_IN, 4)
_BN = Has("bn.running_mean")
_THREE_LDM = All(_LDM, Lacks("decoder.up.3.block.0.conv1.weight"))
_THREE_DIFF = All(_DIFFUSERS, Lacks("decoder.up_blocks.3.resnets.0.conv1.weight"))
_KL4 = ("sd1", "sd2", "sdxl")


def _kl(variant: str, bases: tuple[str, ...], channels: int, extra: Condition) -> tuple[Vae, Vae]:
    shape = All(_FLAT, Side(_IN, 1, channels), extra)
    return (
        Vae(variant, bases, "ldm-vae", channels, All(_LDM, shape)),
        Vae(variant, bases, "diffusers-vae", channels, All(_DIFFUSERS, shape)),
    )


_UPSCALER = AnyOf(_THREE_LDM, _THREE_DIFF)

VAES: tuple[Vae, ...] = (
    *_kl("kl-f8-4ch", _KL4, 4, Not(_UPSCALER)),
    *_kl("kl-f4-4ch (x4 upscaler)", ("sd2",), 4, _UPSCALER),
    *_kl("kl-f8-16ch", ("sd3", "flux1"), 16, All()),
    *_kl("kl-f8-32ch (FLUX.2)", ("flux2",), 32, _BN),
    Vae(
        "wan2.1-or-qwen-image",
        ("wan", "qwen-image"),
        "original",
        16,
        All(
            Has("decoder.middle.0.residual.0.gamma"),
            Has("conv1.weight"),
            Lacks("decoder.upsamples.0.upsamples.0.residual.2.weight"),
        ),
    ),
    Vae("wan2.2", ("wan",), "original", 48, Has("decoder.upsamples.0.upsamples.0.residual.2.weight")),
    Vae(
        "wan2.1-or-qwen-image",
        ("wan", "qwen-image"),
        "diffusers-vae",
        16,
        All(Has("decoder.mid_block.resnets.0.norm1.gamma"), Side(_IN, 1, 16)),
    ),
    Vae("wan2.2", ("wan",), "diffusers-vae", 48, All(Has("decoder.mid_block.resnets.0.norm1.gamma"), Side(_IN, 1, 48))),
    Vae(
        "cascade-stage-a",
        ("stable-cascade",),
        "original",
        4,
        AnyOf(
            Has("vquantizer.codebook.weight"),
            Has("up_blocks.0.0.weight", "out_block.0.weight", "vquantizer.codebook.weight"),
        ),
    ),
    Vae(
        "taesd-4ch",
        _KL4,
        "taesd",
        4,
        AnyOf(Side("taesd_decoder.1.weight", 1, 4), Side("decoder.layers.0.weight", 1, 4), Side("1.weight", 1, 4)),
    ),
    Vae(
        "taesd-16ch",
        ("sd3", "flux1"),
        "taesd",
        16,
        AnyOf(Side("taesd_decoder.1.weight", 1, 16), Side("decoder.layers.0.weight", 1, 16), Side("1.weight", 1, 16)),
    ),
)


def find_vae(view: View) -> Vae | None:
    """The record that a VAE's tensors meet."""
    if not any(view.has_stem(stem) for stem in ("decoder", "taesd_decoder", "vquantizer", "1.weight")):
        return None
    for record in VAES:
        if record.when(view):
            return record
    return None


def has_encoder_half(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether a VAE can also encode; a lone decoder cannot serve img2img."""
    return any(name.startswith(("encoder.", "taesd_encoder.")) for name in tensors)
