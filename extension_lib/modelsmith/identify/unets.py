"""The UNets that are known, as data.

Where a rule comes from stands with it; "CUI" is ComfyUI's comfy/model_detection.py, "DIF" diffusers'
loaders/single_file_utils.py, "A1111" its modules/sd_models_config.py, and "measured" was seen on real key sets.
"""

from __future__ import annotations

from modelsmith.identify.conditions import All, AnyOf, Context, Depth, Has, Lacks, Marked, Not, Side, Stem
from modelsmith.identify.records import ALWAYS, Architecture, Variant

# ---- UNets. Both ends must be there: a ControlNet has all but the second half (measured: CUI calls it SD1).
_LDM = All(Has("input_blocks.0.0.weight", "out.2.weight"), Stem("output_blocks"), Lacks("input_hint_block.0.weight"))
_DIFF = All(
    Has("conv_in.weight", "conv_out.weight"), Stem("up_blocks"), Lacks("controlnet_cond_embedding.conv_in.weight")
)
_KOLORS = AnyOf(Has("encoder_hid_proj.weight"), Side("label_emb.0.0.weight", 1, 5632))
_KOLORS_D = AnyOf(Has("encoder_hid_proj.weight"), Side("add_embedding.linear_1.weight", 1, 5632))
_ATTN1 = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
_ATTN1_D = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
_ATTN4 = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
_ATTN4_D = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"
_FOUR_LEVELS = "input_blocks.11.0.in_layers.0.weight"
_FOUR_LEVELS_D = "down_blocks.3.resnets.0.conv1.weight"


def _channels(name: str, plain: str) -> tuple[Variant, ...]:
    return (
        Variant("inpainting", Side(name, 1, 9), inpainting=True),
        Variant("instruct-pix2pix", Side(name, 1, 8)),
        Variant(plain, ALWAYS),
    )


def _sd2_variants(conv: str, label: str) -> tuple[Variant, ...]:
    return (
        # the width of the image embedding and of its noise level: 2*768, 2*1024 (A1111 v2-1-stable-unclip-*.yaml)
        Variant("unclip-l", Side(label, 1, 1536), "v_prediction"),
        Variant("unclip-h", Side(label, 1, 2048), "v_prediction"),
        Variant("unclip", Has(label), "v_prediction"),
        Variant("inpainting", Side(conv, 1, 9), "epsilon", inpainting=True),
        Variant("depth", Side(conv, 1, 5), "epsilon"),
        Variant("instruct-pix2pix", Side(conv, 1, 8), "epsilon"),
        Variant("base-or-768v", ALWAYS),
    )


def _sdxl_variants(conv: str, deep: str) -> tuple[Variant, ...]:
    """``deep`` is the transformer of the lowest level; its depth tells the distilled models (CUI SSD_1B, Vega)."""
    last = ".attn2.to_k.weight"
    return (
        Variant("cosxl-edit", All(Marked("edm_vpred.sigma_max"), Side(conv, 1, 8)), "edm_v_prediction"),
        Variant("cosxl", Marked("edm_vpred.sigma_max"), "edm_v_prediction"),
        Variant("playground-v2.5", All(Marked("edm_mean"), Marked("edm_std")), "edm"),
        Variant("inpainting", Side(conv, 1, 9), inpainting=True),
        Variant("instruct-pix2pix", Side(conv, 1, 8)),
        Variant("ssd-1b", Depth(deep, last, 3, 4)),
        Variant("segmind-vega", Depth(deep, last, 1, 2)),
        Variant("base", ALWAYS),
    )


