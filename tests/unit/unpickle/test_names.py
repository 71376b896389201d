from __future__ import annotations

import pytest

from memcard.unpickle.names import callable_, check_arguments, inert, known
from memcard.unpickle.nodes import Global, Opaque, UnsafeCallError


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch", "FloatStorage"),
        ("torch.cuda", "HalfStorage"),
        ("torch", "float8_e4m3fn"),
        ("collections", "OrderedDict"),
        ("_codecs", "encode"),
    ],
)
def test_names_of_torch_are_known(module: str, name: str) -> None:
    assert known(Global(module, name))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
        ("lightning.pytorch.callbacks", "EarlyStopping"),
        ("omegaconf.dictconfig", "DictConfig"),
        ("numpy._core.multiarray", "scalar"),
        ("pathlib", "PosixPath"),
    ],
)
def test_leftovers_of_trainers_are_inert(module: str, name: str) -> None:
    assert inert(Global(module, name))
    assert not known(Global(module, name))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch", "_utils._rebuild_tensor_v2"),
        ("torch", "serialization.os.system"),
        ("collections", "OrderedDict.fromkeys"),
        ("pathlib", "PosixPath.unlink"),
        ("pytorch_lightning.callbacks.model_checkpoint", "os.system"),
        ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint.os"),
        ("pytorch_lightning.callbacks.model_checkpoint", "import_module"),
        ("pytorch_lightning.callbacks_evil", "ModelCheckpoint"),
        ("pytorch_lightning", "callbacks.ModelCheckpoint"),
        ("pytorch_lightning.callbacks.\x1b[2J", "ModelCheckpoint"),
        ("numpy", "_core.multiarray.scalar"),
        ("omegaconf.omegaconf", "OmegaConf"),
        ("builtins", "getattr"),
        ("transformers.models.clip.modeling_clip", "CLIPModel"),
        ("transformers.models.clip.configuration_clip.os", "system"),
        ("torch.optim.lr_scheduler", "partial"),
        ("torch.nn.modules.linear", "Linear"),
        ("fsspec.spec", "make_instance"),
        ("builtins", "map"),
        ("_codecs", "decode"),
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("", ""),
    ],
)
def test_everything_else_is_neither(module: str, name: str) -> None:
    assert not known(Global(module, name))
    assert not inert(Global(module, name))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
        ("torch.optim.adamw", "AdamW"),
        ("torch.optim.lr_scheduler", "LambdaLR"),
        ("transformers.training_args", "TrainingArguments"),
        ("transformers.models.clip.configuration_clip", "CLIPTextConfig"),
        ("torch.nn.modules.container", "ParameterDict"),
    ],
)
def test_classes_that_do_something_when_called_may_only_be_made_bare(
    module: str, name: str
) -> None:
    assert inert(Global(module, name))
    assert not callable_(Global(module, name))


BARE = Global("transformers.training_args", "TrainingArguments")
OBJECT, TUPLE = Global("builtins", "object"), Global("builtins", "tuple")


@pytest.mark.parametrize(
    ("full", "args"),
    [
        ("builtins.type", (None,)),
        ("copyreg._reconstructor", (BARE, OBJECT, None)),
        ("copyreg._reconstructor", (Global("argparse", "Namespace"), OBJECT, None)),
        ("numpy.random._pickle.__generator_ctor", (Opaque("PCG64"),)),
        ("numpy.random._pickle.__bit_generator_ctor", (Global("numpy.random._pcg64", "PCG64"),)),
        ("collections.defaultdict", (Global("builtins", "list"),)),
    ],
)
def test_honest_arguments_of_calls_that_call(full: str, args: tuple[object, ...]) -> None:
    check_arguments(full, args)


@pytest.mark.parametrize(
    ("full", "args"),
    [
        ("builtins.type", ("X", (), {})),
        ("copyreg._reconstructor", (BARE, BARE, "x")),
        ("copyreg._reconstructor", (Global("argparse", "Namespace"), BARE, "x")),
        ("numpy.random._pickle.__generator_ctor", ("x", BARE)),
        ("numpy.random._pickle.__generator_ctor", ("x", Global("pathlib", "Path"))),
        ("collections.defaultdict", (BARE,)),
    ],
)
def test_a_call_may_not_be_given_something_to_call(full: str, args: tuple[object, ...]) -> None:
    with pytest.raises(UnsafeCallError):
        check_arguments(full, args)
