"""Applies one module of a LoRA file to a tensor: reads its factors, scales them, calls the algebra."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelsmith.errors import BadFileError
from modelsmith.files.dtypes import count
from modelsmith.files.tensors import TensorSource
from modelsmith.lora import deltas
from modelsmith.lora.parse import LoraFile, LoraModule

if TYPE_CHECKING:
    import torch

_SCALARS = frozenset({"alpha", "scalar"})

WEIGHT_DIFFERENCES = ("diff", "w_norm")
BIAS_DIFFERENCES = ("diff_b", "b_norm")
"""Roles that mean the same; where a file has both, they add up."""


class Reader:
    """Reads the tensors of one module, in the type that the arithmetic is done in."""

    def __init__(self, file: LoraFile, source: TensorSource, module: LoraModule, dtype: torch.dtype) -> None:
        self.file = file
        self.module = module
        self.dtype = dtype
        self._source = source

    def load(self, role: str) -> torch.Tensor:
        """One factor. Raises BadFileError, with the tensor's name, where it holds values that are not finite."""
        import torch

        name = self.module.tensors[role]
        tensor = self._source.load(name).to(self.dtype)
        if not bool(torch.isfinite(tensor).all()):
            raise BadFileError(self.file.path, f"tensor {name!r} holds NaN or infinity", "Get the LoRA anew")
        return tensor

    def factors(self) -> dict[str, torch.Tensor]:
        """All factors but the scalars, by role."""
        return {role: self.load(role) for role in self.module.tensors if role not in _SCALARS}

    def number(self, role: str) -> float | None:
        """A scalar of the module; None where it has none."""
        return float(self.load(role).reshape(-1)[0]) if role in self.module.tensors else None

    def scale(self) -> float:
        """``alpha / rank`` (1 where the file has no alpha: PEFT folds it in, or keeps it in the metadata), times the
        ``scalar`` that LyCORIS trains on request.

        LoKr with both factors whole takes no alpha (LyCORIS modules/lokr.py sets its scale to 1).
        """
        alpha, rank, module = self.number("alpha"), self.file.rank(self.module), self.module
        if module.algebra in ("oft", "boft", "full"):
            factor = 1.0
        elif alpha is not None and rank:
            factor = alpha / rank
        elif alpha is None and module.algebra == "lora":
            factor = self.file.default_scale.get(module.slot, 1.0)
        else:
            factor = 1.0
        scalar = self.number("scalar")
        return factor if scalar is None else factor * scalar


class KeptReader(Reader):
    """A reader that keeps what it has read, for modules that are asked for row by row; what it gives is not to be
    changed. Safe for several threads. bytes: of all tensors of the module, as they are kept."""

    def __init__(self, file: LoraFile, source: TensorSource, module: LoraModule, dtype: torch.dtype) -> None:
        super().__init__(file, source, module, dtype)
        self._kept: dict[str, torch.Tensor] = {}
        self.bytes = dtype.itemsize * sum(count(file.info(module, role).shape) for role in module.tensors)

    def load(self, role: str) -> torch.Tensor:
        found = self._kept.get(role)
        if found is None:
            found = self._kept[role] = super().load(role)
        return found


def by_rows(module: LoraModule) -> bool:
    """Whether the module changes each row of a weight without regard to the others, so that it can go row by row."""
    if module.decomposed or "set_weight" in module.tensors:
        return False
    return module.algebra == "full" or (module.algebra == "lora" and "mid" not in module.tensors)


def add_rows(module: LoraModule, reader: Reader, window: torch.Tensor, strength: float, first: int) -> None:
    """Add the module's rows from ``first`` on to ``window``, in place; for modules that go ``by_rows``."""
    last = first + window.shape[0]
    if module.algebra == "full":
        for role in WEIGHT_DIFFERENCES:
            if role in module.tensors:
                difference = reader.load(role)
                window += strength * difference.reshape(difference.shape[0], -1)[first:last].reshape(window.shape)
        return
    up, down = reader.load("up").flatten(1)[first:last], reader.load("down").flatten(1)
    flat = window.reshape(window.shape[0], -1)
    flat.addmm_(up, down, alpha=strength * reader.scale())
    if flat.data_ptr() != window.data_ptr():
        window.copy_(flat.reshape(window.shape))


def add_bias(reader: Reader, window: torch.Tensor, strength: float, first: int) -> None:
    """Add the module's difference of the bias, in place."""
    for role in BIAS_DIFFERENCES:
        if role in reader.module.tensors:
            window += strength * reader.load(role).reshape(-1)[first : first + window.shape[0]].reshape(window.shape)


def delta(module: LoraModule, reader: Reader, shape: tuple[int, ...]) -> torch.Tensor:
    """What a LoRA, LoHa, LoKr or full difference adds at strength 1, in the given shape, its scale included."""
    import torch

    if module.algebra == "full":
        return sum(
            (reader.load(role).reshape(shape) for role in WEIGHT_DIFFERENCES if role in module.tensors),
            start=torch.zeros(shape, dtype=reader.dtype),
        )
    factors = reader.factors()
    make = {"lora": deltas.low_rank, "loha": deltas.hadamard, "lokr": deltas.kronecker}[module.algebra]
    return make(factors).reshape(shape) * reader.scale()


def updated(module: LoraModule, reader: Reader, weight: torch.Tensor, strength: float) -> torch.Tensor:
    """The weight with the module on it; ``weight`` is the module's own matrix and is left as it is."""
    shape = tuple(weight.shape)
    if "set_weight" in module.tensors:
        return deltas.replace(weight, reader.load("set_weight").reshape(shape), strength)
    if module.algebra in ("oft", "boft"):
        constraint = (reader.number("alpha") or 0.0) * weight.shape[0]
        turn = deltas.rotate if module.algebra == "oft" else deltas.butterfly
        return turn(weight, reader.factors(), constraint, strength)
    change = delta(module, reader, shape)
    if module.decomposed:
        return deltas.decompose(weight, change, reader.load("dora_scale"), strength)
    return weight + strength * change
