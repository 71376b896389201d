"""Which names a checkpoint may mention.

Known names are understood (``torch_rebuild``). Inert names are kept as data and listed in the notes:
leftovers of trainers that say nothing about tensors. Every other name makes a file unsafe. Names match
as a whole; a module prefix never lets a dotted name through (``torch`` + ``serialization.os.system``).

The rule for a new inert name. memcard runs none of them, but the same file may be opened by a program
that does, so a name is inert only if that program, too, gets nothing but a value:

1. It is a class whose instances only hold data, an enumeration, or a function that computes a value from
   its arguments alone. Nothing that reads, writes, connects, imports, looks up an attribute, calls one of
   its arguments, or parses a language: ``getattr``, ``eval``, ``map``, ``functools.partial``,
   ``torch.load``, ``importlib.import_module`` are what attacks are made of.
2. Classes of ``BARE`` do more than that when they are called (a trainer's callback, a settings object that
   sets up devices). They may be named or made bare (``__new__``, then attributes), never called, and
   never be handed to a call, which may call them (``check_arguments``).
3. Someone met it in a real checkpoint.

The type of a quantity, a default value, a leftover object: all of them are data to us, also in
``hyper_parameters``; a *text* that names code stays a text (lightning #21822).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from memcard.unpickle.nodes import Global, UnsafeCallError, Value, shown
from memcard.unpickle.torch_dtypes import (
    QUANTIZED_STORAGES,
    RAW_DTYPES,
    STORAGE_CLASSES,
    TORCH_DTYPES,
)


def _full(table: Mapping[str, Iterable[str]]) -> frozenset[str]:
    return frozenset(f"{module}.{name}" for module, names in table.items() for name in names)


_STORAGES = (*STORAGE_CLASSES, *QUANTIZED_STORAGES)

# Values that name a type, a dtype or a layout; they mean something only as an argument.
TYPES = _full(
    {
        "torch": (
            *(*_STORAGES, *TORCH_DTYPES, *RAW_DTYPES, "UntypedStorage", "Tensor", "strided"),
            *("sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc", "jagged"),
            *("per_tensor_affine", "per_channel_affine", "per_channel_affine_float_qparams"),
            *("per_tensor_symmetric", "per_channel_symmetric"),
            *("contiguous_format", "preserve_format", "channels_last", "channels_last_3d"),
            *(f"{n}Tensor" for n in ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Byte")),
        ),
        "torch.cuda": _STORAGES,
        "torch.storage": ("UntypedStorage", "TypedStorage"),
        "torch.nn.parameter": (
            *("Parameter", "Buffer", "UninitializedParameter", "UninitializedBuffer"),
        ),
        "torch.nested._internal.nested_tensor": ("NestedTensor",),
        "torch._dynamo.decorators": ("_DimRange",),
    }
)

DICTS = _full(
    {
        "collections": ("OrderedDict", "defaultdict", "Counter"),
        "builtins": ("dict",),
        "pytorch_lightning.utilities.parsing": ("AttributeDict",),
        "pytorch_lightning.utilities.data": ("AttributeDict",),
        "lightning.pytorch.utilities.parsing": ("AttributeDict",),
        "lightning.fabric.utilities.data": ("AttributeDict",),
        "lightning_fabric.utilities.data": ("AttributeDict",),
        "easydict": ("EasyDict",),
        "addict.addict": ("Dict",),
        "ml_collections.config_dict": ("ConfigDict",),
        "ml_collections.config_dict.config_dict": ("ConfigDict",),
        "mmcv.utils.config": ("ConfigDict",),
        "mmengine.config.config": ("ConfigDict",),
        "yacs.config": ("CfgNode",),
        "munch": ("Munch",),
        "transformers.utils.generic": ("ModelOutput",),
        "transformers.tokenization_utils_base": ("BatchEncoding",),
        "diffusers.configuration_utils": ("FrozenDict",),
    }
)
LISTS = _full({"builtins": ("list", "set", "frozenset"), "collections": ("deque",)})

# Modules that only hold tensors; A1111's textual inversions are saved as a whole ParameterDict.
_CONTAINERS = _full({"torch.nn.modules.container": ("ParameterDict", "ParameterList")})

_PATHS = (
    *("Path", "PosixPath", "WindowsPath"),
    *("PurePath", "PurePosixPath", "PureWindowsPath"),
)
_NUMPY_NUMBERS = (
    *("bool_", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "longdouble", "complex64", "complex128", "str_", "bytes_"),
    *("intc", "intp", "uintc", "uintp", "longlong", "ulonglong", "generic", "number", "integer"),
    *("floating", "datetime64", "timedelta64", "void"),
)
_NUMPY_DTYPES = tuple(
    f"{name}DType"
    for name in (
        *("Bool", "Byte", "UByte", "Short", "UShort", "Int", "UInt", "Long", "ULong", "LongLong"),
        *("ULongLong", "Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64"),
        *("Float16", "Float32", "Float64", "LongDouble", "Complex64", "Complex128", "CLongDouble"),
        *("Object", "Bytes", "Str", "Void", "DateTime64", "TimeDelta64"),
    )
)
_LIGHTNING_STATES = ("RunningStage", "TrainerFn", "TrainerState", "TrainerStatus")
_TRANSFORMERS_ENUMS = (
    *("IntervalStrategy", "EvaluationStrategy", "SaveStrategy", "SchedulerType", "HubStrategy"),
    *("FSDPOption", "ShardedDDPOption"),
)

_INERT = _CONTAINERS | _full(
    {
        "builtins": (
            *("object", "type", "int", "long", "float", "complex", "bool", "str", "unicode"),
            *("basestring", "bytes", "bytearray", "tuple", "slice", "range", "xrange"),
            *("NoneType", "Ellipsis", "NotImplemented"),
        ),
        "argparse": ("Namespace",),
        "types": ("SimpleNamespace", "NoneType"),
        "copyreg": ("_reconstructor",),
        "datetime": ("datetime", "date", "time", "timedelta", "timezone"),
        "decimal": ("Decimal",),
        "fractions": ("Fraction",),
        "uuid": ("UUID",),
        "enum": ("auto",),
        "typing": (
            *("Any", "Union", "Optional", "Dict", "List", "Tuple", "Set", "Sequence", "Mapping"),
            *("Callable", "Iterable", "Literal", "NoReturn", "Type"),
        ),
        "pathlib": _PATHS,
        "pathlib._local": _PATHS,
        "numpy": ("dtype", "ndarray", "matrix", *_NUMPY_NUMBERS),
        "numpy.dtypes": _NUMPY_DTYPES,
        "numpy.core.multiarray": ("scalar", "_reconstruct"),
        "numpy._core.multiarray": ("scalar", "_reconstruct"),
        "numpy.core.numeric": ("_frombuffer",),
        "numpy._core.numeric": ("_frombuffer",),
        "numpy.ma": ("MaskedArray",),
        "numpy.ma.core": ("MaskedArray", "_mareconstruct"),
        "numpy.random": ("__RandomState_ctor", "RandomState"),
        "numpy.random.mtrand": ("RandomState",),
        "numpy.random._pickle": (
            *("__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor"),
        ),
        "numpy.random.bit_generator": (
            *("SeedSequence", "__pyx_unpickle_SeedSequence", "SeedlessSeedSequence"),
        ),
        "numpy.random._bit_generator": ("__pyx_unpickle_SeedSequence",),
        "numpy.random._generator": ("Generator",),
        "numpy.random._mt19937": ("MT19937",),
        "numpy.random._pcg64": ("PCG64", "PCG64DXSM"),
        "numpy.random._philox": ("Philox",),
        "numpy.random._sfc64": ("SFC64",),
        "omegaconf.dictconfig": ("DictConfig",),
        "omegaconf.listconfig": ("ListConfig",),
        "omegaconf.base": ("ContainerMetadata", "Metadata", "Node", "SCMode", "UnionNode"),
        "omegaconf.nodes": (
            *("AnyNode", "StringNode", "IntegerNode", "FloatNode", "BooleanNode", "PathNode"),
            *("BytesNode", "ValueNode", "EnumNode", "InterpolationResultNode"),
        ),
        "torch": ("device", "Generator"),
        "torch._C": ("Generator",),
        "torch.serialization": ("_get_layout",),
        "torch.torch_version": ("TorchVersion",),
        "torch.amp.grad_scaler": ("OptState", "_refresh_per_optimizer_state"),
        "torch.cuda.amp.grad_scaler": ("OptState", "_refresh_per_optimizer_state"),
        "pytorch_lightning.trainer.states": _LIGHTNING_STATES,
        "lightning.pytorch.trainer.states": _LIGHTNING_STATES,
        "transformers.trainer_utils": _TRANSFORMERS_ENUMS,
        "transformers.training_args": ("OptimizerNames", "ParallelMode"),
        "accelerate.utils.dataclasses": (
            *("DistributedType", "PrecisionType", "DynamoBackend", "RNGType", "LoggerType"),
            *("SageMakerDistributedType", "ComputeEnvironment", "SaveIntervalStrategy"),
        ),
    }
)

BARE = frozenset(
    {
        *_CONTAINERS,
        *_full(
            {
                "transformers.training_args": ("TrainingArguments",),
                "transformers.training_args_seq2seq": ("Seq2SeqTrainingArguments",),
                "transformers.trainer_callback": ("TrainerState", "TrainerControl"),
                "transformers.trainer_pt_utils": ("AcceleratorConfig",),
                "transformers.configuration_utils": ("PretrainedConfig",),
                "accelerate.state": ("AcceleratorState", "PartialState", "GradientState"),
                "accelerate.utils.dataclasses": (
                    *("DeepSpeedPlugin", "GradientAccumulationPlugin", "DataLoaderConfiguration"),
                    *(
                        "FullyShardedDataParallelPlugin",
                        "TorchDynamoPlugin",
                        "ProjectConfiguration",
                    ),
                ),
                "diffusers.training_utils": ("EMAModel",),
                "torch.cuda.amp.grad_scaler": ("GradScaler",),
                "torch.amp.grad_scaler": ("GradScaler",),
            }
        ),
    }
)
# Classes directly in these packages are bare too; the name must be a plain CamelCase identifier.
_BARE_IN = (
    *("pytorch_lightning.callbacks", "lightning.pytorch.callbacks"),
    "torch.optim",  # whole optimizers and schedulers, in place of their state_dict
)

# What copyreg._reconstructor may make an instance of, without calling anything of the file's choice.
_PLAIN_BASES = frozenset(
    f"builtins.{name}"
    for name in (
        *("object", "dict", "list", "tuple", "set", "frozenset", "str", "unicode", "bytes"),
        *("bytearray", "int", "long", "float", "complex"),
    )
)

# torch's rebuild functions that torch_rebuild turns into views…
REBUILDS = _full(
    {
        "torch._utils": (
            *("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"),
            *("_rebuild_parameter", "_rebuild_parameter_with_state"),
            "_rebuild_device_tensor_from_cpu_tensor",
        ),
        "torch._tensor": ("_rebuild_from_type", "_rebuild_from_type_v2"),
        "torch": ("Size",),
        "_codecs": ("encode",),
    }
)
# …into several views (torch_parts)…
PARTS = _full(
    {
        "torch._utils": (
            *("_rebuild_sparse_tensor", "_rebuild_sparse_csr_tensor"),
            *("_rebuild_qtensor", "_rebuild_nested_tensor"),
        ),
        "torch.nested._internal.nested_tensor": ("_rebuild_njt",),
    }
)
# …and those whose result is noted and left out.
OPAQUE_TENSORS = _full(
    {
        "torch._utils": (
            *("_rebuild_meta_tensor_no_storage", "_rebuild_wrapper_subclass"),
            *("_rebuild_device_tensor_from_numpy", "_rebuild_xla_tensor"),
        )
    }
)

_KNOWN = TYPES | DICTS | LISTS | REBUILDS | PARTS | OPAQUE_TENSORS


def known(name: Global) -> bool:
    """Whether memcard understands the name."""
    return name.full in _KNOWN and _splits_right(name)


def inert(name: Global) -> bool:
    """Whether the name is a harmless leftover that memcard keeps as data."""
    if name.full in _INERT or name.full in BARE:
        return _splits_right(name)
    return _in_bare_package(name)


def callable_(name: Global) -> bool:
    """Whether a known or inert name may be called, not only be named or made bare."""
    return name.full not in BARE and not _in_bare_package(name)


def rebuilds(name: Global) -> bool:
    """Whether the name is a function of torch that makes a tensor."""
    return name.full in REBUILDS or name.full in PARTS or name.full in OPAQUE_TENSORS


def check_arguments(full: str, args: tuple[Value, ...]) -> None:
    """Check that a harmless call is harmless with these arguments: some call what they are given.

    Raises:
        UnsafeCallError: it is not.
    """
    if full == "builtins.type" and not (len(args) == 1 and (args[0] is None or _is_name(args[0]))):
        raise UnsafeCallError("a new type")  # type(None) is how pickle writes NoneType
    base = full == "copyreg._reconstructor" and len(args) == 3 and _is_name(args[1], _PLAIN_BASES)
    for arg in args[1:] if base else args:
        if isinstance(arg, Global) and not callable_(arg):
            raise UnsafeCallError(f"{full} with {shown(arg.full)}, which it would call")
    if full == "copyreg._reconstructor" and not base:
        raise UnsafeCallError("copyreg._reconstructor with another base than a plain one")
    if full.startswith("numpy.random.") and not all(
        arg.module.startswith("numpy.random.") for arg in args if isinstance(arg, Global)
    ):
        raise UnsafeCallError(f"{full} with something to call that is not of numpy.random")


def _is_name(value: Value, among: frozenset[str] | None = None) -> bool:
    return isinstance(value, Global) and (among is None or value.full in among)


def _in_bare_package(name: Global) -> bool:
    package = any(name.module == p or name.module.startswith(p + ".") for p in _BARE_IN)
    if not package and not _is_config(name):
        return False
    plain = all(part.isidentifier() for part in name.module.split("."))
    return plain and name.full.isascii() and name.name.isidentifier() and name.name[0].isupper()


def _is_config(name: Global) -> bool:
    """Whether it is ``transformers.models.clip.configuration_clip.CLIPTextConfig`` or the like."""
    parts = name.module.split(".")
    return (
        parts[:2] == ["transformers", "models"]
        and len(parts) == 4
        and parts[3].startswith("configuration_")
        and name.name.endswith("Config")
    )


def _splits_right(name: Global) -> bool:
    """Refuse ``torch`` + ``_utils.x`` for ``torch._utils`` + ``x``: no honest writer does that."""
    return "." not in name.name
