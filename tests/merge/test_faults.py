"""Kills, full disks, and what is left afterwards: the target holds the old file or the whole new one."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import modelsmith
from merge.models import Model, tensors, write_model
from merge.reference import worst_ulp
from modelsmith.errors import NoSpaceError
from modelsmith.files.output import clear_leftovers
from modelsmith.merge import engine as engine_module
from modelsmith.merge.engine import run_merge
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.request import EngineOptions, MergeProgress, MergeRequest

LIBRARY = Path(modelsmith.__file__).parents[1]
POINTS = 50
CHUNK = 32768

# A server that merges again and again, each time in a child of its own, so that torch is imported and the merge
# planned once for all points.
CHILD = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
from modelsmith.merge.engine import run_merge
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.request import EngineOptions, MergeRequest
a, b, out = (Path(path) for path in sys.argv[2:5])
plan = plan_merge(MergeRequest((a, b), "weighted_sum", out, {"alpha": 0.3}, overwrite=True))
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        print("started", os.getpid(), flush=True)
        run_merge(plan, options=EngineOptions(threads=2, chunk_bytes=int(sys.argv[5])))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print("ended", os.WIFSIGNALED(status), flush=True)
"""


def big(seed: int) -> Model:
    """A model of some 8 MB, which in small chunks takes long enough to be hit."""
    import torch

    extra = {
        f"model.diffusion_model.input_blocks.1.1.extra.{number}.weight": torch.randn(1024, 1024).half()
        for number in range(4)
    }
    return Model(seed=seed, extra=extra)


