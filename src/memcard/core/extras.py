"""Optional parts of memcard: say how to install one before anything starts that needs it."""

from __future__ import annotations

from importlib.util import find_spec

from memcard.errors import UsageError

EXTRAS = {
    "torch": ("torch",),
    "pictures": ("PIL",),
    "gguf": ("gguf",),
    "generate": ("torch", "diffusers", "transformers", "PIL"),
    "train": ("torch", "diffusers", "transformers", "PIL", "peft"),
    "8bit": ("bitsandbytes",),
    "video": ("av",),
}


def require(extra: str, *, what: str) -> None:
    """Do nothing if everything of ``extra`` is installed; imports none of it.

    Raises:
        UsageError: names what is missing and the command that installs it.
    """
    missing = [name for name in EXTRAS[extra] if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{what} needs {', '.join(missing)}, not installed here. "
            f"Run: pip install 'memcard[{extra}]'"
        )
