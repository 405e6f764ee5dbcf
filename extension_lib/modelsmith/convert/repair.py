"""What is wrong with a model, what would be done about it, and doing it.

Every check gives findings; each finding carries its evidence and, where it can be mended, a change of the model.
Looking (a dry run) and mending are the same code up to that last step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from modelsmith.convert.casts import LossBook
from modelsmith.convert.components import UNET_PREFIX, VAE_PREFIX, family_of, find_unet, find_vae
from modelsmith.convert.encoders import PLACES, find_encoders
from modelsmith.convert.exchange import put_in
from modelsmith.convert.model import Model, Packed, open_model
from modelsmith.convert.nodes import Constant, whole
from modelsmith.convert.precision import Precision, decode_all
from modelsmith.errors import UsageError
from modelsmith.files.dtypes import count
from modelsmith.identify import Report
from modelsmith.japanese import GRADES, Said, in_japanese

_POSITIONS = ".position_ids"
_LONGEST = 4096
# The oldest SD1 files, NovelAI's among them, lack "text_model." (A1111 modules/sd_models.py).
_OLD_TEXT = ("embeddings.", "encoder.layers.", "final_layer_norm.")
_TOKENS = "embeddings.token_embedding.weight"  # CLIP's own: T5 and BERT call theirs otherwise


@dataclass(frozen=True)
class Finding:
    """One fault. what: the fault. evidence: how it is known. remedy: what is done, empty where nothing can be."""

    id: str
    what: str
    evidence: str
    remedy: str
    apply: Callable[[], None] | None = field(default=None, repr=False, compare=False)

    def with_remedy(self) -> Said:
        """The fault and what is done about it, in one sentence."""
        return Said(f"{self.what}: {self.remedy}", f"{in_japanese(self.what)}: {in_japanese(self.remedy)}")

    def with_evidence(self) -> Said:
        """The fault and how it is known, in one sentence."""
        return Said(f"{self.what} ({self.evidence})", f"{in_japanese(self.what)}（{in_japanese(self.evidence)}）")


@dataclass(frozen=True)
class RepairOptions:
    """prediction: what a user knows better than the file, ``v``, ``v+ztsnr`` or ``epsilon``; markers follow it.

    complete_from: a file that gives the missing text encoder or VAE.
    """

    prediction: str | None = None
    complete_from: Path | None = None


def find_faults(
    model: Model, report: Report, options: RepairOptions | None = None, book: LossBook | None = None
) -> list[Finding]:
    """Look for every fault that is known here. report: what :func:`modelsmith.identify.identify` said of the file.

    Nothing is changed; :func:`mend` does that. book: where losses of parts go that are decoded when they are put in.
    Raises UsageError for an unknown prediction.
    """
    chosen = options or RepairOptions()
    return [
        *_names(model),
        *_positions(model),
        *_markers(model, report, chosen.prediction),
        *_metadata(model, report, chosen.prediction),
        *_duplicates(model),
        *_missing(model, chosen.complete_from, book or LossBook()),
    ]


def mend(model: Model, findings: list[Finding]) -> int:
    """Apply every finding that can be mended, in order, and return how many were."""
    done = 0
    for finding in findings:
        if finding.apply is not None:
            finding.apply()
            model.notes.append(finding.with_remedy())
            done += 1
    return done


def _names(model: Model) -> list[Finding]:
    """Text encoders saved without ``text_model.``: by early tools, and by transformers 5."""
    renames: dict[str, str] = {}
    prefixes = [name[: -len(_TOKENS)] for name in model.tensors if name.endswith(_TOKENS)]
    for prefix in (one for one in prefixes if not one.endswith("text_model.")):
        for name in model.tensors:
            rest = name[len(prefix) :]
            if name.startswith(prefix) and rest.startswith(_OLD_TEXT):
                renames[name] = f"{prefix}text_model.{rest}"
    if not renames:
        return []
    clash = [old for old, new in renames.items() if new in model.tensors]
    example = next(iter(renames))

    def apply() -> None:
        if clash:
            for old in renames:
                model.tensors.pop(old, None)
                model.quantized.pop(old, None)
        else:
            model.tensors = {renames.get(name, name): node for name, node in model.tensors.items()}
            model.quantized = {renames.get(n, n): _renamed(one, renames) for n, one in model.quantized.items()}

    how = "dropped, since the file has them under the full names too" if clash else "renamed"
    return [
        Finding(
            "text-model",
            f"{len(renames)} text encoder tensors lack text_model. in their names (NovelAI's and other early files, "
            "and encoders that transformers 5 saved)",
            f"for instance {example}",
            how,
            apply,
        )
    ]


def _renamed(packed: Packed, renames: Mapping[str, str]) -> Packed:
    return replace(packed, companions=tuple(renames.get(name, name) for name in packed.companions))


def _positions(model: Model) -> list[Finding]:
    """``position_ids`` must be the whole numbers from 0 on, as I64."""
    found: list[Finding] = []
    for name, node in list(model.tensors.items()):
        if not name.endswith(_POSITIONS) or len(node.shape) not in (1, 2) or not 0 < count(node.shape) <= _LONGEST:
            continue
        values = whole(node).double().reshape(-1)
        right = torch.arange(len(values), dtype=torch.float64)
        as_read = torch.where(values.isfinite(), values.trunc(), -1.0)  # what a host makes of them
        wrong = int((as_read != right).sum())
        wanted = _position_count(model, name)
        if node.dtype == "I64" and not wrong and wanted in (None, len(values)):
            continue
        shape = node.shape if wanted in (None, len(values)) else (*node.shape[:-1], wanted or 0)

        def apply(name: str = name, shape: tuple[int, ...] = shape) -> None:
            model.tensors[name] = Constant(torch.arange(count(shape)).reshape(shape))

        what, evidence = _position_story(name, node.dtype, wrong, values)
        if wanted not in (None, len(values)):
            what = f"{name} has {len(values)} positions, and its encoder {wanted}"
            evidence = "the position embedding beside it has a row for each"
        found.append(Finding("position-ids", what, evidence, f"set to 0 … {count(shape) - 1} as int64", apply))
    return found


def _position_count(model: Model, name: str) -> int | None:
    """How many positions the encoder has: the rows of the embedding beside the ids."""
    beside = model.plain().get(name[: -len("position_ids")] + "position_embedding.weight")
    return beside.shape[0] if beside is not None and len(beside.shape) == 2 else None


def _position_story(name: str, kind: str, wrong: int, values: torch.Tensor) -> tuple[str, str]:
    """Say which merge did it: before January 2023 Add difference made the ids float32 (A1111 PR 6728)."""
    whole_numbers = bool((values == values.round()).all())
    if kind == "F32" and not wrong and whole_numbers:
        return (
            f"{name} is float32, the mark of an Add difference merge before January 2023",
            "its values are right, but a host or a further merge will round them",
        )
    if wrong:
        first = int((values.trunc() != torch.arange(len(values), dtype=torch.float64)).nonzero()[0])
        what = (
            f"{name} was merged as floats and cut to whole numbers"
            if kind == "I64"
            else f"{name} was merged as floats and left as {kind}"
        ) + f": {wrong} of {len(values)} positions are wrong"
        return what, f"the first is position {first}, which holds {float(values[first]):.9g}"
    return f"{name} is {kind} instead of I64", "its values are right when cut to whole numbers"


def _wanted(report: Report, told: str | None) -> tuple[str, bool] | None:
    """Prediction and zero terminal SNR that the file should state; None where that is not known well enough."""
    if told is not None:
        known = {"v": ("v_prediction", False), "v+ztsnr": ("v_prediction", True), "epsilon": ("epsilon", False)}
        if told not in known:
            raise UsageError(f"the prediction {told!r} is unknown", f"Write one of {', '.join(known)}")
        return known[told]
    strong = [piece for piece in report.prediction.evidence if piece.grade in ("proof", "strong")]
    if report.prediction.conflict or report.prediction.type not in ("epsilon", "v_prediction"):
        return None
    decided = any(piece.says == report.prediction.type for piece in strong)
    default = report.prediction.type == "epsilon" and any(p.grade == "default" for p in report.prediction.evidence)
    if not decided and not default:
        return None
    return report.prediction.type, report.prediction.zero_terminal_snr is True


def _evidence(report: Report, told: str | None, says: str) -> str:
    if told is not None:
        return f"you said so ({told})"
    pieces = [p for p in report.prediction.evidence if p.says == says]
    if not pieces:
        return "no evidence for it in the file"
    return Said(
        "; ".join(f"{p.source}: {p.detail} ({p.grade})" for p in pieces),
        "、".join(f"{p.source_text('ja')}: {p.detail_text('ja')}（{GRADES[p.grade]}）" for p in pieces),
    )


def _disagreement(report: Report) -> str:
    told = report.prediction.evidence
    return Said(
        "; ".join(f"{p.source}: {p.detail} says {p.says}" for p in told),
        "、".join(f"{p.source_text('ja')}: {p.detail_text('ja')} = {p.says}" for p in told),
    )


def _family(report: Report) -> str:
    """The architecture, where it is a whole model of one; empty otherwise."""
    known = report.architecture or (report.candidates[0] if len(report.candidates) == 1 else "")
    return known if report.kind in ("checkpoint", "diffusion_model") else ""


def _markers(model: Model, report: Report, told: str | None) -> list[Finding]:
    """Markers missing from SDXL v models, stray ones on others, and ones hidden under the model's prefix."""
    found: list[Finding] = []
    for name in ("v_pred", "ztsnr"):
        hidden = UNET_PREFIX + name
        if hidden in model.tensors:
            found.append(_moved_marker(model, hidden, name))
    present = {name for name in ("v_pred", "ztsnr") if name in model.tensors or UNET_PREFIX + name in model.tensors}
    if report.prediction.conflict and told is None:
        what = "the evidence about the prediction disagrees"
        found.append(Finding("prediction-conflict", what, _disagreement(report), ""))
        return found
    wanted, family = _wanted(report, told), _family(report)
    if wanted is None or not family:
        return found
    prediction, zero = wanted
    if prediction == "v_prediction":
        # Only readers of SDXL obey v_pred. Those of other families that know ztsnr read it without v_pred.
        for name, needed in (
            ("v_pred", family == "sdxl"),
            ("ztsnr", zero and (family == "sdxl" or (family in _STATED and told is not None))),
        ):
            if needed and name not in present:
                says = "v_prediction" if name == "v_pred" else "ztsnr"
                found.append(_added_marker(model, name, _evidence(report, told, says)))
        if told == "v" and "ztsnr" in present:
            found.append(_stray_marker(model, "ztsnr", _evidence(report, told, "v_prediction")))
        return found
    for name in sorted(present):
        known = _evidence(report, told, "epsilon")
        evidence = Said(f"the model predicts epsilon ({known})", f"epsilon 予測のモデルです（{in_japanese(known)}）")
        found.append(_stray_marker(model, name, evidence))
    return found


