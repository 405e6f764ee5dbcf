"""Describes a LoRA file: kinds, ranks, parts, and how it fits a checkpoint."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from modelsmith.files.header import read_header
from modelsmith.identify.recipe_file import with_weights
from modelsmith.lora.match import MatchReport, match_lora
from modelsmith.lora.parse import LoraFile, parse_header
from modelsmith.lora.targets import DIFFUSION, TargetIndex

_SHOWN = (
    "ss_base_model_version",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_network_args",
    "modelspec.architecture",
    "modelspec.title",
    "modelspec.prediction_type",
)


@dataclass(frozen=True)
class LoraInfo:
    """What one file holds. kinds, ranks: value to number of modules. architectures: what it fits, as far as told."""

    file: LoraFile
    architectures: tuple[str, ...]
    kinds: dict[str, int]
    ranks: dict[int, int]
    diffusion: int
    text: int
    match: MatchReport | None

    def to_json(self) -> dict[str, object]:
        """Plain values, the same for command line and API."""
        found: dict[str, object] = {
            "file": str(self.file.path),
            "architectures": list(self.architectures),
            "kinds": self.kinds,
            "ranks": {str(rank): number for rank, number in self.ranks.items()},
            "modules": {"diffusion_model": self.diffusion, "text_encoders": self.text},
            "leftover": list(self.file.leftover),
            "metadata": {key: self.file.header.metadata[key] for key in _SHOWN if key in self.file.header.metadata},
        }
        if self.match is not None:
            found["match"] = {"modules": self.match.modules, "unmatched": dict(self.match.unmatched)}
        return found


def describe(path: Path, model: Path | None = None) -> LoraInfo:
    """Describe a LoRA from its header, and match it against a checkpoint where one is given.

    Raises BadFileError, and MergeError as ``match_lora`` does.
    """
    from modelsmith.identify import identify_header

    file = parse_header(read_header(path))
    report = identify_header(file.header)
    match = None
    if model is not None:
        header = with_weights(read_header(model))
        match = match_lora(file, TargetIndex(header), identify_header(header).architecture)
    ranks = Counter(rank for rank in (file.rank(module) for module in file.modules) if rank is not None)
    diffusion = sum(module.slot == DIFFUSION for module in file.modules)
    return LoraInfo(
        file,
        (report.architecture,) if report.architecture else report.candidates,
        dict(Counter(module.label for module in file.modules)),
        dict(sorted(ranks.items())),
        diffusion,
        len(file.modules) - diffusion,
        match,
    )
