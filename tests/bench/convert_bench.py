"""How fast a conversion is beside the floor of its bytes, and how much memory it takes, all in one run.

    python tests/bench/convert_bench.py --dir DIR [--size full|mini] [--runs 3] [--only WORDS,WORDS]

Writes SDXL files with true key names and random values into DIR (full: 6.9 GB in fp16, 13.9 GB in fp32, 7.4 GB as
GGUF, one at a time), measures, prints a table as Markdown, and removes the files. A floor is the time to read the
input's bytes and then write and flush the output's, with the same page cache. Ratios within one run tell something;
seconds tell about the machine. CPU seconds are of the
conversion alone, without the imports before it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import sys
from dataclasses import dataclass
from math import prod
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench_tools import TESTS, Row, names, read_all, run_worker, show, timed, write_all

WORKER = """
import json, resource, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
from modelsmith.convert.jobs import ConvertJob, convert
from modelsmith.convert.write import WriteOptions
source, target, precision = sys.argv[2:5]
def cpu():
    usage = resource.getrusage(0)
    return usage.ru_utime + usage.ru_stime
started, before = time.monotonic(), cpu()
convert(Path(source), Path(target), ConvertJob(precision), WriteOptions(overwrite=True))
print(json.dumps({"wall": time.monotonic() - started, "cpu": cpu() - before}))
"""


@dataclass(frozen=True)
class Case:
    """One conversion: from which kind of file, to which precision."""

    name: str
    source: str
    precision: str


CASES = (
    Case("fp16 copied whole", "F16", "keep"),
    Case("fp16 to bf16", "F16", "bf16"),
    Case("fp16 to fp8_e4m3", "F16", "fp8_e4m3"),
    Case("fp16 to fp8_scaled (the UNet read twice)", "F16", "unet=fp8_scaled"),
    Case("fp32 to fp16", "F32", "fp16"),
    Case("GGUF Q8_0 to fp16", "Q8_0", "fp16"),
    Case("GGUF Q4_K to fp16", "Q4_K", "fp16"),
)
_GGUF = {"Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144)}


def blocks(kind: str, count: int) -> bytes:
    """Random values that are finite in every type: for packed types, blocks whose scales are 0.01."""
    import numpy as np

    random = np.random.default_rng(0)
    if kind in ("F16", "F32"):
        values = random.standard_normal(count, np.float32) * np.float32(0.03)
        return values.astype(np.float16 if kind == "F16" else np.float32).tobytes()
    _, block, width = _GGUF[kind]
    raw = random.integers(0, 256, (count // block, width), dtype=np.uint8)
    scale = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    raw[:, :2] = scale
    if kind == "Q4_K":
        raw[:, 2:4] = scale
    return raw.tobytes()


def write_source(path: Path, kind: str, size: str) -> None:
    """Write one model of a kind without holes."""
    shapes = dict(sorted(names(size).items()))
    body = blocks(kind if kind not in _GGUF else "F16", 16 << 20), blocks(kind, 16 << 20)
    with path.open("wb") as file:
        if kind in _GGUF:
            widths = _gguf_header(file, shapes, kind)
        else:
            widths = _safetensors_header(file, shapes, kind)
        for nbytes, packed in widths:
            pattern = body[1] if packed or kind not in _GGUF else body[0]
            for _ in range(nbytes // len(pattern)):
                file.write(pattern)
            file.write(memoryview(pattern)[: nbytes % len(pattern)])
        file.flush()
        os.fsync(file.fileno())


def _safetensors_header(file: object, shapes: dict[str, tuple[int, ...]], kind: str) -> list[tuple[int, bool]]:
    header: dict[str, object] = {}
    offset, width = 0, 2 if kind == "F16" else 4
    sizes: list[tuple[int, bool]] = []
    for name, shape in shapes.items():
        end = offset + width * prod(shape)
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, end]}
        sizes.append((end - offset, False))
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)  # type: ignore[attr-defined]
    return sizes


def _gguf_header(file: object, shapes: dict[str, tuple[int, ...]], kind: str) -> list[tuple[int, bool]]:
    """A GGUF of version 3: matrices packed, everything that does not fit the blocks as fp16."""
    number, block, width = _GGUF[kind]
    text = bytearray(struct.pack("<4sIQQ", b"GGUF", 3, len(shapes), 0))
    offset = 0
    sizes: list[tuple[int, bool]] = []
    for name, shape in shapes.items():
        packed = len(shape) > 1 and shape[-1] % block == 0
        nbytes = prod(shape) // block * width if packed else 2 * prod(shape)
        nbytes += -nbytes % 32
        encoded = name.encode()
        text += struct.pack(f"<Q{len(encoded)}sI", len(encoded), encoded, len(shape))
        text += struct.pack(f"<{len(shape)}QIQ", *shape[::-1], number if packed else 1, offset)
        sizes.append((nbytes, packed))
        offset += nbytes
    file.write(bytes(text) + bytes(-len(text) % 32))  # type: ignore[attr-defined]
    return sizes


def convert(row: Row, source: Path, target: Path, precision: str) -> int:
    """Run one conversion in a process of its own, sampling its memory; returns the output's bytes."""
    root = str(TESTS.parent / "extension_lib")
    run_worker(row, [sys.executable, "-c", WORKER, root, str(source), str(target), precision])
    return target.stat().st_size


def measure(case: Case, source: Path, target: Path, runs: int) -> tuple[list[Row], float]:
    """Floors and conversion, interleaved; returns the rows and the floor of the conversion."""
    row, read, write = Row(case.name), Row(f"floor: read, {case.name}"), Row(f"floor: write, {case.name}")
    for _ in range(runs):
        read_all([source])
        timed(read, lambda: read_all([source]))
        size = convert(row, source, target, case.precision)
        timed(write, lambda size=size: write_all(target, size))
        target.unlink()
    return [read, write, row], statistics.median(read.wall) + statistics.median(write.wall)


def main() -> None:
    """Write each kind of source, measure its cases, print, clean up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--size", choices=("full", "mini"), default="mini")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--only", default="", help="measure only cases with one of these, between commas, in their name"
    )
    arguments = parser.parse_args()
    arguments.dir.mkdir(parents=True, exist_ok=True)
    target = arguments.dir / "convert-bench-out.safetensors"
    rows: list[Row] = []
    floors: dict[str, float] = {}
    wanted = arguments.only.split(",")
    chosen = [case for case in CASES if any(words in case.name for words in wanted)]
    for kind in dict.fromkeys(case.source for case in chosen):
        source = arguments.dir / ("convert-bench.gguf" if kind in _GGUF else "convert-bench.safetensors")
        try:
            write_source(source, kind, arguments.size)
            print(f"{kind}: {source.stat().st_size:,} bytes, {len(names(arguments.size))} tensors", flush=True)
            for case in (case for case in chosen if case.source == kind):
                found, floors[case.name] = measure(case, source, target, arguments.runs)
                rows += found
                print(
                    f"{case.name}: {statistics.median(found[-1].wall):.1f} s, floor {floors[case.name]:.1f} s",
                    flush=True,
                )
        finally:
            source.unlink(missing_ok=True)
            target.unlink(missing_ok=True)
    show(rows, floors)


if __name__ == "__main__":
    main()
