"""What kohya's scripts note of a training in the header: ``ss_*``.

They never name the trigger words. Those are guessed: a tag in nearly every caption, or the name of the data
folder (``10_sks dog`` means ten repeats of ``sks dog``). Tags are the commonest of the captions. Both are
marked as guesses, and yield to whoever says them outright.

Source: kohya-ss/sd-scripts ``train_network.py`` and ``library/train_util.py``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from memcard.cards._dialect import SIDECAR_BYTES, Subject, json_object
from memcard.cards._take import Taker, section
from memcard.core.card import Card

_LONG: Final = 10_000  # characters; a longer entry is in the file and stays there
_NEARLY_ALL: Final = 0.9  # share of captions; a trigger word is in all but those that were cut
_FEW: Final = 4  # a data set of three pictures shares all its tags by chance
_MOST_TRIGGERS: Final = 3
_TAGS: Final = 12
_FOLDER: Final = re.compile(r"\d+_(.{1,100})")
_SQUARE: Final = re.compile(r"[(\[]?\s*(\d+)(?:\s*[,xX]\s*(\d+))?\s*[)\]]?")
_BUSY: Final = frozenset({"img", "images", "image", "train", "data", "dataset", "1girl", "solo"})


class Kohya:
    """Keys ``ss_*`` and ``sshs_*`` of a file's metadata."""

    title = "kohya's training metadata"
    source = "https://github.com/kohya-ss/sd-scripts library/train_util.py"
    trust = 30

    def read(self, subject: Subject) -> Card | None:
        """Return what the trainer noted, and what follows from the captions as guesses."""
        found = {
            key: value
            for key, value in subject.metadata.items()
            if key.startswith(("ss_", "sshs_")) and value not in ("None", "null", "")
        }
        if not found:
            return None
        taker = Taker("kohya", {k: v for k, v in found.items() if len(v) <= _LONG})
        if name := taker.left.get("ss_output_name"):  # of a file, hardly ever a title
            taker.put("title", name, guess=True)
            taker.drop("ss_output_name")
        taker.take("remarks", "ss_training_comment")
        taker.take("base_model", "ss_sd_model_name", "ss_base_model_version")
        taker.number("settings.clip_skip", "ss_clip_skip")
        taker.take("hashes.tensors_sha256", "sshs_model_hash")
        taker.take("hashes.autov1", "sshs_legacy_hash")
        match = _SQUARE.fullmatch(str(taker.left.get("ss_resolution", "")))
        if match and taker.put("settings.size", f"{match[1]}x{match[2] or match[1]}"):
            taker.drop("ss_resolution")
        _guess(taker, found)
        return taker.card()


def _guess(taker: Taker, found: Mapping[str, str]) -> None:
    """Guess tags and trigger words from the frequency of the captions' tags."""
    folders = _object(found.get("ss_tag_frequency", ""))
    images = _images(found)
    counts: Counter[str] = Counter()
    triggers: Counter[str] = Counter()
    for folder, tags in folders.items():
        known = [
            (str(tag).strip(), n)
            for tag, n in section(tags).items()
            if isinstance(n, int) and str(tag).strip()
        ]
        whole = images.get(folder) or max((n for _, n in known), default=0)
        for tag, n in known:
            counts[tag] += n
            if whole >= _FEW and n >= _NEARLY_ALL * whole and tag.lower() not in _BUSY:
                triggers[tag] += n
    for folder in dict.fromkeys((*folders, *images)):
        match = _FOLDER.fullmatch(folder)
        if match and match[1].strip().lower() not in _BUSY:
            triggers[match[1].strip()] += 1 + max(counts.values(), default=0)
    if triggers:
        best = [word for word, _ in triggers.most_common(_MOST_TRIGGERS)]
        taker.put("trigger_words", best, said_as="ss_tag_frequency", guess=True)
    if counts:
        best = [word for word, _ in counts.most_common(_TAGS)]
        taker.put("tags", best, said_as="ss_tag_frequency", guess=True)


def _images(found: Mapping[str, str]) -> dict[str, int]:
    """Return the number of pictures in each data folder, where it is noted."""
    listed = _object(found.get("ss_dataset_dirs", ""))
    counts = {folder: section(facts).get("img_count") for folder, facts in listed.items()}
    return {folder: n for folder, n in counts.items() if isinstance(n, int)}


def _object(text: str) -> dict[str, Any]:
    """Return a JSON object inside a metadata entry; {} if it is too large or none."""
    if not text or len(text) > SIDECAR_BYTES:
        return {}
    try:
        return json_object(text)
    except ValueError:
        return {}


PLUGIN = Kohya()
