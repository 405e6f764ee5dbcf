"""The closed sets of the Convert and VAE views in words for a person. Keys are the library's ids or the views' own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

ACTIONS: Mapping[str, str] = {
    "convert": "Convert",
    "prune": "Prune",
    "repair": "Repair",
    "parts": "Parts",
    "share": "Share",
    "compare": "Compare",
    "verify": "Verify",
}

ABOUT: Mapping[str, str] = {
    "convert": "Writes the model as .safetensors, each part in the precision that you choose. .ckpt, GGUF and quantised"
    " models are read too; nothing in a .ckpt is executed.",
    "prune": "Leaves out what no picture needs: averages (EMA), schedule buffers, training leftovers."
    " Markers such as v_pred always stay.",
    "repair": "Finds what is wrong with a model, with the evidence, and writes a mended copy.",
    "parts": "Takes a part out, leaves one out, puts one in from another file, or changes the spelling of the names.",
    "share": "Makes a model ready for others: fp16, pruned, a plain file name, clean metadata, hashes and model cards.",
    "compare": "Compares two models tensor by tensor. Nothing is written.",
    "verify": "Checks header, sizes and values of models. Nothing is written.",
}

START: Mapping[str, str] = {
    "convert": "Convert",
    "prune": "Prune",
    "repair": "Write the mended copy",
    "parts": "Write the new file",
    "share": "Prepare for sharing",
    "compare": "Compare",
    "verify": "Verify",
}

PART_PRECISIONS: Mapping[str, str] = {
    "keep": "as it is",
    "fp32": "fp32",
    "fp16": "fp16",
    "bf16": "bf16",
    "fp8_e4m3": "fp8 e4m3",
    "fp8_e5m2": "fp8 e5m2",
    "fp8_scaled": "fp8 scaled",
}

EMA_CHOICES: Mapping[str, str] = {
    "drop": "leave them out",
    "use": "use them as the weights",
    "keep": "keep them",
}

TOLD: Mapping[str, str] = {
    "": "what the file says",
    "epsilon": "epsilon",
    "v": "v-prediction",
    "v+ztsnr": "v-prediction with ZTSNR",
}

PART_ACTIONS: Mapping[str, str] = {
    "only": "take one out",
    "drop": "leave one out",
    "put": "put one in",
    "names": "change the names",
}

PART_CHOICES: Mapping[str, str] = {
    "unet": "diffusion model",
    "te": "text encoders",
    "vae": "VAE",
    "clip_l": "CLIP-L",
    "clip_g": "CLIP-G",
    "clip_h": "CLIP-H",
}

LAYOUTS: Mapping[str, str] = {"": "as it is", "ldm": "original (ldm)", "diffusers": "diffusers"}

DROPPED: Mapping[str, str] = {"ema": "averages (EMA)", "schedule": "schedule buffers", "training": "training leftovers"}

VERDICTS: Mapping[str, str] = {
    "equal": "equal",
    "rounded": "equal after rounding",
    "different": "different",
    "shape": "of another shape",
    "only_a": "in the first only",
    "only_b": "in the second only",
}

FAULTS: Mapping[str, str] = {
    "text-model": "Names of an early kind",
    "position-ids": "Damaged position_ids",
    "prediction-conflict": "The prediction type contradicts itself",
    "marker-missing": "A marker is missing",
    "marker-stray": "A marker that does not fit",
    "marker-hidden": "A marker in the wrong place",
    "metadata-prediction": "Metadata with the wrong prediction type, or none",
    "prediction-unstated": "A prediction type that cannot be stated",
    "metadata-architecture": "Metadata with the wrong architecture",
    "twice": "A part is there twice",
    "missing": "A part is missing",
}

LEFT: Mapping[str, str] = {
    "": "left to you",
    "prediction-conflict": "left to you: say above what you know of its prediction type",
    "prediction-unstated": "nothing: what you said is not written",
    "missing": "left to you: choose above where to take it from",
}
"""What a person can do about a fault that is not mended by itself."""

VAE_ACTIONS: Mapping[str, str] = {
    "measure": "Measure",
    "fix": "Cure for fp16",
    "bake": "Put into a checkpoint",
    "extract": "Write as a file of its own",
}

VAE_ABOUT: Mapping[str, str] = {
    "measure": "Runs the VAE in fp32 and shows the largest value of every layer beside what fp16 can hold.",
    "fix": "Writes a copy that runs in fp16 with the same output: weights are scaled by powers of two, nothing is"
    " trained, and the new file is kept only when it is proved.",
    "bake": "Writes a checkpoint with this VAE in it; everything else is copied byte for byte.",
    "extract": "Takes the VAE out of a checkpoint, or writes a VAE anew in another spelling or precision.",
}

FAMILIES: Mapping[str, str] = {
    "": "what the file says",
    "sd": "SD1 / SD2",
    "sdxl": "SDXL",
    "sd3": "SD3",
    "flux1": "FLUX.1",
    "flux2": "FLUX.2",
    "x4-upscaler": "x4 upscaler",
}

HEALTH: Mapping[str, str] = {"safe": "runs in fp16", "at_risk": "at risk in fp16", "unknown": "fp16: not known"}

HEALTH_REASONS = (
    "the exact fp16 cure was applied to it",
    "SDXL's VAE leaves fp16's range",
    "SDXL's VAE leaves fp16's range if it is one of SDXL",
    "nothing in its header tells",
    "It may run in fp16.",
    "Measure it; run it in bf16 or fp32, or cure it.",
    "Measure it.",
)
"""What is said of a VAE's header (modelsmith.vae.health.check_header)."""

