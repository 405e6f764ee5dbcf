"""How fast a merge is beside the floor of the same bytes, and how much memory it takes, all in one run.

    python tests/bench/merge_bench.py --dir DIR [--size full|mini] [--runs 3] [--cold]

Writes SDXL files with true key names and random fp16 values into DIR (full: 6.9 GB each, three of them; mini: the
true keys at a narrow width), measures, prints a table as Markdown, and removes the files. Ratios within one run tell
something; seconds tell about the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "extension_lib")]

from host.checkpoints import SDXL, clip_text, open_clip_text, unet, vae  # noqa: E402
from modelsmith.files.output import OutputFile, aligned_buffer  # noqa: E402

CHUNK = 8 << 20

WORKER = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
from modelsmith.merge.engine import run_merge
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.request import EngineOptions, MergeRequest
task = json.loads(sys.argv[2])
started = time.monotonic()
models = tuple(Path(path) for path in task["models"])
known = {path: f"{number:064x}" for number, path in enumerate(models, 1)} if task["hashes_known"] else {}
plan = plan_merge(MergeRequest(models, task["method"], Path(task["output"]), parameters=task["parameters"],
                  block_weights=task["blocks"], overwrite=True, known_hashes=known))
result = run_merge(plan, options=EngineOptions(threads=task["threads"]))
usage = __import__("resource").getrusage(0)
print(json.dumps({"wall": time.monotonic() - started, "cpu": usage.ru_utime + usage.ru_stime}))
"""


@dataclass
class Row:
    """One line of the table: what was done, and every run of it."""

    name: str
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    anonymous: list[float] = field(default_factory=list)


def names(size: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an SDXL checkpoint, whole or narrow."""
    full = size == "full"
    entries: list[Iterator[tuple[str, tuple[int, ...]]]] = [
        unet(SDXL, 320 if full else 64),
        vae(128 if full else 32),
        clip_text("conditioner.embedders.0.transformer.text_model", 768, 12 if full else 2),
        open_clip_text("conditioner.embedders.1.model", 1280, 32 if full else 2),
    ]
    return {name: shape for part in entries for name, shape in part}


def write_model(path: Path, size: str, seed: int) -> int:
    """Write one fp16 model without holes; returns its bytes."""
    import numpy as np

    shapes = names(size)
    header: dict[str, object] = {}
    offset = 0
    for name, shape in sorted(shapes.items()):
        end = offset + 2 * prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(seed)
    block = (random.standard_normal(16 << 20, np.float32) * 0.03).astype(np.float16).tobytes()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        left = offset
        while left:
            shift = int(random.integers(0, len(block) // 4)) & ~1
            left -= file.write(memoryview(block)[shift : shift + min(left, len(block) - shift)])
        file.flush()
        os.fsync(file.fileno())
    return path.stat().st_size


def read_all(paths: list[Path]) -> None:
    """Read files from front to end, in large pieces, into memory that is used again."""
    buffer = memoryview(bytearray(CHUNK))
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def write_all(path: Path, size: int) -> None:
    """Write a file of this size as fast as the engine's own output goes, and flush it."""
    output = OutputFile(path, size, overwrite=True)
    buffer = aligned_buffer(CHUNK)
    buffer[:] = os.urandom(CHUNK)
    for offset in range(0, size, CHUNK):
        output.write_at(buffer[: min(CHUNK, size - offset)], offset)
    output.commit()


def forget(paths: list[Path]) -> None:
    """Drop clean pages of these files from the page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def anonymous(pid: int) -> float:
    """Anonymous memory of a process in GB, 0 once it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024 / 1e9
    except (OSError, ValueError, IndexError):
        pass
    return 0.0


def merge(row: Row, task: dict[str, object]) -> None:
    """Run one merge in a process of its own, sampling its memory."""
    command = [sys.executable, "-c", WORKER, str(TESTS.parent / "extension_lib"), json.dumps(task)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, anonymous(process.pid))
        time.sleep(0.01)
    assert process.stdout is not None
    text = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"the merge failed with {process.returncode}")
    found = json.loads(text)
    row.wall.append(found["wall"])
    row.cpu.append(found["cpu"])
    row.anonymous.append(peak)


