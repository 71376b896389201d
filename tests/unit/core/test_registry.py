import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from memcard.core.registry import Registry
from memcard.errors import NotFoundError

SHELVES = ["formats", "architectures", "ops", "generation.samplers"]


def test_listing_a_shelf_imports_no_plugin() -> None:
    script = (
        "import sys; from memcard.core.registry import Registry; "
        "names = list(Registry('memcard.ops')); "
        "print([m for m in sys.modules if m in {'memcard.ops.' + n for n in names} or m in ('torch', 'numpy')])"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


def test_a_misspelt_name_gets_the_nearest_one() -> None:
    with pytest.raises(NotFoundError, match="Did you mean 'weighted_average'"):
        Registry("memcard.ops")["weigthed_average"]


def test_a_foreign_plugin_joins_but_cannot_replace_ours() -> None:
    registry: Registry[object] = Registry("memcard.formats")
    points = [
        EntryPoint("mine", "memcard.errors:MemcardError", "memcard.formats"),
        EntryPoint("safetensors", "memcard.errors:MemcardError", "memcard.formats"),
    ]
    registry.__dict__["_foreign"] = {point.name: point for point in points}

    assert "mine" in registry
    assert registry["mine"].__name__ == "MemcardError"  # type: ignore[attr-defined]
    assert type(registry["safetensors"]).__module__ == "memcard.formats.safetensors"


@pytest.mark.parametrize("shelf", SHELVES)
def test_every_plugin_has_a_title_and_a_source(shelf: str) -> None:
    registry: Registry[object] = Registry(f"memcard.{shelf}")

    assert len(registry) >= 2
    for name in registry:
        plugin = registry[name]
        assert plugin.title, name  # type: ignore[attr-defined]
        assert plugin.source, name  # type: ignore[attr-defined]
