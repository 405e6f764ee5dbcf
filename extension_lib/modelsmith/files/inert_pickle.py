"""A pickle reader that can do nothing: it follows the opcodes and builds plain values and inert stand-ins.

Python's own unpickler is not used at all. Even with every global replaced, its memo can be told to reserve gigabytes
by one five-byte opcode, and a hash of nested tuples can be made to take years. This machine knows the opcodes of
protocols 0 to 5 (the ``pickletools`` module of the standard library documents them), never imports or calls anything,
and stops at a bound on opcodes, which bounds time and memory too.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

MAX_OPCODES = 2_000_000
"""A full SD1 training checkpoint with optimizer states needs about 300,000."""
MAX_TEXT = 1 << 20  # one string or byte string; no name or note in a model file comes near


class PickleError(Exception):
    """The stream is not a pickle that a model file could hold."""


@dataclass(frozen=True)
class Global:
    """A name that the pickle asks for; it stays a name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def _no_items() -> dict[object, object]:
    return {}


def _no_values() -> list[object]:
    return []


@dataclass(eq=False)
class Opaque:
    """What a call or a class would have made: the callable, its arguments and the state set afterwards."""

    maker: object
    arguments: object
    state: object = None
    items: dict[object, object] = field(default_factory=_no_items)
    values: list[object] = field(default_factory=_no_values)


@dataclass(eq=False)
class Persistent:
    """A reference to something outside the pickle; torch writes its storages so."""

    identity: object


class Buffer(Protocol):
    """Bytes, or a memory map of a file."""

    def __getitem__(self, key: slice, /) -> bytes: ...
    def __len__(self) -> int: ...
    def find(self, sub: bytes, start: int, end: int, /) -> int: ...


_MARK = object()
_Key = (str, int, float, bytes, bool, type(None))


