"""One table of blocks for every architecture: which tensors share a weight, and the order in which weights are given.

Every surface (tab, command line, recipe) takes names and order from here. A layout's ``positional`` blocks are what a
plain list of numbers fills; the others (text encoders, VAE, embeddings) may be set by name and follow another block
until then. ``time_embed`` and ``label_emb`` follow IN00, as in supermerger and the block mergers derived from it;
sd-mecha has them under BASE, which ``TIME=…`` expresses. ``out.*`` follows the last OUT block, as everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from modelsmith.errors import UnknownNameError, UsageError
from modelsmith.merge.presets import BY_GROUP, PRESETS, fold_to_sdxl, preset, spread

Group = Literal["base", "in", "middle", "out", "blocks", "text", "vae", "other"]
BASE = "BASE"
_ROOT = r"^(?:model\.diffusion_model\.|diffusion_model\.|model\.)?"


@dataclass(frozen=True, slots=True)
class Block:
    """One group of tensors with a weight of its own.

    holds: a regular expression on tensor names. follows: the block whose weight it takes when none is given for it.
    """

    id: str
    label: str
    group: Group
    holds: str
    follows: str | None = None


@dataclass(frozen=True)
class BlockLayout:
    """The blocks of one architecture. Tensors that no block holds belong to BASE."""

    id: str
    label: str
    blocks: tuple[Block, ...]
    positional: tuple[str, ...]

    def __hash__(self) -> int:
        """Of the name alone: it is asked for with every tensor, and a hash of all blocks took most of a plan's time."""
        return hash(self.id)

    @property
    def ids(self) -> tuple[str, ...]:
        """The names of all blocks, in the order of the table."""
        return tuple(block.id for block in self.blocks)

    def block(self, name: str) -> Block:
        """Look a block up by its name. Raises UnknownNameError with the nearest one."""
        for block in self.blocks:
            if block.id == name.upper():
                return block
        raise UnknownNameError(f"block of {self.label}", name, self.ids)

    def block_of(self, key: str) -> str:
        """The block that holds a tensor."""
        return _block_of(self, key)

    def resolve(self, given: Mapping[str, float], default: float) -> dict[str, float]:
        """The weight of every block: as given, else that of the block it follows, else ``default``."""
        wanted = {self.block(name).id: float(value) for name, value in given.items()}

        def weight(block: Block) -> float:
            if block.id in wanted:
                return wanted[block.id]
            return weight(self.block(block.follows)) if block.follows else default

        return {block.id: weight(block) for block in self.blocks}


@lru_cache(maxsize=64)
def _pattern(layout: BlockLayout) -> re.Pattern[str]:
    parts = [f"(?P<b{index}>{block.holds})" for index, block in enumerate(layout.blocks) if block.holds]
    return re.compile("|".join(parts)) if parts else re.compile(r"(?!)")


@lru_cache(maxsize=65536)
def _block_of(layout: BlockLayout, key: str) -> str:
    found = _pattern(layout).search(key)
    return layout.blocks[int(found.lastgroup[1:])].id if found and found.lastgroup else BASE


def _numbered(prefix: str, group: Group, path: str, count: int, label: str) -> list[Block]:
    return [
        Block(f"{prefix}{index:02d}", f"{label} {index}", group, rf"{_ROOT}{path}\.{index}\.") for index in range(count)
    ]


_VAE = r"^(?:first_stage_model\.|vae\.)"


def _unet(name: str, label: str, depth: int, texts: Sequence[Block], *, vae_last: bool) -> BlockLayout:
    base = Block(BASE, "Base (everything else)", "base", "")
    inner = [
        *_numbered("IN", "in", "input_blocks", depth, "Input"),
        Block("M00", "Middle", "middle", rf"{_ROOT}middle_block\."),
        *_numbered("OUT", "out", "output_blocks", depth, "Output"),
    ]
    vae = Block("VAE", "VAE", "vae", _VAE, None if vae_last else BASE)
    others = [
        *texts,
        Block("TIME", "Time and label embedding", "other", rf"{_ROOT}(?:time_embed|label_emb)\.", "IN00"),
        Block("FINAL", "Last layers (out.*)", "other", rf"{_ROOT}out\.\d", f"OUT{depth - 1:02d}"),
    ]
    positional = (BASE, *(block.id for block in inner), *(("VAE",) if vae_last else ()))
    blocks = (base, *inner, vae, *others)
    return BlockLayout(name, label, blocks, positional)


