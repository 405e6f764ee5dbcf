"""What a merge does to the prediction type, and when it must not be done.

An epsilon network and a v network predict different things: with x = a·x0 + b·eps, v = (eps − b·x)/a, so a mix of
the two is right as neither (at high noise a 50/50 mix of ideal networks is off by half the image read as v, and by
several times the image read as epsilon).  Add difference carries B − C over: a v model minus its epsilon parent
turns an epsilon model into a v model.  Text encoders and VAE have no prediction type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from modelsmith.errors import MergeError, UnknownNameError
from modelsmith.merge.blocks import BlockLayout
from modelsmith.merge.messages import Message, say, told
from modelsmith.merge.mix_choices import CHOICES
from modelsmith.merge.presets import OUT_FROM_A, OUT_FROM_B, PARTS_ONLY

Level = Literal["info", "warning"]


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that the user should know about a merge.

    text: in English. message: the same for any language, where the table holds it. preset: block weights by name that
    would do what the user may want, for a button beside the text.
    """

    level: Level
    text: str
    message: Message | None = None
    preset: str | None = None

    def said(self, language: str) -> str:
        """The text in a language ("en", "ja"); in English where the table has no other."""
        return self.text if self.message is None else self.message.text(language)


def notice(level: Level, message_id: str, offer: str | None = None, **params: object) -> Notice:
    """A notice whose sentence stands in the table of ``merge.messages``. offer: a preset to offer beside it."""
    message = say(message_id, **params)
    return Notice(level, message.text(), message, offer)


@dataclass(frozen=True, slots=True)
class InputPrediction:
    """What one input predicts: the type as in an identification report, and zero terminal SNR where known."""

    name: str
    type: str
    ztsnr: bool | None

    @property
    def known(self) -> bool:
        """Whether anything is known about the type."""
        return self.type != "undetermined"


@dataclass(frozen=True)
class Verdict:
    """The prediction type and ZTSNR of the result, which inputs gave them, and what to tell the user."""

    type: str
    ztsnr: bool | None
    type_from: int
    notices: tuple[Notice, ...] = ()


class PredictionMixError(MergeError):
    """A merge across prediction types that gives a model which is neither; ``choices`` allow it all the same.

    preset: block weights by name under which the merge would work, for a button beside the message.
    """

    choices = tuple(CHOICES)
    preset: str | None = None


@dataclass(frozen=True)
class Weights:
    """How strongly each block takes the other model (B, or B − C): block id to weight, and the layout."""

    layout: BlockLayout
    by_block: Mapping[str, float]

    def network(self) -> dict[str, float]:
        """The weights of blocks that belong to the diffusion network; text encoders and VAE have no type."""
        kinds = {block.id: block.group for block in self.layout.blocks}
        return {
            name: weight
            for name, weight in self.by_block.items()
            if kinds.get(name, "base") not in ("text", "vae", "base") or len(self.layout.blocks) == 1
        }

    def decisive(self) -> dict[str, float]:
        """The blocks where the type lives: NoobAI's v training changed the OUT blocks first, until v worked."""
        kinds = {block.id: block.group for block in self.layout.blocks}
        chosen = {
            name: weight
            for name, weight in self.network().items()
            if kinds.get(name) == "out" or name in ("TIME", "FINAL")
        }
        return chosen or self.network()


def judge(inputs: Sequence[InputPrediction], effect: str, weights: Weights, choice: str | None = None) -> Verdict:
    """Decide what the result predicts.

    effect: of the method (see MethodSpec). choice: one of CHOICES, given by a user who insists.
    Raises PredictionMixError with the reason and a remedy; UnknownNameError for another choice.
    """
    if choice is not None and choice not in CHOICES:
        raise UnknownNameError("prediction choice", choice, CHOICES)
    network = weights.network()
    if not any(network.values()):
        return Verdict(inputs[0].type, inputs[0].ztsnr, 0)
    try:
        if effect == "difference":
            return _judge_difference(inputs, weights)
        return _judge_sum(inputs, weights, reaches_b=effect == "sum")
    except PredictionMixError:
        if choice is None:
            raise
        place = next((index for index, one in enumerate(inputs) if one.type == choice), 0)
        other = next(one for one in inputs if one.type != inputs[0].type)
        text = notice("warning", "by-choice", choice=f"@choice-{choice}", first=inputs[0].name, second=other.name)
        return Verdict(choice, inputs[place].ztsnr, place, (text,))


