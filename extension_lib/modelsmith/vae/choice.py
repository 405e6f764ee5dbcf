"""Which VAE a checkpoint should have, and which it should not. No host and no torch here.

A VAE is refused only on decisive evidence: its shape, or a clue that is at least strong. A name is none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from modelsmith.errors import BadFileError
from modelsmith.files.header import read_header
from modelsmith.files.ranges import read_values
from modelsmith.vae.company import learned, with_company
from modelsmith.vae.families import (
    FAMILIES,
    FamilyId,
    Fit,
    Grade,
    Hints,
    Identity,
    families_by_shape,
    fits,
    identify_vae,
    published_hash,
)
from modelsmith.vae.health import check_header, values_print
from modelsmith.vae.layout import VaeFile, find_vae
from modelsmith.vae.memory import VaeMemory

if TYPE_CHECKING:
    from modelsmith.identify.report import Report

Baked = Literal["healthy", "at_risk", "damaged", "missing", "unknown"]
"""at_risk: it may leave fp16's range. unknown: there is one, of a kind that is not judged here."""

Reason = Literal["preference", "baked", "family", "twin", "nothing_fits", "unknown_model"]

LEARNING_SECONDS = 3.0
"""How long all the checkpoints may be read at once for what their VAEs teach; the rest is left for the next time."""

_DECISIVE: tuple[Grade, ...] = ("proof", "strong")
_ORDER: dict[Grade, int] = {"proof": 0, "strong": 1, "weak": 2, "default": 3}
# Small tensors at both ends of the decoder: a damaged file rarely spares all of them.
_LOOKED_AT = ("decoder.conv_in.bias", "decoder.norm_out.weight", "decoder.conv_out.weight", "decoder.conv_out.bias")


@dataclass(frozen=True)
class Verdict:
    """What is known of one VAE file. identity None: of a kind that only ``bases`` tells something of.

    bases: architectures whose models have VAEs of this shape. possible: families of this shape.
    cured: it runs in fp16. problem: why it cannot be used at all, empty where it can.
    """

    path: Path
    identity: Identity | None
    bases: tuple[str, ...]
    possible: frozenset[FamilyId]
    cured: bool
    problem: str = ""

    @property
    def label(self) -> str:
        """The family for people; empty where nothing is known."""
        return self.identity.label() if self.identity is not None else ""

    @property
    def evidence(self) -> tuple[str, ...]:
        """Lines for people: what says so."""
        if self.identity is None:
            return (self.problem,) if self.problem else ()
        return tuple(clue.line() for clue in self.identity.clues)


@dataclass(frozen=True)
class Model:
    """A checkpoint. wanted: the families of VAE that fit it, empty where that is not known."""

    path: Path
    architecture: str | None
    wanted: frozenset[FamilyId]
    baked: Baked
    decoder: str = ""  # fingerprint of the baked VAE's decoder

    @property
    def label(self) -> str:
        """The wanted families for people."""
        return " or ".join(FAMILIES[family].label for family in sorted(self.wanted))


@dataclass(frozen=True)
class Refusal:
    """A VAE that was chosen and is not used."""

    path: Path
    family: str
    wanted: str
    detail: str

    def __str__(self) -> str:
        return (
            f"{self.path.name} is not used: it is a VAE of {self.family} ({self.detail}), and this model needs one of "
            f"{self.wanted}. Say that it is of another family, or that it is to be used anyway, beside the VAE selector"
        )


@dataclass(frozen=True)
class Pick:
    """An automatic choice. path None: the VAE in the checkpoint, or none at all where that has none."""

    path: Path | None
    reason: Reason
    detail: str = ""


