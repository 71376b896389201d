"""Recipes of sd-mecha (``.mecha``, version 0.1.0): the methods that mean the same in both programs.

A line is a command and its arguments; ``&3`` is the result of the fourth. Linear methods become one weighted
average over all models, whatever their nesting:

    weighted_sum, n_average, subtract, add_difference, scale; fallback where both sides have all tensors

Others go to the operation of the same formula: geometric_sum, clamp. sd-mecha's slerp, model_stock and TIES
are other formulas than those the papers and mergekit have, so they are refused, not approximated.

Source: the text form as sd-mecha 1.1.8 writes it, github.com/ljleb/sd-mecha.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, TypeAlias

from memcard.errors import CorruptError, UnsupportedError
from memcard.jobs.importers._mix import Imported, Mix, exact, lerp, operation
from memcard.recipes.nodes import Source

_VERSION: Final = "version 0.1.0"
_TOKEN: Final = re.compile(r'(?:(\w+)=)?(?:"((?:[^"\\]|\\.)*)"|([^\s"]+))(?=\s|$)')
_NUMBER: Final = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_CONSTANTS: Final = {"null": None, "true": True, "false": False}
_MOST: Final = 10_000  # lines


@dataclass(frozen=True, slots=True)
class _Table:
    """A dict of literal values."""

    values: Mapping[str, Any]


_Result: TypeAlias = "Mix | _Table | Fraction | str | bool | None"


def read(text: str) -> Imported:
    """Return the recipe of a ``.mecha`` text.

    Raises:
        CorruptError: not such a text; names the line.
        UnsupportedError: it uses a method that means something else here, or nothing.
    """
    first, *lines = text.splitlines() or [""]
    if first.strip() != _VERSION:
        raise CorruptError(f"recipe: the first line is {first[:40]!r}; expected {_VERSION!r}.")
    if len(lines) > _MOST:
        raise UnsupportedError(f"recipe: {len(lines)} lines; at most {_MOST} are read.")
    results: list[_Result] = []
    for number, line in enumerate(lines, 2):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                results.append(_command(line.strip(), results))
            except (CorruptError, UnsupportedError) as error:
                raise type(error)(f"recipe, line {number}: {error}") from None
    last = results[-1] if results else None
    if not isinstance(last, Mix):
        raise CorruptError("recipe: the last line makes no model.")
    if last.total != 1:
        raise UnsupportedError("recipe: the result is a difference of models, not a model.")
    return Imported(
        last.node(),
        ("sd-mecha writes float16 unless told otherwise; here the dtype of the inputs stays.",),
    )


def _command(line: str, results: Sequence[_Result]) -> _Result:
    command, positional, named = _parsed(line, results)
    if command == "model":
        return _model(positional, named)
    if command == "dict":
        return _Table(named)
    if command == "literal":
        return _literal(positional[0]) if positional else None
    if command != "merge":
        raise CorruptError(f"{command!r} is no command.")
    method, *arguments = positional
    method = str(method)
    if method not in _METHODS:
        reason = _OTHERS.get(method, "it has no counterpart here")
        raise UnsupportedError(f"the method {method!r}: {reason}. Read are: {', '.join(_METHODS)}.")
    return _METHODS[method](arguments, named)


def _parsed(line: str, results: Sequence[_Result]) -> tuple[str, list[_Result], dict[str, _Result]]:
    command, _, rest = line.partition(" ")
    positional: list[_Result] = []
    named: dict[str, _Result] = {}
    rest, at = rest.strip(), 0
    while at < len(rest):
        found = _TOKEN.match(rest, at)
        if found is None:
            raise CorruptError(f"cannot read {rest[at : at + 40]!r}.")
        key, quoted, bare = found.groups()
        value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else _value(bare, results)
        if key is None:
            positional.append(value)
        else:
            named[key] = value
        at = found.end()
        while at < len(rest) and rest[at].isspace():
            at += 1
    if command == "merge" and (not positional or not isinstance(positional[0], str)):
        raise CorruptError("merge needs the name of a method.")
    return command, positional, named


def _value(text: str, results: Sequence[_Result]) -> _Result:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text.startswith("&"):
        if not text[1:].isdecimal() or int(text[1:]) >= len(results):
            raise CorruptError(f"{text} is no earlier line.")
        return results[int(text[1:])]
    if not _NUMBER.fullmatch(text):
        raise CorruptError(f"{text!r} is neither a number nor a text.")
    return exact(float(text), text[:40])


def _model(positional: Sequence[_Result], named: Mapping[str, _Result]) -> Mix:
    if not positional or not isinstance(positional[0], str):
        raise CorruptError("model needs a path.")
    space = named.get("merge_space")
    if space not in (None, "weight"):
        raise UnsupportedError(f"a model of the merge space {space!r}; only weights are read.")
    return Mix.of(Source(positional[0].replace("\\", "/")))


def _literal(given: _Result) -> _Result:
    """Return the one number of a table with one entry: how sd-mecha writes a plain parameter."""
    if isinstance(given, _Table):
        if list(given.values) != ["key"]:
            raise UnsupportedError("values that differ between tensors or blocks are not read.")
        return _literal(given.values["key"])
    return given


def _taken(
    arguments: Sequence[_Result], named: Mapping[str, _Result], order: Sequence[str]
) -> dict[str, _Result]:
    """Bind arguments to names as Python does."""
    extra = [key for key in named if key not in order]
    if len(arguments) > len(order) or extra:
        raise UnsupportedError(f"unknown arguments {', '.join(extra) or len(arguments)}.")
    return dict(zip(order, arguments, strict=False)) | dict(named)


def _mix(found: Mapping[str, _Result], key: str) -> Mix:
    value = found.get(key)
    if not isinstance(value, Mix):
        raise CorruptError(f"{key} is not a model.")
    return value


def _factor(found: Mapping[str, _Result], key: str, default: str) -> Fraction:
    value = _literal(found.get(key, Fraction(default)))
    if not isinstance(value, Fraction):
        raise CorruptError(f"{key} is not a number.")
    return value


def _weighted_sum(arguments: Sequence[_Result], named: Mapping[str, _Result]) -> Mix:
    found = _taken(arguments, named, ("a", "b", "alpha"))
    return lerp(_mix(found, "a"), _mix(found, "b"), _factor(found, "alpha", "0.5"))


def _n_average(arguments: Sequence[_Result], named: Mapping[str, _Result]) -> Mix:
    if named or not arguments:
        raise CorruptError("n_average takes models and nothing else.")
    models = [_mix({"a": value}, "a") for value in arguments]
    made = models[0].scaled(Fraction(1, len(models)))
    for model in models[1:]:
        made = made.plus(model, Fraction(1, len(models)))
    return made


def _subtract(arguments: Sequence[_Result], named: Mapping[str, _Result]) -> Mix:
    found = _taken(arguments, named, ("a", "b"))
    return _mix(found, "a").plus(_mix(found, "b"), -1)


def _add_difference(arguments: Sequence[_Result], named: Mapping[str, _Result]) -> Mix:
    found = _taken(arguments, named, ("a", "b", "alpha"))
    return _mix(found, "a").plus(_mix(found, "b"), _factor(found, "alpha", "1"))


def _scale(arguments: Sequence[_Result], named: Mapping[str, _Result]) -> Mix:
    found = _taken(arguments, named, ("a", "alpha"))
    return _mix(found, "a").scaled(_factor(found, "alpha", "1"))


def _fallback(arguments: Sequence[_Result], named: Mapping[str, _Result]) -> Mix:
    """Return the first: a tensor that only the second has makes the plan refuse, so none is lost."""
    return _mix(_taken(arguments, named, ("a", "default")), "a")


def _same(arguments: Sequence[_Result], named: Mapping[str, _Result]) -> _Result:
    if len(arguments) != 1:
        raise CorruptError("takes one value.")
    return arguments[0]


def _geometric_sum(arguments: Sequence[_Result], named: Mapping[str, _Result]) -> Mix:
    found = _taken(arguments, named, ("a", "b", "alpha"))
    models = _mix(found, "a").node(), _mix(found, "b").node()
    return Mix.of(operation("geometric", models, alpha=float(_factor(found, "alpha", "0.5"))))


def _clamp(arguments: Sequence[_Result], named: Mapping[str, _Result]) -> Mix:
    models = tuple(_mix({"a": value}, "a").node() for value in arguments)
    stiffness = _factor(_taken((), named, ("stiffness",)), "stiffness", "0")
    return Mix.of(operation("clamp", models, stiffness=float(stiffness)))


_METHODS: Final[Mapping[str, Callable[[Sequence[_Result], Mapping[str, _Result]], _Result]]] = {
    "weighted_sum": _weighted_sum,
    "n_average": _n_average,
    "subtract": _subtract,
    "add_difference": _add_difference,
    "scale": _scale,
    "fallback": _fallback,
    "convert_singleton": _same,
    "geometric_sum": _geometric_sum,
    "clamp": _clamp,
}
_OTHERS: Final = {
    "slerp": "sd-mecha scales directions by mixed lengths, which is another result than slerp here",
    "model_stock": "sd-mecha compares neighbours row by row, which is another result than model_stock here",
    "ties_sum": "sd-mecha votes and trims in another way than ties here",
    "ties_sum_extended": "sd-mecha votes and trims in another way than ties here",
}
