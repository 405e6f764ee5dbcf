"""What a plan says beside the merge itself: LoRAs that are baked in, inputs that are decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from modelsmith.merge.guard import Notice, notice
from modelsmith.merge.inputs import MergeInput
from modelsmith.merge.request import MergeRequest

_LISTED = 20


@dataclass(frozen=True)
class LoraPlan:
    """keys: names in A of the tensors that a LoRA changes. notices: modules that match nothing."""

    keys: frozenset[str]
    notices: tuple[Notice, ...]


def plan_loras(request: MergeRequest, a: MergeInput) -> LoraPlan:
    """Match the LoRAs of a request against A.

    Raises BadFileError for a damaged LoRA, MergeError for one made for another architecture, that matches nothing, or
    whose shapes do not fit; UsageError and UnknownNameError for block weights that cannot be read.
    """
    if not request.loras:
        return LoraPlan(frozenset(), ())
    from modelsmith.lora.stack import LoraStack

    with LoraStack(request.loras, a.header, architecture=a.report.architecture) as stack:
        notices = tuple(
            notice(
                "warning",
                "lora-unmatched",
                file=report.path.name,
                count=len(report.unmatched),
                names=_listed(tuple(report.unmatched)),
            )
            for report in stack.reports
            if report.unmatched
        )
        return LoraPlan(frozenset(stack.keys), notices)


def decoded_notices(inputs: Sequence[MergeInput]) -> tuple[Notice, ...]:
    """Which inputs hold quantised values, so that a merge of them is only as exact as those."""
    found: list[Notice] = []
    for one in inputs:
        if one.schemes:
            counts = Counter(one.schemes.values())
            schemes = ", ".join(f"{scheme} ({number})" for scheme, number in sorted(counts.items()))
            found.append(notice("info", "decoded", model=one.name, schemes=schemes))
    return tuple(found)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown} (+{len(names) - _LISTED})"
