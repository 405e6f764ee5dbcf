"""What stands in the LoRA view's fields, and the work that it amounts to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from modelsmith.errors import UsageError
from modelsmith_webui.host import Host, ModelFile, find_file
from modelsmith_webui.places import output_beside, output_of_kind
from modelsmith_webui.tab.files import find_checkpoint
from modelsmith_webui.tab.lora_rows import LoraRow, find_lora, lora_files, specs_of
from modelsmith_webui.tab.lora_words import (
    CHECKPOINT_PRECISIONS,
    COMPONENTS,
    LORA_ACTIONS,
    LORA_PRECISIONS,
    NEEDED,
    SHOWN,
)
from modelsmith_webui.tab.words import id_of

if TYPE_CHECKING:
    from modelsmith.lora.bake import BakeRequest
    from modelsmith.lora.combine import CombineRequest
    from modelsmith.lora.extract import Components, ExtractRequest
    from modelsmith.lora.factorise import RankChoice


def rank_choice(rank: int, energy: float, clamp: float = 1.0, seed: int = 0) -> RankChoice:
    """How ranks are chosen: ``rank``, or the least that keeps the share ``energy`` where that is below 1."""
    from modelsmith.lora.factorise import RankChoice

    return RankChoice(rank, None if energy >= 1 else energy, "auto", None if clamp >= 1 else clamp, seed)


@dataclass(frozen=True)
class LoraForm:
    """The fields in the order of the view's ``inputs``; texts are those that the page shows. rows: JSON."""

    action: str = "Bake in"
    checkpoint: str | None = None
    tuned: str | None = None
    base: str | None = None
    lora: str | None = None
    rows: str = ""
    exact: bool = True
    rank: float = 32
    conv_rank: str = ""
    energy: float = 1.0
    parts: str = "all"
    differences: bool = False
    threshold: float = 0.0
    clamp: float = 1.0
    seed: float = 0
    precision: str = "as it is"
    half: str = "fp16"
    strict: bool = False
    gpu: bool = False
    name: str = ""
    overwrite: bool = False

    @staticmethod
    def from_values(values: Sequence[Any]) -> LoraForm:
        """Take the values in the order of the fields; a field that was cleared gets its default."""
        given = dict(zip((field.name for field in fields(LoraForm)), values, strict=True))
        return LoraForm(**{name: value for name, value in given.items() if value is not None})

    @property
    def what(self) -> str:
        """The action's id."""
        return id_of(LORA_ACTIONS, self.action)

    @property
    def missing(self) -> str | None:
        """What is to be chosen first, in words; None where nothing is."""
        for name in SHOWN[self.what]:
            needed = name in NEEDED and not (name == "checkpoint" and self.what == "check")
            empty = not LoraRow.parse(self.rows) if name == "rows" else not getattr(self, name, True)
            if needed and empty:
                return NEEDED[name]
        return None

    def file(self, host: Host) -> ModelFile:
        """The one LoRA to work on. Raises UsageError, UnknownNameError."""
        if not self.lora:
            raise UsageError("no LoRA is chosen", "Choose a LoRA")
        return find_lora(lora_files(host), self.lora)

    def _of_rows(self, host: Host) -> list[ModelFile]:
        files = lora_files(host)
        return [find_lora(files, row.name) for row in LoraRow.parse(self.rows)]

    def target(self, host: Host) -> Path:
        """The new file. Raises UsageError for a name that is no plain file name, or a missing choice."""
        if self.what == "bake":
            checkpoint = find_checkpoint(host, self.checkpoint, "")
            files = [checkpoint, *self._of_rows(host)]
            return output_beside(checkpoint, self.name, "-".join(file.path.stem for file in files))
        if self.what == "extract":
            tuned = find_checkpoint(host, self.tuned, "")
            return output_of_kind(host, "lora", self.name, tuned.path.stem, "-lora")
        if self.what == "merge":
            files = self._of_rows(host)
            return output_beside(files[0], self.name, "-".join(file.path.stem for file in files))
        file = self.file(host)
        amount = f"rank{self.rank:.0f}" if self.energy >= 1 else f"energy{self.energy:g}"
        return output_beside(file, self.name, file.path.stem, f"-{amount}")

    @property
    def device(self) -> str:
        return "auto" if self.gpu else "cpu"

    def bake(self, host: Host) -> BakeRequest:
        """Raises the library's errors where the form cannot be one; as do the following."""
        from modelsmith.lora.bake import BakeRequest

        return BakeRequest(
            find_checkpoint(host, self.checkpoint, "").path,
            specs_of(host, self.rows),
            self.target(host),
            CHECKPOINT_PRECISIONS.get(self.precision),
            self.overwrite,
            strict=self.strict,
        )

    def extract(self, host: Host) -> ExtractRequest:
        from modelsmith.lora.extract import ExtractRequest

        known = host.checkpoints()
        seed, conv = int(self.seed), self._conv()
        return ExtractRequest(
            find_file(known, self.base or "").path,
            find_file(known, self.tuned or "").path,
            self.target(host),
            rank_choice(int(self.rank), self.energy, self.clamp, seed),
            rank_choice(conv, self.energy, self.clamp, seed) if conv else None,
            cast("Components", id_of(COMPONENTS, self.parts)),
            self.differences,
            float(self.threshold),
            id_of(LORA_PRECISIONS, self.half),
            self.overwrite,
            self.device,
        )

    def _conv(self) -> int:
        text = self.conv_rank.strip()
        if text and not text.isdecimal():
            raise UsageError(f"{text!r} is no rank", "Give a whole number, or leave it empty")
        return int(text or self.rank)

    def combine(self, host: Host) -> CombineRequest:
        """Of the rows, or of the one LoRA whose rank is to change."""
        from modelsmith.lora.combine import CombineRequest
        from modelsmith.lora.stack import LoraSpec

        resizing = self.what == "resize"
        loras = (LoraSpec(self.file(host).path),) if resizing else specs_of(host, self.rows)
        resize = rank_choice(int(self.rank), self.energy) if resizing or not self.exact else None
        return CombineRequest(
            loras, self.target(host), resize, id_of(LORA_PRECISIONS, self.half), self.overwrite, self.device
        )
