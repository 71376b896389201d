"""The state of every source of random numbers that a training draws from: take it, keep it, put it back.

python's ``random``, numpy's global generator, torch on the CPU and on every accelerator. A state is JSON and
uint8 tensors, nothing else, so that it fits into a safetensors file and reading it runs no code.

Set it back *after* the first batch has been fetched: creating the iterator of a DataLoader draws from
torch's global generator (docs/resume.md).
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from memcard.errors import CorruptError, UsageError

Json: TypeAlias = dict[str, Any]
Tensors: TypeAlias = dict[str, Tensor]

# torch.mps has one generator and no index; the others have one per device
ACCELERATORS: Final = ("cuda", "xpu", "mps")

_blocks = 0  # of ``undisturbed`` that are open


@dataclass(frozen=True)
class RandomState:
    """The state of all global generators of one process.

    Attributes:
        python: what ``random.getstate()`` says.
        numpy: the state of numpy's global generator, or None if numpy was not imported.
        torch: uint8, the state of torch's CPU generator.
        devices: uint8 states by device, such as ``cuda:1``; without devices that were never used.
    """

    python: tuple[Any, ...]
    numpy: Json | None
    torch: Tensor
    devices: Mapping[str, Tensor]

    @classmethod
    def take(cls, *, devices: bool = True) -> RandomState:
        """Return the present state; about 40 microseconds, and a copy from each accelerator."""
        return cls(
            python=random.getstate(),
            numpy=_numpy().get_state(legacy=False) if _numpy() else None,
            torch=torch.default_generator.get_state(),
            devices=_take_devices() if devices else {},
        )

    def put(self) -> tuple[str, ...]:
        """Make this the present state.

        Returns:
            One sentence for each generator that could not be set, for the reader of the log. Its stream
            goes on from where it is, so what draws from it is not what an uninterrupted run would draw.
        """
        random.setstate(self.python)
        if self.numpy is not None:
            import numpy as np

            np.random.set_state(self.numpy)
        torch.default_generator.set_state(self.torch)
        return tuple(
            note for name, state in self.devices.items() if (note := _put_device(name, state))
        )

    def to_json_and_tensors(self) -> tuple[Json, Tensors]:
        """Return the state as plain JSON and named uint8 tensors."""
        tensors: Tensors = {"torch": self.torch}
        tensors |= {f"devices.{name}": state for name, state in self.devices.items()}
        plain: Json = {
            "python": _split(list(self.python), "python", tensors),
            "numpy": None if self.numpy is None else _split(self.numpy, "numpy", tensors),
            "devices": sorted(self.devices),
        }
        return plain, tensors

    @classmethod
    def from_json_and_tensors(cls, plain: Json, tensors: Mapping[str, Tensor]) -> RandomState:
        """Return the state that ``to_json_and_tensors`` wrote.

        Raises:
            CorruptError: something is missing or has another type than was written.
        """
        try:
            version, words, gauss = _join(plain["python"], tensors)
            return cls(
                python=(version, tuple(words.tolist()), gauss),
                numpy=None if plain["numpy"] is None else _join(plain["numpy"], tensors),
                torch=tensors["torch"],
                devices={name: tensors[f"devices.{name}"] for name in plain["devices"]},
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CorruptError(
                f"The state of the random generators is incomplete or damaged: {error!r}. "
                "Resume from an earlier save."
            ) from error

    def to_tensor(self) -> Tensor:
        """Return the whole state as one uint8 tensor, for sending it to another rank."""
        plain, tensors = self.to_json_and_tensors()
        sizes = {name: tensor.numel() for name, tensor in tensors.items()}
        head = json.dumps([plain, sizes]).encode()
        length = len(head).to_bytes(8, "little")
        start = torch.frombuffer(bytearray(length + head), dtype=torch.uint8)
        return torch.cat([start, *(tensor.flatten() for tensor in tensors.values())])

    @classmethod
    def from_tensor(cls, flat: Tensor) -> RandomState:
        """Return the state that ``to_tensor`` packed; bytes after its end are ignored."""
        start = int.from_bytes(bytes(flat[:8].tolist()), "little") + 8
        plain, sizes = json.loads(bytes(flat[8:start].tolist()))
        tensors: Tensors = {}
        for name, size in sizes.items():
            tensors[name] = flat[start : start + size].clone()
            start += size
        return cls.from_json_and_tensors(plain, tensors)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave python's, numpy's and torch's CPU generators after the block as they were before it.

    Costs about 90 microseconds, most of them for numpy.
    """
    global _blocks  # noqa: PLW0603  # of the process, as the generators are
    before = RandomState.take(devices=False)
    _blocks += 1
    try:
        yield
    finally:
        _blocks -= 1
        before.put()


def is_undisturbed() -> bool:
    """Say whether an ``undisturbed`` block is open, so that another one would be for nothing."""
    return _blocks > 0


def gather(state: RandomState) -> list[RandomState]:
    """Return the states of all ranks, in order of rank, on every rank. Call it on all of them.

    Without ``torch.distributed`` that is the given state alone. Nothing is pickled on the way.
    """
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return [state]
    home = meeting_place()
    flat = state.to_tensor().to(home)
    lengths = [torch.zeros(1, dtype=torch.int64, device=home) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor([flat.numel()], device=home))
    longest = int(max(lengths))
    padded = torch.zeros(longest, dtype=torch.uint8, device=home)
    padded[: flat.numel()] = flat
    everyone = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(everyone, padded)
    return [RandomState.from_tensor(one.cpu()) for one in everyone]


