"""What trainers and web UIs leave in their files: callbacks, configs, random states, embeddings."""

from __future__ import annotations

import argparse
import datetime
import pathlib
import random
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from attacks.honest_plain import Made, values
from attacks.honest_torch import AB, A, B, both, saved, t, written
from fixtures.torch_archive import ONE_DATA, name, tensor, text

W = {"w": ONE_DATA["0"]}


def _made(module: str, attribute: str, state: bytes = b"}") -> bytes:
    """An object as copyreg writes it: NEWOBJ, then BUILD."""
    return name(module, attribute) + b")\x81" + state + b"b"


def _lightning() -> bytes:
    """Stable Diffusion 1's own layout: the class of a callback is a key, and is never called."""
    callback = name("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    callbacks = b"}" + callback + b"}" + text("best_model_score") + b"Nss"
    parts = (
        (b"epoch", b"K\x03"), (b"global_step", b"J\x6c\x2b\x07\0"), (b"pytorch-lightning_version", text("1.4.2")),
        (b"state_dict", b"}" + text("w") + tensor("0", [4], [1]) + b"s"), (b"callbacks", callbacks),
        (b"optimizer_states", b"]"), (b"lr_schedulers", b"]"), (b"loops", b"N"),
    )  # fmt: skip
    return b"\x80\x02}(" + b"".join(text(k.decode()) + v for k, v in parts) + b"u."


def _omegaconf() -> bytes:
    node = _made("omegaconf.nodes", "AnyNode", b"}" + text("_val") + b"K\x01s")
    metadata = _made(
        "omegaconf.base",
        "ContainerMetadata",
        b"}" + text("ref_type") + name("typing", "Any") + b"s",
    )
    content = (
        b"}"
        + text("_metadata")
        + metadata
        + b"s"
        + text("_content")
        + b"}"
        + text("lr")
        + node
        + b"ss"
    )
    config = _made("omegaconf.dictconfig", "DictConfig", content)
    return (
        b"\x80\x02}" + text("state_dict") + b"}" + text("w") + tensor("0", [4], [1]) + b"ss"
        + text("hyper_parameters") + config + b"s."
    )  # fmt: skip


def _parameter_dict() -> bytes:
    """The first textual inversions: a whole torch module holds the one tensor."""
    inner = name("collections", "OrderedDict") + b")R" + text("*") + tensor("0", [4], [1]) + b"s"
    state = b"}" + text("_parameters") + inner + b"s" + text("training") + b"\x88s"
    whole = _made("torch.nn.modules.container", "ParameterDict", state)
    return (
        b"\x80\x02}"
        + text("string_to_token")
        + b"}"
        + text("*")
        + b"M\x09\x01ss"
        + text("string_to_param")
        + whole
        + b"s."
    )


def _leftovers(torch: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        **both(torch),
        "args": argparse.Namespace(lr=1e-4, out=pathlib.PurePosixPath("/tmp/x"), at=datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC)),
        "loss": np.float64(0.5), "step": np.int64(7), "mean": np.zeros(3), "words": np.array(["a", "b"]),
        "seen": Counter("abca"), "tags": {"x", "y"}, "frozen": frozenset({1}), "raw": b"\0\xff", "z": 1 + 2j,
        "nothing": None, "dots": ..., "size": torch.Size([1, 2]), "device": torch.device("cuda:0"),
        "dtype": torch.float16, "big": 1 << 200, "span": range(3), "delta": datetime.timedelta(1),
        "numpy_rng": np.random.RandomState(0).get_state(), "numpy_generator": rng, "python_rng": random.Random(0).getstate(),
    }  # fmt: skip


def _training(torch: Any) -> dict[str, Any]:
    layer = torch.nn.Linear(4, 3, bias=False)
    layer.weight.data = t(torch, A)
    adam = torch.optim.AdamW(layer.parameters(), lr=0.0)
    layer(torch.ones(1, 4)).sum().backward()
    adam.step()
    plan = torch.optim.lr_scheduler.LambdaLR(adam, [lambda step: 1.0])
    return {
        "model": layer.state_dict(), "optimizer": adam.state_dict(), "lr_scheduler": plan.state_dict(),
        "rng_state": torch.get_rng_state(), "scaler": torch.amp.GradScaler("cpu").state_dict(),
    }  # fmt: skip


