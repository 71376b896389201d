"""UMT5's words: the ids of SentencePiece itself, out of bytes that may be anybody's."""

import io
import json
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fixtures import wan
from memcard.errors import CorruptError, MismatchError, UnsupportedError
from memcard.formats import open_file
from memcard.generation.parts import Part, parts_of
from memcard.generation.umt5 import Umt5Tokenizer, cleaned, umt5_states, umt5_tokenizer
from memcard.generation.umt5_files import umt5_files
from memcard.generation.umt5_model import read_json, read_model
from memcard.generation.umt5_normalizer import Charsmap
from memcard.generation.words import Words, plain

spm = pytest.importorskip("sentencepiece")

KINDS: dict[str, dict[str, Any]] = {
    "bytes": {},
    "no bytes": {"byte_fallback": False, "rule": "nmt_nfkc_cf"},
    "no map": {"rule": "identity"},
}
ODD = "abc fox ▁ ﬁ½①Ａ北京猫\u00a0\u3000\u200b\u0301é👩‍👩‍👧 \x07\x00 </s> <unk> <0x41> &amp; ..  \ud800"


def model(kind: str) -> bytes:
    return wan.vocabulary(**KINDS[kind])


def ids(tokenizer: Umt5Tokenizer, text: str, length: int = 512) -> list[int]:
    found = tokenizer.tokens(plain(text), length)
    return list(found.ids[: found.count - 1])


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_sentencepiece(kind: str) -> None:
    theirs = spm.SentencePieceProcessor(model_proto=model(kind))
    ours = Umt5Tokenizer(read_model(model(kind), "x"))
    source = random.Random(0)
    texts = [*wan.TEXT, "", " ", "🦊", "très vite!  Two   blanks ", "x" * 300]
    texts += ["".join(source.choices(ODD, k=source.randint(0, 25))) for _ in range(400)]

    for text in texts:
        clean = cleaned(plain(text))[0].encode("utf-8", "ignore").decode()
        assert ids(ours, text) == theirs.encode(clean)[:511], repr(text)


def test_symbols_of_a_user_are_taken_whole() -> None:
    theirs = spm.SentencePieceProcessor(model_proto=user_symbols())
    ours = Umt5Tokenizer(read_model(user_symbols(), "x"))

    for text in ("a fox<x>runs", "foxes", "<x><x>", "in the box"):
        assert ids(ours, text) == theirs.encode(text)
    assert (ours.model.end, ours.model.padding, ours.model.unknown) == (2, 3, 0)


def test_a_prompt_is_cleaned_as_wans_pipeline_does() -> None:
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    for text in ("  a\n\tb  ", "x &amp;amp; y&nbsp; z", "a\u3000b\u00a0c", "&lt;s&gt;", ""):
        assert cleaned(plain(text))[0] == prompt_clean(text)


def test_every_token_has_the_weight_of_its_words() -> None:
    words = Words((("a red ", 1.0), ("fox", 1.5), (" &amp; 🦊 ", 0.5), ("runs", 1.0)))
    tokenizer = Umt5Tokenizer(read_model(model("bytes"), "x"))

    found = tokenizer.tokens(words, 64)
    said: dict[float, str] = {}
    for token, weight in zip(found.ids, found.weights, strict=True):
        said[weight] = said.get(weight, "") + tokenizer.model.pieces[token].text

    assert list(found.ids) == list(tokenizer.tokens(plain(words.text), 64).ids)
    assert said[1.5].strip("▁") == "fox"
    assert said[0.5].strip("▁") == "<0x26>▁<0xF0><0x9F><0xA6><0x8A>"  # & and a fox, spelt in bytes
    assert said[1.0].replace("<pad>", "") == "▁a▁redruns</s>"


def test_what_does_not_fit_is_told() -> None:
    tokenizer = Umt5Tokenizer(read_model(model("bytes"), "x"))
    text = "the boat drifts on a calm sea"
    many = len(ids(tokenizer, text)) + 1

    assert tokenizer.tokens(plain(text), many).cut == ""
    found = tokenizer.tokens(plain(text), many - len(ids(tokenizer, "sea")))
    assert found.cut.endswith("sea")
    assert len(found.ids) == found.count
    assert found.ids[-1] == tokenizer.model.end


