"""What pictures say of a checkpoint is counted by prompt, and set only when asked."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from fixtures.foreign_images import png, write
from memcard.cli.main import main
from memcard.errors import NotFoundError, UsageError
from memcard.jobs import card as job
from memcard.jobs._card_learn import Value, learn
from memcard.jobs.library import Library
from memcard.jobs.resolve import starter_folder


@pytest.fixture
def tune(tmp_path: Path) -> Path:
    path = tmp_path / "tune.safetensors"
    shutil.copy(starter_folder() / "lora_pixel.safetensors", path)
    return path


def text(path: Path, prompt: str, **said: str) -> str:
    """Return A1111's text of a picture made with the file; settings with _ for blanks."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:10]
    settings = {
        "Steps": "20",
        "Sampler": "Euler a",
        "CFG scale": "7",
        "Seed": "1",
        "Size": "512x512",
        "Model_hash": digest,
        "Model": "whatever",
        "Version": "v1.9.0",
        **said,
    }
    pairs = ", ".join(f"{k.replace('_', ' ')}: {v}" for k, v in settings.items() if v)
    return f"{prompt}\n{pairs}"


def pictures(folder: Path, *texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for i, said in enumerate(texts):
        write(folder / f"{i}.png", png({"parameters": said}))
    return folder


def test_values_are_counted_by_prompt_and_the_most_used_are_recommended(
    tune: Path, tmp_path: Path
) -> None:
    folder = pictures(
        tmp_path / "p",
        *[
            text(tune, f"p{i}", Sampler="DPM++ 2M", Schedule_type="Karras", Steps=str(20 + i))
            for i in range(5)
        ],
        *[text(tune, "one evening", Steps="50", CFG_scale="15") for _ in range(20)],
    )

    found = learn(tune, folder)

    assert (found.pictures, found.readable, found.used, found.prompts) == (
        25,
        25,
        {"hash": 25, "name": 0},
        6,
    )
    assert found.settings["sampler"] == (Value("dpmpp_2m", 5, 5), Value("euler_a", 1, 20))
    assert found.settings["cfg"] == (Value(7.0, 5, 5), Value(15.0, 1, 20))
    assert found.recommended == {
        "sampler": "dpmpp_2m",
        "steps": 22,
        "cfg": 7,
        "size": "512x512",
        "scheduler": "karras",
    }
    assert found.tools == {"A1111": 25}


def test_a_picture_counts_by_hash_else_by_name_and_never_with_another_hash(
    tune: Path, tmp_path: Path
) -> None:
    folder = pictures(
        tmp_path / "p",
        text(tune, "by hash"),
        text(tune, "by name", Model_hash="", Model="TUNE"),
        text(tune, "another", Model_hash="0123456789", Model="tune"),
        text(tune, "neither", Model_hash="", Model="other"),
        "only a prompt",
    )

    found = learn(tune, folder)

    assert found.used == {"hash": 1, "name": 1}
    assert (found.pictures, found.readable, found.prompts) == (5, 4, 2)


def test_two_prompts_are_no_recommendation(tune: Path, tmp_path: Path) -> None:
    found = learn(tune, pictures(tmp_path / "p", text(tune, "a"), text(tune, "b")))

    assert found.settings["steps"] == (Value(20, 2, 2),)
    assert found.recommended == {}


def test_the_schedule_is_that_of_the_recommended_sampler(tune: Path, tmp_path: Path) -> None:
    karras = {"Sampler": "DPM++ 2M", "Schedule_type": "Karras"}
    folder = pictures(
        tmp_path / "p",
        *[text(tune, f"a{i}", Schedule_type="Normal") for i in range(4)],
        *[text(tune, f"b{i}", **karras) for i in range(3)],
        *[text(tune, f"c{i}", Sampler="UniPC", Schedule_type="Karras") for i in range(3)],
    )

    found = learn(tune, folder)

    assert found.settings["scheduler"][0].value == "karras"
    assert (found.recommended["sampler"], found.recommended["scheduler"]) == ("euler_a", "normal")


def test_vae_clip_skip_and_loras(tune: Path, tmp_path: Path) -> None:
    texts = [
        text(tune, f"p{i} <lora:film:{strength}>", VAE="crisp.pt", Clip_skip="2")
        for i, strength in enumerate((0.4, 0.6, 1.0))
    ]

    most = learn(tune, pictures(tmp_path / "p", *texts, text(tune, "x"), text(tune, "y")))
    half = learn(tune, pictures(tmp_path / "q", *texts, *[text(tune, f"x{i}") for i in range(3)]))

    assert most.loras == {"film": Value(0.6, 3, 3)}
    assert (most.recommended["vae"], most.recommended["clip_skip"]) == ("crisp", 2)
    assert "vae" not in half.recommended


def test_broken_pictures_are_noted(tune: Path, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", text(tune, "a"))
    write(folder / "broken.webp", b"RIFF\xff\0\0\0WEBP")

    found = learn(tune, folder)

    assert found.pictures == 2
    assert found.used["hash"] == 1


def test_nothing_is_written_unless_asked(tune: Path, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", *[text(tune, f"{i}") for i in range(3)])
    before = sorted(tmp_path.iterdir())

    found, made = job.learn(tune, folder)
    _, dry = job.learn(tune, folder, keep=True, dry_run=True)

    assert found.recommended
    assert made is None
    assert dry is not None
    assert dry.content["settings"]["steps"] == 20
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_kept_has_its_evidence_and_no_place_of_the_users(
    tune: Path, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "p", *[text(tune, f"{i}") for i in range(3)])
    job.set_card(tune, [("remarks", "mine")])

    _, made = job.learn(tune, folder, keep=True)

    assert made is not None
    kept = json.loads(made.path.read_text())
    assert kept["remarks"] == "mine"
    assert kept["settings"] == {"sampler": "euler_a", "steps": 20, "cfg": 7, "size": "512x512"}
    evidence = kept["extra"]["learnt"]
    assert (evidence["pictures"], evidence["prompts"]) == (3, 3)
    assert evidence["settings"]["cfg"] == [{"value": 7, "prompts": 3, "pictures": 3}]
    assert str(tmp_path) not in made.path.read_text()
    assert job.card(tune).origin["settings.cfg"] == "memcard_sidecar"


def test_a_checkpoint_of_the_library_keeps_it_there(
    tune: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    Library().add([tune], name="mine")
    folder = pictures(tmp_path / "p", *[text(tune, f"{i}", CFG_scale="5") for i in range(3)])

    found, made = job.learn("mine", folder, keep=True)

    assert found.used["hash"] == 3
    assert made is not None
    assert Library().card("mine").settings["cfg"] == 5
    assert Library().card("mine").extra["learnt"]["prompts"] == 3
    assert not (tmp_path / "tune.memcard.json").exists()


def test_the_starter_can_be_counted_and_not_written(tmp_path: Path) -> None:
    base = starter_folder() / "base.safetensors"
    folder = pictures(tmp_path / "p", *[text(base, f"{i}") for i in range(3)])

    assert learn("starter", folder).used["hash"] == 3
    with pytest.raises(UsageError, match="a part of memcard itself"):
        job.learn("starter", folder, keep=True)


def test_a_folder_that_is_not_there_is_told(tune: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such folder"):
        learn(tune, tmp_path / "none")


def test_the_command_prints_counts_and_writes_with_yes(
    tune: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(pictures(tmp_path / "p", *[text(tune, f"{i} <lora:film:0.5>") for i in range(3)]))

    assert main(["card", str(tune), "--learn", folder]) == 0
    shown = capsys.readouterr()
    assert main(["card", str(tune), "--learn", folder, "--yes", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)

    assert "3 with this checkpoint (3 by hash), 3 prompts" in shown.out
    rows = [line.split() for line in shown.out.splitlines()]
    assert ["steps", "20", "3", "3", "recommended"] in rows
    assert ["film", "0.5", "3", "3"] in rows
    assert "--yes sets" in shown.err
    assert facts["recommended"]["steps"] == 20
    assert facts["written"] is True
    assert Path(facts["path"]).is_file()


def test_the_command_ends_with_1_if_no_picture_is_of_it(tune: Path, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", text(tune, "a", Model_hash="0123456789"))

    assert main(["card", str(tune), "--learn", str(folder)]) == 1


@pytest.mark.parametrize("more", [["--learn", "p", "--set", "cfg=5"], ["--yes"]])
def test_options_that_do_not_go_together_are_refused(tune: Path, more: list[str]) -> None:
    assert main(["card", str(tune), *more]) == 2
