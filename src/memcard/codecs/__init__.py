"""One file is one lossless way to store values."""

from memcard.core.codec import Codec
from memcard.core.registry import Registry

CODECS: Registry[Codec] = Registry("memcard.codecs")
"""Codecs by name. A name is written into files, so what it decodes never changes."""
