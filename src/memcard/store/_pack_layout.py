"""How a pack lies on the disk: heads of objects, their blocks, the footer. Specified in ``docs/spec/pack.md``.

Everything here checks what it reads: a number from a file is compared with the size of the file before any
memory is taken for it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, overload

from blake3 import blake3

from memcard.errors import CorruptError

VERSION: Final = 1
MAGIC: Final = b"\x89MCPACK\n"
OBJECT: Final = b"\x89MCO"
HEADER: Final = struct.Struct("<8sII")  # magic, version, zero
TRAILER: Final = struct.Struct(
    "<QQIIII32s8s"
)  # footer's place and size, objects, version, 0, 0, check, magic
_HEAD: Final = struct.Struct("<4sHBBBBHQ32s32s")  # then the codec's name and the check of it all
CHECK: Final = 16  # bytes of BLAKE3
_BLOCK: Final = struct.Struct("<I16s")  # mode in the two highest bits and size; check of the values
_AT: Final = struct.Struct("<Q")
_MODE_SHIFT: Final = 30
_SIZE_MASK: Final = (1 << _MODE_SHIFT) - 1
BLOCK_VALUES: Final = 1 << 20
FOOTER_MOST: Final = 64 << 20  # bytes: of a pack of 100 TB, or of 400,000 small objects
SIZE_MOST: Final = 1 << 44
DEPTH_MOST: Final = 4
ITEMS: Final = (1, 2, 4, 8)
NO_KEY: Final = bytes(32)

Kind: TypeAlias = Literal["tensor", "skeleton", "residual"]
Mode: TypeAlias = Literal["raw", "codec", "same"]
KINDS: Final[tuple[Kind, ...]] = ("tensor", "skeleton", "residual")
MODES: Final[tuple[Mode, ...]] = ("raw", "codec", "same")


@dataclass(frozen=True, slots=True)
class Block:
    """Up to 2^20 values of an object.

    Attributes:
        offset: of its packed bytes in the file.
        stored: how many they are.
        mode: as they are, by the object's codec, or those of the base.
        check: the first 16 bytes of BLAKE3 of the values.
    """

    offset: int
    stored: int
    mode: Mode
    check: bytes


class Blocks(Sequence[Block]):
    """The blocks of an object, taken from the packed table when they are first asked for.

    Attributes:
        table: 20 bytes each, as in the footer.
        start: where the frame of the first block begins in the file.
    """

    def __init__(self, table: bytes, start: int) -> None:
        self.table, self.start = table, start
        self._all: tuple[Block, ...] | None = None

    def __len__(self) -> int:
        return len(self.table) // _BLOCK.size

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Block]: ...
    def __getitem__(self, index: int | slice) -> Block | Sequence[Block]:
        if self._all is None:
            self._all = tuple(self._unpacked())
        return self._all[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Blocks):
            return NotImplemented
        return (self.table, self.start) == (other.table, other.start)

    def __hash__(self) -> int:
        return hash((self.table, self.start))

    @property
    def end(self) -> int:
        """Where the last block ends in the file."""
        end = self.start
        for word, _ in _BLOCK.iter_unpack(self.table):
            end += _BLOCK.size + (word & _SIZE_MASK)
        return end

    def _unpacked(self) -> Iterator[Block]:
        at = self.start
        for word, check in _BLOCK.iter_unpack(self.table):
            stored = word & _SIZE_MASK
            yield Block(at + _BLOCK.size, stored, MODES[word >> _MODE_SHIFT], check)
            at += _BLOCK.size + stored


@dataclass(frozen=True, slots=True)
class PackedObject:
    """An object of a pack.

    Attributes:
        key: BLAKE3 of its bytes, 64 hex digits.
        kind: a tensor, the bytes of a file around its tensors, or what a recipe's result lacks.
        size: in bytes, unpacked.
        item: bytes of a value.
        codec: name of the codec of the blocks that have one.
        base: key of the object it is a difference to, or whatever names the recipe.
        depth: how many bases must be read one after another; 0 stands alone.
        at: where it begins in the file.
        blocks: of 2^20 values each, the last one shorter.
    """

    key: str
    kind: Kind
    size: int
    item: int
    codec: str
    base: str | None
    depth: int
    at: int
    blocks: Blocks

    @property
    def block_bytes(self) -> int:
        """Size of a block, unpacked."""
        return self.item * BLOCK_VALUES

    @property
    def stored(self) -> int:
        """Bytes it takes in the pack."""
        return self.blocks.end - self.at

    def extent(self, index: int) -> tuple[int, int]:
        """Return where block ``index`` begins in the object, and its size, unpacked."""
        begin = index * self.block_bytes
        return begin, min(self.block_bytes, self.size - begin)


def block_count(size: int, item: int) -> int:
    """Return how many blocks an object of ``size`` bytes has."""
    return -(-size // (item * BLOCK_VALUES))


def head(one: PackedObject) -> bytes:
    """Return the head of an object, with its check."""
    name = one.codec.encode("ascii")
    raw = _HEAD.pack(
        OBJECT,
        _HEAD.size + len(name) + CHECK,
        KINDS.index(one.kind) + 1,
        one.item,
        one.depth,
        one.base is not None,
        0,
        one.size,
        bytes.fromhex(one.key),
        bytes.fromhex(one.base) if one.base else NO_KEY,
    )
    return raw + name + blake3(raw + name).digest(CHECK)


def frame(stored: int, mode: Mode, check: bytes) -> bytes:
    """Return what stands before the bytes of a block, and in the footer."""
    return _BLOCK.pack(MODES.index(mode) << _MODE_SHIFT | stored, check)


HEAD_LEAST: Final = _HEAD.size + CHECK
HEAD_MOST: Final = _HEAD.size + 64 + CHECK
FRAME: Final = _BLOCK.size


def stored_in(line: bytes) -> int:
    """Return how many bytes follow this frame."""
    word: int = _BLOCK.unpack(line)[0]
    return word & _SIZE_MASK


def head_size(part: bytes | memoryview) -> int:
    """Return how long the head is that begins here; 0 if none does."""
    if len(part) < HEAD_LEAST or bytes(part[:4]) != OBJECT:
        return 0
    size: int = _HEAD.unpack_from(part)[1]
    return size if HEAD_LEAST < size <= min(len(part), HEAD_MOST) else 0


def parse_head(part: bytes | memoryview, at: int, table: bytes = b"") -> PackedObject:
    """Read the head of an object.

    Args:
        part: begins with it.
        at: where the object begins in the file.
        table: of its blocks.

    Raises:
        CorruptError: it breaks a rule.
    """
    size = head_size(part)
    raw, check = bytes(part[: max(size - CHECK, 0)]), bytes(part[size - CHECK : size])
    if not size or blake3(raw).digest(CHECK) != check:
        raise CorruptError(f"the head of the object at byte {at} is damaged.")
    _, _, kind, item, depth, based, zero, nbytes, key, base = _HEAD.unpack_from(raw)
    name = raw[_HEAD.size :]
    lawful = (
        1 <= kind <= len(KINDS)
        and item in ITEMS
        and depth <= DEPTH_MOST
        and based in (0, 1)
        and (based == 1 or (depth == 0 and base == NO_KEY))
        and zero == 0
        and nbytes <= SIZE_MOST
        and nbytes % item == 0
        and name.isascii()
        and name.decode("ascii").isidentifier()
    )
    if not lawful:
        raise CorruptError(f"the head of the object at byte {at} has values that none can have.")
    return PackedObject(
        key=key.hex(),
        kind=KINDS[kind - 1],
        size=nbytes,
        item=item,
        codec=name.decode("ascii"),
        base=base.hex() if based else None,
        depth=depth,
        at=at,
        blocks=Blocks(table, at + size),
    )


def check_table(one: PackedObject, end: int) -> None:
    """Check that the blocks of an object are lawful and lie before ``end``.

    Raises:
        CorruptError: they do not.
    """
    if len(one.blocks.table) != FRAME * block_count(one.size, one.item):
        raise CorruptError(f"object {one.key}: the number of blocks does not fit its size.")
    for index, (word, _) in enumerate(_BLOCK.iter_unpack(one.blocks.table)):
        _, size = one.extent(index)
        stored, mode = word & _SIZE_MASK, word >> _MODE_SHIFT
        least, most = ((size, size), (1, size - 1), (0, 0), (1, 0))[mode]  # there is no mode 3
        if not least <= stored <= most or (mode == MODES.index("same") and one.base is None):
            raise CorruptError(f"object {one.key}: block {index} has a size that none can have.")
    if one.blocks.end > end:
        raise CorruptError(f"object {one.key} ends behind the objects of the pack.")


def footer(objects: Sequence[PackedObject]) -> bytes:
    """Return the footer: each object's place, head and table of blocks."""
    return b"".join(_AT.pack(o.at) + head(o) + o.blocks.table for o in objects)


