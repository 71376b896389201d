"""Picking on a library of real files whose cards say what they are for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fixtures import small
from memcard.core.progress import Event, Notice
from memcard.errors import NotFoundError, UsageError
from memcard.jobs._pick_ranking import Candidate, Ranking, ranked_by_pictures
from memcard.jobs.card import set_card
from memcard.jobs.library import Library
from memcard.jobs.pick import best, pick


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MEMCARD_CACHE", str(tmp_path / "cache"))
    return Library()


UNET = "model.diffusion_model."


def added(home: Library, folder: Path, name: str, card: dict[str, str], seed: int = 0) -> None:
    """Add what SDXL's UNet is known by, a few kB, without a card of its own."""
    shapes = {
        "input_blocks.0.0.weight": (4, 4, 3, 3),
        "out.2.weight": (4, 4, 3, 3),
        "label_emb.0.0.weight": (8, 24),
        **{f"output_blocks.{n}.0.in_layers.0.weight": (4,) for n in range(9)},
        **{f"input_blocks.{n}.0.op.weight": (4,) for n in (3, 6)},
        **{f"input_blocks.4.1.transformer_blocks.{n}.attn2.to_k.weight": (4, 8) for n in range(2)},
        **{f"input_blocks.7.1.transformer_blocks.{n}.attn2.to_k.weight": (4, 8) for n in range(10)},
    }
    arrays = {UNET + key: np.full(shape, seed, np.float16) for key, shape in shapes.items()}
    path = small.save(folder / f"{name}.safetensors", arrays)
    home.add([path], name=name)
    if card:
        set_card(name, card.items())


def test_the_starter_is_there_without_a_library_and_its_style_is_found(home: Library) -> None:
    found = pick("neon glow")

    assert [c.ref for c in found.candidates] == ["starter/finetune_neon"]
    assert "'neon' is in its name and title and trigger words" in found.candidates[0].reasons[0]
    assert best("a neon sign") == "starter/finetune_neon"
    assert not home.path.exists()


def test_checkpoints_of_the_library_are_ranked_by_their_cards(
    home: Library, tmp_path: Path
) -> None:
    added(home, tmp_path, "alpha", {"tags": "portrait, film", "purpose": "portraits of people"}, 1)
    added(home, tmp_path, "beta", {"description": "landscapes, and now and then a portrait"}, 2)
    added(home, tmp_path, "gamma", {"tags": "anime"}, 3)
    added(home, tmp_path, "delta", {}, 4)

    found = pick("film portraits")

    assert [c.ref for c in found.candidates] == ["alpha", "beta"]
    assert [c.rank for c in found.candidates] == [1, 2]
    assert found.candidates[0].reasons == (
        "'film' is in its tags.",
        "'portrait' is in its tags and purpose.",
    )
    assert found.silent == ("delta",)
    assert best("film portraits") == "alpha"


def test_unknown_stays_unknown_and_is_never_chosen(home: Library, tmp_path: Path) -> None:
    added(home, tmp_path, "mute", {}, 1)

    assert pick("watercolour").candidates == ()
    with pytest.raises(
        NotFoundError, match=r"no checkpoint says that it is for this. Of 1 nothing is known"
    ):
        best("watercolour")


def test_ties_share_a_rank_and_are_said(home: Library, tmp_path: Path) -> None:
    added(home, tmp_path, "one", {"tags": "film"}, 1)
    added(home, tmp_path, "two", {"tags": "film"}, 2)
    said: list[Event] = []

    found = pick("film")

    assert [(c.ref, c.rank) for c in found.candidates] == [("one", 1), ("two", 1)]
    assert "one, two fit equally well" in found.notes[0]
    assert best("film", progress=said.append) == "one"
    assert any(isinstance(e, Notice) and "Fits as well: two" in e.text for e in said)


def test_one_checkpoint_under_two_names_is_listed_once(home: Library, tmp_path: Path) -> None:
    added(home, tmp_path, "first", {"tags": "film"}, 1)
    home.add([tmp_path / "first.safetensors"], name="second")

    found = pick("film")

    assert [(c.ref, c.also) for c in found.candidates] == [("first", ("second",))]


def test_loras_are_ranked_when_asked_for_and_families_are_kept_apart(home: Library) -> None:
    assert [c.ref for c in pick("pixel", kind="lora").candidates] == ["starter/lora_pixel"]
    assert pick("neon", family="sdxl").candidates == ()
    assert pick("crisp").candidates == ()  # a VAE is nothing to start from


def test_a_purpose_without_words_is_refused(home: Library) -> None:
    with pytest.raises(UsageError, match="has no word in it"):
        pick("?!")
    with pytest.raises(UsageError, match="0 or more"):
        pick("film", measure=-1)


def test_measured_ones_come_first_and_share_a_rank_where_chance_could_explain_it() -> None:
    plain = [Candidate(name, n, 1.0, ()) for n, name in enumerate("abcd", 1)]
    tried = [
        replace(plain[0], adherence=0.2, spread=(0.1, 0.3)),
        replace(plain[1], adherence=0.9, spread=(0.7, 1.1)),
        replace(plain[2], adherence=0.8, spread=(0.6, 1.0)),
    ]

    found = ranked_by_pictures(Ranking("x", ("x",), tuple(plain), (), 0), tried, ["said"])

    assert [(c.ref, c.rank) for c in found.candidates] == [("b", 1), ("c", 1), ("a", 3), ("d", 4)]
    assert found.measured
    assert found.notes == ("said",)


@pytest.mark.slow
def test_trying_them_finds_the_one_that_paints_it(home: Library) -> None:
    found = pick("black stencil of a cat face", measure=2, most=3)

    assert found.candidates[0].ref == "starter/finetune_stencil"
    assert found.candidates[0].adherence is not None
    assert found.measured