def _odd_tensors(torch: Any) -> dict[str, Any]:
    """Kinds that may be left out with a note; the plain ones beside them have to be there."""
    dense = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    return {
        **both(torch), "sparse": dense.to_sparse(), "csr": dense.to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(dense, 0.1, 0, torch.quint8), "meta": torch.empty(2, device="meta"),
        "conjugated": torch.tensor([1 + 2j]).conj(), "named": torch.zeros(2),
    }  # fmt: skip


def _lightning_by_lightning(folder: Path) -> Made:
    """Stands in for a real trainer's file: everything Lightning 2 writes around a state dict."""
    path, expected = saved(
        lambda torch: {
            "epoch": 1, "global_step": 2, "pytorch-lightning_version": "2.5.0", "state_dict": OrderedDict(both(torch)),
            "loops": {"fit_loop": {"state_dict": {}}}, "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_k_models": {}}},
            "optimizer_states": [{"state": {0: {"exp_avg": t(torch, A)}}, "param_groups": [{"lr": 1.0}]}],
            "lr_schedulers": [], "hparams_name": "kwargs", "hyper_parameters": {"lr": 1e-4, "_instantiator": "os.system"},
        },
        {**AB, "optimizer_states[0].state[0].exp_avg": A}, ".ckpt",
    )(folder)  # fmt: skip
    return path, expected


EMBEDDING = values(3, 2, 768)

CASES: dict[str, tuple[Any, ...]] = {
    "lightning_1": (written(_lightning(), ONE_DATA, W), "torch_zip", "ModelCheckpoint"),
    "lightning_2": (_lightning_by_lightning, "torch_zip", "training state"),
    "omegaconf": (written(_omegaconf(), ONE_DATA, W), "torch_zip", "DictConfig"),
    "leftovers": (saved(_leftovers, AB), "torch_zip", "", True),
    "leftovers_in_protocol_4": (saved(_leftovers, AB, pickle_protocol=4), "torch_zip", "", True),
    "training_run": (saved(_training, {"model.weight": A}), "torch_zip", "", True),
    "odd_tensors": (saved(_odd_tensors, AB), "torch_zip", "", True),
    "ema_inside": (
        saved(lambda torch: {"state_dict": {"model.w": t(torch, A), "model_ema.w": t(torch, B), "model_ema.num_updates": torch.tensor(5)}},
              {"model.w": A, "model_ema.w": B, "model_ema.num_updates": np.int64([5])}, ".ckpt"), "torch_zip",
    ),
    "textual_inversion": (
        saved(lambda torch: {"string_to_token": {"*": 265}, "string_to_param": {"*": t(torch, EMBEDDING)}, "name": "x", "step": 1},
              {"string_to_param.*": EMBEDDING}), "torch_zip",
    ),
    "textual_inversion_of_diffusers": (
        saved(lambda torch: {"<cat>": t(torch, EMBEDDING)}, {"<cat>": EMBEDDING}, ".bin"), "torch_zip"
    ),
    "textual_inversion_of_2022": (
        written(_parameter_dict(), ONE_DATA, {"string_to_param._parameters.*": ONE_DATA["0"]}), "torch_zip", "", True
    ),
    "hypernetwork": (
        saved(lambda torch: {768: ({"linear.0.weight": t(torch, A)}, {"linear.0.weight": t(torch, B)}), "step": 9, "name": "x"},
              {"[768][0].linear.0.weight": A, "[768][1].linear.0.weight": B}), "torch_zip",
    ),
    "controlnet": (
        saved(lambda torch: {"control_model.input_hint_block.0.weight": t(torch, A)},
              {"control_model.input_hint_block.0.weight": A}, ".pth"), "torch_zip",
    ),
    "upscaler": (saved(lambda torch: {"params_ema": {"conv.weight": t(torch, A)}}, {"params_ema.conv.weight": A}, ".pth"), "torch_zip"),
    "kohya_lora": (
        saved(lambda torch: {"lora_unet_x.lora_down.weight": t(torch, A), "lora_unet_x.alpha": torch.tensor(4.0)},
              {"lora_unet_x.lora_down.weight": A, "lora_unet_x.alpha": np.float32([4])}), "torch_zip",
    ),
}  # fmt: skip
