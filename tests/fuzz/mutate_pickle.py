"""Changes of pickle programs, instruction by instruction, so that most of a program stays sound."""

from __future__ import annotations

import io
import pickletools
import struct
from collections.abc import Sequence
from random import Random

from fixtures.torch_archive import name, number, tensor, text
from fuzz.mutate_bytes import EDGES, mutate_bytes

NAMES = tuple(
    name(*pair.rsplit(".", 1))
    for pair in (
        *("collections.OrderedDict", "collections.defaultdict", "collections.deque", "builtins.set"),
        *("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_parameter"),
        *("torch._utils._rebuild_parameter_with_state", "torch._tensor._rebuild_from_type_v2", "torch.Size"),
        *("torch.FloatStorage", "torch.storage.UntypedStorage", "torch.float8_e4m3fn", "torch.bits8", "torch.device"),
        *("torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_qtensor", "torch.QUInt8Storage"),
        *("argparse.Namespace", "pathlib.PosixPath", "copyreg._reconstructor", "builtins.object", "_codecs.encode"),
        *("numpy.dtype", "numpy._core.multiarray._reconstruct", "numpy._core.multiarray.scalar", "numpy.ndarray"),
        *("omegaconf.dictconfig.DictConfig", "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
        *("torch.nn.modules.container.ParameterDict", "my.module.Thing", "builtins.bytearray", "datetime.datetime"),
    )
)  # fmt: skip
SINGLE = tuple(bytes([code]) for code in b"()]}0112.NRQbdeaotlsu\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98")  # fmt: skip


def invented(rng: Random) -> bytes:
    """One instruction, whole."""
    edge = rng.choice(EDGES)
    match rng.randrange(9):
        case 0:
            return rng.choice(NAMES)
        case 1:
            return number(edge if rng.random() < 0.7 else -edge)
        case 2:
            return text(
                rng.choice(
                    ("", "storage", "cpu", "0", "1", "latin1", "state_dict", "little_endian", "\0")
                )
            )
        case 3:
            return rng.choice((b"h", b"q", b"K", b"\x82")) + bytes([rng.randrange(256)])
        case 4:
            return rng.choice((b"j", b"r", b"J", b"\x84", b"B", b"X", b"T")) + struct.pack(
                "<I", edge & 0xFFFFFFFF
            )
        case 5:
            return rng.choice((b"\x8d", b"\x8e", b"\x95", b"\x96")) + struct.pack("<Q", edge)
        case 6:
            return (
                rng.choice(
                    (
                        b"I%d\n",
                        b"L%dL\n",
                        b"F%d\n",
                        b"V%d\n",
                        b"S'%d'\n",
                        b"P%d\n",
                        b"g%d\n",
                        b"p%d\n",
                    )
                )
                % edge
            )
        case 7:
            return tensor("0", [rng.choice(EDGES)], [rng.choice(EDGES)], offset=rng.choice(EDGES))
        case _:
            return rng.choice(SINGLE)


def instructions(program: bytes) -> list[bytes]:
    """Cut a program into instructions; what does not parse stays one piece."""
    starts = []
    try:
        for _, _, at in pickletools.genops(io.BytesIO(program)):
            starts.append(at or 0)  # the part before a broken instruction counts
    except Exception:  # noqa: BLE001  # pickletools raises all kinds on damaged programs
        pass
    ends = [*starts[1:], len(program)]
    return [program[a:b] for a, b in zip(starts or [0], ends, strict=True)]


def mutate_pickle(program: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes:
    """Change one to four instructions."""
    parts = instructions(program)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(parts) + 1) if parts else 0
        match rng.randrange(8):
            case 0:
                del parts[at : at + rng.choice((1, 1, 2, 8))]
            case 1 | 2:
                parts[at:at] = [invented(rng) for _ in range(rng.choice((1, 1, 3)))]
            case 3:
                again = parts[at : at + rng.choice((1, 4, 16))]
                small = sum(map(len, again)) < 500
                parts[at:at] = again * (rng.choice((1, 1, 40)) if small else 1)
            case 4 if parts:
                to = rng.randrange(len(parts))
                parts.insert(to, parts.pop(rng.randrange(len(parts))))
            case 5 if others:
                foreign = instructions(rng.choice(others))
                start = rng.randrange(len(foreign))
                parts[at:at] = foreign[start : start + rng.choice((1, 4, 30))]
            case 6 if at < len(parts):
                parts[at] = mutate_bytes(parts[at], rng)
            case _:
                parts[at : at + 1] = [invented(rng)]
    return b"".join(parts)