def _judge_sum(inputs: Sequence[InputPrediction], weights: Weights, *, reaches_b: bool) -> Verdict:
    """reaches_b: whether the weight 1 gives B itself; methods that add parts of B − A never do."""
    first = inputs[0]
    others = [one for one in inputs[1:] if one.type != first.type]
    if not others:
        return _with_ztsnr(inputs, weights, Verdict(first.type, first.ztsnr, 0), reaches_b=reaches_b)
    if not first.known or not all(one.known for one in others):
        known = next((index for index, one in enumerate(inputs) if one.known), 0)
        names = ", ".join(one.name for one in inputs if not one.known)
        told_so = notice("warning", "prediction-unknown", names=names)
        return Verdict(inputs[known].type, inputs[known].ztsnr, known, (told_so,))
    other = others[0]
    side = _side(weights)
    if side == 1 and not reaches_b:
        side = None
    if len(inputs) == 2 and side is not None and {first.type, other.type} == {"epsilon", "v_prediction"}:
        chosen = inputs[side]
        mixed = [name for name, weight in weights.network().items() if weight != float(side)]
        notices: tuple[Notice, ...] = ()
        if mixed:
            blocks = ", ".join(mixed)
            notices = (notice("warning", "mixed-blocks", blocks=blocks, name=chosen.name, type=f"@{chosen.type}"),)
        return Verdict(chosen.type, chosen.ztsnr, side, notices)
    raise _mix_error(first, other, reaches_b=reaches_b and len(inputs) == 2)


def _mix_error(first: InputPrediction, other: InputPrediction, *, reaches_b: bool) -> PredictionMixError:
    kinds = {"first_type": f"@{first.type}", "other_type": f"@{other.type}"}
    if {first.type, other.type} != {"epsilon", "v_prediction"}:
        error = told(PredictionMixError, "mix-other", first=first.name, other=other.name, **kinds)
        error.preset = PARTS_ONLY
        return error
    v, eps = (first, other) if first.type == "v_prediction" else (other, first)
    preset = OUT_FROM_B if v is other and reaches_b else OUT_FROM_A
    error = told(
        PredictionMixError,
        "mix-eps-v",
        first=first.name,
        other=other.name,
        eps=eps.name,
        v=v.name,
        preset=preset,
        **kinds,
    )
    error.preset = preset
    return error


def _side(weights: Weights) -> int | None:
    """0 or 1 where the decisive blocks come from A alone or from B alone."""
    values = set(weights.decisive().values())
    return int(values.pop()) if values in ({0.0}, {1.0}) else None


def _judge_difference(inputs: Sequence[InputPrediction], weights: Weights) -> Verdict:
    a, b, c = inputs[0], inputs[1], inputs[2]
    unknown = [one.name for one in inputs if not one.known]
    if unknown and len({one.type for one in inputs if one.known}) > 1:
        return Verdict(a.type, a.ztsnr, 0, (notice("warning", "difference-unknown", names=", ".join(unknown)),))
    if b.type == c.type or unknown:
        if a.type != b.type and not unknown:
            foreign = notice("warning", "foreign-difference", learned=f"@{b.type}", base=f"@{a.type}")
            return Verdict(a.type, a.ztsnr, 0, (foreign,))
        return _carried_ztsnr(inputs, weights)
    side = _side(weights)
    kinds = {"before": f"@{c.type}", "after": f"@{b.type}"}
    if a.type == c.type and side == 1:
        return Verdict(b.type, b.ztsnr, 1, _conversion_notices(kinds, weights))
    if a.type == c.type and side == 0:
        return Verdict(a.type, a.ztsnr, 0, _conversion_notices(kinds, weights))
    if a.type == c.type:
        error = told(PredictionMixError, "difference-part", a=a.name, preset=OUT_FROM_B, **kinds)
        error.preset = OUT_FROM_B
        raise error
    raise told(PredictionMixError, "difference-base", a=a.name, base=f"@{a.type}", **kinds)


