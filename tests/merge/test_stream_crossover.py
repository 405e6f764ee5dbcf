"""Distribution crossover through a temporary file: against numpy's own sort and Fourier transform of whole tensors."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import subprocess
import sys
import tempfile
import threading
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import modelsmith
from merge.models import Model, write_model
from modelsmith.errors import Cancelled, NoSpaceError
from modelsmith.files import output
from modelsmith.merge import scratch as scratch_module
from modelsmith.merge.engine import run_merge
from modelsmith.merge.in_memory import merge_to_tensors
from modelsmith.merge.methods import METHODS, stream_crossover
from modelsmith.merge.methods.stream_crossover import matrix_of
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.request import EngineOptions, MergeRequest
from modelsmith.merge.scratch import Scratch
from modelsmith.merge.streaming import StreamedTensor, streamed

LIBRARY = Path(modelsmith.__file__).parents[1]
SPEC = METHODS["distribution_crossover"]
TABLE = "conditioner.embedders.1.model.token_embedding.weight"
VARIED = [(0.3, 0.2), (0.5, 0.0), (0.9, 1.0), (0.02, 0.6)]
U32 = 2.0**-24


def models_of(shape: tuple[int, ...], stored: torch.dtype) -> list[Tensor]:
    """Few distinct values, so that equal ones abound, zeros of both signs among them."""
    return [torch.randn(shape).mul(8).round().div(64).to(stored) for _ in range(3)]


def begin(
    models: list[Tensor], alpha: float, beta: float, kind: torch.dtype = torch.float32, rows: int = 0,
    folder: Path | None = None,
) -> StreamedTensor:  # fmt: skip
    shape = tuple(models[0].shape)
    found = streamed(SPEC, shape, kind, tuple(model.dtype for model in models), rows * prod(shape[1:]))
    assert found is not None

    def load(model: int, first: int, count: int) -> Tensor:
        return models[model].reshape(-1)[first : first + count]

    return found.begin({"alpha": alpha, "beta": beta}, load, folder)


def joined(tensor: StreamedTensor) -> Tensor:
    whole = torch.cat([tensor.values(index) for index in range(tensor.whole.pieces)])
    tensor.close()
    return whole


def by_numpy(models: list[Tensor], alpha: float, beta: float) -> Tensor:
    """The method as its formula says it, in fp64."""
    a, b, c = (model.double().numpy().reshape(-1) for model in models)
    order = np.argsort(c, kind="stable")
    one, other = np.fft.rfft(a[order]), np.fft.rfft(b[order])
    frequencies = np.arange(len(one)) / len(one)
    cut = (1 - alpha) * (1 + beta) - beta / 2
    share = np.clip((frequencies - cut) / beta + 0.5, 0, 1) if beta else (frequencies >= cut).astype(float)
    mixed = np.empty(len(a))
    mixed[order] = np.fft.irfft(one * (1 - share) + other * share, n=len(a))
    return torch.from_numpy(mixed).reshape(models[0].shape)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor through a file, in many blocks."""
    monkeypatch.setattr(stream_crossover, "HELD", 1)
    monkeypatch.setattr(stream_crossover, "BLOCK", 400)


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (12, 3, 3, 3), (97,), (35, 9), (2, 1), (3,), (64, 48), (37, 41)])
@pytest.mark.parametrize(
    ("stored", "kind", "limit"),
    [
        (torch.float16, torch.float32, 4e-7),
        (torch.bfloat16, torch.float32, 4e-7),
        (torch.float16, torch.float64, 1e-15),
        (torch.float32, torch.float64, 1e-15),
        (torch.float64, torch.float64, 1e-15),
    ],
    ids=str,
)
def test_it_is_the_formula(shape: tuple[int, ...], stored: torch.dtype, kind: torch.dtype, limit: float) -> None:
    """Any number of values, prime ones and odd ones among them. Values are about 1/8; the limit is some ulp of that."""
    models = models_of(shape, stored)
    for alpha, beta in VARIED:
        found = joined(begin(models, alpha, beta, kind, rows=5))
        assert found.dtype == kind
        torch.testing.assert_close(found.double(), by_numpy(models, alpha, beta), rtol=0, atol=limit)


