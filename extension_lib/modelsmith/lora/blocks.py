"""Block weights of a LoRA, by the block of the checkpoint's tensor that each module changes."""

from __future__ import annotations

from dataclasses import dataclass

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


def block_weights(text: str | None, architecture: str | None, header: FileHeader) -> BlockWeights | None:
    """Read block weights in the layout of the checkpoint; blocks that are not named have 1. None where none are given.

    Raises UsageError or UnknownNameError as ``parse_weights`` does.
    """
    if not text:
        return None
    layout = layout_for(architecture, header.tensors)
    return BlockWeights(layout, layout.resolve(parse_weights(text, layout), 1.0))