def _added_marker(model: Model, name: str, evidence: str) -> Finding:
    def apply() -> None:
        model.tensors[name] = Constant(torch.empty(0))  # as ComfyUI and A1111 (PR 16567) write and read it

    return Finding("marker-missing", f"the marker {name} is missing", evidence, "added", apply)


def _stray_marker(model: Model, name: str, evidence: str) -> Finding:
    def apply() -> None:
        model.tensors.pop(name, None)
        model.tensors.pop(UNET_PREFIX + name, None)

    return Finding("marker-stray", f"the marker {name} is on a model that it does not fit", evidence, "removed", apply)


def _moved_marker(model: Model, hidden: str, name: str) -> Finding:
    def apply() -> None:
        node = model.tensors.pop(hidden, None)
        if node is not None:
            model.tensors.setdefault(name, node)

    return Finding("marker-hidden", f"the marker {name} stands under the model's prefix, where hosts do not look",
                   hidden, f"moved to {name}", apply)  # fmt: skip


_FIELDS = ("modelspec.prediction_type", "modelspec.predict_key")
_SPELLED = {"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon", "eps": "epsilon"}
# Families of which a host can be told the prediction type; where no marker says it, the metadata do.
_STATED = ("sd1", "sd2", "sdxl-refiner", "kolors")
_SD2_NAMES = {"v_prediction": "stable-diffusion-v2-768-v", "epsilon": "stable-diffusion-v2-512"}