def timed(row: Row, work: Callable[[], None]) -> None:
    """Run one floor."""
    wall, cpu = time.monotonic(), time.process_time()
    work()
    row.wall.append(time.monotonic() - wall)
    row.cpu.append(time.process_time() - cpu)


def tasks(models: list[Path], output: Path, threads: int) -> dict[str, dict[str, object]]:
    """The merges that are measured."""
    two, three = [str(path) for path in models[:2]], [str(path) for path in models]
    common: dict[str, object] = {"output": str(output), "blocks": {}, "threads": threads, "hashes_known": True}
    weighted = {"models": two, "method": "weighted_sum"}
    return {
        "weighted sum 0.5, output hashed": {**common, **weighted, "parameters": {"alpha": 0.5}},
        "weighted sum 0.3, output hashed": {**common, **weighted, "parameters": {"alpha": 0.3}},
        "weighted sum 0.5, inputs hashed": {**common, **weighted, "parameters": {"alpha": 0.5}, "hashes_known": False},
        "block weights GRAD_V, output hashed": {**common, **weighted, "parameters": {}, "blocks": {"alpha": "GRAD_V"}},
        "add difference 1.0, output hashed": {
            **common, "models": three, "method": "add_difference", "parameters": {"alpha": 1.0},
        },
    }  # fmt: skip


def show(rows: list[Row], floors: dict[str, float]) -> None:
    """Print the table."""
    print("\n| what | wall s (median) | runs | CPU s | anonymous GB | ratio to its floor |\n|---|---|---|---|---|---|")
    for row in rows:
        wall = statistics.median(row.wall)
        memory = f"{max(row.anonymous):.2f}" if row.anonymous else ""
        ratio = f"{wall / floors[row.name]:.2f}" if row.name in floors else ""
        runs = ", ".join(f"{value:.2f}" for value in row.wall)
        print(f"| {row.name} | {wall:.2f} | {runs} | {statistics.median(row.cpu):.2f} | {memory} | {ratio} |")


def main() -> None:
    """Write the models, measure in interleaved runs, print, clean up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--size", choices=("full", "mini"), default="mini")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--cold", action="store_true", help="drop the inputs from the page cache before every step")
    parser.add_argument("--only", default="", help="measure only merges with this in their name")
    arguments = parser.parse_args()
    arguments.dir.mkdir(parents=True, exist_ok=True)
    models = [arguments.dir / f"bench-{letter}.safetensors" for letter in "abc"]
    output = arguments.dir / "bench-out.safetensors"
    try:
        sizes = [write_model(path, arguments.size, seed) for seed, path in enumerate(models)]
        print(f"{sizes[0]:,} bytes a model, {len(names(arguments.size))} tensors, {os.cpu_count()} cores")
        measure(models, output, arguments)
    finally:
        for path in (*models, output):
            path.unlink(missing_ok=True)


def measure(models: list[Path], output: Path, arguments: argparse.Namespace) -> None:
    """The floors and the merges, ``runs`` times, one after the other."""
    size = models[0].stat().st_size
    work = {name: task for name, task in tasks(models, output, arguments.threads).items() if arguments.only in name}
    floors = {
        "floor: read 2": lambda: read_all(models[:2]),
        "floor: read 3": lambda: read_all(models),
        "floor: write + fsync 1": lambda: write_all(output, size),
    }
    rows = {name: Row(name) for name in (*floors, *work)}
    for _ in range(arguments.runs):
        for name, floor in floors.items():
            prepare(models, arguments.cold)
            timed(rows[name], floor)
        for name, task in work.items():
            prepare(models, arguments.cold)
            merge(rows[name], task)
    middle = {name: statistics.median(row.wall) for name, row in rows.items()}
    write = middle["floor: write + fsync 1"]
    limits = {name: middle[f"floor: read {len(list(task['models']))}"] + write for name, task in work.items()}  # type: ignore[call-overload]
    print("page cache: " + ("cold" if arguments.cold else "as far as it fits, warm"))
    show(list(rows.values()), limits)


def prepare(models: list[Path], cold: bool) -> None:
    """Bring the page cache into the wanted state."""
    if cold:
        forget(models)
    else:
        read_all(models)


if __name__ == "__main__":
    main()
