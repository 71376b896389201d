"""A pickle interpreter for protocols 0 to 5 that imports, looks up and calls nothing.

Names become nodes, calls are handed to ``Rules`` that only compute with data. Every length is checked
against the bytes left; instructions, stack and values are counted against ``core.limits``.

Source: CPython ``Lib/pickletools.py`` (meaning of each opcode); the table below follows its order.
"""

from __future__ import annotations

from typing import Protocol

from memcard.core.limits import DEFAULT, Limits
from memcard.errors import CorruptError, UnsafeError
from memcard.unpickle._bytes import Cursor
from memcard.unpickle._opcodes import OPCODES
from memcard.unpickle.nodes import BadCallError, Global, Mapped, Opaque, Program, Value, shown

_SCALARS = (str, int, float, bytes, bool, type(None))
_KEY_TUPLE = 16  # longer or nested tuples as dict keys crash or stall other readers
_PYTHON2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # names in protocols 0 to 2


class Rules(Protocol):
    """What names mean. The machine itself knows none."""

    inert: dict[str, int]

    def known(self, name: Global) -> bool:
        """Whether the name may appear at all."""
        ...

    def call(self, name: Global, args: tuple[Value, ...]) -> Value:
        """Return what the call stands for, or raise BadCallError with the reason."""
        ...

    def persistent(self, pid: Value) -> Value:
        """Return what a persistent id stands for, or raise BadCallError."""
        ...


