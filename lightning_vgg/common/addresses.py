"""Web addresses with a password or a token in them: used as they are, kept and said without."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit


def is_address(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def without_secrets(address: str) -> str:
    """``https://user:password@host:81/file?token=1`` -> ``https://host:81/file``."""
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
