"""What stands in the merge view's fields, and the request that it amounts to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelsmith.files.names import made_name, output_path
from modelsmith.merge.blocks import BlockLayout, layout_for, weights_from_list
from modelsmith.merge.methods import MethodSpec, ParameterSpec, get_method
from modelsmith.merge.methods.spec import METHODS
from modelsmith.merge.mix_choices import CHOICES
from modelsmith_webui.host import Host, ModelFile
from modelsmith_webui.tab.block_editor import weights_text
from modelsmith_webui.tab.files import find_checkpoint
from modelsmith_webui.tab.lora_rows import LoraRow, rows_text, specs_of
from modelsmith_webui.tab.words import PRECISIONS

if TYPE_CHECKING:
    from modelsmith.files.header import FileHeader
    from modelsmith.merge.request import BlockWeights, MergeRequest

SLOTS = ("A", "B", "C")
STOP_AT_MIX = "stop and say so"
AS_THE_REST = "as the rest"
COMPONENTS: Mapping[str, str] = {"unet": "Diffusion model", "text_encoder": "Text encoder", "vae": "VAE"}


def methods() -> dict[str, MethodSpec]:
    """Every method by its label, in the registry's order."""
    get_method("weighted_sum")  # the registry fills when it is first asked
    return {spec.label: spec for spec in METHODS.values()}


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


def layout_of(file: ModelFile) -> tuple[BlockLayout, FileHeader]:
    """The blocks of a checkpoint, and its header. Raises BadFileError."""
    from modelsmith.files.header import read_header
    from modelsmith.identify import identify_header

    header = read_header(file.path)
    return layout_for(identify_header(header).architecture, header.tensors), header


FIXED = ("a", "b", "c", "more", "method", "name", "precision", "overwrite", "mix", "loras", "finetune", "use_gpu")


def field_names() -> list[str]:
    """The fields in the order in which events deliver them."""
    parts = [f"dtype_{name}" for name in COMPONENTS]
    blocks = block_parameters()
    return [
        *FIXED,
        *parts,
        *(f"parameter_{name}" for name in all_parameters()),
        *(f"blocks_{name}" for name in blocks),
        *(f"rules_{name}" for name in blocks),
    ]


def _with_prefix(values: Mapping[str, Any], prefix: str) -> dict[str, str]:
    found = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    return {name: str(value or "") for name, value in found.items()}


