"""One connection: it turns bytes into requests, hands them on one at a time, and throws out who misbehaves.

Relies on ``head.py`` and ``chunks.py`` for the grammar. A body of announced length is read by the event loop straight
into the memory where the engine will find it, its tensor at a cache line.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

from deps.serve.front.chunks import ChunkedBody
from deps.serve.front.exchange import ARRIVAL, EXCHANGE, Exchange
from deps.serve.front.head import END, Head, parse_head
from deps.serve.refusals import RefusedError, body_too_large
from deps.serve.staging import aligned_bytes

if TYPE_CHECKING:
    from deps.serve.front.acceptor import Acceptor

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# What a client may send ahead while its last request is being answered; then it has to wait.
_AHEAD_BYTES = 1 << 16


class Connection(asyncio.BufferedProtocol):
    """The state of one client's connection."""

    def __init__(self, acceptor: Acceptor) -> None:
        self._acceptor = acceptor
        self._limits = acceptor.limits
        self._transport: asyncio.Transport | None = None
        self._client: tuple[str, int] | None = None
        self._server: tuple[str, int] | None = None
        self._ahead = b""  # bytes that came before they could be understood
        self._head: Head | None = None  # of a request whose body is arriving
        self._body: memoryview | None = None  # where a body of announced length is read to
        self._filled = 0
        self._chunks: ChunkedBody | None = None
        self._skipped = 0  # bytes of a refused body that are still to come
        self._refusal: RefusedError | None = None
        self._exchange: Exchange | None = None
        self._held_bytes = 0
        self._arrival = 0.0
        self._is_lingering = False
        self._writable: asyncio.Event | None = None
        self.due = 0.0
        """Moment by which something must have happened; infinite while the application works."""

        self.is_lost = False
        """Whether the client is gone."""

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; the first head must come soon."""
        self._transport = cast(asyncio.Transport, transport)
        self._client = _address(transport.get_extra_info("peername"))
        self._server = _address(transport.get_extra_info("sockname"))
        self.due = time.monotonic() + self._limits.head_s
        if not self._acceptor.enter(self):
            message = "too many connections; expected fewer; try later"
            self.answer_with(RefusedError(message, status=503, retry_after_s=1), closes=True)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio names it
        """End; whatever was being computed for this client is not wanted any more."""
        self.is_lost = True
        self._acceptor.leave(self)
        self._give_back()
        if self._exchange is not None:
            self._exchange.hang_up()
        if self._writable is not None:
            self._writable.set()

    def pause_writing(self) -> None:
        """The client takes its answer slowly; until it has caught up, its next request is not looked at."""
        self._writable = asyncio.Event()
        self.due = time.monotonic() + self._limits.write_s

    def resume_writing(self) -> None:
        """The client has caught up."""
        if self._writable is not None:
            self._writable.set()
        self._writable = None
        if self._exchange is not None:
            self.due = float("inf")
        elif not self._is_lingering and self._head is None:
            self._rest()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  asyncio names it
        """Return where the next bytes shall be read to."""
        if self._body is not None:
            return self._body[self._filled :]
        return self._acceptor.scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Understand what was read."""
        if self._body is not None:
            self._filled += nbytes
            if self._filled == len(self._body):
                self._begin(self._body)
            return
        if self._is_lingering:
            return
        if self._skipped >= nbytes:
            self._skipped -= nbytes
            if not self._skipped:
                self._advance()
            return
        content = bytes(self._acceptor.scratch[self._skipped : nbytes])
        self._skipped = 0
        if not self._ahead and self._exchange is None and self._head is None and self._writable is None:
            self._arrival = time.monotonic()
            self.due = self._arrival + self._limits.head_s
        self._ahead = self._ahead + content if self._ahead else content
        if self._exchange is None and self._writable is None:
            self._advance()
        elif len(self._ahead) > _AHEAD_BYTES and self._transport is not None:
            self._transport.pause_reading()

    # Requests

    def _advance(self) -> None:
        """Go on with what has arrived, until a request is whole or more must come."""
        try:
            if self._refusal is not None:
                if not self._skipped:
                    refusal, self._refusal = self._refusal, None
                    self._refuse(refusal, closes=False)
                return
            if self._chunks is not None:
                self._go_on_with_chunks()
                return
            while self._ahead.startswith(b"\r\n"):  # some clients end a body with a line of their own
                self._ahead = self._ahead[2:]
            end = self._ahead.find(END)
            if end < 0 or end + 4 > self._limits.max_head_bytes:
                if end >= 0 or len(self._ahead) > self._limits.max_head_bytes:
                    limit = self._limits.max_head_bytes
                    raise RefusedError(f"the headers are too long; expected at most {limit} bytes", status=431)
                return
            head, self._ahead = parse_head(self._ahead[: end + 4]), self._ahead[end + 4 :]
            self._expect_body(head)
        except RefusedError as error:
            self._refuse(error, closes=True)

    def _expect_body(self, head: Head) -> None:
        """Make room for the body that a head announces, and take what of it is there."""
        self._head = head
        if head.is_chunked:
            self._screen(head)
            self._chunks = ChunkedBody(self._limits.max_body_bytes)
            self._allow(head, self._limits.max_body_bytes)
            self._go_on_with_chunks()
            return
        if head.length > self._limits.max_body_bytes:
            raise body_too_large(self._limits.max_body_bytes)
        if not head.length:
            self._begin(b"")
            return
        if head.length > len(self._ahead):
            self._screen(head)
        try:
            self._hold(head.length)
        except RefusedError as refusal:
            if head.expects_continue:
                raise
            here = min(head.length, len(self._ahead))
            self._ahead, self._skipped, self._refusal = self._ahead[here:], head.length - here, refusal
            self._allow(head, head.length)
            if not self._skipped:
                self._advance()
            return
        here = min(head.length, len(self._ahead))
        if here == head.length:
            body = self._acceptor.pieces.cut(here, cut=head.json_length)
        else:
            body = aligned_bytes(head.length, cut=head.json_length).data
        body[:here] = self._ahead[:here]
        self._ahead = self._ahead[here:]
        if here == head.length:
            self._begin(body)
            return
        self._body, self._filled = body, here
        self._allow(head, head.length)

    def _screen(self, head: Head) -> None:
        """Refuse, while its body is still to come, what the head alone shows will be refused."""
        handler = self._acceptor.handler_of(head)
        if handler is not None:
            handler.screen()
        elif self._acceptor.screen is not None:
            self._acceptor.screen(head.scope())

    def _allow(self, head: Head, length: int) -> None:
        """Give the body its time, and the client its leave if it waits for it."""
        self.due = time.monotonic() + self._limits.body_s + length / self._limits.body_rate
        if head.expects_continue and not self._ahead and self._transport is not None:
            self._transport.write(_CONTINUE)

    def _go_on_with_chunks(self) -> None:
        assert self._chunks is not None
        content, self._ahead = self._ahead, b""
        self._ahead = self._chunks.feed(content)
        self._hold(len(self._chunks.body))
        if self._chunks.is_whole:
            body = memoryview(self._chunks.body)
            self._chunks = None
            self._begin(body)

    def _hold(self, size_bytes: int) -> None:
        """Count the memory of a body, unless all clients together hold too much already."""
        if not self._acceptor.hold(size_bytes - self._held_bytes):
            raise RefusedError(
                "too much is being received at once; expected less load; try later", status=503, retry_after_s=1
            )
        self._held_bytes = size_bytes

    def _give_back(self) -> None:
        self._acceptor.hold(-self._held_bytes)
        self._held_bytes = 0

    def _begin(self, body: memoryview | bytes) -> None:
        """Hand a whole request to what answers it."""
        head, self._head, self._body = self._head, None, None
        assert head is not None
        self.due = float("inf")
        handler = self._acceptor.handler_of(head)
        if handler is not None:
            self._exchange = exchange = Exchange(self, head, b"")
            handler.begin(exchange, body, self._arrival)
            return
        try:
            scope = head.scope()
        except RefusedError as error:
            self._refuse(error, closes=False)
            return
        scope["client"], scope["server"] = self._client, self._server
        self._exchange = scope[EXCHANGE] = Exchange(self, head, body)
        scope[ARRIVAL] = self._arrival
        self._exchange.start(self._acceptor.app, scope)

    # Responses

    @property
    def date(self) -> bytes:
        """The header that says what time it is."""
        return self._acceptor.date

    @property
    def is_stopping(self) -> bool:
        """Whether the server takes no more requests on this connection."""
        return self._acceptor.is_stopping

    @property
    def is_busy(self) -> bool:
        """Whether a request is arriving or being answered."""
        return bool(self._exchange or self._head or self._ahead or self._refusal)

    @property
    def is_full(self) -> bool:
        """Whether the client must take something before more is written."""
        return self._writable is not None

    async def drained(self) -> None:
        """Wait until the client took enough, or is gone."""
        if self._writable is not None:
            await self._writable.wait()

    def write(self, content: bytes) -> None:
        """Send bytes, if the client is still there."""
        if not self.is_lost and self._transport is not None:
            self._transport.write(content)

    def finish(self, exchange: Exchange) -> None:
        """Go on after a response: with the next request, or to the end."""
        if self._exchange is exchange:
            self._exchange = None
        self._give_back()
        if self.is_lost or self._is_lingering:
            return
        if not exchange.keeps_alive or self.is_stopping:
            self._linger()
            return
        self._rest()

    def _rest(self) -> None:
        """Go on with what was sent ahead, or wait for the next request."""
        now = time.monotonic()
        if self._writable is not None:
            self.due = now + self._limits.write_s  # whoever does not take its answers is not given more of them
        elif self._ahead:
            self._arrival = now
            self.due = now + self._limits.head_s
            asyncio.get_running_loop().call_soon(self._go_on)
        else:
            self.due = now + self._limits.idle_s
            self._read_on()

    def _go_on(self) -> None:
        if self._exchange or self._body is not None or self._writable or self.is_lost or self._is_lingering:
            return
        self._advance()
        if len(self._ahead) <= _AHEAD_BYTES:
            self._read_on()

    def _read_on(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def answer_with(self, refusal: RefusedError, *, closes: bool) -> None:
        """Answer without the application."""
        self.write(self._acceptor.refusal(refusal, closes=closes))
        if closes:
            self._linger()

    def _refuse(self, refusal: RefusedError, *, closes: bool) -> None:
        self._head, self._body, self._chunks = None, None, None
        self._give_back()
        self.answer_with(refusal, closes=closes or self.is_stopping)
        if not self._is_lingering:
            self._rest()

    def _linger(self) -> None:
        """Say that nothing more will come, and throw away what still arrives: closing at once could lose the answer."""
        self._is_lingering = True
        self._ahead = b""
        if self._transport is None:
            return
        is_sent = not self._transport.get_write_buffer_size()
        self.due = time.monotonic() + (self._limits.linger_s if is_sent else self._limits.write_s)
        try:
            self._transport.write_eof()
            self._transport.resume_reading()
        except (OSError, RuntimeError, NotImplementedError):
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection: the rest of a response cannot be given."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close, after what was written has been sent."""
        if self._transport is not None:
            self._transport.close()

    def stop(self, *, at_once: bool) -> None:
        """The server ends: an idle connection is closed, a busy one after its response, or at once."""
        if at_once:
            if self._exchange is not None:
                self._exchange.cancel()
            self.abort()
        elif not self.is_busy:
            self.close()

    def check_time(self, now: float) -> None:
        """Throw the client out if something took too long."""
        if now < self.due:
            return
        if self._is_lingering or self._writable is not None:
            self.abort()
        elif self._head is not None or self._ahead or self._refusal is not None:
            message = "the request took too long to arrive; expected it sooner; send it again"
            self.answer_with(RefusedError(message, status=408), closes=True)
        else:
            self.close()


def _address(name: object) -> tuple[str, int] | None:
    return (name[0], name[1]) if isinstance(name, tuple) else None
