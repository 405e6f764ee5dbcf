"""The templates themselves: plans of UNets and brace patterns of everything else (see templates.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class UnetPlan:
    """Transformer depth of every block, level by level in the order of the names; 0 is a block without one."""

    down: tuple[tuple[int, ...], ...]
    middle: int
    up: tuple[tuple[int, ...], ...]
    label: str = ""
    embedding: str = "add_embedding"
    widening: tuple[int, ...] = (1, 2)  # the levels that begin with a change of width, on the way down
    hidden: bool = False  # whether a projection of the text stands before it (diffusers' encoder_hid_proj)


_SD = UnetPlan(((1, 1), (1, 1), (1, 1), (0, 0)), 1, ((0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1)))
_UNCLIP = UnetPlan(_SD.down, 1, _SD.up, "linear", "class_embedding")
_X4 = UnetPlan(((0, 0), (1, 1), (1, 1), (1, 1)), 1, ((1, 1, 1), (1, 1, 1), (1, 1, 1), (0, 0, 0)), "table", "", (1, 3))
_SDXL = UnetPlan(((0, 0), (2, 2), (10, 10)), 10, ((10, 10, 10), (2, 2, 2), (0, 0, 0)), "linear")
_KOLORS = UnetPlan(_SDXL.down, 10, _SDXL.up, "linear", hidden=True)
_REFINER = UnetPlan(((0, 0), (4, 4), (4, 4), (0, 0)), 4, ((0, 0, 0), (4, 4, 4), (4, 4, 4), (0, 0, 0)), "linear")
_SSD = UnetPlan(((0, 0), (2, 2), (4, 4)), 0, ((4, 4, 10), (2, 1, 1), (0, 0, 0)), "linear")
_VEGA = UnetPlan(((0, 0), (1, 1), (2, 2)), 0, ((2, 2, 2), (1, 1, 1), (0, 0, 0)), "linear")

UNETS: Mapping[str, UnetPlan] = {
    f"{name}/{layout}{variant}": plan
    for layout in ("ldm", "diffusers")
    for name, variant, plan in (
        ("sd1", "", _SD),
        ("sd2", "", _SD),
        ("sd2", "/unclip-l", _UNCLIP),
        ("sd2", "/unclip-h", _UNCLIP),
        ("sd2", "/x4-upscaler", _X4),
        ("sdxl", "", _SDXL),
        ("sdxl", "/ssd-1b", _SSD),
        ("sdxl", "/segmind-vega", _VEGA),
        ("sdxl-refiner", "", _REFINER),
        ("kolors", "", _KOLORS),
    )
    if (name, layout) != ("kolors", "ldm")  # where its projection stands in an ldm file is not known
}

_VAE_LDM = """
{encoder,decoder}.{conv_in,conv_out,norm_out}.{weight,bias}
{encoder,decoder}.mid.block_{1,2}.{norm1,conv1,norm2,conv2}.{weight,bias}
{encoder,decoder}.mid.attn_1.{norm,q,k,v,proj_out}.{weight,bias}
"""
_VAE_LDM_8 = (
    _VAE_LDM
    + """
encoder.down.{0-3}.block.{0,1}.{norm1,conv1,norm2,conv2}.{weight,bias}
encoder.down.{1,2}.block.0.nin_shortcut.{weight,bias}
encoder.down.{0-2}.downsample.conv.{weight,bias}
decoder.up.{0-3}.block.{0-2}.{norm1,conv1,norm2,conv2}.{weight,bias}
decoder.up.{0,1}.block.0.nin_shortcut.{weight,bias}
decoder.up.{1-3}.upsample.conv.{weight,bias}
"""
)
_VAE_DIFF = """
{encoder,decoder}.{conv_in,conv_out,conv_norm_out}.{weight,bias}
{encoder,decoder}.mid_block.resnets.{0,1}.{norm1,conv1,norm2,conv2}.{weight,bias}
{encoder,decoder}.mid_block.attentions.0.{group_norm,to_q,to_k,to_v,to_out.0}.{weight,bias}
"""
_VAE_DIFF_8 = (
    _VAE_DIFF
    + """
