"""What a merge method is: a specification, readable without torch, and a function that it names.

The specifications stand in ``methods/catalogue.py``; the functions in the modules beside it, tied to their
specification by ``implements``, which checks the one against the other.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from modelsmith.errors import UnknownNameError, UsageError

Scope = Literal["elements", "tensor"]
Effect = Literal["sum", "difference", "delta"]


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """One number that a method takes.

    low, high, step: of the slider; values outside are allowed unless ``strict``. per_block: whether each block may
    have its own value. integer: whether only whole numbers make sense.
    """

    id: str
    label: str
    default: float
    low: float
    high: float
    step: float = 0.01
    per_block: bool = False
    integer: bool = False
    strict: bool = False


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """One merge method.

    formula: in the letters A, B, C and the parameters' names. reference: where it comes from.
    models: fewest and most inputs; None for any number. scope: ``elements`` when every value depends on the values
    at the same place only, ``tensor`` when it needs the whole tensor. effect: what it does to the models, for the
    prediction guard: ``sum`` mixes them and gives B at the weight 1, ``difference`` adds B − C to A, ``delta`` adds
    B − A (and further differences from A) to A or moves A towards B in another way that never arrives there.
    module: where the function stands.
    seeded: whether the function takes ``seed``, which the engine derives anew for every tensor.
    statistics: numbers that a first pass over the whole model finds (see ``FirstPass``), which the function takes too.
    neutral: the parameters that give A back when all of them are 0.
    arrives: whether alpha = 1, with the other neutral parameters at 0, gives B.
    weighs_c: the parameter at whose 0 C has no part in the result.
    """

    id: str
    label: str
    formula: str
    summary: str
    reference: str
    models: tuple[int, int | None]
    parameters: tuple[ParameterSpec, ...]
    scope: Scope
    effect: Effect
    module: str
    seeded: bool = False
    neutral: tuple[str, ...] = ("alpha",)
    statistics: tuple[str, ...] = ()
    arrives: bool = False
    weighs_c: str = ""

    def check_models(self, given: int) -> None:
        """Raise UsageError where the method takes another number of models."""
        low, high = self.models
        if given < low or (high is not None and given > high):
            wanted = f"{low}" if high == low else f"{low} or more" if high is None else f"{low} to {high}"
            raise UsageError(f"{self.label} takes {wanted} models, {given} were given", f"Its formula: {self.formula}")

    def is_identity(self, parameters: Mapping[str, float]) -> bool:
        """Whether these parameters give A back, so that it can be copied bit for bit."""
        return bool(self.neutral) and all(parameters[name] == 0.0 for name in self.neutral)

    def is_b(self, parameters: Mapping[str, float]) -> bool:
        """Whether these parameters give B, so that it can be copied bit for bit."""
        return self.arrives and all(parameters[name] == float(name == "alpha") for name in self.neutral)

    def parameter(self, name: str) -> ParameterSpec:
        """Look a parameter up. Raises UnknownNameError with the nearest one."""
        for parameter in self.parameters:
            if parameter.id == name:
                return parameter
        raise UnknownNameError(f"parameter of {self.label}", name, (parameter.id for parameter in self.parameters))

    def fill(self, given: Mapping[str, float]) -> dict[str, float]:
        """All parameters, with defaults for those not given. Raises UnknownNameError and UsageError for bad ones."""
        values = {parameter.id: parameter.default for parameter in self.parameters}
        for name, value in given.items():
            values[name] = check_value(self.parameter(name), value)
        return values

    def first_pass(self) -> FirstPass:
        """Import and return the first pass of a method that has ``statistics``."""
        importlib.import_module(self.module)
        return _FIRST_PASSES[self.id]

    def function(self) -> Callable[..., Any]:
        """Import and return the function: tensors by position, parameters by keyword."""
        importlib.import_module(self.module)
        return _FUNCTIONS[self.id]


def check_value(parameter: ParameterSpec, value: float) -> float:
    """Return the value. Raises UsageError where it is not finite, or outside what the method can work with."""
    number = float(value)
    if number != number or number in (float("inf"), float("-inf")):
        raise UsageError(f"{parameter.label} is {value}, which is no finite number", "Give a number")
    if parameter.strict and not parameter.low <= number <= parameter.high:
        raise UsageError(
            f"{parameter.label} is {value}, outside its range", f"It lies between {parameter.low} and {parameter.high}"
        )
    if parameter.integer and number != int(number):
        raise UsageError(f"{parameter.label} is {value}, which is no whole number", "Give a whole number")
    return number


@dataclass(frozen=True, slots=True)
class FirstPass:
    """What a method needs to know of the whole model before the first tensor is merged.

    rows: from the same rows of every model (the first dimension) a tensor that may be added up over pieces of rows.
    values: from the sum over one tensor, its shape in the models aside, the values that it contributes.
    conclude: from the values of all tensors the numbers that ``MethodSpec.statistics`` names.
    """

    rows: Callable[..., Any]
    values: Callable[[Any], Any]
    conclude: Callable[[Any], Mapping[str, float]]


METHODS: dict[str, MethodSpec] = {}
"""All methods by their id, in the order in which they are shown."""

_FUNCTIONS: dict[str, Callable[..., Any]] = {}
_FIRST_PASSES: dict[str, FirstPass] = {}
_Function = TypeVar("_Function", bound=Callable[..., Any])


def declare(spec: MethodSpec) -> MethodSpec:
    """Add a specification. Raises UsageError for an id or a label that is taken."""
    if spec.id in METHODS or any(spec.label == other.label for other in METHODS.values()):
        raise UsageError(f"the merge method {spec.id} ({spec.label}) is declared twice")
    METHODS[spec.id] = spec
    return spec


def implements(spec: MethodSpec) -> Callable[[_Function], _Function]:
    """Tie a function to its specification and return the function unchanged.

    Raises UsageError where the function's parameters are not those of the specification.
    """

    def tie(function: _Function) -> _Function:
        signature = inspect.signature(function).parameters.values()
        named = {parameter.name for parameter in signature if parameter.kind is parameter.KEYWORD_ONLY}
        wanted = {parameter.id for parameter in spec.parameters} | set(spec.statistics)
        if spec.seeded:
            wanted.add("seed")
        tensors = sum(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in signature)
        open_ended = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature)
        low, high = spec.models
        if named != wanted or open_ended != (high is None) or (high is not None and tensors != high) or low > 99:
            raise UsageError(f"{function.__name__} does not take what the specification of {spec.id} says")
        if spec.id in _FUNCTIONS:
            raise UsageError(f"{spec.id} has two functions")
        _FUNCTIONS[spec.id] = function
        return function

    return tie


def first_pass(spec: MethodSpec, found: FirstPass) -> None:
    """Tie a first pass to its specification. Raises UsageError where there is one, or none is asked for."""
    if spec.id in _FIRST_PASSES or not spec.statistics:
        raise UsageError(f"{spec.id} takes no first pass, or has one already")
    _FIRST_PASSES[spec.id] = found


def get_method(name: str) -> MethodSpec:
    """Look a method up by its id. Raises UnknownNameError with the nearest one."""
    if name not in METHODS:
        raise UnknownNameError("merge method", name, METHODS)
    return METHODS[name]
