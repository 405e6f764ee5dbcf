"""A model as it will be written: its tensors as nodes, its metadata, and what was noticed on the way."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from modelsmith.convert import dequantize_bnb, dequantize_comfy, dequantize_scaled, llama_names
from modelsmith.convert.dequantize_bnb import FourBit
from modelsmith.convert.dequantize_gguf import GgufBlocks
from modelsmith.convert.dequantize_scaled import ScaledFp8
from modelsmith.convert.nodes import Node, Stored, nbytes
from modelsmith.convert.parts import PartTable
from modelsmith.errors import BadFileError, UnsafeFileError
from modelsmith.files.gguf import QUANTIZED
from modelsmith.files.header import FileHeader, read_header
from modelsmith.files.tensors import TensorSource, open_tensors
from modelsmith.identify.health import TRAINING_PARTS
from modelsmith.identify.recipe_file import with_weights


@dataclass
class Model:
    """The table that all changes work on. Use it in a ``with`` block: it holds its files open.

    tensors: by name, in the order of the file. quantized: weights whose stored form is packed, with the node that
    decodes them and the tensors that go with the packed form. notes: sentences for the user.
    """

    path: Path
    header: FileHeader
    tensors: dict[str, Node]
    metadata: dict[str, str]
    quantized: dict[str, Packed] = field(default_factory=lambda: dict[str, Packed]())
    notes: list[str] = field(default_factory=list[str])
    stack: ExitStack = field(default_factory=ExitStack)

    def parts(self) -> PartTable:
        """Which part each tensor belongs to."""
        return PartTable(self.tensors)

    def plain(self) -> dict[str, Node]:
        """The tensors as they are decoded: packed ones in their true shapes, without what belongs to the packing."""
        hidden = {companion for packed in self.quantized.values() for companion in packed.companions}
        found = {name: node for name, node in self.tensors.items() if name not in hidden}
        return {**found, **{name: packed.node for name, packed in self.quantized.items()}}

    def bytes(self) -> int:
        """Bytes of all tensors as they are stored, or would be written now; GGUF's packed types are stored only."""
        stored = self.header.tensors
        return sum(
            stored[node.name].nbytes if isinstance(node, GgufBlocks) else nbytes(node) for node in self.tensors.values()
        )

    def adopt(self, other: Model) -> None:
        """Keep another model's files open as long as this one's; its nodes may then be used here."""
        self.stack.push(other.stack.pop_all())

    def check_unchanged(self) -> None:
        """Raise BadFileError where the input changed while it was read."""
        for node in self.tensors.values():
            if isinstance(node, Stored):
                node.origin[0].check_unchanged()
                return

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()


@dataclass(frozen=True)
class Packed:
    """How to undo a quantisation: the decoding node (float32) and the tensors that are dropped with the packed form."""

    scheme: str
    node: Node
    companions: tuple[str, ...]


def open_model(path: Path) -> Model:
    """Open a model file or folder of any format that is read; nothing in a pickle is executed.

    Raises BadFileError for a damaged file, UnsafeFileError for a pickle that holds other things and no tensor.
    """
    header = with_weights(read_header(path))
    if header.forbidden and not header.tensors:
        raise UnsafeFileError(path, header.forbidden)
    if not header.tensors:
        raise BadFileError(path, "there is no tensor in it that can be read", "Choose another file")
    stack = ExitStack()
    try:
        header = _unpacked(header, stack)
        source = stack.enter_context(open_tensors(header))
        model = Model(path, header, {}, _metadata(header), stack=stack)
        _fill(model, source)
        llama_names.rename(model)
    except BaseException:
        stack.close()
        raise
    if header.forbidden:
        names = ", ".join(header.forbidden)
        model.notes.append(f"the pickle asks for {names}; none of it was executed, only the tensors were taken")
    beside = [name for name in TRAINING_PARTS if name in header.scalars and name != "pytorch-lightning_version"]
    if beside:
        model.notes.append(f"{', '.join(beside)} beside the weights will not be written")
    return model


def _unpacked(header: FileHeader, stack: ExitStack) -> FileHeader:
    """A file whose zip entries are compressed is unpacked to a temporary copy first."""
    if all(info.start >= 0 or not info.nbytes for info in header.tensors.values()):
        return header
    from modelsmith.convert.repack import stored_copy

    copy = stack.enter_context(stored_copy(header.path))
    found = read_header(copy)
    return FileHeader(
        header.path,
        found.format,
        header.size,
        {name: info._replace(file=copy) for name, info in found.tensors.items()},
        found.metadata,
        found.scalars,
        header.globals,
        header.forbidden,
    )


def _metadata(header: FileHeader) -> dict[str, str]:
    """The metadata to carry over. Of a pickle's scalars the training position is kept: it is evidence."""
    if header.format == "gguf":
        return {name: value for name, value in header.metadata.items() if name.startswith(("modelspec.", "general."))}
    found = dict(header.metadata)
    for name in ("global_step", "epoch"):
        value = header.scalars.get(name)
        if isinstance(value, int):
            found.setdefault(name, str(value))
    return found


def _fill(model: Model, source: TensorSource) -> None:
    four_bit = dequantize_bnb.quantized_names(source.header.tensors)
    blocks = dequantize_comfy.find_quantized(source)
    scaled = dequantize_scaled.scaled_names(source.header.tensors)
    for name, info in source.header.tensors.items():
        if info.start < 0 and info.nbytes == 0 and 0 not in info.shape:
            raise BadFileError(
                model.path, f"tensor {name!r} has a shape but no values", "Use a whole copy of the model"
            )
        if info.dtype in QUANTIZED:
            model.tensors[name] = GgufBlocks(source, name)
            model.quantized[name] = Packed(info.dtype, model.tensors[name], ())
            continue
        model.tensors[name] = Stored(source, name)
        if name in four_bit:
            scheme = four_bit[name]
            node = FourBit(source, name, scheme)
            model.quantized[name] = Packed(scheme, node, dequantize_bnb.companions(name, scheme))
        elif name in blocks:
            model.quantized[name] = Packed(blocks[name].scheme, blocks[name].node(), blocks[name].companions)
        elif name in scaled:
            node = ScaledFp8(source, name, scaled[name])
            model.quantized[name] = Packed("fp8_scaled", node, dequantize_scaled.companions(name))
