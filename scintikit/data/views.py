"""Anterior and posterior views of one patient, pixel on pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def mirror_posterior(x: torch.Tensor) -> torch.Tensor:
    """Return `x` `(..., 2, H, W)` with the columns of its second view reversed; twice gives `x` again.

    A posterior view is displayed as seen from behind, so the patient's left is at the other side of the picture than in
    the anterior view. Mirrored, both views show the same place of the body at the same pixel.
    """
    anterior, posterior = x.split(1, dim=-3)
    return torch.cat([anterior, posterior.flip(-1)], dim=-3)


def body_frame(x: torch.Tensor, views: Sequence[str]) -> torch.Tensor:
    """Return `x` `(..., views, H, W)`, as displayed, so that its views agree about the patient's sides; and back again.

    Views ANT and POST do after `mirror_posterior`. Any other set of views stays as it is displayed.
    """
    return mirror_posterior(x) if tuple(views) == ("ANT", "POST") else x
