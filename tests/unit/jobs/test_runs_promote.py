"""A save becomes a checkpoint: the model's own names and bits, raw or averaged, with where it comes from."""

import json

import pytest
import torch

import memcard
from fixtures import small
from fixtures.runs import run_folder
from fixtures.training import Toy, write_save
from memcard.errors import (
    IntegrityError,
    MismatchError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from memcard.formats import open_file
from memcard.jobs import runs
from memcard.jobs.library import Library
from memcard.training.saves import name_of


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def trained(folder, *, model=None, ema=None, steps=3, toy=None, **options):
    toy = toy or Toy()
    averages = ema(toy) if ema else None
    parts = {"model": model(toy) if model else toy.model, "optimizer": toy.optimizer}
    with memcard.Checkpointer(
        folder, **parts, ema=averages, every=1, signals=False, **options
    ) as ck:
        for step in range(1, steps + 1):
            toy.step()
            if hasattr(averages, "update"):
                averages.update()
            ck.step(step, {"loss": 1 / step})
    return toy, averages


def tensors(path):
    opened = open_file(path)
    found = {n: (str(s), bytes(opened.read(n))) for n, s in opened.specs.items()}
    opened.close()
    return found


def bits(state):
    return {k: bytes(v.detach().numpy().tobytes()) for k, v in state.items()}


def of(path):
    return {name: raw for name, (_, raw) in tensors(path).items()}


def test_raw_weights_are_those_of_the_model_under_its_names(tmp_path):
    toy, _ = trained(tmp_path / "neon")

    made = runs.promote("neon", "newest", "my-model")

    path = Library().locate("my-model")
    assert of(path) == bits(toy.model.state_dict())
    toy.model.load_state_dict(memcard.load(path))
    assert (made.step, made.which, made.tensors) == (3, "raw", 4)
    assert made.sha256 == Library().show("my-model").version.sha256


def test_an_average_is_taken_instead_of_the_raw_weights(tmp_path):
    toy, ema = trained(tmp_path / "neon", ema=lambda t: memcard.EMA(t.model, 0.5))

    runs.promote("neon", "3", "raw")
    made = runs.promote("neon", "3", "mean", average="")

    found = of(Library().locate("mean"))
    assert found == bits(ema.weights())
    assert found != of(Library().locate("raw")) == bits(toy.model.state_dict())
    assert made.which == "0.5"
    assert Library().show("mean").manifest.kind == "ema"


def test_of_several_averages_one_is_named(tmp_path):
    _, ema = trained(
        tmp_path / "neon", ema=lambda t: memcard.EMA(t.model, {"slow": 0.9, "fast": 0.1})
    )

    with pytest.raises(UsageError, match=r"several averages. Say which: --ema slow, --ema fast"):
        runs.promote("neon", "3", "x", average="")
    with pytest.raises(UsageError, match="no average 'fats'"):
        runs.promote("neon", "3", "x", average="fats")
    runs.promote("neon", "3", "fast", average="fast")
    assert of(Library().locate("fast")) == bits(ema.weights("fast"))


def test_several_models_keep_their_keys_before_the_names(tmp_path):
    other = torch.nn.Linear(2, 2)
    model = {}

    def models(toy):
        model.update(unet=toy.model, text=other)
        return model

    _, ema = trained(
        tmp_path / "gan", model=models, ema=lambda t: {"unet": memcard.EMA(t.model, 0.5)}
    )

    runs.promote("gan", "newest", "both")
    runs.promote("gan", "newest", "mean", average="")

    both, mean = of(Library().locate("both")), of(Library().locate("mean"))
    raw = {f"unet.{k}": v for k, v in bits(model["unet"].state_dict()).items()}
    raw |= {f"text.{k}": v for k, v in bits(other.state_dict()).items()}
    assert both == raw
    averaged = {f"unet.{k}": v for k, v in bits(ema["unet"].weights()).items()}
    assert mean == raw | averaged


def test_torchs_own_average_is_understood(tmp_path):
    _, ema = trained(tmp_path / "neon", ema=lambda t: torch.optim.swa_utils.AveragedModel(t.model))
    runs.promote("neon", "newest", "mean", average="")
    assert of(Library().locate("mean")) == bits(ema.module.state_dict())


def test_an_average_without_names_is_refused(tmp_path):
    folder = run_folder(tmp_path / "a")
    state = {"w": torch.ones(2)}
    path = write_save(folder, 1, state)
    from memcard.jobs import _runs_weights
    from memcard.training.saves import OpenSave

    with OpenSave(path) as opened:
        opened.tree["objects"]["ema"] = {"state": {"shadow_params": [{"$tensor": "model.w"}]}}
        with pytest.raises(UnsupportedError, match="a list without names"):
            _runs_weights.weights_of(opened, "")
        opened.tree["objects"]["ema"] = {"state": {"x": {"$tensor": "model.w"}}}
        with pytest.raises(MismatchError, match="1 tensors that the model has not, first 'x'"):
            _runs_weights.weights_of(opened, "")
        del opened.tree["objects"]["model"]
        with pytest.raises(UnsupportedError, match="has no model"):
            _runs_weights.weights_of(opened)


def test_tied_weights_are_both_there(tmp_path):
    toy = Toy()
    toy.model[2] = torch.nn.Linear(8, 8)
    toy.model[2].weight = toy.model[0].weight
    toy.optimizer = torch.optim.SGD(toy.model.parameters(), 0.1)
    toy.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(toy.optimizer, 20)
    trained(tmp_path / "tied", toy=toy)

    runs.promote("tied", "newest", "out")

    assert of(Library().locate("out")) == bits(toy.model.state_dict())


def test_it_says_where_it_comes_from_and_no_folder(tmp_path):
    base = small.save(tmp_path / "base.safetensors", small.weights(1), {"modelspec.license": "MIT"})
    sha256 = memcard.Library().add([base])[0].sha256
    settings = {"base": {"name": "base", "sha256": sha256}}
    trained(tmp_path / "neon", settings=settings)

    runs.promote("neon", "2", "mine", out=tmp_path / "mine.safetensors")

    opened = open_file(tmp_path / "mine.safetensors")
    told, card = (json.loads(opened.metadata[k]) for k in ("memcard.promoted", "memcard.card"))
    opened.close()
    save = Library().show("neon/step-2").version.sha256
    assert (told["run"]["name"], told["step"], told["save"]) == ("neon", 2, save)
    assert told["metrics"] == {"loss": 0.5}
    assert card["parents"] == [save, sha256]
    assert (card["kind"], card["license"], card["base_model"]) == ("finetune", "MIT", "base")
    assert str(tmp_path) not in json.dumps([told, card])
    parents = [edge.parent for edge in Library().tree("mine").parents(Library().tree("mine").root)]
    assert len(parents) == 2


def test_a_file_can_be_written_instead_which_is_added_where_it_is(tmp_path):
    trained(tmp_path / "neon")
    out = tmp_path / "out.safetensors"

    runs.promote("neon", "newest", "mine", out=out)

    assert Library().locate("mine") == out
    with pytest.raises(UsageError, match="is there already"):
        runs.promote("neon", "newest", "other", out=out)
    with pytest.raises(UsageError, match="is the name of a checkpoint in the library"):
        runs.promote("neon", "2", "mine")
    before = Library().show("mine").version.sha256
    runs.promote("neon", "2", "mine", overwrite=True)
    shown = Library().show("mine")
    assert shown.version.sha256 != before == shown.ref.history[0].sha256


def test_a_dry_run_writes_nothing(tmp_path, home):
    trained(tmp_path / "neon", library=False)
    made = runs.promote(str(tmp_path / "neon"), "newest", "mine", dry_run=True)
    assert (made.written, made.tensors, made.nbytes) == (False, 4, 8 * 8 * 4 + 8 * 4 + 8 * 4 + 4)
    assert not home.exists()


def test_a_damaged_save_makes_nothing(tmp_path):
    trained(tmp_path / "neon")
    path = tmp_path / "neon" / name_of(3)
    raw = bytearray(path.read_bytes())
    raw[8 + int.from_bytes(raw[:8], "little") + 3] ^= 1  # in the first tensor
    path.write_bytes(raw)

    with pytest.raises(
        IntegrityError, match=r"the bytes do not match their digest.*Nothing was made"
    ):
        runs.promote("neon", "newest", "mine")
    assert [row.name for row in Library().ls("mine").entries] == []


def test_the_save_that_is_meant_is_told(tmp_path):
    keep = memcard.Keep(last=3, best=1, by="loss", mode="max")
    trained(tmp_path / "neon", keep=keep)
    trained(tmp_path / "plain", toy=Toy(seed=2))

    assert runs.promote("neon", "best", "a").step == 1
    with pytest.raises(UsageError, match="which save is the best is not known"):
        runs.promote("plain", "best", "b")
    with pytest.raises(
        NotFoundError, match=r"no save of step 7. There are 3; the nearest are 1, 2, 3"
    ):
        runs.promote("neon", "7", "b")
    with pytest.raises(UsageError, match="'last' is no step"):
        runs.promote("neon", "last", "b")
    run_folder(tmp_path / "home" / "runs" / "empty", id="00000000000000cc")
    with pytest.raises(NotFoundError, match="has no save"):
        runs.promote("empty", "newest", "b")
