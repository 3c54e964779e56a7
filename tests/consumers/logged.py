"""A local file that knows which pieces of it were read."""

import io

PIECE = 16 * 1024


class Logged(io.RawIOBase):
    """Read a local file as getm's reader would: raw, full reads, and no descriptor.

    Attributes:
        pieces: which 16 KiB pieces were read of, by number.
    """

    mode = "rb"

    def __init__(self, path):
        self._file = open(path, "rb")  # noqa: SIM115  # closed with this
        self.name = path.name
        self.size = path.stat().st_size
        self.pieces = set()

    @property
    def touched(self):
        """Count the bytes of these pieces."""
        return sum(min(PIECE, self.size - number * PIECE) for number in self.pieces)

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        return self._file.seek(offset, whence)

    def tell(self):
        return self._file.tell()

    def readinto(self, buffer):
        start = self._file.tell()
        count = self._file.readinto(buffer)
        if count:
            self.pieces.update(range(start // PIECE, (start + count - 1) // PIECE + 1))
        return count

    def read(self, size=-1):
        """Read as `RawIOBase.read` does, which refuses None."""
        return super().read(-1 if size is None else size)

    def close(self):
        super().close()
        self._file.close()
