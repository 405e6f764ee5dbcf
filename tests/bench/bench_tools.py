"""What the benchmarks share: models with true key names, floors of reading and writing, timing, the table."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
LIBRARY = TESTS.parent / "extension_lib"
sys.path[:0] = [str(TESTS), str(LIBRARY)]

from host.checkpoints import SDXL, clip_text, open_clip_text, unet, vae  # noqa: E402
from modelsmith.files.output import OutputFile, aligned_buffer  # noqa: E402

CHUNK = 8 << 20
START = """
import json, resource, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
task = json.loads(sys.argv[2])
def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
"""
"""How the code of a job begins that ``run_worker`` runs."""
Shapes = Mapping[str, tuple[int, ...]]


@dataclass
class Row:
    """One line of the table: what was done, and every run of it."""

    name: str
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    anonymous: list[float] = field(default_factory=list)


SIZES = {"full": (320, 128, 12, 32), "half": (224, 64, 12, 16), "mini": (64, 32, 2, 2)}
"""SDXL whole (6.9 GB in 16 bits), with half its bytes, and narrow: width of the UNet and of the VAE, layers of the text
encoders. All have SDXL's largest tensor, a token embedding of 63 million values."""


def names(size: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an SDXL checkpoint of one of ``SIZES``."""
    unet_width, vae_width, first_layers, second_layers = SIZES[size]
    entries: list[Iterator[tuple[str, tuple[int, ...]]]] = [
        unet(SDXL, unet_width),
        vae(vae_width),
        clip_text("conditioner.embedders.0.transformer.text_model", 768, first_layers),
        open_clip_text("conditioner.embedders.1.model", 1280, second_layers),
    ]
    return {name: shape for part in entries for name, shape in part}


def flux2_names(single: int = 48) -> dict[str, tuple[int, ...]]:
    """Names and shapes of FLUX.2 dev's transformer: 8 double blocks, 48 single ones, width 6144."""
    width = 6144
    shapes: dict[str, tuple[int, ...]] = {
        "img_in.weight": (width, 128),
        "txt_in.weight": (width, 15360),
        "double_stream_modulation_img.lin.weight": (6 * width, width),
        "double_stream_modulation_txt.lin.weight": (6 * width, width),
        "single_stream_modulation.lin.weight": (3 * width, width),
        "final_layer.adaLN_modulation.1.weight": (2 * width, width),
        "final_layer.linear.weight": (128, width),
    }
    for part in ("time_in", "guidance_in"):
        shapes |= {f"{part}.in_layer.weight": (width, 256), f"{part}.out_layer.weight": (width, width)}
    for index in range(8):
        for side in ("img", "txt"):
            base = f"double_blocks.{index}.{side}"
            shapes |= {
                f"{base}_attn.norm.key_norm.scale": (128,),
                f"{base}_attn.norm.query_norm.scale": (128,),
                f"{base}_attn.proj.weight": (width, width),
                f"{base}_attn.qkv.weight": (3 * width, width),
                f"{base}_mlp.0.weight": (6 * width, width),
                f"{base}_mlp.2.weight": (width, 3 * width),
            }
    for index in range(single):
        base = f"single_blocks.{index}"
        shapes |= {
            f"{base}.linear1.weight": (9 * width, width),
            f"{base}.linear2.weight": (width, 4 * width),
            f"{base}.norm.key_norm.scale": (128,),
            f"{base}.norm.query_norm.scale": (128,),
        }
    return shapes


def header(shapes: Shapes, kind: str) -> tuple[bytes, int]:
    """A safetensors header of 16-bit tensors, and the bytes of data that follow."""
    table: dict[str, object] = {}
    offset = 0
    for name, shape in shapes.items():
        end = offset + 2 * prod(shape)
        table[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, offset


def write_model(path: Path, size: str, seed: int) -> int:
    """Write one fp16 model without holes; returns its bytes."""
    import numpy as np

    top, left = header(dict(sorted(names(size).items())), "F16")
    random = np.random.default_rng(seed)
    block = (random.standard_normal(16 << 20, np.float32) * 0.03).astype(np.float16).tobytes()
    with path.open("wb") as file:
        file.write(top)
        while left:
            shift = int(random.integers(0, len(block) // 4)) & ~1
            left -= file.write(memoryview(block)[shift : shift + min(left, len(block) - shift)])
        file.flush()
        os.fsync(file.fileno())
    return path.stat().st_size


def write_sparse(path: Path, shapes: Shapes) -> int:
    """Write a bf16 model of zeros that takes no room on the disk; returns its bytes."""
    top, size = header(shapes, "BF16")
    with path.open("wb") as file:
        file.write(top)
        file.truncate(len(top) + size)
    return len(top) + size


def read_all(paths: Iterable[Path]) -> None:
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


def forget(paths: Iterable[Path]) -> None:
    """Drop clean pages of these files from the page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def prepare(models: Iterable[Path], outputs: Iterable[Path], cold: bool) -> None:
    """The same state before every step: no old output, whose blocks would have to be freed, nothing left to flush,
    the inputs in the page cache or dropped from it."""
    for output in outputs:
        output.unlink(missing_ok=True)
    os.sync()
    if cold:
        forget(models)
    else:
        read_all(models)


def anonymous(pid: int) -> float:
    """Anonymous memory of a process in GB, 0 once it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024 / 1e9
    except (OSError, ValueError, IndexError):
        pass
    return 0.0


def run_worker(row: Row, command: list[str]) -> None:
    """Run one job in a process of its own, sampling its memory; it prints JSON with its wall and CPU seconds."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, anonymous(process.pid))
        time.sleep(0.01)
    assert process.stdout is not None
    text = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{row.name} failed with {process.returncode}")
    found = json.loads(text.splitlines()[-1])
    row.wall.append(found["wall"])
    row.cpu.append(found["cpu"])
    row.anonymous.append(peak)


def timed(row: Row, work: Callable[[], None]) -> None:
    """Run one floor."""
    wall, cpu = time.monotonic(), time.process_time()
    work()
    row.wall.append(time.monotonic() - wall)
    row.cpu.append(time.process_time() - cpu)


def show(rows: Iterable[Row], floors: Mapping[str, float]) -> None:
    """Print the table."""
    print("\n| what | wall s (median) | runs | CPU s | anonymous GB | ratio to its floor |\n|---|---|---|---|---|---|")
    for row in rows:
        wall = statistics.median(row.wall)
        memory = f"{max(row.anonymous):.2f}" if row.anonymous else ""
        ratio = f"{wall / floors[row.name]:.2f}" if row.name in floors else ""
        runs = ", ".join(f"{value:.2f}" for value in row.wall)
        print(f"| {row.name} | {wall:.2f} | {runs} | {statistics.median(row.cpu):.2f} | {memory} | {ratio} |")
