"""Runs the few operations of pickles that hold lists, strings and arrays of bytes.

Python's own unpickler asks only before it looks up a name. It makes anything else:
tuples so deep that hashing them ends the process, memos of as many entries as a number
says, copies of copies. This machine has no operation that does. Names stand for plain
values that only `call` and `build` know, so there is nothing to call and nothing whose
attributes can be set. A step costs a few words of memory and what it copies of the
pickle, and there are so many steps at most.

The operations are those of Python's `pickletools`, whose letters stand in the table.
"""

import codecs
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from gradflow_jax.experiments.errors import DataError, abridge


class PickledDtype(NamedTuple):
    """What a pickle says of a dtype: its name, such as "u1"; a byte has no more."""

    name: str


@dataclass(eq=False)
class PickledArray:
    """What a pickle says of a numpy array: values of any type, which nobody checked."""

    shape: Any = None
    dtype: Any = None
    is_fortran: Any = None
    raw: Any = None


class _Name(NamedTuple):
    """A function or class that the pickle names, and that is never looked up."""

    text: str


_ARRAY = {"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"}
_CLASS, _DTYPE, _ENCODE = "numpy.ndarray", "numpy.dtype", "_codecs.encode"
_ALLOWED = {*_ARRAY, _CLASS, _DTYPE, _ENCODE}
_MAX_KEYS = 100  # A batch has four or five.
_MARK = object()


class _Malformed(Exception):
    """An operation cannot be done; the message says why, without any value."""


def run_pickle(raw: bytes, where: str, *, max_steps: int) -> Any:
    """Returns what a pickle builds of containers, numbers, strings, arrays of bytes.

    Args:
        raw: the pickle, of a protocol up to 4.
        where: the file, for errors.
        max_steps: how many operations it may have.

    Raises:
        DataError: if it is damaged, has more operations, or has one that such values
            do not need; the message names the byte, and never a value.
    """
    machine = _Machine(raw)
    for _ in range(max_steps):
        start = machine.at
        try:
            code = machine.take(1)
            if code == b".":
                return machine.pop()
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise _Malformed(f"it has the operation {code!r}, which was refused")
            operation(machine)
        except (_Malformed, ValueError, IndexError, KeyError) as error:
            # What Python says may show the value.
            reason = str(error) if isinstance(error, _Malformed) else "it is damaged"
            raise DataError(
                f"{where} cannot be read as a pickled batch: {reason}, at byte "
                f"{start:,}."
            ) from None
    raise DataError(
        f"{where} cannot be read as a pickled batch: it has more than {max_steps:,} "
        f"operations, which is more than its {len(raw):,} bytes of images need."
    )


