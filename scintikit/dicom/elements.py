"""A walk over the elements of a DICOM file that keeps the few that are read.

An index reads thousands of headers a second, which a full parser does not reach, and a parser that converts every
value warns with the value when it is not valid, which may identify a patient. Here the bytes of an element are
touched only when they are asked for.

Source: DICOM PS3.5 section 7 (elements, sequences), annex A (transfer syntaxes); PS3.10 section 7 (file format).
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from scintikit.dicom.scintigram import MAX_PIXELS, largest_content
from scintikit.errors import ImageReadError

CHARACTER_SET = 0x00080005
_TRANSFER_SYNTAX = 0x00020010
_META_START = 132
_PIXEL_GROUP = 0x7FE0
#: Float, double and integer pixels; beside them the group may hold its length and the Extended Offset Table.
_PIXELS = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))

#: What no header needs: elements and items, sequences within sequences, and bytes of a value that is kept.
_MAX_ELEMENTS = 2**16
_MAX_DEPTH = 64
_MAX_VALUE = 2**18
_TOO_MANY = f"its header has more than {_MAX_ELEMENTS} elements"


class Truncated(ImageReadError):
    """The bytes at hand end before the pixel data."""


@dataclass
class Elements:
    """Values of a data set, as the bytes that stand in the file.

    `pixels` holds the position and length of each kind of pixel data; the length is None if undefined. `words` tells
    whether they are explicitly words of 16 bits.
    """

    order: str
    values: dict[int, bytes] = field(default_factory=dict)
    sequences: dict[int, list[Elements]] = field(default_factory=dict)
    pixels: dict[int, tuple[int, int | None]] = field(default_factory=dict)
    words: bool = False

    def text(self, tag: int) -> str:
        """Return a text value without padding; "" if absent."""
        return self.values.get(tag, b"").decode("latin-1").strip(" \0")

    def international_text(self, tag: int) -> str:
        """Return a text value decoded by the data set's character set; "" if absent."""
        value = self.values.get(tag, b"")
        if value.isascii():
            return self.text(tag)
        encodings = convert_encodings(self.text(CHARACTER_SET).split("\\"))
        return decode_bytes(value, encodings, set()).strip(" \0")

    def numbers(self, tag: int) -> list[float]:
        """Return the numbers of a decimal or integer string; [] if absent or not finite numbers."""
        try:
            values = [float(part) for part in self.text(tag).split("\\")]
        except ValueError:
            return []
        return values if all(map(math.isfinite, values)) else []

    def shorts(self, tag: int) -> tuple[int, ...]:
        """Return the unsigned 16-bit values of an element; () if absent."""
        value = self.values.get(tag, b"")
        return struct.unpack(f"{self.order}{len(value) // 2}H", value[: len(value) // 2 * 2])

    def items(self, tag: int) -> list[Elements]:
        """Return the items of a sequence; [] if absent."""
        return self.sequences.get(tag, [])


@dataclass(frozen=True)
class _Walk:
    """How to read a data set: byte order, value representation, and which tags to keep.

    `steps` runs out if a file holds more elements than any header does; the data sets within it share it.
    """

    data: bytes
    wanted: frozenset[int]
    sequences: frozenset[int]
    implicit: bool = False
    order: str = "<"
    depth: int = 0
    steps: Iterator[int] = field(default_factory=lambda: iter(range(_MAX_ELEMENTS)))

    def elements(self, position: int, end: int, last_group: int = 0xFFFF) -> tuple[Elements, int]:
        """Return the elements from `position` up to `end`, an item's delimiter or a group beyond `last_group`."""
        data, order, found = self.data, self.order, Elements(self.order)
        # Some writers announce explicit VR and write implicit; letters where the VR belongs tell them apart.
        implicit = self.implicit or not data[position + 4 : position + 6].isalpha()
        short_head, long_head = struct.Struct(order + "HH2sH"), struct.Struct(order + "I")
        for _ in self.steps:
            if position + 8 > end:
                return found, position
            group, number, vr, length = short_head.unpack_from(data, position)
            tag = group << 16 | number
            if group > last_group or tag == _ITEM_END:
                return found, position + 8 if tag == _ITEM_END else position
            value = position + 8
            if implicit or vr in _LONG:
                value = position + 8 if implicit else position + 12
                if value > end:
                    raise Truncated("its header is truncated")
                (length,) = long_head.unpack_from(data, value - 4)
            if group == _PIXEL_GROUP:
                if tag in _PIXELS:
                    found.pixels[tag] = (value, None if length == _UNDEFINED else length)
                    found.words = not implicit and vr == b"OW"
                if length == _UNDEFINED:
                    return found, end
                position = value + length
                continue
            if tag in self.sequences or length == _UNDEFINED:
                stop = end if length == _UNDEFINED else value + length
                items, position = self._items(value, stop, implicit or vr == b"UN")
                if tag in self.sequences:
                    found.sequences[tag] = items
                continue
            position = value + length
            if position > end:
                raise Truncated("its header is truncated")
            if tag in self.wanted:
                if length > _MAX_VALUE:
                    raise ImageReadError(f"an element of its header has {length} bytes (expected at most {_MAX_VALUE})")
                found.values[tag] = data[value:position]
        raise ImageReadError(_TOO_MANY)

    def _items(self, position: int, end: int, implicit: bool) -> tuple[list[Elements], int]:
        """Return the items of a sequence and the position behind it."""
        if self.depth == _MAX_DEPTH:
            raise ImageReadError(f"its header has sequences more than {_MAX_DEPTH} deep in each other")
        inner = _Walk(self.data, self.wanted, self.sequences, implicit, self.order, self.depth + 1, self.steps)
        items: list[Elements] = []
        if end > len(self.data):
            raise Truncated("its header is truncated")
        for _ in self.steps:
            if position + 8 > end:
                return items, position
            group, number, length = struct.unpack_from(self.order + "HHI", self.data, position)
            tag = group << 16 | number
            position += 8
            if tag == _SEQUENCE_END:
                return items, position
            if tag != _ITEM:
                raise ImageReadError("a sequence in its header holds something that is not an item")
            stop = end if length == _UNDEFINED else position + length
            if stop > end:
                raise Truncated("its header is truncated")
            item, position = inner.elements(position, stop)
            items.append(item)
        raise ImageReadError(_TOO_MANY)


@dataclass(frozen=True)
class ParsedFile:
    """A file of `length` bytes, of which `data` are at hand; `elements.pixels` counts from the start of `data`."""

    data: bytes
    length: int
    elements: Elements
    syntax: UID


def parse_file(data: bytes, length: int, wanted: frozenset[int], sequences: frozenset[int]) -> ParsedFile:
    """Parse a DICOM file of `length` bytes from its first ones; `Truncated` if these do not reach its pixel data."""
    if not length:
        raise ImageReadError("the file is empty")
    if data[_META_START - 4 : _META_START] != b"DICM":
        raise ImageReadError('it is not DICOM (no "DICM" at byte 128)')
    meta, start = _Walk(data, frozenset((_TRANSFER_SYNTAX,)), frozenset()).elements(
        _META_START, len(data), last_group=2
    )
    syntax = UID(meta.text(_TRANSFER_SYNTAX))
    if not syntax:
        raise ImageReadError("it does not state its transfer syntax")
    if syntax == DeflatedExplicitVRLittleEndian:
        if len(data) < length:
            raise Truncated("its deflated data is truncated")
        data, start = _inflate(data[start:]), 0
        length = len(data)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    walk = _Walk(data, wanted, sequences, syntax == ImplicitVRLittleEndian, order)
    elements, _ = walk.elements(start, len(data))
    if not elements.pixels and len(data) < length:
        raise Truncated("its header is truncated")
    return ParsedFile(data, length, elements, syntax)


def _inflate(data: bytes) -> bytes:
    """Inflate a data set (PS3.5 A.5), to no more than the largest picture needs and so few bytes may hold."""
    limit = min(MAX_PIXELS * 2, largest_content(len(data)))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflater.decompress(data, limit)
    if inflater.unconsumed_tail:
        raise ImageReadError(f"it inflates to more than {limit} bytes")
    if not inflater.eof:
        raise ImageReadError("its deflated data is truncated")
    return content
