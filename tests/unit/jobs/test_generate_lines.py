"""Many pictures from lines of text: each by itself, one that fails does not stop the others."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from memcard.core.progress import Event, Notice
from memcard.errors import CorruptError, DiskError, NotFoundError, UsageError
from memcard.jobs import generate_lines as module
from memcard.jobs._generate_clock import ESTIMATE
from memcard.jobs.generate import run
from memcard.jobs.generate_lines import Done, Line, generate_lines, lines_of, read_lines
from memcard.jobs.image_info import read_image

QUICK: dict[str, Any] = {"steps": 1, "seed": 5, "device": "cpu", "dtype": "F32"}


def written(path: Path, *lines: str) -> list[Line]:
    path.write_text("\n".join(lines), encoding="utf-8")
    return lines_of(path)


def pixels(path: Path | None) -> str:
    assert path is not None
    with Image.open(path) as image:
        return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def test_comments_and_blank_lines_are_no_prompts(tmp_path: Path) -> None:
    found = written(tmp_path / "p.txt", "\ufeff# mine", "", "a cat", "  ", '  {"prompt": "# 1"}\r')

    assert [(line.number, line.said) for line in found] == [
        (3, {"prompt": "a cat"}),
        (5, {"prompt": "# 1"}),
    ]


def test_a_line_may_have_settings_of_its_own() -> None:
    text = '{"prompt": "a cat", "size": "64x96", "cfg": 3, "loras": ["a", ["b", 1], ["c", 1, 0]], "n": null}'

    (line,) = read_lines([text])

    assert line.fault is None
    assert line.said == {
        "prompt": "a cat", "width": 64, "height": 96, "cfg": 3,
        "loras": [("a", 1.0), ("b", 1.0), ("c", 1.0, 0.0)],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{red|blue} cat", ["begins like JSON", '{"prompt": "…"}']),
        ('{"seed": 1}', ["has no prompt"]),
        ('{"prompt": ""}', ["has no prompt"]),
        ('{"prompt": "a", "colour": 1, "steps": "ten"}', ["'colour' is no setting", "steps is \"ten\""]),
        ('{"prompt": "a", "steps": 2.5}', ["not a whole number"]),
        ('{"prompt": "a", "seed": true}', ["not a whole number"]),
        ('{"prompt": 1}', ["prompt is 1, not a text"]),
        ('{"prompt": "a", "cfg": "7"}', ["not a number"]),
        ('{"prompt": "a", "size": "big"}', ["512x768"]),
        ('{"prompt": "a", "size": "64x0"}', ["512x768"]),
        ('{"prompt": "a", "loras": "x"}', ["not a list"]),
        ('{"prompt": "a", "edit": "yes"}', ["not true or false"]),
        ('{"prompt": "a", "loras": [["x", "y"]]}', ["loras are written like"]),
        ('{"prompt": "a", "controls": [["x"]]}', ["controls is"]),
        ('{"prompt": "a", "embeddings": [1]}', ["embeddings is"]),
        ('{"prompt": "a", "outpaint": [1.5]}', ["outpaint is"]),
        ('{"prompt": "a", "device": "cpu"}', ["'device' is no setting"]),
        ("caf\udce9", ["UTF-8"]),
        ("{" * 100_000, ["begins like JSON"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_line_is_said_of_it(text: str, words: list[str]) -> None:
    (line,) = read_lines([text])

    assert isinstance(line.fault, UsageError)
    assert all(word in str(line.fault) for word in words)


def test_everything_a_line_may_say_is_looked_at() -> None:
    """A value of a wrong type would end a program that others feed."""
    kinds = {
        *module._WHOLE, *module._NUMBERS, *module._TEXTS, *module._LISTS, *module._FLAGS,
    }  # fmt: skip

    assert set(module._known()) == kinds


def test_files_that_hold_no_lines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file of prompts"):
        lines_of(tmp_path / "none.txt")
    with pytest.raises(UsageError, match="no line with a prompt"):
        written(tmp_path / "p.txt", "# only", "")
    (tmp_path / "b.txt").write_bytes(b"a caf\xe9\n")
    with pytest.raises(CorruptError, match="no text in UTF-8"):
        lines_of(tmp_path / "b.txt")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Done], list[str]]:
    """Lines of all kinds, what became of them, and what was said meanwhile."""
    folder = tmp_path_factory.mktemp("lines")
    lines = written(
        folder / "p.txt",
        "a rocket",
        '{"prompt": "a rocket", "seed": 7, "n": 2, "steps": 2, "checkpoint": "starter/raw"}',
        '{"prompt": "a rocket", "steps": 0}',
        '{"prompt": "a rocket", "checkpoint": "nowhere.safetensors"}',
        '{"prompt": "a rocket", "out": "mine.webp", "n": 2, "negative": "blur"}',
        '{"prompt": "a rocket", "out": "missing/mine.png"}',
        "a rocket <lora:pixel:0.5>",
    )
    said: list[Event] = []
    done = list(generate_lines(lines, out=folder / "out", progress=said.append, **QUICK))
    return folder / "out", done, [event.text for event in said if isinstance(event, Notice)]


def test_every_picture_is_the_one_of_a_run_alone(
    several: tuple[Path, list[Done], list[str]],
) -> None:
    _, done, _ = several
    made = [pixels(one.path) for one in done if one.error is None]

    alone: list[dict[str, Any]] = [
        {"prompt": "a rocket"},
        *(
            {"prompt": "a rocket", "seed": s, "steps": 2, "checkpoint": "starter/raw"}
            for s in (7, 8)
        ),
        *({"prompt": "a rocket", "seed": s, "negative": "blur"} for s in (5, 6)),
        {"prompt": "a rocket <lora:pixel:0.5>"},
    ]
    images = [run(**{**QUICK, **said}).pictures[0].image for said in alone]
    assert made == [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


def test_a_line_that_fails_is_told_and_the_others_go_on(
    several: tuple[Path, list[Done], list[str]],
) -> None:
    folder, done, _ = several

    assert [(one.line, one.place, one.of) for one in done] == [
        (1, 1, 7), (2, 2, 7), (2, 2, 7), (3, 3, 7), (4, 4, 7), (5, 5, 7), (5, 5, 7), (6, 6, 7), (7, 7, 7),
    ]  # fmt: skip
    assert [type(one.error).__name__ for one in done if one.error] == [
        "UsageError", "NotFoundError", "NotFoundError",
    ]  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == [
        "a-rocket-5.png", "a-rocket-7.png", "a-rocket-8.png", "a-rocket-lora-pixel-0-5-5.png",
        "mine-1.webp", "mine-2.webp",
    ]  # fmt: skip
    assert read_image(folder / "mine-2.webp").seed == 6
    assert (done[0].left or 0) > 0
    assert done[-1].left == 0


def test_the_facts_of_a_picture_and_of_a_fault_are_json(
    several: tuple[Path, list[Done], list[str]],
) -> None:
    _, done, _ = several
    made, failed = (json.loads(json.dumps(done[i].to_dict())) for i in (2, 3))

    assert (made["line"], made["seed"], made["checkpoint"]["name"]) == (2, 8, "starter/raw")
    assert made["file"].endswith("a-rocket-8.png")
    assert made["origin"]["steps"] == "user"
    assert (failed["line"], failed["exit_code"]) == (3, 2)
    assert "at least 1" in failed["error"]


def test_lines_are_taken_one_at_a_time(tmp_path: Path) -> None:
    """A program that feeds lines gets each picture before it says the next."""
    order: list[str] = []

    def texts() -> Iterator[str]:
        for text in ("a rocket", "a red apple"):
            order.append(f"asked for {text}")
            yield text

    for done in generate_lines(read_lines(texts()), out=tmp_path, **QUICK):
        assert done.path is not None
        assert done.path.is_file()
        assert (done.of, done.left) == (None, None)
        order.append("made")

    assert order == ["asked for a rocket", "made", "asked for a red apple", "made"]


def test_a_seed_is_drawn_for_each_line(tmp_path: Path) -> None:
    said = {**QUICK, "seed": None}
    done = list(generate_lines(read_lines(["a rocket"] * 2), out=tmp_path, **said))

    seeds = {one.result.pictures[0].seed for one in done if one.result}
    assert len(seeds) == 2


def test_a_sentence_is_said_once_and_the_time_of_the_first_is_called_so() -> None:
    seen: list[Event] = []
    pace = module._Pace(3)
    once = module._Once(seen.append, pace)

    for _ in range(2):
        once(Notice("Computing in BF16 on cpu."))
    once(Notice(f"{ESTIMATE} 7 minutes on this CPU."))
    pace.made = 1
    once(Notice(f"{ESTIMATE} 7 minutes on this CPU."))

    assert [event.text for event in seen if isinstance(event, Notice)] == [
        "Computing in BF16 on cpu.",
        "The first of 3: this will take about 7 minutes on this CPU.",
    ]


def test_a_full_disk_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise DiskError("no space left")

    monkeypatch.setattr(module, "save", full)

    with pytest.raises(DiskError):
        list(generate_lines(read_lines(["a rocket"] * 2), out=tmp_path, **QUICK))


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [("x.png", UsageError, "Name a folder"), ("none/deep", NotFoundError, "no such folder")],
)
def test_a_place_that_cannot_be_is_refused_before_the_first_picture(
    tmp_path: Path, out: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        next(generate_lines(read_lines(["a rocket"]), out=tmp_path / out, **QUICK))
