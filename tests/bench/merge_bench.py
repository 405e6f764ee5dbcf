"""How fast a merge is beside the floor of the same bytes and beside sd-mecha, and how much memory it takes.

    python tests/bench/merge_bench.py --dir DIR [--size full|half|mini] [--runs 3] [--cold] [--peer-python PYTHON]
    python tests/bench/merge_bench.py --dir DIR --huge
    python tests/bench/merge_bench.py --dir DIR --methods [--only NAME]

Writes SDXL files with true key names and random fp16 values into DIR (full: 6.9 GB each, three of them; half: half of
that; mini: the true keys at a narrow width), measures in interleaved runs, prints a table as Markdown, and removes the
files. Ratios within one run tell something; seconds tell about the machine. CPU seconds are of the job alone, without
the imports before it. PYTHON is an interpreter that has sd-mecha.

--huge merges two sparse files with FLUX.2's keys, of 21, 37 and 64 GB each, and drops the output.
--methods measures the memory of every method that works on whole tensors, on narrow models with SDXL's largest tensor.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench_tools import (
    LIBRARY,
    SIZES,
    START,
    TESTS,
    Row,
    anonymous,
    flux2_names,
    names,
    prepare,
    read_all,
    run_worker,
    show,
    timed,
    write_all,
    write_model,
    write_sparse,
)

__all__ = ["TESTS", "Row", "anonymous", "names", "read_all", "show", "timed", "write_all"]

WORKER = (
    START
    + """
from modelsmith.merge.engine import merge_into, run_merge
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.request import EngineOptions, MergeRequest
from modelsmith.merge.methods import get_method
from modelsmith.merge.sinks import NullSink
import modelsmith.identify.identifier, modelsmith.lora.stack  # what a merge imports when it first needs it
get_method(task["method"]).function()
wall, before = time.monotonic(), cpu()
models = tuple(Path(path) for path in task["models"])
known = {path: f"{number:064x}" for number, path in enumerate(models, 1)} if task["hashes_known"] else {}
plan = plan_merge(MergeRequest(models, task["method"], Path(task["output"]), parameters=task["parameters"],
                  block_weights=task["blocks"], overwrite=True, known_hashes=known), writes=not task["drop"])
if task["drop"]:
    merge_into(plan, NullSink(sum(job.entry.nbytes for job in plan.jobs)), threads=task["threads"])
else:
    run_merge(plan, options=EngineOptions(threads=task["threads"], hashing=task["hashing"]))
print(json.dumps({"wall": time.monotonic() - wall, "cpu": cpu() - before}))
"""
)
PEER = (
    START
    + """
import os
sys.stderr = open(os.devnull, "w")
import sd_mecha
wall, before = time.monotonic(), cpu()
a, *others = (sd_mecha.model(path) for path in task["models"])
alpha = task["parameters"]["alpha"]
if task["method"] == "weighted_sum":
    recipe = sd_mecha.weighted_sum(a, others[0], alpha=alpha)
else:
    recipe = sd_mecha.add_difference(a, *others, alpha=alpha)
sd_mecha.merge(recipe, output=task["output"], merge_device="cpu", merge_dtype=torch.float32,
               output_dtype=torch.float16)
print(json.dumps({"wall": time.monotonic() - wall, "cpu": cpu() - before}))
"""
)
Task = dict[str, object]


def tasks(models: list[Path], output: Path, threads: int) -> dict[str, Task]:
    """The merges that are measured."""
    two, three = [str(path) for path in models[:2]], [str(path) for path in models]
    common: Task = {
        "output": str(output),
        "blocks": {},
        "threads": threads,
        "hashes_known": True,
        "drop": False,
        "hashing": True,
    }
    weighted = {"models": two, "method": "weighted_sum"}
    plain: Task = {**common, "hashing": False}
    three_models: Task = {"models": three, "method": "add_difference", "parameters": {"alpha": 1.0}}
    return {
        "weighted sum 0.5, output hashed": {**common, **weighted, "parameters": {"alpha": 0.5}},
        "weighted sum 0.3, output hashed": {**common, **weighted, "parameters": {"alpha": 0.3}},
        "weighted sum 0.5, inputs hashed": {**common, **weighted, "parameters": {"alpha": 0.5}, "hashes_known": False},
        "block weights GRAD_V, output hashed": {**common, **weighted, "parameters": {}, "blocks": {"alpha": "GRAD_V"}},
        "add difference 1.0, output hashed": {**common, **three_models},
        "weighted sum 0.5, nothing hashed": {**plain, **weighted, "parameters": {"alpha": 0.5}},
        "weighted sum 0.3, nothing hashed": {**plain, **weighted, "parameters": {"alpha": 0.3}},
        "block weights GRAD_V, nothing hashed": {**plain, **weighted, "parameters": {}, "blocks": {"alpha": "GRAD_V"}},
        "add difference 1.0, nothing hashed": {**plain, **three_models},
    }  # fmt: skip


def worker(python: str, code: str, task: Task) -> list[str]:
    """The command that runs one task in a process of its own."""
    return [python, "-c", code, str(LIBRARY), json.dumps(task)]


def main() -> None:
    """Write the models, measure in interleaved runs, print, clean up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--size", choices=tuple(SIZES), default="mini")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--cold", action="store_true", help="drop the inputs from the page cache before every step")
    parser.add_argument("--only", default="", help="measure only merges with this in their name")
    parser.add_argument("--peer-python", metavar="PYTHON", help="also merge with sd-mecha, which this interpreter has")
    parser.add_argument("--huge", action="store_true", help="sparse inputs of up to 64 GB, output dropped, instead")
    parser.add_argument("--methods", action="store_true", help="the memory of methods on whole tensors, instead")
    arguments = parser.parse_args()
    arguments.dir.mkdir(parents=True, exist_ok=True)
    models = [arguments.dir / f"bench-{letter}.safetensors" for letter in "abc"]
    output = arguments.dir / "bench-out.safetensors"
    try:
        if arguments.huge:
            measure_huge(models, output, arguments)
            return
        sizes = [write_model(path, arguments.size, seed) for seed, path in enumerate(models)]
        print(f"{sizes[0]:,} bytes a model, {len(names(arguments.size))} tensors, {os.cpu_count()} cores")
        if arguments.methods:
            measure_methods(models, output, arguments)
            return
        measure(models, output, arguments)
    finally:
        for path in (*models, output):
            path.unlink(missing_ok=True)


