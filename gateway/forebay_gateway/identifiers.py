"""Random 16-byte values: invocation ids, which are version 4 UUIDs, and reply tokens, which are secrets."""

import os

ID_BYTES = 16
_BLOCK_BYTES = ID_BYTES * 256
_UUID_MASK = ~(0xF000 << 64 | 0xC000 << 48)
_UUID_BITS = 0x4000 << 64 | 0x8000 << 48


class RandomSource:
    """Slices of the kernel's random bytes, read a block at a time: a system call for each value costs more."""

    __slots__ = ("_block", "_offset")

    def __init__(self) -> None:
        self._block = b""
        self._offset = 0

    def take(self) -> bytes:
        """16 random bytes, never given twice."""
        start = self._offset
        if start >= len(self._block):
            self._block = os.urandom(_BLOCK_BYTES)
            start = 0
        self._offset = start + ID_BYTES
        return self._block[start : start + ID_BYTES]

    def uuid(self) -> bytes:
        """The 16 bytes of a version 4 UUID."""
        return (int.from_bytes(self.take(), "big") & _UUID_MASK | _UUID_BITS).to_bytes(ID_BYTES, "big")


def uuid_text(value: bytes) -> str:
    """16 bytes in the text form of a UUID, lower-case."""
    digits = value.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