class Judge:
    """Judges VAEs and checkpoints; what it found is kept until a file or what is remembered changes.

    report: what a file is (it should remember its answers). checkpoints: the files that may teach something.
    """

    def __init__(
        self, memory: VaeMemory, report: Callable[[Path], Report], checkpoints: Callable[[], Iterable[Path]] = tuple
    ) -> None:
        self.memory = memory
        self._report = report
        self._checkpoints = checkpoints
        self._verdicts: dict[Path, tuple[object, Verdict]] = {}
        self._hashes: dict[Path, tuple[object, str | None]] = {}
        self._prints: dict[Path, tuple[object, str]] = {}
        self._models: dict[Path, tuple[object, Report, Model, VaeFile | None]] = {}

    def verdict(self, path: Path) -> Verdict:
        """What one VAE file is. Never raises for a bad file: ``problem`` says what is wrong with it."""
        told = self.memory.told()
        found = self._verdict(path, told)
        if found.identity is not None and found.identity.grade not in _DECISIVE and self._learn_all():
            found = self._verdict(path, self.memory.told())
        return found

    def _verdict(self, path: Path, told: dict[str, str]) -> Verdict:
        stamp = _stamp(path)
        bases = self._report(path).candidates
        try:
            vae = find_vae(read_header(path))
            hints = Hints(told=told, sha256=self._hash(path, stamp))
            identity = identify_vae(vae, hints)
            said = self.memory.said(identity.fingerprints)
            overflowed = self.measured(vae)
            taught = (told.get(identity.fingerprints.space), told.get(identity.fingerprints.decoder))
            key = (stamp, said, *taught, overflowed)
            known = self._verdicts.get(path)
            if known is not None and known[0] == key:
                return known[1]
            if said is not None:
                # A person's word stands alone: what else is known would only make it one voice of several.
                identity = identify_vae(vae, Hints(said=said))
            cured = check_header(vae, identity).verdict == "safe" if overflowed is None else not overflowed
            verdict = Verdict(path, identity, bases, frozenset(families_by_shape(vae)), cured, _damage(vae))
        except BadFileError as error:
            return Verdict(path, None, bases, frozenset(), False, error.problem)
        self._verdicts[path] = (key, verdict)
        return verdict

    def measured(self, vae: VaeFile) -> bool | None:
        """Whether this VAE was seen to overflow in fp16; None where nobody has run it. Raises BadFileError."""
        if not self.memory.any_measured:
            return None
        path = vae.header.path
        stamp = _stamp(path)
        known = self._prints.get(path)
        if known is None or known[0] != stamp:
            known = self._prints[path] = (stamp, values_print(vae))
        return self.memory.measured(known[1])

    def _hash(self, path: Path, stamp: object) -> str | None:
        known = self._hashes.get(path)
        if known is None or known[0] != stamp:
            known = self._hashes[path] = (stamp, published_hash(path))
        return known[1]

    def model(self, path: Path) -> Model:
        """What one checkpoint wants and has."""
        report, stamp = self._report(path), _stamp(path)
        known = self._models.get(path)
        if known is not None and known[0] == stamp and known[1] is report:
            return self._as_measured(known[2], known[3])
        architecture = report.architecture
        wanted: frozenset[FamilyId] = frozenset()
        # The upscaler works in a latent space of its own, which is none that a VAE is offered for.
        if report.kind in ("checkpoint", "diffusion_model") and report.variant != "x4-upscaler":
            wanted = frozenset(family.id for family in FAMILIES.values() if architecture in family.architectures)
        self._learn(path)
        baked, decoder, vae = _baked(path, report)
        model = Model(path, architecture, wanted, baked, decoder)
        self._models[path] = (stamp, report, model, vae)
        return self._as_measured(model, vae)

    def _as_measured(self, model: Model, vae: VaeFile | None) -> Model:
        """What a run of the baked VAE has shown stands above what its header lets suppose."""
        if vae is None or model.baked not in ("healthy", "at_risk"):
            return model
        try:
            overflowed = self.measured(vae)
        except BadFileError:
            return model
        return model if overflowed is None else replace(model, baked="at_risk" if overflowed else "healthy")

    def fit(self, verdict: Verdict, model: Model) -> Fit:
        """Whether a VAE suits a checkpoint."""
        if verdict.identity is not None and model.wanted and model.architecture is not None:
            return fits(verdict.identity, model.architecture)
        if not model.wanted or not verdict.bases:
            return "unsure"
        # Of a kind without families (Wan, tiny autoencoders): only its shape tells.
        return "unsure" if model.architecture in verdict.bases else "does_not_fit"

    def refuse(self, path: Path, model: Model) -> Refusal | None:
        """The reason not to use a VAE with a checkpoint; None where it fits, may fit, or is wanted anyway."""
        verdict = self.verdict(path)
        if self.fit(verdict, model) != "does_not_fit":
            return None
        identity = verdict.identity
        if identity is None:
            return Refusal(path, " or ".join(verdict.bases), model.label, verdict.problem)
        by_shape = verdict.possible.isdisjoint(model.wanted)
        if not by_shape and identity.grade not in _DECISIVE:
            return None
        if self.memory.allowed(identity.fingerprints, model.wanted):
            return None
        clues = [clue for clue in identity.clues if clue.grade == identity.grade]
        detail = "by its shape" if by_shape or not clues else f"{clues[0].source}: {clues[0].detail}"
        return Refusal(path, verdict.label, model.label, detail)

    def _learn_all(self) -> bool:
        """Let the checkpoints teach, as many as the time allows; whether anything was read."""
        before = self.memory.told()
        deadline = time.monotonic() + LEARNING_SECONDS
        for path in self._checkpoints():
            if time.monotonic() > deadline:
                break
            self._learn(path)
        return self.memory.told() != before

    def _learn(self, path: Path) -> None:
        stamp = _stamp(path)
        # Reading a pickle's header means running through the pickle: too slow for many files.
        if stamp is None or path.suffix.lower() != ".safetensors":
            return

        def teach() -> dict[str, FamilyId]:
            try:
                return dict(learned(read_header(path)))
            except BadFileError:
                return {}

        self.memory.learn(path, stamp, teach)