INPUT_WORDS = ("white noise", "smooth noise", "flat colour", "image of noise")
INPUT_FORMS = ("latent {number}, {kind}", "image of {what}", "latent of {what}")
"""What a VAE is tried on (modelsmith.vae.calibration)."""

VAE_PRECISIONS: Mapping[str, str | None] = {"as it is": None, "fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}

NAMINGS: Mapping[str, str] = {"ldm": "original (ldm)", "diffusers": "diffusers"}

FITS: Mapping[str, str] = {
    "fits": "It is known to fit this checkpoint.",
    "unsure": "Whether it fits cannot be told from the files.",
    "does_not_fit": "It belongs to another family and was put in all the same.",
}

STAGES: Mapping[str, str] = {
    "measuring": "Measuring",
    "writing": "Writing",
    "proving in fp32": "Proving in fp32",
    "proving in fp16": "Proving in fp16",
    "proving in fp16 itself": "Proving in fp16",
    "copying": "Copying",
    "baking": "Putting the VAE in",
    "extracting": "Taking the VAE out",
}

HEADERS = ("File", "Size now", "Size then", "State", "Fault", "Evidence", "What is done", "Tensor", "Layer", "Before",
           "After", "Verdict", "Largest difference", "Lost")  # fmt: skip


SAME = frozenset({*FAMILIES.values(), *PART_PRECISIONS.values(), "CLIP-L", "CLIP-G", "CLIP-H", "diffusers"}) - {
    "what the file says",
    "as it is",
    "x4 upscaler",
}
"""The same in every language."""


def every_word() -> Iterator[str]:
    """All of them, for the test that the translation is complete."""
    tables = (ACTIONS, ABOUT, START, PART_PRECISIONS, EMA_CHOICES, TOLD, PART_ACTIONS, PART_CHOICES, LAYOUTS, DROPPED,
              VERDICTS, FAULTS, LEFT, VAE_ACTIONS, VAE_ABOUT, FAMILIES, HEALTH, NAMINGS, FITS,
              STAGES)  # fmt: skip
    for table in tables:
        yield from table.values()
    yield from VAE_PRECISIONS
    yield from HEALTH_REASONS
    yield from INPUT_WORDS
    yield from INPUT_FORMS
    yield from HEADERS