@dataclass(frozen=True)
class MergeForm:
    """The fields as the events deliver them. more: models after C. loras: JSON, see :class:`LoraRow`. use_gpu: where
    it helps."""

    models: tuple[str | None, ...]
    method: str
    name: str = ""
    precision: str = "as model A"
    overwrite: bool = False
    mix: str = STOP_AT_MIX
    more: tuple[str, ...] = ()
    loras: str = ""
    finetune: str = ""
    use_gpu: bool = False
    dtypes: dict[str, str] = field(default_factory=dict[str, str])
    parameters: dict[str, float] = field(default_factory=dict[str, float])
    block_texts: dict[str, str] = field(default_factory=dict[str, str])
    rules: dict[str, str] = field(default_factory=dict[str, str])

    @staticmethod
    def from_values(values: Sequence[Any]) -> MergeForm:
        """Take the values in the order of :func:`field_names`."""
        found: dict[str, Any] = dict(zip(field_names(), values, strict=True))
        numbers = {name: found[f"parameter_{name}"] for name in all_parameters()}
        return MergeForm(
            models=(found["a"], found["b"], found["c"]),
            method=str(found["method"]),
            name=str(found["name"] or ""),
            precision=str(found["precision"]),
            overwrite=bool(found["overwrite"]),
            mix=str(found["mix"]),
            more=tuple(found["more"] or ()),
            loras=str(found["loras"] or ""),
            finetune=str(found["finetune"] or ""),
            use_gpu=bool(found["use_gpu"]),
            dtypes=_with_prefix(found, "dtype_"),
            parameters={name: float(value) for name, value in numbers.items() if value is not None},
            block_texts=_with_prefix(found, "blocks_"),
            rules=_with_prefix(found, "rules_"),
        )

    def values(self) -> list[Any]:
        """The way back: what each field shows, in the order of :func:`field_names`."""
        slots = [*self.models, None, None, None][: len(SLOTS)]
        fixed = [*slots, list(self.more), self.method, self.name, self.precision, self.overwrite, self.mix]
        own = {parameter.id: parameter.default for parameter in self.spec.parameters}
        sliders = [self.parameters.get(name, own.get(name, spec.default)) for name, spec in all_parameters().items()]
        blocks = block_parameters()
        return [
            *fixed,
            self.loras,
            self.finetune,
            self.use_gpu,
            *(self.dtypes.get(name) or AS_THE_REST for name in COMPONENTS),
            *sliders,
            *(self.block_texts.get(name, "") for name in blocks),
            *(self.rules.get(name, "") for name in blocks),
        ]

    @property
    def spec(self) -> MethodSpec:
        found = methods().get(self.method)
        return found if found is not None else get_method(self.method)

    def wanted(self) -> list[tuple[str, str | None]]:
        """The models that the method takes, as slot and name; those beyond its fewest may stay empty."""
        low, high = self.spec.models
        count = len(SLOTS) if high is None else min(len(SLOTS), high)
        found = [
            (slot, name)
            for index, (slot, name) in enumerate(zip(SLOTS[:count], self.models, strict=False))
            if index < low or name
        ]
        letters = "DEFGHIJKLMNOPQRSTUVWXYZ"
        return found + (list(zip(letters, self.more, strict=False)) if high is None else [])

    def missing(self) -> list[str]:
        """The letters of the models that the method needs and that are not chosen yet."""
        return [letter for letter, name in zip(SLOTS, self.models[: self.spec.models[0]], strict=False) if not name]

    def chosen(self, host: Host) -> list[ModelFile]:
        """The files in the slots. Raises UsageError and UnknownNameError."""
        return [find_checkpoint(host, name, slot) for slot, name in self.wanted()]

    def parameter_values(self) -> dict[str, float]:
        return {p.id: self.parameters[p.id] for p in self.spec.parameters if p.id in self.parameters}

    def of_blocks(self, texts: Mapping[str, str]) -> dict[str, str]:
        """Those of the texts that stand beside a parameter of the method which may differ between blocks."""
        own = [parameter.id for parameter in self.spec.parameters if parameter.per_block]
        return {name: text for name in own if (text := texts.get(name, "").strip())}

    def component_dtypes(self) -> dict[str, str]:
        """Precision by component, where one was chosen."""
        chosen = {name: PRECISIONS.get(text) for name, text in self.dtypes.items() if text and text != AS_THE_REST}
        return {name: dtype for name, dtype in chosen.items() if dtype}

    def suggested_name(self, files: Sequence[ModelFile]) -> str:
        """A name that says what was done: ``A_0.50_B``."""
        stems = [file.path.stem for file in files]
        values = self.parameter_values()
        amount = f"{next(iter(values.values())):.2f}" if values else self.spec.id
        if any(self.of_blocks(self.block_texts).values()):
            amount = "blocks"
        return made_name("_".join([stems[0], amount, *stems[1:]]))

    def output(self, host: Host, files: Sequence[ModelFile]) -> Path:
        """Where the result is written. Raises UsageError for a name that is no plain file name."""
        folder = host.checkpoint_folder()
        if self.name.strip():
            return output_path(folder, self.name.strip())
        suggested = self.suggested_name(files)
        taken = output_path(folder, suggested).exists() and not self.overwrite
        numbers = (f"{suggested}-{number}" for number in range(2, 1000))
        free = (name for name in numbers if not output_path(folder, name).exists())
        return output_path(folder, next(free, suggested) if taken else suggested)

    def request(self, host: Host) -> MergeRequest:
        """The request for the engine. Raises the library's errors where the form cannot be one."""
        from modelsmith.merge.request import MergeRequest

        files = self.chosen(host)
        return MergeRequest(
            models=tuple(file.path for file in files),
            method=self.spec.id,
            output=self.output(host, files),
            parameters=self.parameter_values(),
            block_weights=self.of_blocks(self.block_texts),
            known_hashes={file.path: known for file in files if (known := host.cached_sha256(file))},
            names={file.path: file.name for file in files},
            dtype=PRECISIONS.get(self.precision),
            overwrite=self.overwrite,
            allow_prediction_mix=next((key for key, text in CHOICES.items() if text == self.mix), None),
            rules=self.of_blocks(self.rules),
            finetune=self.finetune.strip(),
            loras=specs_of(host, self.loras),
            component_dtypes=self.component_dtypes(),
            device="auto" if self.use_gpu else "cpu",
        )

    @staticmethod
    def from_request(request: MergeRequest, host: Host) -> MergeForm:
        """The fields that amount to a request, as a recipe gives it; the name is left to choose anew.

        Raises BadFileError where model A cannot be read.
        """
        from modelsmith.files.header import read_header
        from modelsmith.identify import identify_header

        names = {file.path: file.name for file in host.model_files()}
        models = [names.get(path, path.name) for path in request.models]
        words = {dtype: word for word, dtype in PRECISIONS.items()}
        rows = [LoraRow(names.get(one.path, one.path.name), one.strength, one.blocks or "") for one in request.loras]
        label = get_method(request.method).label
        header = read_header(request.models[0])
        layout = layout_for(identify_header(header).architecture, header.tensors)
        return MergeForm(
            models=(*models[:3], *[None] * (3 - len(models))),
            method=label,
            precision=words.get(request.dtype, "as model A"),
            mix=CHOICES.get(request.allow_prediction_mix or "", STOP_AT_MIX),
            more=tuple(models[3:]),
            loras=rows_text(rows),
            finetune=request.finetune,
            use_gpu=request.device != "cpu",
            dtypes={part: words.get(dtype, dtype) for part, dtype in request.component_dtypes.items()},
            parameters={name: float(value) for name, value in request.parameters.items()},
            block_texts={
                name: _weights(given, layout, request.parameters.get(name, 0.0))
                for name, given in request.block_weights.items()
            },
            rules=dict(request.rules),
        )


def _weights(given: BlockWeights, layout: BlockLayout, default: float) -> str:
    """Block weights in any form as text; nothing where every block has the parameter's own value."""
    if isinstance(given, str):
        return given
    named = dict(given) if isinstance(given, Mapping) else weights_from_list(given, layout)
    if all(value == default for value in named.values()):
        return ""
    derived = layout.resolve({name: named[name] for name in layout.positional if name in named}, default)
    short = {name: value for name, value in named.items() if name in layout.positional or derived[name] != value}
    return weights_text(layout, short, default, 17)  # exact, so that a replay gives the same bytes
