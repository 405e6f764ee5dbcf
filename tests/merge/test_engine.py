"""Merged files against an fp64 reference, whatever the cut of the work."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from merge.models import Model, tensors, write_model
from merge.reference import compare, worst_ulp
from modelsmith.errors import BadFileError, Cancelled, MergeError
from modelsmith.merge.blocks import LAYOUTS
from modelsmith.merge.engine import run_merge
from modelsmith.merge.kernels import Kernel
from modelsmith.merge.methods import get_method
from modelsmith.merge.plan import plan_merge
from modelsmith.merge.presets import PRESETS, fold_to_sdxl
from modelsmith.merge.request import EngineOptions, MergeProgress, MergeRequest, MergeResult

Models = tuple[Path, Path, Path]
LIMIT = 0.502


def merge(request: MergeRequest, options: EngineOptions | None = None) -> MergeResult:
    return run_merge(plan_merge(request), options=options)


@pytest.mark.parametrize("alpha", [0.5, 0.3, 0.7, 0.123456789, -0.4, 1.7])
def test_weighted_sum_is_rounded_once(abc: Models, tmp_path: Path, alpha: float) -> None:
    out = tmp_path / "o.safetensors"
    merge(MergeRequest(abc[:2], "weighted_sum", out, {"alpha": alpha}))
    worst, result = compare(out, abc[:2], lambda _, t: t[0] + (t[1] - t[0]) * alpha)
    assert worst <= LIMIT
    assert result.keys() == load_file(str(abc[0])).keys()


@pytest.mark.parametrize("alpha", [1.0, 0.3, 0.77, -1.25, 2.0])
def test_add_difference_is_rounded_once(abc: Models, tmp_path: Path, alpha: float) -> None:
    out = tmp_path / "o.safetensors"
    merge(MergeRequest(abc, "add_difference", out, {"alpha": alpha}))
    worst, _ = compare(out, abc, lambda _, t: t[0] + (t[1] - t[2]) * alpha)
    assert worst <= LIMIT


@pytest.mark.parametrize("method", ["weighted_sum", "add_difference"])
@pytest.mark.parametrize("preset", ["GRAD_V", "COSINE", "RING08_SOFT"])
def test_block_weights_reach_their_tensors(abc: Models, tmp_path: Path, method: str, preset: str) -> None:
    out = tmp_path / "o.safetensors"
    models = abc if method == "add_difference" else abc[:2]
    merge(MergeRequest(models, method, out, {"alpha": 0.4}, {"alpha": f"{preset},CLIP_G=0.9"}))
    row = dict(zip(LAYOUTS["sdxl"].positional, fold_to_sdxl(PRESETS[preset]), strict=True))

    def weight(name: str) -> float:
        # Worked out from the names alone, apart from the table of blocks.
        parts = name.removeprefix("model.diffusion_model.").split(".")
        if name.startswith("conditioner.embedders.1"):
            return 0.9
        if name.startswith("first_stage_model"):
            return row["VAE"]
        first = {"input_blocks": "IN", "output_blocks": "OUT"}.get(parts[0])
        if first:
            return row[f"{first}{int(parts[1]):02d}"]
        return row[
            {"middle_block": "M00", "time_embed": "IN00", "label_emb": "IN00", "out": "OUT08"}.get(parts[0], "BASE")
        ]

    def formula(name: str, t: list[Tensor]) -> Tensor:
        return t[0] + (t[1] - (t[2] if method == "add_difference" else t[0])) * weight(name)

    assert compare(out, models, formula)[0] <= LIMIT


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("kinds", [(torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16),
                                   (torch.float32, torch.float16), (torch.float32, torch.float32)])  # fmt: skip
def test_every_precision_in_and_out(tmp_path: Path, dtype: str, kinds: tuple[torch.dtype, torch.dtype]) -> None:
    models = tuple(
        write_model(tmp_path / f"{number}.safetensors", Model("sd1", seed=number, dtype=kind))
        for number, kind in enumerate((*kinds, kinds[0]))
    )
    for method, count in (("weighted_sum", 2), ("add_difference", 3)):
        out = tmp_path / f"{method}.safetensors"
        merge(MergeRequest(models[:count], method, out, {"alpha": 0.3}, dtype=dtype))
        worst, result = compare(out, models[:count], lambda _, t: t[0] + (t[1] - t[-1 if len(t) == 3 else 0]) * 0.3)
        assert worst <= LIMIT
        wanted = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
        assert {tensor.dtype for tensor in result.values()} == {wanted}


def test_cancelling_values_are_rounded_once_too() -> None:
    """Where A and B nearly cancel, a weight rounded to fp32 would be off by up to a whole ulp."""
    generator = torch.Generator().manual_seed(7)
    alpha = 0.3
    a = torch.randn(1 << 20, generator=generator).half()
    b = (-(1 - alpha) / alpha * a.float() * (1 + torch.randn(1 << 20, generator=generator) * 1e-3)).half()
    c = (b.float() * 0.5).half()
    kernel = Kernel(get_method("weighted_sum"))
    out = torch.empty_like(a)
    kernel.elements([a, b], out, "F16", {"alpha": alpha})
    assert worst_ulp(out, a.double() + (b.double() - a.double()) * alpha) <= LIMIT
    kernel = Kernel(get_method("add_difference"))
    kernel.elements([a, b, c], out, "F16", {"alpha": 2 * alpha})
    assert worst_ulp(out, a.double() + (b.double() - c.double()) * 2 * alpha) <= LIMIT


@pytest.mark.parametrize("method", ["weighted_sum", "add_difference"])
def test_endpoints_are_the_inputs_bit_for_bit(abc: Models, tmp_path: Path, method: str) -> None:
    models = abc if method == "add_difference" else abc[:2]
    ends = [(0.0, 0)] if method == "add_difference" else [(0.0, 0), (1.0, 1)]
    for alpha, which in ends:
        out = tmp_path / f"{alpha}.safetensors"
        merge(MergeRequest(models, method, out, {"alpha": alpha}))
        wanted, found = load_file(str(models[which])), load_file(str(out))
        assert wanted.keys() == found.keys()
        for name in wanted:
            assert torch.equal(wanted[name].reshape(-1).view(torch.uint8), found[name].reshape(-1).view(torch.uint8))


@pytest.mark.parametrize("method", ["weighted_sum", "add_difference"])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_bytes_do_not_depend_on_threads_or_chunks(tmp_path: Path, method: str, kind: torch.dtype) -> None:
    models = [write_model(tmp_path / f"{n}.safetensors", Model("sd1", seed=n, dtype=kind)) for n in range(3)]
    models = models if method == "add_difference" else models[:2]
    out = tmp_path / "o.safetensors"
    plan = plan_merge(MergeRequest(tuple(models), method, out, {"alpha": 0.37}, overwrite=True))
    digests = set[str]()
    for threads, chunk, direct in ((0, 8 << 20, True), (1, 4096, True), (2, 12288, False), (4, 4096 * 33, True)):
        result = run_merge(plan, options=EngineOptions(threads, chunk, direct))
        digests.add(hashlib.sha256(result.path.read_bytes()).hexdigest())
    assert len(digests) == 1


@settings(max_examples=60, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 5000), max_size=6),
    alpha=st.floats(-2, 3, allow_nan=False),
    kind=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    seed=st.integers(0, 1000),
)
def test_any_cut_of_a_tensor_gives_the_same_bits(cuts: list[int], alpha: float, kind: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(5000, generator=generator).to(kind) for _ in range(2))
    kernel = Kernel(get_method("weighted_sum"))
    name = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}[kind]
    whole, pieces = torch.empty_like(a), torch.empty_like(a)
    kernel.elements([a, b], whole, name, {"alpha": alpha})
    places = sorted({0, 5000, *cuts})
    for low, high in itertools.pairwise(places):
        kernel.elements([a[low:high], b[low:high]], pieces[low:high], name, {"alpha": alpha})
    assert torch.equal(whole.view(torch.uint8), pieces.view(torch.uint8))


def test_torch_keeps_its_number_of_threads(abc: Models, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    merge(MergeRequest(abc[:2], "weighted_sum", tmp_path / "o.safetensors", {"alpha": 0.3}))
    assert torch.get_num_threads() == before


def test_hashes_of_inputs_are_computed_in_passing_and_that_of_the_output_when_they_are_known(
    abc: Models, tmp_path: Path
) -> None:
    out = tmp_path / "o.safetensors"
    true = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in abc}
    first = merge(MergeRequest(abc, "add_difference", out, {"alpha": 0.3}), EngineOptions(3, 4096 * 5))
    with safe_open(str(out), "pt") as file:
        metadata = file.metadata()
    for path in abc:
        assert true[path] in metadata["sd_merge_models"] and true[path] in metadata["modelsmith_recipe"]
    assert first.sha256 is None and first.data_sha256 is None
    data = out.read_bytes()
    second = merge(MergeRequest(abc, "add_difference", out, {"alpha": 0.3}, known_hashes=true, overwrite=True))
    assert second.sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    assert out.read_bytes() == data
    request = MergeRequest(abc, "add_difference", out, {"alpha": 0.3}, known_hashes=true, overwrite=True)
    assert merge(request, EngineOptions(hashing=False)).sha256 is None
    assert out.read_bytes() == data


def test_the_hash_of_the_data_in_passing(abc: Models, tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"
    result = merge(MergeRequest(abc[:2], "weighted_sum", out, {"alpha": 0.3}), EngineOptions(3, 4096, hash_data=True))
    written = out.read_bytes()
    begin = 8 + int.from_bytes(written[:8], "little")
    assert result.sha256 is None and result.data_sha256 == hashlib.sha256(written[begin:]).hexdigest()


def test_input_hashes_when_tensors_lie_in_another_order(abc: Models, tmp_path: Path) -> None:
    state = load_file(str(abc[1]))
    turned = tmp_path / "turned.ckpt"
    torch.save({"state_dict": dict(reversed(state.items()))}, turned)
    out, same = tmp_path / "o.safetensors", tmp_path / "s.safetensors"
    result = merge(MergeRequest((abc[0], turned), "weighted_sum", out, {"alpha": 0.3}), EngineOptions(3, 65536))
    assert hashlib.sha256(turned.read_bytes()).hexdigest() in result.recipe
    merge(MergeRequest(abc[:2], "weighted_sum", same, {"alpha": 0.3}))
    ours, theirs = load_file(str(out)), load_file(str(same))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_wide_and_strided_pickles_are_merged(abc: Models, tmp_path: Path) -> None:
    state = load_file(str(abc[1]))
    ckpt = tmp_path / "b.ckpt"
    torch.save({name: (t.t().contiguous().t() if t.dim() == 2 else t).float() for name, t in state.items()}, ckpt)
    out = tmp_path / "o.safetensors"
    merge(MergeRequest((ckpt, abc[0]), "weighted_sum", out, {"alpha": 0.3}, dtype="fp16"), EngineOptions(2, 8192))
    a, b, found = state, load_file(str(abc[0])), load_file(str(out))
    assert max(worst_ulp(found[n], a[n].double() + (b[n].double() - a[n].double()) * 0.3) for n in found) <= LIMIT


def test_progress_ends_at_the_whole_and_cancelling_leaves_nothing(abc: Models, tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"
    seen: list[MergeProgress] = []
    plan = plan_merge(MergeRequest(abc[:2], "weighted_sum", out, {"alpha": 0.3}, overwrite=True))
    run_merge(plan, seen.append)
    assert seen[-1].done_bytes == seen[-1].total_bytes and seen[-1].stage == "finishing"
    assert [step.done_bytes for step in seen] == sorted(step.done_bytes for step in seen)
    old = out.read_bytes()
    with pytest.raises(Cancelled):
        run_merge(plan, cancelled=lambda: True, options=EngineOptions(2, 4096))
    assert out.read_bytes() == old and [path.name for path in tmp_path.iterdir()] == ["o.safetensors"]


def test_an_error_in_the_callers_progress_leaves_nothing(abc: Models, tmp_path: Path) -> None:
    def progress(_: MergeProgress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_merge(plan_merge(MergeRequest(abc[:2], "weighted_sum", tmp_path / "o.safetensors")), progress)
    assert list(tmp_path.iterdir()) == []


def test_nan_and_infinity_are_reported_with_file_and_tensor(abc: Models, tmp_path: Path) -> None:
    key = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"
    state = tensors(Model(seed=2))
    state[key] = state[key].clone()
    state[key].view(-1)[3] = float("nan")
    bad = write_model(tmp_path / "bad.safetensors", Model(seed=2, extra={key: state[key]}))
    result = merge(MergeRequest((abc[0], bad), "weighted_sum", tmp_path / "o.safetensors", {"alpha": 0.3}))
    told = [notice.text for notice in result.notices]
    assert any(str(bad) in text and key in text and "NaN" in text for text in told)
    assert not any(str(abc[0]) in text for text in told)


def test_values_too_large_for_the_output_are_reported(abc: Models, tmp_path: Path) -> None:
    key = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"
    huge = torch.full_like(tensors(Model())[key], 60000.0)
    one = write_model(tmp_path / "one.safetensors", Model(seed=2, extra={key: huge}))
    two = write_model(tmp_path / "two.safetensors", Model(seed=3, extra={key: -huge}))
    request = MergeRequest((one, one, two), "add_difference", tmp_path / "o.safetensors", {"alpha": 1.0})
    assert any("too large for fp16" in notice.text and key in notice.text for notice in merge(request).notices)


def test_an_input_that_changes_during_the_merge(abc: Models, tmp_path: Path) -> None:
    changing = write_model(tmp_path / "b.safetensors", Model(seed=2))
    out = tmp_path / "o.safetensors"

    def touch(progress: MergeProgress) -> None:
        changing.write_bytes(changing.read_bytes())

    with pytest.raises(BadFileError, match="changed while it was being read") as caught:
        run_merge(plan_merge(MergeRequest((abc[0], changing), "weighted_sum", out)), touch)
    assert str(changing) in str(caught.value) and not out.exists()


def test_an_input_that_changed_after_it_was_planned(abc: Models, tmp_path: Path) -> None:
    changing = write_model(tmp_path / "b.safetensors", Model(seed=2))
    plan = plan_merge(MergeRequest((abc[0], changing), "weighted_sum", tmp_path / "o.safetensors"))
    write_model(changing, Model(seed=3, dtype=torch.float32))
    with pytest.raises((BadFileError, MergeError), match="changed"):
        run_merge(plan)
    assert not (tmp_path / "o.safetensors").exists()


def test_an_input_shortened_during_the_merge(abc: Models, tmp_path: Path) -> None:
    short = write_model(tmp_path / "b.safetensors", Model(seed=2))
    plan = plan_merge(MergeRequest((abc[0], short), "weighted_sum", tmp_path / "o.safetensors"))
    with short.open("r+b") as file:
        file.truncate(short.stat().st_size // 2)
    with pytest.raises(BadFileError) as caught:
        run_merge(plan)
    assert str(short) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["b.safetensors"]


def test_an_input_may_be_replaced_by_its_own_merge(tmp_path: Path) -> None:
    a = write_model(tmp_path / "a.safetensors", Model(seed=1))
    b = write_model(tmp_path / "b.safetensors", Model(seed=2))
    before = load_file(str(a))
    merge(MergeRequest((a, b), "weighted_sum", a, {"alpha": 0.5}, overwrite=True))
    name = next(iter(before))
    assert torch.equal(load_file(str(a))[name], torch.lerp(before[name], load_file(str(b))[name], 0.5))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunk=st.integers(1, 60), threads=st.integers(1, 5))
def test_any_chunk_size_is_read_back_whole(abc: Models, tmp_path: Path, chunk: int, threads: int) -> None:
    out = tmp_path / "o.safetensors"
    merge(
        MergeRequest(abc[:2], "weighted_sum", out, {"alpha": 0.25}, overwrite=True),
        EngineOptions(threads, 4096 * chunk),
    )
    a, b, found = (load_file(str(path)) for path in (*abc[:2], out))
    assert all(torch.equal(found[name], torch.lerp(a[name], b[name], 0.25)) for name in a)
