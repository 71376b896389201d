from __future__ import annotations

import pytest

from memcard.unpickle.names import inert, known
from memcard.unpickle.nodes import Global


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
