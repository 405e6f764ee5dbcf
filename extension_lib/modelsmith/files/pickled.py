"""PyTorch's pickled files, the zip form and the one before torch 1.6, read without executing anything in them."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from modelsmith.errors import BadFileError
from modelsmith.files.header import FileHeader, TensorInfo
from modelsmith.files.inert_pickle import Buffer, Global, InertPickle, Opaque, Persistent, PickleError
from modelsmith.files.zip_directory import ZipEntry, read_directory, read_entry

_DAMAGED = "The file is damaged: download or copy it again"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py MAGIC_NUMBER
MAX_PICKLE_BYTES = 64 << 20
_MAX_NODES = 200_000
_MAX_DEPTH = 8

_SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "C64": 8, "C128": 16, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "F8_E8M0": 1,
    "U16": 2, "U32": 4, "U64": 8,
}  # fmt: skip
_STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL", "ComplexFloatStorage": "C64", "ComplexDoubleStorage": "C128", "UntypedStorage": "U8",
    "_UntypedStorage": "U8",
}  # fmt: skip
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL", "complex64": "C64", "complex128": "C128",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0", "uint16": "U16", "uint32": "U32", "uint64": "U64",
}  # fmt: skip

# What harmless model files ask for: the list that A1111's modules/safe.py keeps, and torch's own plain data types.
_HARMLESS = frozenset(
    {
        "collections.OrderedDict",
        "collections.defaultdict",
        "builtins.set", "__builtin__.set", "builtins.dict", "__builtin__.dict", "builtins.list", "__builtin__.list",
        "builtins.int", "__builtin__.int", "builtins.float", "builtins.bytearray", "__builtin__.long",
        "torch.Size", "torch.device", "torch.Tensor", "torch.nn.parameter.Parameter",
        "torch.nn.modules.container.ParameterDict", "torch.nn.modules.container.ParameterList",
        "torch._tensor._rebuild_from_type_v2", "torch.serialization._get_layout",
        "torch.storage._load_from_bytes", "torch.storage.UntypedStorage", "torch.storage._UntypedStorage",
        "torch.storage.TypedStorage", "torch.storage._TypedStorage",
        "numpy.core.multiarray.scalar", "numpy.core.multiarray._reconstruct", "numpy._core.multiarray.scalar",
        "numpy._core.multiarray._reconstruct", "numpy.dtype", "numpy.ndarray", "_codecs.encode",
        "pytorch_lightning.callbacks.model_checkpoint", "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
        "pytorch_lightning.utilities.parsing.AttributeDict",
    }
    | {f"torch.{name}" for name in (*_STORAGES, *_DTYPES)}
    | {f"torch._utils.{name}" for name in (
        "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter",
        "_rebuild_parameter_with_state", "_rebuild_device_tensor_from_numpy", "_rebuild_meta_tensor_no_storage",
        "_rebuild_device_tensor_from_cpu_tensor", "_rebuild_sparse_tensor", "_rebuild_qtensor",
    )}
)  # fmt: skip


@dataclass(frozen=True)
class _Place:
    """One storage: where its bytes are and how many."""

    start: int
    nbytes: int


class _Missing(Exception):
    """A tensor whose storage is not there, is too short, or that makes no sense."""


def read_zip(path: Path) -> FileHeader:
    """Read a file that ``torch.save`` wrote as a zip archive (torch 1.6 and later).

    Raises BadFileError. A hostile or broken pickle whose globals are not harmless gives a header without tensors
    that lists them, so that the reader learns what the file would have done.
    """
    with path.open("rb") as file:
        entries = read_directory(path, file)
        pickles = [name for name in entries if name.endswith("data.pkl")]
        if not pickles:
            raise BadFileError(path, "it is a zip archive without a PyTorch model", "Unpack it and use the file inside")
        root = pickles[0][: -len("data.pkl")]
        order = entries.get(root + "byteorder")
        if order is not None and read_entry(path, file, order, 16).strip() == b"big":
            raise BadFileError(path, "it was written on a big-endian machine", "Save it again on an ordinary one")
        data = read_entry(path, file, entries[pickles[0]], MAX_PICKLE_BYTES)
        size = file.seek(0, 2)
    machine = InertPickle(data)
    try:
        value = machine.load()
    except PickleError as error:
        return _broken(path, "ckpt", size, machine, error)
    return _assemble(path, "ckpt", (size, machine, value), _ZipPlaces(root, entries))


def read_legacy(path: Path) -> FileHeader:
    """Read a file of the older form: a few pickles one after another, then the storages (torch/serialization.py).

    A plain pickle that is no torch file is read too, for what it holds and asks for. Raises BadFileError.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        data = cast(Buffer, mapped)
        machine = InertPickle(data)
        places: Mapping[str, _Place] = {}
        try:
            value = machine.load()
            if value == _LEGACY_MAGIC:
                machine.load()  # the protocol's version
                machine.load()  # sizes of C's integers
                value = machine.load()
                keys = machine.load()
                places = _legacy_places(path, data, machine.position, keys, value)
        except PickleError as error:
            return _broken(path, "ckpt-legacy", len(mapped), machine, error)
        return _assemble(path, "ckpt-legacy", (len(mapped), machine, value), places)


