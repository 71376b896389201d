"""States of CLIP against transformers' own and against the formulas, written out."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from memcard.generation.chunks import chunked
from memcard.generation.clip_words import clip_states, emphasised
from memcard.generation.emphasis import weighted
from memcard.generation.tokenizer import Tokenizer, tokenizer
from memcard.generation.words import plain

WIDTH = 16


def encoder(*, projected: bool = False, width: int = WIDTH) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        torch.manual_seed(3)
        config = CLIPTextConfig(
            hidden_size=width,
            intermediate_size=32,
            num_attention_heads=2,
            num_hidden_layers=3,
            projection_dim=8,
            vocab_size=49408,
            max_position_embeddings=77,
            bos_token_id=49406,
            eos_token_id=49407,
        )
        kind = CLIPTextModelWithProjection if projected else CLIPTextModel
        module = kind(config).eval().requires_grad_(requires_grad=False)
        module.get_input_embeddings().weight.normal_(generator=torch.manual_seed(5))
        return module


@pytest.fixture(scope="module")
def module() -> Any:
    return encoder()


@pytest.fixture(scope="module")
def clip() -> Tokenizer:
    return tokenizer("clip")


def reference(module: Any, clip: Tokenizer, text: str) -> Tensor:
    states: Tensor = module(torch.tensor([clip.encode(text, 77)[0]])).last_hidden_state
    return states


@torch.inference_mode()
def test_a_plain_prompt_gives_transformers_bits(module: Any, clip: Tokenizer) -> None:
    states, pooled = clip_states(module, clip, weighted("a photo of a cat"))

    found = module(torch.tensor([clip.encode("a photo of a cat", 77)[0]]))
    assert torch.equal(states, found.last_hidden_state)
    assert torch.equal(pooled, found.pooler_output)  # type: ignore[arg-type]


@torch.inference_mode()
def test_earlier_layers_and_projections_are_transformers_too(clip: Tokenizer) -> None:
    module = encoder(projected=True)
    found = module(torch.tensor([clip.encode("a cat", 77)[0]]), output_hidden_states=True)

    states, pooled = clip_states(module, clip, plain("a cat"), penultimate=True)
    assert torch.equal(states, found.hidden_states[-2])
    assert torch.equal(pooled, found.text_embeds)  # type: ignore[arg-type]

    last, _ = clip_states(module, clip, plain("a cat"))
    assert torch.equal(last, found.last_hidden_state)

    skipped, _ = clip_states(module, clip, plain("a cat"), skip=2)
    norm = getattr(module, "text_model", module).final_layer_norm
    assert torch.equal(skipped, norm(found.hidden_states[-2]))


@torch.inference_mode()
def test_chunks_lie_one_behind_the_other_and_the_first_is_pooled(
    module: Any, clip: Tokenizer
) -> None:
    first, second = "cat " * 75, "a dog on a hill"

    states, pooled = clip_states(module, clip, plain(first + second))

    assert states.shape == (1, 154, WIDTH)
    assert torch.equal(states[:, :77], reference(module, clip, first))
    assert torch.equal(states[:, 77:], reference(module, clip, second))
    assert torch.equal(pooled, clip_states(module, clip, plain(first))[1])  # type: ignore[arg-type]


@torch.inference_mode()
def test_emphasis_multiplies_and_keeps_the_mean(module: Any, clip: Tokenizer) -> None:
    plainly = reference(module, clip, "a red cat")

    states, _ = clip_states(module, clip, weighted("a (red:1.4) cat"))

    heavier = plainly.clone()
    heavier[:, 2] *= 1.4
    torch.testing.assert_close(states, heavier * (plainly.mean() / heavier.mean()))
    torch.testing.assert_close(states.mean(), plainly.mean())


@torch.inference_mode()
def test_each_chunk_keeps_its_own_mean(module: Any, clip: Tokenizer) -> None:
    states, _ = clip_states(module, clip, weighted("a (red:1.4) cat BREAK a dog"))

    first, _ = clip_states(module, clip, weighted("a (red:1.4) cat"))
    assert torch.equal(states[:, :77], first)
    assert torch.equal(states[:, 77:], reference(module, clip, "a dog"))


@torch.inference_mode()
def test_half_precision_stays_half(clip: Tokenizer) -> None:
    module = encoder().to(torch.bfloat16)
    extras = {"embeddings": {"thing": {"text_encoder": torch.ones(1, WIDTH)}}}

    states, _ = clip_states(module, clip, weighted("a (red:1.4) thing"), extras=extras)

    assert states.dtype == torch.bfloat16
    assert torch.isfinite(states).all()


def test_a_mean_of_zero_does_not_become_infinite(clip: Tokenizer) -> None:
    (chunk,), _ = chunked(clip, weighted("(cat:0)"), 77)
    states = torch.zeros(1, 77, 4)
    states[:, 1] = 1.0  # only the cat, who is multiplied by 0

    assert torch.equal(emphasised(states, chunk), torch.zeros_like(states))


@pytest.mark.parametrize("projected", [False, True])
@torch.inference_mode()
def test_vectors_equal_words_that_have_them(projected: bool, clip: Tokenizer) -> None:
    """An embedding that holds the vectors of "red cat" says what "red cat" says."""
    module = encoder(projected=projected)
    words = module.get_input_embeddings().weight
    ids = [i for i, _ in clip.tokens("red cat")]
    extras = {"embeddings": {"thing": {"text_encoder": words[ids].clone()}}}

    for prompt in ("a thing, big", "a <Thing>, big", "a embedding:thing, big"):
        states, _ = clip_states(module, clip, plain(prompt), extras=extras)
        assert torch.equal(states, reference(module, clip, "a red cat, big"))

    after, _ = clip_states(module, clip, plain("a thing"))  # the module forgets it again
    assert torch.equal(after, reference(module, clip, "a thing"))


@torch.inference_mode()
def test_diffusers_gives_the_same_with_a_taught_token(clip: Tokenizer) -> None:
    """Against transformers with the token added to its vocabulary, as diffusers loads embeddings."""
    ours, theirs = encoder(), encoder()
    rows = torch.randn(2, WIDTH, generator=torch.manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.resize_token_embeddings(49410, mean_resizing=False)
    theirs.get_input_embeddings().weight[49408:] = rows
    ids = clip.encode("a cat toy here", 77)[0]
    ids[2:4] = [49408, 49409]

    extras = {"embeddings": {"<cat-toy>": {"text_encoder": rows}}}
    states, _ = clip_states(ours, clip, plain("a <cat-toy> here"), extras=extras)

    assert torch.equal(states, theirs(torch.tensor([ids])).last_hidden_state)


@torch.inference_mode()
def test_each_encoder_takes_its_own_vectors(module: Any, clip: Tokenizer) -> None:
    wide, narrow = torch.ones(1, 32), torch.ones(1, WIDTH)
    parts = {"text_encoder": wide, "text_encoder_2": narrow}
    extras = {"embeddings": {"thing": parts}}

    found, _ = clip_states(module, clip, plain("thing"), extras=extras)
    same, _ = clip_states(module, clip, plain("thing"), extras=extras, component="text_encoder_2")
    not_taught, _ = clip_states(
        module, clip, plain("thing"), extras=extras, component="text_encoder"
    )

    assert torch.equal(found, same)
    assert torch.equal(not_taught, reference(module, clip, "thing"))
    assert not torch.equal(found, not_taught)


@torch.inference_mode()
def test_what_does_not_fit_is_told_once(module: Any, clip: Tokenizer) -> None:
    extras: dict[str, Any] = {"cut": []}
    words = plain(" ".join(["cat"] * 75 * 16) + " red apple")

    states, _ = clip_states(module, clip, words, extras=extras)
    clip_states(module, clip, words, extras=extras)

    assert states.shape[1] == 16 * 77
    assert extras["cut"] == ["red apple"]


@torch.inference_mode()
def test_how_far_to_step_back_is_the_pipeline_s(module: Any, clip: Tokenizer) -> None:
    words = plain("cat " * 60 + ", " + "dog " * 75)

    usual, _ = clip_states(module, clip, words)
    never, _ = clip_states(module, clip, words, extras={"comma": 0})

    assert usual.shape[1] == never.shape[1] == 154
    assert not torch.equal(usual, never)
