"""Blobs and outcome values with the byte layouts that the scripts rely on, made by hand, without the codec."""

from __future__ import annotations

import hashlib

from qworker.model import Line

NOBODY = " " * 12


def make_blob(
    content: bytes = b"x", *, line: Line | None = None, client: str = NOBODY, sent_ms: int = 0, size: int = 0
) -> bytes:
    """A task as it is stored: the fixed prefix, an empty header, and `content` (padded to `size`) as its body."""
    body = content.ljust(size, b".")
    digest = hashlib.blake2b(body, digest_size=8).digest()
    code = (line or Line()).code.encode()
    return digest + code + client.encode() + sent_ms.to_bytes(8, "big") + (0).to_bytes(2, "big") + body


def make_value(text: bytes = b"done", *, blob: bytes = b"\0" * 8, claim: str = "-" * 12) -> bytes:
    """An outcome as it is stored: digest and claim at their fixed places, then anything."""
    return b"\x93\xc4\x08" + blob[:8] + b"\xac" + claim.encode() + _text(text)


def _text(text: bytes) -> bytes:
    return b"\xd9" + bytes([len(text)]) + text if len(text) < 256 else b"\xda" + len(text).to_bytes(2, "big") + text
