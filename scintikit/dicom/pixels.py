"""Pixel data: native, or through the decoders that pydicom knows."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    JPEGExtended12Bit,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from scintikit.dicom.elements import ParsedFile
from scintikit.dicom.header import Header, T
from scintikit.dicom.scintigram import check_growth
from scintikit.errors import ImageReadError, MissingDecoderError

# In order of preference. GDCM comes last: a damaged JPEG-LS frame makes it abort the process.
_DECODERS = ("pydicom", "pylibjpeg", "pyjpegls", "pillow", "gdcm")
#: Bytes that frames and fragments may take beside the pixels: an item and an offset for each of the most frames.
_OVERHEAD = 2**21
#: The most tiles of a JPEG 2000 frame: a decoder sets up kilobytes for each before it decodes any.
_MAX_TILES = 1024
_FLOAT_KINDS = {T.FLOAT_PIXELS: "f4", T.DOUBLE_PIXELS: "f8"}


@dataclass(frozen=True)
class Pixels:
    """Where the pixel data stands in the file, its type if native, and pydicom's name of its decoder if not."""

    start: int
    stop: int
    dtype: np.dtype
    decoder: str


def find_pixels(file: ParsedFile, header: Header) -> Pixels:
    """Find the pixel data and check, without touching it, that it can be read: kind, decoder, length."""
    present = file.elements.pixels
    if len(present) != 1:
        raise ImageReadError("it has several kinds of pixel data" if present else "it has no pixel data")
    ((tag, (start, length)),) = present.items()
    decoder = _decoder(file.syntax, header.bits_stored)
    stop = file.length if length is None else start + length
    if stop > file.length:
        raise ImageReadError(f"its pixel data is truncated ({file.length - start} of {length} bytes)")
    kind = _FLOAT_KINDS.get(tag) or f"{'i' if header.signed else 'u'}{header.bits_allocated // 8}"
    dtype = np.dtype((">" if file.syntax == ExplicitVRBigEndian else "<") + kind)
    if dtype.itemsize * 8 != header.bits_allocated:
        raise ImageReadError("the kind of pixel data contradicts BitsAllocated")
    if not decoder and not header.bytes <= stop - start <= header.bytes + header.bytes % 2:
        raise ImageReadError(f"its pixel data has {stop - start} bytes, its header announces {header.bytes}")
    if decoder:
        check_growth(stop - start, header.bytes)
        if stop - start > 2 * header.bytes + _OVERHEAD:
            raise ImageReadError(
                f"its compressed pixel data has {stop - start} bytes, its header announces {header.bytes} uncompressed"
            )
    return Pixels(start, stop, dtype, decoder)


