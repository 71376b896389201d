"""What Civitai says of one version of a model; other tools keep its answer inside their own sidecars.

Source: https://github.com/civitai/civitai/wiki/REST-API-Reference, ``GET /api/v1/model-versions/by-hash``.
The answer for a version has no license; the four flags are there only if a tool added them from the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from memcard.cards._take import Taker, section
from memcard.core import card_fields

_HASHES: Final = {
    "SHA256": "sha256",
    "AutoV1": "autov1",
    "AutoV2": "autov2",
    "AutoV3": "autov3",
    "BLAKE3": "blake3",
    "CRC32": "crc32",
}
# keys of a picture's settings, as A1111 writes them into pictures
_META: Final = {
    "settings.cfg": "cfgScale",
    "settings.steps": "steps",
    "settings.sampler": "sampler",
    "settings.scheduler": "Schedule type",
    "settings.clip_skip": "Clip skip",
    "settings.size": "Size",
}
_AGREE: Final = 2  # pictures; one alone shows a taste, not a recommendation
_PICTURES: Final = 100


def take_version(taker: Taker, stem: str) -> None:
    """Move what Civitai says from ``taker`` to the card.

    Args:
        taker: holds the version, as the site answers it.
        stem: of the checkpoint's name, to find it among the files of the version.
    """
    model = section(taker.left.get("model"))
    taker.take("version", "name")
    taker.take("base_model", "baseModel")
    taker.take("date", "publishedAt", "createdAt")
    taker.words("trigger_words", "trainedWords")
    _of_model(taker, model)
    taker.html("description", "description")
    for name in card_fields.PERMISSIONS:
        for said in (taker.left, model):
            if said.get(name) is not None and taker.put(f"permissions.{name}", said[name]):
                del said[name]
    take_hashes(taker, _file_hashes(taker.left.get("files"), stem))
    _pictures(taker)
    _address(taker)
    if model:
        taker.left["model"] = model


def _of_model(taker: Taker, model: dict[str, Any]) -> None:
    """Take what is said of the model as a whole; the page of the model explains more than the version's."""
    for field, key in (("title", "name"), ("kind", "type")):
        if model.get(key) and taker.put(field, model[key]):
            del model[key]
    tags = model.get("tags")
    if isinstance(tags, list) and tags and taker.put("tags", tags):
        del model["tags"]
    creator = section(model.get("creator")) or section(taker.left.get("creator"))
    if creator.get("username"):
        taker.put("author", creator["username"])
    if isinstance(model.get("description"), str):
        inner = Taker(taker.dialect, {"description": model["description"]})
        inner.html("description", "description")
        if "description" in inner.fields:
            taker.put("description", inner.fields["description"])
        if not inner.left:
            del model["description"]


def take_hashes(taker: Taker, said: Mapping[str, Any]) -> None:
    """Take the digests that Civitai's names stand for; others are left."""
    for key, value in said.items():
        name = _HASHES.get(key)
        if name and value:
            taker.put(f"hashes.{name}", value)


def _file_hashes(files: object, stem: str) -> Mapping[str, Any]:
    """Return the hashes of this file: the one of that name, else the main one, else the only one."""
    if not isinstance(files, list):
        return {}
    listed = [file for file in map(section, files[:_PICTURES]) if file.get("hashes")]
    named = [file for file in listed if str(file.get("name", "")).rpartition(".")[0] == stem]
    primary = [file for file in listed if file.get("primary") is True]
    for choice in (named, primary, listed):
        if len(choice) == 1:
            return section(choice[0]["hashes"])
    return {}


def _pictures(taker: Taker) -> None:
    """Take the addresses of the pictures, and what most of them were made with as a guess."""
    images = taker.left.get("images")
    if not isinstance(images, list):
        return
    shown = [section(image) for image in images[:_PICTURES]]
    taker.put_good("previews", [image["url"] for image in shown if image.get("url")])
    metas = [section(image.get("meta")) for image in shown]
    for field, key in _META.items():
        counts = Counter(str(meta[key]) for meta in metas if meta.get(key) not in (None, ""))
        best = counts.most_common(1)
        if best and best[0][1] >= _AGREE:
            taker.put(field, best[0][0], said_as=f"images.meta.{key}", guess=True)


def _address(taker: Taker) -> None:
    model, version = taker.left.get("modelId"), taker.left.get("id")
    if isinstance(model, int) and not isinstance(model, bool):
        address = f"https://civitai.com/models/{model}"
        if isinstance(version, int):
            address += f"?modelVersionId={version}"
        taker.put("links.civitai", address)
