"""The README of a Hugging Face repository: YAML between two lines of ``---``, then prose.

Source: https://huggingface.co/docs/hub/model-cards. The front matter is read with every scalar as text, and
without anchors: ten short lines of them can stand for a billion nodes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from memcard.cards._dialect import TEXT_BYTES, Subject, read_text
from memcard.cards._take import Taker
from memcard.core.card import Card

_README: Final = "README.md"
_FRONT: Final = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_HEADING: Final = re.compile(r"^#[ \t]+(\S.*)$", re.MULTILINE)
_README_BYTES: Final = 1 << 20
_NESTING: Final = 32


class HuggingFaceCard:
    """``README.md`` in the folder of a checkpoint, or in the checkpoint that is a folder."""

    title = "Hugging Face model card (README.md)"
    source = "https://huggingface.co/docs/hub/model-cards"
    trust = 20  # it speaks for a folder, which may hold other models than the one it is about

    def read(self, subject: Subject) -> Card | None:
        """Return the front matter and the first heading; prose alone says nothing."""
        found = self._readme(subject)
        match = _FRONT.match(found) if found else None
        if found is None or match is None:
            return None
        if len(match[1]) > TEXT_BYTES:
            raise ValueError(f"README.md: its front matter is larger than {TEXT_BYTES} bytes")
        taker = Taker("huggingface_card", _front_matter(match[1]))
        self._license(taker)
        for field, key in (("base_model", "base_model"), ("purpose", "pipeline_tag")):
            value = taker.left.get(key)
            if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
                taker.left[key] = ", ".join(value)
            taker.take(field, key)
        taker.words("tags", "tags")
        taker.words("trigger_words", "instance_prompt")
        picture = taker.left.get("thumbnail")
        if isinstance(picture, str) and picture.startswith(("http://", "https://")):
            taker.put_good("previews", [picture])
            taker.drop("thumbnail")
        if heading := _HEADING.search(found, match.end()):
            taker.put("title", heading[1].replace("*", "").replace("`", ""))
        return taker.card()

    @staticmethod
    def _readme(subject: Subject) -> str | None:
        """Return the text; a README is met by its own name, not by that of the checkpoint."""
        folder: Path = subject.path if subject.path.is_dir() else subject.path.parent
        listed = subject.beside if folder != subject.path else None
        if listed is not None and _README.lower() not in listed:
            return None
        path = folder / _README
        try:
            return read_text(path, _README_BYTES) if path.is_file() else None
        except ValueError as error:
            raise ValueError(f"README.md: {error}") from None

    @staticmethod
    def _license(taker: Taker) -> None:
        """Take the name behind ``other``, which the hub uses for every license it has no word for."""
        said = taker.left.get("license")
        if isinstance(said, list) and said and all(isinstance(item, str) for item in said):
            taker.left["license"] = ", ".join(said)
        if str(said).strip().lower() in ("other", "unknown", ""):
            taker.drop("license")
        taker.take("license", "license", "license_name")
        address = taker.left.get("license_link")
        if isinstance(address, str) and address.startswith(("http://", "https://")):
            taker.take("links.license", "license_link")


def _front_matter(text: str) -> dict[str, Any]:
    """Return the mapping, every scalar as text.

    Raises:
        ValueError: not YAML, or with anchors, or nested too deeply; or something else than a mapping.
    """
    import yaml

    class Reader(yaml.BaseLoader):
        depth = 0

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            event = self.peek_event()  # type: ignore[no-untyped-call]
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                raise yaml.MarkedYAMLError(None, None, "it has anchors", event.start_mark)
            self.depth += 1
            if self.depth > _NESTING:
                raise yaml.MarkedYAMLError(None, None, "nested too deeply", event.start_mark)
            found: yaml.Node | None = super().compose_node(parent, index)
            self.depth -= 1
            return found

    try:
        found = yaml.load(text, Reader)  # noqa: S506  # derived from BaseLoader, which makes only texts
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"README.md: its front matter is not readable: {reason}") from None
    if not isinstance(found, dict):
        raise ValueError("README.md: its front matter is no list of names and values")  # noqa: TRY004
    return {str(key): value for key, value in found.items()}


PLUGIN = HuggingFaceCard()