encoder.down_blocks.{0-3}.resnets.{0,1}.{norm1,conv1,norm2,conv2}.{weight,bias}
encoder.down_blocks.{1,2}.resnets.0.conv_shortcut.{weight,bias}
encoder.down_blocks.{0-2}.downsamplers.0.conv.{weight,bias}
decoder.up_blocks.{0-3}.resnets.{0-2}.{norm1,conv1,norm2,conv2}.{weight,bias}
decoder.up_blocks.{2,3}.resnets.0.conv_shortcut.{weight,bias}
decoder.up_blocks.{0-2}.upsamplers.0.conv.{weight,bias}
"""
)
_QUANT = " {quant_conv,post_quant_conv}.{weight,bias}"

_CLIP = """
embeddings.token_embedding.weight embeddings.position_embedding.weight final_layer_norm.{{weight,bias}}
encoder.layers.{{0-{last}}}.{{layer_norm1,layer_norm2,mlp.fc1,mlp.fc2}}.{{weight,bias}}
encoder.layers.{{0-{last}}}.self_attn.{{q_proj,k_proj,v_proj,out_proj}}.{{weight,bias}}
"""
_OPENCLIP = """
token_embedding.weight positional_embedding ln_final.{{weight,bias}}
transformer.resblocks.{{0-{last}}}.{{ln_1,ln_2,mlp.c_fc,mlp.c_proj,attn.out_proj}}.{{weight,bias}}
transformer.resblocks.{{0-{last}}}.attn.in_proj_{{weight,bias}}
"""
_T5 = """
shared.weight encoder.final_layer_norm.weight encoder.block.{0-23}.layer.{0,1}.layer_norm.weight
encoder.block.{0-23}.layer.0.SelfAttention.{q,k,v,o}.weight
encoder.block.{0-23}.layer.1.DenseReluDense.{wi_0,wi_1,wo}.weight
"""
_BIAS = "encoder.block.{blocks}.layer.0.SelfAttention.relative_attention_bias.weight"
_LLM = """
embed_tokens.weight norm.weight
layers.{{0-{last}}}.{{input_layernorm,post_attention_layernorm,mlp.gate_proj,mlp.up_proj,mlp.down_proj}}.weight
layers.{{0-{last}}}.self_attn.{{q_proj,k_proj,v_proj,o_proj}}.weight
"""
_LLM_NORMS = " layers.{{0-{last}}}.self_attn.{{q_norm,k_norm}}.weight"
_LLM_BIASES = " layers.{{0-{last}}}.self_attn.{{q_proj,k_proj,v_proj}}.bias"
_LLM_SANDWICH = " layers.{{0-{last}}}.{{pre,post}}_feedforward_layernorm.weight"

_JOINT = """
{{context_embedder,final_layer.adaLN_modulation.1,final_layer.linear,x_embedder.proj}}.{{weight,bias}} pos_embed
{{t_embedder,y_embedder}}.mlp.{{0,2}}.{{weight,bias}}
joint_blocks.{{0-{last}}}.{{context_block,x_block}}.{{adaLN_modulation.1,attn.qkv}}.{{weight,bias}}
joint_blocks.{{0-{last}}}.x_block.{{attn.proj,mlp.fc1,mlp.fc2}}.{{weight,bias}}
joint_blocks.{{0-{before}}}.context_block.{{attn.proj,mlp.fc1,mlp.fc2}}.{{weight,bias}}
"""
_JOINT_NORMS = " joint_blocks.{{0-{last}}}.{{context_block,x_block}}.attn.ln_{{q,k}}.weight"
_SD35_MEDIUM = " joint_blocks.{0-12}.x_block.attn2.{{ln_q,ln_k}.weight,{proj,qkv}.{weight,bias}}"
_JOINT_DIFF = """
{{context_embedder,norm_out.linear,proj_out,pos_embed.proj}}.{{weight,bias}} pos_embed.pos_embed
time_text_embed.{{timestep_embedder,text_embedder}}.linear_{{1,2}}.{{weight,bias}}
transformer_blocks.{{0-{last}}}.{{norm1.linear,norm1_context.linear}}.{{weight,bias}}
transformer_blocks.{{0-{last}}}.attn.{{to_q,to_k,to_v,to_out.0,add_q_proj,add_k_proj,add_v_proj}}.{{weight,bias}}
transformer_blocks.{{0-{last}}}.ff.net.{{0.proj,2}}.{{weight,bias}}
transformer_blocks.{{0-{before}}}.{{ff_context.net.0.proj,ff_context.net.2,attn.to_add_out}}.{{weight,bias}}
"""
_JOINT_DIFF_NORMS = " transformer_blocks.{{0-{last}}}.attn.norm_{{q,k,added_q,added_k}}.weight"
_SD35_MEDIUM_DIFF = " transformer_blocks.{0-12}.attn2.{{to_q,to_k,to_v,to_out.0}.{weight,bias},norm_{q,k}.weight}"

_FLUX = """
{img_in,txt_in,final_layer.linear}.{weight,bias}
double_blocks.{0-18}.{img,txt}_{attn.proj,attn.qkv,mlp.0,mlp.2}.{weight,bias}
double_blocks.{0-18}.{img,txt}_attn.norm.{key,query}_norm.scale
single_blocks.{0-37}.{linear1,linear2}.{weight,bias} single_blocks.{0-37}.norm.{key,query}_norm.scale
"""
_FLUX1 = (
    _FLUX
    + """
