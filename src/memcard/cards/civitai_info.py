"""``.civitai.info``: Civitai's answer for a file, as Civitai Helper and others store it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memcard.cards._civitai import take_version
from memcard.cards._dialect import Subject
from memcard.cards._take import Taker
from memcard.core.card import Card

_KEYS = frozenset({"modelId", "trainedWords", "baseModel", "files", "images", "model"})


class CivitaiInfo:
    """The answer of ``/api/v1/model-versions/by-hash``, or a whole model with its versions."""

    title = "Civitai's answer for the file"
    source = "https://github.com/civitai/civitai/wiki/REST-API-Reference"
    trust = 60

    def read(self, subject: Subject) -> Card | None:
        """Return what the site said when the sidecar was stored."""
        said = subject.json(".civitai.info")
        if said is None or (_KEYS.isdisjoint(said) and "modelVersions" not in said):
            return None
        taker = Taker("civitai_info", self._version(said, subject.stem))
        take_version(taker, subject.stem)
        return taker.card()

    @staticmethod
    def _version(said: dict[str, Any], stem: str) -> Mapping[str, Any]:
        """Return the version a file is of; some tools store the model with all its versions."""
        versions = said.get("modelVersions")
        if not isinstance(versions, list):
            return said
        listed = [dict(version) for version in versions if isinstance(version, dict)]
        model = {key: value for key, value in said.items() if key != "modelVersions"}
        for version in listed:
            files = version.get("files")
            names = (
                [f.get("name") for f in files if isinstance(f, dict)]
                if isinstance(files, list)
                else []
            )
            if any(str(name).rpartition(".")[0] == stem for name in names) or len(listed) == 1:
                return {**version, "model": model, "modelId": said.get("id")}
        return {"model": model, "modelId": said.get("id")}  # which version it is stays unknown


PLUGIN = CivitaiInfo()
