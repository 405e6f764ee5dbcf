"""More templates: diffusers' transformers, Stable Cascade, Wan's VAEs, and text encoders as GGUF (see templates.py).

The names of GGUF files are llama.cpp's (gguf-py/gguf/constants.py).
"""

from __future__ import annotations

from collections.abc import Mapping

_Z_BLOCKS = "{layers.{0-29},noise_refiner.{0,1},context_refiner.{0,1}}"
_Z_IMAGE = f"""
x_pad_token cap_pad_token {{all_x_embedder.2-1,all_final_layer.2-1.{{linear,adaLN_modulation.1}}}}.{{weight,bias}}
t_embedder.mlp.{{0,2}}.{{weight,bias}} cap_embedder.{{0.weight,1.weight,1.bias}}
{_Z_BLOCKS}.attention.{{to_q,to_k,to_v,to_out.0,norm_q,norm_k}}.weight
{_Z_BLOCKS}.{{feed_forward.{{w1,w2,w3}},attention_norm1,attention_norm2,ffn_norm1,ffn_norm2}}.weight
{{layers.{{0-29}},noise_refiner.{{0,1}}}}.adaLN_modulation.0.{{weight,bias}}
"""
_L_BLOCKS = "{layers.{0-25},noise_refiner.{0,1},context_refiner.{0,1}}"
_LUMINA = f"""
{{x_embedder,time_caption_embed.timestep_embedder.linear_{{1,2}},norm_out.linear_{{1,2}}}}.{{weight,bias}}
time_caption_embed.caption_embedder.{{0.weight,1.weight,1.bias}}
{_L_BLOCKS}.{{attn.{{to_q,to_k,to_v,to_out.0,norm_q,norm_k}},feed_forward.linear_{{1,2,3}}}}.weight
{_L_BLOCKS}.{{ffn_norm1,ffn_norm2,norm2}}.weight context_refiner.{{0,1}}.norm1.weight
{{layers.{{0-25}},noise_refiner.{{0,1}}}}.norm1.{{norm.weight,linear.weight,linear.bias}}
"""
_DOUBLE = "attn.{to_q,to_k,to_v,to_out.0,add_q_proj,add_k_proj,add_v_proj,to_add_out}"
_CHROMA = f"""
{{distilled_guidance_layer.{{in_proj,out_proj}},context_embedder,x_embedder,proj_out}}.{{weight,bias}}
distilled_guidance_layer.layers.{{0-4}}.linear_{{1,2}}.{{weight,bias}} distilled_guidance_layer.norms.{{0-4}}.weight
transformer_blocks.{{0-18}}.{{{_DOUBLE},{{ff,ff_context}}.net.{{0.proj,2}}}}.{{weight,bias}}
transformer_blocks.{{0-18}}.attn.norm_{{q,k,added_q,added_k}}.weight
single_transformer_blocks.{{0-37}}.{{proj_mlp,proj_out,attn.to_{{q,k,v}}}}.{{weight,bias}}
single_transformer_blocks.{{0-37}}.attn.norm_{{q,k}}.weight
"""
_FLUX2_GUIDANCE = " time_guidance_embed.guidance_embedder.linear_{1,2}.weight"
_AURAFLOW = f"""
register_tokens pos_embed.pos_embed {{pos_embed.proj,time_step_proj.linear_{{1,2}}}}.{{weight,bias}}
{{context_embedder,norm_out.linear,proj_out}}.weight
joint_transformer_blocks.{{0-3}}.{{norm1.linear,norm1_context.linear,{_DOUBLE}}}.weight
joint_transformer_blocks.{{0-3}}.{{ff,ff_context}}.{{linear_1,linear_2,out_projection}}.weight
single_transformer_blocks.{{0-31}}.{{norm1.linear,attn.{{to_q,to_k,to_v,to_out.0}}}}.weight
single_transformer_blocks.{{0-31}}.ff.{{linear_1,linear_2,out_projection}}.weight
"""
_PIXART = """
scale_shift_table {pos_embed.proj,proj_out,adaln_single.linear,caption_projection.linear_{1,2}}.{weight,bias}
adaln_single.emb.timestep_embedder.linear_{1,2}.{weight,bias} transformer_blocks.{0-27}.scale_shift_table
transformer_blocks.{0-27}.{attn{1,2}.{to_q,to_k,to_v,to_out.0},ff.net.{0.proj,2}}.{weight,bias}
"""
_PIXART_SIZES = " adaln_single.emb.{resolution_embedder,aspect_ratio_embedder}.linear_{1,2}.{weight,bias}"
_WAN_IMAGE = """
condition_embedder.image_embedder.{norm1,norm2,ff.net.{0.proj,2}}.{weight,bias}
blocks.{0-39}.attn2.{add_{k,v}_proj.{weight,bias},norm_added_k.weight}
"""


