import gzip
import hashlib
import json
import sys
import warnings
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memcard.formats import open_file
from memcard.generation.cache import Cache, Request
from memcard.generation.engines._models import t5
from memcard.generation.parts import Part
from memcard.generation.t5 import t5_states
from memcard.generation.t5_tokenizer import t5_files, t5_tokenizer
from memcard.generation.weights import fill
from memcard.generation.words import BREAK, Words, plain

TEXTS = [
    "a photo of a cat",
    "",
    "  two  spaces ",
    "Ünïcode \u2013 “quotes” … ﬁ \uff11\uff12\uff13 ①",
    "line\nbreak\ttab\u00a0blank\u200bnone",
    "<extra_id_0> x </s> y <pad>",
    "日本語 emoji 😀",
    "(cat:1.2), [dog] \\(brackets\\)",
    "A" * 50,
    "next\x85line",
]
# Google's T5 1.1: the ids every description of it shows.
KNOWN = {
    "a photo of a cat": [3, 9, 1202, 13, 3, 9, 1712, 1],
    "translate English to German: The house is wonderful.":
        [13959, 1566, 12, 2968, 10, 37, 629, 19, 1627, 5, 1],
}  # fmt: skip


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer_2")
    for name, content in t5_files(length=512).items():
        (folder / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import T5TokenizerFast

        return T5TokenizerFast.from_pretrained(str(folder), local_files_only=True)


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=32128, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return T5EncoderModel(config).eval()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 whose blocks end in numbers beyond those of float16, as those of T5-XXL do."""
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(3)
    config = T5Config(
        vocab_size=32128, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu", architectures=["T5EncoderModel"],
    )  # fmt: skip
    model = T5EncoderModel(config)
    for block in model.encoder.block:
        block.layer[1].DenseReluDense.wo.weight.data.fill_(3e4)
    folder: Path = tmp_path_factory.mktemp("large")
    model.save_pretrained(folder)
    return folder


def part_of(folder: Path) -> Part:
    checkpoint = open_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return Part("text_encoder_2", checkpoint, {n: n for n in checkpoint.specs}, config, "t5")


def filled(folder: Path, dtype: torch.dtype, how: str) -> Any:
    part = part_of(folder)
    if how == "cache":
        request = Request(part, lambda: t5(part.config), dtype)
        return Cache(torch.device("cpu"), 0).load([request])["text_encoder_2"]
    module = t5(part.config)
    fill(part, module, dtype=dtype, device=torch.device("cpu"))
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["fill", "cache"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_in_half_precision_it_is_the_model_of_transformers(
    large: Path, dtype: torch.dtype, how: str
) -> None:
    from transformers import T5EncoderModel

    want = T5EncoderModel.from_pretrained(large, dtype=dtype, local_files_only=True).eval()
    module = filled(large, dtype, how)

    with torch.inference_mode():
        mine, _ = t5_states(module, t5_tokenizer(), plain("a photo of a cat"), 12)
        theirs, _ = t5_states(want, t5_tokenizer(), plain("a photo of a cat"), 12)

    kinds = {key: value.dtype for key, value in module.state_dict().items()}
    assert kinds == {key: value.dtype for key, value in want.state_dict().items()}
    assert torch.isfinite(mine).all()
    assert mine.dtype == dtype
    assert torch.equal(mine, theirs)


@pytest.mark.filterwarnings("ignore")
def test_each_weight_is_read_once_where_reading_begins_before_the_network_is_known(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "diffusers", raising=False)  # as in a process that just began
    part, cache = part_of(large), Cache(torch.device("cpu"), 10**9)

    cache.load([Request(part, lambda: t5(part.config), torch.float16)])

    assert cache.read_bytes == part.nbytes


@pytest.mark.parametrize("text", KNOWN)
def test_known_ids(text: str) -> None:
    ids, cut = t5_tokenizer().encode(text, len(KNOWN[text]))

    assert (ids, cut) == (KNOWN[text], "")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("length", [4, 77])
def test_ids_are_those_of_transformers(text: str, length: int, theirs: Any) -> None:
    want = theirs(text, padding="max_length", max_length=length, truncation=True).input_ids

    assert t5_tokenizer().encode(text, length)[0] == want


@given(text=st.text(max_size=40))
def test_any_text_has_the_ids_of_transformers(text: str, theirs: Any) -> None:
    want = theirs(text, padding="max_length", max_length=24, truncation=True).input_ids

    assert t5_tokenizer().encode(text, 24)[0] == want


def test_a_folder_says_how_long_prompts_are(theirs: Any) -> None:
    assert theirs.model_max_length == 512
    assert (theirs.pad_token_id, theirs.eos_token_id, theirs.unk_token_id) == (0, 1, 2)


def test_what_does_not_fit_is_told() -> None:
    ids, cut = t5_tokenizer().encode("one two three four", 3)

    assert ids[2:] == [1]
    assert cut.strip() == "three four"


def test_emphasis_leaves_the_ids_alone() -> None:
    words = Words((("a photo of a ", 1.0), ("cat", 1.5), (", red house", 0.5)))

    found = t5_tokenizer().tokens(words, 16)

    assert found.ids == t5_tokenizer().tokens(plain(words.text), 16).ids
    pieces = [t5_tokenizer().backend.id_to_token(i) for i in found.ids[: found.count]]
    weights = dict(zip(pieces, found.weights[: found.count], strict=True))
    assert weights["▁cat"] == 1.5
    assert weights["▁red"] == weights["▁house"] == 0.5
    assert weights["▁photo"] == weights["</s>"] == 1.0
    assert set(found.weights[found.count :]) == {1.0}


def test_a_break_is_a_blank() -> None:
    broken = Words((("a cat", 1.0), (BREAK, 1.0), ("a dog", 1.0)))

    assert t5_tokenizer().tokens(broken, 12) == t5_tokenizer().tokens(plain("a cat a dog"), 12)


def test_states_are_those_of_the_model(model: Any) -> None:
    ids = torch.tensor([t5_tokenizer().encode("a photo of a cat", 12)[0]])

    with torch.inference_mode():
        states, mask = t5_states(model, t5_tokenizer(), plain("a photo of a cat"), 12)
        want = model(ids)[0]

    assert torch.equal(states, want)
    assert mask.tolist() == [[1] * 8 + [0] * 4]


def test_emphasis_multiplies_the_states_of_its_tokens(model: Any) -> None:
    words = Words((("a photo of a ", 1.0), ("cat", 1.5)))

    with torch.inference_mode():
        states, _ = t5_states(model, t5_tokenizer(), words, 12)
        want, _ = t5_states(model, t5_tokenizer(), plain(words.text), 12)

    assert torch.equal(states[0, 6], want[0, 6] * 1.5)
    assert torch.equal(states[0, :6], want[0, :6])
    assert torch.equal(states[0, 7:], want[0, 7:])


def test_the_cut_words_are_reported(model: Any) -> None:
    extras: dict[str, Any] = {"cut": []}

    with torch.inference_mode():
        t5_states(model, t5_tokenizer(), plain("one two three"), 3, extras=extras)

    assert [text.strip() for text in extras["cut"]] == ["three"]


def test_the_vocabulary_is_the_published_file() -> None:
    folder = Path(str(files("memcard"))) / "generation" / "tokenizers" / "t5"
    content = gzip.decompress((folder / "tokenizer.json.gz").read_bytes())

    digest = hashlib.sha256(content).hexdigest()

    assert digest in (folder / "README.md").read_text("utf-8")
    assert len(json.loads(content)["model"]["vocab"]) == 32100
    assert "Apache License" in (folder / "LICENSE").read_text("utf-8")
