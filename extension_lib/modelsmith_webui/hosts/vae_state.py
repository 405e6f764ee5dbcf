"""What of VAEs is shown: which one is in use, and what is thought of the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelsmith_webui.hosts.vae_choice import Source

if TYPE_CHECKING:
    from modelsmith.vae.choice import Refusal
    from modelsmith.vae.families import Fit


@dataclass(frozen=True)
class ListedVae:
    """One of the host's VAEs, as the selector should mark it. allowed: wanted with this model anyway."""

    name: str
    family: str
    fit: Fit
    said: str | None
    allowed: bool
    problem: str
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class VaeState:
    """What the model in memory (or, where models are loaded late, the chosen one) has for a VAE.

    using: the VAE file, None for the baked one. pending: the webui has not loaded yet what is chosen.
    """

    checkpoint: Path
    wanted: str
    baked: str
    using: Path | None
    source: Source
    fit: Fit
    refused: tuple[Refusal, ...]
    detail: str
    pending: bool
    files: tuple[ListedVae, ...]
