"""The part of ``host_bench.py`` that runs in AUTOMATIC1111's own interpreter, in its folder.

The webui is imported once, as far as it comes before it looks at extensions. Every start and every series of pictures
is then a fork of that process: it goes on with the webui's own code in its own order, in the same state as the others.
Each fork writes one line of JSON.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ARGUMENTS = (
    "--api",
    "--skip-torch-cuda-test",
    "--skip-prepare-environment",
    "--skip-load-model-at-start",
    "--no-download-sd-model",
    "--do-not-download-clip",
    "--use-cpu",
    "all",
    "--no-half",
)
OURS, EMPTY, PROBE = "modelsmith", "zy-empty", "zz-modelsmith-probe"
STEPS, SIZE, WARM_UP = 20, 64, 12
PHASE = "phase "
# What of Modelsmith the webui calls around a picture: module, class (or none), names.
INSIDE: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "modelsmith_webui.generation",
        "Generation",
        ("before_load", "begin", "before_batch", "before_sampling", "end"),
    ),
    ("modelsmith_webui.hosts.a1111", "", ("_keep_schedule",)),
    ("modelsmith.cfg_rescale", "", ("rescale_denoised", "rescale_noise")),
)


class Collections:
    """Processor time of Python's own collections of garbage."""

    def __init__(self) -> None:
        self.milliseconds, self._began = 0.0, 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.thread_time()
        else:
            self.milliseconds += (time.thread_time() - self._began) * 1000


class Watch:
    """Processor time in named functions of the thread that works; of nested ones the outermost counts.

    Without Python's collecting garbage, which takes long whenever its turn comes, in whosever function that is.
    """

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._depth, self._garbage = 0, Collections()

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            garbage, began = self._garbage.milliseconds, time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    took = (time.thread_time() - began) * 1000 - (self._garbage.milliseconds - garbage)
                    self.spent[name] = self.spent.get(name, 0.0) + took

        return run

    def wrap_in(self, owner: Any, name: str) -> None:
        setattr(owner, name, self.wrap(name.strip("_"), getattr(owner, name)))


def forked(work: Callable[[], Any], log: Path) -> Any:
    """What ``work`` returns, in a process of its own. RuntimeError with the end of its output where it fails."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        try:
            with os.fdopen(writer, "w") as file:
                json.dump(work(), file)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    if os.waitpid(child, 0)[1]:
        raise RuntimeError(f"a fork of the webui failed:\n{log.read_text(errors='replace')[-4000:]}")
    return json.loads(text)


# a start


class StartedError(Exception):
    """Raised in place of the line with which the webui says that it has started."""


def start(wanted: str, watch: Watch | None = None) -> dict[str, float]:
    """Start the webui with one of the two extensions, up to its "Startup time"; milliseconds of processor time.

    thread: of the thread that starts it. process: of all. collections: of the former, in collecting garbage. Then the
    webui's own phases of the start, without that. With ``watch`` also what is spent in the functions of the extension.
    """
    from modules import shared, timer

    import webui

    shared.opts.data["disabled_extensions"] = [name for name in (OURS, EMPTY, PROBE) if name not in wanted.split("+")]
    if watch is not None:
        watch_start(watch)

    def started() -> str:
        raise StartedError

    timer.startup_timer.summary = started
    collections = Collections()
    # The webui records how long each of its phases takes; let it do so in processor time.
    timer.time = SimpleNamespace(time=lambda: time.thread_time() - collections.milliseconds / 1000)
    timer.startup_timer.reset()
    began = time.thread_time(), time.process_time()
    with contextlib.suppress(StartedError):
        webui.webui()
    found = {"thread": time.thread_time() - began[0], "process": time.process_time() - began[1]}
    result = {name: seconds * 1000 for name, seconds in found.items()} | {"collections": collections.milliseconds}
    result |= phases(timer.startup_timer.dump()["records"])
    return result | (watch.spent if watch is not None else {})


def phases(records: dict[str, float]) -> dict[str, float]:
    """The webui's phases in milliseconds, those with parts ("load scripts/name.py") without these."""
    found = {f"{PHASE}{name}": seconds * 1000 for name, seconds in records.items()}
    for name, seconds in records.items():
        whole, _, part = name.rpartition("/")
        if part and f"{PHASE}{whole}" in found:
            found[f"{PHASE}{whole}"] -= seconds * 1000
    return found


def watch_start(watch: Watch) -> None:
    """Time what the webui calls of an extension while it starts."""
    from modules import script_callbacks, script_loading, scripts

    load_module, add_callback = script_loading.load_module, script_callbacks.add_callback

    def load(path: str) -> Any:
        if not any(f"/{name}/" in path for name in (OURS, EMPTY)):
            return load_module(path)
        module = watch.wrap("script", load_module)(path)
        for found in list(vars(module).values()):
            if isinstance(found, type) and issubclass(found, scripts.Script):
                for name in {"ui", "show", "title"} & set(vars(found)):
                    setattr(found, name, watch.wrap("sections in txt2img and img2img", getattr(found, name)))
        return module

    @functools.wraps(add_callback)  # Modelsmith asks for its parameters
    def add(callbacks: Any, function: Any, **more: Any) -> None:
        if (getattr(function, "__module__", "") or "").startswith("modelsmith"):
            function = watch.wrap(str(more.get("category")), function)
        add_callback(callbacks, function, **more)

    script_loading.load_module, script_callbacks.add_callback = load, add


# pictures


