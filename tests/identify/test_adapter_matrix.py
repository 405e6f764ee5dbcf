"""LoRAs made from every sample model: naming x layers x width; the true base is always among the candidates."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from headers import DATA, Entries, load, part
from test_samples import DIFFUSERS

from modelsmith.files.header import FileHeader, TensorInfo
from modelsmith.identify.identifier import identify_header

TRUTH = json.loads((DATA / "truth.json").read_text())["cases"]
MODELS = {
    **{n[:-8]: c["architecture"] for n, c in TRUTH.items() if c["kind"] in ("checkpoint", "diffusion_model")},
    **{f"diffusers/{name}": bases[0] for name, (kind, bases, _) in DIFFUSERS.items() if kind == "diffusion_model"},
}
# LoRAs of Kolors and of a distilled SDXL have SDXL's names and widths.
TWINS = {"kolors": "sdxl"}
LAYERS = {
    "all": lambda name: True,
    "attention": lambda name: re.search(r"attn|attention", name),
    "queries": lambda name: re.search(r"(attn|attention).*(q|qkv)$", name),
}
UNETS = ("sd1", "sd2", "sdxl", "sdxl-refiner", "kolors")


def layers(sample: str, wanted: str) -> dict[str, list[int]]:
    """Every matrix and 1x1 convolution of the sample's diffusion model, without its prefix."""
    entries = load(sample)
    model = part(entries, "model.diffusion_model.") or entries
    return {
        name[:-7]: shape
        for name, (_, shape) in model.items()
        if name.endswith(".weight") and len(shape) in (2, 4) and "norm" not in name and LAYERS[wanted](name[:-7])
    }


def adapted(name: str, shape: list[int], naming: str, prefix: str) -> Entries:
    rows, columns = shape[:2]
    kernel = [1, 1] if len(shape) == 4 else []
    flat = "lora_unet_" + name.replace(".", "_")
    if naming == "lokr":
        left, right = (next(side for side in (8, 4, 2, 1) if length % side == 0) for length in (rows, columns))
        return {
            f"{flat}.lokr_w1": ("F16", [left, right]),
            f"{flat}.lokr_w2_a": ("F16", [rows // left, 4]),
            f"{flat}.lokr_w2_b": ("F16", [4, columns // right]),
        }
    base, down, up = {
        "kohya": (flat, "lora_down.weight", "lora_up.weight"),
        "peft": (prefix + name, "lora_A.weight", "lora_B.weight"),
        "comfy": ("diffusion_model." + name, "lora_A.weight", "lora_B.weight"),
        "loha": (flat, "hada_w1_b", "hada_w1_a"),
    }[naming]
    return {f"{base}.{down}": ("F16", [4, columns, *kernel]), f"{base}.{up}": ("F16", [rows, 4, *kernel])}


@pytest.mark.parametrize("sample", sorted(MODELS))
@pytest.mark.parametrize("wanted", sorted(LAYERS))
def test_the_true_base_is_a_candidate(sample: str, wanted: str) -> None:
    base = TWINS.get(MODELS[sample], MODELS[sample])
    prefix = "unet." if MODELS[sample] in UNETS else "transformer."
    found = layers(sample, wanted)
    if not found:
        assert wanted != "all"
        return
    for naming in ("kohya", "peft", "comfy", "loha", "lokr"):
        for narrow in (1, 8):
            entries: Entries = {}
            for name, shape in found.items():
                sides = [max(1, side // narrow) for side in shape]
                entries.update(adapted(name, sides, naming, prefix))
            tensors = {name: TensorInfo(dtype, tuple(shape), 0, 0) for name, (dtype, shape) in entries.items()}
            report = identify_header(FileHeader(Path("x.safetensors"), "safetensors", 1, tensors))
            assert report.kind == "lora"
            assert base in report.candidates, (naming, narrow)
            if wanted == "all" and narrow == 1:
                assert report.candidates in ((base,), ("flux1", "chroma")), naming
