"""A training that was saved and resumed is the training that was never interrupted."""

import errno
import os
import random
import signal
import sys
from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import memcard
from fixtures.training import Toy, state_bits, write_save
from memcard.errors import (
    DiskError,
    IntegrityError,
    LockedError,
    MismatchError,
    UnsupportedError,
    UsageError,
)
from memcard.training import _folder, _writer, checkpointer
from memcard.training.checkpointer import Checkpointer
from memcard.training.keep import Keep
from memcard.training.run_log import lines, read_log, read_run
from memcard.training.saves import OpenSave, name_of, numbered


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(("step", ".step")))


def train(toy, ck, first, last):
    losses = {}
    for step in range(first, last + 1):
        losses[step] = toy.step() + random.random() + np.random.rand()
        ck.step(step, {"loss": losses[step]})
    return losses


def reseed():
    random.seed(1)
    np.random.seed(1)


def interrupted(folder, make, at=5, end=9):
    """Train to the end at once and in two parts; return both results."""
    reseed()
    whole = make()
    with whole.checkpointer(folder / "whole", every=100) as ck:
        losses = train(whole, ck, 1, end)
    reseed()
    first = make()
    with first.checkpointer(folder / "parts", every=at) as ck:
        train(first, ck, 1, at)
    second = make(seed=99)
    torch.rand(7), np.random.rand(), random.random()
    with second.checkpointer(folder / "parts", every=100) as ck:
        assert ck.resume() == at
        later = train(second, ck, at + 1, end)
    return (whole.bits(), losses), (
        second.bits(),
        {k: v for k, v in losses.items() if k <= at} | later,
    )


OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
    "adamw": (torch.optim.AdamW, {}),
    "foreach": (torch.optim.AdamW, {"foreach": True}),
    "fused": (torch.optim.AdamW, {"fused": True}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "adafactor": (torch.optim.Adafactor, {}),
    "tensor rate": (torch.optim.AdamW, {"lr": torch.tensor(0.01), "foreach": False}),
    "rprop": (torch.optim.Rprop, {}),
    "nadam": (torch.optim.NAdam, {}),
    "adagrad": (torch.optim.Adagrad, {}),
    "lbfgs like state": (torch.optim.ASGD, {}),
}


