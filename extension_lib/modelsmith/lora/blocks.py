"""Block weights of a LoRA, by the block of the checkpoint's tensor that each module changes."""

from __future__ import annotations

from dataclasses import dataclass

from modelsmith.errors import ModelsmithError, UnknownNameError, UsageError
from modelsmith.files.header import FileHeader
from modelsmith.merge.blocks import BlockLayout, layout_for, parse_weights


@dataclass(frozen=True)
class BlockWeights:
    """A factor for every block of a layout."""

    layout: BlockLayout
    weights: dict[str, float]

    def of(self, key: str) -> float:
        """The factor for a tensor of the checkpoint."""
        return self.weights[self.layout.block_of(key)]


def block_weights(text: str | None, architecture: str | None, header: FileHeader, lora: str) -> BlockWeights | None:
    """Read block weights in the layout of the checkpoint; blocks that are not named have 1. None where none are given.

    Raises UsageError or UnknownNameError as ``parse_weights`` does, with the name of the LoRA: a merge has block
    weights of its own.
    """
    if not text:
        return None
    layout = layout_for(architecture, header.tensors)
    try:
        return BlockWeights(layout, layout.resolve(parse_weights(text, layout), 1.0))
    except (UsageError, UnknownNameError) as error:
        _name_lora(error, lora)
        raise


def _name_lora(error: ModelsmithError, lora: str) -> None:
    told = {"en": error.in_language("en"), "ja": error.in_language("ja")}
    said = {"en": f"block weights of {lora}: {told['en'][0]}", "ja": f"{lora} の層別の重み: {told['ja'][0]}"}
    error.message = said["en"]
    error.said = lambda language: (said[language], told[language][1])
