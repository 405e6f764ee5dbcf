"""What tests over the standalone host and the demo checkpoints share."""

from __future__ import annotations

DEMOS = ("modelsmith-demo-a.safetensors", "modelsmith-demo-b.safetensors")


class Control:
    """A job's control that is never told to stop."""

    def report(self, fraction: float, text: str) -> None:
        del fraction, text

    def cancelled(self) -> bool:
        return False
