"""Option types of the field: ``FILE:0.8`` for a LoRA, ``512x768`` for a size."""

from __future__ import annotations

import re
from typing import Any

import click


class Weighted(click.ParamType[tuple[str, float]]):
    """``REF`` or ``REF:STRENGTH``; a number after the last colon is the strength (default 1)."""

    name = "REF[:STRENGTH]"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, float]:
        """Split at the last colon if a number follows; a Windows drive stays whole."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(.+):([+-]?(?:\d+\.?\d*|\.\d+))", value)
        return (match[1], float(match[2])) if match else (value, 1.0)


class WeightedLora(click.ParamType[tuple[str, float, float | None]]):
    """``REF``, ``REF:STRENGTH``, or ``REF:unet=STRENGTH:te=STRENGTH`` with one of its own for each."""

    name = "REF[:STRENGTH]"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, float, float | None]:
        """Split at the last colons that numbers follow, as in a prompt's ``<lora:…>``."""
        if isinstance(value, tuple):
            return value
        named, ref = dict[str, float](), value
        while match := re.fullmatch(r"(.+):(unet|te)=([+-]?(?:\d+\.?\d*|\.\d+))", ref):
            ref, named[match[2]] = match[1], float(match[3])
        ref, strength = Weighted().convert(ref, param, ctx)
        return ref, named.get("unet", strength), named.get("te")


class Control(click.ParamType[tuple[str, float, float, float]]):
    """``REF``, ``REF:STRENGTH`` or ``REF:STRENGTH:FROM-TO`` with shares of the steps, as 0-0.6."""

    name = "REF[:STRENGTH[:FROM-TO]]"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, float, float, float]:
        """Split at the last colons that numbers follow."""
        if isinstance(value, tuple):
            return value
        number = r"\d+\.?\d*|\.\d+"
        match = re.fullmatch(rf"(.+):({number})-({number})", value)
        ref, start, end = (
            (match[1], float(match[2]), float(match[3])) if match else (value, 0.0, 1.0)
        )
        ref, strength = Weighted().convert(ref, param, ctx)
        return ref, strength, start, end


class Rule(click.ParamType[tuple[str, float]]):
    """``REGEX=NUMBER``; the last equals sign counts."""

    name = "REGEX=NUMBER"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, float]:
        """Split at the last equals sign."""
        if isinstance(value, tuple):
            return value
        pattern, _, number = value.rpartition("=")
        try:
            re.compile(pattern)
            strength = float(number)
        except (ValueError, re.error):
            pattern, strength = "", 0.0
        if not pattern:
            self.fail(f"{value!r} is not REGEX=NUMBER; write it like up_blocks_1=0.5.", param, ctx)
        return pattern, strength


class Size(click.ParamType[tuple[int, int]]):
    """``WIDTHxHEIGHT`` in pixels."""

    name = "WxH"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """Read two whole numbers."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)x(\d+)", value.strip().lower())
        if not match:
            self.fail(f"{value!r} is not a size; write it like 512x768.", param, ctx)
        return int(match[1]), int(match[2])


class Numbers(click.ParamType[tuple[float, ...]]):
    """Comma-separated numbers, such as ``0.7,0.3``."""

    name = "X,Y,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        """Read the numbers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers; write it like 0.7,0.3.", param, ctx)