@pytest.mark.parametrize("shape", [(1280, 1280), (1021, 1031)])
@pytest.mark.parametrize("distance", [0.03, 0.002])
@pytest.mark.parametrize(("alpha", "beta"), [(0.4, 0.2), (0.5, 0.0)])
def test_how_exact_it_is(shape: tuple[int, ...], distance: float, alpha: float, beta: float) -> None:
    """A transform's error grows with the logarithm of the number of values and spreads evenly (N. J. Higham, Accuracy
    and Stability of Numerical Algorithms, section 24.1), here over B - A; adding that to A rounds once more. Held, the
    error is that of the transforms of A and of B themselves: the two ways agree within the sum of both."""
    a, c = torch.randn(shape) * 0.03, torch.randn(shape) * 0.03
    models = [a.half(), (a + torch.randn(shape) * distance).half(), c.half()]
    found = joined(begin(models, alpha, beta)).double()
    exact = by_numpy(models, alpha, beta)
    one, other = models[0].double(), models[1].double()
    steps = U32 * math.log2(prod(shape))

    def rms(values: Tensor) -> float:
        return float(values.square().mean().sqrt())

    assert rms(found - exact) <= 0.5 * steps * rms(other - one) + U32 * rms(exact)
    own = 2 * steps * rms(other - one) + U32 * exact.abs()
    assert bool(((found - exact).abs() <= own).all())
    held = SPEC.function()(*(model.float() for model in models), alpha=alpha, beta=beta).double()
    assert bool(((found - held).abs() <= own + 2 * steps * (rms(one) + rms(other))).all())


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_pieces_and_threads_change_no_bit(kind: torch.dtype) -> None:
    models = models_of((64, 18), torch.float16)
    expected = joined(begin(models, 0.4, 0.3, kind, rows=64))
    for rows in (1, 7, 30):
        tensor = begin(models, 0.4, 0.3, kind, rows)
        found: dict[int, Tensor] = {}

        def work(numbers: list[int], tensor: StreamedTensor = tensor, found: dict[int, Tensor] = found) -> None:
            for number in numbers:
                found[number] = tensor.values(number)

        numbers = list(range(tensor.whole.pieces))
        threads = [threading.Thread(target=work, args=(numbers[start::3][::-1],)) for start in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tensor.close()
        assert torch.equal(torch.cat([found[number] for number in numbers]), expected)


SPECIAL = [0.0, -0.0, math.nan, -math.nan, math.inf, -math.inf, 6e-8, -6e-8, 1.0, -1.0, 1.5, 448.0, -448.0]
KINDS = ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"]


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("name", [name for name in KINDS if hasattr(torch, name)])
def test_c_orders_as_a_stable_sort_does(name: str) -> None:
    """With NaN last, the two zeros alike, and values that no 16 bits tell apart."""
    stored: torch.dtype = getattr(torch, name)
    c = torch.cat([torch.tensor(SPECIAL * 9, dtype=torch.float64), 1 + torch.arange(63.0).double() * 2**-50])
    c = c[torch.randperm(len(c))].to(stored)
    models = [torch.randn(len(c)).double(), torch.randn(len(c)).double(), c]
    found = joined(begin(models, 0.4, 0.3, torch.float64, rows=11))
    torch.testing.assert_close(found, by_numpy(models, 0.4, 0.3), rtol=0, atol=1e-14)


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("c", [torch.zeros(30, 10), torch.arange(300.0).reshape(30, 10), -torch.arange(300.0)])
def test_c_may_be_all_alike_or_in_order(c: Tensor) -> None:
    a, b, _ = models_of((30, 10), torch.float16)
    models = [a, b, c.reshape(30, 10).half()]
    found = joined(begin(models, 0.6, 0.1, torch.float64, rows=4))
    torch.testing.assert_close(found, by_numpy(models, 0.6, 0.1), rtol=0, atol=1e-15)


@pytest.mark.usefixtures("_small")
def test_its_ends_are_a_and_b_and_nan_spreads_as_in_memory() -> None:
    models = models_of((20, 7), torch.float16)
    assert torch.equal(joined(begin(models, 0.0, 0.3, rows=3)), models[0].float())
    assert torch.equal(joined(begin(models, 1.0, 0.0, rows=3)), models[1].float())
    same = [models[0], models[0], models[2]]
    assert torch.equal(joined(begin(same, 0.4, 0.3, rows=3)), models[0].float())
    for which, value in itertools.product((0, 1), (math.nan, math.inf)):
        broken = [model.clone() for model in models]
        broken[which][3, 3] = value
        held = SPEC.function()(*(model.float() for model in broken), alpha=0.4, beta=0.3)
        assert bool(held.isnan().all()) and bool(joined(begin(broken, 0.4, 0.3, rows=3)).isnan().all())


def test_which_tensors_are_held() -> None:
    def is_held(*shape: int) -> bool:
        return streamed(SPEC, shape, torch.float32, (torch.float16,) * 3) is None

    assert is_held(640, 640) and not is_held(1280, 1280) and not is_held(49408, 1280)
    assert not is_held(262144, 2560) and not is_held(49409, 768)  # one more token: 49,409 is a prime
    assert is_held(3, 524309) and not is_held(3, 524287)  # the primes nearest to 2^19
    assert matrix_of(49408 * 1280) == (7720, 8192) and matrix_of(97) == (1, 97) and matrix_of(36) == (6, 6)


def test_the_file_has_no_name_and_is_gone_when_it_is_closed(tmp_path: Path) -> None:
    with Scratch(1 << 16, tmp_path) as file:
        if os.name == "posix":
            assert list(tmp_path.iterdir()) == []
        values = torch.randn(6, 5)
        file.write(values[:, 1:3], 100)
        file.write(values.to(torch.complex64)[:1, :1], 4000)
        assert torch.equal(file.read(torch.empty(6, 2), 100), values[:, 1:3])
        assert complex(file.read(torch.empty(1, dtype=torch.complex64), 4000)) == complex(values[0, 0])
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_the_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch_module, "free_bytes", lambda _: 1000)
    with pytest.raises(NoSpaceError, match="1,000 bytes free, the method keeps 5,000 there") as found:
        Scratch(5000, tmp_path)
    assert "4,000 bytes" in found.value.remedy and "空き" in found.value.in_language("ja")[0]
    assert list(tmp_path.iterdir()) == []


