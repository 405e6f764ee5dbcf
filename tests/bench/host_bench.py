"""What Modelsmith costs in a real webui: at its start, and for each picture.

    python tests/bench/host_bench.py WEBUI PYTHON [--runs N] [--pictures N] [--page] [--whole]

A small extension that is loaded first takes the time of everything of Modelsmith that the webui calls: the script's
import, the callbacks of the start, the panels in txt2img and img2img, and the script's methods and wrappers around each
picture. An empty extension is timed in the same way, and what it costs is taken off. Times are of the processor, in the
thread that works, so that other work on the machine counts little; the least of all runs is shown for the start and the
median for pictures. Bounds: 100 ms for the start, 1 ms for a picture.

With --whole the start is measured from outside as well: the processor time of the thread that starts the webui, from
its first script to its "Startup time", with Modelsmith and with an empty extension in turns, and the difference of the
medians. That also counts what the webui itself does for our components, but it is a small difference of large numbers:
only a quiet machine and many runs tell it well.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "extension_lib")]

from host.checkpoints import SDXL, Recipe, write  # noqa: E402
from host.server import Webui  # noqa: E402

START_BOUND_MS, PICTURE_BOUND_MS = 100.0, 1.0

TIMING_SCRIPT = """
import functools, sys, time
from modules import script_callbacks, script_loading, scripts

TIMES = []
DEPTH = [0]

def timed(name, function):
    @functools.wraps(function)
    def run(*args, **kwargs):
        DEPTH[0] += 1
        began = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            DEPTH[0] -= 1
            if not DEPTH[0]:
                TIMES.append((name, (time.thread_time() - began) * 1000))
    return run

def owner(function):
    module = getattr(function, "__module__", "") or ""
    return "modelsmith" if module.startswith("modelsmith") else "empty" if module.startswith("zy_empty") else ""

load_module = script_loading.load_module
METHODS = ("ui", "before_process", "process", "before_process_batch", "process_before_every_sampling", "postprocess",
           "after_component", "title", "show")

def timed_load(path):
    mine = "modelsmith" if "/modelsmith/" in path else "empty" if "/zy-empty/" in path else ""
    if not mine:
        return load_module(path)
    module = timed(mine + " import", load_module)(path)
    for found in list(vars(module).values()):
        if isinstance(found, type) and issubclass(found, scripts.Script):
            for method in METHODS:
                if method in vars(found):
                    setattr(found, method, timed(mine + " " + method, getattr(found, method)))
    return module

def time_inner():
    # What runs inside the webui's own functions while it samples.
    for module, names in (
        ("modelsmith_webui.hosts.a1111", ("_keep_schedule",)),
        ("modelsmith.cfg_rescale", ("rescale_denoised", "rescale_noise")),
    ):
        found = sys.modules.get(module) or __import__(module, fromlist=["x"])
        for name in names:
            setattr(found, name, timed("modelsmith " + name, getattr(found, name)))

script_loading.load_module = timed_load
add_callback = script_callbacks.add_callback

def timed_add(callbacks, fun, *args, **kwargs):
    mine = owner(fun)
    if mine:
        kind = next((key for key, known in script_callbacks.callback_map.items() if known is callbacks), "callback")
        fun = timed(mine + " " + kind.removeprefix("callbacks_"), fun)
    return add_callback(callbacks, fun, *args, **kwargs)

script_callbacks.add_callback = timed_add

def routes(_demo, app):
    @app.get("/bench/v1/times")
    def times():
        return list(TIMES)
    @app.post("/bench/v1/clear")
    def clear():
        if not hasattr(clear, "done"):
            clear.done = True
            time_inner()
        TIMES.clear()
        return {}

script_callbacks.on_app_started(routes)
"""
EMPTY_SCRIPT = """
from modules import script_callbacks, scripts


class EmptyScript(scripts.Script):
    def title(self):
        return "Empty"

    def show(self, is_img2img):
        return scripts.AlwaysVisible
"""


WHOLE_SCRIPT = """
import json, os, time
from modules import timer

BEGAN = time.thread_time(), time.process_time()
watch = type(timer.startup_timer)
summary = watch.summary

def timed_summary(self):
    if self is timer.startup_timer:
        found = {"thread": time.thread_time() - BEGAN[0], "process": time.process_time() - BEGAN[1]}
        with open(os.environ["MODELSMITH_BENCH_WHOLE"], "w") as file:
            json.dump(found, file)
    return summary(self)

