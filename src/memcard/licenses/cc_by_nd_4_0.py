"""CC BY-ND 4.0. Source: https://creativecommons.org/licenses/by-nd/4.0/legalcode.en."""

from __future__ import annotations

from memcard.licenses._creative_commons import creative_commons

PLUGIN = creative_commons("by-nd")
