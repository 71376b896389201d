"""CC BY-NC 4.0. Source: https://creativecommons.org/licenses/by-nc/4.0/legalcode.en.

Its terms fit into CC BY-NC-SA (https://creativecommons.org/faq/, chart of adapters' licenses).
"""

from __future__ import annotations

from memcard.licenses._creative_commons import creative_commons

PLUGIN = creative_commons("by-nc", compatible=("cc-by-nc-sa-4.0",))