def _metadata(model: Model, report: Report, told: str | None) -> list[Finding]:
    """Fields that say another prediction, or another family, than the tensors do; and what the user said, unsaid."""
    found: list[Finding] = []
    wanted = _wanted(report, told)
    if wanted is not None:
        right = "v" if wanted[0] == "v_prediction" else "epsilon"
        evidence = _evidence(report, told, wanted[0])
        for name in _FIELDS:
            text = model.metadata.get(name)
            if text is not None and _SPELLED.get(text.strip().lower()) != wanted[0]:
                found.append(_set_field(model, name, right, evidence))
        name, _, rest = model.metadata.get("modelspec.architecture", "").partition("/")
        if told is not None and name.lower() in _SD2_NAMES.values() and name.lower() != _SD2_NAMES[wanted[0]]:
            right_name = _SD2_NAMES[wanted[0]] + ("/" + rest if rest else "")
            found.append(_set_field(model, "modelspec.architecture", right_name, evidence))
        if told is not None:
            found += _unsaid(model, report, (wanted[0], right), evidence)
    return [*found, *_metadata_family(model)]


def _unsaid(model: Model, report: Report, wanted: tuple[str, str], evidence: str) -> list[Finding]:
    """What the user said and the file does not. wanted: the type, and how the metadata spell it."""
    family = _family(report)
    if family not in (*_STATED, "sdxl"):
        what = "a model of this kind has no prediction type that could be stated"
        return [Finding("prediction-unstated", what, evidence, "")]
    by_family = wanted[0] == "epsilon" and any(
        piece.says == "epsilon" and piece.grade == "default" for piece in report.prediction.evidence
    )
    if family == "sdxl" or by_family or "modelspec.prediction_type" in model.metadata:
        return []
    return [_set_field(model, "modelspec.prediction_type", wanted[1], evidence)]