watch.summary = timed_summary
"""


def add_script(webui: Webui, name: str, text: str) -> None:
    target = webui.data / "extensions" / name / "scripts"
    target.mkdir(parents=True)
    (target / f"{name.replace('-', '_')}.py").write_text(text)


def whole_start(webui: Webui) -> dict[str, float]:
    """Seconds of one start, of the thread that starts the webui and of all threads; the webui is ended again."""
    told = webui.data / "whole.json"
    told.unlink(missing_ok=True)
    os.environ["MODELSMITH_BENCH_WHOLE"] = str(told)
    webui.start()
    assert webui.process is not None
    os.killpg(webui.process.pid, signal.SIGKILL)
    webui.process.wait()
    webui.process = None
    return json.loads(told.read_text())


def measure_whole(args: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of a start beyond that with an empty extension, medians of starts in turns, without a checkpoint."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    extra = () if args.page else ("--nowebui",)
    found: dict[str, list[dict[str, float]]] = {"modelsmith": [], "empty": []}
    with tempfile.TemporaryDirectory(prefix="modelsmith-bench-", ignore_cleanup_errors=True) as folder:
        webuis = {name: Webui(Path(args.webui), args.python, Path(folder) / name, extra) for name in found}
        webuis["modelsmith"].install_extension()
        add_script(webuis["empty"], "zy-empty", EMPTY_SCRIPT)
        for webui in webuis.values():
            add_script(webui, "00-bench", WHOLE_SCRIPT)
            whole_start(webui)  # compiles
        for index in range(args.runs):
            for name in list(webuis)[:: 1 if index % 2 else -1]:
                found[name].append(whole_start(webuis[name]))
    medians = {
        name: {kind: statistics.median(run[kind] for run in runs) * 1000 for kind in ("thread", "process")}
        for name, runs in found.items()
    }
    spread = max(run["thread"] for run in found["empty"]) - min(run["thread"] for run in found["empty"])
    print(f"Whole starts in turns, {args.runs} of each; those with an empty extension differ by {spread * 1000:.0f} ms")
    return {kind: medians["modelsmith"][kind] - medians["empty"][kind] for kind in ("thread", "process")}


def make_webui(args: argparse.Namespace, folder: Path) -> Webui:
    """The webui with both extensions and one small v-prediction checkpoint with ZTSNR."""
    extra = () if args.page else ("--nowebui",)
    webui = Webui(Path(args.webui), args.python, folder, extra)
    webui.install_probe()
    webui.install_extension()
    for name, text in (("00-bench", TIMING_SCRIPT), ("zy-empty", EMPTY_SCRIPT)):
        add_script(webui, name, text)
    write(webui.checkpoints, Recipe("model", SDXL, markers=("v_pred", "ztsnr")))
    webui.configure(sd_model_checkpoint="model.safetensors")
    return webui


def summed(times: list[list[Any]], owner: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, milliseconds in times:
        if name.startswith(owner):
            part = name.removeprefix(owner).strip()
            found[part] = found.get(part, 0.0) + milliseconds
    return found


def measure_start(args: argparse.Namespace) -> list[dict[str, float]]:
    """Milliseconds of each part of the start, Modelsmith's less the empty extension's, for each run."""
    runs = []
    # The first start compiles every module, once in an installation's life.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    folder = Path(tempfile.mkdtemp(prefix="modelsmith-bench-"))
    webui = make_webui(args, folder)
    try:
        for index in range(args.runs + 1):
            webui.start()
            times = webui.get("/bench/v1/times")
            ours, empty = summed(times, "modelsmith"), summed(times, "empty")
            parts = {part: value - empty.get(part, 0.0) for part, value in ours.items() if part != "model_loaded"}
            if index:
                runs.append(parts)
            else:
                print(f"The very first start, which compiles: {sum(parts.values()):.0f} ms")
            if index == args.runs:
                args.pictures_ms = measure_pictures(webui, args.pictures)
            webui.stop()
    finally:
        webui.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return runs


def measure_pictures(webui: Webui, count: int) -> dict[str, list[float]]:
    """Milliseconds of Modelsmith for each picture of four steps: as it comes, and with CFG rescale."""
    found: dict[str, list[float]] = {"plain": [], "with CFG rescale": []}
    split: dict[str, list[float]] = {}
    for kind, rescale in (("plain", "Automatic"), ("with CFG rescale", "0.7")):
        own = {"alwayson_scripts": {"Modelsmith": {"args": ["Automatic", "Automatic", rescale]}}}
        for index in range(count + 2):
            webui.post("/bench/v1/clear", {})
            webui.txt2img(steps=4, scheduler="SGM Uniform", **own)
            parts = summed(webui.get("/bench/v1/times"), "modelsmith")
            if index >= 2:
                found[kind].append(sum(parts.values()))
                for part, value in parts.items() if kind == "plain" else ():
                    split.setdefault(part, []).append(value)
    print("Parts of a plain picture, median milliseconds:")
    for part, values in sorted(split.items(), key=lambda entry: -statistics.median(entry[1])):
        print(f"  {part:32s} {statistics.median(values):8.3f}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("webui")
    parser.add_argument("python")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=15)
    parser.add_argument("--page", action="store_true", help="with the page, as people start it, not the API alone")
    parser.add_argument("--whole", action="store_true", help="whole starts in turns as well")
    args = parser.parse_args()
    if args.whole:
        for kind, milliseconds in measure_whole(args).items():
            print(f"  {kind:32s} {milliseconds:8.1f}")
    runs = measure_start(args)
    best = min(runs, key=lambda parts: sum(parts.values()))
    print(f"Start, {len(runs)} runs, milliseconds of processor beyond an empty extension:")
    for part, value in sorted(best.items(), key=lambda entry: -entry[1]):
        print(f"  {part:32s} {value:8.1f}")
    start = sum(best.values())
    print(f"  {'together':32s} {start:8.1f}   (bound {START_BOUND_MS:.0f})")
    medians = {kind: statistics.median(values) for kind, values in args.pictures_ms.items()}
    print("Picture of four steps, median milliseconds:")
    for kind, value in medians.items():
        print(f"  {kind:32s} {value:8.3f}   (bound {PICTURE_BOUND_MS:g})")
    print(json.dumps({"start_ms": start, "picture_ms": medians}))
    return 0 if start <= START_BOUND_MS and medians["plain"] <= PICTURE_BOUND_MS else 1


if __name__ == "__main__":
    sys.exit(main())