class InertPickle:
    """Reads one pickle from ``data`` beginning at ``position``; afterwards ``position`` is the byte after it.

    ``globals`` holds every name asked for so far, in order and once each, also after a failure.
    """

    def __init__(self, data: Buffer, position: int = 0, opcodes: int = MAX_OPCODES) -> None:
        self.position = position
        self.globals: dict[str, None] = {}
        self.opcodes_left = opcodes
        self._data = data
        self._end = len(data)
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}

    def load(self) -> object:
        """The value of the pickle. Raises PickleError for anything malformed and for more opcodes than allowed."""
        self._stack = []
        self._memo = {}
        stop = 0x2E
        try:
            while True:
                code = self._take(1)[0]
                if code == stop:
                    return self._pop()
                self.opcodes_left -= 1
                if self.opcodes_left < 0:
                    raise PickleError("it has more steps than any model file needs")
                _ACTIONS[code](self)
        except KeyError as error:
            raise PickleError(f"it has an unknown opcode or reference {error}") from None
        except (IndexError, ValueError, TypeError, struct.error, RecursionError, OverflowError) as error:
            raise PickleError(f"it is malformed ({str(error)[:100]})") from None

    # -- reading the stream

    def _take(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > self._end:
            raise PickleError("it ends too early")
        found = self._data[self.position : end]
        self.position = end
        return found

    def _skip_or_take(self, count: int) -> bytes:
        """A byte string, or nothing in its place where it is longer than any text of a model file."""
        if count > MAX_TEXT and self.position + count <= self._end:
            self.position += count
            return b""
        return self._take(count)

    def _line(self) -> str:
        end = self._data.find(b"\n", self.position, min(self._end, self.position + 65536))
        if end < 0:
            raise PickleError("a line in it does not end")
        text = self._take(end - self.position)
        self.position += 1
        return text.decode("utf-8", "replace")

    def _int(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    # -- the stack

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _pop(self) -> object:
        value = self._stack.pop()
        if value is _MARK:
            raise PickleError("a mark stands where a value should")
        return value

    def _pop_mark(self) -> list[object]:
        stack = self._stack
        index = len(stack) - 1
        while index >= 0 and stack[index] is not _MARK:
            index -= 1
        if index < 0:
            raise PickleError("a mark is missing")
        found = stack[index + 1 :]
        del stack[index:]
        return found

    def _top(self) -> object:
        top = self._stack[-1]
        if top is _MARK:
            raise PickleError("a mark stands where a value should")
        return top

    # -- globals, calls, state

    def _ask(self, module: object, name: object) -> None:
        found = (
            Global(str(module)[:200], str(name)[:200]) if isinstance(module, str) and isinstance(name, str) else None
        )
        if found is None:
            raise PickleError("a global without a name")
        self.globals[str(found)] = None
        self._push(found)

    def _global(self) -> None:
        module = self._line()
        self._ask(module, self._line())

    def _stack_global(self) -> None:
        name = self._pop()
        self._ask(self._pop(), name)

    def _call(self, maker: object, arguments: object) -> None:
        if isinstance(maker, Global) and str(maker) in ("collections.OrderedDict", "builtins.dict", "__builtin__.dict"):
            self._push(_ordered(arguments))
        else:
            self._push(Opaque(maker, arguments))

    def _reduce(self) -> None:
        arguments = self._pop()
        self._call(self._pop(), arguments)

    def _newobj_ex(self) -> None:
        self._pop()
        self._reduce()

    def _inst(self) -> None:
        self._global()
        maker = self._pop()
        self._call(maker, tuple(self._pop_mark()))

    def _obj(self) -> None:
        found = self._pop_mark()
        self._call(found[0], tuple(found[1:]))

    def _build(self) -> None:
        state = self._pop()
        top = self._top()
        if isinstance(top, Opaque):
            top.state = state

    # -- containers

    def _append(self) -> None:
        value = self._pop()
        _extend(self._top(), [value])

    def _appends(self) -> None:
        found = self._pop_mark()
        _extend(self._top(), found)

    def _setitem(self) -> None:
        value = self._pop()
        key = self._pop()
        _update(self._top(), [key, value])

    def _setitems(self) -> None:
        found = self._pop_mark()
        _update(self._top(), found)

    def _dict(self) -> None:
        found = self._pop_mark()
        made: dict[object, object] = {}
        _update(made, found)
        self._push(made)

    def _tuple_of(self, count: int) -> None:
        found = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(found)))

    # -- memo

    def _put(self, index: int) -> None:
        self._memo[index] = self._top()

    def _pop_any(self) -> None:
        self._stack.pop()

    def _drop_mark(self) -> None:
        self._pop_mark()

    def _skip(self, count: int) -> None:
        self._take(count)

    def _text_int(self) -> None:
        line = self._line().rstrip("L")
        if len(line) > 80:
            raise PickleError("a number in it is longer than any model needs")
        self._push({"00": False, "01": True}[line] if line in ("00", "01") else int(line))

    def _float(self) -> None:
        self._push(struct.unpack(">d", self._take(8))[0])

    def _quoted(self) -> None:
        line = self._line()
        if len(line) < 2 or line[0] != line[-1] or line[0] not in "'\"":
            raise PickleError("a string in it is not quoted")
        self._push(line[1:-1])

    def _bytes(self, size: int) -> None:
        self._push(self._skip_or_take(self._int(size)))

    def _str(self, size: int) -> None:
        self._push(self._skip_or_take(self._int(size)).decode("utf-8", "replace"))

    def _long(self, size: int) -> None:
        length = self._int(size)
        if length > 64:
            raise PickleError("a number in it is longer than any model needs")
        self._push(int.from_bytes(self._take(length), "little", signed=True))


def _ordered(arguments: object) -> dict[object, object]:
    """``OrderedDict()`` or ``OrderedDict([(key, value), ...])`` as a plain dict."""
    made: dict[object, object] = {}
    if isinstance(arguments, tuple) and arguments and isinstance(arguments[0], (list, tuple)):
        for pair in cast("list[object]", arguments[0]):
            if isinstance(pair, (list, tuple)) and len(cast("list[object]", pair)) == 2:
                _update(made, list(cast("list[object]", pair)))
    return made


def _extend(target: object, values: list[object]) -> None:
    if isinstance(target, list):
        cast("list[object]", target).extend(values)
    elif isinstance(target, Opaque):
        target.values.extend(values)
    elif not isinstance(target, (set, dict)):
        raise PickleError("it appends to something that is no list")


