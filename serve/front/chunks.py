"""A body that comes in chunks: bytes as they arrive to the body they carry.

Relies on nothing. Strict: sizes are bare hexadecimal digits, lines end with CRLF, extensions and trailers are bounded
and thrown away.
"""

from __future__ import annotations

from deps.serve.refusals import RefusedError, body_too_large

_LONGEST_LINE = 4096
_MOST_TRAILERS = 64
_DIGITS = frozenset(b"0123456789abcdefABCDEF")


class ChunkedBody:
    """A body under construction."""

    def __init__(self, max_bytes: int) -> None:
        self.body = bytearray()
        """What has arrived so far."""

        self.is_whole = False
        """Whether the last chunk and the trailers were read."""

        self._max_bytes = max_bytes
        self._rest = b""
        self._wanted = 0  # bytes of the present chunk that are still to come, its line end included
        self._in_trailers = False
        self._trailers = 0

    def feed(self, content: bytes) -> bytes:
        """Take in what arrived; return what follows the body, once that is whole.

        Raises:
            RefusedError: malformed (400), or too large (413).
        """
        data = self._rest + content if self._rest else content
        at = 0
        while not self.is_whole:
            if self._wanted:
                at = self._take(data, at)
                if self._wanted:
                    break
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                if len(data) - at > _LONGEST_LINE:
                    raise RefusedError("a line between chunks is too long; expected a chunk's size")
                break
            self._line(data[at:end])
            at = end + 2
        self._rest = b"" if self.is_whole else data[at:]
        return data[at:] if self.is_whole else b""

    def _take(self, data: bytes, at: int) -> int:
        """Take what there is of the present chunk, whose last two bytes must be a line end."""
        content = max(0, self._wanted - 2)
        taken = data[at : at + content]
        self.body += taken
        self._wanted -= len(taken)
        at += len(taken)
        if self._wanted == 2 and len(data) - at >= 2:
            if data[at : at + 2] != b"\r\n":
                raise RefusedError("a chunk is longer than its size; expected a line end after it")
            self._wanted = 0
            return at + 2
        return at

    def _line(self, line: bytes) -> None:
        if self._in_trailers:
            self._trailers += 1
            if self._trailers > _MOST_TRAILERS or len(line) > _LONGEST_LINE:
                raise RefusedError("there are too many headers after the body; expected none")
            self.is_whole = not line
            return
        size, _, _ = line.partition(b";")
        size = size.rstrip(b" \t")
        if not size or len(size) > 15 or len(line) > _LONGEST_LINE or not _DIGITS.issuperset(size):
            raise RefusedError(f"a chunk's size is {line[:20]!r}; expected hexadecimal digits")
        length = int(size, 16)
        if len(self.body) + length > self._max_bytes:
            raise body_too_large(self._max_bytes)
        if length:
            self._wanted = length + 2
        else:
            self._in_trailers = True