class Machine:
    """One run over one program."""

    def __init__(self, code: bytes, where: str, rules: Rules, limits: Limits = DEFAULT) -> None:
        self.read = Cursor(code, where)
        self.rules = rules
        self.limits = limits
        self.stack: list[Value] = []
        self.marks: list[list[Value]] = []
        self.memo: dict[int, Value] = {}
        self.names: dict[tuple[str, str], Global] = {}
        self.unsafe: list[str] = []
        self.nodes = 0

    def run(self) -> Program:
        """Run to STOP, which must be the last byte.

        Raises:
            UnsafeError: names all that the file asks for and that are not known to be harmless.
            CorruptError: the program breaks the rules of pickle or a limit.
        """
        try:
            root = self._loop()
            if self.read.pos != len(self.read.code):
                extra = len(self.read.code) - self.read.pos
                raise self.read.corrupt(f"{extra} bytes follow the end of the program")
        except CorruptError as error:
            if self.unsafe:
                raise self._refusal(str(error)) from error
            raise
        if self.unsafe:
            raise self._refusal()
        return Program(root, self.rules.inert)

    def _loop(self) -> Value:
        read, limits = self.read, self.limits
        code, size = read.code, len(read.code)
        for _ in range(limits.pickle_ops):
            read.op = read.pos
            if read.pos >= size:
                raise read.corrupt("the program ends without STOP")
            opcode = code[read.pos]
            read.pos += 1
            if opcode == 0x2E:  # STOP
                return self.pop()
            step = OPCODES.get(opcode)
            if step is None:
                raise read.corrupt(f"unknown instruction 0x{opcode:02x}")
            step(self)
            if len(self.stack) > limits.pickle_stack or self.nodes > limits.pickle_nodes:
                raise read.corrupt("more values than any real checkpoint has")
        raise read.corrupt(f"more than {limits.pickle_ops} instructions")

    def _refusal(self, *more: str) -> UnsafeError:
        faults = [*dict.fromkeys(self.unsafe), *more]
        shown = "; ".join(f.rstrip(".") for f in faults[:8]) + ("; …" if len(faults) > 8 else "")
        return UnsafeError(
            f"{self.read.where}: asks the reader to run code: {shown}. Nothing was run. "
            "Do not load this file with other tools. Whole model objects are refused too: ask the "
            "author for the state dict, best as .safetensors.",
            faults=faults,
        )

    def push(self, value: Value) -> None:
        """Put a value on the stack."""
        self.nodes += 1
        self.stack.append(value)

    def pop(self) -> Value:
        """Take the top of the stack."""
        if not self.stack:
            raise self.read.corrupt("takes from an empty stack")
        return self.stack.pop()

    def peek(self) -> Value:
        """Look at the top of the stack."""
        if not self.stack:
            raise self.read.corrupt("looks at an empty stack")
        return self.stack[-1]

    def pop_mark(self) -> list[Value]:
        """Take everything above the last MARK."""
        if not self.marks:
            raise self.read.corrupt("no MARK on the stack")
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def mark(self) -> None:
        """Begin a group."""
        self.nodes += 1
        if len(self.marks) >= self.limits.pickle_stack:
            raise self.read.corrupt("too many open groups")
        self.marks.append(self.stack)
        self.stack = []

    def name(self, module: Value, name: Value) -> Global:
        """Return the node of a name; a name not known to be harmless is remembered."""
        if not (isinstance(module, str) and isinstance(name, str)):
            raise self.read.corrupt("a name that is not text")
        module = _PYTHON2.get(module, module)
        node = self.names.get((module, name))
        if node is None:
            node = self.names[module, name] = Global(module, name)
        if not self.rules.known(node):
            self.unsafe.append(f"{shown(node.full)} at byte {self.read.op}")
        return node

    def call(self, target: Value, args: Value) -> Value:
        """Hand a call to the rules; calls of unknown or computed things are only recorded."""
        if not isinstance(args, tuple):
            raise self.read.corrupt("calls with arguments that are no tuple")
        if not isinstance(target, Global):
            self.unsafe.append(f"a call of a computed value at byte {self.read.op}")
            return Opaque("a computed call", args)
        if not self.rules.known(target):
            return Opaque(target.full, args)
        try:
            return self.rules.call(target, args)
        except BadCallError as error:
            raise self.read.corrupt(f"{shown(target.full)}: {error}") from error

    def persistent(self, pid: Value) -> None:
        """Push what a persistent id stands for."""
        try:
            self.push(self.rules.persistent(pid))
        except BadCallError as error:
            raise self.read.corrupt(f"persistent id: {error}") from error

    def extension(self, code: int) -> None:
        """Refuse a number of the extension registry: what it means depends on the reader's machine."""
        self.unsafe.append(f"extension registry code {code} at byte {self.read.op}")
        self.push(Opaque("an extension"))

    def put(self, index: int) -> None:
        """Remember the top of the stack."""
        if index < 0:
            raise self.read.corrupt("a negative memo index")
        self.nodes += 1
        self.memo[index] = self.peek()

    def get(self, index: int) -> None:
        """Push what was remembered."""
        if index not in self.memo:
            raise self.read.corrupt(f"memo {index} was never set")
        self.push(self.memo[index])

    def setitems(self, items: list[Value]) -> None:
        """Add pairs to the dict on top."""
        target = self.peek()
        if isinstance(target, Opaque) and self.unsafe:
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise self.read.corrupt("sets items of something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self._key(key)] = value

    def _key(self, key: Value) -> Value:
        if isinstance(key, (*_SCALARS, Global, Opaque)):
            return key
        flat = isinstance(key, tuple) and len(key) <= _KEY_TUPLE
        if flat and all(isinstance(part, (*_SCALARS, Global)) for part in key):
            return key
        raise self.read.corrupt("a dict key that is not a scalar or a short flat tuple")

    def append(self, items: list[Value]) -> None:
        """Add items to the list (or set) on top."""
        target = self.peek()
        if isinstance(target, Opaque) and self.unsafe:
            return
        if not isinstance(target, list):
            raise self.read.corrupt("appends to something that is not a list")
        target.extend(items)

    def build(self) -> None:
        """Record attributes; nothing is set on anything."""
        state, target = self.pop(), self.peek()
        if isinstance(target, Mapped | Opaque):
            target.state = state
        elif isinstance(target, Global):
            self.unsafe.append(f"sets attributes of {shown(target.full)} at byte {self.read.op}")
        else:
            raise self.read.corrupt("sets attributes of a plain value")
