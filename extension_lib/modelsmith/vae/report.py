"""Results of this package as plain objects for JSON: the same for the command line and a host's API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelsmith.vae.families import Identity
from modelsmith.vae.health import HeaderHealth, Measurement
from modelsmith.vae.layout import VaeFile

if TYPE_CHECKING:
    from modelsmith.vae.bake import MoveResult
    from modelsmith.vae.fix import FixResult


def check_json(vae: VaeFile, identity: Identity, health: HeaderHealth, found: Measurement | None) -> dict[str, object]:
    """What ``vae check`` answers, as a plain object for JSON."""
    return {
        "file": str(vae.header.path),
        **identity_json(identity),
        "prefix": vae.prefix,
        "naming": vae.naming,
        "latent_channels": vae.layout.latent_channels,
        "dtypes": list(vae.dtypes),
        "fp16": health.verdict,
        "cured": health.cured,
        "reason": health.reason,
        "advice": health.advice,
        "measured": None if found is None else measurement_json(found),
    }


def identity_json(identity: Identity) -> dict[str, object]:
    """An identity as a plain object for JSON."""
    return {
        "family": identity.family,
        "families": list(identity.families),
        "grade": identity.grade,
        "conflict": identity.conflict,
        "evidence": [vars(clue) for clue in identity.clues],
        "fingerprints": vars(identity.fingerprints),
    }


def measurement_json(found: Measurement) -> dict[str, object]:
    """A measurement as a plain object for JSON."""
    return {
        "limit": 65504,
        "largest": found.peak.value,
        "largest_layer": found.peak.layer,
        "overflows": found.overflows,
        "attention_scores": found.scores,
        "inputs": list(found.inputs),
        "layers": {layer.layer: layer.value for layer in found.layers},
    }


def fix_json(result: FixResult) -> dict[str, object]:
    """A cure's result as a plain object for JSON."""
    proof = result.proof
    return {
        "output": str(result.path),
        "sha256": result.sha256,
        "seconds": round(result.seconds, 2),
        **identity_json(result.identity),
        "headroom": result.headroom,
        "streams": dict(result.plan.stages),
        "branches": dict(result.plan.branches),
        "values": dict(result.plan.values),
        "queries": dict(result.plan.queries),
        "tensors": dict(result.exponents),
        "before": measurement_json(result.before),
        "after": measurement_json(result.after),
        "fp32_difference": vars(proof.fp32),
        "fp16_error": vars(proof.fp16),
        "bf16_error_of_original": None if proof.bf16 is None else vars(proof.bf16),
        "fp16_calculated_natively": proof.native,
        "fp16_native_on_small_input": proof.small.largest if proof.small is not None else None,
        "epsilon_effect": result.epsilon,
        "values_that_lost_bits": result.inexact,
    }


def move_json(result: MoveResult) -> dict[str, object]:
    """A bake's or an extraction's result as a plain object for JSON."""
    return {
        "output": str(result.path),
        "sha256": result.sha256,
        "bytes": result.bytes,
        "seconds": round(result.seconds, 2),
        **identity_json(result.identity),
        "fit": result.fit,
        "tensors": result.tensors,
        "replaced": result.replaced,
    }
