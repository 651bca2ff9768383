"""Plain values: what YAML and JSON hold."""

from __future__ import annotations

from typing import Any

PlainDict = dict[str, Any]
"""Settings, records or findings by their names; values are as YAML or JSON has them."""