@pytest.mark.parametrize(("optimizer", "options"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, optimizer, options):
    def make(seed=0):
        fresh = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        return Toy(optimizer, seed=seed, **fresh)

    uninterrupted, resumed = interrupted(tmp_path, make)

    assert resumed == uninterrupted


def test_a_resume_into_a_warm_optimizer_uses_its_memory(tmp_path):
    toy = Toy()
    with toy.checkpointer(tmp_path, every=1) as ck:
        train(toy, ck, 1, 2)
    saved = toy.bits()
    train(toy, Toy().checkpointer(tmp_path / "other"), 1, 1)
    moments = [s["exp_avg"].data_ptr() for s in toy.optimizer.state.values()]
    with toy.checkpointer(tmp_path) as ck:
        ck.resume()

    assert toy.bits() == saved
    assert [s["exp_avg"].data_ptr() for s in toy.optimizer.state.values()] == moments


def test_a_first_save_before_the_first_update_has_an_empty_optimizer(tmp_path):
    toy, other = Toy(), Toy(seed=4)
    with toy.checkpointer(tmp_path) as ck:
        ck.save(1)
    with other.checkpointer(tmp_path) as ck:
        ck.resume()

    assert other.bits() == toy.bits()


def test_moments_wider_than_their_weights_keep_their_bits(tmp_path):
    def make():
        model = nn.Linear(3, 2).bfloat16()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return model, optimizer

    model, optimizer = make()
    moment = torch.randn(2, 3) / 3
    optimizer.state[model.weight] = {
        "exp_avg": moment,
        "step": 3,
        "parts": [torch.ones(2).double() / 3],
    }
    with Checkpointer(tmp_path, model=model, optimizer=optimizer, signals=False) as ck:
        ck.save(1)
    model, optimizer = make()
    with Checkpointer(tmp_path, model=model, optimizer=optimizer, signals=False) as ck:
        ck.resume()

    assert torch.equal(optimizer.state[model.weight]["exp_avg"], moment)
    assert optimizer.state[model.weight]["step"] == 3


def groups_of(model):
    return [
        {"params": [model[0].weight, model[2].weight], "lr": 0.1},
        {"params": [model[0].bias, model[2].bias]},
    ]


def test_several_groups_come_back_even_if_a_group_is_in_another_order(tmp_path):
    toy = Toy()
    toy.optimizer = torch.optim.AdamW(groups_of(toy.model), lr=0.2)
    toy.scheduler = torch.optim.lr_scheduler.StepLR(toy.optimizer, 2)
    with toy.checkpointer(tmp_path, every=1) as ck:
        train(toy, ck, 1, 3)
    other = Toy(seed=5)
    turned = groups_of(other.model)
    turned[0]["params"].reverse()
    other.optimizer = torch.optim.AdamW(turned, lr=0.7)
    other.scheduler = torch.optim.lr_scheduler.StepLR(other.optimizer, 2)
    with other.checkpointer(tmp_path) as ck:
        ck.resume()

    for old, new in zip(toy.model.parameters(), other.model.parameters(), strict=True):
        assert state_bits(toy.optimizer.state[old]) == state_bits(other.optimizer.state[new])
    assert [g["lr"] for g in other.optimizer.param_groups] == [
        g["lr"] for g in toy.optimizer.param_groups
    ]


class Halved:
    def __call__(self, epoch):
        return 0.5**epoch


SCHEDULERS = {
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda e: 0.9**e),
    "callable object": lambda o: torch.optim.lr_scheduler.LambdaLR(o, Halved()),
    "multi step": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 4, 4]),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
    "plateau": torch.optim.lr_scheduler.ReduceLROnPlateau,
    "cyclic": lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.1, cycle_momentum=False),
    "restarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "sequence": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [torch.optim.lr_scheduler.ConstantLR(o), torch.optim.lr_scheduler.ExponentialLR(o, 0.5)],
        [2],
    ),
    "chain": lambda o: torch.optim.lr_scheduler.ChainedScheduler(
        [torch.optim.lr_scheduler.ConstantLR(o)]
    ),
}


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_schedules_of_torch_go_on(tmp_path, make):
    def rates(scheduler, optimizer, count):
        found = []
        for _ in range(count):
            optimizer.step()
            scheduler.step(*([1.0] if "Plateau" in type(scheduler).__name__ else []))
            found.append(optimizer.param_groups[0]["lr"])
        return found

    def made():
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        return optimizer, make(optimizer)

    optimizer, scheduler = made()
    rates(scheduler, optimizer, 3)
    with Checkpointer(tmp_path, optimizer=optimizer, scheduler=scheduler, signals=False) as ck:
        ck.save(3)
    uninterrupted = rates(scheduler, optimizer, 4)
    optimizer, scheduler = made()
    with Checkpointer(tmp_path, optimizer=optimizer, scheduler=scheduler, signals=False) as ck:
        ck.resume()

    assert rates(scheduler, optimizer, 4) == uninterrupted


def test_a_schedule_that_holds_a_function_is_refused_by_its_path(tmp_path):
    toy = Toy()
    toy.scheduler.made_with = lambda: 0
    ck = toy.checkpointer(tmp_path)
    with pytest.raises(UnsupportedError, match=r"scheduler\.made_with.*function"):
        ck.save(1)
    ck.close()

    assert numbered(tmp_path) == []


class Counter:
    def __init__(self, value=0):
        self.value = value

    def state_dict(self):
        return {"value": self.value, "history": [float("nan"), float("-inf")], "pair": (1, b"x")}

    def load_state_dict(self, state):
        assert state["pair"] == (1, b"x")
        assert state["history"][1] == float("-inf")
        self.value = state["value"]


