"""Processes that train, die and go on; each is forked from one that has imported torch already."""

import faulthandler
import gc
import multiprocessing
import os
import pkgutil
import sys
import warnings
from pathlib import Path

import torch

import memcard.architectures
import memcard.cards
import memcard.formats

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "torch", "torch._dynamo", "torch.utils.data", "memcard.training.checkpointer", "html.entities",
        *(
            module.name
            for shelf in (memcard.architectures, memcard.cards, memcard.formats)
            for module in pkgutil.iter_modules(shelf.__path__, f"{shelf.__name__}.")
        ),
    ]
)  # fmt: skip
PATIENCE = 120  # seconds for one life


def live(folder, *, world=1, script="train", kill_after=None, **options):
    """Train in a folder until the end or death; return the exit codes of the ranks."""
    meet = Path(folder, f"meet-{len(list(Path(folder).iterdir()))}").absolute()
    ranks = [
        CONTEXT.Process(target=_train, args=(str(folder), rank, world, str(meet), script, options))
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    if kill_after is not None:
        ranks[0].join(kill_after)
        for process in ranks:
            process.kill()
    for process in ranks:
        process.join(PATIENCE)
        if process.exitcode != 0:  # the others wait for it in vain
            for other in ranks:
                other.kill()
    return [process.exitcode for process in ranks]


def _train(folder, rank, world, meet, script, options):
    gc.freeze()  # else each collection walks through, and copies, all that was imported: 0.3 s
    # the default on Linux up to Python 3.13, which the server of forks would replace
    multiprocessing.set_start_method("fork", force=True)
    faulthandler.dump_traceback_later(PATIENCE - 20)  # where it hangs, if it does
    os.environ["MEMCARD_HOME"] = str(Path(folder, "home"))
    if world > 1:
        # what torchrun sets, and the trainers look for
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500, "TORCHELASTIC_RUN_ID": "test"}
        names |= {"OMP_NUM_THREADS": 1}
        os.environ.update({name: str(value) for name, value in names.items()})
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{meet}", rank=rank, world_size=world
        )
        _keep_models()
    # nothing is inexact without a warning, so there is to be none
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", ".*(set_vital|lr_scheduler.step|device_id|barrier|LeafSpec)")
    path = Path(__file__).parent / script  # or the script's own folder, if that is absolute
    sys.path.insert(0, str(path.parent))
    __import__(path.stem).run(folder, **options)
    if world > 1:  # all is written
        sys.stderr.flush()
        os._exit(0)


def _keep_models():
    """Keep every DDP model until the process ends.

    torch 2.13 may wait for itself when one goes after its process group: the group's end waits, holding the
    interpreter, for a thread that needs the interpreter to let go of the last sum of gradients.
    """
    kind = torch.nn.parallel.DistributedDataParallel
    made, kept = kind.__init__, []

    def begin(self, *args, **options):
        kept.append(self)
        made(self, *args, **options)

    kind.__init__ = begin


def losses(folder, world=1):
    """Return each loss that was ever computed in a folder: (rank, step, loss in hexadecimal)."""
    return [
        (rank, *line.split())
        for rank in range(world)
        for line in Path(folder, f"losses-{rank}.txt").read_text().splitlines()
    ]


def finals(folder, world=1):
    """Return the digests of the final state of each rank."""
    return [Path(folder, f"final-{rank}.json").read_text() for rank in range(world)]
