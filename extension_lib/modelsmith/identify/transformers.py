"""The diffusion transformers that are known, and Stable Cascade, as data.

Where a rule comes from stands with it; "CUI" is ComfyUI's comfy/model_detection.py, "DIF" diffusers'
loaders/single_file_utils.py, "A1111" its modules/sd_models_config.py, and "measured" was seen on real key sets.
"""

from __future__ import annotations

from modelsmith.identify.conditions import All, AnyOf, Blocks, Has, Lacks, Marked, Not, Side, Stem
from modelsmith.identify.records import ALWAYS, Architecture, Variant

# ---- Transformers.
_FLUX_KEY = AnyOf(
    Has("double_blocks.0.img_attn.norm.key_norm.scale"),
    Has("double_blocks.0.img_attn.norm.key_norm.weight"),
)
_CHROMA = Has("distilled_guidance_layer.in_proj.weight")


def _flux1_variants(inputs: str, guidance: str) -> tuple[Variant, ...]:
    return (
        Variant("schnell", Lacks(guidance)),
        Variant("fill", Side(inputs, 1, 384), inpainting=True),
        Variant("depth-or-canny", Side(inputs, 1, 128)),
        # Kontext and Krea have dev's names and shapes (measured: no difference)
        Variant("dev-or-kontext-or-krea", ALWAYS),
    )


def _flux2_variants(text: str, guidance: str, doubles: str) -> tuple[Variant, ...]:
    # FLUX.2 has no biases, so a packed file hides its widths, as a narrow one does; the number of blocks does not lie
    klein4 = Blocks(doubles, 5, 5)
    klein9 = Blocks(doubles, 8, 8)
    return (
        Variant("dev", Has(guidance)),
        Variant("klein-4b", AnyOf(Side(text, 1, 7680), klein4)),
        Variant("klein-9b", AnyOf(Side(text, 1, 12288), klein9)),
        Variant("klein", ALWAYS),
    )


def _lumina_variants() -> tuple[Variant, ...]:
    return (
        Variant("newbie", Has("clip_text_pooled_proj.0.weight")),
        Variant("lumina2-or-netayume", ALWAYS),
    )


def _wan_variants(d: str, extra: str) -> tuple[Variant, ...]:
    patch = "patch_embedding.weight"
    small = Blocks("blocks", 30, 30)  # of the 1.3B and the 5B model; the 14B ones have 40
    large = AnyOf(Side(d, 0, 5120), Blocks("blocks", 40, 40))
    return (
        Variant("vace", AnyOf(Has("vace_patch_embedding.weight"), Stem("vace_blocks"))),
        Variant("wan2.1-t2v_1_3b", All(AnyOf(Side(d, 0, 1536), small), Side(patch, 1, 16))),
        Variant("wan2.2-ti2v_5b", All(AnyOf(Side(d, 0, 3072), small), Side(patch, 1, 48))),
        Variant("wan2.1-t2v_14b", All(large, Side(patch, 1, 16))),
        Variant("wan2.1-i2v_14b", All(large, Side(patch, 1, 36), Has(extra))),
        Variant("wan2.2-i2v_14b", All(large, Side(patch, 1, 36))),
        Variant("wan", ALWAYS),
    )