def test_scaler_ema_and_extras_come_back(tmp_path):
    def made(value):
        model = nn.Linear(2, 2)
        return {
            "model": model,
            "ema": memcard.EMA(model, decay=0.5),
            "scaler": torch.amp.GradScaler("cpu", init_scale=value),
            "extra": {"tokens": Counter(value), "seen": Counter(value + 1)},
        }

    old, new = made(4), made(8)
    with torch.no_grad():
        old["model"].weight.add_(1)
    old["ema"].update()
    with Checkpointer(tmp_path, **old, signals=False) as ck:
        ck.save(1)
    with Checkpointer(tmp_path, **new, signals=False) as ck:
        ck.resume()

    assert state_bits(new["ema"].state_dict()) == state_bits(old["ema"].state_dict())
    assert new["scaler"].get_scale() == 4
    assert (new["extra"]["tokens"].value, new["extra"]["seen"].value) == (4, 5)


class Hoarder:
    """Keeps what it is given."""

    def state_dict(self):
        return {"kept": getattr(self, "kept", torch.arange(3.0))}

    def load_state_dict(self, state):
        self.kept = state["kept"]


def test_what_an_object_keeps_of_its_state_is_its_own(tmp_path):
    with Checkpointer(tmp_path, extra=Hoarder(), signals=False) as ck:
        ck.save(1)
    hoarder = Hoarder()
    with Checkpointer(tmp_path, extra=hoarder, signals=False) as ck:
        ck.resume()
    (tmp_path / name_of(1)).write_bytes(bytes(100_000))
    hoarder.kept += 1

    assert hoarder.kept.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.complex64, torch.complex128, torch.int8,
              torch.bool, torch.uint16], ids=str
)  # fmt: skip
def test_buffers_of_every_dtype_come_back(tmp_path, dtype):
    def made(fill):
        model = nn.Module()
        raw = torch.full((6 * dtype.itemsize,), fill, dtype=torch.uint8)
        model.register_buffer("many", raw.view(dtype).reshape(2, 3))
        model.register_buffer("one", raw[: dtype.itemsize].view(dtype).reshape(()))
        model.register_buffer("none", torch.empty(0).to(dtype))
        return model

    old, new = made(1), made(0)
    with Checkpointer(tmp_path, model=old, signals=False) as ck:
        ck.save(1)
    with Checkpointer(tmp_path, model=new, signals=False) as ck:
        ck.resume()

    assert state_bits(new.state_dict()) == state_bits(old.state_dict())


def tied():
    model = nn.Sequential(OrderedDict(a=nn.Linear(4, 4, bias=False), b=nn.Linear(4, 4, bias=False)))
    model.b.weight = model.a.weight
    return model


def test_tied_weights_are_saved_once_and_stay_tied(tmp_path):
    old, new = tied(), tied()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (old, new)]
    with Checkpointer(tmp_path, model=old, optimizer=optimizers[0], signals=False) as ck:
        ck.save(1)
    with OpenSave(tmp_path / name_of(1)) as found:
        assert [n for n in found.file.specs if n.startswith("model")] == ["model.a.weight"]
    with Checkpointer(tmp_path, model=new, optimizer=optimizers[1], signals=False) as ck:
        ck.resume()

    assert torch.equal(new.a.weight, old.a.weight)
    assert new.b.weight is new.a.weight


def test_wrappers_leave_no_trace_in_names(tmp_path):
    plain = nn.Sequential(nn.Linear(2, 2))
    compiled = torch.compile(nn.Sequential(nn.Linear(2, 2)), backend="eager")
    with Checkpointer(tmp_path, model=nn.DataParallel(plain), signals=False) as ck:
        ck.save(1)
    with Checkpointer(tmp_path, model=compiled, signals=False) as ck:
        ck.resume()

    with OpenSave(tmp_path / name_of(1)) as found:
        assert "model.0.weight" in found.file.specs
    assert state_bits(list(compiled.parameters())) == state_bits(list(plain.parameters()))


class Asking(nn.Linear):
    """Has a say in how it is loaded."""

    def get_extra_state(self):
        return {"scale": 0.1, "seen": torch.tensor(3)}

    def set_extra_state(self, state):
        self.loaded = state

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self.asked = True


