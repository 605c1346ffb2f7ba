"""Memory that one training step frees, and the next one needs again."""

from __future__ import annotations

import ctypes
import platform

# Options of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEEP = ((_TRIM_THRESHOLD, -1), (_MMAP_MAX, 0))
# Where glibc's own adaptation ends once large blocks have come and gone.
_HAND_BACK = ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 64 << 20), (_MMAP_MAX, 65536))


def keep_freed_memory(keep: bool = True) -> None:
    """Let this process keep the blocks that it frees, or hand them back to the system as glibc does by itself.

    The tensors of a step on the CPU are tens of megabytes each. glibc hands such blocks back as soon as they are free,
    and the kernel has to find and zero every page of the next ones, which costs up to a third of the step. If they are
    kept, the process holds on to the most that it has needed so far.

    Without effect on memory of a GPU and with another C library than glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for option, value in _KEEP if keep else _HAND_BACK:
        libc.mallopt(option, value)
    if not keep:
        libc.malloc_trim(0)
