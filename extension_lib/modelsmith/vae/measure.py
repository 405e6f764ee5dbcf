"""Runs of a VAE on calibration inputs: what comes out, how large every layer becomes, and how far two runs differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from modelsmith.errors import Cancelled
from modelsmith.vae.calibration import Calibration
from modelsmith.vae.layout import Layout, Side
from modelsmith.vae.network import Network, Probe, Weights

Progress = Callable[[str, float], None]
"""Called with the stage in words and the done part of it, 0 to 1."""


@dataclass(frozen=True)
class Watch:
    """How a long job reports and how it is stopped."""

    progress: Progress | None = None
    cancelled: Callable[[], bool] | None = None

    def step(self, stage: str, done: float) -> None:
        """Report, and raise Cancelled where the user has stopped the job."""
        if self.progress is not None:
            self.progress(stage, done)
        if self.cancelled is not None and self.cancelled():
            raise Cancelled


@dataclass(frozen=True)
class Outcome:
    """One run: the results by input name, the probe with the layers' maxima, the inputs whose result is not finite."""

    results: dict[str, Tensor]
    probe: Probe
    broken: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """A run to be made. storage: see Probe. native: calculate in ``storage`` itself and not only round to it."""

    layout: Layout
    calibration: Calibration
    sides: tuple[Side, ...]
    storage: torch.dtype | None = None
    native: bool = False
    watch: Watch = field(default_factory=Watch)
    stage: str = "measuring"

    def inputs(self) -> Iterable[tuple[Side, str, Tensor]]:
        """All inputs with the side that they go into."""
        for side in self.sides:
            chosen = self.calibration.latents if side == "decoder" else self.calibration.images
            for name, value in chosen:
                yield side, name, value

    def make(self, weights: Weights) -> Outcome:
        """Run it. ``weights`` are fp32 (or wider); for a 16-bit run they are rounded here."""
        calculating = next(iter(weights.values())).dtype
        if self.storage is not None:
            weights = {name: tensor.to(self.storage) for name, tensor in weights.items()}
            if not self.native:
                weights = {name: tensor.to(calculating) for name, tensor in weights.items()}
        probe = Probe(storage=self.storage, measuring=not self.native)
        network = Network(self.layout, weights, probe)
        results: dict[str, Tensor] = {}
        broken: list[str] = []
        inputs = list(self.inputs())
        with torch.no_grad():
            for number, (side, name, value) in enumerate(inputs):
                self.watch.step(self.stage, number / len(inputs))
                value = value.to(self.storage if self.native else calculating)
                if self.storage is not None:
                    value = value.to(self.storage).to(value.dtype)
                result = network.run(side, value)
                results[name] = result
                if not bool(torch.isfinite(result).all()):
                    broken.append(name)
        self.watch.step(self.stage, 1.0)
        return Outcome(results, probe, tuple(broken))


@dataclass(frozen=True)
class Distance:
    """How far results lie from a reference, over all inputs.

    largest: of any input, the largest absolute difference over the largest absolute value of the reference.
    mean: of any input, the mean absolute difference over the same. Infinite where a result is not finite.
    """

    largest: float
    mean: float


def distance(results: dict[str, Tensor], reference: dict[str, Tensor]) -> Distance:
    """Compare the results of a run with those of a reference run over the same inputs, in fp64."""
    largest = mean = 0.0
    for name, result in results.items():
        found, wanted = result.double(), reference[name]
        if not bool(torch.isfinite(found).all()):
            return Distance(float("inf"), float("inf"))
        difference = (found - wanted.double()).abs()
        size = float(wanted.double().abs().amax())
        size = size if size > 0 else 1.0
        largest = max(largest, float(difference.amax()) / size)
        mean = max(mean, float(difference.mean()) / size)
    return Distance(largest, mean)