final_layer.adaLN_modulation.1.{weight,bias} {time_in,vector_in}.{in,out}_layer.{weight,bias}
double_blocks.{0-18}.{img,txt}_mod.lin.{weight,bias} single_blocks.{0-37}.modulation.lin.{weight,bias}
"""
)
_FLUX1_DIFF = """
{x_embedder,context_embedder,norm_out.linear,proj_out}.{weight,bias}
time_text_embed.{timestep_embedder,text_embedder}.linear_{1,2}.{weight,bias}
transformer_blocks.{0-18}.{norm1.linear,norm1_context.linear}.{weight,bias}
transformer_blocks.{0-18}.attn.{to_q,to_k,to_v,to_out.0,add_q_proj,add_k_proj,add_v_proj,to_add_out}.{weight,bias}
transformer_blocks.{0-18}.{ff,ff_context}.net.{0.proj,2}.{weight,bias}
transformer_blocks.{0-18}.attn.norm_{q,k,added_q,added_k}.weight
single_transformer_blocks.{0-37}.{norm.linear,proj_mlp,proj_out,attn.to_q,attn.to_k,attn.to_v}.{weight,bias}
single_transformer_blocks.{0-37}.attn.norm_{q,k}.weight
"""
_FLUX_GUIDANCE = " guidance_in.{in,out}_layer.{weight,bias}"
_FLUX_GUIDANCE_DIFF = " time_text_embed.guidance_embedder.linear_{1,2}.{weight,bias}"
_CHROMA = (
    _FLUX
    + """
