"""One address before several servers, each of which is asked in its turn.

On a machine that others use too, the speed of one and the same server varies by a tenth from one half minute
to the next.  Requests that follow each other share it: so each prompt is asked of one server and right after
of the next.  GuideLLM talks to one server only; it is given this relay, which hands every answer on as it
comes, the same way for all.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from speculators.serving.command import HOST

PIECE_BYTES = 1 << 16
#: What belongs to one connection and not to what goes over it (RFC 9110, section 7.6.1).
OF_A_CONNECTION = frozenset({"connection", "keep-alive", "transfer-encoding"})
LENGTH = "content-length"


class Relay(NamedTuple):
    """A running relay: its address, and the messages of each question that it was asked so far, in order."""

    url: str
    asked: Sequence[Any]


class Turns:
    """Which server the next question goes to.

    ``order``: the server of each question, as its place in ``urls``; what is no question, as whether it is
    healthy, goes to the first.
    """

    def __init__(self, urls: Sequence[str], order: Sequence[int]) -> None:
        self._servers = [urlsplit(url).netloc for url in urls]
        self._order = order
        self.asked: list[Any] = []
        self._lock = threading.Lock()

    @property
    def first(self) -> str:
        return self._servers[0]

    def next(self, question: bytes) -> str | None:
        """The server whose turn it is; None when all questions have been asked."""
        with self._lock:
            place = len(self.asked)
            self.asked.append(json.loads(question).get("messages"))
            return self._servers[self._order[place]] if place < len(self._order) else None


@contextmanager
def relay(urls: Sequence[str], order: Sequence[int]) -> Iterator[Relay]:
    """An address that stands for the servers at ``urls`` while the context lasts; ``order``: as of ``Turns``.

    It waits for a server as long as its client does: who watches the servers sees one that hangs.
    """

    class Handler(_Handler):
        turns = Turns(urls, order)

    server = _Server((HOST, 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Relay(f"http://{HOST}:{server.server_port}", Handler.turns.asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing of a client that has gone: GuideLLM leaves once it has read the last token."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # a client may keep its connection, as a server lets it
    disable_nagle_algorithm = True  # a token goes on when it comes
    turns: Turns

    def do_GET(self) -> None:
        self._hand_on(self.turns.first, b"")

    def do_POST(self) -> None:
        question = self.rfile.read(int(self.headers.get(LENGTH) or 0))
        if (server := self.turns.next(question)) is None:
            self.send_error(409, "more questions than turns")
        else:
            self._hand_on(server, question)

    def _hand_on(self, server: str, body: bytes) -> None:
        with closing(HTTPConnection(server)) as connection:
            try:
                connection.request(self.command, self.path, body or None, _own(self.headers.items(), LENGTH))
                answer = connection.getresponse()
            except (OSError, HTTPException) as error:
                self.send_error(502, f"no answer from {server}: {error}")
                return
            self.send_response_only(answer.status, answer.reason)
            for name, value in _own(answer.getheaders()).items():
                self.send_header(name, value)
            if answer.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            elif answer.length is None:  # its end is that of the connection
                self.send_header("Connection", "close")
            self.end_headers()
            # Half an answer must not look like a whole one: its end is then missing.
            self.close_connection |= not self._hand_back(answer)

    def _hand_back(self, answer: HTTPResponse) -> bool:
        """Write the body as it comes; whether it came whole."""
        try:
            while piece := answer.read1(PIECE_BYTES):
                self._write(piece, chunked=answer.chunked)
        except (OSError, HTTPException):
            return False
        if answer.chunked:
            self._write(b"", chunked=True)
        return not answer.length  # of a body whose length was told, what is left of it

    def _write(self, piece: bytes, *, chunked: bool) -> None:
        """A piece; as a chunk the empty one ends the answer (RFC 9112, section 7.1)."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the server has a log, and so has the client."""


def _own(headers: Iterable[tuple[str, str]], *but: str) -> dict[str, str]:
    """Those of ``headers`` that are no connection's, and none of ``but``."""
    return {name: value for name, value in headers if name.lower() not in OF_A_CONNECTION.union(but)}