def test_states_are_those_of_the_words_alone() -> None:
    """Longer padding changes nothing, and is zeros."""
    encoder = wan.models()["text_encoder"]
    tokenizer = Umt5Tokenizer(read_model(wan.vocabulary(), "x"))
    cut: list[str] = []

    short = umt5_states(encoder, tokenizer, plain("a red fox"), 16)
    long = umt5_states(encoder, tokenizer, plain("a red fox"), 40)
    count = tokenizer.tokens(plain("a red fox"), 16).count
    loud = umt5_states(encoder, tokenizer, Words((("a red ", 1.0), ("fox", 2.0))), 16)
    umt5_states(encoder, tokenizer, plain("a red fox runs over snow"), 4, extras={"cut": cut})

    assert (short[:, count:] == 0).all()
    assert (long[:, count:] == 0).all()
    assert float((short[:, :count] - long[:, :count]).abs().max()) <= 1e-5
    at = [i for i, w in enumerate(tokenizer.tokens(Words((("a red ", 1.0), ("fox", 2.0))), 16).weights) if w == 2]  # fmt: skip
    assert at
    assert torch.equal(loud[:, at], 2 * short[:, at])
    assert cut


def tokenizer_json(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(umt5_files(data, "x")["tokenizer.json"])
    return found


def user_symbols() -> bytes:
    made = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(wan.TEXT), model_writer=made, vocab_size=200, model_type="unigram",
        user_defined_symbols=["<x>", "fox"], hard_vocab_limit=False, num_threads=1, minloglevel=2,
        pad_id=3,
    )  # fmt: skip
    return made.getvalue()


def test_transformers_reads_the_files_as_sentencepiece_does(tmp_path: Path) -> None:
    """Without its packages for them."""
    from transformers import PreTrainedTokenizerFast

    for name, data in umt5_files(wan.vocabulary(), "x").items():
        (tmp_path / name).write_bytes(data)
    found = PreTrainedTokenizerFast.from_pretrained(str(tmp_path), local_files_only=True)
    theirs = spm.SentencePieceProcessor(model_proto=wan.vocabulary())

    for text in [*wan.TEXT, "🦊 très", "½ ﬁ ①", "Ａ北京"]:
        assert found(text).input_ids == [*theirs.encode(text), 1]
    assert (found.pad_token_id, found.eos_token_id, found.unk_token_id) == (0, 1, 2)
    assert found.model_max_length == 512


def test_a_folders_json_says_the_same() -> None:
    for data in (wan.vocabulary(), user_symbols()):
        said, want = read_json(umt5_files(data, "x")["tokenizer.json"], "x"), read_model(data, "x")
        ends = {"end": want.end, "padding": want.padding}
        assert replace(said, **ends) == want
    assert (said.padding, want.padding) == (3, 3)


@pytest.fixture
def lone(tmp_path: Path) -> Part:
    path = wan.lone(tmp_path)["text_encoder"]
    return parts_of(open_file(path), "wan21", path.name)["text_encoder"]


def without_words(part: Part) -> Part:
    names = {key: name for key, name in part.names.items() if key != "spiece_model"}
    return Part(part.name, part.view, names, part.config, part.label)


def test_words_lie_among_the_weights(lone: Part) -> None:
    assert umt5_tokenizer(lone).model == read_model(wan.vocabulary(), "x")


@pytest.mark.parametrize(
    "place", ["spiece.model", "google/umt5-xxl/spiece.model", "tokenizer.json"]
)
def test_words_may_lie_beside_the_file(lone: Part, place: str, tmp_path: Path) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    data = wan.vocabulary()
    path.write_bytes(json.dumps(tokenizer_json(data)).encode() if "json" in place else data)

    assert umt5_tokenizer(without_words(lone)).model == read_model(data, "x")


def test_an_encoder_without_words_says_where_they_come_from(lone: Part) -> None:
    with pytest.raises(MismatchError, match=r"without its tokenizer.*spiece_model.*--text-encoder"):
        umt5_tokenizer(without_words(lone))


def test_another_kind_of_vocabulary_is_named() -> None:
    with pytest.raises(UnsupportedError, match="Unigram"):
        read_model(field(1, piece("<unk>", kind=2)) + field(2, b"\x18\x02"), "bpe.model")
    whole = tokenizer_json(wan.vocabulary())
    whole["model"]["type"] = "BPE"
    with pytest.raises(UnsupportedError, match="'BPE'"):
        read_json(json.dumps(whole).encode(), "tokenizer.json")


def field(number: int, data: bytes) -> bytes:
    head, size = number << 3 | 2, len(data)
    lengths = bytearray()
    while size > 0x7F:
        lengths.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([head, *lengths, size]) + data


def piece(text: str, score: bytes = b"\0\0\0\0", kind: int = 1) -> bytes:
    return field(1, text.encode()) + b"\x15" + score + bytes([0x18, kind])


