"""A pickle interpreter for protocols 0 to 5 that imports, looks up and calls nothing.

Names become nodes, calls are handed to ``Rules`` that only compute with data. Every length is checked
against the bytes left; instructions, stack and values are counted against ``core.limits``.

Source: CPython ``Lib/pickletools.py`` (meaning of each opcode); the table below follows its order.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from memcard.core.limits import DEFAULT, Limits
from memcard.errors import CorruptError
from memcard.unpickle._bytes import Cursor
from memcard.unpickle._opcodes import OPCODES
from memcard.unpickle.findings import Findings
from memcard.unpickle.keys import Keys
from memcard.unpickle.nodes import (
    BadCallError,
    Global,
    Mapped,
    Opaque,
    Program,
    UnsafeCallError,
    Value,
    shown,
)

_PYTHON2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # names in protocols 0 to 2
_MEMO_INDEX = 1 << 32  # the largest a binary program can name; larger ones could share one hash
# What else costs as much as a node (100 bytes, or 1 µs) does: a call, a new name, a place in the memo. A
# call may also copy what it is given, and the same list can be given again and again.
_CALL_COST, _NAME_COST, _MEMO_COST, _DICT_COST = 5, 8, 2, 2
_TEXT_COST = 32  # characters for a node


@contextmanager
def _without_collector() -> Iterator[None]:
    """Do not look for cycles while only new values are made: a third of the time of a large program.

    Another thread that does the same may switch it on early, which costs that thread a little time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Rules(Protocol):
    """What names mean. The machine itself knows none."""

    inert: dict[str, int]

    def known(self, name: Global) -> bool:
        """Whether the name may appear at all."""
        ...

    def may_call(self, name: Global) -> bool:
        """Whether it may be called, not only be named or made bare."""
        ...

    def call(self, name: Global, args: tuple[Value, ...]) -> Value:
        """Return what the call stands for.

        Raises:
            BadCallError: the arguments make no sense.
            UnsafeCallError: with these arguments the call is not harmless.
        """
        ...

    def persistent(self, pid: Value) -> Value:
        """Return what a persistent id stands for, or raise BadCallError."""
        ...


