from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memcard.core.tensors import DTYPES, Spec
from memcard.formats import FORMATS

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda name: name != "__metadata__"
)
COMMON = [n for n in DTYPES if n not in ("C32", "C128", "F4", "F6_E2M3", "F6_E3M2")]
specs = st.builds(
    lambda dtype, shape: Spec(DTYPES[dtype], tuple(shape)),
    st.sampled_from(COMMON),
    st.lists(st.integers(0, 4), max_size=4),
)


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=40, deadline=None)
@given(
    tensors=st.dictionaries(names, specs, max_size=6),
    metadata=st.dictionaries(names, st.text(st.characters(exclude_categories=["Cs"]), max_size=9)),
    seed=st.integers(0, 1 << 30),
)
def test_any_checkpoint_comes_back_whole(
    form: str, tensors: dict[str, Spec], metadata: dict[str, str], seed: int
) -> None:
    rng = random.Random(seed)
    contents = {name: rng.randbytes(spec.nbytes) for name, spec in tensors.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{FORMATS[form].suffixes[0]}"
        with FORMATS[form].create(path) as sink:
            sink.begin(tensors, metadata)
            for name, raw in contents.items():
                cut = rng.randint(0, len(raw))
                sink.write(name, memoryview(raw[cut:]), cut)
                sink.write(name, memoryview(raw[:cut]))
        checkpoint = FORMATS[form].open(path)

        found = {name: bytes(checkpoint.read(name)) for name in checkpoint.specs}
        checkpoint.close()

    assert (dict(checkpoint.specs), dict(checkpoint.metadata)) == (tensors, metadata)
    assert found == contents
