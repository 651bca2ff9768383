"""Locks between processes, whose files come and go."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from filelock import Timeout

from lightning_vgg.common.locks import transient_lock


def test_nobody_else_is_within_a_lock_whose_file_comes_and_goes(tmp_path: Path) -> None:
    """Threads with a lock each exclude one another as processes do."""
    within: list[int] = []
    most = 0

    def hold_often(number: int) -> int:
        nonlocal most
        held = 0
        while held < 40:
            with suppress(Timeout), transient_lock(tmp_path / ".lock", timeout=0):
                within.append(number)
                time.sleep(0.001)
                most = max(most, len(within))
                within.remove(number)
                held += 1
        return held

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(hold_often, range(4))) == [40] * 4
    assert most == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_a_killed_process_left_locks_nothing(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    with transient_lock(tmp_path / ".lock", timeout=0):
        pass
    assert list(tmp_path.iterdir()) == []
