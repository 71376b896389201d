"""Stability Matrix' ``.cm-info.json``, and Civicomfy's ``.cminfo.json`` with the same names in it."""

from __future__ import annotations

from typing import Any

from memcard.cards._civitai import take_hashes
from memcard.cards._dialect import Subject
from memcard.cards._take import Taker, section
from memcard.core.card import Card

_KEYS = frozenset({"ModelId", "ModelName", "TrainedWords", "Hashes", "VersionId", "BaseModel"})


class StabilityMatrix:
    """A flat object with names in capitals; the only one of the field with default settings in it."""

    title = "Stability Matrix' sidecar"
    source = "https://github.com/LykosAI/StabilityMatrix Core/Models/ConnectedModelInfo.cs"
    trust = 70

    def read(self, subject: Subject) -> Card | None:
        """Return what the program stored when it downloaded the file, and what its user changed."""
        said = subject.json(".cm-info.json") or subject.json(".cminfo.json")
        if said is None or _KEYS.isdisjoint(said):
            return None
        taker = Taker("stability_matrix", said)
        taker.take("title", "UserTitle", "ModelName")
        taker.html("description", "ModelDescription", "VersionDescription")
        taker.take("author", "AuthorUsername")
        taker.take("version", "VersionName")
        taker.take("kind", "ModelType")
        taker.take("base_model", "BaseModel")
        taker.words("tags", "Tags")
        taker.words("trigger_words", "TrainedWords")
        self._picture(subject, taker)
        take_hashes(taker, section(taker.left.get("Hashes")))
        self._defaults(taker, section(taker.left.pop("InferenceDefaults", None)))
        self._address(taker)
        return taker.card()

    @staticmethod
    def _picture(subject: Subject, taker: Taker) -> None:
        picture = taker.left.get("ThumbnailImageUrl")
        if isinstance(picture, str) and picture:
            # a path of the machine that stored it leads nowhere; previews beside the file are found anyway
            if picture.startswith(("http://", "https://")):
                taker.put_good("previews", [picture])
            taker.drop("ThumbnailImageUrl")

    @staticmethod
    def _defaults(taker: Taker, said: dict[str, Any]) -> None:
        """Take the settings its user saved for the model; 0 stands for "not set"."""
        named = {
            "CfgScale": "cfg",
            "Steps": "steps",
            "Sampler": "sampler",
            "Scheduler": "scheduler",
        }
        for key, name in named.items():
            value = said.pop(key, None)
            if isinstance(value, dict):
                value = value.get("Name")
            if value:
                taker.put(f"settings.{name}", value, said_as=f"InferenceDefaults.{key}")
        width, height = said.pop("Width", 0), said.pop("Height", 0)
        if width and height:
            taker.put("settings.size", f"{width}x{height}", said_as="InferenceDefaults.Width")
        if said:
            taker.left["InferenceDefaults"] = said

    @staticmethod
    def _address(taker: Taker) -> None:
        model, version = taker.left.get("ModelId"), taker.left.get("VersionId")
        if isinstance(model, int) and model > 0:
            address = f"https://civitai.com/models/{model}"
            taker.put(
                "links.civitai", f"{address}?modelVersionId={version}" if version else address
            )


PLUGIN = StabilityMatrix()