def wide_models(folder: Path) -> tuple[Path, ...]:
    """Three SDXL models whose token embedding has 1.3 million values."""
    return tuple(
        write_model(folder / f"{letter}.safetensors",
                    Model(seed=seed, extra={TABLE: (torch.randn(1024, 1280) * 0.05).half()}))
        for seed, letter in enumerate("abc", 1)
    )  # fmt: skip


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def test_a_merge_is_the_formula_whatever_threads_and_chunks(tmp_path: Path) -> None:
    models = wide_models(tmp_path)
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "o.safetensors"
    request = MergeRequest(models, SPEC.id, out, {"alpha": 0.4, "beta": 0.3}, overwrite=True)
    before, digests = descriptors(), set[str]()
    for threads, chunk in ((3, 8 << 20), (1, 4096 * 33), (2, 1 << 20)):
        run_merge(plan_merge(request), options=EngineOptions(threads, chunk))
        digests.add(hashlib.sha256(out.read_bytes()).hexdigest())
        assert list(folder.iterdir()) == [out] and descriptors() == before
    assert len(digests) == 1
    states = [load_file(str(path)) for path in models]
    exact = by_numpy([state[TABLE] for state in states], 0.4, 0.3)
    found = load_file(str(out))[TABLE]
    wrong = (found.double() - exact).abs()
    # One rounding to fp16 (at most half a unit of the last place), and what the test above allows before it.
    assert bool((wrong <= exact.abs() * 2**-11 + 2**-25 + 1e-6).all())


def test_a_merge_into_memory_has_its_file_where_the_system_keeps_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = wide_models(tmp_path)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    folders: list[Path] = []
    check = scratch_module.free_bytes
    monkeypatch.setattr(scratch_module, "free_bytes", lambda place: folders.append(place) or check(place))
    plan = plan_merge(MergeRequest(models, SPEC.id, tmp_path / "o.safetensors", {"alpha": 0.4, "beta": 0.3}))
    found = merge_to_tensors(plan).tensors
    assert folders == [folder] and list(folder.iterdir()) == []
    written = load_file(str(run_merge(plan).path))
    assert folders == [folder, tmp_path] and torch.equal(found[TABLE], written[TABLE])


