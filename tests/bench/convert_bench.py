"""How fast a conversion is beside the floor of its bytes, and how much memory it takes, all in one run.

    python tests/bench/convert_bench.py --dir DIR [--size full|half|mini] [--runs 3] [--cold] [--only WORDS,WORDS]

Writes SDXL files with true key names and random values into DIR (full: 6.9 GB in fp16, 13.9 GB in fp32, 2 to 4 GB
packed, one at a time), measures, prints a table as Markdown, and removes the files. A floor is the time to read the
input's bytes and then write and flush the output's, with the same page cache: with the input in it, or with --cold
dropped from it. Ratios within one run tell something; seconds tell about the machine. CPU seconds are of the conversion
alone, without the imports before it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench_sources import GGUF, write_source
from bench_tools import SIZES, TESTS, Row, names, prepare, read_all, run_worker, show, timed, write_all

WORKER = """
import json, resource, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
from modelsmith.convert.jobs import ConvertJob, convert
from modelsmith.convert.write import WriteOptions
source, target, precision = sys.argv[2:5]
hashing = sys.argv[5] == "hash"
def cpu():
    usage = resource.getrusage(0)
    return usage.ru_utime + usage.ru_stime
started, before = time.monotonic(), cpu()
convert(Path(source), Path(target), ConvertJob(precision), WriteOptions(overwrite=True, hashing=hashing))
print(json.dumps({"wall": time.monotonic() - started, "cpu": cpu() - before}))
"""


@dataclass(frozen=True)
class Case:
    """One conversion: from which kind of file, to which precision, and whether the result is hashed."""

    name: str
    source: str
    precision: str
    hashing: bool = True


CASES = (
    Case("fp16 copied whole", "F16", "keep"),
    Case("fp16 to bf16", "F16", "bf16"),
    Case("fp16 to fp8_e4m3", "F16", "fp8_e4m3"),
    Case("fp16 to fp8_scaled (the UNet read twice)", "F16", "unet=fp8_scaled"),
    Case("fp32 to fp16", "F32", "fp16"),
    *(Case(f"GGUF {kind} to fp16", kind, "fp16") for kind in GGUF),
    Case("GGUF Q4_K to bf16", "Q4_K", "bf16"),
    *(Case(f"{kind} to bf16", kind, "bf16") for kind in ("nf4", "fp4", "nvfp4", "mxfp8", "fp8 scaled")),
    Case("fp16 copied whole, not hashed", "F16", "keep", hashing=False),
    Case("fp16 to bf16, not hashed", "F16", "bf16", hashing=False),
    Case("fp16 to fp8_e4m3, not hashed", "F16", "fp8_e4m3", hashing=False),
    Case("fp16 to fp8_scaled, not hashed", "F16", "unet=fp8_scaled", hashing=False),
    Case("fp32 to fp16, not hashed", "F32", "fp16", hashing=False),
    Case("GGUF Q8_0 to fp16, not hashed", "Q8_0", "fp16", hashing=False),
    Case("GGUF Q4_K to fp16, not hashed", "Q4_K", "fp16", hashing=False),
    Case("nf4 to bf16, not hashed", "nf4", "bf16", hashing=False),
)


def convert(row: Row, source: Path, target: Path, case: Case) -> int:
    """Run one conversion in a process of its own, sampling its memory; returns the output's bytes."""
    root = str(TESTS.parent / "extension_lib")
    command = [sys.executable, "-c", WORKER, root, str(source), str(target), case.precision]
    run_worker(row, [*command, "hash" if case.hashing else "plain"])
    return target.stat().st_size


def measure(case: Case, source: Path, target: Path, runs: int, cold: bool) -> tuple[list[Row], float]:
    """Floors and conversion, interleaved; returns the rows and the floor of the conversion."""
    row, read, write = Row(case.name), Row(f"floor: read, {case.name}"), Row(f"floor: write, {case.name}")
    for _ in range(runs):
        prepare([source], [target], cold)
        timed(read, lambda: read_all([source]))
        prepare([source], [target], cold)
        size = convert(row, source, target, case)
        prepare([source], [target], cold)
        timed(write, lambda size=size: write_all(target, size))
    target.unlink(missing_ok=True)
    return [read, write, row], statistics.median(read.wall) + statistics.median(write.wall)


def main() -> None:
    """Write each kind of source, measure its cases, print, clean up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--size", choices=tuple(SIZES), default="mini")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="drop the input from the page cache before each step")
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
        source = arguments.dir / ("convert-bench.gguf" if kind in GGUF else "convert-bench.safetensors")
        try:
            write_source(source, kind, arguments.size)
            print(f"{kind}: {source.stat().st_size:,} bytes, {len(names(arguments.size))} tensors", flush=True)
            for case in (case for case in chosen if case.source == kind):
                found, floors[case.name] = measure(case, source, target, arguments.runs, arguments.cold)
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