def _broken(path: Path, form: str, size: int, machine: InertPickle, error: PickleError) -> FileHeader:
    forbidden = _forbidden(machine)
    if not forbidden:
        raise BadFileError(path, f"its pickle cannot be read: {error}", _DAMAGED) from None
    return FileHeader(
        path=path,
        format="ckpt" if form == "ckpt" else "ckpt-legacy",
        size=size,
        tensors={},
        scalars={"pickle_error": str(error)},
        globals=tuple(machine.globals),
        forbidden=forbidden,
    )


def _forbidden(machine: InertPickle) -> tuple[str, ...]:
    return tuple(name for name in machine.globals if name not in _HARMLESS)


def _assemble(path: Path, form: str, read: tuple[int, InertPickle, object], places: Mapping[str, _Place]) -> FileHeader:
    size, machine, value = read
    tensors: dict[str, TensorInfo] = {}
    scalars: dict[str, object] = {}
    inner = _as_dict(value)
    nested = _as_dict(inner.get("state_dict")) if inner is not None else None
    if inner is not None and nested is not None:
        scalars = {str(key): _plain(item) for key, item in inner.items() if key != "state_dict"}
        inner = nested
    forbidden = _forbidden(machine)
    try:
        for name, item in _walk(value if inner is None else inner):
            info = _tensor(item, places)
            if info is not None:
                tensors[name] = info
            elif name.count(".") < 2:
                scalars.setdefault(name, _plain(item))
    except _Missing as error:
        if not forbidden:
            raise BadFileError(path, str(error), _DAMAGED) from None
        tensors = {}
    return FileHeader(
        path=path,
        format="ckpt" if form == "ckpt" else "ckpt-legacy",
        size=size,
        tensors=tensors,
        scalars=scalars,
        globals=tuple(machine.globals),
        forbidden=forbidden,
    )


def _as_dict(value: object) -> dict[object, object] | None:
    """A dict, or the items of an object that stands for one (``ParameterDict``, ``defaultdict``)."""
    if isinstance(value, dict):
        return cast("dict[object, object]", value)
    if isinstance(value, Opaque):
        if isinstance(value.state, dict):
            state = cast("dict[object, object]", value.state)  # pyright: ignore[reportUnknownMemberType]
            found = state.get("_parameters") or state.get("_modules") or state
            return cast("dict[object, object]", found) if isinstance(found, dict) else state
        if value.items:
            return value.items
    return None


