"""What loading a recipe checkpoint costs: time, memory and the cache, at the true size of Stable Diffusion 1.5.

    python tests/bench/recipe_bench.py --dir DIR [--limits 0 1 4]

Writes two files of 2.1 GB (the true keys and shapes, random fp16 values) into DIR, then loads recipes in a process of
its own for each cache limit (in GB): the first load, the same again, and one after a block's weight has changed. Prints
a table as Markdown and removes the files. CPU seconds are of all threads; the memory is what the process holds beside
files that it maps, over what it held before the load, at its highest; the model itself is 2.1 GB of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench_tools import LIBRARY

GIB = 1 << 30
WORKER = """
import json, sys, threading, time
sys.path.insert(0, sys.argv[1])
from dataclasses import replace
from pathlib import Path
from modelsmith.merge.block_cache import BlockCache
from modelsmith.merge.in_memory import merge_to_tensors
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.recipe_checkpoint import Sources, plan_in_memory, read_recipe_checkpoint, write_recipe_checkpoint
from modelsmith.merge.request import MergeRequest

folder, limit = Path(sys.argv[2]), int(sys.argv[3])
models = (folder / "bench-a.safetensors", folder / "bench-b.safetensors")
cache = BlockCache(limit)

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "RssShmem")))

def load(name, weights):
    request = MergeRequest(models, "weighted_sum", folder / "bench.safetensors", {"alpha": 0.4}, weights)
    plan = plan_merge(request, writes=False)
    path = write_recipe_checkpoint(plan, folder / f"{name}.safetensors", overwrite=True).path
    before, highest, over = held(), [0], threading.Event()
    def watch():
        while not over.wait(0.01):
            highest[0] = max(highest[0], held())
    watcher = threading.Thread(target=watch)
    watcher.start()
    begun, cpu = time.perf_counter(), time.process_time()
    made = merge_to_tensors(plan_in_memory(read_recipe_checkpoint(path), Sources(models, {})), cache)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    over.set()
    watcher.join()
    path.unlink()
    return dict(seconds=seconds, cpu=cpu, memory=highest[0] - before, computed=made.computed, reused=made.reused,
                cached=cache.used_bytes)

same = {}
changed = {"alpha": "OUT03=1"}
print(json.dumps([(name, load("bench-recipe", weights)) for name, weights in (
    ("first load", same), ("the same again", same), ("OUT03 changed", changed), ("OUT03 back", same))]))
"""


def write_models(folder: Path) -> list[Path]:
    """The two models."""
    import numpy as np

    from modelsmith import demo

    random = np.random.default_rng(1)
    written: list[Path] = []
    full = {"UNET_WIDTH": 320, "CONTEXT_WIDTH": 768, "TEXT_WIDTH": 768, "VAE_WIDTH": 128}
    with mock.patch.multiple(demo, **full):
        shapes = dict(demo.demo_shapes())
    for name in ("bench-a", "bench-b"):
        stock = (random.standard_normal(1 << 24, np.float32) * 0.05).astype(np.float16)
        sizes = {key: int(np.prod(shape, dtype=np.int64)) for key, shape in shapes.items()}
        table: dict[str, object] = {}
        place = 0
        for key, shape in shapes.items():
            table[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [place, place + 2 * sizes[key]]}
            place += 2 * sizes[key]
        text = json.dumps(table).encode()
        path = folder / f"{name}.safetensors"
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for size in sizes.values():
                for begin in range(0, size, len(stock)):
                    file.write(stock[: min(len(stock), size - begin)].tobytes())
        written.append(path)
    return written


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--limits", type=float, nargs="+", default=[0.0, 1.0, 4.0], help="of the cache, in GB")
    given = parser.parse_args()
    files = write_models(given.dir)
    rows = [["cache limit", "load", "seconds", "CPU s", "memory", "tensors computed", "from the cache", "kept"]]
    try:
        for limit in given.limits:
            command = [sys.executable, "-c", WORKER, str(LIBRARY), str(given.dir), str(round(limit * GIB))]
            ran = subprocess.run(command, check=True, capture_output=True, text=True)
            for name, one in json.loads(ran.stdout):
                sizes = [f"{one[part] / GIB:.2f} GB" for part in ("memory", "cached")]
                counts = [str(one["computed"]), str(one["reused"])]
                rows.append(
                    [f"{limit:g} GB", name, f"{one['seconds']:.2f}", f"{one['cpu']:.2f}", sizes[0], *counts, sizes[1]]
                )
                assert one["cached"] <= limit * GIB, "the limit of the cache is not kept"
    finally:
        for file in files:
            file.unlink()
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
