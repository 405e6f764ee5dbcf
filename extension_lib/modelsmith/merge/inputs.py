"""Opens and checks the models of a merge: what each is, and whether they go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelsmith.errors import BadFileError, MergeError, UnknownNameError
from modelsmith.files.dtypes import dtype
from modelsmith.files.header import FileHeader, TensorInfo, read_header
from modelsmith.files.tensors import FileStamp
from modelsmith.merge.guard import InputPrediction
from modelsmith.merge.message_table import TERMS
from modelsmith.merge.messages import bad_file, told
from modelsmith.merge.weights import PlainView, WeightSource, plain_view

if TYPE_CHECKING:
    from modelsmith.identify.report import Report

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MERGEABLE = ("checkpoint", "diffusion_model", "vae", "text_encoder")


@dataclass(frozen=True)
class MergeInput:
    """One model of a merge: header, identification, and its tensors by canonical name.

    header: as a merge sees the model, with quantised tensors as they decode. stored: as the file has it.
    schemes: how the quantised tensors are packed.
    """

    letter: str
    name: str
    header: FileHeader
    report: Report
    canonical: Mapping[str, str]
    stamps: Mapping[Path, FileStamp]
    stored: FileHeader
    schemes: Mapping[str, str]

    def open(self) -> WeightSource:
        """Open the model for reading its values. Raises BadFileError where a file cannot be opened."""
        return WeightSource(self.stored, PlainView(self.header, self.schemes))

    @property
    def path(self) -> Path:
        """Where the model lies."""
        return self.header.path

    def find(self, canonical: str) -> tuple[str, TensorInfo] | None:
        """The tensor with this canonical name: its own name and place, or None."""
        own = self.canonical.get(canonical)
        return None if own is None else (own, self.header.tensors[own])

    def check_unchanged(self) -> None:
        """Raise BadFileError where the file changed since its header was read."""
        for path, stamp in self.stamps.items():
            if FileStamp.of(path) != stamp:
                raise BadFileError(path, "it changed after the merge was planned", "Start the merge again")

    @property
    def prediction(self) -> InputPrediction:
        """What the guard needs to know."""
        found = self.report.prediction
        return InputPrediction(self.name, found.type, found.zero_terminal_snr)


def canonical_name(key: str) -> str:
    """One name for a tensor that files spell in several ways: with or without prefix, and SD1 text encoders as
    NovelAI's first model wrote them (without ``text_model.``)."""
    for prefix in ("model.diffusion_model.", "diffusion_model."):
        if key.startswith(prefix):
            return key[len(prefix) :]
    old = "cond_stage_model.transformer."
    if key.startswith(old) and key[len(old) :].startswith(("embeddings.", "encoder.", "final_layer_norm.")):
        return f"{old}text_model.{key[len(old) :]}"
    return key


def open_inputs(paths: Sequence[Path], names: Mapping[Path, str]) -> tuple[MergeInput, ...]:
    """Read the header of every model and identify it.

    Raises BadFileError for a file that cannot be read, that is no model to merge (a LoRA is named as one), or whose
    precision cannot be computed with; MergeError for models of different kinds or architectures.
    """
    from modelsmith.identify import identify_header

    inputs: list[MergeInput] = []
    for letter, path in zip(LETTERS, paths, strict=False):
        stamps = {path: FileStamp.of(path)} if path.is_file() else {}
        header = read_header(path)
        report = identify_header(header)
        view = plain_view(header) if report.kind in MERGEABLE else PlainView(header, {})
        canonical = {canonical_name(key): key for key in view.header.tensors}
        name = names.get(path, path.name)
        one = MergeInput(letter, name, view.header, report, canonical, stamps, header, view.schemes)
        _check_kind(one)
        _check_precision(one)
        inputs.append(one)
    for other in inputs[1:]:
        _check_pair(inputs[0], other)
    return tuple(inputs)


def _check_kind(one: MergeInput) -> None:
    kind = one.report.kind
    if one.report.recipe:
        raise bad_file(one.path, "recipe-as-model", letter=one.letter)
    if kind in MERGEABLE:
        return
    if kind == "unsafe":
        raise bad_file(one.path, "unsafe-pickle")
    if kind in TERMS:
        raise bad_file(one.path, "not-a-checkpoint", letter=one.letter, kind=f"@{kind}")
    raise bad_file(one.path, "unknown-kind", letter=one.letter)


def _check_precision(one: MergeInput) -> None:
    """Raise BadFileError for what is quantised in a way that is not decoded."""
    quantized = ""
    for key, info in one.header.tensors.items():
        try:
            dtype(info.dtype)
        except UnknownNameError:
            quantized = info.dtype
            break
        if info.dtype in ("U8", "I8", "I32") and key.endswith(".weight"):
            quantized = one.report.quantization or "packed integers"
            break
    if quantized:
        raise bad_file(one.path, "quantised", letter=one.letter, scheme=quantized)


def _check_pair(first: MergeInput, other: MergeInput) -> None:
    kinds = (first.report.kind, other.report.kind)
    if kinds[0] != kinds[1] and not set(kinds) <= {"checkpoint", "diffusion_model"}:
        named = {"first_kind": f"@{kinds[0]}", "other_kind": f"@{kinds[1]}"}
        raise told(MergeError, "kinds-differ", first=first.path, other=other.path, **named)
    ours, theirs = _architectures(first), _architectures(other)
    if ours and theirs and not ours & theirs:
        named = {"first_name": _label(first), "other_name": _label(other)}
        raise told(MergeError, "architectures-differ", first=first.path, other=other.path, **named)


def _architectures(one: MergeInput) -> set[str]:
    report = one.report
    return {report.architecture} if report.architecture else set(report.candidates)


def _label(one: MergeInput) -> str:
    return one.report.architecture or " or ".join(one.report.candidates) or "@unknown-architecture"
