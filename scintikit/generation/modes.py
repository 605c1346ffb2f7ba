"""Ways to sample one text-prompted diffusion model (arXiv 2503.00366: SD1 to SD4)."""

from __future__ import annotations

from dataclasses import dataclass

from scintikit.errors import ConfigError


@dataclass(frozen=True)
class Mode:
    """What a picture is drawn from.

    Attributes
    ----------
    kind
        Origin of its items.
    prompt
        Whether the source's prompt guides it.
    start
        Whether it starts from the source's "image", from a picture of its "mask", or from noise (None).
    use_masks
        Whether the network gets the source's mask as channels.
    """

    kind: str
    prompt: bool = True
    start: str | None = None
    use_masks: bool = False


MODES = {
    "sd1": Mode("sd1", start="image"),
    "sd2": Mode("sd2"),
    "sd3": Mode("sd3", prompt=False, start="image"),
    "sd4": Mode("sd4", use_masks=True),
    # The reference's way: the mask is nothing but the picture that sampling starts from.
    "sd4_plain": Mode("sd4", start="mask"),
}


def pick_mode(name: str, mask_channels: bool = True) -> Mode:
    """Return a mode by name.

    Parameters
    ----------
    name
        Of the mode.
    mask_channels
        Whether the network has channels for masks.

    Raises
    ------
    ConfigError
        If there is no such mode, or the network cannot do it.
    """
    try:
        mode = MODES[name]
    except KeyError:
        raise ConfigError(f"there is no mode {name!r}; choose one of {', '.join(MODES)}") from None
    if mode.use_masks and not mask_channels:
        raise ConfigError(
            f"mode {name} gives masks to the network, and this one has no channels for them; take sd4_plain, "
            "which starts from a picture of the mask"
        )
    return mode
