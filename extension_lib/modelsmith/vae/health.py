"""Whether a VAE runs in fp16: what its header can say at once, and what a run on calibration inputs shows."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from modelsmith.files.ranges import read_tensor_bytes, small_hash
from modelsmith.vae.families import Identity
from modelsmith.vae.layout import VaeFile

if TYPE_CHECKING:
    from modelsmith.vae.calibration import CalibrationOptions
    from modelsmith.vae.measure import Watch

Verdict = Literal["safe", "at_risk", "unknown"]

FIX_RECORD = "modelsmith_vae_fix"
"""Metadata entry of a cured file: JSON of what was scaled and how it was proved."""


@dataclass(frozen=True)
class HeaderHealth:
    """What can be said without running the VAE. verdict: about fp16. cured: the exact cure was applied to the file."""

    verdict: Verdict
    cured: bool
    dtype: str
    reason: str
    advice: str


@dataclass(frozen=True)
class LayerMaximum:
    """A layer's largest absolute activation, in fp32, over all calibration inputs."""

    layer: str
    value: float
    overflows: bool


@dataclass(frozen=True)
class Measurement:
    """A measured VAE. layers: in the order of the network. inputs: what it was run on.

    scores: the attention's largest products before scaling; only attention that stores them in fp16 is hurt by them.
    """

    layers: tuple[LayerMaximum, ...]
    scores: float
    inputs: tuple[str, ...]

    @property
    def peak(self) -> LayerMaximum:
        """The layer with the largest activation."""
        return max(self.layers, key=lambda layer: layer.value)

    @property
    def overflows(self) -> bool:
        """Whether any layer leaves the range of fp16."""
        return any(layer.overflows for layer in self.layers)


def check_header(vae: VaeFile, identity: Identity) -> HeaderHealth:
    """Judge fp16 from the header, the known hashes and the family."""
    dtype = vae.dtypes[0]
    cured = _cured(vae)
    if cured:
        return HeaderHealth("safe", True, dtype, "the exact fp16 cure was applied to it", "It may run in fp16.")
    if identity.known is not None and identity.known.fp16:
        return HeaderHealth("safe", False, dtype, f"it is {identity.known.label}, made for fp16", "It may run in fp16.")
    if "sdxl" in identity.families:
        reason = "SDXL's VAE leaves fp16's range" + ("" if identity.family == "sdxl" else " if it is one of SDXL")
        return HeaderHealth(
            "at_risk",
            False,
            dtype,
            reason,
            "Measure it; run it in bf16 or fp32, or cure it.",
        )
    return HeaderHealth("unknown", False, dtype, "nothing in its header tells", "Measure it.")


def values_print(vae: VaeFile) -> str:
    """SHA-256 over all one-dimensional tensors: it tells a VAE from its cured copy, which have the same fingerprints.

    A file in another precision has another print. Raises BadFileError where a tensor cannot be read.
    """
    digest = hashlib.sha256()
    for name in sorted(vae.names):
        info = vae.header.tensors[vae.names[name]]
        if len(info.shape) == 1:
            digest.update(f"{name} {info.dtype} ".encode())
            digest.update(read_tensor_bytes(vae.header, vae.names[name]))
    return digest.hexdigest()


def _cured(vae: VaeFile) -> bool:
    record = vae.header.metadata.get(FIX_RECORD)
    if record is None:
        return False
    try:
        found = cast("dict[str, object]", json.loads(record))
        layer, digest = cast("list[object]", found["witness"])
    except (ValueError, RecursionError, KeyError, TypeError):
        return False  # nothing that this package wrote
    # Tools copy metadata along with another VAE, so a tensor that the cure changed has to be the cured one still.
    actual = vae.names.get(str(layer))
    return actual is not None and small_hash(vae.header, actual) == digest


def measure(vae: VaeFile, identity: Identity, options: CalibrationOptions, watch: Watch | None = None) -> Measurement:
    """Run a VAE in fp32 on calibration inputs and report each layer's largest activation.

    Raises BadFileError for weights or results that are not finite.
    """
    from modelsmith.files.tensors import open_tensors
    from modelsmith.vae.survey import survey

    with open_tensors(vae.header) as source:
        outcome = survey(vae, identity, source, options, watch).outcome
    return summarise(outcome.probe.maxima, tuple(outcome.results))


def summarise(maxima: dict[str, float], inputs: tuple[str, ...]) -> Measurement:
    """Make a measurement out of a probe's maxima."""
    from modelsmith.vae.network import FP16_MAX

    layers = tuple(
        LayerMaximum(layer, value, value > FP16_MAX) for layer, value in maxima.items() if not layer.endswith(".scores")
    )
    scores = max((value for layer, value in maxima.items() if layer.endswith(".scores")), default=0.0)
    return Measurement(layers, scores, inputs)