distilled_guidance_layer.{in_proj,out_proj}.{weight,bias} distilled_guidance_layer.norms.{0-4}.scale
distilled_guidance_layer.layers.{0-4}.{in,out}_layer.{weight,bias}
"""
)
_FLUX2 = """
{{img_in,txt_in,final_layer.linear,final_layer.adaLN_modulation.1}}.weight time_in.{{in,out}}_layer.weight
{{double_stream_modulation_img,double_stream_modulation_txt,single_stream_modulation}}.lin.weight
double_blocks.{{0-{doubles}}}.{{img,txt}}_{{attn.proj,attn.qkv,mlp.0,mlp.2}}.weight
double_blocks.{{0-{doubles}}}.{{img,txt}}_attn.norm.{{key,query}}_norm.scale
single_blocks.{{0-{singles}}}.{{linear1,linear2}}.weight
single_blocks.{{0-{singles}}}.norm.{{key,query}}_norm.scale
"""
_QWEN = """
{img_in,txt_in,norm_out.linear,proj_out}.{weight,bias} txt_norm.weight
time_text_embed.timestep_embedder.linear_{1,2}.{weight,bias}
transformer_blocks.{0-59}.attn.{to_q,to_k,to_v,to_out.0,add_q_proj,add_k_proj,add_v_proj,to_add_out}.{weight,bias}
transformer_blocks.{0-59}.attn.norm_{q,k,added_q,added_k}.weight
transformer_blocks.{0-59}.{img,txt}_{mlp.net.0.proj,mlp.net.2,mod.1}.{weight,bias}
"""
_NEXT_DIT = """
x_embedder.{weight,bias} cap_embedder.{0.weight,1.weight,1.bias} t_embedder.mlp.{0,2}.{weight,bias}
{layers.{0-LAST},noise_refiner.{0,1},context_refiner.{0,1}}.feed_forward.{w1,w2,w3}.weight
{layers.{0-LAST},noise_refiner.{0,1},context_refiner.{0,1}}.attention.{qkv,out,q_norm,k_norm}.weight
{layers.{0-LAST},noise_refiner.{0,1},context_refiner.{0,1}}.{attention_norm1,attention_norm2,ffn_norm1,ffn_norm2}.weight
"""
_Z_IMAGE = (
    _NEXT_DIT.replace("LAST", "29")
    + """
