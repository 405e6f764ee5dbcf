"""Two models tensor by tensor, and one model for damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from modelsmith.convert.casts import TILE, cast, decode_fp8, fp8_types
from modelsmith.convert.hashes import hash_file
from modelsmith.convert.model import Model, open_model
from modelsmith.convert.nodes import Node, byte_view, in_pieces
from modelsmith.errors import Cancelled, ModelsmithError
from modelsmith.files.dtypes import DTYPES, count
from modelsmith.files.header import read_header
from modelsmith.identify.recipe_file import is_recipe_checkpoint
from modelsmith.japanese import Said

Verdict = Literal["equal", "rounded", "different", "shape", "only_a", "only_b"]


@dataclass(frozen=True)
class Difference:
    """How one tensor of two models relates.

    ``rounded``: equal once the wider type is rounded to the narrower. largest: of the absolute differences of finite
    values. share: of all values, how many differ.
    """

    name: str
    verdict: Verdict
    largest: float = 0.0
    share: float = 0.0
    detail: str = ""


@dataclass(frozen=True)
class Comparison:
    """All tensors of two models, those of the first in its order, then those that only the second has."""

    differences: tuple[Difference, ...]

    def counts(self) -> dict[Verdict, int]:
        """How many tensors got each verdict; verdicts that none got are left out."""
        found: dict[Verdict, int] = {}
        for difference in self.differences:
            found[difference.verdict] = found.get(difference.verdict, 0) + 1
        return found

    @property
    def same(self) -> bool:
        """Whether no tensor differs by more than rounding and none is missing."""
        return set(self.counts()) <= {"equal", "rounded"}


def compare(first: Path, second: Path, cancelled: Callable[[], bool] | None = None) -> Comparison:
    """Compare two models of any format; packed values are compared decoded. Raises BadFileError, Cancelled."""
    with open_model(first) as a, open_model(second) as b, ThreadPoolExecutor(2) as pool:
        _unpack(a)
        _unpack(b)
        names = [*a.tensors, *(name for name in b.tensors if name not in a.tensors)]

        def one(name: str) -> Difference:
            if cancelled is not None and cancelled():
                raise Cancelled
            return _compare(name, a.tensors.get(name), b.tensors.get(name))

        return Comparison(tuple(pool.map(one, names)))


def _unpack(model: Model) -> None:
    for name, packed in model.quantized.items():
        model.tensors[name] = packed.node
        for companion in packed.companions:
            model.tensors.pop(companion, None)


def _compare(name: str, a: Node | None, b: Node | None) -> Difference:
    if a is None or b is None:
        return Difference(name, "only_a" if b is None else "only_b")
    if a.shape != b.shape:
        return Difference(name, "shape", detail=f"{list(a.shape)} and {list(b.shape)}")
    size = count(a.shape)
    exact, rounded_a, rounded_b = a.dtype == b.dtype, True, True
    largest, unequal = 0.0, 0
    for first in range(0, size, TILE):
        part = min(TILE, size - first)
        left, right = a.read(first, part).contiguous(), b.read(first, part).contiguous()
        if exact and byte_view(left) == byte_view(right):
            continue
        exact = False
        differ, error = _differ(left, right)
        unequal += differ
        largest = max(largest, error)
        rounded_a = rounded_a and _rounds_to(left, b.dtype, right)
        rounded_b = rounded_b and _rounds_to(right, a.dtype, left)
    if exact:
        return Difference(name, "equal")
    detail = "" if a.dtype == b.dtype else f"{a.dtype} and {b.dtype}"
    verdict: Verdict = "rounded" if rounded_a or rounded_b else "different"
    return Difference(name, verdict, largest, unequal / size if size else 0.0, detail)


def _wide(values: torch.Tensor) -> torch.Tensor:
    return (
        values.double() if values.dtype == torch.float64 else values.float() if values.is_floating_point() else values
    )


def _differ(left: torch.Tensor, right: torch.Tensor) -> tuple[int, float]:
    """How many values differ, NaN counting as equal to NaN, and the largest finite difference."""
    a, b = _wide(left), _wide(right)
    both_nan = torch.isnan(a) & torch.isnan(b) if a.is_floating_point() and b.is_floating_point() else None
    unequal = a != b if both_nan is None else (a != b) & ~both_nan
    error = (a.double() - b.double()).abs()
    return int(unequal.sum()), float(torch.nan_to_num(error, 0.0, 0.0, 0.0).amax())


def _rounds_to(values: torch.Tensor, kind: str, wanted: torch.Tensor) -> bool:
    if not values.is_floating_point() or not DTYPES[kind].floating:
        return False
    got, want = _wide(cast(values, kind)[0]), _wide(wanted)
    return bool(((got == want) | (got.isnan() & want.isnan())).all())


@dataclass(frozen=True)
class Checked:
    """One file after a check. problems: empty where it is sound. sha256 is None where no hash was asked for."""

    path: Path
    problems: tuple[str, ...]
    sha256: str | None = None


def check_file(
    path: Path,
    *,
    values: bool = True,
    expected: frozenset[str] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Checked:
    """Check header and sizes, then the values for NaN and infinity, then the hash. Never raises for a bad file.

    expected: hashes that the file may have (SHA-256, or its first ten digits, or AutoV3), None for no check.
    """
    problems: list[str] = []
    digest: str | None = None
    try:
        header = read_header(path)
        problems += [f"the pickle asks for {name}" for name in header.forbidden]
        if values and header.tensors and not is_recipe_checkpoint(header):
            problems += _bad_values(path, cancelled)
        if expected is not None and path.is_file():
            digest, known = _hashed(path, expected, cancelled)
            if not known:
                problems.append(f"its SHA-256 is {digest}, not one of those expected")
    except Cancelled:
        raise
    except ModelsmithError as error:
        problems.append(_said(error, path))
    return Checked(path, tuple(problems), digest)


def _hashed(path: Path, expected: frozenset[str], cancelled: Callable[[], bool] | None) -> tuple[str, bool]:
    """The SHA-256 of a file, and whether it, or AutoV3, is among those expected; that of the data is computed only
    where it may decide."""
    both = any(len(one) == 12 for one in expected)
    hashes = hash_file(path, cancelled, data=both)
    if not both and not expected & {hashes.sha256, hashes.autov2} and any(len(one) == 64 for one in expected):
        hashes = hash_file(path, cancelled)
    return hashes.sha256, bool(expected & {hashes.sha256, hashes.autov2, hashes.autov3, hashes.data_sha256})


def _said(error: ModelsmithError, path: Path) -> Said:
    """What an error says, without the path of the file that is spoken of anyhow."""
    (message, remedy), (japanese, what_to_do) = (
        (text.removeprefix(f"{path}: "), advice) for text, advice in map(error.in_language, ("en", "ja"))
    )
    joint = "" if message.endswith((".", "!", "?")) else "."
    english = f"{message}{joint} {remedy}" if remedy else message
    return Said(english, f"{japanese}。{what_to_do}" if what_to_do else japanese)


def _bad_values(path: Path, cancelled: Callable[[], bool] | None) -> Iterator[str]:
    with open_model(path) as model:
        _unpack(model)
        for name, node in model.tensors.items():
            if cancelled is not None and cancelled():
                raise Cancelled
            nan, infinite = not_finite(node)
            if nan or infinite:
                yield f"tensor {name!r} holds {nan} NaN and {infinite} infinite values"


def not_finite(node: Node) -> tuple[int, int]:
    """How many values are NaN, and how many infinite."""
    if not DTYPES[node.dtype].floating:
        return 0, 0
    nan = infinite = 0
    for values in in_pieces(node, 0, count(node.shape)):
        wide = decode_fp8(values) if values.dtype in fp8_types() else values
        low, high = (float(side) for side in torch.aminmax(wide))
        if not (abs(low) < float("inf") and abs(high) < float("inf")):
            nan += int(wide.isnan().sum())
            infinite += int(wide.isinf().sum())
    return nan, infinite
