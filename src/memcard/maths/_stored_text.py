"""Loading and storing of floats in LLVM's language, for the loops that compute on them.

``@widen_KIND`` makes a float64 of a stored float, exactly; ``@narrow_KIND`` rounds one, once, to nearest
even. Where the processor converts halves itself, it does; elsewhere whole numbers do the same. The way back
from float64 goes through float32 rounded to odd, which loses nothing that the second rounding needs.

Sources: https://llvm.org/docs/LangRef.html; Boldo, Melquiond 2008, "Emulation of FMA and correctly rounded
sums: proved algorithms using rounding to odd".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from llvmlite import binding as llvm
from ml_dtypes import bfloat16
from numpy.typing import NDArray

NAMES = {
    np.dtype(np.float16): "half",
    np.dtype(bfloat16): "brain",
    np.dtype(np.float32): "single",
    np.dtype(np.float64): "double",
}
ITEMS = {"half": "i16", "brain": "i16", "single": "i32", "double": "i64"}

_HALF_BY_PROCESSOR = """
define internal double @widen_half(i16 %c) alwaysinline {
  %h = bitcast i16 %c to half
  %s = fpext half %h to float
  %d = fpext float %s to double
  ret double %d
}
define internal i16 @narrow_half(double %x) alwaysinline {
  %o = call float @odd(double %x)
  %h = fptrunc float %o to half
  %c = bitcast half %h to i16
  ret i16 %c
}
"""
# Widening: the bits in place, then times 2^1008 for the bias, exact and right for subnormals too.
# Narrowing below 2^-14: adding 2^28 leaves the number of steps of 2^-24 in the lowest bits, rounded once.
_HALF_BY_NUMBERS = """
define internal double @widen_half(i16 %c) alwaysinline {
  %w = zext i16 %c to i64
  %m = and i64 %w, 32767
  %b = shl i64 %m, 42
  %f = bitcast i64 %b to double
  %v = fmul double %f, 0x7EF0000000000000
  %vb = bitcast double %v to i64
  %wild = icmp uge i64 %m, 31744
  %wb = or i64 %b, 9218868437227405312
  %r0 = select i1 %wild, i64 %wb, i64 %vb
  %s0 = and i64 %w, 32768
  %s = shl i64 %s0, 48
  %r = or i64 %r0, %s
  %d = bitcast i64 %r to double
  ret double %d
}
define internal i16 @narrow_half(double %x) alwaysinline {
  %bits = bitcast double %x to i64
  %b = and i64 %bits, 9223372036854775807
  %sign0 = lshr i64 %bits, 48
  %sign = and i64 %sign0, 32768
  %odd0 = lshr i64 %b, 42
  %odd = and i64 %odd0, 1
  %p0 = sub i64 %b, 4539628424389459968
  %p1 = add i64 %p0, 2199023255551
  %p2 = add i64 %p1, %odd
  %p3 = lshr i64 %p2, 42
  %over = icmp uge i64 %p3, 31744
  %plain = select i1 %over, i64 31744, i64 %p3
  %abs = bitcast i64 %b to double
  %u0 = fadd double %abs, 0x41B0000000000000
  %u1 = bitcast double %u0 to i64
  %under = and i64 %u1, 65535
  %tiny = icmp ult i64 %b, 4544132024016830464
  %c0 = select i1 %tiny, i64 %under, i64 %plain
  %nan = icmp ugt i64 %b, 9218868437227405312
  %n0 = and i64 %odd0, 1023
  %n1 = or i64 %n0, 32256
  %c1 = select i1 %nan, i64 %n1, i64 %c0
  %c2 = or i64 %c1, %sign
  %c = trunc i64 %c2 to i16
  ret i16 %c
}
"""
# bfloat16 below 2^-126: as above, the steps being 2^-133; float32 has no more bits down there.
_REST = """
declare double @llvm.fabs.f64(double)
define internal float @odd(double %x) alwaysinline {
  %b = bitcast double %x to i64
  %low = and i64 %b, 536870911
  %up = add i64 %low, 536870911
  %all = or i64 %b, %up
  %cut = and i64 %all, -536870912
  %d = bitcast i64 %cut to double
  %s = fptrunc double %d to float
  ret float %s
}
define internal double @widen_brain(i16 %c) alwaysinline {
  %w = zext i16 %c to i32
  %b = shl i32 %w, 16
  %s = bitcast i32 %b to float
  %d = fpext float %s to double
  ret double %d
}
define internal i16 @narrow_brain(double %x) alwaysinline {
  %o = call float @odd(double %x)
  %b = bitcast float %o to i32
  %u0 = lshr i32 %b, 16
  %u1 = and i32 %u0, 1
  %p0 = add i32 %b, 32767
  %p1 = add i32 %p0, %u1
  %p2 = lshr i32 %p1, 16
  %m = and i32 %b, 2147483647
  %nan = icmp ugt i32 %m, 2139095040
  %quiet = or i32 %u0, 64
  %r0 = select i1 %nan, i32 %quiet, i32 %p2
  %abs = call double @llvm.fabs.f64(double %x)
  %g0 = fadd double %abs, 0x3AE0000000000000
  %g1 = bitcast double %g0 to i64
  %g2 = trunc i64 %g1 to i32
  %g3 = and i32 %g2, 65535
  %sign0 = lshr i32 %b, 16
  %sign = and i32 %sign0, 32768
  %under = or i32 %g3, %sign
  %tiny = icmp ult i32 %m, 8388608
  %r = select i1 %tiny, i32 %under, i32 %r0
  %c = trunc i32 %r to i16
  ret i16 %c
}
define internal double @widen_single(i32 %c) alwaysinline {
  %s = bitcast i32 %c to float
  %d = fpext float %s to double
  ret double %d
}
define internal i32 @narrow_single(double %x) alwaysinline {
  %s = fptrunc double %x to float
  %c = bitcast float %s to i32
  ret i32 %c
}
define internal double @widen_double(i64 %c) alwaysinline {
  %d = bitcast i64 %c to double
  ret double %d
}
define internal i64 @narrow_double(double %x) alwaysinline {
  %c = bitcast double %x to i64
  ret i64 %c
}
"""
# Bits of infinity, without the sign.
_TOP = {"half": 0x7C00, "brain": 0x7F80, "single": 0x7F800000, "double": 0x7FF << 52}

_COUNTED = """  %code = call {item} @narrow_{kind}(double {value})
  %po = getelementptr {item}, ptr %out, i64 %i
  store {item} %code, ptr %po, align 1
  %mag = and {item} %code, {mask}
  %isw = icmp uge {item} %mag, {top}
  %zw = zext i1 %isw to i64
  %wild1 = add i64 %wild, %zw
