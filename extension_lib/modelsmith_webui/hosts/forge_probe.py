"""The loaded network of the Forge family as the prediction probe asks it: raw, with an empty prompt, without LoRA.

The network lies under all predictors and samplers as ``unet.model.diffusion_model`` and takes a timestep, so nothing
that was set on the model changes what it answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from modelsmith_webui.probing import LATENT, RawNetwork


def _conditioning(model: Any, unet: Any, width: int, height: int) -> tuple[Any, dict[str, Any]]:
    """The text conditioning of an empty prompt, and what else the network takes with it."""
    from modules import prompt_parser

    empty = model.get_learned_conditioning(prompt_parser.SdConditioning([""], width=width, height=height))
    if isinstance(empty, dict):
        return empty["crossattn"], {"y": empty["vector"]}
    return empty, {}


@contextmanager
def raw_network(model: Any, load: Callable[[Any, Any], None], device: Any, dtype: Any) -> Iterator[RawNetwork]:
    """The UNet of ``model``, brought into ``device``'s memory by ``load(unet, latents)``.

    ``dtype`` is what the network computes in. Call it only as a job of the webui.
    """
    import torch
    from modules import processing

    _, rows, columns = LATENT
    unet = model.forge_objects_original.unet
    with torch.inference_mode():
        context, extra = _conditioning(model, unet, columns * 8, rows * 8)

        def network(x: Any, t: int) -> Any:
            load(unet, x)
            given = [x.to(dtype)]
            image = processing.txt2img_image_conditioning(model, x, columns * 8, rows * 8)
            if image.shape[2:] == x.shape[2:]:
                given.append(image.to(x.device, dtype))
            parts = {name: value.to(x.device, dtype).repeat(len(x), 1) for name, value in extra.items()}
            return unet.model.diffusion_model(
                torch.cat(given, dim=1),
                torch.full((len(x),), float(t), device=x.device),
                context=context.to(x.device, dtype).repeat(len(x), 1, 1),
                control=None,
                transformer_options={},
                **parts,
            )

        yield RawNetwork(network, device)