def _set_field(model: Model, name: str, right: str, evidence: str) -> Finding:
    text = model.metadata.get(name)
    what = f"the metadata field {name} is missing" if text is None else f"the metadata field {name} says {text!r}"
    return Finding("metadata-prediction", what, evidence, f"set to {right!r}",
                   lambda: model.metadata.update({name: right}))  # fmt: skip


def _metadata_family(model: Model) -> list[Finding]:
    text = model.metadata.get("modelspec.architecture")
    family = family_of(model.plain())
    if text is None or family is None:
        return []
    said = text.lower().split("/")[0]
    fits = {
        "sd1": ("stable-diffusion-v1",),
        "sd2": ("stable-diffusion-v2",),
        "sdxl": ("stable-diffusion-xl-v1-base", "stable-diffusion-xl"),
        "sdxl-refiner": ("stable-diffusion-xl-v1-refiner", "stable-diffusion-xl"),
    }[family]
    if said.startswith(fits):
        return []
    evidence = f"the cross attention of its UNet, or its text encoders, are those of {family}"
    return [
        Finding(
            "metadata-architecture",
            f"the metadata field modelspec.architecture says {text!r}",
            evidence,
            "removed",
            lambda: _forget(model, "modelspec.architecture"),
        )
    ]


def _forget(model: Model, name: str) -> None:
    model.metadata.pop(name, None)


_TWICE = (
    ("UNet", UNET_PREFIX, "unet."),
    ("VAE", VAE_PREFIX, "vae."),
    ("text encoder", "cond_stage_model.transformer.", "text_encoders.clip_l.transformer."),
    ("text encoder", "cond_stage_model.model.", "text_encoders.clip_h.transformer."),
    ("text encoder", "conditioner.embedders.0.transformer.", "text_encoders.clip_l.transformer."),
    ("text encoder", "conditioner.embedders.1.model.", "text_encoders.clip_g.transformer."),
)


def _duplicates(model: Model) -> list[Finding]:
    """Parts that are there twice under different prefixes: hosts read one and carry the other along."""
    found: list[Finding] = []
    for part, kept, spare in _TWICE:
        first = sum(name.startswith(kept) for name in model.tensors)
        second = [name for name in model.tensors if name.startswith(spare)]
        if not second or not first:
            continue
        evidence = f"{len(second)} tensors begin with {spare} beside those of {kept}"
        if 2 * first < len(second):  # OpenCLIP's form has fewer tensors than the other, but not by half
            evidence = f"{len(second)} tensors begin with {spare}, and only {first} with {kept}, where hosts look"
            found.append(Finding("twice", f"the {part} is there twice", evidence, ""))
            continue

        def apply(second: list[str] = second) -> None:
            for name in second:
                model.tensors.pop(name, None)
                model.quantized.pop(name, None)

        found.append(Finding("twice", f"the {part} is there twice", evidence, f"the copy under {spare} dropped", apply))
    return found


def _any_under(model: Model, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in model.tensors)


def _missing(model: Model, donor_path: Path | None, book: LossBook) -> list[Finding]:
    """A checkpoint without VAE or text encoder, and the file to complete it from; with such a file a bare UNet too."""
    family = family_of(model.plain())
    whole = _any_under(model, UNET_PREFIX) or (donor_path is not None and find_unet(model.tensors) is not None)
    if family is None or not whole:
        return []
    lacking: list[str] = [] if find_vae(model.tensors) or _any_under(model, VAE_PREFIX) else ["vae"]
    present = find_encoders(model.tensors)
    lacking += [
        slot
        for (known, slot), (place, _) in PLACES.items()
        if known == family and slot not in present and not _any_under(model, place)
    ]
    given = _held(donor_path, lacking) if lacking and donor_path is not None else frozenset[str]()
    found: list[Finding] = []
    for part in lacking:
        evidence = f"a {family} checkpoint has one, and none of its tensors are there"
        if donor_path is None:
            found.append(Finding("missing", f"the {part} is missing", evidence, ""))
            continue
        if part not in given:
            evidence = f"none of its tensors are there, nor in {donor_path.name}"
            found.append(Finding("missing", f"the {part} is missing", evidence, ""))
            continue

        def apply(part: str = part, path: Path = donor_path) -> None:
            with open_model(path) as donor:
                decode_all(donor, Precision({}), book)
                put_in(model, donor, part, book)

        found.append(Finding("missing", f"the {part} is missing", evidence, f"taken from {donor_path.name}", apply))
    return found


def _held(path: Path, parts: list[str]) -> frozenset[str]:
    """Which of these parts a file has."""
    with open_model(path) as donor:
        present = find_encoders(donor.tensors)
        return frozenset(p for p in parts if p in present or (p == "vae" and find_vae(donor.tensors) is not None))
