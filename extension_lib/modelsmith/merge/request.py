"""What is asked of a merge, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from modelsmith.merge.guard import Notice

if TYPE_CHECKING:
    from modelsmith.lora.stack import LoraSpec

Missing = Literal["take_a", "skip", "stop"]
BlockWeights = str | Mapping[str, float] | Sequence[float]

_NO_FLOATS: Mapping[str, float] = {}
_NO_WEIGHTS: Mapping[str, BlockWeights] = {}
_NO_RULES: Mapping[str, str] = {}
_NO_TEXTS: Mapping[str, str] = {}
_NO_HASHES: Mapping[Path, str] = {}
_NO_NAMES: Mapping[Path, str] = {}


@dataclass(frozen=True)
class MergeRequest:
    """One merge.

    models: A, B, C … in this order. method: an id of ``METHODS``. parameters: by id; missing ones take their default.
    block_weights: per parameter id, as text (a preset's name, numbers, ``NAME=value``), numbers in the layout's
        order, or a mapping from block names; blocks not named take the parameter's value.
    dtype: ``fp32``, ``fp16``, ``bf16``, or None for each tensor's type in A.
    missing: what happens to tensors that A has and another model lacks: taken from A, left out, or the merge stops.
    allow_prediction_mix: one of ``guard.CHOICES``, to merge across prediction types and mark the result so.
    metadata: further entries for the output. copy_metadata: also those of the inputs, the later ones winning.
    known_hashes: SHA-256 of inputs by path, as hosts cache them; others are computed while the inputs stream by,
        and then the output's hash is not (its header, which comes first, holds the inputs' hashes).
    names: how the recipe calls the models, by path; else their file names.
    rules: per parameter id, the text of rules for single tensors, finer than blocks (see ``merge.rules``).
    finetune: adjustments of detail, contrast and colour after the merge, as text (see ``merge.finetune``).
    loras: baked into the result after the merge, in this order. component_dtypes: the precision of single components
        (``unet``, ``text_encoder``, ``vae``), as ``dtype`` names it, where it is not that of the whole.
    title: how the recipe calls the output; else its file's name. file_names: how the recipe calls the files of models
        and LoRAs, by path, where they are named otherwise now.
    device: ``cpu``, ``cuda``, ``cuda:N`` or ``auto`` (``device.choose_device`` says what it takes). A GPU may round a
        last bit otherwise than a CPU does. computed_on: the GPU that computed what this request repeats; empty: none,
        or nothing is repeated.
    """

    models: tuple[Path, ...]
    method: str
    output: Path
    parameters: Mapping[str, float] = field(default_factory=lambda: _NO_FLOATS)
    block_weights: Mapping[str, BlockWeights] = field(default_factory=lambda: _NO_WEIGHTS)
    dtype: str | None = None
    overwrite: bool = False
    missing: Missing = "take_a"
    allow_prediction_mix: str | None = None
    copy_metadata: bool = False
    metadata: Mapping[str, str] = field(default_factory=lambda: _NO_TEXTS)
    known_hashes: Mapping[Path, str] = field(default_factory=lambda: _NO_HASHES)
    names: Mapping[Path, str] = field(default_factory=lambda: _NO_NAMES)
    rules: Mapping[str, str] = field(default_factory=lambda: _NO_RULES)
    finetune: str = ""
    loras: tuple[LoraSpec, ...] = ()
    component_dtypes: Mapping[str, str] = field(default_factory=lambda: _NO_TEXTS)
    title: str = ""
    file_names: Mapping[Path, str] = field(default_factory=lambda: _NO_NAMES)
    device: str = "cpu"
    computed_on: str = ""


@dataclass(frozen=True, slots=True)
class MergeProgress:
    """How far a merge has come.

    stage: ``measuring`` (a first pass over the models, of some methods), ``merging`` or ``finishing``; bytes are of the
    output.
    """

    done_bytes: int
    total_bytes: int
    stage: Literal["measuring", "merging", "finishing"]
    seconds: float


@dataclass(frozen=True)
class MergeResult:
    """A finished merge; recipe is our own, as JSON text.

    sha256: None where a model's hash was not known beforehand. The header, with which the hash begins, holds the hashes
    of the models, and those are complete only when the last byte has passed: the file's hash would take a second pass.
    data_sha256: of the bytes after the header, in passing, where ``EngineOptions.hash_data`` asked for it then.
    """

    path: Path
    sha256: str | None
    seconds: float
    bytes: int
    notices: tuple[Notice, ...]
    recipe: str
    data_sha256: str | None = None


@dataclass(frozen=True)
class EngineOptions:
    """How to run a merge; nothing of it changes a byte of the output.

    threads: workers that read, compute and write; 0 chooses by the number of cores. chunk_bytes: of the output; at
    2 MiB the operands and the result of a chunk stay in the processor's cache between reading, computing, hashing and
    writing (8 MiB took a third more processor time).
    hashing: compute the SHA-256 of the file as it is written, where that can be
    done. hash_data: where it cannot, compute that of its data; it takes a third hash beside those of two models.
    """

    threads: int = 0
    chunk_bytes: int = 2 << 20
    direct: bool = True
    hashing: bool = True
    hash_data: bool = False
