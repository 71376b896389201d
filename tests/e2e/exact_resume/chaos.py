"""A small training for ckpt-chaos: ``python chaos.py FOLDER`` trains, or goes on.

Says the step it goes on from, and writes the digest of the final weights, average and moments.
"""

import random
import sys
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import memcard


class Images(Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, index):
        return torch.full((8,), index / 24) + 0.1 * torch.randn(8) * random.random()


def main(folder):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.1), nn.ReLU(), nn.Linear(16, 8))
    optimizer = torch.optim.AdamW(model.parameters())
    ema = memcard.EMA(model, 0.9)
    ck = memcard.Checkpointer(
        folder / "run", model=model, optimizer=optimizer, ema=ema, every=4,
        keep=memcard.Keep(last=9), library=False,
    )  # fmt: skip
    print("resumed at step", ck.resume(), flush=True)
    for step, images in ck.loop(DataLoader(Images(), 4, shuffle=True), steps=12):
        noise = torch.randn_like(images) * np.random.rand()
        loss = nn.functional.mse_loss(model(images + noise), noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update()
        ck.step(step)
    ck.close()
    digest = blake2b()
    moments = [t for state in optimizer.state.values() for t in state.values()]
    averages = [v for v in ema.state_dict().values() if isinstance(v, torch.Tensor)]
    for tensor in [*model.state_dict().values(), *moments, *averages]:
        digest.update(tensor.detach().numpy().tobytes())
    (folder / "final.txt").write_text(digest.hexdigest())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
