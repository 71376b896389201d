"""Loops written in a small part of Python, put into LLVM's language.

A loop of sixty lines of LLVM's language cannot be reviewed; the same loop in twenty lines of Python can.
What is understood: whole numbers ``u8 u16 u32 u64`` without a sign, which wrap around; pointers ``p8`` to
``p64`` to unaligned values; local arrays ``u32[16]``; constants; ``while``, ``if``, ``for … in range``;
``a if c else b``, which computes both; ``+ - * // & | ^ ~ << >>``, comparisons, ``and``/``or`` of those (both
sides are computed). A number converts only where it says so, ``u64(x)``. Further: ``clz(x)`` counts leading
zeros; ``low(a, b)`` and ``high(a, b)`` are minimum and maximum; ``at(p, i)`` is the pointer ``i`` bytes
further; ``peek(u64, p, i)`` loads at byte ``i``; ``poke(p, i, x)`` stores there.

The text is part of the package, so it is trusted: nonsense is a ValueError, met by the tests.

Source: https://llvm.org/docs/LangRef.html
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import TypeAlias

# What an expression is: its type (u1 to u64, p8 to p64, or "" for a number still without one), its text.
Value: TypeAlias = tuple[str, str]

_WHOLE = {"u1": 1, "u8": 8, "u16": 16, "u32": 32, "u64": 64}
_PLAIN = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.BitAnd: "and", ast.BitOr: "or",
    ast.BitXor: "xor", ast.LShift: "shl", ast.RShift: "lshr", ast.FloorDiv: "udiv",
}  # fmt: skip
_COMPARED = {
    ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "ult", ast.LtE: "ule", ast.Gt: "ugt", ast.GtE: "uge",
}  # fmt: skip
_WHOLE_LOOP = ", loop to keep"  # a mark, until loops are numbered


def translate(
    text: str, types: Mapping[str, str] | None = None, constants: Mapping[str, int] | None = None
) -> str:
    """Return the functions of ``text`` in LLVM's language.

    Args:
        text: functions; parameters and results are annotated.
        types: what further names of types mean, such as ``{"word": "u16"}``; ``p_word`` follows.
        constants: names for numbers.

    Raises:
        ValueError: the text is outside of what is understood.
    """
    names = dict(types or {})
    names.update({f"p_{name}": "p" + kind[1:] for name, kind in (types or {}).items()})
    functions = {f.name: f for f in ast.parse(text).body if isinstance(f, ast.FunctionDef)}
    made = [_Function(f, names, constants or {}, functions).text() for f in functions.values()]
    declared = [
        f"declare i{b} @llvm.{name}.i{b}(i{b}, i{1 if name == 'ctlz' else b})"
        for name in ("ctlz", "umin", "umax")
        for b in (8, 16, 32, 64)
    ]
    declared.append("declare i32 @llvm.ctpop.i32(i32)")
    declared.append("declare <32 x i16> @llvm.masked.expandload.v32i16(ptr, <32 x i1>, <32 x i16>)")
    first, *others = "\n".join([*declared, *made]).split(_WHOLE_LOOP)
    numbered = [f", !llvm.loop !{i}{other}" for i, other in enumerate(others, 1)]
    notes = [f"!{i} = distinct !{{!{i}, !0}}" for i in range(1, len(others) + 1)]
    return "\n".join([first + "".join(numbered), '!0 = !{!"llvm.loop.unroll.disable"}', *notes])


def arguments(text: str) -> dict[str, int]:
    """Return how many parameters each function of ``text`` has."""
    return {
        f.name: len(f.args.args) for f in ast.parse(text).body if isinstance(f, ast.FunctionDef)
    }


class _Function:
    """One function: variables are places on the stack, which LLVM turns into registers."""

    def __init__(
        self,
        tree: ast.FunctionDef,
        types: Mapping[str, str],
        constants: Mapping[str, int],
        others: Mapping[str, ast.FunctionDef],
    ) -> None:
        self.tree, self.types, self.constants, self.others = tree, types, constants, others
        self.kinds: dict[str, str] = {}  # of variables
        self.arrays: dict[str, str] = {}  # type of the values
        self.places: list[str] = []
        self.lines: list[str] = []
        self.count = 0

    def text(self) -> str:
        """Translate."""
        given = [(a.arg, self._type(a.annotation)) for a in self.tree.args.args]
        result = _llvm(self._type(self.tree.returns)) if self.tree.returns else "void"
        for name, kind in given:
            self._declare(name, kind)
            self.lines.append(f"store {_llvm(kind)} %{name}, ptr %{name}.v")
        self._block(self.tree.body)
        self.lines.append("ret void" if result == "void" else f"ret {result} 0")
        head = ", ".join(f"{_llvm(k)}{' noalias' * (k[0] == 'p')} %{n}" for n, k in given)
        body = "\n".join(["entry:", *self.places, *self.lines])
        return f"define {result} @{self.tree.name}({head}) {{\n{body}\n}}"

    def _block(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self._statement(statement)

    def _statement(self, s: ast.stmt) -> None:
        match s:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=ast.Subscript() as array):
                self._array(name, array)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                kind = self._type(s.annotation)
                self._declare(name, kind)
                self._set(name, self._as(kind, self._expression(value)))
            case ast.Assign(targets=[target], value=value):
                self._assign(target, self._expression(value))
            case ast.AugAssign(target=target, op=op, value=value):
                left = ast.copy_location(target, target)
                self._assign(target, self._expression(ast.BinOp(left, op, value)))
            case ast.Expr(value=ast.Call(func=ast.Name(id="poke"), args=[p, i, value])):
                kind, what = self._expression(value)
                self._emit(f"store {_llvm(kind)} {what}, ptr {self._byte(p, i)}, align 1")
            case ast.Expr(value=ast.Constant()):
                pass
            case ast.While() | ast.For() | ast.If() | ast.Return():
                self._control(s)
            case _:
                raise ValueError(f"line {s.lineno}: {ast.unparse(s)!r} is not understood")

    def _control(self, s: ast.While | ast.For | ast.If | ast.Return) -> None:
        match s:
            case ast.While(test=test, body=body):
                self._loop(test, body)
            case ast.For(target=ast.Name(id=name), iter=ast.Call() as count, body=body):
                first, last = count.args
                vector = isinstance(count.func, ast.Name) and count.func.id == "lanes"
                self._declare(name, "u64")
                self._set(name, self._as("u64", self._expression(first)))
                at = ast.Name(name)
                step = ast.Assign([at], ast.BinOp(at, ast.Add(), ast.Constant(1)))
                self._loop(ast.Compare(at, [ast.Lt()], [last]), [*body, step], vector=vector)
            case ast.If(test=test, body=body, orelse=other):
                yes, no, end = self._label(), self._label(), self._label()
                self._emit(f"br i1 {self._expression(test)[1]}, label %{yes}, label %{no}")
                for label, part in ((yes, body), (no, other)):
                    self.lines.append(f"{label}:")
                    self._block(part)
                    self._emit(f"br label %{end}")
                self.lines.append(f"{end}:")
            case ast.Return(value=ast.expr() as value) if self.tree.returns:
                kind = self._type(self.tree.returns)
                self._emit(f"ret {_llvm(kind)} {self._as(kind, self._expression(value))}")
                self.lines.append(f"{self._label()}:")  # whatever follows is never reached
            case _:
                raise ValueError(f"{ast.unparse(s)!r} is not understood")

    def _loop(self, test: ast.expr, body: list[ast.stmt], *, vector: bool = False) -> None:
        top, inside, end = self._label(), self._label(), self._label()
        self._emit(f"br label %{top}")
        self.lines.append(f"{top}:")
        self._emit(f"br i1 {self._expression(test)[1]}, label %{inside}, label %{end}")
        self.lines.append(f"{inside}:")
        self._block(body)
        # Unrolled before it is vectorised, a loop over lanes becomes a hundred scalar instructions.
        self._emit(f"br label %{top}{_WHOLE_LOOP * vector}")
        self.lines.append(f"{end}:")

    def _assign(self, target: ast.expr, value: Value) -> None:
        match target:
            case ast.Name(id=name):
                if name not in self.kinds:
                    self._declare(name, value[0])
                self._set(name, self._as(self.kinds[name], value))
            case ast.Subscript():
                kind, place = self._element(target)
                self._emit(f"store {_llvm(kind)} {self._as(kind, value)}, ptr {place}, align 1")
            case _:
                raise ValueError(f"{ast.unparse(target)!r} cannot be assigned to")

    def _expression(self, e: ast.expr) -> Value:
        match e:
            case ast.Constant(value=int(number)):
                return "", str(number)
            case ast.Name(id=name) if name in self.constants:
                return "", str(self.constants[name])
            case ast.Name(id=name) if name in self.kinds:
                kind = self.kinds[name]
                return kind, self._emit(f"load {_llvm(kind)}, ptr %{name}.v", kind)
            case ast.Name(id=name) if name in self.arrays:
                return "p" + self.arrays[name][1:], f"%{name}.v"
            case ast.Subscript():
                kind, place = self._element(e)
                return kind, self._emit(f"load {_llvm(kind)}, ptr {place}, align 1", kind)
            case ast.BinOp(left=left, op=op, right=right):
                kind, a, b = self._alike(left, right)
                if not kind:
                    return "", str(_computed(op, int(a), int(b)))
                return kind, self._emit(f"{_PLAIN[type(op)]} {_llvm(kind)} {a}, {b}", kind)
            case ast.UnaryOp(op=ast.Invert(), operand=operand):
                kind, a = self._expression(operand)
                return kind, self._emit(f"xor {_llvm(kind)} {a}, -1", kind)
            case ast.Call(func=ast.Name(id=name), args=args):
                return self._call(name, args)
            case _:
                return self._choice(e)

    def _choice(self, e: ast.expr) -> Value:
        match e:
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                kind, a, b = self._alike(left, right)
                t = _llvm(kind or "u64")  # two constants: LLVM drops the branch
                return "u1", self._emit(f"icmp {_COMPARED[type(op)]} {t} {a}, {b}", "u1")
            case ast.BoolOp(op=op, values=[left, right]):
                word = "and" if isinstance(op, ast.And) else "or"
                a, b = self._expression(left)[1], self._expression(right)[1]
                return "u1", self._emit(f"{word} i1 {a}, {b}", "u1")
            case ast.IfExp(test=test, body=yes, orelse=no):
                condition = self._expression(test)[1]
                kind, a, b = self._alike(yes, no)
                kind = kind or "u64"
                t = _llvm(kind)
                return kind, self._emit(f"select i1 {condition}, {t} {a}, {t} {b}", kind)
            case _:
                raise ValueError(f"{ast.unparse(e)!r} is not understood")

    def _call(self, name: str, args: list[ast.expr]) -> Value:
        known = self.types.get(name, name)
        if known in _WHOLE:
            return known, self._as(known, self._expression(args[0]), convert=True)
        if name == "at":
            return self._expression(args[0])[0], self._byte(args[0], args[1])
        if name == "peek":
            kind = self._type(args[0])
            place = self._byte(args[1], args[2])
            return kind, self._emit(f"load {_llvm(kind)}, ptr {place}, align 1", kind)
        if name == "clz":
            kind, a = self._expression(args[0])
            t = _llvm(kind)
            return kind, self._emit(f"call {t} @llvm.ctlz.{t}({t} {a}, i1 false)", kind)
        if name in ("low", "high"):
            kind, a, b = self._alike(args[0], args[1])
            t, word = _llvm(kind), {"low": "umin", "high": "umax"}[name]
            return kind, self._emit(f"call {t} @llvm.{word}.{t}({t} {a}, {t} {b})", kind)
        if name == "refill":
            return self._refill(*args)
        if name == "running":
            return self._running(*args)
        if name in self.others:
            return self._own_call(self.others[name], args)
        raise ValueError(f"{name!r} is not understood")

    def _refill(self, states: ast.expr, words: ast.expr, limit: ast.expr) -> Value:
        """Give each state below the limit the next word, in one instruction; return how many did."""
        place, source = self._expression(states)[1], self._expression(words)[1]
        n, below = self._expression(states)[0], self._expression(limit)[1]
        count = next(
            int(p.split("[")[1].split()[0]) for p in self.places if p.startswith(f"{place} ")
        )
        if n != "p32":
            raise ValueError("refill: the states must be a local array of u32")
        v, w = f"<{count} x i32>", f"<{count} x i16>"
        ones = ", ".join([f"i32 {below}"] * count)
        x = self._emit(f"load {v}, ptr {place}, align 64", "v")
        short = self._emit(f"icmp ult {v} {x}, <{ones}>", "v")
        expand = f"@llvm.masked.expandload.v{count}i16"
        got = self._emit(
            f"call {w} {expand}(ptr {source}, <{count} x i1> {short}, {w} zeroinitializer)", "v"
        )
        low = self._emit(f"zext {w} {got} to {v}", "v")
        sixteen = ", ".join(["i32 16"] * count)
        high = self._emit(f"shl {v} {x}, <{sixteen}>", "v")
        both = self._emit(f"or {v} {high}, {low}", "v")
        now = self._emit(f"select <{count} x i1> {short}, {v} {both}, {v} {x}", "v")
        self._emit(f"store {v} {now}, ptr {place}, align 64")
        mask = self._emit(f"bitcast <{count} x i1> {short} to i{count}", "v")
        number = self._emit(f"call i{count} @llvm.ctpop.i{count}(i{count} {mask})", "v")
        return "u64", self._emit(f"zext i{count} {number} to i64", "v")

    def _running(self, sums: ast.expr, array: ast.expr, count: ast.expr) -> Value:
        """Store the sum of all values before each of the first ``count``; return the sum of all."""
        (kind, out), (_, place) = self._expression(sums), self._expression(array)
        n, t = int(self._expression(count)[1]), f"i{kind[1:]}"
        v, m = f"<{n} x {t}>", f"<{n} x i32>"
        now = all_ = self._emit(f"load {v}, ptr {place}, align 64", "v")
        step = 1
        while step < n:
            order = ", ".join(f"i32 {n if i < step else i - step}" for i in range(n))
            zeros = f"{v} zeroinitializer"
            moved = self._emit(f"shufflevector {v} {now}, {zeros}, {m} <{order}>", "v")
            now = self._emit(f"add {v} {now}, {moved}", "v")
            step *= 2
        before = self._emit(f"sub {v} {now}, {all_}", "v")
        self._emit(f"store {v} {before}, ptr {out}, align 64")
        return "u" + kind[1:], self._emit(f"extractelement {v} {now}, i32 {n - 1}", "v")

    def _own_call(self, other: ast.FunctionDef, args: list[ast.expr]) -> Value:
        kinds = [self._type(a.annotation) for a in other.args.args]
        given = [
            f"{_llvm(k)} {self._as(k, self._expression(a))}"
            for k, a in zip(kinds, args, strict=True)
        ]
        result = self._type(other.returns)
        call = f"call {_llvm(result)} @{other.name}({', '.join(given)})"
        return result, self._emit(call, result)

    def _alike(self, left: ast.expr, right: ast.expr) -> tuple[str, str, str]:
        (kind, a), (other, b) = self._expression(left), self._expression(right)
        if kind and other and kind != other:
            raise ValueError(f"{ast.unparse(left)} is {kind}, {ast.unparse(right)} is {other}")
        return kind or other, a, b

    def _as(self, kind: str, value: Value, *, convert: bool = False) -> str:
        have, text = value
        if have in ("", kind):
            return text
        if not convert or have not in _WHOLE:
            raise ValueError(f"a {have} is no {kind}; write {kind}(…)")
        word = "trunc" if _WHOLE[have] > _WHOLE[kind] else "zext"
        return self._emit(f"{word} {_llvm(have)} {text} to {_llvm(kind)}", kind)

    def _element(self, e: ast.Subscript) -> Value:
        index = self._as("u64", self._expression(e.slice), convert=True)
        if isinstance(e.value, ast.Name) and e.value.id in self.arrays:
            kind, place = self.arrays[e.value.id], f"%{e.value.id}.v"
        else:
            pointer, place = self._expression(e.value)
            kind = "u" + pointer[1:]
        return kind, self._emit(f"getelementptr {_llvm(kind)}, ptr {place}, i64 {index}", "p")

    def _byte(self, pointer: ast.expr, offset: ast.expr) -> str:
        place = self._expression(pointer)[1]
        index = self._as("u64", self._expression(offset), convert=True)
        return self._emit(f"getelementptr i8, ptr {place}, i64 {index}", "p")

    def _array(self, name: str, annotation: ast.Subscript) -> None:
        kind, count = self._type(annotation.value), self._expression(annotation.slice)[1]
        self.arrays[name] = kind
        self.places.append(f"%{name}.v = alloca [{count} x {_llvm(kind)}], align 64")

    def _declare(self, name: str, kind: str) -> None:
        if self.kinds.setdefault(name, kind) != kind or not kind:
            raise ValueError(f"{name} is {self.kinds[name] or 'without a type'}, now {kind}")
        place = f"%{name}.v = alloca {_llvm(kind)}"
        if place not in self.places:
            self.places.append(place)

    def _set(self, name: str, text: str) -> None:
        self._emit(f"store {_llvm(self.kinds[name])} {text}, ptr %{name}.v")

    def _type(self, e: ast.expr | None) -> str:
        match e:
            case ast.Name(id=name):
                return self.types.get(name, name)
            case _:
                raise ValueError(f"{ast.unparse(e) if e else 'nothing'} is no type")

    def _emit(self, line: str, kind: str = "") -> str:
        """Add a line; with a kind it is one that gives a value, whose name is returned."""
        if not kind:
            self.lines.append(line)
            return ""
        self.count += 1
        self.lines.append(f"%t{self.count} = {line}")
        return f"%t{self.count}"

    def _label(self) -> str:
        self.count += 1
        return f"l{self.count}"


def _llvm(kind: str) -> str:
    if kind.startswith("p"):
        return "ptr"
    if kind not in _WHOLE:
        raise ValueError(f"{kind or 'a number without a type'} is no type")
    return f"i{_WHOLE[kind]}"


def _computed(op: ast.operator, a: int, b: int) -> int:
    """Compute with two constants."""
    match op:
        case ast.Add():
            return a + b
        case ast.Sub():
            return a - b
        case ast.Mult():
            return a * b
        case ast.LShift():
            return a << b
        case ast.RShift():
            return a >> b
        case ast.FloorDiv():
            return a // b
        case _:
            raise ValueError(f"{type(op).__name__} of constants is not understood")
