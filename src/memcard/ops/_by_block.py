"""What ``by_block`` and ``by_block_survey`` share: rules that say which tensors are merged how.

Source: docs/spec/recipe.md; the idea of a weight per block: bbc-mc 2022, sdweb-merge-block-weighted-gui.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

from memcard.core.tensors import Spec, Specs
from memcard.errors import UsageError
from memcard.ops import OPS
from memcard.ops._pairs import refuse
from memcard.recipes.nodes import Params, Step, Value
from memcard.recipes.op import Op, Param, Surveying, check_arity, complete

_KEYS = ("keep", "names", "prefixes", "set")


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of the tensors named by it: kept of one input, or merged with other settings."""

    prefixes: tuple[str, ...]
    names: frozenset[str]
    keep: int | None
    changed: Params

    def fits(self, name: str) -> bool:
        """Tell whether it names this tensor."""
        return name in self.names or name.startswith(self.prefixes)


class Inner(NamedTuple):
    """What the plan of one tensor is made of: the method, its own plan, its settings."""

    op: Any
    step: Step
    settings: Params


class ByBlock:
    """Hands every group of tensors to the method with its own settings.

    Attributes:
        surveys: its methods are those that look at the whole model first.
    """

    surveys: ClassVar[bool] = False
    title = "Merge block by block"
    source = "docs/spec/recipe.md"
    params: ClassVar[Mapping[str, Param]] = {
        "method": Param("str", "weighted_average", "the operation that merges"),
        "settings": Param("json", Params(), "its parameters where no rule changes them"),
        "rules": Param("json", (), "prefixes and names, with what to keep or to set"),
        "merged": Param("int", 0, "the method takes this many inputs; 0: all of them", low=0),
        "names_from": Param("int", 0, "the input that gives the names and their order", low=0),
    }
    arity = (1, None)

    def plan(self, inputs: Sequence[Specs], params: Params) -> list[Step]:
        """Sort the tensors into groups and let the method plan each of them."""
        method, op = _method(params, surveys=self.surveys)
        merged, first = _counts(len(inputs), params)
        check_arity(method, op, merged)
        rules = read_rules(params["rules"], len(inputs))
        settings = params["settings"] if isinstance(params["settings"], Params) else Params()
        found = {name: _rule(name, rules) for name in _names(inputs, merged, first)}
        steps = dict(_kept(found, inputs, first))
        groups: dict[Params, list[str]] = {}
        for name, rule in found.items():
            if rule is None or rule.keep is None:
                groups.setdefault(rule.changed if rule else Params(), []).append(name)
        if len(groups) > 1:  # once over all of them, so that all faults are told at once
            _plan(method, op, inputs[:merged], [n for g in groups.values() for n in g], settings)
        for changed, names in groups.items():
            both = Params({**settings, **changed})
            steps |= {s.name: s for s in _plan(method, op, inputs[:merged], names, both)}
        return [steps[name] for name in found if name in steps]

    def apply(
        self, step: Step, parts: Sequence[memoryview], params: Params, out: memoryview, start: int
    ) -> int:
        """Let the method compute."""
        inner: Inner = step.detail
        known = replace(inner.step, stats=step.stats) if step.measure else inner.step
        bad: int = inner.op.apply(known, parts, inner.settings, out, start)
        return bad

    def temporary(self, step: Step) -> int:
        """Return what the method needs beside its inputs and its result, in bytes."""
        inner: Inner | None = step.detail
        needs = getattr(inner.op, "temporary", None) if inner else None
        return int(needs(inner.step)) if needs and inner else 0


def read_rules(given: Value, inputs: int) -> tuple[Rule, ...]:
    """Read the parameter ``rules``.

    Raises:
        UsageError: a rule is not shaped like one; all faults at once.
    """
    if not isinstance(given, tuple):
        raise UsageError("by_block: rules is not a list.")
    faults, rules = [], []
    for i, rule in enumerate(given):
        fault = _fault(rule, inputs)
        if fault:
            faults.append(f"by_block: rules[{i}] {fault}.")
            continue
        rules.append(_rule_of(rule))
    if faults:
        raise UsageError(" ".join(faults))
    return tuple(rules)


def _fault(rule: Value, inputs: int) -> str:
    if not isinstance(rule, Params):
        return "is not an object"
    if unknown := [key for key in rule if key not in _KEYS]:
        return f"has an unknown {unknown[0]!r}; it takes {', '.join(_KEYS)}"
    if ("keep" in rule) == ("set" in rule):
        return 'takes either "keep" or "set"'
    for key in ("names", "prefixes"):
        texts = rule.get(key, ())
        if not isinstance(texts, tuple) or not all(isinstance(text, str) for text in texts):
            return f'"{key}" is not a list of texts'
    keep, changed = rule.get("keep", 0), rule.get("set", Params())
    if type(keep) is not int or not 0 <= keep < inputs:
        return f'"keep" is {keep!r}; it takes the number of an input, 0 to {inputs - 1}'
    return "" if isinstance(changed, Params) else '"set" is not an object'


def _rule_of(rule: Any) -> Rule:
    return Rule(
        tuple(rule.get("prefixes", ())),
        frozenset(rule.get("names", ())),
        rule.get("keep"),
        rule.get("set", Params()),
    )


def _method(params: Params, *, surveys: bool) -> tuple[str, Op]:
    name = str(params["method"])
    if name.startswith("by_block"):
        raise UsageError("by_block: its method cannot be by_block itself.")
    op = OPS[name]
    if isinstance(op, Surveying) != surveys:
        looks = "looks at the whole model before it merges" if not surveys else "needs no survey"
        other = "by_block" if surveys else "by_block_survey"
        raise UsageError(f"by_block: {name} {looks}; the operation for it is {other}.")
    return name, op


def _counts(inputs: int, params: Params) -> tuple[int, int]:
    merged, first = params["merged"] or inputs, params["names_from"]
    if not isinstance(merged, int) or not isinstance(first, int) or max(merged, first + 1) > inputs:
        raise UsageError(
            f"by_block: merged is {merged} and names_from {first}, for {inputs} inputs."
        )
    return merged, first


def _names(inputs: Sequence[Specs], merged: int, first: int) -> Iterator[str]:
    """Yield every name once, those of the first input before all others."""
    order = [inputs[first], *inputs[:merged], *inputs[merged:]]
    yield from dict.fromkeys(name for specs in order for name in specs)


def _rule(name: str, rules: Sequence[Rule]) -> Rule | None:
    return next((rule for rule in rules if rule.fits(name)), None)


def _kept(
    found: dict[str, Rule | None], inputs: Sequence[Specs], first: int
) -> Iterator[tuple[str, Step]]:
    faults = []
    for name, rule in found.items():
        if rule is None or rule.keep is None:
            continue
        spec: Spec | None = inputs[rule.keep].get(name)
        if spec is not None:
            yield name, Step(name, spec, ((rule.keep, name),), copy=True)
        elif name in inputs[first]:
            faults.append(f"{name!r}: in input {first + 1}, not in input {rule.keep + 1}")
    refuse("what is to be kept is not there", faults, "Keep this part of another checkpoint.")


def _plan(
    method: str, op: Op, inputs: Sequence[Specs], names: Sequence[str], settings: Params
) -> list[Step]:
    """Plan one group. What only an input has that is not merged is nobody's business."""
    checked = complete(method, op, settings)
    group = [{name: specs[name] for name in names if name in specs} for specs in inputs]
    if not any(group):
        return []
    return [replace(s, detail=Inner(op, s, checked)) for s in op.plan(group, checked)]
