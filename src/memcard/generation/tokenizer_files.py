"""The packaged tokenizers as the files transformers reads them from.

Source: transformers ``tokenization_clip.py``; the tokenizer folders of stable-diffusion-v1-5 and
stable-diffusion-2-1 (which pads with ``!``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from memcard.errors import NotFoundError
from memcard.generation.t5_tokenizer import t5_files
from memcard.generation.tokenizer import END, KINDS, START, vocabulary


def tokenizer_files(name: str, *, length: int = 77) -> Mapping[str, bytes]:
    """Return the files of a tokenizer folder by name.

    Args:
        name: ``clip``, ``clip_bang`` (pads with ``!``, as OpenCLIP's do), ``starter`` or ``t5``.
        length: most tokens of a prompt, both ends included.

    Raises:
        NotFoundError: none of that name ships with the package.
    """
    if name == "t5":
        return t5_files(length=length)
    if name not in KINDS:
        raise NotFoundError(f"no tokenizer {name!r}. There are: {', '.join(KINDS)}, t5.")
    kind, padding = KINDS[name]
    words, merges = vocabulary(kind)
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": padding}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": length,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
        **special,
    }
    text = "\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in merges)]) + "\n"
    return {
        "vocab.json": json.dumps(words, ensure_ascii=False).encode(),
        "merges.txt": text.encode(),
        "tokenizer_config.json": json.dumps(config, indent=2).encode(),
        "special_tokens_map.json": json.dumps(special, indent=2).encode(),
    }