TRANSFORMERS: tuple[Architecture, ...] = (
    Architecture(
        id="flux2",
        label="FLUX.2",
        layout="original",
        when=Has("double_stream_modulation_img.lin.weight", "single_stream_modulation.lin.weight", "img_in.weight"),
        prediction="flow",
        inputs=("img_in.weight", 1),
        width=("img_in.weight", 0, (6144, 3072, 4096)),
        variants=_flux2_variants("txt_in.weight", "guidance_in.in_layer.weight", "double_blocks"),
    ),
    Architecture(
        id="flux2",
        label="FLUX.2",
        layout="diffusers",
        when=Has("single_stream_modulation.linear.weight", "x_embedder.weight"),
        prediction="flow",
        inputs=("x_embedder.weight", 1),
        width=("x_embedder.weight", 0, (6144, 3072, 4096)),
        variants=_flux2_variants(
            "context_embedder.weight", "time_guidance_embed.guidance_embedder.linear_1.weight", "transformer_blocks"
        ),
    ),
    Architecture(
        id="chroma",
        label="Chroma",
        layout="original",
        when=All(_CHROMA, Stem("double_blocks")),
        prediction="flow",
        inputs=("img_in.weight", 1),
        width=("distilled_guidance_layer.in_proj.weight", 0, (5120,)),
        variants=(Variant("radiance", Stem("nerf_blocks")), Variant("chroma", ALWAYS)),
    ),
    Architecture(
        id="chroma",
        label="Chroma",
        layout="diffusers",
        when=All(_CHROMA, Stem("transformer_blocks")),
        prediction="flow",
        inputs=("x_embedder.weight", 1),
        width=("distilled_guidance_layer.in_proj.weight", 0, (5120,)),
        variants=(Variant("chroma", ALWAYS),),
    ),
    Architecture(
        id="flux1",
        label="FLUX.1",
        layout="original",
        when=All(_FLUX_KEY, Has("img_in.weight", "vector_in.in_layer.weight"), Not(_CHROMA)),
        prediction="flow",
        inputs=("img_in.weight", 1),
        width=("img_in.weight", 0, (3072,)),
        variants=_flux1_variants("img_in.weight", "guidance_in.in_layer.weight"),
    ),
    Architecture(
        id="flux1",
        label="FLUX.1",
        layout="diffusers",
        when=All(
            Has("x_embedder.weight", "time_text_embed.text_embedder.linear_1.weight"),
            # Nunchaku's files split and rename the projection
            AnyOf(
                Has("single_transformer_blocks.0.proj_mlp.weight"), Has("single_transformer_blocks.0.mlp_fc1.weight")
            ),
            Not(_CHROMA),
        ),
        prediction="flow",
        inputs=("x_embedder.weight", 1),
        width=("x_embedder.weight", 0, (3072,)),
        variants=_flux1_variants("x_embedder.weight", "time_text_embed.guidance_embedder.linear_1.weight"),
    ),
    Architecture(
        id="sd3",
        label="SD3",
        layout="original",
        when=All(
            Has("x_embedder.proj.weight"), Stem("joint_blocks"), Has("joint_blocks.0.context_block.attn.qkv.weight")
        ),
        prediction="flow",
        inputs=("x_embedder.proj.weight", 1),
        width=("x_embedder.proj.weight", 0, (1536, 2432)),
        variants=(
            Variant("3.5-large", Blocks("joint_blocks", 38, 38)),
            Variant("3.5-medium", Has("joint_blocks.0.x_block.attn2.qkv.weight")),
            Variant("3.0-medium", Lacks("joint_blocks.0.x_block.attn.ln_q.weight")),
            Variant("3.x", ALWAYS),
        ),
    ),
    Architecture(
        id="sd3",
        label="SD3",
        layout="diffusers",
        when=All(
            Has("transformer_blocks.0.attn.add_q_proj.weight", "pos_embed.proj.weight"),
            Lacks("controlnet_blocks.0.weight", "pos_embed_input.proj.weight"),
        ),
        prediction="flow",
        inputs=("pos_embed.proj.weight", 1),
        width=("pos_embed.proj.weight", 0, (1536, 2432)),
        variants=(
            Variant("3.5-large", Blocks("transformer_blocks", 38, 38)),
            Variant("3.5-medium", Has("transformer_blocks.0.attn2.to_q.weight")),
            Variant("3.0-medium", Lacks("transformer_blocks.0.attn.norm_q.weight")),
            Variant("3.x", ALWAYS),
        ),
    ),
    Architecture(
        id="z-image",
        label="Z-Image",
        layout="original",
        # without cap_pad_token it is Ming-Image, with dec_net a pixel-space relative (CUI's Lumina2 branch)
        when=All(
            Has("cap_embedder.1.weight", "noise_refiner.0.attention.k_norm.weight", "cap_pad_token"),
            Has("layers.0.adaLN_modulation.0.weight"),
        ),
        prediction="flow",
        inputs=("x_embedder.weight", 1),
        width=("cap_embedder.1.bias", 0, (3840,)),
        variants=(
            Variant("omni", Stem("siglip_embedder")),
            Variant("pixel", Stem("dec_net")),
            Variant("z-image-or-turbo", ALWAYS),
        ),
    ),
    Architecture(
        id="z-image",
        label="Z-Image",
        layout="diffusers",
        when=All(
            Has("cap_embedder.1.weight", "noise_refiner.0.attention.norm_k.weight", "all_x_embedder.2-1.weight"),
            Has("cap_pad_token"),
        ),
        prediction="flow",
        inputs=("all_x_embedder.2-1.weight", 1),
        width=("cap_embedder.1.bias", 0, (3840,)),
        variants=(Variant("omni", Stem("siglip_embedder")), Variant("z-image-or-turbo", ALWAYS)),
    ),
    Architecture(
        id="lumina2",
        label="Lumina-Image 2.0",
        layout="original",
        when=All(
            Has("cap_embedder.1.weight", "noise_refiner.0.attention.k_norm.weight"),
            Has("layers.0.adaLN_modulation.1.weight"),
            Lacks("cap_pad_token"),
        ),
        prediction="flow",
        inputs=("x_embedder.weight", 1),
        width=("cap_embedder.1.bias", 0, (2304,)),
        variants=_lumina_variants(),
    ),
    Architecture(
        id="lumina2",
        label="Lumina-Image 2.0",
        layout="diffusers",
        # OmniGen2 has both names too, and a second patch embedder for reference images
        when=All(
            Has("time_caption_embed.caption_embedder.1.weight", "noise_refiner.0.attn.norm_k.weight"),
            Lacks("ref_image_patch_embedder.weight", "ref_image_patch_embedder.bias"),
        ),
        prediction="flow",
        inputs=("x_embedder.weight", 1),
        width=("time_caption_embed.caption_embedder.1.bias", 0, (2304,)),
        variants=_lumina_variants(),
    ),
    Architecture(
        id="qwen-image",
        label="Qwen-Image",
        layout="original",
        # its relatives: 2.1 (text_norm), Lens (w1), Mage-Flow (txt_norm 2560)
        when=All(
            Has("txt_norm.weight", "img_in.weight", "proj_out.weight", "transformer_blocks.0.attn.norm_added_q.weight"),
            Lacks("txt_in.text_norm.weight", "transformer_blocks.0.img_mlp.w1.weight", "controlnet_blocks.0.weight"),
            Not(Side("txt_norm.weight", 0, 2560)),
        ),
        prediction="flow",
        inputs=("img_in.weight", 1),
        width=("img_in.weight", 0, (3072,)),
        variants=(
            Variant("layered", Has("time_text_embed.addition_t_embedding.weight")),
            Variant("edit-2511", AnyOf(Has("__index_timestep_zero__"), Marked("__index_timestep_zero__"))),
            Variant("qwen-image-or-edit", ALWAYS),
        ),
    ),
    Architecture(
        id="stable-cascade",
        label="Stable Cascade",
        layout="original",
        when=All(
            Has("clf.1.weight"),
            AnyOf(Has("clip_txt_mapper.weight"), Has("clip_mapper.weight"), Has("effnet_mapper.0.weight")),
        ),
        prediction="cascade",
        inputs=("embedding.1.weight", 1),
        width=("clf.1.weight", 1, (2048, 1536, 320)),
        variants=(
            Variant("stage-c-lite", Side("clip_txt_mapper.weight", 0, 1536)),
            Variant("stage-c", Has("clip_txt_mapper.weight")),
            Variant("stage-b-lite", Side("down_blocks.1.0.channelwise.0.weight", -1, 576)),
            Variant("stage-b", ALWAYS),
        ),
    ),
    Architecture(
        id="pixart",
        label="PixArt",
        layout="original",
        when=Has("t_block.1.weight", "y_embedder.y_embedding"),
        prediction="epsilon",
        inputs=("x_embedder.proj.weight", 1),
        width=("x_embedder.proj.weight", 0, (1152,)),
        # Sigma takes 300 tokens, Alpha 120; Alpha's 1024 model has the aspect ratio beside
        variants=(
            Variant("alpha", AnyOf(Has("ar_embedder.mlp.0.weight"), Side("y_embedder.y_embedding", 0, 120))),
            Variant("sigma", ALWAYS),
        ),
    ),
    Architecture(
        id="pixart",
        label="PixArt",
        layout="diffusers",
        when=Has("adaln_single.emb.timestep_embedder.linear_1.bias", "pos_embed.proj.bias"),
        prediction="epsilon",
        inputs=("pos_embed.proj.weight", 1),
        width=("pos_embed.proj.bias", 0, (1152,)),
        variants=(
            Variant("alpha", Has("adaln_single.emb.resolution_embedder.linear_1.weight")),
            Variant("sigma", ALWAYS),
        ),
    ),
    Architecture(
        id="auraflow",
        label="AuraFlow",
        layout="original",
        when=Has("double_layers.0.attn.w1q.weight", "cond_seq_linear.weight"),
        prediction="flow",
        inputs=("init_x_linear.weight", 1),
        width=("init_x_linear.bias", 0, (3072,)),
        variants=(Variant("auraflow", ALWAYS),),
    ),
    Architecture(
        id="auraflow",
        label="AuraFlow",
        layout="diffusers",
        when=All(Has("joint_transformer_blocks.0.attn.add_k_proj.weight"), Has("register_tokens")),
        prediction="flow",
        inputs=("pos_embed.proj.weight", 1),
        width=("pos_embed.proj.bias", 0, (3072,)),
        variants=(Variant("auraflow", ALWAYS),),
    ),
    Architecture(
        id="hunyuan-dit",
        label="HunyuanDiT",
        layout="original",
        when=Has("mlp_t5.0.weight", "text_embedding_padding"),
        prediction="v_prediction",
        inputs=("x_embedder.proj.weight", 1),
        width=("x_embedder.proj.weight", 0, (1408,)),
        variants=(Variant("v1.0-or-v1.1", Side("extra_embedder.0.weight", 1, 3968)), Variant("v1.2", ALWAYS)),
    ),
    Architecture(
        id="hunyuan-dit",
        label="HunyuanDiT",
        layout="diffusers",
        when=All(Has("text_embedding_padding"), Lacks("mlp_t5.0.weight")),
        prediction="v_prediction",
        inputs=("pos_embed.proj.weight", 1),
        width=("pos_embed.proj.weight", 0, (1408,)),
        variants=(
            Variant("v1.0-or-v1.1", Side("time_extra_emb.extra_embedder.linear_1.weight", 1, 3968)),
            Variant("v1.2", ALWAYS),
        ),
    ),
    Architecture(
        id="wan",
        label="Wan",
        layout="original",
        when=Has("head.modulation", "patch_embedding.weight"),
        prediction="flow",
        inputs=("patch_embedding.weight", 1),
        width=("patch_embedding.weight", 0, (1536, 3072, 5120)),
        variants=_wan_variants("patch_embedding.weight", "img_emb.proj.1.weight"),
    ),
    Architecture(
        id="wan",
        label="Wan",
        layout="diffusers",
        when=Has("condition_embedder.time_proj.weight", "scale_shift_table", "patch_embedding.weight"),
        prediction="flow",
        inputs=("patch_embedding.weight", 1),
        width=("patch_embedding.weight", 0, (1536, 3072, 5120)),
        variants=_wan_variants("patch_embedding.weight", "condition_embedder.image_embedder.ff.net.0.proj.weight"),
    ),
)