def _text(name: str, label: str, *paths: str) -> Block:
    return Block(name, label, "text", "^(?:" + "|".join(paths) + ")", BASE)


_CLIP_L = _text(
    "CLIP_L", "Text encoder CLIP-L", r"conditioner\.embedders\.0\.transformer\.", r"text_encoders\.clip_l\."
)
_CLIP_G = _text("CLIP_G", "Text encoder CLIP-G", r"conditioner\.embedders\.[01]\.model\.", r"text_encoders\.clip_g\.")
_T5 = _text("T5", "Text encoder T5-XXL", r"text_encoders\.t5xxl\.")


@dataclass(frozen=True, slots=True)
class _Stack:
    """A run of numbered blocks of a diffusion transformer."""

    prefix: str
    path: str
    count: int
    label: str


def _dit(name: str, label: str, stacks: Sequence[_Stack], final: str, texts: Sequence[Block]) -> BlockLayout:
    """A diffusion transformer: text encoders, IN (embedders: all that stands in no block), the stacks, OUT.

    The order of a plain list is the texts, IN, the stacks, OUT: for FLUX.1 supermerger's 61 (CLIP, T5, IN, D00-18,
    S00-37, OUT).
    """
    inner = [
        block for stack in stacks for block in _numbered(stack.prefix, "blocks", stack.path, stack.count, stack.label)
    ]
    vae = Block("VAE", "VAE", "vae", _VAE, BASE)
    base = Block(BASE, "Base (everything else)", "base", "")
    out = Block("OUT", "Output layers", "out", rf"{_ROOT}(?:{final})\.")
    # The last row of the table: whatever no other block holds, except parts beside the transformer.
    first = Block("IN", "Embedders", "in", r"^(?!text_encoders\.|cond_stage_model\.|conditioner\.|v_pred$|ztsnr$)")
    blocks = (base, *texts, *inner, out, vae, first)
    order = (*(text.id for text in texts), "IN", *(block.id for block in inner), "OUT")
    return BlockLayout(name, label, blocks, order)


