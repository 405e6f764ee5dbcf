"""Fixtures for all tests: fixed seeds, no network beyond this machine."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Every test starts from the same random state."""
    random.seed(0)
    try:
        import numpy as np
        import torch
    except ImportError:
        return
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test that talks to another machine fails at once."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> Any:
        if isinstance(address, tuple) and address[0] not in LOOPBACK:
            raise OSError(f"the tests stay on this machine; refused {address!r}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    yield


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line speaks the language of whoever runs the tests; they are written for English."""
    monkeypatch.setenv("LANGUAGE", "en")
