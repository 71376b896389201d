"""Which names a checkpoint may mention.

Known names are understood (``torch_rebuild``). Inert names are kept as data and listed in the notes:
leftovers of trainers that say nothing about tensors. Every other name makes a file unsafe. Names match
as a whole; a module prefix never lets a dotted name through (``torch`` + ``serialization.os.system``).
"""

from __future__ import annotations

from memcard.unpickle.nodes import Global
from memcard.unpickle.torch_dtypes import (
    OPAQUE_DTYPES,
    QUANTIZED_STORAGES,
    STORAGE_CLASSES,
    TORCH_DTYPES,
)

_STORAGES = (*STORAGE_CLASSES, *QUANTIZED_STORAGES)

# Values that name a type, a dtype or a layout; they mean something only as an argument.
TYPES = frozenset(
    {
        *(f"torch.{name}" for name in (*_STORAGES, *TORCH_DTYPES, *OPAQUE_DTYPES)),
        *(f"torch.cuda.{name}" for name in _STORAGES),
        *("torch.storage.UntypedStorage", "torch.UntypedStorage", "torch.storage.TypedStorage"),
        *("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"),
        *("torch.strided", "torch.sparse_coo", "torch.sparse_csr", "torch.sparse_csc"),
        *("torch.sparse_bsr", "torch.sparse_bsc", "torch.per_tensor_affine"),
        *("torch.per_channel_affine", "torch.contiguous_format", "torch.preserve_format"),
    }
)

DICTS = frozenset(
    {
        *("collections.OrderedDict", "collections.defaultdict", "collections.Counter"),
        *("builtins.dict", "pytorch_lightning.utilities.parsing.AttributeDict"),
        "lightning_fabric.utilities.data.AttributeDict",
        "lightning.fabric.utilities.data.AttributeDict",
        "lightning.pytorch.utilities.parsing.AttributeDict",
        *("easydict.EasyDict", "addict.addict.Dict", "ml_collections.config_dict.ConfigDict"),
        *("yacs.config.CfgNode", "munch.Munch", "transformers.utils.generic.ModelOutput"),
    }
)
LISTS = frozenset({*(f"builtins.{n}" for n in ("list", "set", "frozenset")), "collections.deque"})

_INERT = frozenset(
    {
        *(
            f"builtins.{name}"
            for name in (
                *("object", "complex", "slice", "range", "int", "float", "str", "bool"),
                *(
                    "bytes",
                    "bytearray",
                    "tuple",
                    "NoneType",
                    "xrange",
                    "Ellipsis",
                    "NotImplemented",
                ),
            )
        ),
        *("argparse.Namespace", "types.SimpleNamespace", "copyreg._reconstructor"),
        *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
        *("decimal.Decimal", "fractions.Fraction", "uuid.UUID", "enum.auto", "typing.Any"),
        *(
            f"{module}.{name}"
            for module in ("pathlib", "pathlib._local")
            for name in (
                *("Path", "PosixPath", "WindowsPath"),
                *("PurePath", "PurePosixPath", "PureWindowsPath"),
            )
        ),
        *("numpy.dtype", "numpy.ndarray", "numpy.random.mtrand.RandomState"),
        *(
            f"{module}.multiarray.{name}"
            for module in ("numpy.core", "numpy._core")
            for name in ("scalar", "_reconstruct")
        ),
        *("numpy._core.numeric._frombuffer", "numpy.core.numeric._frombuffer"),
        *(
            f"numpy.random._pickle.{name}"
            for name in ("__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor")
        ),
        "numpy.random.bit_generator.SeedSequence",
        "numpy.random.bit_generator.__pyx_unpickle_SeedSequence",
        *(f"numpy.random._{name}" for name in ("mt19937.MT19937", "pcg64.PCG64")),
        *(
            f"omegaconf.{name}"
            for name in (
                *("dictconfig.DictConfig", "listconfig.ListConfig"),
                *("base.ContainerMetadata", "base.Metadata", "base.Node", "base.SCMode"),
                *("nodes.AnyNode", "nodes.StringNode", "nodes.IntegerNode", "nodes.FloatNode"),
                *("nodes.BooleanNode", "nodes.PathNode", "nodes.BytesNode", "nodes.ValueNode"),
            )
        ),
        *("torch.device", "torch.serialization._get_layout", "torch.torch_version.TorchVersion"),
    }
)
# One class directly in these packages; the name must be a plain CamelCase identifier.
_INERT_CLASSES_IN = ("pytorch_lightning.callbacks", "lightning.pytorch.callbacks")

# torch's rebuild functions that torch_rebuild turns into views…
REBUILDS = frozenset(
    {
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._tensor._rebuild_from_type_v2",
        *("torch.Size", "_codecs.encode"),
    }
)
# …and those whose result is noted and left out.
OPAQUE_TENSORS = frozenset(
    f"torch._utils._rebuild_{name}"
    for name in (
        *("sparse_tensor", "sparse_csr_tensor", "qtensor", "nested_tensor"),
        *("meta_tensor_no_storage", "wrapper_subclass", "device_tensor_from_numpy"),
        *("device_tensor_from_cpu_tensor", "xla_tensor"),
    )
)

_KNOWN = TYPES | DICTS | LISTS | REBUILDS | OPAQUE_TENSORS


def known(name: Global) -> bool:
    """Whether memcard understands the name."""
    return name.full in _KNOWN and _splits_right(name)


def inert(name: Global) -> bool:
    """Whether the name is a harmless leftover that memcard keeps as data."""
    if name.full in _INERT:
        return _splits_right(name)
    package = any(name.module == p or name.module.startswith(p + ".") for p in _INERT_CLASSES_IN)
    plain = all(part.isidentifier() for part in name.module.split(".")) and name.full.isascii()
    return package and plain and name.name.isidentifier() and name.name[0].isupper()


def _splits_right(name: Global) -> bool:
    """Refuse ``torch`` + ``_utils.x`` for ``torch._utils`` + ``x``: no honest writer does that."""
    return "." not in name.name
