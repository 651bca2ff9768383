"""The machine, without a framework: its description in run.json, and how freed memory is kept."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
import time
from pathlib import Path

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def processor_name() -> str:
    """The processor's model name, if the system reports one."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:
        cpuinfo = ""
    name = re.search(r"model name\s*:\s*(.+)", cpuinfo)
    return name[1] if name else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may run on, if the system reports them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_of_machine(jobs: int) -> dict[str, str]:
    """Variables for each of several processes; TensorFlow gets as many threads as torch.

    A single process gets the user's OMP_NUM_THREADS, or each framework's default.
    """
    variables: dict[str, str] = {}
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, usable_cores() // jobs)) if jobs > 1 else None)
    if threads is not None:
        variables |= {"OMP_NUM_THREADS": threads, "TF_NUM_INTRAOP_THREADS": threads}
    if jobs > 1:
        variables["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # or the first process takes the whole GPU
    return variables


def resident_memory() -> int:
    """Bytes: the largest resident size of this process so far."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource  # psutil knows the largest size on Windows alone

    # Linux counts kilobytes, macOS bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees, for the next tensors, instead of handing it back to the system.

    glibc returns freed blocks above 32 MB at once, smaller ones when they lie at the end of its heap. A training step
    allocates the same activations over and over, and each time the system maps and clears their pages again: 5 to 20 %
    of a step on a CPU (benchmarks/NOTES.md). Does nothing where the C library is another one.

    Source: mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD.
    """
    if platform.libc_ver()[0] == "glibc":
        c_library = ctypes.CDLL(None)
        c_library.mallopt(_M_MMAP_MAX, 0)
        c_library.mallopt(_M_TRIM_THRESHOLD, -1)


def process_seconds() -> float:
    """Seconds since this process started, Python's own start included."""
    import psutil

    return time.time() - psutil.Process().create_time()
