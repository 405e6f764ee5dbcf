"""What Modelsmith costs in AUTOMATIC1111: at its start, and for each picture. Prints a Markdown table.

    python tests/bench/host_bench.py WEBUI PYTHON [--starts N] [--pictures N]

PYTHON is the webui's own interpreter. With the usual numbers it takes about six minutes on two cores.

*A start*: the webui is imported once, and every start is a fork of that process (see ``host_bench_inside.py``), with
the page and the API, without a checkpoint to load. Starts with Modelsmith and with an empty extension take turns; what
counts is the processor time of the thread that starts the webui, up to its "Startup time", compiled files being there.
Other work on the machine can only add to it, most of all in the same processor core: so the fastest tell most. The
webui records some thirty phases of its start; the fastest of each phase, added up, are nearest to what a quiet machine
shows, and medians show how much was added.

*A picture*: 20 steps of Euler through the webui's API, with a small checkpoint whose network and VAE answer with zeros,
so that what is left is the webui's own work around them. Pictures with Modelsmith and without it take turns in one
process; the difference is the median of the differences of neighbours. Beside it stands what is spent inside
Modelsmith's own functions, which is measured in further pictures.

Bounds: 100 ms for the start, 1 ms for a picture without CFG rescale, which computes on purpose.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "extension_lib")]

from host.checkpoints import SD1, Recipe, write  # noqa: E402
from host.server import Webui, free_port  # noqa: E402

START_BOUND_MS, PICTURE_BOUND_MS = 100.0, 1.0
INSIDE = Path(__file__).with_name("host_bench_inside.py")
OURS, EMPTY, PHASE = "modelsmith", "zy-empty", "phase "
# As many files as a user may well have: lists of them stand in the tab.
CHECKPOINTS, LORAS = 50, 100
PICTURES = ((Recipe("epsilon", SD1), ""), (Recipe("v-ztsnr", SD1, ("v_pred", "ztsnr"), seed=1), ""))
RESCALED = ("v-ztsnr", "0.7")
# Phases of a start whose difference is at least this stand in the table of parts.
WORTH_A_LINE_MS = 1.0

EMPTY_SCRIPT = """
from modules import script_callbacks, scripts


class EmptyScript(scripts.Script):
    def title(self):
        return "Empty"

    def show(self, is_img2img):
        return scripts.AlwaysVisible