def _plain(value: object) -> object:
    """A scalar as it is; of anything else only what it is."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return value[:500]
    return f"<{type(value).__name__}>"


def _walk(root: object) -> Iterator[tuple[str, object]]:
    """Every leaf of nested dicts, lists and tuples under its dotted name; shared and cyclic structures are cut off."""
    pending: list[tuple[str, object, int]] = [("", root, 0)]
    nodes = 0
    while pending:
        name, value, depth = pending.pop()
        nodes += 1
        if nodes > _MAX_NODES:
            raise _Missing("its pickle holds more values than any model file")
        items: list[tuple[object, object]] | None = None
        if not (isinstance(value, Opaque) and _is_rebuild(value)):
            inner = _as_dict(value)
            if inner is not None:
                items = list(inner.items())
            elif isinstance(value, (list, tuple)):
                items = list(enumerate(cast("list[object]", value)))
        if items is None:
            yield name, value
        elif depth < _MAX_DEPTH and len(pending) + len(items) <= _MAX_NODES:
            joint = name + "." if name else ""
            pending.extend((f"{joint}{key}"[:500], item, depth + 1) for key, item in reversed(items))


def _arguments(value: Opaque) -> tuple[object, ...]:
    given = value.arguments
    return cast("tuple[object, ...]", given) if isinstance(given, tuple) else ()


def _is_rebuild(value: Opaque) -> bool:
    return isinstance(value.maker, Global) and value.maker.name.startswith("_rebuild_")


def _tensor(value: object, places: Mapping[str, _Place]) -> TensorInfo | None:
    """The tensor that a ``torch._utils._rebuild_*`` call would have made, or None for anything else."""
    for _ in range(4):  # a parameter wraps a tensor, a subclass wraps a call
        if not isinstance(value, Opaque) or not _is_rebuild(value) or not isinstance(value.arguments, tuple):
            return None
        maker = cast(Global, value.maker).name
        arguments = cast("tuple[object, ...]", value.arguments)
        if maker in ("_rebuild_parameter", "_rebuild_parameter_with_state") and arguments:
            value = arguments[0]
        elif maker == "_rebuild_from_type_v2" and len(arguments) >= 3:
            value = Opaque(arguments[0], arguments[2])
        elif maker in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3") and len(arguments) >= 4:
            dtype = arguments[6] if maker.endswith("v3") and len(arguments) > 6 else None
            return _from_storage(arguments, dtype, places)
        elif maker == "_rebuild_meta_tensor_no_storage" and len(arguments) >= 2 and isinstance(arguments[0], Global):
            return TensorInfo(_DTYPES.get(arguments[0].name, "F32"), _shape(arguments[1]), -1, 0)
        else:
            return None
    return None


def _shape(value: object) -> tuple[int, ...]:
    if isinstance(value, Opaque) and (given := _arguments(value)):  # torch.Size([...])
        value = given[0]
    if not isinstance(value, (tuple, list)) or len(cast("list[object]", value)) > 32:
        raise _Missing("a tensor in it has no shape")
    sides = tuple(cast("list[object]", value))
    if not all(isinstance(side, int) and 0 <= side < 1 << 48 for side in sides):
        raise _Missing("a tensor in it has an impossible shape")
    return cast("tuple[int, ...]", sides)


def _from_storage(arguments: tuple[object, ...], dtype: object, places: Mapping[str, _Place]) -> TensorInfo:
    storage, offset = arguments[0], arguments[1]
    kind, key, _, view = _storage(storage)
    if isinstance(dtype, Global):
        kind = _DTYPES.get(dtype.name, kind)
    shape, strides = _shape(arguments[2]), _shape(arguments[3])
    if not isinstance(offset, int) or not 0 <= offset < 1 << 48 or len(strides) != len(shape):
        raise _Missing("a tensor in it has an impossible place")
    place = places.get(key)
    if place is None:
        raise _Missing(f"the storage {key[:80]!r} of a tensor is not in the file")
    width = _SIZES[kind]
    count = 1
    for side in shape:
        count *= side
    reach = 0 if count == 0 else 1 + sum((side - 1) * step for side, step in zip(shape, strides, strict=True))
    begin = offset * width + view
    # one value spread over a whole tensor is allowed, within reason: whoever reads it has to make room for all of it
    spread = 0 in strides and count <= 1 << 20
    if begin < 0 or begin + reach * width > place.nbytes or (count * width > place.nbytes and not spread):
        raise _Missing(f"a tensor reaches beyond its storage {key[:80]!r}")
    start = -1 if place.start < 0 else place.start + begin
    return TensorInfo(kind, shape, start, count * width, None if _contiguous(shape, strides) else strides)


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for side, step in zip(reversed(shape), reversed(strides), strict=True):
        if side == 0:
            return True
        if side != 1 and step != expected:
            return False
        expected *= side
    return True


def _storage(value: object) -> tuple[str, str, int, int]:
    """(dtype, key, number of elements, byte offset of a view) of a persistent storage reference."""
    identity = value.identity if isinstance(value, Persistent) else None
    if not isinstance(identity, tuple) or len(cast("tuple[object, ...]", identity)) < 5:
        raise _Missing("a tensor in it has no storage")
    parts = cast("tuple[object, ...]", identity)
    kind, key, count = parts[1], parts[2], parts[4]
    if not isinstance(kind, Global) or kind.name not in _STORAGES or not isinstance(count, int):
        raise _Missing(f"a tensor in it has the unknown storage type {str(kind)[:80]}")
    dtype = _STORAGES[kind.name]
    view = 0
    if len(parts) > 5 and isinstance(parts[5], tuple):  # legacy: a view into another storage
        inner = cast("tuple[object, ...]", parts[5])
        view = inner[1] * _SIZES[dtype] if len(inner) > 1 and isinstance(inner[1], int) else 0
    return dtype, str(key), count, view


class _ZipPlaces(dict[str, _Place]):
    """Places of the storages of an archive, by key."""

    def __init__(self, root: str, entries: Mapping[str, ZipEntry]) -> None:
        prefix = root + "data/"
        super().__init__(
            (name[len(prefix) :], _Place(entry.start, entry.size))
            for name, entry in entries.items()
            if name.startswith(prefix)
        )


def _legacy_places(path: Path, data: Buffer, position: int, keys: object, value: object) -> dict[str, _Place]:
    """Where each storage of the older form begins: an 8-byte element count, then the elements, in the keys' order."""
    widths: dict[str, int] = {}
    try:
        for _, item in _walk(value):
            _note_width(item, widths)
    except _Missing as error:
        raise BadFileError(path, str(error), _DAMAGED) from None
    places: dict[str, _Place] = {}
    for key in cast("list[object]", keys) if isinstance(keys, list) else []:
        if position + 8 > len(data):
            raise BadFileError(path, "the file is cut short within its tensors", "Download or copy it again")
        count = int.from_bytes(data[position : position + 8], "little")
        width = widths.get(str(key))
        if width is None:
            break  # a storage that no tensor uses: its width, and so all that follows, cannot be told
        places[str(key)] = _Place(position + 8, count * width)
        position += 8 + count * width
        if position > len(data):
            raise BadFileError(path, "the file is cut short within its tensors", "Download or copy it again")
    return places


def _note_width(item: object, widths: dict[str, int]) -> None:
    for _ in range(4):
        given = _arguments(item) if isinstance(item, Opaque) else ()
        if not given:
            return
        first = given[0]
        if isinstance(first, Persistent):
            dtype, key, _, _ = _storage(first)
            widths[key] = _SIZES[dtype]
            return
        item = first if isinstance(first, Opaque) else None