def test_models_with_code_of_their_own_are_loaded_by_it(tmp_path):
    old, new = nn.Sequential(Asking(2, 2)), nn.Sequential(Asking(2, 2))
    with Checkpointer(tmp_path, model=old, signals=False) as ck:
        ck.save(1)
    with Checkpointer(tmp_path, model=new, signals=False) as ck:
        ck.resume()

    assert torch.equal(new[0].weight, old[0].weight)
    assert new[0].asked
    assert new[0].loaded["scale"] == 0.1


def test_several_models_and_optimizers_by_name(tmp_path):
    def made():
        models = {"unet": nn.Linear(2, 2), "text": nn.Linear(2, 2)}
        optimizers = [
            torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in models.values()
        ]
        return models, optimizers

    models, optimizers = made()
    for model, optimizer in zip(models.values(), optimizers, strict=True):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    with Checkpointer(tmp_path, model=models, optimizer=optimizers, signals=False) as ck:
        ck.save(1)
    others, moved = made()
    with Checkpointer(tmp_path, model=others, optimizer=moved, signals=False) as ck:
        ck.resume()

    with OpenSave(tmp_path / name_of(1)) as found:
        assert "model.unet.weight" in found.file.specs
        assert "optimizer.1.text.weight.momentum_buffer" in found.file.specs
    for name in models:
        assert torch.equal(models[name].weight, others[name].weight)
    assert state_bits([o.state_dict() for o in moved]) == state_bits(
        [o.state_dict() for o in optimizers]
    )


# --- what does not fit


def refused(tmp_path, message, **objects):
    before = state_bits([getattr(o, "state_dict", dict)() for o in objects.values()])
    with (
        Checkpointer(tmp_path, signals=False, **objects) as ck,
        pytest.raises(MismatchError, match=message),
    ):
        ck.resume()
    assert state_bits([getattr(o, "state_dict", dict)() for o in objects.values()]) == before


def test_another_model_is_refused_by_name_and_nothing_is_loaded(tmp_path):
    toy, other = Toy(), Toy(seed=3, width=9)
    with toy.checkpointer(tmp_path) as ck:
        ck.save(1)
    extra = nn.Sequential(*toy.model, nn.Linear(1, 1))
    refused(tmp_path, r"model\.0\.weight is F32 \[9, 9\], in the save it is F32 \[8, 8\]",
            model=other.model, optimizer=other.optimizer, scheduler=other.scheduler)  # fmt: skip
    refused(
        tmp_path,
        r"model\.3\.weight is not in the save",
        model=extra,
        optimizer=toy.optimizer,
        scheduler=toy.scheduler,
    )
    refused(tmp_path, r"model\.2\.weight is not in the model", model=toy.model[:2], optimizer=toy.optimizer,
            scheduler=toy.scheduler)  # fmt: skip
    refused(
        tmp_path,
        r"BF16",
        model=Toy().model.bfloat16(),
        optimizer=toy.optimizer,
        scheduler=toy.scheduler,
    )


def test_objects_that_are_missing_or_too_many_are_refused(tmp_path):
    toy = Toy()
    with toy.checkpointer(tmp_path) as ck:
        ck.save(1)
    refused(
        tmp_path,
        "the save has scheduler, which was not given",
        model=toy.model,
        optimizer=toy.optimizer,
    )
    refused(tmp_path, "ema is not in the save", model=toy.model, optimizer=toy.optimizer, scheduler=toy.scheduler,
            ema=memcard.EMA(toy.model))  # fmt: skip


def test_other_groups_are_refused(tmp_path):
    toy = Toy()
    with toy.checkpointer(tmp_path) as ck:
        ck.save(1)
    two = torch.optim.AdamW(groups_of(toy.model))
    fewer = torch.optim.AdamW(list(toy.model.parameters())[:3])
    refused(
        tmp_path,
        "2 parameter groups, the save has 1",
        model=toy.model,
        optimizer=two,
        scheduler=toy.scheduler,
    )
    refused(tmp_path, r"lacks 2\.bias", model=toy.model, optimizer=fewer, scheduler=toy.scheduler)


def test_what_has_no_state_is_refused_at_once(tmp_path):
    with pytest.raises(
        UsageError,
        match=r"extra\.tokens is a int.*scheduler is a|scheduler is a.*extra\.tokens is a int",
    ):
        Checkpointer(tmp_path / "a", scheduler=object(), extra={"tokens": 3})
    assert not (tmp_path / "a").exists()


