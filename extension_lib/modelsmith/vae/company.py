"""What the diffusion model beside a baked VAE tells about it. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from modelsmith.errors import BadFileError
from modelsmith.files.header import FileHeader
from modelsmith.vae.families import FamilyId, Hints, identify_vae
from modelsmith.vae.layout import VaeFile, find_vae


def architecture_of(header: FileHeader) -> str | None:
    """What the diffusion model in a file is, as identification names it; None where that is not settled."""
    from modelsmith.identify.identifier import identify_header

    report = identify_header(header)
    return report.architecture or (report.candidates[0] if len(report.candidates) == 1 else None)


def with_company(vae: VaeFile, hints: Hints) -> Hints:
    """Add the architecture of the checkpoint that a VAE is baked into."""
    if not vae.prefix or hints.architecture is not None:
        return hints
    return replace(hints, architecture=architecture_of(vae.header))


def learned(header: FileHeader) -> Mapping[str, FamilyId]:
    """What a checkpoint teaches: the fingerprints of its baked VAE belong to its own family. Empty where unsettled.

    The encoder's fingerprint only: a decoder may be shared by nobody, while the latent space is what has to fit.
    """
    try:
        vae = find_vae(header)
    except BadFileError:
        return {}
    if not vae.prefix:
        return {}
    identity = identify_vae(vae, with_company(vae, Hints()))
    if identity.family is None or identity.grade not in ("proof", "strong"):
        return {}
    return {identity.fingerprints.space: identity.family}
