"""Weights for single tensors, finer than blocks: supermerger's ``BLOCKS:ELEMENTS:RATIO``, and regular expressions.

Rules stand one after the other, separated by commas or line breaks; where several hold a tensor the last one counts.
BLOCKS are names or ranges (``OUT03-OUT05``) separated by spaces, ELEMENTS pieces of tensor names; empty means all, and
a leading ``NOT`` turns either into its opposite. ``/…/`` in the place of ELEMENTS is a regular expression that is
looked for in tensor names; it may also stand alone: ``/attn2\\.to_[kv]/:0.5``.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from modelsmith.errors import UsageError
from modelsmith.merge.blocks import BlockLayout
from modelsmith.merge.guard import Notice, notice
from modelsmith.merge.messages import told
from modelsmith.merge.methods import MethodSpec

_WITH_REGEX = re.compile(r"(?:(?P<blocks>[^:/]*):)?/(?P<regex>(?:\\.|[^/\\])*)/:(?P<ratio>[^:]*)\Z", re.DOTALL)
_NO_VALUES: Mapping[str, Mapping[str, float]] = {}


@dataclass(frozen=True)
class Rule:
    """One rule. blocks: None for all. words: pieces of names, of which one must (or none may) be there."""

    text: str
    blocks: frozenset[str] | None
    words: tuple[str, ...]
    without: bool
    pattern: re.Pattern[str] | None
    ratio: float

    def holds(self, key: str, block: str) -> bool:
        """Whether the rule is about a tensor."""
        if self.blocks is not None and block not in self.blocks:
            return False
        if self.pattern is not None:
            return self.pattern.search(key) is not None
        return not self.words or any(word in key for word in self.words) != self.without


def parse_rules(text: str, layout: BlockLayout) -> tuple[Rule, ...]:
    """Read rules. Raises UsageError that names the rule and says how to mend it."""
    return tuple(_rule(part, layout) for part in _split(text))


def _split(text: str) -> Iterable[str]:
    """The texts of single rules: commas and line breaks part them, but not inside a regular expression."""
    part, inside, escaped = "", False, False
    for letter in text:
        if letter == "/" and not escaped and (inside or not part.strip() or part.rstrip().endswith(":")):
            inside = not inside
        if letter == "\n" or (letter == "," and not inside):
            inside = False
            if part.strip():
                yield part.strip()
            part = ""
        else:
            part += letter
        escaped = letter == "\\" and not escaped
    if part.strip():
        yield part.strip()


def _rule(text: str, layout: BlockLayout) -> Rule:
    found = _WITH_REGEX.match(text)
    if found:
        blocks = _blocks(found["blocks"] or "", text, layout)
        return Rule(text, blocks, (), False, _pattern(found["regex"], text), _ratio(found["ratio"], text))
    parts = text.split(":")
    if len(parts) != 3:
        raise told(UsageError, "rule-form", rule=text)
    words, without = _words(parts[1], text)
    return Rule(text, _blocks(parts[0], text, layout), words, without, None, _ratio(parts[2], text))


def _pattern(text: str, rule: str) -> re.Pattern[str]:
    try:
        return re.compile(text.replace("\\/", "/"))
    except re.error as error:
        raise told(UsageError, "rule-regex", rule=rule, problem=error) from error


def _ratio(text: str, rule: str) -> float:
    try:
        ratio = float(text)
    except ValueError:
        ratio = math.nan
    if not math.isfinite(ratio):
        raise told(UsageError, "rule-ratio", value=text.strip(), rule=rule)
    return ratio


def _words(text: str, rule: str) -> tuple[tuple[str, ...], bool]:
    words = text.split()
    without = bool(words) and words[0] == "NOT"
    if without and len(words) == 1:
        raise told(UsageError, "rule-empty-not", rule=rule)
    return tuple(words[1:] if without else words), without


def _blocks(text: str, rule: str, layout: BlockLayout) -> frozenset[str] | None:
    words, without = _words(text, rule)
    if not words:
        return None
    named = frozenset(name for word in words for name in _range(word, rule, layout))
    return frozenset(layout.ids) - named if without else named


def _range(word: str, rule: str, layout: BlockLayout) -> Sequence[str]:
    """One block, or all from one to another in the order of a plain list of weights."""
    first, mark, last = word.partition("-")
    begin = _block(first, rule, layout)
    if not mark:
        return (begin,)
    end = _block(last, rule, layout)
    order = layout.positional if begin in layout.positional and end in layout.positional else layout.ids
    low, high = order.index(begin), order.index(end)
    if low > high:
        raise told(UsageError, "rule-range", name=word, rule=rule, turned=f"{last}-{first}")
    return order[low : high + 1]


def _block(name: str, rule: str, layout: BlockLayout) -> str:
    if name.upper() in layout.ids:
        return name.upper()
    near = difflib.get_close_matches(name.upper(), layout.ids, n=1)
    raise told(
        UsageError,
        "rule-block",
        rule=rule,
        name=name,
        layout=layout.label,
        near=f"{near[0]}? " if near else "",
        known=", ".join(layout.ids),
    )


@dataclass(frozen=True)
class RuledValues:
    """What rules say of one model's tensors: by parameter and tensor name."""

    values: Mapping[str, Mapping[str, float]] = field(default_factory=lambda: _NO_VALUES)
    notices: tuple[Notice, ...] = ()

    def of(self, key: str) -> dict[str, float]:
        """The parameters that rules set for a tensor."""
        return {name: values[key] for name, values in self.values.items() if key in values}

    def over_blocks(self, name: str, row: Mapping[str, float], places: Mapping[str, str]) -> dict[str, float]:
        """A parameter's weight by block with the rules in it; midway where the tensors of a block differ.

        places: the block of every tensor.
        """
        ruled = self.values.get(name, {})
        if not ruled:
            return dict(row)
        found: dict[str, set[float]] = {}
        for key, block in places.items():
            found.setdefault(block, set()).add(ruled.get(key, row[block]))
        return {
            block: (min(found[block]) + max(found[block])) / 2 if block in found else weight
            for block, weight in row.items()
        }


def apply_rules(rules: Mapping[str, str], method: MethodSpec, layout: BlockLayout, keys: Iterable[str]) -> RuledValues:
    """What the rules of a request say of every tensor. Raises UsageError for a rule that cannot be read, or one for a
    parameter that is the same for the whole model."""
    allowed = [parameter.id for parameter in method.parameters if parameter.per_block]
    values: dict[str, dict[str, float]] = {}
    notices: list[Notice] = []
    places = {key: layout.block_of(key) for key in keys}
    for name, text in rules.items():
        parsed = parse_rules(text, layout)
        if parsed and name not in allowed:
            known = ", ".join(allowed) or "-"
            raise told(UsageError, "no-rules", method=method.label, parameter=name, known=known)
        own = values.setdefault(name, {})
        for rule in parsed:
            held = [key for key, block in places.items() if rule.holds(key, block)]
            own.update(dict.fromkeys(held, rule.ratio))
            if not held:
                notices.append(notice("warning", "rule-unmatched", rule=rule.text, parameter=name))
    return RuledValues(values, tuple(notices))