def test_scaled_fp8_makes_the_values_twice(tmp_path: Path) -> None:
    """Once for the largest of them, once to be written."""
    key = "model.diffusion_model.input_blocks.1.1.extra.weight"
    large = {key: torch.randn(1024, 1024).half()}
    models = tuple(
        write_model(tmp_path / f"{n}.safetensors",
                    Model(seed=n, extra={key: (large[key].float() + torch.randn(1024, 1024) / 9).half()}))
        for n in range(3)
    )  # fmt: skip
    before = descriptors()
    request = MergeRequest(models, SPEC.id, tmp_path / "o.safetensors", {"alpha": 0.4, "beta": 0.3},
                           component_dtypes={"unet": "fp8_scaled"})  # fmt: skip
    found = load_file(str(run_merge(plan_merge(request)).path))
    assert descriptors() == before
    exact = by_numpy([load_file(str(path))[key] for path in models], 0.4, 0.3)
    scale = float(found[key.replace(".weight", ".scale_weight")])
    assert scale == pytest.approx(float(exact.abs().max()) / 448, rel=1e-5)
    # e4m3 has three bits after the first one, and steps of 2^-9 below 2^-6.
    wrong = (found[key].double() * scale - exact).abs()
    assert bool((wrong <= exact.abs() * 2**-4 + scale * 2**-10 + 1e-5).all())


@pytest.mark.parametrize("passes", [0, 2, 5])
def test_cancelling_in_any_pass_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: int) -> None:
    models = wide_models(tmp_path)
    folder = tmp_path / "out"
    folder.mkdir()
    plan = plan_merge(MergeRequest(models, SPEC.id, folder / "o.safetensors", {"alpha": 0.4}))
    reached, seen, done = threading.Event(), threading.Event(), itertools.count()

    def between() -> None:
        if next(done) == passes:
            reached.set()
            assert seen.wait(60)

    def cancelled() -> bool:
        if reached.is_set():
            seen.set()
        return seen.is_set()

    monkeypatch.setattr(stream_crossover, "give_memory_back", between)
    before = descriptors()
    with pytest.raises(Cancelled):
        run_merge(plan, cancelled=cancelled, options=EngineOptions(2))
    assert list(folder.iterdir()) == [] and descriptors() == before


# Three threads make a tensor that is made up piece by piece; prints what they took beyond the start.
CHILD = """
import sys, threading, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
from modelsmith.merge.kernels import keep_memory
from modelsmith.merge.methods import METHODS
from modelsmith.merge.streaming import streamed
def anonymous():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon")) * 1024
def load(model, first, count):
    generator = torch.Generator().manual_seed(first * 3 + model)
    return (torch.randn(count, generator=generator) * 0.05).half()
keep_memory()
shape = (int(sys.argv[3]), 1280)
method = streamed(METHODS["distribution_crossover"], shape, torch.float32, (torch.float16,) * 3)
tensor = method.begin({"alpha": 0.4, "beta": 0.2}, load, Path(sys.argv[2]))
def work(start):
    torch.set_num_threads(1)
    for number in range(start, tensor.whole.pieces, 3):
        tensor.values(number)
threads = [threading.Thread(target=work, args=(start,)) for start in range(3)]
base = peak = anonymous()
for thread in threads:
    thread.start()
while any(thread.is_alive() for thread in threads):
    peak = max(peak, anonymous())
    time.sleep(0.002)
tensor.close()
print(peak - base)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's /proc")
def test_memory_does_not_follow_the_size(tmp_path: Path) -> None:
    """13 million values, which held take 1.2 GB."""
    command = [sys.executable, "-c", CHILD, str(LIBRARY), str(tmp_path), "10240"]
    taken = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert taken < 250 << 20


def test_a_disk_that_fills_up_is_said_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = wide_models(tmp_path)
    folder = tmp_path / "out"
    folder.mkdir()
    plan = plan_merge(MergeRequest(models, SPEC.id, folder / "o.safetensors", {"alpha": 0.4}))
    write = output.OutputFile._write_plain

    def full(self: output.OutputFile, data: memoryview, offset: int) -> int:
        if "modelsmith-values" in self.target.name and offset > 1 << 20:
            raise OSError(28, "No space left on device")
        return write(self, data, offset)

    monkeypatch.setattr(output.OutputFile, "_write_plain", full)
    before = descriptors()
    with pytest.raises(NoSpaceError, match="filled up"):
        run_merge(plan)
    assert list(folder.iterdir()) == [] and descriptors() == before
