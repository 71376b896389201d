"""Manners for diffusers and transformers: what they tell their users is not for ours."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Keep advice meant for users of diffusers and transformers from users of memcard.

    Errors still come through.
    """
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers", "torch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch's tensors do not know numpy 2's copy keyword; diffusers' schedulers meet it.
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            warnings.filterwarnings("ignore", "__array_wrap__ must", DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