def meeting_place() -> torch.device:
    """Return the device on which the ranks can exchange tensors."""
    import torch.distributed as dist

    if "nccl" in str(dist.get_backend()):
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


class Randomness:
    """Give a generator of your own ``state_dict`` and ``load_state_dict``, for ``extra=``.

    Args:
        generator: a ``torch.Generator``, ``numpy.random.Generator``, ``numpy.random.RandomState`` or
            ``random.Random``. It is set in place, so keep drawing from the same object.

    Raises:
        UsageError: it is something else.
    """

    def __init__(self, generator: Any) -> None:
        self.generator = generator
        self._kind = kind_of(generator)
        if self._kind is None:
            raise UsageError(
                f"Randomness keeps a torch.Generator, numpy Generator, numpy RandomState or random.Random, "
                f"not {type(generator).__name__}. Give such an object, or one with state_dict."
            )

    def state_dict(self) -> Json:
        """Return the state: plain values and uint8 tensors."""
        tensors: Tensors = {}
        plain = _split(self.take(), "state", tensors)
        return {"kind": self._kind, "state": plain, "tensors": tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set the generator in place.

        Raises:
            CorruptError: the state belongs to another kind of generator.
        """
        if state.get("kind") != self._kind:
            raise CorruptError(
                f"The saved state is one of a {state.get('kind')}, but the generator is a {self._kind}. "
                "Give the same kind of generator as before."
            )
        self.put(_join(state["state"], state["tensors"]))

    def take(self) -> Any:
        """Return the state as the generator's own library gives it."""
        match self._kind:
            case "torch.Generator":
                return self.generator.get_state()
            case "random.Random":
                return list(self.generator.getstate())
            case "numpy.random.RandomState":
                return self.generator.get_state(legacy=False)
            case _:
                return self.generator.bit_generator.state

    def put(self, state: Any) -> None:
        """Set a state that ``take`` returned."""
        match self._kind:
            case "torch.Generator":
                self.generator.set_state(state.cpu())
            case "random.Random":
                self.generator.setstate((state[0], tuple(state[1].tolist()), state[2]))
            case "numpy.random.RandomState":
                self.generator.set_state(state)
            case _:
                self.generator.bit_generator.state = state


def kind_of(generator: Any) -> str | None:
    """Return the name of the class of generators that the object belongs to, None for anything else."""
    if isinstance(generator, torch.Generator):
        return "torch.Generator"
    # SystemRandom has no state: nothing could bring its numbers back
    if isinstance(generator, random.Random) and not isinstance(generator, random.SystemRandom):
        return "random.Random"
    if numpy := _numpy():
        if isinstance(generator, numpy.Generator):
            return "numpy.random.Generator"
        if isinstance(generator, numpy.RandomState):
            return "numpy.random.RandomState"
    return None


def _numpy() -> Any:
    """numpy.random if the program has it; what was never imported was never drawn from."""
    return sys.modules.get("numpy.random")


def _take_devices() -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for kind in ACCELERATORS:
        module = getattr(torch, kind)
        if not module.is_available():
            continue
        if kind == "mps":
            found[kind] = module.get_rng_state()
        elif (
            module.is_initialized()
        ):  # asking earlier would start the device in a process without use for it
            found |= {f"{kind}:{i}": module.get_rng_state(i) for i in range(module.device_count())}
    return found


def _put_device(name: str, state: Tensor) -> str | None:
    kind, _, index = name.partition(":")
    module = getattr(torch, kind, None)
    here = module is not None and kind in ACCELERATORS and module.is_available()
    if module is None or not here or (index and int(index) >= module.device_count()):
        return f"The save has the random numbers of {name}, which this machine does not have."
    if index:
        module.set_rng_state(state, int(index))
    else:
        module.set_rng_state(state)
    return None


def _split(value: Any, path: str, tensors: Tensors) -> Any:
    """Return the JSON of a state; its arrays go to ``tensors`` and leave their name and type behind."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {"map": {k: _split(v, f"{path}.{k}", tensors) for k, v in value.items()}}
    if isinstance(value, list):
        return [_split(v, f"{path}.{i}", tensors) for i, v in enumerate(value)]
    if isinstance(value, tuple):  # of python's random: 625 integers below 2**32
        return _split_array(value, "uint32", path, tensors)
    if type(value).__module__ == "numpy" and hasattr(value, "shape"):
        return _split_array(value, str(value.dtype), path, tensors)
    return value.item() if hasattr(value, "item") else value


def _split_array(values: Any, dtype: str, path: str, tensors: Tensors) -> Json:
    import numpy as np

    bits = np.array(values, dtype=np.dtype(dtype).newbyteorder("<"))
    tensors[path] = torch.frombuffer(bytearray(bits.tobytes()), dtype=torch.uint8)
    return {"array": path, "dtype": dtype}


def _join(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of ``_split``; tuples come back as arrays."""
    if isinstance(value, list):
        return [_join(v, tensors) for v in value]
    if not isinstance(value, Mapping):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "array" in value:
        import numpy as np

        little = np.dtype(value["dtype"]).newbyteorder("<")
        bits = tensors[value["array"]].contiguous().numpy().tobytes()
        return np.frombuffer(bits, little).astype(value["dtype"])
    return {k: _join(v, tensors) for k, v in value["map"].items()}