# --- damage


def damage(path, at=-3):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 4
    path.write_bytes(raw)


@pytest.mark.parametrize("at", [-3, 20, 3], ids=["tensor", "header", "length"])
def test_a_damaged_save_is_set_aside_and_the_one_before_used(tmp_path, capsys, at):
    toy = Toy()
    with toy.checkpointer(tmp_path, every=1) as ck:
        train(toy, ck, 1, 2)
        kept = toy.bits()
        train(toy, ck, 3, 3)
    damage(tmp_path / name_of(3), at)
    with toy.checkpointer(tmp_path, every=1) as ck:
        assert ck.resume() == 2
        assert list(ck.resumed.skipped) == [tmp_path / name_of(3)]
        assert toy.bits() == kept
        train(toy, ck, 3, 3)

    said = capsys.readouterr().err
    assert "NOT USED" in said
    assert "after step 2" in said
    assert names(tmp_path) == [name_of(i) for i in (1, 2, 3)] + [name_of(3) + ".damaged"]
    with OpenSave(tmp_path / name_of(3)) as found:
        found.verify()


def test_if_all_are_damaged_it_says_so_and_begins_nothing(tmp_path):
    toy = Toy()
    with toy.checkpointer(tmp_path, every=1) as ck:
        train(toy, ck, 1, 2)
    for step in (1, 2):
        damage(tmp_path / name_of(step))
    with (
        toy.checkpointer(tmp_path) as ck,
        pytest.raises(IntegrityError, match="none of its 2 saves"),
    ):
        ck.resume()

    assert names(tmp_path) == [name_of(1), name_of(2)]


def test_a_foreign_file_with_the_name_of_a_save_is_not_touched(tmp_path):
    write_save(tmp_path, 1)
    (tmp_path / name_of(7)).write_bytes(
        (tmp_path / name_of(1)).read_bytes().replace(b"memcard.training", b"memcard.tra1n1ng")
    )
    model = nn.Linear(1, 1)
    with Checkpointer(tmp_path, model=model, signals=False) as ck, pytest.raises(UnsupportedError):
        ck.resume()
    assert names(tmp_path) == [name_of(1), name_of(7)]


# --- when, and what stays


def test_every_so_many_steps_also_when_steps_are_skipped(tmp_path):
    toy = Toy()
    with toy.checkpointer(tmp_path, every=5, keep=Keep(last=9)) as ck:
        saved = [step for step in (1, 2, 6, 7, 11, 12, 15) if toy.step() and ck.step(step)]
    assert saved == [6, 11, 15]


