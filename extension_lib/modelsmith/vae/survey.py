"""The first run of a VAE: as it came, in fp32, on everything that it will be judged by."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from modelsmith.errors import BadFileError
from modelsmith.files.tensors import TensorSource
from modelsmith.vae.calibration import (
    Calibration,
    CalibrationOptions,
    LatentScale,
    gaussian_latents,
    given_images,
    image_latents,
    made_images,
)
from modelsmith.vae.families import FAMILIES, Identity
from modelsmith.vae.layout import VaeFile
from modelsmith.vae.measure import Outcome, Run, Watch
from modelsmith.vae.weights import load_statistics, load_weights, widened


@dataclass(frozen=True)
class Survey:
    """What was found. weights: in the types of the file. outcome: of the fp32 run, decoder and encoder."""

    vae: VaeFile
    weights: dict[str, Tensor]
    calibration: Calibration
    outcome: Outcome


def survey(
    vae: VaeFile, identity: Identity, source: TensorSource, options: CalibrationOptions, watch: Watch | None = None
) -> Survey:
    """Make the calibration inputs and run the VAE on them in fp32.

    Raises BadFileError, naming the tensor or the input, for weights or results that are not finite.
    """
    watch = watch or Watch()
    layout = vae.layout
    weights = load_weights(vae, source)
    wide = widened(weights)
    images = given_images(layout, options)
    latents = gaussian_latents(layout, latent_scale(identity), options, load_statistics(vae, source))
    latents += image_latents(layout, wide, images)
    run = Run(layout, Calibration(latents, ()), ("decoder",), watch=watch, stage="measuring the decoder")
    decoded = run.make(wide)
    _require_finite(vae, decoded)
    images = images or made_images(layout, decoded.results, options)
    run = Run(layout, Calibration((), images), ("encoder",), watch=watch, stage="measuring the encoder")
    encoded = run.make(wide)
    _require_finite(vae, encoded)
    decoded.results.update(encoded.results)
    decoded.probe.maxima.update(encoded.probe.maxima)
    decoded.probe.variances.update(encoded.probe.variances)
    return Survey(vae, weights, Calibration(latents, images), decoded)


def _require_finite(vae: VaeFile, outcome: Outcome) -> None:
    if outcome.broken:
        raise BadFileError(
            vae.header.path,
            f"the VAE gives NaN or infinity already in fp32 (on {', '.join(outcome.broken)})",
            "The weights are damaged: get the VAE again",
        )


def latent_scale(identity: Identity) -> LatentScale:
    """Scale and shift of the family; of several possible ones, that with the largest latents."""
    families = [FAMILIES[family] for family in identity.families]
    if not families:
        return LatentScale()
    widest = min(families, key=lambda family: family.scale)
    return LatentScale(widest.scale, widest.shift)