def measure(models: list[Path], output: Path, arguments: argparse.Namespace) -> None:
    """The floors and the merges, ``runs`` times, one after the other."""
    size = models[0].stat().st_size
    work = {name: task for name, task in tasks(models, output, arguments.threads).items() if arguments.only in name}
    commands = {name: worker(sys.executable, WORKER, task) for name, task in work.items()}
    if arguments.peer_python:
        for name in ("weighted sum 0.5, output hashed", "add difference 1.0, output hashed"):
            if name in work:
                peer = f"sd-mecha: {name.partition(',')[0]}"
                work[peer] = work[name]
                commands[peer] = worker(arguments.peer_python, PEER, work[name])
    floors = {
        "floor: read 2": lambda: read_all(models[:2]),
        "floor: read 3": lambda: read_all(models),
        "floor: write + fsync 1": lambda: write_all(output, size),
    }
    rows = {name: Row(name) for name in (*floors, *work)}
    for _ in range(arguments.runs):
        for name, floor in floors.items():
            prepare(models, [output], arguments.cold)
            timed(rows[name], floor)
        for name, command in commands.items():
            prepare(models, [output], arguments.cold)
            run_worker(rows[name], command)
    middle = {name: statistics.median(row.wall) for name, row in rows.items()}
    write = middle["floor: write + fsync 1"]
    limits = {name: middle[f"floor: read {len(list(task['models']))}"] + write for name, task in work.items()}  # type: ignore[call-overload]
    print("page cache: " + ("cold" if arguments.cold else "as far as it fits, warm"))
    show(rows.values(), limits)


def measure_methods(models: list[Path], output: Path, arguments: argparse.Namespace) -> None:
    """One merge by every method that works on whole tensors; only its memory tells, for a merge takes its time."""
    from modelsmith.merge.methods import METHODS

    rows: list[Row] = []
    for method in METHODS.values():
        if method.scope != "tensor" or arguments.only not in method.id:
            continue
        row = Row(method.id)
        half = {parameter.id: 0.5 for parameter in method.parameters if parameter.id == "alpha"}
        task: Task = {"models": [str(path) for path in models[: method.models[0]]], "method": method.id,
                      "output": str(output), "parameters": half, "blocks": {}, "threads": arguments.threads,
                      "hashes_known": True, "hashing": True, "drop": False}  # fmt: skip
        run_worker(row, worker(sys.executable, WORKER, task))
        output.unlink(missing_ok=True)
        rows.append(row)
        print(f"{row.name}: {row.anonymous[0]:.2f} GB, {row.wall[0]:.0f} s", flush=True)
    show(rows, {})


def measure_huge(models: list[Path], output: Path, arguments: argparse.Namespace) -> None:
    """Merge sparse files of three sizes, the output dropped; time is to be linear in bytes, memory the same."""
    print(f"sparse inputs, output dropped, {os.cpu_count()} cores")
    rows: list[Row] = []
    seconds: list[str] = []
    for single in (4, 20, 48):
        sizes = [write_sparse(path, flux2_names(single)) for path in models[:2]]
        row = Row(f"weighted sum 0.5 of two files of {sizes[0] / 1e9:.1f} GB")
        task: Task = {"models": [str(path) for path in models[:2]], "method": "weighted_sum", "output": str(output),
                      "parameters": {"alpha": 0.5}, "blocks": {}, "threads": arguments.threads,
                      "hashes_known": True, "hashing": False, "drop": True}  # fmt: skip
        for _ in range(arguments.runs):
            run_worker(row, worker(sys.executable, WORKER, task))
        rows.append(row)
        seconds.append(f"{statistics.median(row.wall) / sizes[0] * 1e9:.2f}")
    show(rows, {})
    print(f"wall seconds per GB of output: {', '.join(seconds)}")


if __name__ == "__main__":
    main()