class Switch:
    """Takes Modelsmith out of the running webui and puts it in again, as its removal and a reload of the UI do."""

    def __init__(self) -> None:
        from modules import script_callbacks, scripts

        self.runner, self.callbacks = scripts.scripts_txt2img, script_callbacks
        self.with_us = (list(self.runner.scripts), list(self.runner.alwayson_scripts))
        self.without_us = tuple([one for one in found if one.title() != "Modelsmith"] for found in self.with_us)
        self.denoiser = list(script_callbacks.callback_map["callbacks_cfg_denoiser"])
        unloaded = script_callbacks.callback_map["callbacks_script_unloaded"]
        self.installed = [one.callback.__self__ for one in unloaded if self._is_ours(one)]
        # In which order the webui calls scripts and callbacks, which it works out once; each side keeps its own.
        self.orders: dict[bool, tuple[dict[str, Any], dict[str, Any]]] = {True: ({}, {}), False: ({}, {})}
        self.on = True

    @staticmethod
    def _is_ours(callback: Any) -> bool:
        return str(callback.callback.__module__).startswith("modelsmith_webui")

    def turn(self, on: bool) -> None:
        for part in self.installed:
            (part.install if on else part.uninstall)()
        if on:
            self.installed[0].reapply()
        scripts, always = self.with_us if on else self.without_us
        self.runner.scripts[:], self.runner.alwayson_scripts[:] = scripts, always
        listed = self.callbacks.callback_map["callbacks_cfg_denoiser"]
        listed[:] = [one for one in self.denoiser if on or not self._is_ours(one)]
        now = self.runner.callback_map, self.callbacks.ordered_callbacks_map
        self.orders[self.on] = (dict(now[0]), dict(now[1]))
        for order, kept in zip(now, self.orders[on], strict=True):
            order.clear()
            order.update(kept)
        self.on = on


def load(checkpoint: str) -> None:
    """Load a checkpoint and put zeros in place of what its network and its VAE compute: they cost the same anyway.

    The probe, which is there to build narrow models, looks at every step: that would hide small differences.
    """
    import torch
    from modules import script_callbacks, shared

    torch.set_num_threads(1)
    shared.opts.data["sd_model_checkpoint"] = checkpoint
    model = shared.sd_model
    for listed in script_callbacks.callback_map.values():
        listed[:] = [one for one in listed if "modelsmith_probe" not in str(one.callback.__module__)]
    script_callbacks.ordered_callbacks_map.clear()
    model.model.diffusion_model.forward = lambda x, *_args, **_more: torch.zeros_like(x)
    model.first_stage_model.decode = lambda z, *_args: torch.zeros(len(z), 3, SIZE, SIZE)


def make(api: Any, rescale: str) -> float:
    """Milliseconds of processor time of one picture, made as the API makes it."""
    from modules.api import models

    own = {"Modelsmith": {"args": ["Automatic", "Automatic", rescale]}} if rescale else {}
    request = models.StableDiffusionTxt2ImgProcessingAPI(
        prompt="a cat",
        negative_prompt="a dog",
        steps=STEPS,
        width=SIZE,
        height=SIZE,
        seed=1,
        sampler_name="Euler",
        scheduler="SGM Uniform",
        alwayson_scripts=own,
    )
    began = time.thread_time()
    api.text2imgapi(request)
    return (time.thread_time() - began) * 1000


def pictures(checkpoint: str, count: int, rescale: str) -> dict[str, Any]:
    """Pictures with and without Modelsmith in turns, then as many in which its own functions are timed."""
    import webui

    made: list[Any] = []
    create_api = webui.create_api
    webui.create_api = lambda app: made.append(create_api(app))
    start(f"{OURS}+{PROBE}")
    load(checkpoint)
    switch = Switch()
    found: dict[str, Any] = {"with": [], "without": [], "inside": []}
    for index in range(-WARM_UP, 0 if rescale else count):
        for on in (index % 2 == 0, index % 2 != 0):
            switch.turn(on)
            milliseconds = make(made[0], "")
            if index >= 0:
                found["with" if on else "without"].append(milliseconds)
    switch.turn(True)
    watch = Watch()
    for module, owner, names in INSIDE:
        home = sys.modules.get(module) or __import__(module, fromlist=["x"])
        for name in names:
            watch.wrap_in(getattr(home, owner) if owner else home, name)
    for one in switch.callbacks.callback_map["callbacks_cfg_denoiser"]:
        if switch._is_ours(one):
            one.callback = watch.wrap("cfg_denoiser", one.callback)
    for index in range(-WARM_UP, count):
        watch.spent = {}
        make(made[0], rescale)
        if index >= 0:
            found["inside"].append(watch.spent)
    return found


def main() -> None:
    task = json.loads(sys.argv[1])
    root, data = Path(task["webui"]), Path(task["data"])
    os.chdir(root)
    sys.path[0] = str(root)
    sys.argv = ["launch.py", *ARGUMENTS, "--data-dir", str(data), "--port", str(task["port"])]
    said, sys.stdout = sys.stdout, sys.stderr
    import webui  # noqa: F401  # pyright: ignore[reportMissingImports]

    log = data / "fork.log"

    def tell(kind: str, name: str, found: Any) -> None:
        print(json.dumps({"kind": kind, "name": name, "found": found}), file=said, flush=True)

    for name in (EMPTY, OURS):  # compiles, once in an installation's life
        tell("first", name, forked(functools.partial(start, name), log))
    for index in range(task["starts"]):
        for name in (EMPTY, OURS)[:: 1 if index % 2 else -1]:
            tell("start", name, forked(functools.partial(start, name), log))
    for _ in range(task["parts"]):
        for name in (EMPTY, OURS):
            tell("parts", name, forked(lambda name=name: start(name, Watch()), log))
    for checkpoint, rescale in task["pictures"]:
        made = forked(functools.partial(pictures, checkpoint, task["count"], rescale), log)
        tell("pictures", checkpoint + (f", CFG rescale {rescale}" if rescale else ""), made)


if __name__ == "__main__":
    main()