def _layouts() -> dict[str, BlockLayout]:
    sd1_text = _text("CLIP", "Text encoder", r"cond_stage_model\.")
    sd2_text = _text("CLIP", "Text encoder", r"cond_stage_model\.", r"conditioner\.embedders\.0\.model\.")
    qwen_vl = _text("QWEN", "Text encoder Qwen2.5-VL", r"text_encoders\.qwen25_7b\.")
    qwen3 = _text("QWEN", "Text encoder Qwen3", r"text_encoders\.qwen3_\w+\.")
    gemma = _text("GEMMA", "Text encoder Gemma 2", r"text_encoders\.gemma2_2b\.")
    mistral = _text("MISTRAL", "Text encoder Mistral 3", r"text_encoders\.mistral3_24b\.")

    def flux2(name: str, label: str, double: int, single: int, text: Block) -> BlockLayout:
        stacks = (_Stack("D", "double_blocks", double, "Double"), _Stack("S", "single_blocks", single, "Single"))
        return _dit(name, label, stacks, "final_layer", (text,))

    def sd3(name: str, label: str, count: int) -> BlockLayout:
        return _dit(name, label, (_Stack("J", "joint_blocks", count, "Joint"),), "final_layer", (_CLIP_L, _CLIP_G, _T5))

    def lumina(name: str, label: str, count: int, text: Block) -> BlockLayout:
        stacks = (
            _Stack("NR", "noise_refiner", 2, "Noise refiner"),
            _Stack("CR", "context_refiner", 2, "Context refiner"),
            _Stack("L", "layers", count, "Layer"),
        )
        return _dit(name, label, stacks, "final_layer", (text,))

    flux = (_Stack("D", "double_blocks", 19, "Double"), _Stack("S", "single_blocks", 38, "Single"))
    chroma_base = _dit("chroma", "Chroma", flux, "final_layer", (_T5,))
    guide = Block("GUIDE", "Distilled guidance", "other", rf"{_ROOT}distilled_guidance_layer\.", "IN")
    chroma = BlockLayout(chroma_base.id, chroma_base.label, (guide, *chroma_base.blocks), chroma_base.positional)
    layouts = (
        _unet("sd1", "SD1", 12, (sd1_text,), vae_last=False),
        _unet("sd2", "SD2", 12, (sd2_text,), vae_last=False),
        _unet("sdxl", "SDXL", 9, (_CLIP_L, _CLIP_G), vae_last=True),
        _unet("sdxl-refiner", "SDXL refiner", 12, (_CLIP_G,), vae_last=False),
        sd3("sd3-24", "SD3 / SD3.5 medium", 24),
        sd3("sd3-38", "SD3.5 large", 38),
        _dit("flux1", "FLUX.1", flux, "final_layer", (_CLIP_L, _T5)),
        chroma,
        flux2("flux2-dev", "FLUX.2 dev", 8, 48, mistral),
        flux2("flux2-klein-4b", "FLUX.2 klein 4B", 5, 20, qwen3),
        flux2("flux2-klein-9b", "FLUX.2 klein 9B", 8, 24, qwen3),
        _dit(
            "qwen-image",
            "Qwen-Image",
            (_Stack("B", "transformer_blocks", 60, "Block"),),
            "norm_out|proj_out",
            (qwen_vl,),
        ),
        lumina("z-image", "Z-Image", 30, qwen3),
        lumina("lumina2", "Lumina-Image 2.0", 26, gemma),
    )
    return {layout.id: layout for layout in layouts}


LAYOUTS: Mapping[str, BlockLayout] = _layouts()
PLAIN = BlockLayout("plain", "Whole model", (Block(BASE, "Whole model", "base", ""),), (BASE,))
"""For models without blocks of their own."""

_TEXT_LAYER = re.compile(r"(?:^|\.)(?:layers|resblocks|block)\.(\d+)\.")
_TEXT_TABLE = r"(?:token_embedding|embed_tokens|shared)\.weight$"


def _vae_layout() -> BlockLayout:
    """A VAE on its own (the layout of AutoencoderKL in its original naming)."""
    base = Block(BASE, "Base (everything else)", "base", "")
    middle = [
        Block("EMID", "Encoder, middle", "middle", r"^encoder\.mid\."),
        Block("DMID", "Decoder, middle", "middle", r"^decoder\.mid\."),
    ]
    encoder = [Block(f"ENC{n}", f"Encoder {n}", "in", rf"^encoder\.down\.{n}\.") for n in range(4)]
    decoder = [Block(f"DEC{n}", f"Decoder {n}", "out", rf"^decoder\.up\.{n}\.") for n in (3, 2, 1, 0)]
    first = Block("ENC", "Encoder, rest", "in", r"^encoder\.(?!down\.|mid\.)", BASE)
    last = Block("DEC", "Decoder, rest", "out", r"^decoder\.(?!up\.|mid\.)", BASE)
    blocks = (base, first, *encoder, *middle, *decoder, last)
    return BlockLayout("vae", "VAE", blocks, tuple(block.id for block in blocks))


VAE_LAYOUT = _vae_layout()
"""For a VAE in a file of its own."""


@lru_cache(maxsize=16)
def _text_layout(count: int) -> BlockLayout:
    """A text encoder on its own: its embeddings, its layers, the rest."""
    base = Block(BASE, "Base (everything else)", "base", "")
    table = Block(
        "EMB", "Embedders", "in", r"(?:^|\.)(?:embeddings\.|token_embedding|positional_embedding|embed_tokens|shared\.)"
    )
    path = r"(?:^|\.)(?:layers|resblocks|block)"
    layers = [Block(f"L{n:02d}", f"Layer {n}", "blocks", rf"{path}\.{n}\.") for n in range(count)]
    blocks = (base, table, *layers)
    return BlockLayout(f"text-{count}", "Text encoder", blocks, tuple(block.id for block in blocks))


