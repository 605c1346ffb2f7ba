"""A heat map laid over a scintigram, without the cost of a whole figure."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image


def overlay_png(image: ArrayLike, heat: ArrayLike, zoom: int = 3) -> bytes:
    """Return a PNG with the scintigram on the left and the same with the heat map over it on the right.

    Parameters
    ----------
    image : array_like, shape (H, W)
        Scintigram with values in 0..1.
    heat : array_like, shape (H, W)
        Map with values in 0..1; the higher, the more opaque.
    zoom : int
        Enlargement.
    """
    grey = np.repeat(np.clip(np.asarray(image, dtype=float), 0, 1)[..., None], 3, axis=2)
    strength = np.clip(np.asarray(heat, dtype=float), 0, 1)
    opacity = 0.6 * strength[..., None]
    colours = np.asarray(matplotlib.colormaps["inferno"](strength))[..., :3]
    blended = (1 - opacity) * grey + opacity * colours
    pixels = (np.concatenate([grey, blended], axis=1) * 255).round().astype(np.uint8)
    picture = Image.fromarray(pixels).resize((pixels.shape[1] * zoom, pixels.shape[0] * zoom), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
