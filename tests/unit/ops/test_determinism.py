"""The same recipe on the same inputs makes the same bytes: every operation, however it is run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures import op_cases
from fixtures.long import mostly_slow
from memcard.ops import OPS

TESTS = Path(op_cases.__file__).parents[1]
# Threads and bytes per chunk; the odd ones cut through blocks and rows.
WAYS = [("numpy", 2, 100_003), ("compiled", 4, 30_000), ("numpy", 1, 1 << 18)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("inputs")
    op_cases.save(made)
    return made


def digests(folder, kind, threads, chunk):
    with op_cases.loops(kind):
        return {
            case: op_cases.digest(folder, case, threads=threads, chunk=chunk)
            for case in op_cases.CASES
        }


@pytest.fixture(scope="module")
def plain(folder):
    return digests(folder, "compiled", 1, 4 << 20)


@pytest.mark.parametrize("way", mostly_slow(WAYS, WAYS[1]), ids=str)
def test_threads_chunks_and_compiled_loops_change_no_bit(folder, plain, way):
    assert digests(folder, *way) == plain


@pytest.mark.parametrize(
    ("kind", "hashes"),
    [("compiled", "1"), pytest.param("numpy", "2", marks=pytest.mark.slow)],
)
def test_a_fresh_process_makes_the_same_bits(plain, kind, hashes):
    command = [sys.executable, "-m", "fixtures.op_cases", kind, "2", "70000"]
    env = {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONHASHSEED": hashes}

    made = subprocess.run(command, env=env, capture_output=True, text=True, check=True)

    assert json.loads(made.stdout) == plain


def test_another_seed_or_method_is_another_result(plain):
    assert len(set(plain.values())) == len(plain)


def test_every_operation_that_makes_floats_is_held_to_it():
    covered = {op for op, _, _ in op_cases.CASES.values()}

    assert covered | set(op_cases.NO_ARITHMETIC) == set(OPS)
