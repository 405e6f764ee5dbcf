"""GPUs that torch says it sees, for tests of what is asked for, told and recorded; one may be made to compute."""

from __future__ import annotations

import pytest
import torch

from modelsmith.merge import device as device_module

NAME = "Pretended GPU"


def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch sees none, whatever this machine has."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """torch sees GPUs with these names, in this order; nothing can be computed on them."""
    names = names or (NAME,)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[device.index or 0])


def computes_on(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    """torch sees one GPU, and merges that ask for it are computed on ``device``."""
    pretend_gpus(monkeypatch)
    monkeypatch.setattr(device_module, "find_gpu", lambda wanted: None if wanted == "cpu" else device)
