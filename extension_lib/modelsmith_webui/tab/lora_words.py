"""The closed sets of the LoRA view in words for a person. Keys are the library's ids or the view's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

LORA_ACTIONS: Mapping[str, str] = {
    "bake": "Bake in",
    "extract": "Extract",
    "merge": "Merge LoRAs",
    "resize": "Resize",
    "check": "Check",
}

LORA_ABOUT: Mapping[str, str] = {
    "bake": "Writes a checkpoint with the LoRAs in it, each with a strength and, where you like, weights by block.",
    "extract": "Makes a LoRA of what a tuned model has beyond the model that it came from.",
    "merge": "Makes one LoRA that does what several do together at their strengths.",
    "resize": "Brings a LoRA to another rank by its singular values.",
    "check": "Shows what a LoRA holds, and which of its modules find their place in a checkpoint. Nothing is written.",
}

LORA_START: Mapping[str, str] = {
    "bake": "Bake the LoRAs in",
    "extract": "Extract the LoRA",
    "merge": "Merge the LoRAs",
    "resize": "Write the resized LoRA",
    "check": "Check the LoRA",
}

COMPONENTS: Mapping[str, str] = {"all": "all", "unet": "diffusion model", "text": "text encoders"}

CHECKPOINT_PRECISIONS: Mapping[str, str | None] = {"as it is": None, "fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}

LORA_PRECISIONS: Mapping[str, str] = {"fp16": "fp16", "bf16": "bf16", "fp32": "fp32"}

SHOWN: Mapping[str, tuple[str, ...]] = {
    "bake": ("checkpoint", "rows", "precision", "strict", "target"),
    "extract": ("tuned", "base", "parts", "rank", "energy", "half", "more", "gpu", "target"),
    "merge": ("rows", "exact", "rank", "energy", "half", "gpu", "target"),
    "resize": ("lora", "rank", "energy", "half", "gpu", "target"),
    "check": ("lora", "checkpoint"),
}
"""The controls of each action, by the form's field names and the view's groups."""

NEEDED: Mapping[str, str] = {
    "checkpoint": "Choose the checkpoint.",
    "tuned": "Choose the tuned model.",
    "base": "Choose the model that it came from.",
    "lora": "Choose the LoRA.",
    "rows": "Add the LoRAs.",
}
"""What is said where a control of the action is still empty."""


def every_word() -> Iterator[str]:
    """All of them, for the test that the translation is complete."""
    for table in (LORA_ACTIONS, LORA_ABOUT, LORA_START, COMPONENTS, LORA_PRECISIONS, NEEDED):
        yield from table.values()
    yield from CHECKPOINT_PRECISIONS
