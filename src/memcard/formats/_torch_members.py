"""What belongs into torch's zip archive, and what lies in it besides.

torch reads ``data.pkl`` of the one root folder; other programs run any pickle they find. So every member that
is not known to be something else is judged as a program too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

from memcard.errors import CorruptError, UnsupportedError
from memcard.formats._bare_pickle import hostile
from memcard.formats._source import Source
from memcard.formats._torch_notes import few
from memcard.formats._zip import Member
from memcard.formats._zip_content import content
from memcard.unpickle.findings import Findings
from memcard.unpickle.nodes import Storage, shown

# Short texts that torch writes beside the program and the storages.
_TEXTS = frozenset(
    {"version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id"}
)
_TEXT_LENGTH = 256
_MOST_PROGRAMS, _PROGRAM_READ = 64, 4 << 20
# Names that torch.jit writes into its programs and reads without importing anything.
_SCRIPT_MODULE = "__torch__"
_SCRIPT_NAMES = tuple(
    f"torch.jit._pickle.{name} at "
    for name in (
        *("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist"),
        *("build_tensor_from_id", "restore_type_tag"),
    )
)


def inside_root(
    source: Source, members: Mapping[str, Member], findings: Findings
) -> dict[str, Member]:
    """Return the members under the one root folder, without it.

    Raises:
        UnsupportedError: a zip archive of another kind.
        UnsafeError: such an archive, with a program in it that asks to run code.
    """
    roots = [n.removesuffix("/data.pkl") for n in members if n.endswith("/data.pkl")]
    roots = [root for root in roots if "/" not in root]
    if not roots:
        judge_others(source, members, findings)
        findings.raise_any()
        raise UnsupportedError(f"{source.path}: {_other_zip(members)}")
    root = roots[0] + "/"
    inside = {n.removeprefix(root): m for n, m in members.items() if n.startswith(root)}
    outside = {n: m for n, m in members.items() if not n.startswith(root)}
    findings.faults += [
        f"{shown(name)!r} lies outside of {root!r}, where torch keeps everything"
        for name in outside
    ]
    judge_others(source, outside, findings)
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        _refuse_script(source, inside, findings)
    return inside


def judge_inside(
    source: Source,
    members: Mapping[str, Member],
    storages: Mapping[str, Storage],
    findings: Findings,
) -> None:
    """Look into every member of a torch checkpoint but ``data.pkl`` and the storages of tensors.

    What is not looked at must not pass: a hostile program could hide behind many members, or many bytes.
    """
    others = _others(members)
    if len(others) > _MOST_PROGRAMS:
        findings.faults.append(
            f"{len(others)} members besides data.pkl and the storages; torch writes five, and more "
            f"than {_MOST_PROGRAMS} are not looked at"
        )
    findings.faults += [
        f"{shown(member.name)!r} has {member.size} bytes; torch writes no such member, and more than "
        f"{_PROGRAM_READ} bytes are not looked at"
        for member in others
        if member.size > _PROGRAM_READ
    ]
    judge_others(source, members, findings)
    unused = [m for n, m in members.items() if _is_storage(n) and n[5:] not in storages and m.size]
    for member in unused[:_MOST_PROGRAMS]:
        with suppress(CorruptError):
            if content(source, member, 1) == b"\x80":  # the bytes of a tensor may be anything
                _ask(content(source, member, _PROGRAM_READ), source, member, findings)


def judge_others(source: Source, members: Mapping[str, Member], findings: Findings) -> None:
    """Look into every member that is neither ``data.pkl`` nor a storage."""
    for member in _others(members)[:_MOST_PROGRAMS]:
        try:
            raw = content(source, member, _PROGRAM_READ)
        except CorruptError as error:
            findings.add(error)
            continue
        _ask(raw, source, member, findings)
        short = member.size <= _TEXT_LENGTH and raw.isascii() and raw.strip().decode().isprintable()
        if not short and member.name.partition("/")[2] in _TEXTS:
            findings.faults.append(
                f"{shown(member.name)!r} is not the short text that torch writes"
            )


def _others(members: Mapping[str, Member]) -> list[Member]:
    return [m for n, m in members.items() if n != "data.pkl" and not _is_storage(n) and m.size]


def _ask(raw: bytes, source: Source, member: Member, findings: Findings) -> None:
    found = hostile(raw, f"{source.path} ({shown(member.name)})")
    for fault in found.faults if found else ():
        findings.ask(f"{shown(member.name)}: {fault}")


def member_notes(members: Mapping[str, Member], storages: Mapping[str, Storage]) -> Iterator[str]:
    """Yield notes on compressed, unknown and unused members."""
    deflated = sum(member.deflated for member in members.values())
    if deflated:
        yield (
            f"{deflated} of {len(members)} members are compressed, which torch never writes and reads "
            "wrongly with mmap=True. Convert the file to have it read fast."
        )
    foreign = [
        name
        for name, member in members.items()
        if name not in _TEXTS and name != "data.pkl" and not _is_storage(name) and member.size
    ]
    if foreign:
        yield f"Members that torch does not write: {few(foreign)}."
    unused = [name for name in members if _is_storage(name) and name[5:] not in storages]
    if unused:
        yield f"Storages that belong to no tensor: {few(unused)}."


def _is_storage(name: str) -> bool:
    return name.startswith("data/") and name != "data/"


def _refuse_script(source: Source, inside: Mapping[str, Member], findings: Findings) -> None:
    """TorchScript names its own types, which nothing imports; any other name is as bad as elsewhere."""
    judged = Findings(findings.where)
    judge_others(
        source, {f"/{n}": m for n, m in inside.items() if not n.startswith("code/")}, judged
    )
    for fault in judged.asked:
        name = fault.partition(": ")[2]
        if not name.startswith(
            (f"{_SCRIPT_MODULE}.", f"a call of {_SCRIPT_MODULE}.", *_SCRIPT_NAMES)
        ):
            findings.ask(fault)
    findings.raise_any()
    raise UnsupportedError(
        f"{source.path}: is a TorchScript program, not a checkpoint. Load it with torch.jit where "
        "you trust it, and save its state_dict() as .safetensors."
    )


def _other_zip(members: Mapping[str, Member]) -> str:
    if any(name.endswith(".npy") for name in members):
        return "is a numpy .npz archive. Save its arrays with safetensors.numpy.save_file."
    if "[Content_Types].xml" in members:
        return "is an office document, not a checkpoint."
    if any(n.endswith((".safetensors", ".ckpt", ".pt", ".pth")) for n in members):
        return "is a zip archive with a checkpoint in it. Unpack it first."
    return "is a zip archive without a data.pkl, so not a torch checkpoint. Look inside it first."
