"""Methods by likeness, order, neighbourhood and rank, each against a reference written another way."""

from __future__ import annotations

import itertools
import math
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from merge.models import Model, tensors, write_model
from modelsmith.errors import Cancelled
from modelsmith.merge import statistics
from modelsmith.merge.engine import run_merge
from modelsmith.merge.in_memory import merge_to_tensors
from modelsmith.merge.methods import get_method
from modelsmith.merge.methods.matrices import rotation_power
from modelsmith.merge.methods.signals import gaussian, median_of_neighbours
from modelsmith.merge.methods.spec import FirstPass
from modelsmith.merge.plan import MergePlan, plan_merge
from modelsmith.merge.request import MergeProgress, MergeRequest

Models = tuple[Path, Path, Path]


def apply(name: str, *operands: Tensor, **given: Any) -> Tensor:
    spec = get_method(name)
    extra = {key: value for key, value in given.items() if key == "seed" or key in spec.statistics}
    values = spec.fill({key: value for key, value in given.items() if key not in extra})
    return spec.function()(*operands, **{**values, **extra})


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def mirrored(place: int, size: int) -> int:
    while not 0 <= place < size:
        place = -1 - place if place < 0 else 2 * size - 1 - place
    return place


def by_neighbours(values: np.ndarray, reach: int, what: Any) -> np.ndarray:
    result = np.empty_like(values)
    for place in np.ndindex(*values.shape):
        window = [
            values[tuple(mirrored(p + s, n) for p, s, n in zip(place, shift, values.shape, strict=True))]
            for shift in itertools.product(range(-reach, reach + 1), repeat=values.ndim)
        ]
        result[place] = what(window)
    return result