def _update(target: object, flat: list[object]) -> None:
    """Set keys and values given in turn. Keys that are no plain scalar are left out: their hash may not end."""
    if len(flat) % 2:
        raise PickleError("a key without a value")
    items: dict[object, object]
    if isinstance(target, Opaque):
        items = target.items
    elif isinstance(target, dict):
        items = cast("dict[object, object]", target)
    else:
        raise PickleError("it sets an item of something that is no dict")
    for index in range(0, len(flat), 2):
        if isinstance(flat[index], _Key):
            items[flat[index]] = flat[index + 1]


def _push_constant(value: object) -> Callable[[InertPickle], None]:
    return lambda machine: machine._push(value)  # pyright: ignore[reportPrivateUsage]


# pyright: reportPrivateUsage=false
_ACTIONS: dict[int, Callable[[InertPickle], None]] = {
    ord("("): lambda m: m._push(_MARK),
    ord("0"): InertPickle._pop_any,
    ord("1"): InertPickle._drop_mark,
    ord("2"): lambda m: m._push(m._top()),
    ord("N"): _push_constant(None),
    0x88: _push_constant(True),
    0x89: _push_constant(False),
    ord("I"): InertPickle._text_int,
    ord("L"): InertPickle._text_int,
    ord("J"): lambda m: m._push(int.from_bytes(m._take(4), "little", signed=True)),
    ord("K"): lambda m: m._push(m._take(1)[0]),
    ord("M"): lambda m: m._push(m._int(2)),
    0x8A: lambda m: m._long(1),
    0x8B: lambda m: m._long(4),
    ord("F"): lambda m: m._push(float(m._line())),
    ord("G"): InertPickle._float,
    ord("S"): InertPickle._quoted,
    ord("V"): lambda m: m._push(m._line()),
    ord("T"): lambda m: m._str(4),
    ord("U"): lambda m: m._str(1),
    ord("X"): lambda m: m._str(4),
    0x8C: lambda m: m._str(1),
    0x8D: lambda m: m._str(8),
    ord("B"): lambda m: m._bytes(4),
    ord("C"): lambda m: m._bytes(1),
    0x8E: lambda m: m._bytes(8),
    0x96: lambda m: m._bytes(8),
    0x97: _push_constant(None),
    0x98: lambda m: None,
    ord("]"): lambda m: m._push([]),
    ord("}"): lambda m: m._push({}),
    ord(")"): _push_constant(()),
    0x8F: lambda m: m._push([]),
    ord("a"): InertPickle._append,
    ord("e"): InertPickle._appends,
    0x90: InertPickle._appends,
    0x91: lambda m: m._push(m._pop_mark()),
    ord("l"): lambda m: m._push(m._pop_mark()),
    ord("d"): InertPickle._dict,
    ord("s"): InertPickle._setitem,
    ord("u"): InertPickle._setitems,
    ord("t"): lambda m: m._push(tuple(m._pop_mark())),
    0x85: lambda m: m._tuple_of(1),
    0x86: lambda m: m._tuple_of(2),
    0x87: lambda m: m._tuple_of(3),
    ord("p"): lambda m: m._put(int(m._line()[:20])),
    ord("q"): lambda m: m._put(m._take(1)[0]),
    ord("r"): lambda m: m._put(m._int(4)),
    0x94: lambda m: m._put(len(m._memo)),
    ord("g"): lambda m: m._push(m._memo[int(m._line()[:20])]),
    ord("h"): lambda m: m._push(m._memo[m._take(1)[0]]),
    ord("j"): lambda m: m._push(m._memo[m._int(4)]),
    ord("c"): InertPickle._global,
    0x93: InertPickle._stack_global,
    ord("R"): InertPickle._reduce,
    0x81: InertPickle._reduce,
    0x92: InertPickle._newobj_ex,
    ord("i"): InertPickle._inst,
    ord("o"): InertPickle._obj,
    ord("b"): InertPickle._build,
    ord("P"): lambda m: m._push(Persistent(m._line())),
    ord("Q"): lambda m: m._push(Persistent(m._pop())),
    0x82: lambda m: m._ask("copyreg", f"extension_{m._int(1)}"),
    0x83: lambda m: m._ask("copyreg", f"extension_{m._int(2)}"),
    0x84: lambda m: m._ask("copyreg", f"extension_{m._int(4)}"),
    0x80: lambda m: m._skip(1),
    0x95: lambda m: m._skip(8),
}
