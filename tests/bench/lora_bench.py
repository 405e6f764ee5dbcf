"""How fast LoRAs are baked in, extracted and merged, beside floors of the same work, and how much memory it takes.

    python tests/bench/lora_bench.py --dir DIR [--size full|half|mini] [--runs 3] [--rank 32] [--only NAME] [--cold]

Writes two SDXL models with true key names and random fp16 values into DIR, and a LoRA of every linear layer, measures
in interleaved runs, prints a table as Markdown, and removes the files. The floor of a bake reads the model and writes
as much; the one of an extraction reads both models and multiplies each difference as often as the random search must.
*svd* is a full singular value decomposition of some of the differences, as trainers' own scripts do it, beside ours of
the same ones. Ratios within one run tell something; seconds tell about the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench_tools import (
    LIBRARY,
    SIZES,
    START,
    Row,
    names,
    prepare,
    read_all,
    run_worker,
    show,
    timed,
    write_all,
    write_model,
)

IMPORTS = """
from modelsmith.lora.bake import BakeRequest, bake
from modelsmith.lora.combine import CombineRequest, combine
from modelsmith.lora.extract import ExtractRequest, extract
from modelsmith.lora.factorise import RankChoice, factorise
from modelsmith.lora.stack import LoraSpec
from modelsmith.files.header import read_header
from modelsmith.files.tensors import open_tensors
import modelsmith.convert.write, modelsmith.identify.identifier  # what a bake imports when it first needs it
wall, before = time.monotonic(), cpu()
"""
END = """
print(json.dumps({"wall": time.monotonic() - wall, "cpu": cpu() - before}))
"""
WORKERS = {
    "bake": """
bake(BakeRequest(Path(task["a"]), (LoraSpec(Path(task["lora"]), 0.7),), Path(task["output"]), overwrite=True))
""",
    "extract": """
choice = RankChoice(task["rank"])
extract(ExtractRequest(Path(task["a"]), Path(task["b"]), Path(task["output"]), choice, choice, overwrite=True))
""",
    "merge": """
specs = (LoraSpec(Path(task["lora"]), 0.7), LoraSpec(Path(task["lora"]), -0.2))
combine(CombineRequest(specs, Path(task["output"]), RankChoice(task["rank"]), overwrite=True))
""",
    "ours": """
with open_tensors(read_header(Path(task["a"]))) as a, open_tensors(read_header(Path(task["b"]))) as b:
    for name in task["sample"]:
        factorise(b.load(name).float() - a.load(name).float(), RankChoice(task["rank"]), 0)
""",
    "svd": """
with open_tensors(read_header(Path(task["a"]))) as a, open_tensors(read_header(Path(task["b"]))) as b:
    for name in task["sample"]:
        u, s, v = torch.linalg.svd(b.load(name).float() - a.load(name).float())
        u[:, :task["rank"]] @ torch.diag(s[:task["rank"]]), v[:task["rank"]]
""",
    "products": """
with open_tensors(read_header(Path(task["a"]))) as a, open_tensors(read_header(Path(task["b"]))) as b:
    for name in task["all"]:
        difference = (b.load(name).float() - a.load(name).float()).flatten(1)
        width = min(task["rank"] + 10, *difference.shape)
        left, right = torch.randn(difference.shape[0], width), torch.randn(difference.shape[1], width)
        for _ in range(4):
            difference @ right
            difference.T @ left
""",
}


def write_lora(path: Path, shapes: dict[str, tuple[int, ...]], rank: int) -> None:
    """A LoRA of every linear layer and 1 × 1 convolution of the UNet, in fp16."""
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for name, shape in shapes.items():
        if name.startswith("model.diffusion_model.") and name.endswith(".weight") and len(shape) == 2:
            base = "lora_unet_" + name[len("model.diffusion_model.") : -len(".weight")].replace(".", "_")
            tensors[f"{base}.lora_up.weight"] = (torch.randn(shape[0], rank) * 0.01).half()
            tensors[f"{base}.lora_down.weight"] = (torch.randn(rank, shape[1]) * 0.01).half()
            tensors[f"{base}.alpha"] = torch.tensor(float(rank))
    save_file(tensors, path)


def sample(shapes: dict[str, tuple[int, ...]], number: int) -> list[str]:
    """Square attention weights of the middle block: the size of which a model has most."""
    found = [name for name, shape in shapes.items() if "middle_block" in name and "to_q" in name and len(shape) == 2]
    return found[:number]


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--size", choices=SIZES, default="half")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--only", default="")
    parser.add_argument("--cold", action="store_true")
    given = parser.parse_args()
    given.dir.mkdir(parents=True, exist_ok=True)
    a, b, lora, output, copy = (given.dir / f"lora-bench-{name}.safetensors" for name in ("a", "b", "l", "out", "copy"))
    shapes = names(given.size)
    wanted = [name for name in WORKERS if given.only in name]
    try:
        size = write_model(a, given.size, 1)
        write_model(b, given.size, 2)
        write_lora(lora, shapes, given.rank)
        every = [name for name, shape in shapes.items() if len(shape) > 1 and "embedding" not in name]
        every = [name for name in every if not name.startswith("first_stage_model.")]
        task = {"a": str(a), "b": str(b), "lora": str(lora), "output": str(output), "rank": given.rank}
        task |= {"sample": sample(shapes, 8), "all": every}
        rows = {name: Row(name) for name in wanted}
        floors = {"bake": Row("floor of a bake: read and write")}

        def floor() -> None:
            read_all([a])
            write_all(copy, size)

        for _ in range(given.runs):
            if "bake" in rows:
                prepare([a, b], [output, copy], given.cold)
                timed(floors["bake"], floor)
            for name, row in rows.items():
                prepare([a, b], [output, copy], given.cold)
                code = START + IMPORTS + WORKERS[name] + END
                run_worker(row, [sys.executable, "-c", code, str(LIBRARY), json.dumps(task)])
    finally:
        for path in (a, b, lora, output, copy):
            path.unlink(missing_ok=True)
    pairs = {"bake": floors["bake"], "extract": rows.get("products"), "svd": rows.get("ours")}
    beside = {name: statistics.median(row.wall) for name, row in pairs.items() if row is not None and row.wall}
    show([*(row for row in floors.values() if row.wall), *rows.values()], beside)


if __name__ == "__main__":
    main()
