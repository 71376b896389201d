"""Codecs on real fine-tunes: memcard's, zstd, XOR, and other programs, side by side.

    python benchmarks/codecs.py [--peers PYTHON] [--pair NAME BASE.safetensors TUNED.safetensors]...

The pairs are made here: the UNet of the starter, trained further with AdamW on pictures it painted, in
float32, at two learning rates; 5 million values, all of them trained, then cast to float16 and bfloat16. With
``--pair`` float32 files are taken in their place: matrices of equal name and shape, at most 8 Mi values. For z4ai
and ZipNN name an interpreter that has them (``pip install z4ai zipnn``). Speeds are GB of the original per
second of one processor; what was decoded is compared, a difference ends the run. ``entropy`` is the order-0
entropy of the difference given the base's exponent. Most differences of float32 occur once or twice, and a
sample of them seems to hold less than it does (18.2 bits of 19.1); so it is taken of a quarter, a half and the
whole, and carried on from there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import zstandard

from memcard.codecs import CODECS
from memcard.core.checkpoint import Checkpoint
from memcard.formats import open_file

if TYPE_CHECKING:
    import torch

DTYPES = {"fp32": np.dtype("f4"), "fp16": np.dtype("f2"), "bf16": np.dtype(ml_dtypes.bfloat16)}
WORDS = {2: "<u2", 4: "<u4"}
BLOCK = 1 << 20  # values; as in packs
MOST = 8 << 20  # values of a pair
REPEATS = 3
RATES, STEPS = (1e-5, 5e-5), 40

PEER = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
name, base, new, dtype = sys.argv[1:]
base, new = open(base, "rb").read(), open(new, "rb").read()
wide = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[dtype]
if name == "z4ai":
    import z4ai
    def encode(): return z4ai.compress_delta(new, base, dtype=wide, threads=1)
    def decode(p): return z4ai.decompress_delta(p, base)
else:
    import numpy as np, zipnn
    if name == "XOR, ZipNN":
        source = (np.frombuffer(new, "u1") ^ np.frombuffer(base, "u1")).tobytes()
    else:
        source = new
    tool = zipnn.ZipNN(input_format="byte", bytearray_dtype=wide, threads=1)
    def encode(): return tool.compress(bytearray(source))
    def decode(p): return bytes(tool.decompress(p))
    new = source
times = [9e9, 9e9]
for _ in range(REPEATS):
    t = time.process_time(); packed = encode(); times[0] = min(times[0], time.process_time() - t)
    t = time.process_time(); out = decode(packed); times[1] = min(times[1], time.process_time() - t)
assert bytes(out) == bytes(new)
print(json.dumps([len(packed), *times]))
""".replace("REPEATS", str(REPEATS))


def main() -> None:
    """Print a table for each pair and dtype."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", help="an interpreter with z4ai and zipnn")
    parser.add_argument(
        "--pair", nargs=3, action="append", default=[], metavar=("NAME", "BASE", "TUNED")
    )
    chosen = parser.parse_args()
    print("| values | codec | ratio | bits/value | above entropy | encode GB/s | decode GB/s |")
    print("|---|---|---|---|---|---|---|")
    for name, base, new in pairs(chosen.pair):
        for dtype, kind in DTYPES.items():
            table(f"{name}, {dtype}", base.astype(kind), new.astype(kind), dtype, chosen.peers)


def pairs(given: list[list[str]]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the name, the base's values and the new ones, float32."""
    yield from trained() if not given else ()
    for name, base, new in given:
        with closing(open_file(Path(base))) as old, closing(open_file(Path(new))) as tuned:
            names = [
                n for n, s in old.specs.items() if len(s.shape) > 1 and tuned.specs.get(n) == s
            ]
            first, second = (matrices(c, names)[:MOST] for c in (old, tuned))
        yield name, first, second


def matrices(checkpoint: Checkpoint, names: list[str]) -> np.ndarray:
    """Return the values of float32 tensors in one row."""
    row = np.empty(sum(checkpoint.specs[n].elements for n in names), "<f4")
    into, at = memoryview(row).cast("B"), 0
    for name in names:
        size = checkpoint.specs[name].nbytes
        checkpoint.readinto(name, into[at : at + size])
        at += size
    return row