def automatic(
    judge: Judge, model: Model, listed: Iterable[tuple[str, Path]], preference: str | None, half: bool
) -> Pick:
    """Choose for a checkpoint: the file's preference, its baked VAE if that is healthy, else a file that fits.

    listed: the host's VAEs by name. preference: a name among them, or "None" for the baked one.
    half: VAEs run in fp16, so that of a baked one at risk the exactly cured copy is taken where there is one.
    """
    named = dict(listed)
    if preference is not None:
        found = _named(named, preference)
        if found is not None or preference.lower() == "none":
            return Pick(found, "preference", preference)
    if not model.wanted:
        return Pick(None, "unknown_model")
    if model.baked == "at_risk" and half:
        for path in sorted(named.values()):
            verdict = judge.verdict(path)
            same = verdict.identity is not None and verdict.identity.fingerprints.decoder == model.decoder
            if verdict.cured and same and not verdict.problem:
                return Pick(path, "twin", "the same VAE, made for fp16")
    if model.baked not in ("damaged", "missing"):
        return Pick(None, "baked")
    return _best(judge, model, named, half) or Pick(None, "nothing_fits", f"no VAE of {model.label} is known here")


def _best(judge: Judge, model: Model, named: dict[str, Path], half: bool) -> Pick | None:
    ranked: list[tuple[int, bool, str, Path, str]] = []
    for name, path in named.items():
        verdict = judge.verdict(path)
        if verdict.identity is None or verdict.problem or judge.fit(verdict, model) != "fits":
            continue
        ranked.append((_ORDER[verdict.identity.grade], half and not verdict.cured, name.lower(), path, verdict.label))
    if not ranked:
        return None
    best = min(ranked)
    return Pick(best[3], "family", f"a VAE of {best[4]}; the model has none" if model.baked == "missing" else best[4])


def _named(named: dict[str, Path], wanted: str) -> Path | None:
    for name, path in named.items():
        if wanted in (name, path.name, path.stem):
            return path
    return None


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _baked(path: Path, report: Report) -> tuple[Baked, str, VaeFile | None]:
    """The state of a checkpoint's own VAE as its header tells, the fingerprint of its decoder, and the VAE."""
    parts = [part for part in report.components if part.name.startswith("vae")]
    if report.error is not None:
        return "unknown", "", None
    if not parts:
        return "missing", "", None
    try:
        vae = find_vae(read_header(path))
        identity = identify_vae(vae, with_company(vae, replace(Hints(), architecture=report.architecture)))
        if _damage(vae):
            return "damaged", "", None
    except BadFileError:
        return ("damaged" if any(part.complete is False for part in parts) else "unknown"), "", None
    risk = check_header(vae, identity).verdict == "at_risk"
    return ("at_risk" if risk else "healthy"), identity.fingerprints.decoder, vae


def _damage(vae: VaeFile) -> str:
    """What is wrong with the numbers at the ends of a decoder; empty where nothing is."""
    for name in _LOOKED_AT:
        values = read_values(vae.header, vae.names[name])
        if not all(math.isfinite(value) for value in values):
            return f"tensor {vae.names[name]!r} holds NaN or infinity"
        if name == "decoder.norm_out.weight" and not any(values):
            return f"tensor {vae.names[name]!r} holds only zeros"
    return ""
