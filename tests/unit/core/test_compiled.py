"""Loops compiled for this processor."""

import ctypes

import numpy as np

from memcard.core.compiled import address, assemble

TWICE = """
define void @twice(ptr %x, i64 %n) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %at = getelementptr i32, ptr %x, i64 %i
  %v = load i32, ptr %at
  %d = shl i32 %v, 1
  store i32 %d, ptr %at
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""


def test_a_loop_works_on_the_values_of_an_array_in_place() -> None:
    engine = assemble(TWICE)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(
        engine.get_function_address("twice")
    )
    values = np.arange(1000, dtype=np.int32)

    call(address(values[1:]), 998)

    assert values.tolist() == [0, *range(2, 1998, 2), 999]


def test_an_address_is_that_of_the_first_value() -> None:
    values = np.arange(6, dtype=np.uint16)
    fixed = np.frombuffer(b"1234", np.uint8)  # may not be written to
    for array in (values, values[2:], values[::2], values[:0], fixed, fixed[1:]):
        assert address(array) == array.ctypes.data