def trained() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Train the starter's UNet further: v-prediction on pictures it painted, without a prompt."""
    import torch

    from memcard.generation.load import load
    from memcard.generation.parts import assemble
    from memcard.jobs.resolve import resolve

    torch.manual_seed(0)
    torch.set_num_threads(1)
    with closing(resolve("starter")) as checkpoint:
        unet = load(assemble(checkpoint, "starter"), dtype="F32").denoiser
    start = {name: value.clone() for name, value in unet.state_dict().items()}
    latents = painted(unet.requires_grad_(requires_grad=True))
    words = torch.zeros(8, 4, unet.config.cross_attention_dim)
    base = flat(start)
    for rate in RATES:
        unet.load_state_dict(start)
        step = torch.optim.AdamW(unet.parameters(), lr=rate)
        for _ in range(STEPS):
            clean = latents[torch.randint(len(latents), (8,))]
            angle = torch.rand(8, 1, 1, 1) * torch.pi / 2
            noise = torch.randn_like(clean)
            noisy = angle.cos() * clean + angle.sin() * noise
            when = (angle.flatten() / torch.pi * 2 * 999).long()
            guess = unet(noisy, when, encoder_hidden_states=words).sample
            loss = torch.nn.functional.mse_loss(guess, angle.cos() * noise - angle.sin() * clean)
            step.zero_grad()
            loss.backward()
            step.step()
        yield f"UNet, AdamW {rate:g}, {STEPS} steps", base, flat(unet.state_dict())


def painted(unet: torch.nn.Module, count: int = 64, steps: int = 12) -> torch.Tensor:
    """Return latents of pictures the UNet paints without a prompt."""
    import torch

    angles = torch.linspace(torch.pi / 2, 0, steps + 1)
    words = torch.zeros(count, 4, unet.config.cross_attention_dim)
    x = torch.randn(count, unet.config.in_channels, *[unet.config.sample_size] * 2)
    with torch.no_grad():
        for now, then in pairwise(angles):
            when = torch.full((count,), int(now / torch.pi * 2 * 999))
            v = unet(x, when, encoder_hidden_states=words).sample
            clean, noise = now.cos() * x - now.sin() * v, now.sin() * x + now.cos() * v
            x = then.cos() * clean + then.sin() * noise
    return x


def flat(state: dict) -> np.ndarray:
    """Return all values of a model in one row."""
    return np.concatenate([value.detach().numpy().ravel() for value in state.values()])


def table(title: str, base: np.ndarray, new: np.ndarray, dtype: str, peers: str | None) -> None:
    """Print the rows of one pair."""
    limit, size = entropy(new, base), new.nbytes
    print(f"| {title} | entropy | {8 * new.itemsize / limit:.2f} | {limit:.3f} | | | |")
    rows = [(name, lambda n=name: ours(n, base, new)) for name in CODECS if name != "raw"]
    rows += [("zstd -3", lambda: zstd(new)), ("XOR, planes_zstd", lambda: xor(base, new))]
    rows += [
        (n, lambda n=n: peer(peers, n, base, new, dtype))
        for n in ("z4ai", "XOR, ZipNN", "ZipNN")
        if peers
    ]
    for name, measure in rows:
        stored, encode, decode = measure()
        bits = 8 * stored / new.size
        print(
            f"| | {name} | {size / stored:.2f} | {bits:.3f} | {100 * (bits / limit - 1):+.1f} % "
            f"| {size / encode / 1e9:.2f} | {size / decode / 1e9:.2f} |",
            flush=True,
        )


