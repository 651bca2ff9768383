"""Commands that are killed at random moments and given again end like those that nobody disturbed; see chaos.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    """In a process of its own: the killed ones are forked from one that has not run anything yet.

    ``make chaos`` kills more often, tune and compare, too; here these have tests of their own.
    """
    result = subprocess.run(
        [sys.executable, Path(__file__).parent / "chaos.py", "--kills", "3", "--most", "1", "--seed", "3"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for name in ("fit from scratch", "fine-tuning across unfreezing", "embeddings"):
        assert f"kills survived by {name}\n" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("3 kills survived")