"""


def prepare(args: argparse.Namespace, data: Path) -> None:
    """The data folder: both extensions, the checkpoints of the pictures, and many small files for the lists."""
    webui = Webui(Path(args.webui), args.python, data)
    webui.install_extension()
    webui.install_probe()  # builds models as narrow as the checkpoints are
    script = data / "extensions" / EMPTY / "scripts" / "zy_empty.py"
    script.parent.mkdir(parents=True)
    script.write_text(EMPTY_SCRIPT)
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    small = len(header).to_bytes(8, "little") + header + bytes(4)
    for folder, count in ((webui.checkpoints, CHECKPOINTS), (data / "models" / "Lora", LORAS)):
        for index in range(count):
            (folder / f"file-{index:03d}.safetensors").write_bytes(small)
    for recipe, _ in PICTURES:
        write(webui.checkpoints, recipe)
    webui.configure()


def measure(args: argparse.Namespace, data: Path) -> Iterator[dict[str, Any]]:
    """Everything that the webui's interpreter tells, as it comes."""
    names = [(recipe.name, rescale) for recipe, rescale in PICTURES] + [RESCALED]
    task = {
        "webui": str(Path(args.webui).resolve()),
        "data": str(data),
        "port": free_port(),
        "starts": args.starts,
        "parts": args.parts,
        "pictures": [(f"{name}.safetensors", rescale) for name, rescale in names],
        "count": args.pictures,
    }
    # A start that compiles every module happens once in an installation's life.
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")}
    environment = {**kept, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    command = [args.python, str(INSIDE), json.dumps(task)]
    with (data / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)
    if process.wait():
        raise SystemExit(f"the webui's part failed:\n{(data / 'log.txt').read_text(errors='replace')[-4000:]}")


def least(runs: Sequence[Mapping[str, float]], name: str) -> float:
    return min((run.get(name, 0.0) for run in runs), default=0.0)


def quartiles(values: Sequence[float]) -> str:
    low, _, high = statistics.quantiles(values, n=4)
    return f"{low:.0f} to {high:.0f}"


def by_phase(runs: Sequence[Mapping[str, float]]) -> float:
    """The least of each phase of a start, and of collecting garbage, added up."""
    names = {name for run in runs for name in run if name.startswith(PHASE)} | {"collections"}
    return sum(least(runs, name) for name in names)


def start_rows(starts: Mapping[str, list[dict[str, float]]]) -> tuple[list[str], float]:
    """The rows of the start, and its milliseconds beyond an empty extension: that of the fastest phases."""
    phases = {name: by_phase(runs) for name, runs in starts.items()}
    start = phases[OURS] - phases[EMPTY]
    rows = [f"| start, its phases added up | {start:.0f} | | | {phases[EMPTY]:.0f} |"]
    labels = {"thread": "start", "process": "start, all threads", "collections": "of it Python's collecting garbage"}
    for kind, label in labels.items():
        ours, empty = ([run[kind] for run in starts[name]] for name in (OURS, EMPTY))
        pairs = [mine - other for mine, other in zip(ours, empty, strict=True)]
        rows.append(
            f"| {label} | {min(ours) - min(empty):.0f} | {statistics.median(ours) - statistics.median(empty):.0f} "
            f"| {statistics.median(pairs):.0f} ({quartiles(pairs)}) | {min(empty):.0f} ({quartiles(empty)}) |"
        )
    return rows, start


def part_rows(parts: Mapping[str, list[dict[str, float]]]) -> list[str]:
    """Where the start's time goes: the least of each phase, with Modelsmith less with an empty extension."""
    rows: list[str] = []
    names = {name for run in parts[OURS] for name in run} - {"thread", "process", "collections"}
    names = {name for name in names if not name.startswith(PHASE)}
    found = {name: least(parts[OURS], name) - least(parts[EMPTY], name) for name in names}
    for name, value in sorted(found.items(), key=lambda entry: -entry[1]):
        if value >= WORTH_A_LINE_MS:
            rows.append(f"| {name} | {value:.1f} |")
    rows.append(f"| together, in Modelsmith's own functions | {sum(found.values()):.1f} |")
    return rows


def picture_rows(name: str, found: Mapping[str, Any]) -> tuple[list[str], float]:
    inside = [sum(spent.values()) for spent in found["inside"]]
    own = statistics.median(inside)
    with_us, without = found["with"], found["without"]
    if not with_us:
        return [f"| {name} | | {own:.2f} | |"], own
    pairs = [mine - other for mine, other in zip(with_us, without, strict=True)]
    low, middle, high = statistics.quantiles(pairs, n=4)
    whole = f"{middle:.2f} ({low:.2f} to {high:.2f})"
    return [f"| {name} | {whole} | {own:.2f} | {statistics.median(without):.1f} |"], max(middle, own)


def inside_rows(name: str, found: Mapping[str, Any]) -> list[str]:
    spent: dict[str, list[float]] = {}
    for run in found["inside"]:
        for part, value in run.items():
            spent.setdefault(part, []).append(value)
    medians = {part: statistics.median(values) for part, values in spent.items()}
    text = ", ".join(f"{part} {value:.2f}" for part, value in sorted(medians.items(), key=lambda entry: -entry[1]))
    return [f"* {name}: {text}"]


def table(found: Sequence[Mapping[str, Any]], seconds: float) -> tuple[str, bool]:
    """The whole report, and whether all bounds hold."""

    def runs(kind: str) -> dict[str, list[dict[str, float]]]:
        return {
            name: [one["found"] for one in found if one["kind"] == kind and one["name"] == name]
            for name in (OURS, EMPTY)
        }

    starts, pictures = runs("start"), [one for one in found if one["kind"] == "pictures"]
    rows, start = start_rows(starts)
    load = " / ".join(f"{value:.1f}" for value in os.getloadavg())
    lines = [
        f"{len(starts[OURS])} starts of each in turns; the machine's load at the end: {load}; {seconds:.0f} s in all.",
        "",
        f"| milliseconds of processor beyond an empty extension (bound {START_BOUND_MS:.0f}) | fastest | medians "
        "| pairs (quartiles) | with the empty one (quartiles) |",
        "|---|---|---|---|---|",
        *rows,
        "",
        f"| parts of a start, least of {len(runs('parts')[OURS])}, without collecting garbage | ms |",
        "|---|---|",
        *part_rows(runs("parts")),
        "",
        f"| milliseconds of processor for a picture of 20 steps (bound {PICTURE_BOUND_MS:g}) "
        "| added, pairs (quartiles) | inside Modelsmith | without it |",
        "|---|---|---|---|",
    ]
    holds, notes = start <= START_BOUND_MS, []
    for one in pictures:
        made, worst = picture_rows(one["name"], one["found"])
        lines += made
        notes += inside_rows(one["name"], one["found"])
        holds = holds and (worst <= PICTURE_BOUND_MS or "rescale" in one["name"])
    return "\n".join([*lines, "", *notes]), holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("webui")
    parser.add_argument("python")
    parser.add_argument("--starts", type=int, default=40, help="of each kind")
    parser.add_argument("--parts", type=int, default=8, help="further starts of each kind whose parts are timed")
    parser.add_argument("--pictures", type=int, default=150, help="of each kind")
    parser.add_argument("--json", type=Path, help="where to keep everything that was measured")
    args = parser.parse_args()
    began = time.monotonic()
    data = Path(tempfile.mkdtemp(prefix="modelsmith-bench-"))
    try:
        prepare(args, data)
        found: list[dict[str, Any]] = []
        for one in measure(args, data):
            found.append(one)
            if one["kind"] == "first":
                print(f"first start with {one['name']}, which compiles: {one['found']['thread']:.0f} ms", flush=True)
    finally:
        shutil.rmtree(data, ignore_errors=True)
    if args.json is not None:
        args.json.write_text(json.dumps(found))
    text, holds = table(found, time.monotonic() - began)
    print(text)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
