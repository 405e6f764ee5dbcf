"""What a LoRA file holds, told from its header alone: modules, their algebra, and keys that belong to none.

Suffixes: kohya sd-scripts networks/lora.py and oft.py (48d368fa), LyCORIS lycoris/modules/*.py ``weight_list``
(f49d30d6), ComfyUI comfy/lora.py ``load_lora`` and comfy/weight_adapter/*.py (a125cd84), PEFT's ``lora_A``/``lora_B``
and ``lora_magnitude_vector``, and diffusers' attention-processor names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from modelsmith.errors import BadFileError
from modelsmith.files.header import FileHeader, TensorInfo, read_header
from modelsmith.lora.naming import flat
from modelsmith.lora.targets import ANYWHERE, DIFFUSION

Algebra = Literal["lora", "loha", "lokr", "oft", "boft", "full"]

LABELS: Mapping[str, str] = {
    "lora": "LoRA",
    "loha": "LoHa",
    "lokr": "LoKr",
    "oft": "OFT",
    "boft": "BOFT",
    "full": "full difference",
}


def _suffixes() -> tuple[tuple[re.Pattern[str], str], ...]:
    adapter = r"(?:\.(?!weight\Z|bias\Z)[^.]+)?"
    rows = (
        (r"\.lora_up\.weight", "up"),
        (r"\.lora_down\.weight", "down"),
        (r"\.lora_mid\.weight", "mid"),
        (rf"\.lora_B{adapter}(?:\.weight)?", "up"),
        (rf"\.lora_A{adapter}(?:\.weight)?", "down"),
        (r"\.lora_linear_layer\.up\.weight", "up"),
        (r"\.lora_linear_layer\.down\.weight", "down"),
        (r"\.lora\.up\.weight", "up"),
        (r"\.lora\.down\.weight", "down"),
        (r"_lora\.up\.weight", "up"),
        (r"_lora\.down\.weight", "down"),
        (r"\.alpha", "alpha"),
        (r"\.scalar", "scalar"),
        (r"\.dora_scale", "dora_scale"),
        (rf"\.lora_magnitude_vector{adapter}(?:\.weight)?", "dora_scale"),
        (r"\.(hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2)", ""),
        (r"\.(oft_blocks|rescale|diff|diff_b|set_weight|w_norm|b_norm)", ""),
        (r"\.oft_diag", "oft_blocks"),
    )
    return tuple((re.compile(pattern + r"\Z"), role) for pattern, role in rows)


_SUFFIXES = _suffixes()

# Longest first; all that a name may start with, and the slot that it says.
_PREFIXES: tuple[tuple[str, int], ...] = tuple(
    sorted(
        (
            ("lora_unet_", DIFFUSION),
            ("oft_unet_", DIFFUSION),
            ("lora_transformer_", DIFFUSION),
            ("lycoris_", DIFFUSION),
            ("model.diffusion_model.", DIFFUSION),
            ("diffusion_model.", DIFFUSION),
            ("unet.", DIFFUSION),
            ("transformer.", DIFFUSION),
            ("lora_te_", 1),
            ("lora_te1_", 1),
            ("lora_te2_", 2),
            ("lora_te3_", 3),
            ("text_encoder.", 1),
            ("text_encoder_2.", 2),
            ("text_encoder_3.", 3),
            ("text_encoders.", ANYWHERE),
            ("cond_stage_model.", ANYWHERE),
            ("conditioner.", ANYWHERE),
        ),
        key=lambda row: -len(row[0]),
    )
)
_WRAPPERS = ("base_model.model.", "module.")
_NEEDED: Mapping[str, tuple[frozenset[str], ...]] = {
    "lora": (frozenset({"up", "down"}),),
    "loha": (frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}),),
    "lokr": tuple(
        frozenset({*first, *second})
        for first in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
        for second in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))
    ),
    "oft": (frozenset({"oft_blocks"}),),
    "boft": (frozenset({"oft_blocks"}),),
    "full": tuple(frozenset({role}) for role in ("diff", "diff_b", "set_weight", "w_norm", "b_norm")),
}


@dataclass(frozen=True)
class LoraModule:
    """One adapted module.

    name: as the file spells it. slot, flat_name: what to look it up by. tensors: role to tensor name.
    """

    name: str
    slot: int
    flat_name: str
    algebra: Algebra
    tensors: Mapping[str, str]

    @property
    def decomposed(self) -> bool:
        """Whether a DoRA magnitude goes with it."""
        return "dora_scale" in self.tensors

    @property
    def label(self) -> str:
        """The kind in a person's words."""
        return "DoRA" if self.decomposed and self.algebra == "lora" else LABELS[self.algebra]


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file as its header describes it. leftover: tensors that belong to no module known here."""

    header: FileHeader
    modules: tuple[LoraModule, ...]
    leftover: tuple[str, ...]
    default_scale: Mapping[int, float] = field(default_factory=lambda: dict[int, float]())

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self.header.path

    def info(self, module: LoraModule, role: str) -> TensorInfo:
        """The header's entry for one tensor of a module."""
        return self.header.tensors[module.tensors[role]]

    def rank(self, module: LoraModule) -> int | None:
        """The rank of a module's factors; None where it has none (full differences, OFT)."""
        for role in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
            if role in module.tensors:
                return self.info(module, role).shape[0]
        return None


