"""Pixel data: native, or through the decoders that pydicom knows."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
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

from scintikit.dicom.header import Header, T, raw
from scintikit.errors import ImageReadError, MissingDecoderError

# In order of preference. GDCM comes last: a damaged JPEG-LS frame makes it abort the process.
_DECODERS = ("pydicom", "pylibjpeg", "pyjpegls", "pillow", "gdcm")
_KINDS = {T.FLOAT_PIXELS: "f4", T.DOUBLE_PIXELS: "f8", T.PIXELS: ""}


def check_decodable(syntax: UID, bits_stored: int) -> str:
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


def read_pixels(dataset: Dataset, header: Header, syntax: UID) -> np.ndarray:
    """Return the pixels as stored, `(frame, row, column)`."""
    present = [(kind, element) for tag, kind in _KINDS.items() if (element := raw(dataset, tag)) is not None]
    if len(present) != 1:
        raise ImageReadError("it has several kinds of pixel data" if present else "it has no pixel data")
    kind, element = present[0]
    plugin = check_decodable(syntax, header.bits_stored)
    if plugin:
        return _decode(element.value or b"", header, syntax, plugin)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    return _native(element.value or b"", header, order, kind)


def _native(data: bytes, header: Header, order: str, kind: str) -> np.ndarray:
    dtype = np.dtype(order + (kind or f"{'i' if header.signed else 'u'}{header.bits_allocated // 8}"))
    if dtype.itemsize * 8 != header.bits_allocated:
        raise ImageReadError("the kind of pixel data contradicts BitsAllocated")
    if not header.bytes <= len(data) <= header.bytes + header.bytes % 2:
        raise ImageReadError(f"its pixel data has {len(data)} bytes, its header announces {header.bytes}")
    count = header.bytes // dtype.itemsize
    stored = np.frombuffer(data, dtype, count).reshape(header.frames, header.rows, header.columns)
    if kind:
        if not np.isfinite(stored).all():
            raise ImageReadError("its pixel data contains NaN or infinity")
        return stored
    unused = header.bits_allocated - header.bits_stored
    return (stored << unused) >> unused if unused else stored


def _decode(data: bytes, header: Header, syntax: UID, plugin: str) -> np.ndarray:
    """Return the pixels of an encapsulated file, `(frame, row, column)`."""
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
    return stored.reshape(header.frames, header.rows, header.columns)


def _codestream_size(data: bytes) -> tuple[int, int, int] | None:
    """Return `(rows, columns, colours)` as a JPEG, JPEG-LS or JPEG 2000 frame itself states; None if it does not.

    A decoder allocates what the frame states, so a damaged one has to be found out before.
    """
    start = data.find(b"\xff\x4f\xff\x51", 0, 1024)
    if start >= 0:  # JPEG 2000 (ISO 15444-1 A.5.1): the markers SOC and SIZ; a JP2 box may stand before them
        x1, y1, x0, y0, *_, colours = struct.unpack(">8IH", data[start + 8 : start + 42])
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