UNETS: tuple[Architecture, ...] = (
    Architecture(
        id="sd1",
        label="SD1",
        layout="ldm",
        when=All(
            _LDM, Has(_ATTN1), Lacks("label_emb.0.0.weight", "label_emb.weight"), Context("input_blocks.1.1", 768, 4)
        ),
        prediction="epsilon",
        inputs=("input_blocks.0.0.weight", 1),
        width=("input_blocks.0.0.weight", 0, (320,)),
        variants=_channels("input_blocks.0.0.weight", "v1"),
    ),
    Architecture(
        id="sd1",
        label="SD1",
        layout="diffusers",
        when=All(
            _DIFF,
            Has(_ATTN1_D),
            Lacks("add_embedding.linear_1.weight", "class_embedding.linear_1.weight", "class_embedding.weight"),
            Context("down_blocks.0.attentions.0", 768, 4),
        ),
        prediction="epsilon",
        inputs=("conv_in.weight", 1),
        width=("conv_in.weight", 0, (320,)),
        variants=_channels("conv_in.weight", "v1"),
    ),
    Architecture(
        id="sd2",
        label="SD2",
        layout="ldm",
        when=All(_LDM, Has(_ATTN1), Lacks("label_emb.weight"), Context("input_blocks.1.1", 1024, 2)),
        prediction="undetermined",
        inputs=("input_blocks.0.0.weight", 1),
        width=("input_blocks.0.0.weight", 0, (320,)),
        variants=_sd2_variants("input_blocks.0.0.weight", "label_emb.0.0.weight"),
    ),
    Architecture(
        id="sd2",
        label="SD2",
        layout="diffusers",
        when=All(
            _DIFF,
            Has(_ATTN1_D),
            Lacks("class_embedding.weight", "add_embedding.linear_1.weight"),
            Context("down_blocks.0.attentions.0", 1024, 2),
        ),
        prediction="undetermined",
        inputs=("conv_in.weight", 1),
        width=("conv_in.weight", 0, (320,)),
        variants=_sd2_variants("conv_in.weight", "class_embedding.linear_1.weight"),
    ),
    Architecture(
        id="sd2",
        label="SD2 x4 upscaler",
        layout="ldm",
        when=All(_LDM, Has("label_emb.weight"), Side("input_blocks.0.0.weight", 1, 7)),
        prediction="v_prediction",
        inputs=("input_blocks.0.0.weight", 1),
        width=("input_blocks.0.0.weight", 0, (256,)),
        variants=(Variant("x4-upscaler", ALWAYS),),
    ),
    Architecture(
        id="sd2",
        label="SD2 x4 upscaler",
        layout="diffusers",
        when=All(_DIFF, Has("class_embedding.weight"), Side("conv_in.weight", 1, 7)),
        prediction="v_prediction",
        inputs=("conv_in.weight", 1),
        width=("conv_in.weight", 0, (256,)),
        variants=(Variant("x4-upscaler", ALWAYS),),
    ),
    Architecture(
        id="sdxl",
        label="SDXL",
        layout="ldm",
        when=All(_LDM, Has(_ATTN4, "label_emb.0.0.weight"), Lacks(_ATTN1, _FOUR_LEVELS), Not(_KOLORS)),
        prediction="epsilon",
        inputs=("input_blocks.0.0.weight", 1),
        width=("input_blocks.0.0.weight", 0, (320,)),
        variants=_sdxl_variants("input_blocks.0.0.weight", "input_blocks.7.1.transformer_blocks."),
    ),
    Architecture(
        id="sdxl",
        label="SDXL",
        layout="diffusers",
        when=All(
            _DIFF, Has(_ATTN4_D, "add_embedding.linear_1.weight"), Lacks(_ATTN1_D, _FOUR_LEVELS_D), Not(_KOLORS_D)
        ),
        prediction="epsilon",
        inputs=("conv_in.weight", 1),
        width=("conv_in.weight", 0, (320,)),
        variants=_sdxl_variants("conv_in.weight", "down_blocks.2.attentions.0.transformer_blocks."),
    ),
    Architecture(
        id="sdxl-refiner",
        label="SDXL refiner",
        layout="ldm",
        when=All(_LDM, Has(_ATTN4, "label_emb.0.0.weight", _FOUR_LEVELS), Lacks(_ATTN1)),
        prediction="epsilon",
        inputs=("input_blocks.0.0.weight", 1),
        width=("input_blocks.0.0.weight", 0, (384,)),
        variants=(Variant("refiner", ALWAYS),),
    ),
    Architecture(
        id="sdxl-refiner",
        label="SDXL refiner",
        layout="diffusers",
        when=All(_DIFF, Has(_ATTN4_D, "add_embedding.linear_1.weight", _FOUR_LEVELS_D), Lacks(_ATTN1_D)),
        prediction="epsilon",
        inputs=("conv_in.weight", 1),
        width=("conv_in.weight", 0, (384,)),
        variants=(Variant("refiner", ALWAYS),),
    ),
    Architecture(
        id="kolors",
        label="Kolors",
        layout="ldm",
        when=All(_LDM, Has(_ATTN4), Lacks(_ATTN1, _FOUR_LEVELS), _KOLORS),
        prediction="epsilon",
        inputs=("input_blocks.0.0.weight", 1),
        width=("input_blocks.0.0.weight", 0, (320,)),
        variants=_channels("input_blocks.0.0.weight", "kolors"),
    ),
    Architecture(
        id="kolors",
        label="Kolors",
        layout="diffusers",
        when=All(_DIFF, Has(_ATTN4_D), Lacks(_ATTN1_D, _FOUR_LEVELS_D), _KOLORS_D),
        prediction="epsilon",
        inputs=("conv_in.weight", 1),
        width=("conv_in.weight", 0, (320,)),
        variants=_channels("conv_in.weight", "kolors"),
    ),
)
