"""Measure identification: one header, a thousand files, a warm index, memory, import.

Usage: python tests/bench/identify_bench.py [--files 1000]. Prints one line a figure with its limit; exit 1 when one
is missed. The files are sparse with true headers, so that only headers are read.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "extension_lib"), str(ROOT / "tests" / "identify")]

from headers import DATA, load, metadata_of, write  # noqa: E402

from modelsmith.identify import identify  # noqa: E402
from modelsmith.library import Library  # noqa: E402


def one(path: Path) -> str:
    return identify(path).badge()


def report(name: str, value: float, limit: float, unit: str) -> bool:
    good = value <= limit
    print(f"{name:<44}{value:9.2f} {unit:<3} (at most {limit:g}) {'ok' if good else 'MISSED'}")
    return good


def cpu_seconds() -> float:
    """Processor time of this process and of those it has waited for; a busy machine stretches the clock, not this."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def import_time(module: str) -> float:
    """Milliseconds that an import adds to a bare interpreter; the median of nine."""

    def run(code: str) -> float:  # -S: without the site's own start-up files
        times: list[float] = []
        for _ in range(9):
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "-S", "-c", code], check=True, env={"PYTHONPATH": str(ROOT / "extension_lib")}
            )
            times.append((time.perf_counter() - start) * 1e3)
        return statistics.median(times)

    return max(0.0, run(f"import {module}") - run("pass"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    count: int = parser.parse_args().files
    good = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = sorted(path.name[:-8] for path in DATA.glob("*.json.gz"))
        headers = {sample: (load(sample), metadata_of(sample)) for sample in samples}
        paths = [
            write(
                folder / f"{number:04}-{samples[number % len(samples)]}.safetensors",
                *headers[samples[number % len(samples)]],
            )
            for number in range(count)
        ]
        del headers
        sdxl = write(folder / "sdxl.safetensors", load("sdxl_base_fp16"))
        times: list[float] = []
        busy = cpu_seconds()
        for _ in range(50):
            start = time.perf_counter()
            identify(sdxl)
            times.append((time.perf_counter() - start) * 1e3)
        busy = (cpu_seconds() - busy) / 50 * 1e3
        good &= report(
            f"one SDXL header of {sdxl.stat().st_size / 1e9:.1f} GB, median of 50", statistics.median(times), 10, "ms"
        )
        print(f"{'  the quickest, undisturbed by other work':<44}{min(times):9.2f} ms")
        print(f"{'  of it processor time, mean':<44}{busy:9.2f} ms")
        print(f"{'  the first, with nothing prepared':<44}{times[0]:9.2f} ms")
        sdxl.unlink()
        busy = cpu_seconds()
        with ProcessPoolExecutor(2) as pool:
            list(pool.map(one, paths[:4]))
            start = time.perf_counter()
            list(pool.map(one, paths, chunksize=25))
            good &= report(f"{count} files on two cores", time.perf_counter() - start, 5, "s")
        print(f"{'  of it processor time, both together':<44}{cpu_seconds() - busy:9.2f} s")
        library = Library(folder / "index" / "library.json")
        start = time.perf_counter()
        library.refresh([folder], wait=True)
        print(f"{f'{count} files by the index, one thread':<44}{time.perf_counter() - start:9.2f} s")
        start = time.perf_counter()
        warm = Library(folder / "index" / "library.json")
        warm.refresh([folder], wait=True)
        entries = warm.entries()
        good &= report(f"warm index of {len(entries)} files, checked", time.perf_counter() - start, 0.2, "s")
    memory = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    good &= report("peak memory of any process", memory, 200, "MB")
    good &= report("import modelsmith, over a bare python", import_time("modelsmith"), 50, "ms")
    print(f"{'  and modelsmith.identify':<44}{import_time('modelsmith.identify'):9.2f} ms")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