def _conversion_notices(kinds: Mapping[str, str], weights: Weights) -> tuple[Notice, ...]:
    partial = [name for name, weight in weights.network().items() if weight not in (0.0, 1.0)]
    notices = [notice("info", "carries-type", **kinds)]
    if partial:
        notices.append(notice("warning", "partly-carried", OUT_FROM_B, blocks=", ".join(partial)))
    return tuple(notices)


def _carried_ztsnr(inputs: Sequence[InputPrediction], weights: Weights) -> Verdict:
    """Add difference among v models: ZTSNR of A, changed where B − C carries a change of it and A is as C."""
    a, b, c = inputs[0], inputs[1], inputs[2]
    unchanged = Verdict(a.type, a.ztsnr, 0)
    if a.type != "v_prediction" or b.ztsnr == c.ztsnr or None in (b.ztsnr, c.ztsnr) or a.ztsnr != c.ztsnr:
        return unchanged
    blocks = _brief(weights.decisive())
    side = _side(weights)
    if side is not None:
        if side == 0:
            return unchanged
        told_so = notice("info", "ztsnr-carried", blocks=blocks, **{"with": _with(b.ztsnr)})
        return Verdict(a.type, b.ztsnr, 0, (told_so,))
    follows = b if _mean(weights.decisive()) > 0.5 else a
    preset = OUT_FROM_B if b.ztsnr else OUT_FROM_A
    told_so = notice(
        "warning",
        "ztsnr-partly-carried",
        preset,
        **{"blocks": blocks, "name": follows.name, "with": _with(follows.ztsnr), "preset": preset},
    )
    return Verdict(a.type, follows.ztsnr, 0, (told_so,))


def _with_ztsnr(inputs: Sequence[InputPrediction], weights: Weights, verdict: Verdict, *, reaches_b: bool) -> Verdict:
    if verdict.type != "v_prediction" or len({one.ztsnr for one in inputs}) == 1:
        return verdict
    decisive = weights.decisive()
    place = 1 if _mean(decisive) > 0.5 and len(inputs) > 1 else 0
    chosen = inputs[place]
    with_it = [one.name for one in inputs if one.ztsnr]
    if not with_it:
        unknown = ", ".join(one.name for one in inputs if one.ztsnr is None)
        params = {"names": unknown, "name": chosen.name, "with": _with(chosen.ztsnr)}
        return Verdict(verdict.type, chosen.ztsnr, place, (notice("warning", "ztsnr-unknown", **params),))
    params = {
        "names": ", ".join(with_it),
        "blocks": _brief(decisive),
        "name": chosen.name,
        "with": _with(chosen.ztsnr),
    }
    if all(weight in (0.0, 1.0) for weight in decisive.values()):
        return Verdict(verdict.type, chosen.ztsnr, place, (notice("info", "ztsnr-kept", **params),))
    mixed = notice("warning", "ztsnr-mixed", **params)
    if len(inputs) == 2 and (inputs[0].ztsnr or reaches_b):
        preset = OUT_FROM_A if inputs[0].ztsnr else OUT_FROM_B
        mixed = notice("warning", "ztsnr-mixed-preset", preset, **{**params, "preset": preset})
    return Verdict(verdict.type, chosen.ztsnr, place, (mixed,))


def _mean(weights: Mapping[str, float]) -> float:
    return sum(weights.values()) / len(weights) if weights else 0.0


def _with(ztsnr: bool | None) -> str:
    return "@with" if ztsnr else "@without"


def _brief(blocks: Mapping[str, float]) -> str:
    names = [name for name in blocks if not name.startswith("OUT")]
    outs = [name for name in blocks if name.startswith("OUT")]
    return ", ".join([f"{outs[0]}-{outs[-1]}" if len(outs) > 1 else "".join(outs), *names]).strip(", ")
