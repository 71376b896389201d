"""CC BY-SA 4.0. Source: https://creativecommons.org/licenses/by-sa/4.0/legalcode.en.

One-way compatible with GPL 3:
https://creativecommons.org/share-your-work/licensing-considerations/compatible-licenses/.
"""

from __future__ import annotations

from memcard.licenses._creative_commons import creative_commons

PLUGIN = creative_commons("by-sa", compatible=("gpl-3.0",))
