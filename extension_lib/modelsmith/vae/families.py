"""Which model a VAE belongs to.

VAEs of SD1/SD2 and SDXL have the same names and shapes, and so have those of SD3 and FLUX.1: nothing in their headers
tells them apart.  What does: a person's word, the fingerprint of a known one, the scaling factor in a configuration
beside the file, the diffusion model that it is baked into, the file's SHA-256, and, weakly, its name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from modelsmith.errors import UnknownNameError
from modelsmith.files.header import FileHeader
from modelsmith.files.ranges import small_hash
from modelsmith.japanese import GRADES, Said, in_japanese
from modelsmith.vae.layout import VaeFile
from modelsmith.vae.sentences import SOURCES

FamilyId = Literal["sd", "sdxl", "x4-upscaler", "sd3", "flux1", "flux2"]
Grade = Literal["proof", "strong", "weak", "default"]
Fit = Literal["fits", "does_not_fit", "unsure"]

FAMILY_RECORD = "modelsmith_vae_family"
"""Metadata entry of an extracted VAE: the id of its family."""


@dataclass(frozen=True)
class Family:
    """A latent space. scale and shift: vae latents = model latents / scale + shift (ComfyUI latent_formats.py)."""

    id: FamilyId
    label: str
    latent_channels: int
    levels: int
    scale: float
    shift: float = 0.0
    architectures: tuple[str, ...] = ()
    name_hint: str = ""


SAID = "you say so"
SAID_AGAINST = "you say so, but its shape is another, which decides"
"""The detail of a person's word that is shown and not followed."""

_FLUX1_USERS = ("flux1", "chroma", "z-image", "lumina2")

FAMILIES: Mapping[str, Family] = {
    family.id: family
    for family in (
        Family(
            "sd",
            "SD1 / SD2",
            4,
            4,
            0.18215,
            0.0,
            ("sd1", "sd2"),
            r"sd[-_ ]?v?[12](?!\d{3})|ft[-_]?(?:mse|ema)|kl[-_]?f8",
        ),
        Family("sdxl", "SDXL", 4, 4, 0.13025, 0.0, ("sdxl", "sdxl-refiner", "kolors"), r"xl|pony|illustrious|noob"),
        Family("x4-upscaler", "SD2 x4 upscaler", 4, 3, 0.08333, 0.0, (), r"(?:x4|upscal)"),
        Family("sd3", "SD3 / SD3.5", 16, 4, 1.5305, 0.0609, ("sd3",), r"sd[-_ ]?3"),
        Family(
            "flux1", "FLUX.1", 16, 4, 0.3611, 0.1159, _FLUX1_USERS, r"flux(?![-_. ]?2)|chroma|^ae$|z[-_]?image|lumina"
        ),
        Family("flux2", "FLUX.2", 32, 4, 1.0, 0.0, ("flux2",), r"flux[-_. ]?2"),
    )
}
"""Every family that the cure covers. The name hints are weak evidence and are used as such."""


@dataclass(frozen=True)
class KnownFile:
    """A published VAE by the SHA-256 of its file. size: of the file. fp16: whether its activations stay within it."""

    label: str
    family: FamilyId
    size: int
    fp16: bool | None


KNOWN_FILES: Mapping[str, KnownFile] = {
    "63aeecb90ff7bc1c115395962d3e803571385b61938377bc7089b36e81e92e2e": KnownFile(
        "sdxl_vae", "sdxl", 334_641_164, False
    ),
    "235745af8d86bf4a4c1b5b4f529868b37019a10f7c0b2e79ad0abca3a22bc6e1": KnownFile(
        "sdxl-vae-fp16-fix", "sdxl", 334_641_162, True
    ),
    "735e4c3a447a3255760d7f86845f09f937809baa529c17370d83e4c3758f3c75": KnownFile(
        "vae-ft-mse-840000", "sd", 334_641_190, None
    ),
}
"""File hashes that many independent public lists agree on."""


@dataclass(frozen=True)
class Clue:
    """One piece of evidence. says: the family that it points to."""

    source: str
    detail: str
    says: FamilyId
    grade: Grade

    def in_language(self, language: str) -> tuple[str, str]:
        """Source and detail in a language ("en", "ja"); a file name stays as it is."""
        if language != "ja":
            return self.source, self.detail
        return SOURCES[self.source], self.detail if self.source == "name" else in_japanese(self.detail)

    def line(self) -> Said:
        """Source, detail and grade in one line for people."""
        source, detail = self.in_language("ja")
        return Said(f"{self.source}: {self.detail} ({self.grade})", f"{source}: {detail}（{GRADES[self.grade]}）")


@dataclass(frozen=True)
class Identity:
    """What a VAE is. families: all that fit the shapes and the evidence, one where it is settled.

    conflict: clues of the same grade disagree. fingerprints: see ``fingerprint``.
    """

    families: tuple[FamilyId, ...]
    grade: Grade
    conflict: bool
    clues: tuple[Clue, ...]
    fingerprints: Fingerprints
    known: KnownFile | None = None

    @property
    def family(self) -> FamilyId | None:
        """The one family, or None where several are possible."""
        return self.families[0] if len(self.families) == 1 else None

    def label(self) -> str:
        """For people: ``SDXL``, or ``SD1 / SD2 or SDXL``."""
        return " or ".join(FAMILIES[family].label for family in self.families) or "unknown"


@dataclass(frozen=True)
class Fingerprints:
    """SHA-256 of two small tensors as fp16, which neither the cure nor a change between fp32 and fp16 alters.

    space: the encoder's ``norm_out.weight``; every decoder trained for the same latent space shares it. decoder: the
    decoder's, which tells one VAE from another. bf16 files round differently and have fingerprints of their own.
    """

    space: str
    decoder: str


