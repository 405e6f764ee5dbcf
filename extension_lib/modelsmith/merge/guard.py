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

Level = Literal["info", "warning"]

CHOICES: Mapping[str, str] = {
    "epsilon": "mark the result as an epsilon model",
    "v_prediction": "mark the result as a v-prediction model",
    "edm": "mark the result as an EDM model",
    "edm_v_prediction": "mark the result as an EDM v-prediction model",
    "flow": "mark the result as a flow model",
}
"""What a user may choose who wants a merge across prediction types all the same."""

_NAMES = {"epsilon": "epsilon", "v_prediction": "v-prediction", "edm": "EDM", "edm_v_prediction": "EDM v-prediction"}


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that the user should know about a merge."""

    level: Level
    text: str


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
    """A merge across prediction types that gives a model which is neither; ``choices`` allow it all the same."""

    choices = tuple(CHOICES)


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
    except PredictionMixError as error:
        if choice is None:
            raise
        place = next((index for index, one in enumerate(inputs) if one.type == choice), 0)
        text = f"Merged across prediction types by your choice ({CHOICES[choice]}): {error.message}"
        return Verdict(choice, inputs[place].ztsnr, place, (Notice("warning", text),))


def _judge_sum(inputs: Sequence[InputPrediction], weights: Weights, *, reaches_b: bool) -> Verdict:
    """reaches_b: whether the weight 1 gives B itself; methods that add parts of B − A never do."""
    first = inputs[0]
    others = [one for one in inputs[1:] if one.type != first.type]
    if not others:
        return _with_ztsnr(inputs, weights, Verdict(first.type, first.ztsnr, 0))
    if not first.known or not all(one.known for one in others):
        known = next((index for index, one in enumerate(inputs) if one.known), 0)
        notice = Notice(
            "warning",
            "The prediction type of "
            + ", ".join(one.name for one in inputs if not one.known)
            + " could not be determined; if it differs, the result will not work",
        )
        return Verdict(inputs[known].type, inputs[known].ztsnr, known, (notice,))
    other = others[0]
    side = _side(weights)
    if side == 1 and not reaches_b:
        side = None
    if len(inputs) == 2 and side is not None and {first.type, other.type} == {"epsilon", "v_prediction"}:
        chosen = inputs[side]
        mixed = [name for name, weight in weights.network().items() if weight != float(side)]
        notices: tuple[Notice, ...] = ()
        if mixed:
            notices = (
                Notice(
                    "warning",
                    f"Blocks {', '.join(mixed)} mix an epsilon with a v-prediction model; the output blocks are "
                    f"{chosen.name}'s alone, so that the result is {_name(chosen.type)}",
                ),
            )
        return Verdict(chosen.type, chosen.ztsnr, side, notices)
    raise PredictionMixError(
        f"{first.name} is a {_name(first.type)} model and {other.name} a {_name(other.type)} model; "
        "a mix of their networks predicts neither",
        _remedy(first, other),
    )


def _remedy(first: InputPrediction, other: InputPrediction) -> str:
    if {first.type, other.type} == {"epsilon", "v_prediction"}:
        v, eps = (first, other) if first.type == "v_prediction" else (other, first)
        return (
            f"Use add difference with A = {eps.name}, B = {v.name}, C = the epsilon model that {v.name} was made from "
            f"(alpha 1); or take the blocks OUT, TIME and FINAL from {v.name} alone; text encoder and VAE mix freely"
        )
    return "Merge only their text encoders or VAE (weight 0 for all other blocks), or choose models of one type"


def _side(weights: Weights) -> int | None:
    """0 or 1 where the decisive blocks come from A alone or from B alone."""
    values = set(weights.decisive().values())
    return int(values.pop()) if values in ({0.0}, {1.0}) else None


def _judge_difference(inputs: Sequence[InputPrediction], weights: Weights) -> Verdict:
    a, b, c = inputs[0], inputs[1], inputs[2]
    unknown = [one.name for one in inputs if not one.known]
    if unknown and len({one.type for one in inputs if one.known}) > 1:
        text = f"The prediction type of {', '.join(unknown)} could not be determined; the result is taken to be A's"
        return Verdict(a.type, a.ztsnr, 0, (Notice("warning", text),))
    if b.type == c.type or unknown:
        notices: tuple[Notice, ...] = ()
        if a.type != b.type and not unknown:
            text = (
                f"B − C was learned as {_name(b.type)} and is added to a {_name(a.type)} model: it acts fully on "
                "detail and differently on composition (a difference in epsilon counts less at high noise in a v model)"
            )
            notices = (Notice("warning", text),)
        return Verdict(a.type, a.ztsnr, 0, notices)
    side = _side(weights)
    if a.type == c.type and side == 1:
        return Verdict(b.type, b.ztsnr, 1, _conversion_notices(a, b, weights))
    if a.type == c.type and side == 0:
        return Verdict(a.type, a.ztsnr, 0, _conversion_notices(a, b, weights))
    if a.type == c.type:
        raise PredictionMixError(
            f"B − C turns {_name(c.type)} into {_name(b.type)}, and is added to {a.name} by a part only",
            "Use alpha 1 for the whole network (or at least the blocks OUT, TIME and FINAL), or a C of B's type",
        )
    raise PredictionMixError(
        f"B − C turns {_name(c.type)} into {_name(b.type)}, but {a.name} is {_name(a.type)}",
        f"Use a C of B's type ({_name(b.type)}), or an A of C's type ({_name(c.type)})",
    )


def _conversion_notices(a: InputPrediction, b: InputPrediction, weights: Weights) -> tuple[Notice, ...]:
    partial = [name for name, weight in weights.network().items() if weight not in (0.0, 1.0)]
    notices = [Notice("info", f"B − C carries the change from {_name(a.type)} to {_name(b.type)}")]
    if partial:
        notices.append(Notice("warning", f"Blocks {', '.join(partial)} take only a part of that change"))
    return tuple(notices)


def _with_ztsnr(inputs: Sequence[InputPrediction], weights: Weights, verdict: Verdict) -> Verdict:
    if verdict.type != "v_prediction" or len({one.ztsnr for one in inputs}) == 1:
        return verdict
    decisive = weights.decisive()
    mean = sum(decisive.values()) / len(decisive) if decisive else 0.0
    place = 1 if mean > 0.5 and len(inputs) > 1 else 0
    chosen = inputs[place]
    with_it = [one.name for one in inputs if one.ztsnr]
    text = (
        f"Only {', '.join(with_it)} is known to have zero terminal SNR; " if with_it else "Zero terminal SNR differs; "
    ) + (
        f"it lives in {_brief(decisive)}. The result follows {chosen.name}, which weighs most there "
        f"({'with' if chosen.ztsnr else 'without'} ZTSNR). To keep it whole, give those blocks to one model alone"
    )
    mixed = any(weight not in (0.0, 1.0) for weight in decisive.values())
    return Verdict(verdict.type, chosen.ztsnr, place, (Notice("warning" if mixed else "info", text),))


def _brief(blocks: Mapping[str, float]) -> str:
    names = [name for name in blocks if not name.startswith("OUT")]
    outs = [name for name in blocks if name.startswith("OUT")]
    return ", ".join([f"{outs[0]}-{outs[-1]}" if len(outs) > 1 else "".join(outs), *names]).strip(", ")


def _name(kind: str) -> str:
    return _NAMES.get(kind, kind)