def test_time_decides_without_every(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("memcard.training._pace.time.monotonic", lambda: clock[0])
    toy = Toy()
    saved = []
    with toy.checkpointer(tmp_path, keep=Keep(last=50)) as ck:
        for step in range(1, 40):
            clock[0] += 0.3
            while not (ck._snapshot.is_ready or step == 1):
                pass
            toy.step()
            if ck.step(step):
                saved.append(step)
                ck._collect(wait=True)
                ck._pace.took(0.03)  # a save every 3 seconds
    gaps = {b - a for a, b in pairwise(saved)}
    assert saved[0] == 2  # at the first step the buffer is made
    assert gaps <= {10, 11}  # of 0.3 seconds each


def test_the_pace_is_a_hundredth_and_has_limits():
    pace = checkpointer.Pace(None)
    pace.took(0.5)
    assert pace.interval == 50
    pace.took(0.0001)
    assert pace.interval == 1
    pace.took(1000)
    assert pace.interval == 900


def test_what_a_rule_wants_is_saved_and_kept(tmp_path):
    toy = Toy()
    losses = [9, 3, 8, 2, 7, 6]
    with toy.checkpointer(tmp_path, every=100, keep=Keep(last=1, best=2, by="loss", every=5)) as ck:
        for step, loss in enumerate(losses, 1):
            toy.step()
            ck.step(step, {"loss": loss})
        ck.save(6)
    assert [step for step, _ in numbered(tmp_path)] == [2, 4, 5, 6]


def test_only_saves_of_this_run_are_removed(tmp_path):
    write_save(tmp_path, 3, run="f" * 16)
    (tmp_path / "run.json").unlink(missing_ok=True)
    (tmp_path / "step-mine.safetensors").touch()
    model = nn.Linear(2, 2)
    with Checkpointer(tmp_path, model=model, every=1, keep=Keep(last=1), signals=False) as ck:
        ck._run.run = type(ck._run.run).new("other")
        ck.resumed = checkpointer.Resumed(0)
        for step in (4, 5, 6):
            ck.step(step)
    assert names(tmp_path) == [name_of(3), name_of(6), "step-mine.safetensors"]


def test_the_old_one_goes_only_after_the_new_one_is_there(tmp_path, monkeypatch):
    seen = []
    toy = Toy()
    real = _folder.RunFolder.thin_out
    monkeypatch.setattr(
        _folder.RunFolder,
        "thin_out",
        lambda self, hook: (seen.append(names(tmp_path)), real(self, hook))[1],
    )
    with toy.checkpointer(tmp_path, every=1, keep=Keep(last=1)) as ck:
        train(toy, ck, 1, 3)
    assert seen == [[name_of(1)], [name_of(1), name_of(2)], [name_of(2), name_of(3)]]
    assert names(tmp_path) == [name_of(3)]


def test_a_step_is_saved_once(tmp_path):
    toy = Toy()
    with toy.checkpointer(tmp_path, every=1) as ck:
        train(toy, ck, 1, 2)
        before = (tmp_path / name_of(1)).stat().st_mtime_ns
        ck.save(wait=True)
        ck.save(2, wait=True)
    assert [step for step, _ in numbered(tmp_path)] == [1, 2]
    assert (tmp_path / name_of(1)).stat().st_mtime_ns == before


# --- how not to use it


def test_a_folder_with_saves_wants_resume_or_another_name(tmp_path):
    toy = Toy()
    with toy.checkpointer(tmp_path, every=1) as ck:
        train(toy, ck, 1, 1)
    with toy.checkpointer(tmp_path) as ck, pytest.raises(UsageError, match=r"Call resume\(\)"):
        ck.step(1)


def test_steps_go_up(tmp_path):
    toy = Toy()
    with toy.checkpointer(tmp_path) as ck:
        ck.step(4)
        with pytest.raises(UsageError, match="step 4 comes after step 4"):
            ck.step(4)
        with pytest.raises(UsageError, match="before the first step"):
            ck.resume()
    with pytest.raises(UsageError, match="closed"):
        ck.step(5)


def test_a_folder_belongs_to_one_process(tmp_path):
    toy = Toy()
    with toy.checkpointer(tmp_path):
        with pytest.raises(LockedError, match="another Checkpointer"):
            toy.checkpointer(tmp_path)
        pid = os.fork()
        if pid == 0:
            _folder._HERE.clear()
            try:
                toy.checkpointer(tmp_path)
            except LockedError as error:
                os._exit(0 if "another process trains" in str(error) else 2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    toy.checkpointer(tmp_path).close()


def test_a_data_worker_that_lives_on_does_not_hold_the_folder(tmp_path):
    toy = Toy()
    ready, gate = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        toy.checkpointer(tmp_path)
        if os.fork() == 0:
            os.write(ready[1], b"x")
            os.read(gate[0], 1)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    os.read(ready[0], 1)
    try:
        toy.checkpointer(tmp_path).close()
    finally:
        os.write(gate[1], b"x")


# --- disks


class FullDisk:
    """Refuses writes of saves as often as wanted."""

    def __init__(self, monkeypatch, times, error=errno.ENOSPC):
        self.times, real = times, _writer.write

        def write(job):
            if self.times > 0:
                self.times -= 1
                raise DiskError(error, f"{job.path}: {os.strerror(error)}.")
            return real(job)

        monkeypatch.setattr(_writer, "write", write)


def test_a_full_disk_is_told_and_the_training_goes_on(tmp_path, monkeypatch, capsys):
    toy = Toy()
    with toy.checkpointer(tmp_path, every=1) as ck:
        train(toy, ck, 1, 1)
        ck.save(wait=True)
        FullDisk(monkeypatch, 2)
        train(toy, ck, 2, 4)
    assert [step for step, _ in numbered(tmp_path)] == [1, 4]
    assert "SAVE FAILED (1 of 3" in capsys.readouterr().err
    assert [line for line in lines(tmp_path) if line.get("event") == "failed"]


def test_three_refusals_in_a_row_end_it(tmp_path, monkeypatch):
    toy = Toy()
    FullDisk(monkeypatch, 3)
    ck = toy.checkpointer(tmp_path, every=1)
    with pytest.raises(DiskError, match="No space left"):
        train(toy, ck, 1, 9)
    ck.close()


def test_a_refusal_at_the_end_is_an_error(tmp_path, monkeypatch):
    toy = Toy()
    FullDisk(monkeypatch, 1)
    ck = toy.checkpointer(tmp_path)
    ck.save(1)
    with pytest.raises(DiskError):
        ck.close()
    ck.close()


def test_other_errors_of_the_background_are_raised_at_the_next_step(tmp_path, monkeypatch):
    toy = Toy()
    monkeypatch.setattr(_writer, "write", lambda job: 1 / 0)
    ck = toy.checkpointer(tmp_path, every=1)
    train(toy, ck, 1, 1)
    with pytest.raises(ZeroDivisionError):
        ck.step(2)
    ck.close()


def test_too_little_room_is_told_before_anything_is_written(tmp_path, monkeypatch, capsys):
    toy = Toy()
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(_folder.shutil, "disk_usage", lambda path: usage)
    ck = toy.checkpointer(tmp_path, every=1)
    train(toy, ck, 1, 1)
    assert "a save takes" in capsys.readouterr().err
    usage.free = 20_000  # enough for one, not for three and the next
    train(toy, ck, 2, 2)
    ck.close()
    assert "that are to be kept" in capsys.readouterr().err
    assert names(tmp_path) == [name_of(2)]


# --- signals


@pytest.mark.parametrize(
    ("name", "raised"),
    [("SIGTERM", SystemExit), ("SIGINT", KeyboardInterrupt), ("SIGUSR1", SystemExit)],
)
def test_a_signal_saves_this_step_and_ends(tmp_path, name, raised):
    toy = Toy()
    ck = toy.checkpointer(tmp_path, every=100, signals=True)
    ck.step(1)
    signal.raise_signal(getattr(signal, name))
    toy.step()
    with pytest.raises(raised) as caught:
        ck.step(2)

    if raised is SystemExit:
        assert caught.value.code == 128 + getattr(signal, name)
    with OpenSave(tmp_path / name_of(2)) as found:
        found.verify()
    toy.checkpointer(tmp_path).close()  # the folder is free again


# --- hooks and records


def test_hooks_hear_of_saves_and_cannot_stop_a_training(tmp_path, capsys):
    saved, gone = [], []

    def on_saved(save):
        saved.append((save.step, save.size == save.path.stat().st_size))
        raise ValueError("the library is away.")

    toy = Toy()
    hooks = {"on_saved": on_saved, "on_removed": lambda save: gone.append(save.step)}
    with toy.checkpointer(tmp_path, every=1, keep=Keep(last=1), **hooks) as ck:
        train(toy, ck, 1, 3)

    assert saved == [(1, True), (2, True), (3, True)]
    assert gone == [1, 2]
    assert capsys.readouterr().err.count("the library is away.") == 1


def test_the_run_is_on_record(tmp_path):
    toy = Toy()
    with toy.checkpointer(tmp_path / "neon", every=2, settings={"lr": 0.1}) as ck:
        losses = train(toy, ck, 1, 4)
    run = read_run(tmp_path / "neon")
    with toy.checkpointer(tmp_path / "neon", settings={"batch": 4}) as ck:
        ck.resume()

    again = read_run(tmp_path / "neon")
    assert (run.name, run.settings) == ("neon", {"lr": 0.1})
    assert (again.id, again.settings) == (run.id, {"lr": 0.1, "batch": 4})
    assert [point.metrics["loss"] for point in read_log(tmp_path / "neon")] == list(losses.values())
    with OpenSave(tmp_path / "neon" / name_of(4)) as found:
        assert found.save.run == run.id
        assert found.save.metrics == {"loss": losses[4]}
        assert found.save.made_by["torch"] == torch.__version__


def test_a_lost_record_is_made_anew_from_the_saves(tmp_path):
    toy = Toy()
    with toy.checkpointer(tmp_path, every=1) as ck:
        train(toy, ck, 1, 1)
    run = read_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with toy.checkpointer(tmp_path):
        assert read_run(tmp_path).id == run.id


def test_an_error_in_the_training_is_not_hidden_by_one_of_the_save(tmp_path, monkeypatch, capsys):
    toy = Toy()
    FullDisk(monkeypatch, 1)

    def breaks():
        with toy.checkpointer(tmp_path, every=1) as ck:
            train(toy, ck, 1, 1)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        breaks()
    assert "No space left" in capsys.readouterr().err


def test_nothing_is_pickled(tmp_path, monkeypatch):
    import pickle

    def refuse(*args, **kwargs):
        raise AssertionError("pickle")

    for name in ("dump", "dumps", "load", "loads"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "save", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    toy = Toy()
    with toy.checkpointer(tmp_path, every=1, ema=memcard.EMA(toy.model)) as ck:
        train(toy, ck, 1, 1)
    with toy.checkpointer(tmp_path, ema=memcard.EMA(toy.model)) as ck:
        assert ck.resume() == 1
    assert "numpy" in sys.modules


# --- the loop


class Walk(torch.utils.data.Dataset):
    def __len__(self):
        return 13

    def __getitem__(self, index):
        return torch.tensor([float(index), random.random(), torch.rand(()).item()])


def walked(folder, steps, **options):
    """Train by ``loop``; return what each step saw, of data and of random numbers."""
    reseed()
    toy = Toy()
    loader = torch.utils.data.DataLoader(Walk(), batch_size=4, shuffle=True)
    seen = {}
    with toy.checkpointer(folder, every=1, **options) as ck:
        start = ck.resume()
        for step, batch in ck.loop(loader, steps=steps):
            toy.step()
            seen[step] = (batch.tolist(), random.random(), ck.epoch, ck.ends_epoch)
            ck.step(step)
    assert next(iter(seen)) == start + 1
    return seen, toy.bits()


def test_the_loop_goes_on_in_the_middle_of_an_epoch(tmp_path):
    whole, end = walked(tmp_path / "whole", 11)
    first, _ = walked(tmp_path / "parts", 6)
    torch.rand(5)
    later, resumed = walked(tmp_path / "parts", 11)

    assert first | later == whole
    assert resumed == end
    assert [step for step, (_, _, _, ends) in whole.items() if ends] == [4, 8]
    assert [epoch for _, _, epoch, _ in whole.values()] == [0] * 4 + [1] * 4 + [2] * 3


def test_the_loop_ends_by_epochs_and_goes_on_with_the_same_loader(tmp_path):
    toy = Toy()
    loader = torch.utils.data.DataLoader(Walk(), batch_size=4)
    with toy.checkpointer(tmp_path) as ck:
        steps = []
        for epochs in (1, 2):
            for step, _ in ck.loop(loader, epochs=epochs):
                steps.append(step)
                ck.step(step)
    assert steps == list(range(1, 9))


def test_a_position_of_the_loop_is_not_lost_by_iterating_otherwise(tmp_path):
    walked(tmp_path, 3)
    toy = Toy()
    with toy.checkpointer(tmp_path) as ck:
        ck.resume()
        with pytest.raises(UsageError, match=r"loop\(loader\)"):
            ck.step(4)


def test_steps_count_from_the_beginning_of_the_training(tmp_path):
    walked(tmp_path, 3)
    toy = Toy()
    loader = torch.utils.data.DataLoader(Walk(), batch_size=4, shuffle=True)
    with toy.checkpointer(tmp_path) as ck:
        ck.resume()
        assert list(ck.loop(loader, steps=3)) == []
