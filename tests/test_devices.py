"""Which GPU is meant, and products of matrices in full precision whatever the host has set."""

from __future__ import annotations

import threading
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from modelsmith.devices import find_gpu, full_precision, gpu_name
from modelsmith.errors import UsageError

MATRICES: Any = torch.backends.cuda.matmul
EVERYWHERE: Any = torch.backends
ON_CPU: Any = getattr(torch.backends.mkldnn, "matmul", None)
newer = pytest.mark.skipif(
    not hasattr(MATRICES, "fp32_precision"), reason="torch has no settings by backend before 2.9"
)


def legacy() -> str:
    """The one number of old; ``mixed`` where the newer settings contradict it."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "mixed"


def state() -> tuple[str, ...]:
    """All that torch tells of how coarsely products are computed."""
    if not hasattr(MATRICES, "fp32_precision"):
        return (legacy(),)
    return (MATRICES.fp32_precision, ON_CPU.fp32_precision, EVERYWHERE.fp32_precision, legacy())


@pytest.fixture(autouse=True)
def precision() -> Generator[None, None, None]:
    """Puts torch back as it is at its start."""
    yield
    torch.set_float32_matmul_precision("highest")
    if hasattr(MATRICES, "fp32_precision"):
        MATRICES.fp32_precision = ON_CPU.fp32_precision = EVERYWHERE.fp32_precision = "none"


def assert_full() -> None:
    assert legacy() == "highest"
    if hasattr(MATRICES, "fp32_precision"):
        assert {MATRICES.fp32_precision, ON_CPU.fp32_precision} <= {"none", "ieee"}


@pytest.mark.parametrize("number", ["highest", "high", "medium"])
def test_the_one_number_of_old_is_raised_and_comes_back(number: str) -> None:
    torch.set_float32_matmul_precision(number)
    before = state()
    with full_precision():
        assert_full()
        with full_precision():
            assert_full()
        assert_full()
    assert state() == before and legacy() == number


def test_tf32_for_gpus_alone_leaves_the_cpu_as_it_was() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True
    before = state()
    with full_precision():
        assert_full()
        assert not torch.backends.cuda.matmul.allow_tf32  # what generates meanwhile can still ask
    assert state() == before and torch.backends.cuda.matmul.allow_tf32


@newer
def test_the_newer_settings_which_the_number_of_old_then_refuses_to_be_read_beside() -> None:
    MATRICES.fp32_precision, ON_CPU.fp32_precision = "tf32", "bf16"
    before = state()
    assert before[-1] == "mixed"
    with full_precision():
        assert (MATRICES.fp32_precision, ON_CPU.fp32_precision) == ("ieee", "ieee")
    assert state() == before


@newer
def test_what_was_inherited_is_inherited_again() -> None:
    EVERYWHERE.fp32_precision = "tf32"
    before = state()
    assert before[:3] == ("tf32", "tf32", "tf32")
    with full_precision():
        assert (MATRICES.fp32_precision, ON_CPU.fp32_precision) == ("ieee", "ieee")
    assert state() == before
    EVERYWHERE.fp32_precision = "none"
    assert state()[:2] == ("none", "none")


def test_a_torch_without_settings_by_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace())
    monkeypatch.setattr(torch.backends.mkldnn, "matmul", SimpleNamespace(), raising=False)
    torch.set_float32_matmul_precision("medium")
    with full_precision():
        assert legacy() == "highest"
    assert legacy() == "medium"


def test_it_lasts_until_the_last_thread_has_left_and_through_errors() -> None:
    torch.set_float32_matmul_precision("high")
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with full_precision():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with pytest.raises(ValueError, match="inside"), full_precision():
        thread.start()
        assert inside.wait(60)
        raise ValueError("inside")
    assert_full()
    leave.set()
    thread.join()
    assert legacy() == "high"


def test_which_gpu_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_gpu("cpu") is None and find_gpu("auto") is None
    for absent in ("cuda", "cuda:0"):
        with pytest.raises(UsageError, match="no GPU"):
            find_gpu(absent)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device}")
    assert find_gpu("cpu") is None and find_gpu("auto") == find_gpu("cuda") == torch.device("cuda")
    found = find_gpu("cuda:0")
    assert found is not None and found == torch.device("cuda:0") and gpu_name(found) == "card cuda:0"
    with pytest.raises(UsageError, match="cuda:1"):
        find_gpu("cuda:1")


@pytest.mark.parametrize("unknown", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:²", "CUDA", "", "auto:0", "cpu:0"])
def test_a_device_that_is_none_is_named(unknown: str) -> None:
    with pytest.raises(UsageError, match="unknown"):
        find_gpu(unknown)