def _flux2(doubles: int, singles: int) -> str:
    return f"""
{{time_guidance_embed.timestep_embedder.linear_{{1,2}},{{double_stream_modulation_{{img,txt}},norm_out}}.linear}}.weight
{{single_stream_modulation.linear,x_embedder,context_embedder,proj_out}}.weight
transformer_blocks.{{0-{doubles - 1}}}.{{{_DOUBLE},attn.norm_{{q,k,added_q,added_k}}}}.weight
transformer_blocks.{{0-{doubles - 1}}}.{{ff,ff_context}}.linear_{{in,out}}.weight
single_transformer_blocks.{{0-{singles - 1}}}.attn.{{to_qkv_mlp_proj,to_out,norm_q,norm_k}}.weight
"""


def _wan(blocks: int) -> str:
    return f"""
scale_shift_table {{patch_embedding,proj_out,condition_embedder.time_proj}}.{{weight,bias}}
condition_embedder.{{text_embedder,time_embedder}}.linear_{{1,2}}.{{weight,bias}}
blocks.{{0-{blocks - 1}}}.{{attn{{1,2}}.{{to_q,to_k,to_v,to_out.0}},ffn.net.{{0.proj,2}},norm2}}.{{weight,bias}}
blocks.{{0-{blocks - 1}}}.{{attn{{1,2}}.norm_{{q,k}}.weight,scale_shift_table}}
"""


def _cascade_c(attention: str) -> str:
    """Stage C: triples of a residual, a timestep and an attention block, 8 and 24 of them down, 24 and 8 up."""
    found = [
        "{clf.1,clip_img_mapper,clip_txt_mapper,clip_txt_pooled_mapper,embedding.1}.{weight,bias}",
        "{down_downscalers.1.1.blocks.0,up_upscalers.0.1.blocks.1}.{weight,bias}",
    ]
    for stem, triples in (("down_blocks.0", 8), ("down_blocks.1", 24), ("up_blocks.0", 24), ("up_blocks.1", 8)):
        first, second, third = (",".join(map(str, range(place, 3 * triples, 3))) for place in range(3))
        found += [
            f"{stem}.{{{first}}}.{{{{channelwise.0,channelwise.4,depthwise}}.{{weight,bias}},channelwise.2.{{gamma,beta}}}}",
            f"{stem}.{{{second}}}.{{mapper,mapper_crp,mapper_sca}}.{{weight,bias}}",
            f"{stem}.{{{third}}}.{{{attention},kv_mapper.1}}.{{weight,bias}}",
        ]
    return " ".join(found)


_WAN_VAE = """
{{encoder,decoder}.{conv_in,conv_out},quant_conv,post_quant_conv}.{weight,bias} {encoder,decoder}.norm_out.gamma
{encoder,decoder}.mid_block.attentions.0.{norm.gamma,{to_qkv,proj}.{weight,bias}}
{encoder,decoder}.mid_block.resnets.{0,1}.{norm{1,2}.gamma,conv{1,2}.{weight,bias}}
decoder.up_blocks.{0-3}.resnets.{0-2}.{norm{1,2}.gamma,conv{1,2}.{weight,bias}}
"""
_WAN21_VAE = (
    _WAN_VAE
    + """
encoder.down_blocks.{0,1,3,4,6,7,9,10}.{norm{1,2}.gamma,conv{1,2}.{weight,bias}}
encoder.down_blocks.{{2,5,8}.resample.1,{3,6}.conv_shortcut,{5,8}.time_conv}.{weight,bias}
decoder.up_blocks.{{0-2}.upsamplers.0.resample.1,{0,1}.upsamplers.0.time_conv,1.resnets.0.conv_shortcut}.{weight,bias}
"""
)
_WAN22_VAE = (
    _WAN_VAE
    + """
encoder.down_blocks.{0-3}.resnets.{0,1}.{norm{1,2}.gamma,conv{1,2}.{weight,bias}}
encoder.down_blocks.{{0-2}.downsampler.resample.1,{1,2}.{resnets.0.conv_shortcut,downsampler.time_conv}}.{weight,bias}
decoder.up_blocks.{{0-2}.upsampler.resample.1,{0,1}.upsampler.time_conv,{2,3}.resnets.0.conv_shortcut}.{weight,bias}
"""
)
_X4_VAE = """
{encoder,decoder}.{conv_in,conv_out}.{weight,bias} {quant_conv,post_quant_conv}.{weight,bias}
"""
_X4_LDM = (
    _X4_VAE
    + """
{encoder,decoder}.{norm_out,mid.{block_{1,2}.{norm1,conv1,norm2,conv2},attn_1.{norm,q,k,v,proj_out}}}.{weight,bias}
encoder.down.{0-2}.block.{0,1}.{norm1,conv1,norm2,conv2}.{weight,bias}
{encoder.down.{1,2},decoder.up.{0,1}}.block.0.nin_shortcut.{weight,bias}
{encoder.down.{0,1}.downsample,decoder.up.{1,2}.upsample}.conv.{weight,bias}
decoder.up.{0-2}.block.{0-2}.{norm1,conv1,norm2,conv2}.{weight,bias}
"""
)
_X4_DIFF = (
    _X4_VAE
    + """
{encoder,decoder}.{conv_norm_out,mid_block.resnets.{0,1}.{norm1,conv1,norm2,conv2}}.{weight,bias}
{encoder,decoder}.mid_block.attentions.0.{group_norm,to_q,to_k,to_v,to_out.0}.{weight,bias}
encoder.down_blocks.{0-2}.resnets.{0,1}.{norm1,conv1,norm2,conv2}.{weight,bias}
{encoder.down_blocks,decoder.up_blocks}.{1,2}.resnets.0.conv_shortcut.{weight,bias}
{encoder.down_blocks.{0,1}.downsamplers,decoder.up_blocks.{0,1}.upsamplers}.0.conv.{weight,bias}
decoder.up_blocks.{0-2}.resnets.{0-2}.{norm1,conv1,norm2,conv2}.{weight,bias}
"""
)