def split_name(name: str) -> tuple[int, str]:
    """Slot and flat module name of a module as a LoRA file spells it."""
    slot = DIFFUSION
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    for prefix, meant in _PREFIXES:
        if name.startswith(prefix):
            slot = meant
            if meant != ANYWHERE:
                name = name[len(prefix) :]
            break
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    return slot, flat(name.replace(".processor.", "."))


def split_key(key: str) -> tuple[str, str] | None:
    """Module and role of a tensor's name; None where the ending is not one of a LoRA's."""
    for pattern, role in _SUFFIXES:
        match = pattern.search(key)
        if match:
            return key[: match.start()], role or match[1]
    return None


def _algebra(tensors: Mapping[str, str], keys: Mapping[str, TensorInfo]) -> Algebra | None:
    if "up" in tensors or "down" in tensors:
        return "lora"
    if any(role.startswith("hada_") for role in tensors):
        return "loha"
    if any(role.startswith("lokr_") for role in tensors):
        return "lokr"
    if "oft_blocks" in tensors:
        return "boft" if len(keys[tensors["oft_blocks"]].shape) == 4 else "oft"
    if tensors.keys() & {"diff", "diff_b", "set_weight", "w_norm", "b_norm"}:
        return "full"
    return None


def _default_scales(header: FileHeader) -> dict[int, float]:
    """Scales that diffusers keeps in the metadata (``lora_adapter_metadata``) where the file has no alpha tensors."""
    text = header.metadata.get("lora_adapter_metadata")
    if not text:
        return {}
    try:
        found: object = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    table = cast("dict[str, object]", found)
    scales: dict[int, float] = {}
    for component, slot in (("unet", 0), ("transformer", 0), ("text_encoder", 1), ("text_encoder_2", 2)):
        alpha, rank = table.get(f"{component}.lora_alpha"), table.get(f"{component}.r")
        if isinstance(alpha, (int, float)) and isinstance(rank, int) and rank > 0:
            scales[slot] = alpha / (rank**0.5 if table.get(f"{component}.use_rslora") is True else rank)
    return scales


def parse_header(header: FileHeader) -> LoraFile:
    """Sort the tensors of a LoRA file into modules. Reads no values.

    Raises BadFileError where the file holds no LoRA at all, or a module lacks one of its factors.
    """
    groups: dict[str, dict[str, str]] = {}
    leftover: list[str] = []
    for key in header.tensors:
        found = split_key(key)
        if found is None:
            leftover.append(key)
            continue
        groups.setdefault(found[0], {})[found[1]] = key
    modules: list[LoraModule] = []
    for name, tensors in groups.items():
        algebra = _algebra(tensors, header.tensors)
        if algebra is None:
            leftover.extend(tensors.values())
            continue
        if not any(needed <= tensors.keys() for needed in _NEEDED[algebra]):
            missing = min((needed - tensors.keys() for needed in _NEEDED[algebra]), key=len)
            raise BadFileError(
                header.path,
                f"module {name!r} has {', '.join(sorted(tensors.values()))} but no {', '.join(sorted(missing))}",
                "The LoRA is damaged: download it again",
            )
        slot, flat_name = split_name(name)
        modules.append(LoraModule(name, slot, flat_name, algebra, tensors))
    if not modules:
        raise BadFileError(
            header.path,
            "it holds no LoRA, LoHa, LoKr, OFT or full-difference tensors",
            "Give a LoRA file here; a checkpoint goes where the model is asked for",
        )
    return LoraFile(header, tuple(modules), tuple(leftover), _default_scales(header))


def read_lora(path: str | Path) -> LoraFile:
    """Read the header of a LoRA file and sort its tensors. Raises BadFileError as ``parse_header`` does."""
    return parse_header(read_header(path))
