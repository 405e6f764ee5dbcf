"""Which tensor of a checkpoint, and which rows of it, a module of a LoRA is meant for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from modelsmith.files.header import FileHeader, TensorInfo
from modelsmith.lora.naming import (
    FAMILIES,
    WHOLE,
    Alias,
    Part,
    flat,
    openclip_aliases,
    rule_aliases,
    unet_aliases,
    unet_to_diffusers,
)

DIFFUSION = 0
"""Slot of the diffusion model; text encoders have the slots 1, 2 and 3."""

ANYWHERE = -1
"""Slot of names that are whole keys of the checkpoint."""

DIFFUSION_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.model.", "net.", "model.", "")

_DIFFUSION_STARTS = (
    "input_blocks.",
    "double_blocks.",
    "single_blocks.",
    "joint_blocks.",
    "layers.0.attention.",
    "transformer_blocks.",
    "down_blocks.",
)
_TEXT_ROOTS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("cond_stage_model.transformer.", (1,)),
    ("cond_stage_model.model.", (1,)),
    ("conditioner.embedders.0.transformer.", (1,)),
    ("conditioner.embedders.0.model.", (1, 2)),
    ("conditioner.embedders.1.model.", (2,)),
    ("text_encoders.clip_l.transformer.", (1,)),
    ("text_encoders.clip_g.transformer.", (2,)),
)
_ENDINGS = (".weight", ".scale", ".bias", "_weight", "_bias")


@dataclass(frozen=True, slots=True)
class Target:
    """A module of the checkpoint.

    weight, bias: keys; either may be None. part: the rows that are meant. kohya: the name that sd-scripts gives it.
    """

    weight: str | None
    bias: str | None
    part: Part
    kohya: str


@dataclass(frozen=True, slots=True)
class _Module:
    name: str
    weight: str | None
    bias: str | None


def rows_of(part: Part, rows: int, columns: int) -> tuple[int, int]:
    """First row and number of rows of a part of a tensor with this many rows and columns.

    Fused projections hold the query first, with as many rows as columns (the model's width); key and value share
    the rest evenly (with grouped queries, as in Lumina 2, they are narrower) or are followed by the MLP.
    """
    if part.kind == "qkv":
        narrow = (rows - columns) // 2
        return ((0, columns), (columns, narrow), (columns + narrow, narrow))[part.index]
    if part.kind == "qkvm":
        return (part.index * columns, columns if part.index < 3 else rows - 3 * columns)
    return (0, rows)


def diffusion_prefix(keys: Mapping[str, TensorInfo]) -> str | None:
    """What stands before the diffusion model's own names; None where the file holds none."""
    for prefix in DIFFUSION_PREFIXES:
        starts = tuple(prefix + start for start in _DIFFUSION_STARTS)
        if any(key.startswith(starts) for key in keys):
            return prefix
    return None


def text_encoder_roots(keys: Mapping[str, TensorInfo]) -> list[tuple[str, tuple[int, ...]]]:
    """Prefixes of the text encoders in a checkpoint, each with the slots that LoRA files know it by.

    kohya numbers them te1, te2, te3 (CLIP-L, CLIP-G, T5; FLUX's T5 is te3 there and te2 in OneTrainer and diffusers).
    """
    heads = {key[: key.index(".", 14)] for key in keys if key.startswith("text_encoders.") and "." in key[14:]}
    names = {head[len("text_encoders.") :] for head in heads}
    roots = [(root, slots) for root, slots in _TEXT_ROOTS if any(key.startswith(root) for key in keys)]
    for name in sorted(names - {"clip_l", "clip_g"}):
        inner = f"text_encoders.{name}.transformer."
        root = inner if any(key.startswith(inner) for key in keys) else f"text_encoders.{name}."
        if "t5" in name:
            roots.append((root, (3,) if "clip_g" in names else (2, 3)))
        else:
            roots.append((root, (1,)))
    if not roots and any(key.startswith("text_model.encoder.layers.0.") for key in keys):
        roots.append(("", (1, 2)))
    return roots


def _modules(keys: Mapping[str, TensorInfo], prefix: str) -> Iterator[_Module]:
    """Group the keys under a prefix into modules with a weight and a bias."""
    found: dict[str, dict[str, str]] = {}
    for key in keys:
        if not key.startswith(prefix):
            continue
        name, role = key[len(prefix) :], "weight"
        for ending in _ENDINGS:
            if name.endswith(ending) and not (ending[0] == "_" and "in_proj" not in name):
                name, role = name[: -len(ending)], "bias" if ending.endswith("bias") else "weight"
                break
        found.setdefault(name, {})[role] = key
    for name, roles in found.items():
        yield _Module(name, roles.get("weight"), roles.get("bias"))


class TargetIndex:
    """Every name that a LoRA may use for a module of one checkpoint."""

    def __init__(self, header: FileHeader) -> None:
        self.header = header
        self._table: dict[tuple[int, str], Target] = {}
        self._canonical: list[tuple[int, Target]] = []
        keys = header.tensors
        self.prefix = diffusion_prefix(keys)
        roots = text_encoder_roots(keys)
        self.text_slots = frozenset(slot for _, slots in roots for slot in slots)
        if self.prefix is not None:
            self._add_diffusion(self.prefix)
        for root, slots in roots:
            self._add_text_encoder(root, slots, alone=len(roots) == 1 and slots == (1,))
        for module in _modules(keys, ""):
            self._put(ANYWHERE, module, (flat(module.name), WHOLE), "")

    @property
    def canonical(self) -> list[tuple[int, Target]]:
        """Slot and target of every module under the one name that sd-scripts gives it; fused ones part by part."""
        return self._canonical

    def find(self, slot: int, name: str) -> Target | None:
        """The target of a flat name in a slot."""
        found = self._table.get((slot, name))
        if found is None and slot == DIFFUSION:
            other = unet_to_diffusers(name)
            found = self._table.get((slot, other)) if other else None
        return found

    def _put(self, slot: int, module: _Module, alias: Alias, kohya: str) -> None:
        name, part = alias
        part = self._resolve(part, module)
        target = Target(module.weight, module.bias, part, kohya or name)
        for spelling in (name, name[:-2]) if name.endswith("to_out_0") else (name,):
            self._table.setdefault((slot, spelling), target)

    def _resolve(self, part: Part, module: _Module) -> Part:
        """SD3's last context block has a modulation of two halves, which diffusers keeps in the other order."""
        if part.kind != "swap_last" or module.weight is None:
            return part
        shape = self.header.tensors[module.weight].shape
        return Part("swap") if len(shape) == 2 and shape[0] == 2 * shape[1] else WHOLE

    def _add_diffusion(self, prefix: str) -> None:
        keys = self.header.tensors
        foreign = ("first_stage_model.", "cond_stage_model.", "conditioner.", "text_encoders.", "vae.", "model_ema.")
        own = keys if prefix else {key: info for key, info in keys.items() if not key.startswith(foreign)}
        modules = list(_modules(own, prefix))
        names = {module.name for module in modules}
        family = next((family for family in FAMILIES if family.marker in names), None)
        unet = "input_blocks.0.0" in names
        # sd-scripts trains SD1 and SD2 on diffusers' UNet, but SDXL on its own one with the sgm names.
        diffusers_first = unet and not any(name.startswith("label_emb.0.0") for name in names)
        for module in modules:
            plain: Alias = (flat(module.name), WHOLE)
            others = list(unet_aliases(module.name)) if unet else []
            if family:
                others += rule_aliases(family.rules, module.name)
            if module.weight is not None and not module.weight.endswith(".weight"):
                # ComfyUI names such tensors whole: ``….key_norm.scale.diff``.
                others.append((flat(module.weight.removeprefix(prefix)), WHOLE))
            first = others[0] if others and diffusers_first else plain
            kohya = "lora_unet_" + first[0]
            for alias in (plain, *others):
                self._put(DIFFUSION, module, alias, kohya)
            self._canonical.append((DIFFUSION, Target(module.weight, module.bias, WHOLE, kohya)))

    def _add_text_encoder(self, root: str, slots: tuple[int, ...], *, alone: bool) -> None:
        openclip = any(key.startswith(root + "transformer.resblocks.") for key in self.header.tensors)
        # FLUX's T5 answers to te2 as well, but sd-scripts writes te3; the refiner's CLIP-G is te2 where a file has two.
        start = "lora_te_" if alone else f"lora_te{slots[-1]}_"
        for module in _modules(self.header.tensors, root):
            plain: Alias = (flat(module.name), WHOLE)
            others = list(openclip_aliases(module.name)) if openclip else []
            aliases = [*others, plain]
            for name, part in list(aliases):
                if name.startswith("text_model_"):
                    aliases.append((name.removeprefix("text_model_"), part))
                elif name.startswith("encoder_layers_"):
                    aliases.append(("text_model_" + name, part))
            for slot in slots:
                for alias in aliases:
                    self._put(slot, module, alias, start + alias[0])
            for name, part in others or [plain]:
                self._canonical.append((slots[-1], Target(module.weight, module.bias, part, start + name)))