cap_pad_token x_pad_token {layers.{0-29},noise_refiner.{0,1}}.adaLN_modulation.0.{weight,bias}
final_layer.{linear,adaLN_modulation.1}.{weight,bias}
"""
)
_LUMINA = (
    _NEXT_DIT.replace("LAST", "25")
    + """
{layers.{0-25},noise_refiner.{0,1}}.adaLN_modulation.1.{weight,bias}
final_layer.{linear,adaLN_modulation.1}.{weight,bias}
"""
)
_WAN = """
head.head.{{weight,bias}} head.modulation patch_embedding.{{weight,bias}}
{{text_embedding,time_embedding}}.{{0,2}}.{{weight,bias}} time_projection.1.{{weight,bias}}
blocks.{{0-{last}}}.{{self_attn,cross_attn}}.{{{{q,k,v,o}}.{{weight,bias}},norm_{{q,k}}.weight}}
blocks.{{0-{last}}}.{{ffn.0,ffn.2,norm3}}.{{weight,bias}} blocks.{{0-{last}}}.modulation
"""
_WAN_IMAGE = """
img_emb.proj.{0,1,3,4}.{weight,bias} blocks.{0-39}.cross_attn.{k_img,v_img}.{weight,bias}
blocks.{0-39}.cross_attn.norm_k_img.weight
"""
_AURAFLOW = """
{cond_seq_linear,final_linear,modF.1}.weight init_x_linear.{weight,bias} positional_encoding register_tokens
t_embedder.mlp.{0,2}.{weight,bias}
double_layers.{0-3}.{attn.w{1,2}{q,k,v,o},mlp{C,X}.{c_fc1,c_fc2,c_proj},mod{C,X}.1}.weight
single_layers.{0-31}.{attn.w1{q,k,v,o},mlp.{c_fc1,c_fc2,c_proj},modCX.1}.weight
"""
_PIXART = """
blocks.{0-27}.{attn.{qkv,proj},cross_attn.{q_linear,kv_linear,proj},mlp.{fc1,fc2}}.{weight,bias}
blocks.{0-27}.scale_shift_table final_layer.{linear.{weight,bias},scale_shift_table} t_block.1.{weight,bias}
t_embedder.mlp.{0,2}.{weight,bias} x_embedder.proj.{weight,bias} y_embedder.y_embedding
y_embedder.y_proj.{fc1,fc2}.{weight,bias}
"""


def _llm(last: int, *extra: str) -> str:
    return "".join((_LLM, *extra)).format(last=last)


TEXTS: Mapping[str, str] = {
    "vae/ldm-vae/4/f8": _VAE_LDM_8 + _QUANT,
    "vae/ldm-vae/16/f8": _VAE_LDM_8,
    "vae/ldm-vae/32/f8": _VAE_LDM_8,
    "vae/diffusers-vae/4/f8": _VAE_DIFF_8 + _QUANT,
    "vae/diffusers-vae/16/f8": _VAE_DIFF_8,
    "vae/diffusers-vae/32/f8": _VAE_DIFF_8 + _QUANT,
    "clip-l/transformers": _CLIP.format(last=11),
    "clip-h/transformers": _CLIP.format(last=22),  # SD2 uses the last layer but one, and many files stop there
    "clip-g/transformers": _CLIP.format(last=31),
    "clip-l/openclip": _OPENCLIP.format(last=11),
    "clip-h/openclip": _OPENCLIP.format(last=22),
    "clip-g/openclip": _OPENCLIP.format(last=31),
    "t5-xxl/transformers": _T5 + _BIAS.format(blocks="0"),
    "umt5-xxl/transformers": _T5 + _BIAS.format(blocks="{0-23}"),
    "gemma2-2b/transformers": _llm(25, _LLM_SANDWICH),
    "qwen2.5-vl-7b/transformers": _llm(27, _LLM_BIASES),
    "qwen3-0.6b/transformers": _llm(27, _LLM_NORMS),
    "qwen3-4b/transformers": _llm(35, _LLM_NORMS),
    "qwen3-8b/transformers": _llm(35, _LLM_NORMS),
    "mistral3-24b/transformers": _llm(39),
    "mistral3-24b/transformers#pruned": _llm(29),  # FLUX.2 needs no more than 30 layers of it
    "sd3/original/3.0-medium": _JOINT.format(last=23, before=22),
    "sd3/original/3.5-medium": (_JOINT + _JOINT_NORMS).format(last=23, before=22) + _SD35_MEDIUM,
    "sd3/original/3.5-large": (_JOINT + _JOINT_NORMS).format(last=37, before=36),
    "sd3/diffusers/3.0-medium": _JOINT_DIFF.format(last=23, before=22),
    "sd3/diffusers/3.5-medium": (_JOINT_DIFF + _JOINT_DIFF_NORMS).format(last=23, before=22) + _SD35_MEDIUM_DIFF,
    "sd3/diffusers/3.5-large": (_JOINT_DIFF + _JOINT_DIFF_NORMS).format(last=37, before=36),
    "flux1/original/schnell": _FLUX1,
    "flux1/original": _FLUX1 + _FLUX_GUIDANCE,
    "flux1/diffusers/schnell": _FLUX1_DIFF,
    "flux1/diffusers": _FLUX1_DIFF + _FLUX_GUIDANCE_DIFF,
    "chroma/original/chroma": _CHROMA,
    "flux2/original/dev": _FLUX2.format(doubles=7, singles=47) + " guidance_in.{in,out}_layer.weight",
    "flux2/original/klein-4b": _FLUX2.format(doubles=4, singles=19),
    "flux2/original/klein-9b": _FLUX2.format(doubles=7, singles=23),
    "qwen-image/original": _QWEN,
    "z-image/original/z-image-or-turbo": _Z_IMAGE,
    "lumina2/original/lumina2-or-netayume": _LUMINA,
    "auraflow/original": _AURAFLOW,
    "pixart/original": _PIXART,
    "wan/original/wan2.1-t2v_1_3b": _WAN.format(last=29),
    "wan/original/wan2.2-ti2v_5b": _WAN.format(last=29),
    "wan/original/wan2.1-t2v_14b": _WAN.format(last=39),
    "wan/original/wan2.2-i2v_14b": _WAN.format(last=39),
    "wan/original/wan2.1-i2v_14b": _WAN.format(last=39) + _WAN_IMAGE,
}