def fingerprint(vae: VaeFile) -> Fingerprints:
    """Read two small tensors and hash them (without torch). Raises BadFileError where they cannot be read."""
    return Fingerprints(
        small_hash(vae.header, vae.names["encoder.norm_out.weight"]),
        small_hash(vae.header, vae.names["decoder.norm_out.weight"]),
    )


@dataclass(frozen=True)
class Hints:
    """What is known beside the header.

    said: the family, as a person says of this very file. told: fingerprint (either one) -> family, as a person or a
    baked VAE has taught it before. sha256: of the whole file.
    architecture: of the checkpoint that the VAE is baked into, as identification names it.
    """

    said: str | None = None
    told: Mapping[str, str] | None = None
    sha256: str | None = None
    architecture: str | None = None


def identify_vae(vae: VaeFile, hints: Hints | None = None) -> Identity:
    """Say which family a VAE belongs to, with the evidence. Reads two small tensors and a configuration beside it."""
    hints = hints or Hints()
    possible = families_by_shape(vae)
    prints = fingerprint(vae)
    known = KNOWN_FILES.get(hints.sha256 or "")
    found = _clues(vae, hints, prints, known)
    clues = [clue for clue in found if clue.says in possible]
    clues += [
        replace(clue, detail=SAID_AGAINST, grade="default") for clue in found if _is_word(clue) and clue not in clues
    ]
    if len(possible) == 1:
        clues.append(Clue("shape", f"{vae.layout.latent_channels} latent channels", possible[0], "proof"))
    for grade in ("proof", "strong", "weak"):
        said: tuple[FamilyId, ...] = tuple(dict.fromkeys(clue.says for clue in clues if clue.grade == grade))
        if said:
            return Identity(said, grade, len(said) > 1, tuple(clues), prints, known)
    return Identity(possible, "default", False, tuple(clues), prints, known)


def _is_word(clue: Clue) -> bool:
    """Whether a person said so: that is shown also where the shape speaks against it, which then decides."""
    return clue.source in ("said", "told")


def families_by_shape(vae: VaeFile) -> tuple[FamilyId, ...]:
    """The families whose VAEs have this shape."""
    layout = vae.layout
    return tuple(
        family.id
        for family in FAMILIES.values()
        if family.latent_channels == layout.latent_channels
        and family.levels == len(layout.up)
        and (family.id == "flux2") == layout.batch_norm
    )


def _clues(vae: VaeFile, hints: Hints, prints: Fingerprints, known: KnownFile | None) -> list[Clue]:
    clues: list[Clue] = []
    if hints.said is not None:
        clues.append(Clue("said", SAID, family_named(hints.said).id, "proof"))
    for which, digest in (("encoder", prints.space), ("decoder", prints.decoder)):
        told = (hints.told or {}).get(digest, "")
        if told in FAMILIES:
            clues.append(Clue("told", f"the {which}'s fingerprint {digest[:12]}", FAMILIES[told].id, "proof"))
    if known is not None:
        clues.append(Clue("sha256", known.label, known.family, "proof"))
    recorded = "" if vae.prefix else vae.header.metadata.get(FAMILY_RECORD, "")
    if recorded in FAMILIES:
        clues.append(Clue("metadata", f"{FAMILY_RECORD}: {recorded}", FAMILIES[recorded].id, "strong"))
    for family in FAMILIES.values():
        if hints.architecture in family.architectures:
            clues.append(Clue("checkpoint", f"baked into a model of {hints.architecture}", family.id, "strong"))
    factor = None if vae.prefix else scaling_factor_beside(vae.header.path)
    for family in FAMILIES.values():
        if factor is not None and math.isclose(factor, family.scale, rel_tol=1e-3):
            clues.append(Clue("config", f"scaling_factor {factor}", family.id, "strong"))
        if not vae.prefix and _named(family, vae.header):
            clues.append(Clue("name", vae.header.path.name, family.id, "weak"))
    return clues


def published_hash(path: Path) -> str | None:
    """The file's SHA-256 where its size is that of a published VAE (reading 335 MB is worth it only then)."""
    import hashlib

    try:
        if path.stat().st_size not in {known.size for known in KNOWN_FILES.values()}:
            return None
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    except OSError:
        return None  # reading the header gives the reason
    return digest.hexdigest()


def _named(family: Family, header: FileHeader) -> bool:
    stem = header.path.stem.lower()
    if family.id == "sd" and _named(FAMILIES["sdxl"], header):
        return False
    return bool(family.name_hint and re.search(family.name_hint, stem))


def scaling_factor_beside(path: Path) -> float | None:
    """The ``scaling_factor`` in ``config.json`` or ``NAME.json`` beside a VAE; None where there is none to be read."""
    for candidate in (path.with_suffix(".json"), path.with_name("config.json")):
        try:
            if candidate.stat().st_size > 1 << 20:
                continue
            found = json.loads(candidate.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        value = found.get("scaling_factor") if isinstance(found, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    return None


def fits(identity: Identity, architecture: str) -> Fit:
    """Whether a VAE suits a diffusion model of this architecture (an id of identification)."""
    wanted = {family.id for family in FAMILIES.values() if architecture in family.architectures}
    if not wanted:
        return "unsure"
    common = wanted & set(identity.families)
    if not common:
        return "does_not_fit"
    return "fits" if len(identity.families) == 1 else "unsure"


def family_named(name: str) -> Family:
    """Look a family up. Raises UnknownNameError with the nearest one."""
    if name not in FAMILIES:
        raise UnknownNameError("VAE family", name, FAMILIES)
    return FAMILIES[name]