ONE = '{"type": "Unigram", "unk_id": 0, "vocab": [["a", 0]]}'
UNKNOWN = field(1, piece("<unk>", kind=2))
BAD: Mapping[str, bytes] = {
    "empty": b"",
    "text": b"this is not a vocabulary",
    "no unknown": field(1, piece("a")),
    "two unknowns": UNKNOWN * 2,
    "a length beyond the end": b"\x0a\xff\xff\xff\xff\x0f",
    "a number without end": b"\x08" + b"\xff" * 12,
    "a number cut off": UNKNOWN + b"\x08\x80",
    "a float cut off": UNKNOWN + field(1, field(1, b"a") + b"\x15\0"),
    "a group": UNKNOWN + b"\x0b",
    "a number for bytes": UNKNOWN + b"\x08\x01",
    "a kind that is none": UNKNOWN + field(1, piece("a", kind=9)),
    "a score that is none": UNKNOWN + field(1, piece("a", score=b"\0\0\xc0\x7f")),
    "a piece without text": UNKNOWN + field(1, piece("")),
    "a piece too long": UNKNOWN + field(1, piece("a" * 2000)),
    "a piece that is no text": UNKNOWN + field(1, field(1, b"\xff\xfe")),
}


@pytest.mark.parametrize("name", BAD)
def test_bytes_that_are_no_vocabulary_are_refused(name: str) -> None:
    with pytest.raises(CorruptError, match=r"te\.safetensors: is no SentencePiece model"):
        read_model(BAD[name], "te.safetensors")


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"model": 3}', '{"model": {"type": "Unigram"}}', "[" * 5000),
        '{"model": {"type": "Unigram", "unk_id": 7, "vocab": [["a", 0]]}}',
        '{"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", NaN]]}}',
        '{"model": {"type": "Unigram", "unk_id": 0, "vocab": [[1, 0]]}}',
        '{"model": {"type": "Unigram", "unk_id": 0, "vocab": "ab"}}',
        f'{{"normalizer": {{"type": "Precompiled", "precompiled_charsmap": "?"}}, "model": {ONE}}}',
    ],
)
def test_json_that_is_no_vocabulary_is_refused(text: str) -> None:
    with pytest.raises(CorruptError, match=r"tokenizer\.json: is no"):
        read_json(text.encode(), "tokenizer.json")


def words_of(tree: list[int], texts: bytes) -> bytes:
    units = b"".join(unit.to_bytes(4, "little") for unit in tree)
    return len(units).to_bytes(4, "little") + units + texts


@pytest.mark.parametrize(
    "data",
    [
        b"\1",
        b"\x07\0\0\0" + b"x" * 7,  # no whole numbers
        b"\xff\xff\0\0" + b"x" * 8,  # longer than the bytes
        words_of([0xFFFFFC00], b""),  # steps out of the tree
        words_of([1 << 10, *[0x100 | (ord("a") ^ 1)] * 300], b""),
    ],
)
def test_a_damaged_map_of_characters_is_no_crash(data: bytes) -> None:
    try:
        Charsmap.of(data, "te.safetensors").match(b"abc", 0)
    except CorruptError as error:
        assert "te.safetensors" in str(error)  # noqa: PT017
    else:
        assert data[:1] != b"\1"


def test_a_replacement_without_end_or_out_of_the_texts_is_refused() -> None:
    def leaf(value: int) -> Charsmap:
        tree = [0] * 512
        tree[0] = 256 << 10  # the root's children begin at 256
        tree[256 ^ ord("a")] = ord("a") | 0x100 | (1 << 10)
        tree[256 ^ ord("a") ^ 1] = 0x80000000 | value
        return Charsmap.of(words_of(tree, b"yes\0" + b"n" * 5000), "te")

    assert leaf(0).match(b"ab", 0) == (b"yes", 1)
    assert leaf(0).match(b"b", 0) is None
    for value in (4, 100_000):
        with pytest.raises(CorruptError, match="damaged"):
            leaf(value).match(b"a", 0)


def test_a_vocabulary_that_lacks_bytes_is_refused() -> None:
    said = field(2, bytes([0x98, 0x02, 1]))  # byte_fallback
    tokenizer = Umt5Tokenizer(read_model(UNKNOWN + field(1, piece("a")) + said, "te"), "te")

    with pytest.raises(CorruptError, match="spells the unknown in bytes and has 0"):
        tokenizer.tokens(plain("b"), 8)


@given(
    st.lists(st.tuples(st.integers(0, 2**20), st.binary(min_size=1, max_size=8)), max_size=6),
    st.integers(0, 2**20),
)
def test_damage_anywhere_is_an_error_or_a_vocabulary(
    changes: list[tuple[int, bytes]], end: int
) -> None:
    data = bytearray(wan.vocabulary())
    for place, new in changes:
        at = place % len(data)
        data[at : at + len(new)] = new
    del data[len(data) - end % 3000 :]
    try:
        tokenizer = Umt5Tokenizer(read_model(bytes(data), "te"), "te")
        found = tokenizer.tokens(plain(ODD), 32)
    except (CorruptError, UnsupportedError):
        return
    assert len(found.ids) == len(found.weights) == 32