"""


def knows(arrays: Sequence[NDArray[Any]]) -> bool:
    """Tell whether there are loops for the dtypes of these arrays."""
    return all(a.dtype in NAMES for a in arrays)


def store(kind: str, value: str) -> str:
    """Return what rounds ``value``, stores it at ``%out[%i]``, and adds to ``%wild`` if it is not finite."""
    item = ITEMS[kind]
    mask = (1 << (int(item[1:]) - 1)) - 1
    return _COUNTED.format(item=item, kind=kind, value=value, mask=mask, top=_TOP[kind])


def load(kind: str, array: str, to: str) -> str:
    """Return what widens ``%array[%i]`` to ``%to``."""
    item = ITEMS[kind]
    return (
        f"  %q_{to} = getelementptr {item}, ptr %{array}, i64 %i\n"
        f"  %c_{to} = load {item}, ptr %q_{to}, align 1\n"
        f"  %{to} = call double @widen_{kind}({item} %c_{to})\n"
    )


@cache
def helpers() -> str:
    """Return the conversions, by instructions of this processor where it has them."""
    features = llvm.get_host_cpu_features()
    arm = llvm.get_default_triple().startswith(("aarch64", "arm64"))
    return (_HALF_BY_PROCESSOR if arm or features.get("f16c") else _HALF_BY_NUMBERS) + _REST


def exact_helpers() -> str:
    """Return them by whole numbers alone: a processor makes signalling NaNs quiet when it widens."""
    return _HALF_BY_NUMBERS + _REST