class Machine:
    """One run over one program."""

    def __init__(
        self,
        code: bytes,
        where: str,
        rules: Rules,
        limits: Limits = DEFAULT,
        *,
        start: int = 0,
        salvage: bool = False,
    ) -> None:
        self.read = Cursor(code, where, start)
        self.rules = rules
        self.limits = limits
        self.salvage = salvage
        self.stack: list[Value] = []
        self.marks: list[list[Value]] = []
        self.memo: dict[int, Value] = {}
        self.names: dict[tuple[str, str], Global] = {}
        self._known: set[Global] = set()
        self.keys = Keys(limits)
        self.findings = Findings(where, limits)
        self.nodes = 0

    def run(self) -> Program:
        """Run to STOP, which must be the last byte.

        Raises:
            UnsafeError: names all that the file asks for and that are not known to be harmless;
                not if ``salvage``, then it is in ``findings``.
            CorruptError: the program breaks the rules of pickle or a limit.
        """
        return self._judged(alone=True)

    def run_next(self) -> Program:
        """Run to STOP, as ``run``; what follows is left, ``read.pos`` says where it begins."""
        return self._judged(alone=False)

    def _judged(self, *, alone: bool) -> Program:
        try:
            with _without_collector():
                root = self._loop()
            if alone and self.read.pos != len(self.read.code):
                extra = len(self.read.code) - self.read.pos
                raise self.read.corrupt(f"{extra} bytes follow the end of the program")
        except CorruptError as error:
            self.findings.add(error)
            if self.findings.odd or (self.findings.asked and not self.salvage):
                self.findings.raise_any(salvage=self.salvage)
            raise
        self.findings.raise_any(salvage=self.salvage)
        return Program(root, self.rules.inert)

    def _loop(self) -> Value:
        read, limits, stack_limit = self.read, self.limits, self.limits.pickle_stack
        code, size = read.code, len(read.code)
        for _ in range(limits.pickle_ops):
            at = read.op = read.pos
            if at >= size:
                raise read.past_end("the program ends without STOP")
            opcode = code[at]
            read.pos = at + 1
            if opcode == 0x2E:  # STOP
                return self.pop()
            step = OPCODES[opcode]
            if step is None:
                raise read.corrupt(f"unknown instruction 0x{opcode:02x}")
            step(self)
            if len(self.stack) > stack_limit or self.nodes > limits.pickle_nodes:
                raise read.corrupt("more values than any real checkpoint has")
        raise read.corrupt(f"more than {limits.pickle_ops} instructions")

    def push(self, value: Value) -> None:
        """Put a value on the stack."""
        self.nodes += 1
        self.stack.append(value)

    def push_dict(self) -> None:
        """Put an empty dict on the stack."""
        self.nodes += _DICT_COST
        self.push({})

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
        if isinstance(module, Opaque) or isinstance(name, Opaque):
            self.ask("a computed name")
            return Global("a computed name", "")
        if not (isinstance(module, str) and isinstance(name, str)):
            raise self.read.corrupt("a name that is not text")
        module = _PYTHON2.get(module, module)
        node = self.names.get((module, name))
        if node is None:
            self.nodes += _NAME_COST
            node = self.names[module, name] = Global(module, name)
            if self.rules.known(node):
                self._known.add(node)
        if node not in self._known:
            self.ask(shown(node.full))
        return node

    def ask(self, what: str) -> None:
        """Note that the running instruction asks for code."""
        self.findings.ask(f"{what} at byte {self.read.op}")

    def call(self, target: Value, args: Value, *, bare: bool = False) -> Value:
        """Hand a call to the rules; calls of unknown or computed things are only recorded.

        Args:
            target: what is called.
            args: a tuple.
            bare: the object is made by ``__new__``, its class is not called.
        """
        if not isinstance(args, tuple):
            raise self.read.corrupt("calls with arguments that are no tuple")
        self._charge(args)
        if not isinstance(target, Global):
            self.ask("a call of a computed value")
            return Opaque("a computed call", args)
        if target not in self._known:
            return Opaque(target.full, args)
        if not bare and not self.rules.may_call(target):
            self.ask(f"a call of {shown(target.full)}")
        try:
            return self.rules.call(target, args)
        except UnsafeCallError as error:
            self.ask(str(error))
            return Opaque(target.full, args)
        except BadCallError as error:
            fault = self.read.corrupt(f"{shown(target.full)}: {error}")
            if not (self.findings.asked and any(isinstance(arg, Opaque) for arg in args)):
                raise fault from error
            self.findings.odd += fault.faults  # a tensor of what another program would have made
            return Opaque(target.full, args)

    def _charge(self, args: tuple[Value, ...]) -> None:
        self.nodes += _CALL_COST + len(args)
        for arg in args:
            if isinstance(arg, (list, tuple, dict)):
                self.nodes += len(arg)
            elif isinstance(arg, (str, bytes)):
                self.nodes += len(arg) // _TEXT_COST

    def persistent(self, pid: Value) -> None:
        """Push what a persistent id stands for; what it means is the reader's business, so go on."""
        self.nodes += _CALL_COST
        try:
            self.push(self.rules.persistent(pid))
        except BadCallError as error:
            if len(self.findings.odd) < self.limits.asked:
                self.findings.odd += self.read.corrupt(f"persistent id: {error}").faults
            self.push(Opaque("a persistent id", (pid,)))

    def extension(self, code: int) -> None:
        """Refuse a number of the extension registry: what it means depends on the reader's machine."""
        self.ask(f"extension registry code {code}")
        self.push(Opaque("an extension"))

    def put(self, index: int) -> None:
        """Remember the top of the stack."""
        if not 0 <= index < _MEMO_INDEX:
            raise self.read.corrupt("a negative or huge memo index")
        self.nodes += _MEMO_COST
        self.memo[index] = self.peek()

    def get(self, index: int) -> None:
        """Push what was remembered."""
        if index not in self.memo:
            raise self.read.corrupt(f"memo {shown(str(index), 20)} was never set")
        self.push(self.memo[index])

    def setitems(self, items: list[Value]) -> None:
        """Add pairs to the dict on top."""
        target = self.peek()
        if len(items) % 2:
            raise self.read.corrupt("sets items without a value")
        pairs = zip(items[::2], items[1::2], strict=True)
        if isinstance(target, Opaque) and self.findings.asked:
            target.pairs = target.pairs or []  # an unknown kind of dict
            target.pairs += pairs
            return
        if not isinstance(target, dict):
            raise self.read.corrupt("sets items of something that is not a dict")
        try:
            for key, value in pairs:
                target[self.keys.check(key)] = value
        except BadCallError as error:
            raise self.read.corrupt(str(error)) from error

    def append(self, items: list[Value]) -> None:
        """Add items to the list (or set) on top."""
        target = self.peek()
        if isinstance(target, Opaque) and self.findings.asked:
            target.items = target.items or []
            target.items += items
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
            self.ask(f"sets attributes of {shown(target.full)}")
        elif not (isinstance(target, dict | list) and self.findings.asked):
            raise self.read.corrupt("sets attributes of a plain value")
