"""glibc's malloc, told when to keep memory and when to give it back."""

from __future__ import annotations

import ctypes
import platform

RETAINED_BYTES = 1 << 30
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> None:
    """Let malloc keep what is freed for the next layer, instead of giving it back to the kernel and
    faulting it in anew, page by page: 11 % of a step on CPU (glibc only). `return_freed_memory`
    then has to be called between steps, or fragments of ever new sizes pile up."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, RETAINED_BYTES)
        libc.mallopt(M_MMAP_THRESHOLD, RETAINED_BYTES)


def return_freed_memory() -> None:
    """Give back to the kernel what is free now (glibc only)."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
