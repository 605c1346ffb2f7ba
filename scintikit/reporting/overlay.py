"""Heat maps laid over a scintigram, without the cost of a whole figure."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from scintikit.reporting.figures import HEAT

COMPRESSION = 4  # of 9: beyond it a PNG takes more than twice the time and is a tenth smaller
LINE = 11  # pixels before enlargement: height of the titles


def overlay_png(
    image: ArrayLike, heat: ArrayLike, zoom: int = 3, *, field: str = "dark", titles: Sequence[str] = ()
) -> bytes:
    """Return a PNG with the scintigram on the left and, right of it, the same under each heat map.

    Parameters
    ----------
    image : array_like, shape (H, W)
        Scintigram with values in 0..1.
    heat : array_like, shape (H, W) or (K, H, W)
        Maps with values in 0..1; the higher, the more opaque.
    zoom : int
        Enlargement.
    field : str
        "dark": counts shine on black; "inverted": counts are dark on white, as on film.
    titles : sequence of str
        Text above each of the 1 + K pictures; none if empty.
    """
    values = np.clip(np.asarray(image, dtype=float), 0, 1)
    grey = np.repeat((values if field == "dark" else 1 - values)[..., None], 3, axis=2)
    panels = [grey]
    for strength in np.clip(np.asarray(heat, dtype=float), 0, 1).reshape(-1, *values.shape):
        opacity = 0.6 * strength[..., None]
        colours = np.asarray(matplotlib.colormaps[HEAT[field]](strength))[..., :3]
        panels.append((1 - opacity) * grey + opacity * colours)
    pixels = (np.concatenate(panels, axis=1) * 255).round().astype(np.uint8)
    picture = Image.fromarray(pixels).resize((pixels.shape[1] * zoom, pixels.shape[0] * zoom), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    _titled(picture, titles, zoom, field).save(buffer, "PNG", compress_level=COMPRESSION)
    return buffer.getvalue()


def side_by_side(views: ArrayLike) -> np.ndarray:
    """Return views `(..., V, H, W)` of one patient as one picture `(..., H, V * W)`."""
    return np.concatenate(np.moveaxis(np.asarray(views), -3, 0), axis=-1)


def enlarge(maps: ArrayLike, size: Sequence[int]) -> np.ndarray:
    """Return maps `(..., h, w)` at the picture's `size` (H, W), bilinear."""
    values = np.asarray(maps, dtype=float)
    factors = [1.0] * (values.ndim - 2) + [n / o for n, o in zip(size, values.shape[-2:], strict=True)]
    return ndimage.zoom(values, factors, order=1, mode="nearest", grid_mode=True)


def _titled(picture: Image.Image, titles: Sequence[str], zoom: int, field: str) -> Image.Image:
    if not titles:
        return picture
    paper, ink = ("black", "white") if field == "dark" else ("white", "black")
    page = Image.new("RGB", (picture.width, picture.height + LINE * zoom), paper)
    page.paste(picture, (0, LINE * zoom))
    for number, title in enumerate(titles):
        place = (number * picture.width // len(titles) + 2 * zoom, 0)
        ImageDraw.Draw(page).text(place, title, fill=ink, font=ImageFont.load_default(0.75 * LINE * zoom))
    return page
