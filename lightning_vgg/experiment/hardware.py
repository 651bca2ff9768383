"""What run.json says of the machine, as far as no framework is needed to know it."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
import time
from pathlib import Path


def processor_name() -> str:
    """The processor's model name where the system tells it."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:
        cpuinfo = ""
    name = re.search(r"model name\s*:\s*(.+)", cpuinfo)
    return name[1] if name else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may run on, as far as the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resident_memory() -> int:
    """Bytes: the largest resident size of this process so far."""
    # Linux counts kilobytes, macOS bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def process_seconds() -> float:
    """Seconds since this process started, Python's own start included."""
    import psutil

    return time.time() - psutil.Process().create_time()
