"""The log of a job on Hugging Face: bytes from a stream of events.

The server tells a log from its beginning each time that it is asked, and goes on until
the job ends. So one connection is kept open for each job, read by a thread of its own,
and a new one skips what is known. A connection that breaks is never taken for an end.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator

from carl_bundle.errors import RemoteError

QUIET, LONG_QUIET = 1.5, 15.0  # seconds without news: of a job that runs, that ended
NOT_ITS_OWN = "===== Job started"
END = "===== carl: the end ====="
"""The last line, by the guard: a stream that lacks it may have been cut off."""


def lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """What a job printed, line by line, from a stream of server-sent events.

    An empty line, without even a line end, says that this was all.

    Raises:
        RemoteError: The stream ended within an event.
    """
    held = b""
    for chunk in chunks:
        *whole, held = (held + chunk).split(b"\n")  # and at no other kind of line end
        for line in whole:
            if line.startswith(b"data:"):
                said = _data(line)
                if said == END:
                    yield b""
                elif not said.startswith(NOT_ITS_OWN):
                    yield f"{said}\n".encode("utf-8", "backslashreplace")
    if held:
        raise RemoteError("the log was cut off", remedy="ask again")


def _data(line: bytes) -> str:
    try:
        return str(json.loads(line.removeprefix(b"data:"))["data"])
    except (ValueError, KeyError, TypeError) as error:
        raise RemoteError(
            "a line of the log came broken", remedy="ask again"
        ) from error


class Tail:
    """A log from byte `begin` on, as it comes through one connection.

    Attributes:
        begin: The first byte that is still kept.
        ended: Whether the job had ended when the connection was opened.
        least: Bytes that the log is known to have; None at the first look at it.
        seen: Bytes of it that came, with those before `begin`.
    """

    def __init__(
        self,
        open_stream: Callable[[], Iterator[bytes]],
        begin: int,
        ended: bool,
        least: int | None = None,
    ) -> None:
        self.begin, self.ended, self.least = begin, ended, least
        self.kept, self.brought = bytearray(), False
        self.seen, self.over, self.marked = 0, False, False
        self.wrong: Exception | None = None
        self.news = threading.Condition()
        self.heard = time.monotonic()
        threading.Thread(target=self._read, args=(open_stream,), daemon=True).start()

    @property
    def end(self) -> int:
        """The byte of the log that this one has come to."""
        return self.begin + len(self.kept)

    @property
    def is_final(self) -> bool:
        """Whether nothing can follow: by the guard's word, or by a second look."""
        looked = self.over and self.ended and self.wrong is None
        again = looked and self.least is not None
        return self.marked or (again and not self.brought)

    def _read(self, open_stream: Callable[[], Iterator[bytes]]) -> None:
        first = self.begin
        try:
            for line in lines(open_stream()):
                new = line[max(0, first - self.seen) :]
                with self.news:
                    self.seen += len(line)
                    self.marked = not line
                    self.kept += new
                    self.brought = self.brought or bool(new)
                    self.heard = time.monotonic()
                    self.news.notify_all()
                if self.marked:
                    break
            if self.seen < (self.least or 0):
                raise RemoteError("the log was cut off", remedy="ask again")
        except Exception as error:  # shown to whoever asks for the log
            self.wrong = error
        with self.news:
            self.over = True
            self.news.notify_all()

    def serves(self, offset: int) -> bool:
        """Whether what follows `offset` is here, may come, or surely is nothing."""
        coming = self.end > offset or not self.over
        return self.begin <= offset and (coming or self.is_final)

    def take(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset` on, none if there is no more for now.

        Raises:
            RemoteError: The connection broke before there were any.
        """
        quiet = LONG_QUIET if self.ended else QUIET
        with self.news:
            asked = time.monotonic()
            while not self.over and self.end <= offset:
                left = max(self.heard, asked) + quiet - time.monotonic()
                if left <= 0:
                    return b""
                self.news.wait(left)
            gone = min(offset - self.begin, len(self.kept))
            del self.kept[:gone]
            self.begin += gone
            found = bytes(self.kept[offset - self.begin :][:count])
        if not found and self.wrong is not None:
            raise self.wrong
        return found