def _part_layout(keys: Sequence[str] | Mapping[str, object]) -> BlockLayout:
    """The layout of a VAE or a text encoder in a file of its own, told by its tensors; else the plain one."""
    if "decoder.conv_in.weight" in keys and "encoder.conv_in.weight" in keys:
        return VAE_LAYOUT
    if any(re.search(_TEXT_TABLE, key) for key in keys):
        layers = [int(found[1]) for key in keys if (found := _TEXT_LAYER.search(key))]
        if layers:
            return _text_layout(max(layers) + 1)
    return PLAIN


def layout_for(architecture: str | None, keys: Sequence[str] | Mapping[str, object] = ()) -> BlockLayout:
    """The layout of an architecture id; where one id has several depths (SD3, FLUX.2), ``keys`` decide."""
    if architecture is not None and architecture in LAYOUTS:
        return LAYOUTS[architecture]
    if architecture in ("sd3", "flux2"):

        def holds(path: str) -> bool:
            return any(path in key for key in keys)

        if architecture == "sd3":
            return LAYOUTS["sd3-38" if holds("joint_blocks.37.") else "sd3-24"]
        if holds("single_blocks.47."):
            return LAYOUTS["flux2-dev"]
        return LAYOUTS["flux2-klein-9b" if holds("single_blocks.23.") else "flux2-klein-4b"]
    return PLAIN if architecture is not None else _part_layout(keys)


def parse_weights(text: str, layout: BlockLayout) -> dict[str, float]:
    """Read block weights: a preset's name, or numbers in the layout's order, or ``NAME=value`` pairs, or both kinds.

    26 values (or 25 without BASE) are folded for SDXL. Raises UsageError that tells how many values the layout has.
    """
    items = [item.strip() for item in re.split(r"[,\n]", text) if item.strip()]
    named = [item for item in items if "=" in item]
    plain = [item for item in items if "=" not in item]
    if len(plain) == 1 and not _is_number(plain[0]):
        weights = preset_weights(plain[0], layout)
    else:
        weights = weights_from_list([_number(item) for item in plain], layout) if plain else {}
    for item in named:
        name, _, value = item.partition("=")
        weights[layout.block(name.strip()).id] = _number(value.strip())
    return weights


def weights_from_list(values: Sequence[float], layout: BlockLayout) -> dict[str, float]:
    """Name the values of a plain list; see ``parse_weights``."""
    row = tuple(values)
    size = len(layout.positional)
    if layout.id == "sdxl" and len(row) in (25, 26):
        row = fold_to_sdxl(row if len(row) == 26 else (0.0, *row))
        if len(values) == 25:
            return dict(zip(layout.positional[1:], row[1:], strict=True))
    if len(row) == size:
        return dict(zip(layout.positional, row, strict=True))
    if len(row) == size - 1 and layout.positional[0] == BASE:
        return dict(zip(layout.positional[1:] if layout.id != "sdxl" else layout.positional[:-1], row, strict=True))
    raise UsageError(
        f"{len(row)} block weights were given, {layout.label} has {size}",
        f"Give them for {layout.positional[0]} … {layout.positional[-1]}, or as NAME=value",
    )


def preset_weights(name: str, layout: BlockLayout) -> dict[str, float]:
    """The weights of a preset in a layout: as they are (26), folded (SDXL), or its curve over a transformer.

    Raises UnknownNameError, and UsageError for a preset of groups that the layout lacks.
    """
    if name.upper() in BY_GROUP:
        found = _group_weights(name.upper(), layout)
        if not found:
            raise UsageError(
                f"the preset {name} fits no block of {layout.label}", f"It is for {BY_GROUP[name.upper()]}"
            )
        return found
    values = preset(name)
    if layout.id == "sdxl":
        return dict(zip(layout.positional, fold_to_sdxl(values), strict=True))
    if len(layout.positional) == len(values):
        return dict(zip(layout.positional, values, strict=True))
    run = _run(layout)
    return {BASE: values[0], **dict(zip(run, spread(values[1:], len(run)), strict=True))}