# ---- text encoders as GGUF

_T5_GGUF = """
token_embd.weight enc.output_norm.weight
enc.blk.{0-23}.{attn_norm,attn_q,attn_k,attn_v,attn_o,ffn_norm,ffn_gate,ffn_up,ffn_down}.weight
"""


def _llm_gguf(layers: int, *extra: str) -> str:
    block = f"blk.{{0-{layers - 1}}}"
    parts = "attn_norm,attn_q,attn_k,attn_v,attn_output,ffn_norm,ffn_gate,ffn_up,ffn_down"
    more = " ".join(f"{block}.{name}" for name in extra)
    return f"token_embd.weight output_norm.weight {block}.{{{parts}}}.weight {more}"


_Q_NORM = "attn_{q,k}_norm.weight"

MORE: Mapping[str, str] = {
    "z-image/diffusers/z-image-or-turbo": _Z_IMAGE,
    "lumina2/diffusers/lumina2-or-netayume": _LUMINA,
    "chroma/diffusers/chroma": _CHROMA,
    "flux2/diffusers/dev": _flux2(8, 48) + _FLUX2_GUIDANCE,
    "flux2/diffusers/klein-4b": _flux2(5, 20),
    "flux2/diffusers/klein-9b": _flux2(8, 24),
    "auraflow/diffusers": _AURAFLOW,
    "pixart/diffusers/alpha": _PIXART + _PIXART_SIZES,
    "pixart/diffusers/sigma": _PIXART,
    "stable-cascade/original/stage-c": _cascade_c("attention.attn.{to_q,to_k,to_v,out_proj}"),
    "stable-cascade/original/stage-c#diffusers": _cascade_c("attention.{to_q,to_k,to_v,to_out.0}"),
    "wan/diffusers/wan2.1-t2v_1_3b": _wan(30),
    "wan/diffusers/wan2.2-ti2v_5b": _wan(30),
    "wan/diffusers/wan2.1-t2v_14b": _wan(40),
    "wan/diffusers/wan2.2-i2v_14b": _wan(40),
    "wan/diffusers/wan2.1-i2v_14b": _wan(40) + _WAN_IMAGE,
    "vae/ldm-vae/4/f4": _X4_LDM,
    "vae/diffusers-vae/4/f4": _X4_DIFF,
    "vae/diffusers-vae/wan2.1-or-qwen-image": _WAN21_VAE,
    "vae/diffusers-vae/wan2.2": _WAN22_VAE,
    "t5-xxl/gguf": _T5_GGUF + " enc.blk.0.attn_rel_b.weight",
    "umt5-xxl/gguf": _T5_GGUF + " enc.blk.{0-23}.attn_rel_b.weight",
    "gemma2-2b/gguf": _llm_gguf(26, "{post_attention_norm,post_ffw_norm}.weight"),
    "qwen2.5-vl-7b/gguf": _llm_gguf(28, "attn_{q,k,v}.bias"),
    "qwen3-0.6b/gguf": _llm_gguf(28, _Q_NORM),
    "qwen3-4b/gguf": _llm_gguf(36, _Q_NORM),
    "qwen3-8b/gguf": _llm_gguf(36, _Q_NORM),
    "mistral3-24b/gguf": _llm_gguf(40),
    "mistral3-24b/gguf#pruned": _llm_gguf(30),
}