def read_pixels(file: ParsedFile, header: Header, pixels: Pixels) -> np.ndarray:
    """Return the pixels as stored, `(frame, row, column)`."""
    shape = header.frames, header.rows, header.columns
    if pixels.decoder:
        return _decode(file.data[pixels.start : pixels.stop], header, file.syntax, pixels.decoder).reshape(shape)
    data, start, count = file.data, pixels.start, math.prod(shape)
    if pixels.dtype.itemsize == 1 and file.syntax == ExplicitVRBigEndian and file.elements.words:
        data, start = np.frombuffer(data, ">u2", (pixels.stop - start) // 2, start).astype("<u2").tobytes(), 0
    stored = np.frombuffer(data, pixels.dtype, count, start).reshape(shape)
    if pixels.dtype.kind == "f":
        if not np.isfinite(stored).all():
            raise ImageReadError("its pixel data contains NaN or infinity")
        return stored
    unused = header.bits_allocated - header.bits_stored
    return (stored << unused) >> unused if unused else stored


def _decoder(syntax: UID, bits_stored: int) -> str:
    """Return pydicom's name of the decoder to use, "" for native pixels.

    `ImageReadError` if the transfer syntax is unknown, `MissingDecoderError` if its decoder is not installed.
    """
    try:
        if not syntax.is_encapsulated:
            return ""
        available = get_decoder(syntax).available_plugins
    except (ValueError, NotImplementedError):
        raise ImageReadError("its transfer syntax is not supported; convert the file to an uncompressed one") from None
    usable = [name for name in _DECODERS if name in available]
    if syntax == JPEGExtended12Bit and bits_stored > 8:  # Pillow and GDCM decode 8 bits only
        usable = [name for name in usable if name == "pylibjpeg"]
    if not usable:
        raise MissingDecoderError(
            f"its pixels are compressed as {syntax.name}, which needs a decoder: {_decoder_advice(syntax)}"
        )
    return usable[0]


def _decoder_advice(syntax: UID) -> str:
    if syntax == JPEGExtended12Bit:
        return "pip install pylibjpeg pylibjpeg-libjpeg (GPL-licensed, so never installed for you)"
    if syntax in JPEGLSTransferSyntaxes:
        package = "pyjpegls"
    elif syntax in JPEGTransferSyntaxes:
        package = "python-gdcm"
    else:
        package = "pylibjpeg pylibjpeg-openjpeg"
    return f"pip install {package}, or the extra scintikit[dicom]"


def _decode(data: bytes, header: Header, syntax: UID, plugin: str) -> np.ndarray:
    """Return the pixels of an encapsulated file, `(frame, row, column)`."""
    _check_fragments(data)
    codestreams = list(generate_frames(data, number_of_frames=header.frames))
    if len(codestreams) != header.frames:
        raise ImageReadError(f"it holds {len(codestreams)} compressed frames, its header announces {header.frames}")
    if syntax != RLELossless:
        announced = (header.rows, header.columns, 1)
        for size in map(_codestream_size, codestreams):
            if size != announced:
                raise ImageReadError(
                    f"a compressed frame states (rows, columns, colours) {size}, the header announces {announced}"
                )
    options: dict[str, Any] = {
        "rows": header.rows,
        "columns": header.columns,
        "number_of_frames": header.frames,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": header.bits_allocated,
        "bits_stored": header.bits_stored,
        "pixel_representation": int(header.signed),
        "pixel_keyword": "PixelData",
    }
    stored, _ = get_decoder(syntax).as_array(data, decoding_plugin=plugin, **options)
    return stored


def _check_fragments(data: bytes) -> None:
    """Raise if the compressed data (PS3.5 A.4) is cut off; some decoders spend seconds on half a frame."""
    position = 0
    while position + 8 <= len(data):
        tag, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if tag == b"\xfe\xff\xdd\xe0":
            return
        if tag != b"\xfe\xff\x00\xe0":
            break
        position += 8 + length
    raise ImageReadError("its compressed pixel data is damaged or truncated")


def _codestream_size(data: bytes) -> tuple[int, int, int] | None:
    """Return `(rows, columns, colours)` as a JPEG, JPEG-LS or JPEG 2000 frame itself states; None if it does not.

    A decoder allocates what the frame states, so a damaged one has to be found out before.
    """
    start = data.find(b"\xff\x4f\xff\x51", 0, 1024)
    if start >= 0:  # JPEG 2000 (ISO 15444-1 A.5.1): the markers SOC and SIZ; a JP2 box may stand before them
        x1, y1, x0, y0, tile_x, tile_y, *_, colours = struct.unpack(">8IH", data[start + 8 : start + 42])
        if -(-x1 // tile_x) * -(-y1 // tile_y) > _MAX_TILES:
            raise ImageReadError(f"a compressed frame is cut into more than {_MAX_TILES} tiles")
        return y1 - y0, x1 - x0, colours
    position = 2
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker, length = struct.unpack(">xBH", data[position : position + 4])
        # Start of frame (ISO 10918-1 B.2.2, ISO 14495-1): C0 to CF without the tables C4, C8, CC; F7 is JPEG-LS.
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns, colours = struct.unpack(">xHHB", data[position + 4 : position + 10])
            return rows, columns, colours
        position += 2 + length
    return None
