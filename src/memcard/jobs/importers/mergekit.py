"""Configurations of mergekit (YAML) as recipes.

Read: ``models``, ``base_model``, ``parameters`` of the merge and of each model, values by filter (the first
whose text stands in the tensor's name) and gradients, ``dtype``. Not read: ``slices`` and ``modules``, which
build a model of another depth, and what is about tokenizers.

A gradient is a list of values over the depth of the model. The depth of a tensor is the place of its block
among the blocks of its component, 0 for the first, 1 for the last; what comes before them counts as 0, what
comes after as 1. For language models that is mergekit's own rule.

Source: the documentation and behaviour of mergekit 0.1.5, github.com/arcee-ai/mergekit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from memcard.errors import CorruptError, UnsupportedError
from memcard.jobs._merge_rules import cover
from memcard.jobs.importers._gradients import depths_of, pick
from memcard.jobs.importers._mix import Imported, Names, by_name, known
from memcard.recipes.nodes import Node, Source

_Values = Mapping[str, Any]

# What mergekit takes if the configuration says nothing; "weight" has no default where it is needed.
_DELTA: Final = {"normalize": False, "rescale": False, "lambda": 1.0, "density": 1.0}
_DEFAULTS: Final[Mapping[str, _Values]] = {
    "linear": {"normalize": True},
    "slerp": {},
    "nuslerp": {"nuslerp_flatten": True, "nuslerp_row_wise": False},
    "multislerp": {"normalize_weights": True, "eps": 1e-8},
    "karcher": {"max_iter": 10, "tol": 1e-5},
    "task_arithmetic": _DELTA,
    "ties": {**_DELTA, "normalize": True},
    "dare_linear": {**_DELTA, "rescale": True},
    "dare_ties": {**_DELTA, "rescale": True},
    "della": {**_DELTA, "normalize": True, "rescale": True, "epsilon": 0.15},
    "della_linear": {**_DELTA, "rescale": True, "epsilon": 0.15},
    "breadcrumbs": {**_DELTA, "gamma": 0.01},
    "breadcrumbs_ties": {**_DELTA, "gamma": 0.01},
    "sce": {"select_topk": 1.0},
    "model_stock": {"filter_wise": False},
    "arcee_fusion": {},
    "nearswap": {},
    "ram": {"epsilon": 1e-5},
    "ramplus_tl": {"r": 0.1, "alpha": 0.2, "epsilon": 1e-5},
}
_NEEDED: Final = {"slerp": ("t",), "nearswap": ("t",)}
_WEIGHTED: Final = (
    "linear",
    "nuslerp",
    "multislerp",
    *(m for m, d in _DEFAULTS.items() if "lambda" in d),
)
_PER_MODEL: Final = ("weight", "density", "gamma", "epsilon")
_NEEDS_BASE: Final = (
    *("slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties", "della", "della_linear", "breadcrumbs"),
    *("breadcrumbs_ties", "sce", "model_stock", "arcee_fusion", "nearswap", "ram", "ramplus_tl"),
)  # fmt: skip
# Names that differ here; the others are equal.
_HERE: Final = {
    "linear": "weighted_average",
    "breadcrumbs_ties": "breadcrumbs",
    "della_linear": "della",
    "ramplus_tl": "ram",
}
_FIXED: Final[Mapping[str, _Values]] = {
    "breadcrumbs_ties": {"elect": True},
    "della_linear": {"elect": False},
}
# Names a parameter may have here, the first that the operation knows.
_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "weight": ("weights",),
    "density": ("densities", "density"),
    "gamma": ("gammas", "gamma"),
    "epsilon": ("epsilons", "epsilon", "eps"),
    "lambda": ("lambda", "scale"),
    "normalize_weights": ("normalize",),
    "nuslerp_flatten": ("flatten",),
    "nuslerp_row_wise": ("row_wise",),
    "select_topk": ("select_topk", "density"),
    "eps": ("eps", "epsilon"),
}
_TOP: Final = ("merge_method", "models", "base_model", "parameters", "dtype", "out_dtype", "name")
_TEXT_ONLY: Final = ("tokenizer_source", "tokenizer", "chat_template")
_DTYPES: Final = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}
_OTHER_MASKS: Final = (
    "mergekit draws other random masks at every run, here the seed decides; and it scales what is kept to the "
    "old L1 norm, where the paper, and this, divide by the probability."
)
_RANDOM: Final = ("dare_linear", "dare_ties", "della", "della_linear")


@dataclass(frozen=True, slots=True)
class _Model:
    name: str
    parameters: _Values


def read(document: Any, names: Names) -> Imported:
    """Return the recipe a configuration of mergekit stands for.

    Args:
        document: the YAML, read.
        names: gives the names of a model's tensors; asked only where values differ between them.

    Raises:
        CorruptError: not shaped like a configuration.
        UnsupportedError: it asks for something this memcard does not do; says what.
    """
    if not isinstance(document, Mapping) or "merge_method" not in document:
        raise CorruptError('recipe: no "merge_method" at the top; this is not mergekit\'s.')
    notes = _refuse(document)
    method = str(document["merge_method"])
    if method not in _DEFAULTS:
        raise UnsupportedError(
            f"recipe: mergekit's method {method!r} has no counterpart here; there are: "
            f"{', '.join(_DEFAULTS)}."
        )
    models, base = _models(document, method)
    shared = _object(document.get("parameters"), "parameters")
    reading = _Reading(method, models, base, shared, _dtype(document))
    if method in _RANDOM:
        notes += (_OTHER_MASKS,)
    return Imported(reading.node(names), notes)


def _refuse(document: _Values) -> tuple[str, ...]:
    for key in ("slices", "modules"):
        if document.get(key):
            raise UnsupportedError(
                f'recipe: "{key}" builds a model out of layers of several, of another depth. Checkpoints of '
                'image models cannot be restacked so; list the checkpoints under "models" instead.'
            )
    extra = [key for key in document if key not in (*_TOP, *_TEXT_ONLY)]
    if extra:
        raise UnsupportedError(
            f"recipe: unknown {', '.join(map(repr, extra))} in a configuration of mergekit."
        )
    return tuple(
        f"{key} is about the tokenizer of a language model and is left out."
        for key in _TEXT_ONLY
        if document.get(key)
    )


def _models(document: _Values, method: str) -> tuple[tuple[_Model, ...], str | None]:
    """Return the models that are mixed, without the base, and the base."""
    given = document.get("models")
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise CorruptError('recipe: "models" is not a list of models.')
    models = tuple(_model(item, i) for i, item in enumerate(given))
    base = document.get("base_model")
    if base is None:
        if method in _NEEDS_BASE:
            raise CorruptError(f'recipe: {method} needs a "base_model".')
        return models, None
    if not isinstance(base, str):
        raise CorruptError('recipe: "base_model" is not a text.')
    if method == "linear":
        if base not in [model.name for model in models]:
            raise UnsupportedError(
                f"recipe: linear has no use for the base {base!r}; leave it out."
            )
        return models, None
    tuned = tuple(model for model in models if model.name != base)
    if not tuned:
        raise CorruptError(f"recipe: there is no model beside the base {base!r} to merge into it.")
    return tuned, base


def _model(item: Any, index: int) -> _Model:
    where = f"models[{index}]"
    found = _object(item, where)
    name, extra = found.get("model"), [key for key in found if key not in ("model", "parameters")]
    if not isinstance(name, str) or extra:
        raise CorruptError(f'recipe: {where}: expected "model", a text, and perhaps "parameters".')
    return _Model(name, _object(found.get("parameters"), f"{where}.parameters"))


def _object(found: Any, where: str) -> _Values:
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise CorruptError(f"recipe: {where} is not an object.")
    return found


def _dtype(document: _Values) -> str:
    """Return our name of the dtype of the result."""
    asked = document.get("out_dtype") or document.get("dtype")
    if asked is None:
        return "widest"
    short = str(asked).removeprefix("torch.")
    if short not in _DTYPES:
        raise UnsupportedError(f"recipe: dtype {asked!r}; known are: {', '.join(_DTYPES)}.")
    return _DTYPES[short]


@dataclass(frozen=True, slots=True)
class _Reading:
    """One configuration, checked in its outline."""

    method: str
    models: tuple[_Model, ...]
    base: str | None
    shared: _Values
    dtype: str

    def node(self, names: Names) -> Node:
        """Return the recipe; parameters that differ between tensors become rules."""
        inputs = tuple(Source(m.name) for m in self.models)
        if self.base is not None:
            inputs = (Source(self.base), *inputs)
        here = _HERE.get(self.method, self.method)
        if not self._varies():
            return by_name(here, inputs, self._settings("", 0.0), [])
        tensors = tuple(names(inputs[0]))
        depths = depths_of(tensors)
        groups: dict[str, tuple[_Values, list[str]]] = {}
        for name in tensors:
            settings = self._settings(name, depths[name])
            groups.setdefault(repr(settings), (settings, []))[1].append(name)
        (usual, _), *others = sorted(groups.values(), key=lambda g: -len(g[1]))
        rules = []
        for values, found in others:
            prefixes, rest = cover(found, tensors)
            rules.append(({"prefixes": tuple(prefixes), "names": tuple(rest)}, values))
        return by_name(here, inputs, usual, rules)

    def _varies(self) -> bool:
        settings = [self.shared, *(model.parameters for model in self.models)]
        return any(
            isinstance(v, (list, tuple, Mapping)) for found in settings for v in found.values()
        )

    def _settings(self, tensor: str, depth: float) -> dict[str, Any]:
        """Return the parameters of the operation for one tensor."""
        found: dict[str, Any] = {"dtype": self.dtype, **_FIXED.get(self.method, {})}
        op = known(_HERE.get(self.method, self.method))
        defaults = _DEFAULTS[self.method]
        wanted = dict.fromkeys([*defaults, *_NEEDED.get(self.method, ())])
        if self.method in _WEIGHTED:
            wanted["weight"] = None
        self._check(tuple(wanted))
        if self.base is not None and "task_vectors" in op.params:
            found["task_vectors"] = True
        for key in wanted:
            name = next((a for a in _ALIASES.get(key, (key,)) if a in op.params), None)
            values = self._values(key, tensor, depth, per_model=key in _PER_MODEL)
            if name is None:
                if any(value != defaults.get(key) for value in values):
                    raise UnsupportedError(
                        f"recipe: {self.method} takes no {key} here; leave it out."
                    )
            else:
                found[name] = self._fitting(key, values, op.params[name].kind)
        if "dtype" not in op.params:
            del found["dtype"]
            if self.dtype != "widest":
                raise UnsupportedError(f"recipe: {self.method} takes no dtype here; leave it out.")
        return found

    def _fitting(self, key: str, values: tuple[Any, ...], kind: str) -> Any:
        """Return what a parameter of this kind is, given its value for each model."""
        alike = len(set(values)) == 1
        if kind == "floats" or (kind == "each" and not alike):
            return tuple(float(value) for value in values)
        if not alike:
            raise UnsupportedError(
                f"recipe: {self.method} takes one {key} for all models here; given are {values}."
            )
        return float(values[0]) if kind in ("float", "each") else values[0]

    def _check(self, wanted: tuple[str, ...]) -> None:
        given = dict.fromkeys(
            k for f in (self.shared, *(m.parameters for m in self.models)) for k in f
        )
        extra = [key for key in given if key not in (*wanted, "int8_mask")]
        if extra:
            raise UnsupportedError(
                f"recipe: {self.method} has no parameter {', '.join(map(repr, extra))}."
            )

    def _values(self, key: str, tensor: str, depth: float, *, per_model: bool) -> tuple[Any, ...]:
        models = self.models if per_model else (_Model("", {}),)
        found = []
        for model in models:
            value = pick(model.parameters, key, tensor, depth)
            if value is None:
                value = pick(self.shared, key, tensor, depth)
            if value is None:
                value = _DEFAULTS[self.method].get(key)
            if value is None:
                where = " ".join(text for text in (model.name, tensor) if text)
                raise CorruptError(
                    f"recipe: {self.method}: no {key} is given{where and ' for '}{where}."
                )
            found.append(value)
        return tuple(found)
