"""What stands in the merge view's fields, and the request that it amounts to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelsmith.files.header import read_header
from modelsmith.files.names import output_path
from modelsmith.identify import identify_header
from modelsmith.merge.blocks import BlockLayout, layout_for
from modelsmith.merge.guard import CHOICES
from modelsmith.merge.methods import MethodSpec, ParameterSpec, get_method
from modelsmith.merge.methods.spec import METHODS
from modelsmith.merge.request import MergeRequest
from modelsmith_webui.host import Host, ModelFile
from modelsmith_webui.tab.files import find_checkpoint
from modelsmith_webui.tab.words import PRECISIONS

SLOTS = ("A", "B", "C")
STOP_AT_MIX = "stop and say so"


def methods() -> dict[str, MethodSpec]:
    """The methods that the view's slots suffice for, by label, in the registry's order."""
    get_method("weighted_sum")  # the registry fills when it is first asked
    return {spec.label: spec for spec in METHODS.values() if spec.models[0] <= len(SLOTS)}


def all_parameters() -> dict[str, ParameterSpec]:
    """Every parameter that any method has, once by id: each gets one control, whose range follows the method."""
    found: dict[str, ParameterSpec] = {}
    for spec in methods().values():
        for parameter in spec.parameters:
            found.setdefault(parameter.id, parameter)
    return found


def block_parameters() -> list[str]:
    """The ids of the parameters that may have a value per block, in any method."""
    every = [parameter for spec in methods().values() for parameter in spec.parameters if parameter.per_block]
    return list(dict.fromkeys(parameter.id for parameter in every))


def layout_of(file: ModelFile) -> BlockLayout:
    """The blocks of a checkpoint. Raises BadFileError."""
    header = read_header(file.path)
    return layout_for(identify_header(header).architecture, header.tensors)


@dataclass(frozen=True)
class MergeForm:
    """The fields as the events deliver them."""

    models: tuple[str | None, ...]
    method: str
    name: str
    precision: str
    overwrite: bool
    mix: str
    parameters: dict[str, float] = field(default_factory=dict[str, float])
    block_texts: dict[str, str] = field(default_factory=dict[str, str])

    @staticmethod
    def from_values(values: Sequence[Any]) -> MergeForm:
        """Take the values in the order of the view's ``inputs``: fixed fields, sliders, block weights."""
        fixed, rest = values[:8], list(values[8:])
        names = list(all_parameters())
        sliders, texts = rest[: len(names)], rest[len(names) :]
        return MergeForm(
            models=tuple(fixed[:3]),
            method=str(fixed[3]),
            name=str(fixed[4] or ""),
            precision=str(fixed[5]),
            overwrite=bool(fixed[6]),
            mix=str(fixed[7]),
            parameters={name: float(value) for name, value in zip(names, sliders, strict=True) if value is not None},
            block_texts={name: str(text or "") for name, text in zip(block_parameters(), texts, strict=True)},
        )

    @property
    def spec(self) -> MethodSpec:
        found = methods().get(self.method)
        return found if found is not None else get_method(self.method)

    def slots(self) -> tuple[str, ...]:
        """The slots that the method takes; those beyond its fewest models may stay empty."""
        high = self.spec.models[1]
        return SLOTS[: len(SLOTS) if high is None else min(len(SLOTS), high)]

    def missing(self) -> bool:
        """Whether a model that the method needs is not chosen yet."""
        return not all(self.models[: self.spec.models[0]])

    def chosen(self, host: Host) -> list[ModelFile]:
        """The files in the slots. Raises UsageError and UnknownNameError."""
        low = self.spec.models[0]
        wanted = [slot for index, slot in enumerate(self.slots()) if index < low or self.models[index]]
        return [find_checkpoint(host, self.models[SLOTS.index(slot)], slot) for slot in wanted]

    def parameter_values(self) -> dict[str, float]:
        return {p.id: self.parameters[p.id] for p in self.spec.parameters if p.id in self.parameters}

    def suggested_name(self, files: Sequence[ModelFile]) -> str:
        """A name that says what was done: ``A_0.50_B``."""
        stems = [file.path.stem for file in files]
        values = self.parameter_values()
        amount = f"{next(iter(values.values())):.2f}" if values else self.spec.id
        if any(text.strip() for text in self.block_texts.values()):
            amount = "blocks"
        return "_".join([stems[0], amount, *stems[1:]])[:180]

    def output(self, host: Host, files: Sequence[ModelFile]) -> Path:
        """Where the result is written. Raises UsageError for a name that is no plain file name."""
        return output_path(host.checkpoint_folder(), self.name.strip() or self.suggested_name(files))

    def request(self, host: Host) -> MergeRequest:
        """The request for the engine. Raises the library's errors where the form cannot be one."""
        files = self.chosen(host)
        blocks = {
            parameter.id: text
            for parameter in self.spec.parameters
            if parameter.per_block and (text := self.block_texts.get(parameter.id, "").strip())
        }
        return MergeRequest(
            models=tuple(file.path for file in files),
            method=self.spec.id,
            output=self.output(host, files),
            parameters=self.parameter_values(),
            block_weights=blocks,
            known_hashes={file.path: known for file in files if (known := host.cached_sha256(file))},
            names={file.path: file.name for file in files},
            dtype=PRECISIONS.get(self.precision),
            overwrite=self.overwrite,
            allow_prediction_mix=next((key for key, text in CHOICES.items() if text == self.mix), None),
        )