@pytest.mark.slow
def test_killed_at_any_point(tmp_path: Path) -> None:
    sources = tmp_path / "in"
    sources.mkdir()
    a, b = write_model(sources / "a.safetensors", big(1)), write_model(sources / "b.safetensors", big(2))
    folder = tmp_path / "out"
    folder.mkdir()
    target = folder / "merged.safetensors"
    result = run_merge(plan_merge(MergeRequest((a, b), "weighted_sum", target, {"alpha": 0.3})),
                       options=EngineOptions(threads=2, chunk_bytes=CHUNK))  # fmt: skip
    whole, length = target.read_bytes(), result.seconds
    old = b"the old file"
    chance = random.Random(5)
    killed = finished = 0
    command = [sys.executable, "-c", CHILD, str(LIBRARY), str(a), str(b), str(target), str(CHUNK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        for _ in range(POINTS):
            target.write_bytes(old)
            server.stdin.write("go\n")
            server.stdin.flush()
            pid = int(server.stdout.readline().split()[1])
            time.sleep(chance.random() * length * 1.2)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            was_killed = server.stdout.readline().split()[1] == "True"
            killed += was_killed
            # What a merge takes changes with what else the machine does.
            length *= 1.05 if was_killed else 0.9
            content = target.read_bytes()
            assert content in (old, whole)
            finished += content == whole
            clear_leftovers(folder)
            assert os.listdir(folder) == ["merged.safetensors"]
        server.stdin.close()
    assert killed >= POINTS // 3, f"only {killed} of {POINTS} merges were hit"


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abc: tuple[Path, Path, Path]) -> None:
    target = tmp_path / "merged.safetensors"
    target.write_bytes(b"old")
    plan = plan_merge(MergeRequest(abc[:2], "weighted_sum", target, {"alpha": 0.3}, overwrite=True))
    real = os.pwrite
    written = 0

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        nonlocal written
        if written > 500_000:
            raise OSError(28, "No space left on device")
        written += len(data)
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(NoSpaceError) as caught:
        run_merge(plan, options=EngineOptions(threads=3, chunk_bytes=65536))
    assert str(tmp_path) in str(caught.value)
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["merged.safetensors"]


LIMITED = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
from modelsmith.errors import NoSpaceError
from modelsmith.merge.engine import run_merge
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.request import EngineOptions, MergeRequest
a, b, out = (Path(path) for path in sys.argv[2:5])
plan = plan_merge(MergeRequest((a, b), "weighted_sum", out, {"alpha": 0.3}, overwrite=True))
resource.setrlimit(resource.RLIMIT_FSIZE, (plan.output_bytes // 2, resource.RLIM_INFINITY))
try:
    run_merge(plan, options=EngineOptions(threads=2, chunk_bytes=4096))
except NoSpaceError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a process's files")
def test_the_system_refuses_to_let_the_file_grow(tmp_path: Path, abc: tuple[Path, Path, Path]) -> None:
    target = tmp_path / "merged.safetensors"
    target.write_bytes(b"old")
    command = [sys.executable, "-c", LIMITED, str(LIBRARY), *map(str, abc[:2]), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert str(tmp_path) in done.stdout and "bytes" in done.stdout
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["merged.safetensors"]


def test_no_space_is_known_when_planning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abc: tuple[Path, Path, Path]
) -> None:
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(NoSpaceError) as caught:
        plan_merge(MergeRequest(abc[:2], "weighted_sum", tmp_path / "o.safetensors"))
    assert "1,000 bytes free" in str(caught.value) and str(tmp_path) in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_an_error_inside_a_worker_reaches_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abc: tuple[Path, Path, Path]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken kernel")

    monkeypatch.setattr(engine_module, "copy_values", broken)
    plan = plan_merge(MergeRequest(abc[:2], "weighted_sum", tmp_path / "o.safetensors", {"alpha": 0.0}))
    with pytest.raises(RuntimeError, match="broken kernel"):
        run_merge(plan, options=EngineOptions(threads=3, chunk_bytes=4096))
    assert os.listdir(tmp_path) == []


MEMORY = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
from modelsmith.merge.engine import run_merge
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.request import MergeRequest

def anonymous():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon")) * 1024

peak = 0
def watch(_):
    global peak
    peak = max(peak, anonymous())

a, b, out = (Path(path) for path in sys.argv[2:5])
plan = plan_merge(MergeRequest((a, b), sys.argv[5], out, {"alpha": 0.3}))
run_merge(plan, watch)
print(peak)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_one_huge_tensor(tmp_path: Path) -> None:
    """Holding one operand and the result of 192 MiB each would go beyond the limit already."""
    import torch

    key, times = "model.diffusion_model.input_blocks.1.1.extra.weight", 192
    ends: list[torch.Tensor] = []
    for seed in (1, 2):
        state = tensors(Model(seed=seed))
        ends.append(torch.randn(1024, 512).half())
        state[key] = ends[-1].repeat(times, 1)
        save_file(state, str(tmp_path / f"{seed}.safetensors"))
        del state
    paths = [str(tmp_path / name) for name in ("1.safetensors", "2.safetensors", "o.safetensors")]
    done = subprocess.run([sys.executable, "-c", MEMORY, str(LIBRARY), *paths, "weighted_sum"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert 20_000_000 < int(done.stdout) < 350_000_000
    found = load_file(paths[2])[key].reshape(times, 1024, 512)
    assert all(torch.equal(part, found[0]) for part in found)
    exact = ends[0].double() + (ends[1].double() - ends[0].double()) * 0.3
    assert worst_ulp(found[0], exact) <= 0.502


def test_progress_moves_while_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abc: tuple[Path, Path, Path]
) -> None:
    seen: list[MergeProgress] = []
    fill = engine_module._fill  # pyright: ignore[reportPrivateUsage]

    def slow(*given: object) -> None:
        time.sleep(0.002)
        fill(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(engine_module, "_fill", slow)
    run_merge(
        plan_merge(MergeRequest(abc[:2], "weighted_sum", tmp_path / "o.safetensors", {"alpha": 0.3})),
        seen.append,
        options=EngineOptions(1, 4096),
    )
    assert len({step.done_bytes for step in seen}) > 2
