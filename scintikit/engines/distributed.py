"""Several processes, one for each GPU, as `torchrun` starts them."""

from __future__ import annotations

import os

import ignite.distributed as idist
import torch
import torch.distributed as dist


def start_processes() -> torch.device:
    """Join the process group that `torchrun` describes and return this process's device.

    Uses NCCL with one GPU for each process, or gloo on the CPU. Ignite must learn of the group on every rank before any
    of its metrics is used, or the ranks wait for each other for ever.

    Raises
    ------
    RuntimeError
        If it was not started by torchrun (torch names the missing environment variable).
    """
    cuda = torch.cuda.is_available()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    idist.sync()
    if not cuda:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


def stop_processes() -> None:
    """Wait for the processes of the group, then leave it.

    Only one of them previews, measures and writes. Another that ended meanwhile, with the group's threads still
    running, was now and then aborted on its way out, which torchrun takes for the failure of all.
    """
    dist.barrier()
    dist.destroy_process_group()
