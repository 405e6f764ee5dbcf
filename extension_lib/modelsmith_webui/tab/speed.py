"""How fast merges have been on this machine, and so how long the next one will take."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Any, cast

from modelsmith_webui.host import Host

if TYPE_CHECKING:
    from modelsmith.merge.plan import MergePlan
    from modelsmith.merge.request import MergeResult

logger = logging.getLogger(__name__)

FILE_NAME = "merge-speed.json"
# Merges that end sooner measure the start-up more than the speed.
LEAST_SECONDS, LEAST_BYTES = 0.5, 20_000_000
NEWEST_SHARE = 0.5


class Speed:
    """Bytes a second, by method and GPU: a running mean in which the newest merge weighs a half."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def _read(self) -> dict[str, float]:
        try:
            found: Any = json.loads((self._host.data_folder() / FILE_NAME).read_text(encoding="utf-8"))
            known = cast("dict[str, Any]", found)
            return {str(name): float(value) for name, value in known.items() if float(value) > 0}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            logger.warning("the measured speeds cannot be read: %s", error)
            return {}

    def learn(self, plan: MergePlan, result: MergeResult) -> None:
        """Remember how fast a merge was."""
        if result.seconds < LEAST_SECONDS or result.bytes < LEAST_BYTES:
            return
        known, measured = self._read(), result.bytes / result.seconds
        old = known.get(_key(plan), measured)
        known[_key(plan)] = old + (measured - old) * NEWEST_SHARE
        path = self._host.data_folder() / FILE_NAME
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            beside.write_text(json.dumps(known), encoding="utf-8")
            os.replace(beside, path)
        except OSError as error:
            logger.warning("the measured speed was not kept: %s", error)

    def expected_seconds(self, plan: MergePlan) -> float | None:
        """From this method's own speed, else from that of others that go value by value; None where none is known."""
        from modelsmith.merge.methods.spec import METHODS

        known = self._read()
        speed = known.get(_key(plan))
        if speed is None and not plan.parts.device:
            alike = [
                value
                for name, value in known.items()
                if name in METHODS and METHODS[name].scope == plan.method.scope == "elements"
            ]
            speed = sum(alike) / len(alike) if alike else None
        return None if speed is None else plan.output_bytes / speed


def _key(plan: MergePlan) -> str:
    return f"{plan.method.id} on {plan.parts.device}" if plan.parts.device else plan.method.id