@pytest.mark.parametrize("shape", [(9,), (1,), (5, 4), (1, 7), (2, 3, 3, 3), (3, 2, 1, 1)])
def test_the_filters_of_smooth_add_by_hand(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    values = randn(*shape)
    wanted = torch.from_numpy(by_neighbours(values.numpy(), 1, np.median))
    assert torch.equal(median_of_neighbours(values), wanted)
    monkeypatch.setattr("modelsmith.merge.methods.signals._WINDOW_VALUES", 1)  # a row at a time
    assert torch.equal(median_of_neighbours(values), wanted)
    line = [math.exp(-(k**2) / 2) for k in range(-4, 5)]
    weights = np.prod(np.array(list(itertools.product(line, repeat=len(shape)))), axis=1) / sum(line) ** len(shape)
    if len(shape) < 4:
        smooth = by_neighbours(values.numpy(), 4, lambda window: float(np.dot(window, weights)))
        torch.testing.assert_close(gaussian(values), torch.from_numpy(smooth), rtol=1e-12, atol=1e-12)
    a, b, c = randn(*shape), randn(*shape), randn(*shape)
    found = apply("smooth_add", a, b, c, alpha=0.7)
    torch.testing.assert_close(found, a + 0.7 * gaussian(median_of_neighbours(b - c)))


def test_smooth_add_takes_out_an_outlier_and_keeps_a_constant() -> None:
    a, c = torch.zeros(9, 9), torch.zeros(9, 9)
    b = torch.full((9, 9), 2.0)
    torch.testing.assert_close(apply("smooth_add", a, b, c, alpha=1.0), b)
    spike = c.clone()
    spike[4, 4] = 100.0
    assert torch.equal(apply("smooth_add", a, spike, c, alpha=1.0), a)


def supermergers_likeness(a: np.ndarray, b: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """What each tensor adds to the range, and its own likeness, by the formulas of mergers.py."""
    one, other = (np.atleast_1d(values).reshape(len(np.atleast_1d(values)), -1) for values in (a, b))
    columns = (one * other).sum(0) / np.sqrt((one**2).sum(0) * (other**2).sum(0))
    if kind == "cosine_a":
        one, other = one / np.sqrt((one**2).sum(0)), other / np.sqrt((other**2).sum(0))
    whole = (one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum())
    likeness = (columns + whole) / 2
    return (columns if kind == "cosine_a" else likeness), likeness


@pytest.mark.parametrize("kind", ["cosine_a", "cosine_b"])
@pytest.mark.parametrize("piece", [1 << 21, 64])
def test_cosine_through_both_passes(
    abc: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, piece: int
) -> None:
    monkeypatch.setattr(statistics, "PIECE", piece)
    plan = plan_merge(MergeRequest(abc[:2], kind, tmp_path / "o.safetensors", {"alpha": 0.25}))
    found = load_file(str(run_merge(plan).path))
    a, b = (load_file(str(path)) for path in abc[:2])
    names = [name for name in a if a[name].is_floating_point() and a[name].numel()]
    told = {name: supermergers_likeness(a[name].double().numpy(), b[name].double().numpy(), kind) for name in names}
    sims = np.concatenate([told[name][0] for name in names if not name.startswith("first_stage_model.")])
    sims = sims[sims >= np.percentile(sims, 1, method="midpoint")]
    sims = sims[sims <= np.percentile(sims, 99, method="midpoint")]
    for name in names:
        k = np.clip((told[name][1] - sims.min()) / (sims.max() - sims.min()) - 0.25, 0, 1)
        k = torch.from_numpy(k).reshape(1, *a[name].shape[1:])
        wanted = b[name].double() * (1 - k) + a[name].double() * k
        # fp32 sums of the range move k by some 1e-6; then one rounding to fp16.
        torch.testing.assert_close(found[name].double(), wanted.reshape(a[name].shape), rtol=6e-4, atol=3e-7)


def test_the_ends_of_cosine() -> None:
    a, b = randn(6, 8), randn(6, 8)
    for kind in ("cosine_a", "cosine_b"):
        assert torch.equal(apply(kind, a, b, alpha=1.0, low=-1.0, high=1.0), b)
        assert torch.equal(apply(kind, a, b, alpha=0.0, low=-3.0, high=-2.0), a)
        assert torch.equal(apply(kind, a, a, alpha=0.3, low=1.0, high=1.0), a)


def planned(models: tuple[Path, ...], folder: Path, **given: Any) -> MergePlan:
    return plan_merge(MergeRequest(models, "cosine_a", folder / "o.safetensors", overwrite=True, **given))


def test_the_first_pass_is_done_once_and_also_in_memory(abc: Models, tmp_path: Path) -> None:
    plan = planned(abc[:2], tmp_path, block_weights={"alpha": "GRAD_V"})
    settled = statistics.settled(plan)
    assert statistics.settled(settled) is settled
    file = load_file(str(run_merge(plan).path))
    memory = merge_to_tensors(plan).tensors
    assert all(torch.equal(memory[name], tensor) for name, tensor in file.items())
    with pytest.raises(Cancelled):
        run_merge(plan, cancelled=lambda: True)
    other = plan_merge(MergeRequest(abc[:2], "slerp", tmp_path / "p.safetensors"))
    assert statistics.settled(other) is other


def test_the_first_pass_reports_stops_at_once_and_knows_no_threads(
    abc: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "PIECE", 64)
    plan = planned(abc[:2], tmp_path)
    seen: list[MergeProgress] = []
    numbers = {
        tuple(statistics.settled(plan, statistics.Watch(seen.append, None, threads)).jobs[0].parameters.items())
        for threads in (1, 2, 5)
    }
    assert len(numbers) == 1
    assert {one.stage for one in seen} == {"measuring"} and seen[-1].done_bytes == seen[-1].total_bytes > 0

    def slow(*pieces: torch.Tensor) -> torch.Tensor:
        time.sleep(0.2)
        return torch.zeros(3, 1)

    monkeypatch.setattr("modelsmith.merge.methods.spec._FIRST_PASSES", {"cosine_a": FirstPass(slow, slow, dict)})
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        statistics.settled(plan, statistics.Watch(None, lambda: True, 2))
    assert time.monotonic() - begun < 5  # hundreds of pieces would take minutes
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("modelsmith-measure")]


def test_the_first_pass_leaves_wide_convolutions_and_zeros_in_peace(tmp_path: Path) -> None:
    a = write_model(tmp_path / "a.safetensors", Model(seed=1, in_channels=9))
    state = tensors(Model(seed=2))
    state["model.diffusion_model.out.0.bias"].zero_()
    b = tmp_path / "b.safetensors"
    save_file(state, str(b))
    found = load_file(str(run_merge(planned((a, b), tmp_path)).path))
    assert all(bool(tensor.isfinite().all()) for tensor in found.values() if tensor.is_floating_point())


@pytest.mark.parametrize(("alpha", "beta"), [(0.25, 0.0), (0.5, 0.25), (0.5, 0.75), (1.0, 0.4), (0.0, 0.3)])
def test_top_k_by_ranks(alpha: float, beta: float) -> None:
    a, b = randn(40), randn(40)
    rank_of_b = {place: rank for rank, place in enumerate(sorted(range(40), key=lambda i: float(b[i])))}
    ordered = sorted(a.tolist())
    moved = [ordered[rank_of_b[i]] for i in range(40)]
    magnitude_rank = {value: rank for rank, value in enumerate(sorted(a.tolist(), key=abs), start=1)}
    begin, end = beta * 40, (beta + alpha) * 40
    wanted = []
    for i in range(40):
        rank = magnitude_rank[moved[i]]
        inside = begin < rank <= end or (end > 40 and rank <= end - 40)
        wanted.append(moved[i] if inside else float(a[i]))
    assert apply("top_k_tensor_sum", a, b, alpha=alpha, beta=beta).tolist() == wanted
    if alpha == 1.0:
        assert sorted(apply("top_k_tensor_sum", a, b, alpha=1.0, beta=beta).tolist()) == ordered


@pytest.mark.parametrize("size", [16, 17])
@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.0), (0.5, 0.4), (0.9, 1.0)])
def test_crossover_by_a_plain_fourier_sum(size: int, alpha: float, beta: float) -> None:
    a, b, c = randn(size), randn(size), randn(size)
    order = np.argsort(c.numpy(), kind="stable")
    spectra = [np.fft.fft(values.numpy()[order]) for values in (a, b)]
    count = size // 2 + 1
    cut = (1 - alpha) * (1 + beta) - beta / 2
    share = np.zeros(size)
    for k in range(size):
        f = min(k, size - k) / count
        share[k] = min(1.0, max(0.0, (f - cut) / beta + 0.5)) if beta else float(f >= cut)
    mixed = np.fft.ifft(spectra[0] * (1 - share) + spectra[1] * share).real
    wanted = np.empty(size)
    wanted[order] = mixed
    found = apply("distribution_crossover", a, b, c, alpha=alpha, beta=beta)
    torch.testing.assert_close(found, torch.from_numpy(wanted))


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_ends_of_crossover_are_a_and_b(beta: float) -> None:
    a, b, c = randn(3, 7), randn(3, 7), randn(3, 7)
    assert torch.equal(apply("distribution_crossover", a, b, c, alpha=0.0, beta=beta), a)
    assert torch.equal(apply("distribution_crossover", a, b, c, alpha=1.0, beta=beta), b)
    if beta:  # without an edge the mean, frequency 0, is A's until the very end
        torch.testing.assert_close(apply("distribution_crossover", a, b, c, alpha=1 - 1e-12, beta=beta), b)


