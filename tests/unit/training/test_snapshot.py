"""The buffer holds what the tensors were when it was taken, in the order of the file."""

import ctypes
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from memcard.training import _copying
from memcard.training._copying import copy_runs, copy_tensors
from memcard.training.snapshot import Snapshot

ODD = {
    "byte": torch.tensor([1, 2, 3], dtype=torch.uint8),
    "wide": torch.randn(3, 5, dtype=torch.float64),
    "turned": torch.randn(4, 6).T,
    "narrow": torch.randn(7).half(),
    "scalar": torch.tensor(3.5),
    "none": torch.empty(0, 2),
    "lazy": torch.view_as_real(torch.randn(3, dtype=torch.complex64).conj().resolve_conj()),
    "f8": torch.randn(5).to(torch.float8_e4m3fn),
    "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
}


def part(snapshot, name):
    begin, size = snapshot.places[name]
    return bytes(snapshot.memory[begin : begin + size])


def raw(tensor):
    return (
        bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist()) if tensor.numel() else b""
    )


def test_all_tensors_are_copied_whatever_their_layout():
    snapshot = Snapshot()
    snapshot.take(ODD)

    for name, tensor in ODD.items():
        assert part(snapshot, name) == raw(tensor), name
    assert snapshot.size == sum(t.numel() * t.element_size() for t in ODD.values())


def test_what_changes_afterwards_is_not_in_it():
    weight = torch.zeros(1000)
    snapshot = Snapshot()
    snapshot.take({"w": weight})
    weight.fill_(1)

    assert part(snapshot, "w") == bytes(4000)


def test_the_memory_is_used_again():
    snapshot, weight = Snapshot(), torch.zeros(1000)
    snapshot.take({"w": weight})
    address = ctypes.addressof(ctypes.c_char.from_buffer(snapshot.memory))
    weight.fill_(2)
    snapshot.take({"w": weight.clone()})

    assert ctypes.addressof(ctypes.c_char.from_buffer(snapshot.memory)) == address
    assert part(snapshot, "w") == raw(weight)


def test_a_few_bytes_more_or_less_need_no_new_memory():
    snapshot, weight = Snapshot(), torch.arange(100_000.0)
    addresses = set()
    for extra in (0, 5000, 70_000, 3):
        state = {"w": weight, "random": torch.full((extra,), 7, dtype=torch.uint8)}
        snapshot.take(state)
        addresses.add(ctypes.addressof(ctypes.c_char.from_buffer(snapshot.memory)))
        assert part(snapshot, "w") == raw(weight)
        assert part(snapshot, "random") == bytes([7]) * extra
        assert snapshot.size == 400_000 + extra

    assert len(addresses) == 1


def test_much_more_or_less_gets_new_memory():
    snapshot = Snapshot()
    for count in (1000, 9_000_000, 10):
        snapshot.take({"w": torch.ones(count)})
        assert part(snapshot, "w") == raw(torch.ones(count))


def test_other_tensors_get_another_layout():
    snapshot = Snapshot()
    snapshot.take({"w": torch.zeros(3)})
    snapshot.take({"w": torch.zeros(3).double(), "v": torch.ones(2)})

    assert list(snapshot.places) == ["w", "v"]
    assert part(snapshot, "v") == raw(torch.ones(2))


def test_nothing_to_save_needs_no_memory():
    snapshot = Snapshot()
    snapshot.take({})
    snapshot.take({"none": torch.empty(0)})
    assert snapshot.size == 0


def test_it_begins_with_a_page_and_can_be_given_back():
    snapshot = Snapshot()
    snapshot.prepare({"w": torch.zeros(5000)})
    while not snapshot.is_ready:
        pass
    assert ctypes.addressof(ctypes.c_char.from_buffer(snapshot.memory)) % 4096 == 0
    snapshot.release()
    assert snapshot.size == 0
    assert not snapshot.is_ready


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux tells the flags")
def test_a_fork_does_not_take_the_buffer_along():
    snapshot = Snapshot()
    snapshot.take({"w": torch.zeros(1 << 20)})
    text = Path("/proc/self/smaps").read_text()  # with the flags of each mapping
    begin = f"{ctypes.addressof(ctypes.c_char.from_buffer(snapshot.memory)):x}-"
    mapping = text[text.index(begin) :]
    flags = mapping[mapping.index("VmFlags") :].splitlines()[0]
    assert " dc" in flags  # do not copy on fork


@pytest.mark.parametrize("worth", [0, 1 << 40], ids=["threads", "one thread"])
def test_runs_are_copied_whole_by_any_number_of_threads(monkeypatch, worth):
    monkeypatch.setattr(_copying, "_WORTH", worth)
    monkeypatch.setattr(_copying, "_PIECE", 1000)
    source = torch.randint(0, 256, (100_003,), dtype=torch.uint8)
    to = torch.zeros_like(source)
    cuts = [0, 1, 999, 5000, 5001, 77_777, 100_003]
    copy_runs((to.data_ptr() + a, source.data_ptr() + a, b - a) for a, b in pairwise(cuts))
    assert torch.equal(to, source)


def test_conjugate_views_are_resolved_on_the_way():
    source = torch.randn(4, dtype=torch.complex64)
    to = torch.zeros_like(source)
    copy_tensors([(to, source.conj())])
    assert torch.equal(to, source.conj())


def test_a_snapshot_that_is_dropped_while_its_pages_are_touched_harms_nobody():
    for _ in range(20):
        snapshot = Snapshot()
        snapshot.prepare({"w": torch.zeros(1 << 20)})
        del snapshot
