"""TorchScript files: the same outputs, the same bytes, and nothing of the machine that wrote them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from scintikit.engines import export_torchscript
from scintikit.errors import ConfigError


class Block(nn.Module):
    def __init__(self, inward: int, out: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inward, out, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolution(x).relu()


class Denoiser(nn.Module):
    """Two blocks of one class, whose names torch tells apart by a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Block(1, 4), Block(4, 1)

    def forward(self, x: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        t = x.new_zeros(x.shape[0]) if t is None else t
        return self.second(self.first(x)) + t[:, None, None, None]


class Untraced(Denoiser):
    """Of a class that no other test traces: torch gives the first trace in a process another name."""


def _network(kind: type[nn.Module] = Denoiser) -> nn.Module:
    torch.manual_seed(0)
    return kind()


def test_the_file_gives_what_the_network_gives_for_any_batch(tmp_path: Path) -> None:
    network, path = _network().eval(), tmp_path / "model.ts"
    export_torchscript(network, path, [torch.rand(2, 1, 8, 8), torch.rand(2)])
    traced = torch.jit.load(path)
    x, t = torch.rand(5, 1, 8, 8), torch.rand(5)
    with torch.no_grad():
        torch.testing.assert_close(traced(x, t), network(x, t))
    assert traced.state_dict().keys() == network.state_dict().keys()


def test_bytes_tell_nothing_of_machine_folder_and_earlier_traces(tmp_path: Path) -> None:
    paths = [tmp_path / "here.ts", tmp_path / "another folder" / "there.ts"]
    export_torchscript(_network(Untraced), paths[0], [torch.rand(2, 1, 8, 8)])
    for _ in range(12):  # the classes' numbers get more digits
        torch.jit.trace(_network(Untraced), torch.rand(1, 1, 8, 8))
    training = _network(Untraced).train().to(memory_format=torch.channels_last)
    export_torchscript(training, paths[1], [torch.rand(2, 1, 8, 8)])
    assert training.training
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with zipfile.ZipFile(paths[0]) as archive:
        assert not [name for name in archive.namelist() if "debug" in name]
        readable = b"".join(archive.read(name) for name in archive.namelist() if name.endswith((".py", ".pkl")))
    assert b"Block" in readable
    for trace in (b"/", b"test_torchscript.py", b"site-packages"):
        assert trace not in readable


def test_a_network_that_cannot_be_traced_is_refused(tmp_path: Path) -> None:
    class Counting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + len(x)

    with pytest.raises(ConfigError, match="batch of 4 gives other outputs"):
        export_torchscript(Counting(), tmp_path / "model.ts", [torch.rand(2, 3)])
    assert not (tmp_path / "model.ts").exists()