def test_comparative_interpolation_by_hand() -> None:
    a = torch.zeros(4, dtype=torch.float64)
    b = torch.tensor([0.0, 1.0, -2.0, 4.0]).double()
    # distances 0, 1/4, 1/2, 1; alpha 1/3 squares the likeness.
    alike = apply("comparative_interpolation", a, b, alpha=1 / 3, beta=0, gamma=1.0, seed=1)
    torch.testing.assert_close(alike, torch.tensor([0.0, 0.5625, -0.5, 0.0]).double())
    unlike = apply("comparative_interpolation", a, b, alpha=1 / 3, beta=1, gamma=1.0, seed=1)
    torch.testing.assert_close(unlike, torch.tensor([0.0, 0.0625, -0.5, 4.0]).double())
    for beta in (0, 1):
        assert torch.equal(apply("comparative_interpolation", a, b, alpha=1.0, beta=beta, gamma=0.3, seed=1), b)
        assert torch.equal(apply("comparative_interpolation", a, b, alpha=0.0, beta=beta, gamma=0.3, seed=1), a)


def test_draws_by_likeness_are_seeded_and_have_the_chance_as_their_mean() -> None:
    a, b = torch.zeros(100_001), torch.ones(100_001)
    b[-1] = 2.0  # all others are half as far: alpha 1/2 gives them the chance 1/2
    found = apply("comparative_interpolation", a, b, alpha=0.5, beta=0, gamma=0.0, seed=5)
    assert torch.equal(found, apply("comparative_interpolation", a, b, alpha=0.5, beta=0, gamma=0.0, seed=5))
    assert set(found[:-1].unique().tolist()) == {0.0, 1.0}
    assert abs(float(found[:-1].mean()) - 0.5) < 5 * math.sqrt(0.25 / 100_000)


def test_enhanced_interpolation_keeps_columns_outside_the_thresholds() -> None:
    a = torch.zeros(2, 3, dtype=torch.float64)
    b = torch.tensor([[0.0, 2.0, 4.0], [0.4, 2.0, 4.0]]).double()
    # Mean likeness of the columns: 0.95, 0.5, 0.
    found = apply("enhanced_interpolation", a, b, alpha=0.5, low=0.25, high=0.75, gamma=1.0, seed=1)
    torch.testing.assert_close(found, torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]).double())
    found = apply("enhanced_interpolation", a, b, alpha=1.0, low=0.25, high=1.0, gamma=1.0, seed=1)
    torch.testing.assert_close(found, torch.tensor([[0.0, 2.0, 0.0], [0.4, 2.0, 0.0]]).double())


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (4, 3, 3, 3), (6, 4, 1, 1)])
def test_rotate_brings_a_rotated_model_home(shape: tuple[int, ...]) -> None:
    a = randn(*shape)
    size = 9 if shape[-1] == 3 else min(shape[0], math.prod(shape[1:]))
    q = torch.linalg.qr(randn(size, size))[0]
    if float(torch.linalg.det(q)) < 0:
        q[:, 0] *= -1
    matrix = a.reshape(-1, 9) if shape[-1] == 3 else a.reshape(shape[0], -1)
    wide = matrix.shape[0] < matrix.shape[1]
    b = (q.T @ matrix if wide else matrix @ q).reshape(shape)
    torch.testing.assert_close(apply("rotate", a, b, alignment=1.0, alpha=0.0), b, rtol=1e-9, atol=1e-9)
    half = apply("rotate", a, b, alignment=0.5, alpha=0.0)
    torch.testing.assert_close(apply("rotate", half, b, alignment=1.0, alpha=0.0), b, rtol=1e-8, atol=1e-8)