class _Machine:
    """The state of a pickle that runs: where it is, its stack and its memo."""

    def __init__(self, raw: bytes):
        self.at = 0
        self._raw = raw
        self._stack: list[Any] = []
        self.push = self._stack.append
        self.memo: dict[int, Any] = {}
        self._encoded = 0

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self._raw) - self.at:
            raise _Malformed("it is cut off")
        self.at += count
        return self._raw[self.at - count : self.at]

    def take_line(self) -> bytes:
        end = self._raw.find(b"\n", self.at)
        line = self.take(end - self.at)
        self.at += 1
        return line

    def take_number(self, form: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise _Malformed("its stack is empty")
        return self._stack.pop()

    def pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def put(self, index: int) -> None:
        if not 0 <= index < 2**32:
            raise _Malformed("its memo has no such entry")
        value = self.pop()
        self.memo[index] = value
        self.push(value)

    def append(self, items: list[Any]) -> None:
        target = self.pop()
        if type(target) is not list:
            raise _Malformed(f"it appends to a {type(target).__name__}")
        target += items
        self.push(target)

    def set_items(self, items: list[Any], target: Any = None) -> None:
        target = self.pop() if target is None else target
        if type(target) is not dict or len(items) % 2:
            raise _Malformed(f"it sets items of a {type(target).__name__}")
        # Strings alone are hashed: a tuple may be deeper than the stack.
        if not all(type(key) in (bytes, str) for key in items[::2]):
            raise _Malformed("a key is no string")
        target.update(zip(items[::2], items[1::2], strict=True))
        if len(target) > _MAX_KEYS:
            raise _Malformed(f"a dict has more than {_MAX_KEYS} keys")
        self.push(target)

    def pop_pair(self) -> list[Any]:
        value = self.pop()
        return [self.pop(), value]

    def name(self, module: Any, attribute: Any) -> None:
        text = f"{_text(module)}.{_text(attribute)}"
        if text not in _ALLOWED:
            raise _Malformed(
                f"it asks to run {abridge(repr(text))}, which was refused (a batch of "
                "CIFAR holds a numpy array of bytes and lists)"
            )
        self.push(_Name(text))

    def call(self) -> None:
        """Makes what a named function would make of arguments of honest batches."""
        function, arguments = self.pop_pair()
        name = function.text if isinstance(function, _Name) else None
        if name in _ARRAY:
            # The arguments make an empty array, whose state the pickle sets afterwards.
            self.push(PickledArray())
        elif name == _DTYPE and type(arguments) is tuple and arguments:
            self.push(PickledDtype(abridge(_text(arguments[0]), 10)))
        elif name == _ENCODE and type(arguments) is tuple and arguments:
            self.push(self._encode(arguments[0]))
        else:
            raise _Malformed("it calls what is no function of a batch")

    def _encode(self, text: Any) -> bytes:
        # Python 3 writes bytes so where the protocol is as old as 2. One text encoded
        # again and again would fill the memory, and no honest pickle does that.
        if not isinstance(text, str):
            raise _Malformed(f"it encodes a {type(text).__name__}")
        self._encoded += len(text)
        if self._encoded > len(self._raw):
            raise _Malformed("it encodes more text than it has")
        return text.encode("latin1")

    def build(self) -> None:
        """Sets what numpy sets of an array; of a dtype of bytes nothing is set."""
        target, state = self.pop_pair()
        if (
            isinstance(target, PickledArray)
            and type(state) is tuple
            and len(state) == 5
        ):
            _, target.shape, target.dtype, target.is_fortran, target.raw = state
        elif not isinstance(target, PickledDtype):
            raise _Malformed(f"it sets the state of a {type(target).__name__}")
        self.push(target)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin1")
    if isinstance(value, str):
        return value
    raise _Malformed(f"it has a {type(value).__name__} for a name")


def _integer(line: bytes) -> int | bool:
    # Protocols 0 and 1 write False and True so.
    if line in (b"00", b"01"):
        return line == b"01"
    return int(line.removesuffix(b"L"))


def _unquoted(line: bytes) -> bytes:
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise _Malformed("a string lacks its quotes")
    with warnings.catch_warnings():
        # Python warns of escapes that it does not know, and leaves them as they are.
        warnings.simplefilter("ignore")
        return codecs.escape_decode(line[1:-1])[0]


def _tuple_of(count: int) -> Callable[[_Machine], None]:
    return lambda m: m.push(tuple([m.pop() for _ in range(count)][::-1]))


def _bytes_after(form: str) -> Callable[[_Machine], None]:
    return lambda m: m.push(m.take(m.take_number(form)))


def _text_after(form: str) -> Callable[[_Machine], None]:
    return lambda m: m.push(str(m.take(m.take_number(form)), "utf-8", "surrogatepass"))


def _number(form: str) -> Callable[[_Machine], None]:
    return lambda m: m.push(m.take_number(form))


def _long_after(form: str) -> Callable[[_Machine], None]:
    def push(machine: _Machine) -> None:
        digits = machine.take(machine.take_number(form))
        machine.push(int.from_bytes(digits, "little", signed=True))

    return push


_OPERATIONS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m.take(1),  # the protocol
    b"\x95": lambda m: m.take(8),  # the length of what follows
    b"(": lambda m: m.push(_MARK),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": lambda m: m.push(_integer(m.take_line())),
    b"L": lambda m: m.push(_integer(m.take_line())),
    b"J": _number("<i"),
    b"K": _number("<B"),
    b"M": _number("<H"),
    b"\x8a": _long_after("<B"),
    b"\x8b": _long_after("<i"),
    b"S": lambda m: m.push(_unquoted(m.take_line())),
    b"T": _bytes_after("<i"),
    b"U": _bytes_after("<B"),
    b"B": _bytes_after("<I"),
    b"C": _bytes_after("<B"),
    b"V": lambda m: m.push(str(m.take_line(), "raw-unicode-escape")),
    b"X": _text_after("<I"),
    b"\x8c": _text_after("<B"),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.pop_to_mark())),
    b"\x85": _tuple_of(1),
    b"\x86": _tuple_of(2),
    b"\x87": _tuple_of(3),
    b"]": lambda m: m.push([]),
    b"l": lambda m: m.push(m.pop_to_mark()),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.pop_to_mark()),
    b"}": lambda m: m.push({}),
    b"d": lambda m: m.set_items(m.pop_to_mark(), {}),
    b"s": lambda m: m.set_items(m.pop_pair()),
    b"u": lambda m: m.set_items(m.pop_to_mark()),
    b"p": lambda m: m.put(int(m.take_line())),
    b"q": lambda m: m.put(m.take_number("<B")),
    b"r": lambda m: m.put(m.take_number("<I")),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"g": lambda m: m.push(m.memo[int(m.take_line())]),
    b"h": lambda m: m.push(m.memo[m.take_number("<B")]),
    b"j": lambda m: m.push(m.memo[m.take_number("<I")]),
    b"c": lambda m: m.name(m.take_line(), m.take_line()),
    b"\x93": lambda m: m.name(*m.pop_pair()),
    b"R": _Machine.call,
    b"b": _Machine.build,
}