def parse_footer(raw: memoryview, count: int, end: int) -> dict[str, PackedObject]:
    """Read the footer.

    Args:
        raw: all of it.
        count: how many objects the trailer promises.
        end: where the objects end in the file.

    Raises:
        CorruptError: it breaks a rule.
    """
    found: dict[str, PackedObject] = {}
    at = 0
    while at < len(raw):
        if len(raw) - at < _AT.size:
            raise CorruptError("the footer ends inside an object.")
        (place,) = _AT.unpack_from(raw, at)
        at += _AT.size
        one = parse_head(raw[at : at + HEAD_MOST], place)
        at += one.blocks.start - place
        size = FRAME * block_count(one.size, one.item)
        if size > len(raw) - at:
            raise CorruptError("the footer ends inside an object.")
        one.blocks.table = bytes(raw[at : at + size])  # nobody else has it yet
        check_table(one, end)
        at += size
        if one.key in found:
            raise CorruptError(f"object {one.key} is listed twice.")
        found[one.key] = one
    if len(found) != count:
        raise CorruptError(f"the footer lists {len(found)} objects, the trailer says {count}.")
    return found


def trailer(place: int, raw: bytes, count: int) -> bytes:
    """Return the last bytes of a pack whose footer ``raw`` begins at ``place``."""
    numbers = struct.pack("<QQIIII", place, len(raw), count, VERSION, 0, 0)
    return numbers + blake3(numbers + raw).digest() + MAGIC