def test_rotate_keeps_lengths_and_has_its_ends() -> None:
    a, b = randn(20, 6), randn(20, 6)
    for alignment in (0.3, 1.0):
        found = apply("rotate", a, b, alignment=alignment, alpha=0.0)
        gram = [(x - x.mean(0)) @ (x - x.mean(0)).T for x in (a, found)]
        torch.testing.assert_close(gram[0], gram[1], rtol=1e-9, atol=1e-9)
    assert torch.equal(apply("rotate", a, b, alignment=1.0, alpha=1.0), b)
    torch.testing.assert_close(apply("rotate", a, b, alignment=0.0, alpha=0.0), a)
    near = apply("rotate", a, b, alignment=1.0, alpha=1 - 1e-12)
    torch.testing.assert_close(near, b, rtol=1e-9, atol=1e-9)


def test_powers_of_a_rotation() -> None:
    q = torch.linalg.qr(randn(7, 7))[0]
    if float(torch.linalg.det(q)) < 0:
        q[:, 0] *= -1
    third = rotation_power(q, 1 / 3)
    torch.testing.assert_close(third @ third @ third, q, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(rotation_power(q, 0.0), torch.eye(7, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(rotation_power(torch.eye(4).double(), 0.5), torch.eye(4).double())


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (6, 2, 3, 3)])
@pytest.mark.parametrize("rank", [0.0, 0.25, 0.5, 1.0])
def test_rank_truncation_is_the_nearest_of_its_rank(shape: tuple[int, ...], rank: float) -> None:
    a, b, c = randn(*shape), randn(*shape), randn(*shape)
    u, s, vh = np.linalg.svd((b - c).reshape(shape[0], -1).numpy(), full_matrices=False)
    kept = round(len(s) * rank)
    wanted = a + 0.5 * torch.from_numpy((u[:, :kept] * s[:kept]) @ vh[:kept]).reshape(shape)
    torch.testing.assert_close(apply("rank_truncation", a, b, c, alpha=0.5, rank=rank), wanted, rtol=1e-9, atol=1e-9)
    vector = apply("rank_truncation", a[0].reshape(-1), b[0].reshape(-1), c[0].reshape(-1), alpha=0.5, rank=rank)
    torch.testing.assert_close(vector, (a[0] + 0.5 * (b[0] - c[0])).reshape(-1))


def test_della_keeps_large_changes_more_often_and_its_mean() -> None:
    base = torch.zeros(200_000)
    b = torch.linspace(1.0, 2.0, 200_000)
    found = apply("della", base, b, density=0.5, window=0.4, seed=2)
    assert torch.equal(found, apply("della", base, b, density=0.5, window=0.4, seed=2))
    kept = (found != 0).float()
    low, high = float(kept[:20_000].mean()), float(kept[-20_000:].mean())
    deviation = 5 * math.sqrt(0.25 / 20_000)
    assert abs(low - 0.32) < deviation and abs(high - 0.68) < deviation
    assert abs(float(found.mean()) - 1.5) < 5 * 1.5 * math.sqrt(1 / 200_000)
    even = apply("della", base, b, density=1.0, window=0.0, seed=2)
    torch.testing.assert_close(even, b)


def test_dropout_averages_what_is_left() -> None:
    base, b, c = torch.zeros(100_000), torch.full((100_000,), 1.0), torch.full((100_000,), 3.0)
    found = apply("dropout", base, b, c, density=0.5, rescale=0.0, seed=4)
    assert set(found.unique().tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert abs(float((found == 2.0).float().mean()) - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 100_000)
    scaled = apply("dropout", base, b, c, density=0.5, rescale=1.0, seed=4)
    torch.testing.assert_close(scaled, found * 2)
    assert torch.equal(apply("dropout", base, b, c, density=0.0, rescale=1.0, seed=4), base)
    assert torch.equal(apply("dropout", base, b, density=1.0, rescale=1.0, seed=4), b)
