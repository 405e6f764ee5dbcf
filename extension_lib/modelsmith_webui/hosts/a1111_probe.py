"""The loaded network of AUTOMATIC1111 as the prediction probe asks it: raw, with an empty prompt, without LoRA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from modelsmith_webui.probing import LATENT, RawNetwork


def _empty_prompt(model: Any, width: int, height: int) -> Any:
    from modules import extra_networks, processing, prompt_parser

    # Takes out the LoRAs of the last picture; the next one puts its own in again.
    extra_networks.activate(processing.StableDiffusionProcessingTxt2Img(), {})
    return model.get_learned_conditioning(prompt_parser.SdConditioning([""], width=width, height=height))


@contextmanager
def raw_network(model: Any) -> Iterator[RawNetwork]:
    """The UNet of ``model``; call it only as a job of the webui."""
    import torch
    from modules import devices, processing

    _, rows, columns = LATENT
    with torch.no_grad(), devices.autocast():
        empty = _empty_prompt(model, columns * 8, rows * 8)

        def network(x: Any, t: int) -> Any:
            image = processing.txt2img_image_conditioning(model, x, columns * 8, rows * 8)
            steps = torch.full((len(x),), t, device=x.device, dtype=torch.long)
            if isinstance(empty, dict):
                parts = {name: value.repeat(len(x), *[1] * (value.dim() - 1)) for name, value in empty.items()}
                return model.apply_model(x, steps, {**parts, "c_concat": [image]})
            text = [empty.repeat(len(x), 1, 1)]
            if model.model.conditioning_key == "crossattn-adm":
                return model.apply_model(x, steps, {"c_crossattn": text, "c_adm": image})
            return model.apply_model(x, steps, {"c_crossattn": text, "c_concat": [image]})

        yield RawNetwork(network, devices.device)
