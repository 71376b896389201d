"""What A1111, Forge and their relatives keep beside a model: ``.json``, ``.txt`` and a preview."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from memcard.cards._dialect import Subject
from memcard.cards._take import Taker
from memcard.core.card import Card

_KEYS: Final = frozenset(
    {"description", "notes", "vae", "vae_te", "sd version", "activation text", "negative text"}
    | {"preferred weight"}
)
# What any of the tools takes for the picture of X, the commonest first.
_PREVIEWS: Final = tuple(
    f"{middle}.{suffix}"
    for middle in (".preview", "", ".thumb")
    for suffix in ("png", "jpg", "jpeg", "webp", "gif", "avif", "jxl", "mp4", "webm")
)
_VAE: Final = (".vae.safetensors", ".vae.pt", ".vae.ckpt")
_UNSET: Final = frozenset({"none", "automatic", "unknown"})


class A1111Sidecar:
    """``X.json``, ``X.txt`` or ``X.description.txt``, ``X.preview.png``, ``X.vae.pt``."""

    title = "A1111's and Forge's sidecar and preview"
    source = "https://github.com/AUTOMATIC1111/stable-diffusion-webui modules/ui_extra_networks.py"
    trust = 90
    suffix = ".json"

    def read(self, subject: Subject) -> Card | None:
        """Return what a person entered in the web page, and which pictures there are."""
        taker = Taker("a1111_sidecar", {})
        try:
            said = subject.json(self.suffix) or {}
            if not _KEYS.isdisjoint(said):  # X.json may be anyone's
                taker = Taker("a1111_sidecar", said)
        except ValueError as error:
            taker.notes.append(f"{error}. It is not used.")
        self._entered(taker)
        self._text(subject, taker)
        self._files(subject, taker)
        return taker.card() or (Card(notes=tuple(taker.notes)) if taker.notes else None)

    @staticmethod
    def _entered(taker: Taker) -> None:
        for key in ("sd version", "vae"):
            if str(taker.left.get(key, "")).lower() in _UNSET:
                taker.drop(key)
        taker.html("description", "description")
        taker.take("remarks", "notes")
        taker.words("trigger_words", "activation text")
        taker.take("settings.negative", "negative text")
        taker.number("settings.strength", "preferred weight")
        taker.take("settings.vae", "vae")
        # SD1, SD2 or SDXL is all the page offers; whoever is more precise counts.
        version = taker.left.get("sd version")
        if version and taker.put("base_model", version, said_as="sd version", guess=True):
            taker.drop("sd version")

    @staticmethod
    def _text(subject: Subject, taker: Taker) -> None:
        for suffix in (".description.txt", ".txt"):
            try:
                text = subject.text(suffix)
            except ValueError as error:
                taker.notes.append(f"{error}. It is not used.")
                continue
            if text and text.strip():
                taker.put("description", text)

    @staticmethod
    def _files(subject: Subject, taker: Taker) -> None:
        pictures = [subject.named(suffix) for suffix in _PREVIEWS]
        taker.put_good("previews", [name for name in pictures if name])
        for suffix in _VAE:
            if name := subject.named(suffix):
                taker.put("settings.vae", name)

    def write(self, card: Card, old: Mapping[str, Any]) -> dict[str, Any]:
        """Return the sidecar: description, notes, activation text, weight, negative text, VAE."""
        found = {
            "description": card.description,
            "notes": card.remarks,
            "activation text": ", ".join(card.trigger_words),
            "preferred weight": card.settings.get("strength"),
            "negative text": card.settings.get("negative"),
            "vae": card.settings.get("vae"),
            "sd version": _sd_version(card.base_model),
        }
        return {**old, **{key: value for key, value in found.items() if value}}


def _sd_version(base: str | None) -> str | None:
    """Return the only names A1111 knows; for all others it finds out by itself."""
    text = (base or "").lower().replace(" ", "").replace("_", "")
    if "sdxl" in text or "illustrious" in text or "pony" in text:
        return "SDXL"
    if text.startswith(("sd2", "sdv2", "stablediffusion2")):
        return "SD2"
    return (
        "SD1" if text.startswith(("sd1", "sdv1", "stablediffusionv1", "stablediffusion1")) else None
    )


PLUGIN = A1111Sidecar()