def entropy(new: np.ndarray, base: np.ndarray) -> float:
    """Return bits per value of the difference, given the base's exponent, for a sample without end."""
    order = np.random.default_rng(0).permutation(new.size)
    new, base = new[order], base[order]
    a, b, c = (counted(new[: new.size // n], base[: new.size // n]) for n in (4, 2, 1))
    if c - b < 0.002:
        return c
    return c + (c - b) * (c - b) / (2 * b - a - c)  # what is gained shrinks by one factor: Aitken


def counted(new: np.ndarray, base: np.ndarray) -> float:
    """Return the same as it is counted in this sample: too little if most values occur once."""
    width = 8 * new.itemsize
    one, two = (v.view(WORDS[v.itemsize]).astype(np.int64) for v in (new, base))
    top = 1 << (width - 1)
    apart = np.where(one >= top, top - one, one) - np.where(two >= top, top - two, two)
    exponent = np.frexp(base.astype(np.float64))[1].astype(np.int64)

    def bits(numbers: np.ndarray) -> float:
        share = np.unique(numbers, return_counts=True)[1] / new.size
        return float(-(share * np.log2(share)).sum())

    return bits((exponent << 40) + apart) - bits(exponent)


def timed(
    encode: Callable[[memoryview, memoryview], bytes],
    decode: Callable[[memoryview, memoryview, memoryview], None],
    base: np.ndarray,
    new: np.ndarray,
) -> tuple[int, float, float]:
    """Return packed bytes, CPU seconds to encode and to decode, best of a few."""
    old, values = (memoryview(v.view(np.uint8)) for v in (base, new))
    step, best = BLOCK * new.itemsize, [9e9, 9e9]
    for _ in range(REPEATS):
        packed, spent = [], [0.0, 0.0]
        for at in range(0, len(values), step):
            begin = time.process_time()
            packed.append(encode(values[at : at + step], old[at : at + step]))
            spent[0] += time.process_time() - begin
        for i, at in enumerate(range(0, len(values), step)):
            out = memoryview(bytearray(len(values[at : at + step])))
            begin = time.process_time()
            decode(memoryview(packed[i]), out, old[at : at + step])
            spent[1] += time.process_time() - begin
            if out != values[at : at + step]:
                sys.exit("what was decoded is not what was encoded")
        best = [min(a, b) for a, b in zip(best, spent, strict=True)]
    return sum(map(len, packed)), *best


def ours(name: str, base: np.ndarray, new: np.ndarray) -> tuple[int, float, float]:
    """Measure a codec of memcard."""
    codec, item = CODECS[name], new.itemsize
    return timed(
        lambda v, b: codec.encode(v, item, b if codec.needs_base else None),
        lambda p, out, b: codec.decode(p, out, item, b if codec.needs_base else None),
        base,
        new,
    )


def zstd(new: np.ndarray) -> tuple[int, float, float]:
    """Measure zstd on the values as they lie."""
    press, release = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()

    def decode(packed: memoryview, out: memoryview, _: memoryview) -> None:
        out[:] = release.decompress(packed)

    return timed(lambda v, _: press.compress(v), decode, new, new)


def xor(base: np.ndarray, new: np.ndarray) -> tuple[int, float, float]:
    """Measure XOR with the base, then byte planes and zstd."""
    codec, item = CODECS["planes_zstd"], new.itemsize

    def both(a: memoryview, b: memoryview) -> memoryview:
        return memoryview(np.bitwise_xor(np.frombuffer(a, "u1"), np.frombuffer(b, "u1")))

    def decode(packed: memoryview, out: memoryview, there: memoryview) -> None:
        codec.decode(packed, out, item)
        out[:] = both(out, there)

    return timed(lambda v, b: codec.encode(both(v, b), item), decode, base, new)


def peer(
    python: str, name: str, base: np.ndarray, new: np.ndarray, dtype: str
) -> tuple[int, float, float]:
    """Measure another program in its own interpreter, one thread."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / "base", Path(folder) / "new"]
        for path, values in zip(files, (base, new), strict=True):
            path.write_bytes(values.tobytes())
        command = [python, "-c", PEER, name, *map(str, files), dtype]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr[-500:]}")
    stored, encode, decode = json.loads(done.stdout.splitlines()[-1])
    return stored, encode, decode


if __name__ == "__main__":
    main()
