"""ComfyUI-Lora-Manager's ``.metadata.json``: the user's notes and Civitai's answer in one file."""

from __future__ import annotations

import json
from typing import Any

from memcard.cards._civitai import take_version
from memcard.cards._dialect import Subject
from memcard.cards._take import Taker, section
from memcard.core.card import Card

_KEYS = frozenset({"model_name", "sha256", "preview_url", "usage_tips", "from_civitai", "civitai"})
_TIPS = ("strength", "strength_min", "strength_max", "clip_skip")
# paths and times of the machine that stored it: of no use elsewhere, and nobody else's business
_LOCAL = ("file_path", "file_name", "size", "modified", "last_checked_at", "db_checked", "exclude")


class LoraManager:
    """A flat object; ``usage_tips`` is JSON in a text, ``civitai`` is the site's answer."""

    title = "ComfyUI-Lora-Manager's sidecar"
    source = "https://github.com/willmiao/ComfyUI-Lora-Manager py/utils/models.py"
    trust = 85

    def read(self, subject: Subject) -> Card | None:
        """Return what the user wrote, else what Civitai said."""
        said = subject.json(".metadata.json")
        if said is None or len(_KEYS & said.keys()) < 2:  # .metadata.json is a common name
            return None
        taker = Taker("lora_manager", said)
        taker.take("title", "model_name")
        taker.take("remarks", "notes")
        taker.html("description", "modelDescription")
        taker.words("tags", "tags")
        if str(taker.left.get("base_model", "")).lower() == "unknown":
            taker.drop("base_model")
        taker.take("base_model", "base_model")
        taker.take("hashes.sha256", "sha256")
        self._tips(taker)
        self._picture(subject, taker)
        self._civitai(taker, subject.stem)
        taker.drop(*_LOCAL)
        return taker.card()

    @staticmethod
    def _tips(taker: Taker) -> None:
        tips: Any = taker.left.get("usage_tips")
        try:
            said = section(json.loads(tips) if isinstance(tips, str) and tips else tips)
        except (ValueError, RecursionError):
            return  # the text stays in extra
        for name in _TIPS:
            if said.get(name) not in (None, "", 0) and taker.put(f"settings.{name}", said[name]):
                del said[name]
        taker.drop("usage_tips")
        if said:
            taker.left["usage_tips"] = said

    @staticmethod
    def _picture(subject: Subject, taker: Taker) -> None:
        picture = taker.left.get("preview_url")
        if isinstance(picture, str):
            name = picture.replace("\\", "/").rpartition("/")[2]
            if picture.startswith(("http://", "https://")):
                taker.put_good("previews", [picture])
            elif name.startswith(subject.stem) and (subject.path.parent / name).is_file():
                taker.put_good("previews", [name])
        taker.drop("preview_url")

    @staticmethod
    def _civitai(taker: Taker, stem: str) -> None:
        """Take Civitai's answer where the user has said nothing; his own trigger words are kept in it."""
        inner = Taker(taker.dialect, section(taker.left.pop("civitai", None)))
        take_version(inner, stem)
        previews = inner.fields.pop("previews", ())
        taker.guessed += [name for name in inner.guessed if name not in taker.fields]
        taker.fields = {**inner.fields, **taker.fields}
        if previews:
            taker.put_good("previews", list(previews))
        taker.notes += inner.notes
        if inner.left:
            taker.left["civitai"] = inner.left


PLUGIN = LoraManager()