def presets_for(layout: BlockLayout) -> dict[str, dict[str, float]]:
    """Every preset that a layout can take, as weights by block; blocks not named take the parameter's value."""
    found = {name: preset_weights(name, layout) for name in PRESETS}
    return found | {name: weights for name in BY_GROUP if (weights := _group_weights(name, layout))}


def _run(layout: BlockLayout) -> list[str]:
    """The blocks of the network in the order in which a sample passes through them."""
    groups = ("in", "blocks", "middle", "out") if len(layout.blocks) > 1 else ("base",)
    names = [block.id for block in layout.blocks if block.group in groups and block.id not in ("IN", "OUT")]
    ends = {block.id for block in layout.blocks}
    return [*(["IN"] if "IN" in ends else []), *names, *(["OUT"] if "OUT" in ends else [])]


def _group_weights(name: str, layout: BlockLayout) -> dict[str, float]:
    """The blocks that a preset of ``BY_GROUP`` sets; none where the layout lacks its groups."""
    groups = {block.id: block.group for block in layout.blocks}
    if len(groups) == 1:
        return {}
    if name in ("OUT_FROM_A", "OUT_FROM_B"):
        value = float(name == "OUT_FROM_B")
        return {key: value for key, group in groups.items() if group == "out" or key in ("TIME", "FINAL")}
    if name in ("PARTS_ONLY", "NETWORK_ONLY"):
        parts = ("text", "vae", "base")
        return {key: 0.0 for key, group in groups.items() if (group in parts) == (name == "NETWORK_ONLY")}
    run = _run(layout)
    stacks = {"DOUBLE_B": r"D\d", "SINGLE_B": r"S\d", "REFINERS_B": r"[NC]R\d"}
    if name in stacks:
        chosen = {key for key in run if re.match(stacks[name], key)}
        return {key: float(key in chosen) for key in run} if chosen else {}
    last = max(1, len(run) - 1)
    curves: Mapping[str, Callable[[float], float]] = {
        "EARLY_B": lambda t: float(t < 0.5),
        "LATE_B": lambda t: float(t >= 0.5),
        "MIDDLE_B": lambda t: float(0.25 <= t <= 0.75),
        "ENDS_B": lambda t: float(t < 0.25 or t > 0.75),
        "DEPTH_UP": lambda t: t,
        "DEPTH_DOWN": lambda t: 1.0 - t,
    }
    return {key: curves[name](place / last) for place, key in enumerate(run)}


PLACEMENTS: Mapping[str, Mapping[str, str]] = {
    "supermerger": {},
    "bbc-mc MBW, sd-meh": {},
    "sd-mecha": {"TIME": "BASE"},
    "Chattiori (SD1, SD2)": {"TIME": "OUT11"},
    "Chattiori (SDXL)": {"TIME": "A"},
}
"""Where other programs put ``time_embed`` and ``label_emb``: the block that TIME follows in place of IN00 (what they
do here without being told), or ``A`` where they leave them as A has them."""


def place_like(weights: Mapping[str, float], layout: BlockLayout, program: str, default: float) -> dict[str, float]:
    """Block weights with the embeddings where another program has them. Raises UnknownNameError."""
    if program not in PLACEMENTS:
        raise UnknownNameError("program", program, PLACEMENTS)
    whole = layout.resolve(weights, default)
    moved = {
        name: 0.0 if other == "A" else whole[layout.block(other).id]
        for name, other in PLACEMENTS[program].items()
        if name in layout.ids
    }
    return {**weights, **moved}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"{text!r} is no number", "Separate block weights with commas") from None
    if value != value or value in (float("inf"), float("-inf")):
        raise UsageError(f"the weight {text!r} is not finite", "Give a number, usually between 0 and 1")
    return value
