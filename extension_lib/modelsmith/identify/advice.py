"""One or two plain sentences for a person, made from what was found."""

from __future__ import annotations

from modelsmith.identify.draft import Draft, names_of
from modelsmith.identify.messages import Message, say

_SAME_KEYS = {
    "dev-or-kontext-or-krea": "FLUX.1 dev, Kontext, Krea",
    "depth-or-canny": "FLUX.1 Depth, FLUX.1 Canny",
    "qwen-image-or-edit": "Qwen-Image, Qwen-Image-Edit",
    "z-image-or-turbo": "Z-Image, Z-Image-Turbo",
    "lumina2-or-netayume": "Lumina-Image 2.0, NetaYume",
}
_NOT_LOADABLE = frozenset({"stable-cascade", "pixart", "auraflow", "hunyuan-dit", "kolors", "wan"})
_MOST = 2


def advise(draft: Draft) -> None:
    """Add at most two sentences, the most important first."""
    found: list[Message] = []
    if draft.header.forbidden:
        found.append(say("delete-unsafe"))
    elif draft.kind in ("checkpoint", "diffusion_model"):
        found += _for_model(draft)
    elif draft.kind == "lora":
        known = bool(draft.candidates)
        found.append(say("lora-base", names=names_of(draft.candidates)) if known else say("lora-unknown-base"))
    elif draft.kind == "vae":
        found.append(say("vae-latents", names=names_of(draft.candidates)))
    elif draft.kind == "unknown":
        found.append(say("unknown"))
    else:
        found.append(say(_PLAIN[draft.kind]))
    draft.advice += found[:_MOST]


_PLAIN = {
    "controlnet": "controlnet",
    "text_encoder": "text-encoder",
    "textual_inversion": "embedding",
    "hypernetwork": "hypernetwork",
}


def _for_model(draft: Draft) -> list[Message]:
    found: list[Message] = []
    prediction = draft.prediction
    if any(message.id in ("incomplete", "partial", "ema-only") for message in draft.warnings):
        found.append(say("again"))
    if prediction.conflict:
        found.append(say("resolve-conflict"))
    elif prediction.type == "v_prediction":
        snr = prediction.zero_terminal_snr
        found.append(say("use-v-ztsnr" if snr else "v-ztsnr-unknown" if snr is None else "use-v"))
    elif prediction.type == "undetermined":
        found.append(say("undetermined-sd2"))
    elif prediction.type in ("edm", "edm_v_prediction"):
        found.append(say("edm-hosts"))
    architecture = draft.candidates[0] if draft.candidates else ""
    if architecture in _NOT_LOADABLE:
        found.append(say("not-loadable", name=names_of((architecture,))))
    if architecture == "sdxl-refiner":
        found.append(say("refiner"))
    if draft.inpainting:
        found.append(say("inpainting"))
    if draft.variant in _SAME_KEYS:
        found.append(say("same-keys", names=_SAME_KEYS[draft.variant]))
    if draft.kind == "diffusion_model":
        found.append(say("needs-parts"))
    elif not draft.parts.vaes:
        found.append(say("needs-vae"))
    elif not draft.parts.encoders:
        found.append(say("needs-text-encoder"))
    return found
