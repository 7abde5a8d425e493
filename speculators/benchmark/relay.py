"""One address before several servers, each of which is asked in its turn.

On a machine that others use too, the speed of one and the same server varies by a tenth from one half minute
to the next.  Requests that follow each other share it: so each prompt is asked of one server and right after
of the next.  GuideLLM talks to one server only; it is given this relay, which hands every answer on as it
comes, the same way for all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from speculators.serving.command import HOST

PIECE_BYTES = 1 << 16
#: What belongs to one connection and not to the answer (RFC 9110, section 7.6.1).
OF_A_CONNECTION = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})


class Turns:
    """Which server the next question goes to.

    ``order``: the server of each question, as its place in ``urls``; what is no question, as whether it is
    healthy, goes to the first.
    """

    def __init__(self, urls: Sequence[str], order: Sequence[int]) -> None:
        self._servers = [urlsplit(url).netloc for url in urls]
        self._order = order
        self._asked = 0
        self._lock = threading.Lock()

    @property
    def first(self) -> str:
        return self._servers[0]

    def next(self) -> str | None:
        """The server whose turn it is; None when all questions have been asked."""
        with self._lock:
            if self._asked == len(self._order):
                return None
            self._asked += 1
            return self._servers[self._order[self._asked - 1]]


@contextmanager
def relay(urls: Sequence[str], order: Sequence[int], patience: float) -> Iterator[str]:
    """An address that stands for the servers at ``urls`` while the context lasts.

    ``order``: as of ``Turns``; ``patience``: seconds in which a server must say something.
    """

    class Handler(_Handler):
        turns = Turns(urls, order)
        seconds = patience

    server = ThreadingHTTPServer((HOST, 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # a connection is kept, as it would be without a relay
    disable_nagle_algorithm = True  # a token goes on when it comes
    turns: Turns
    seconds: float

    def do_GET(self) -> None:
        self._hand_on()

    def do_POST(self) -> None:
        self._hand_on()

    def _hand_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server = self.turns.next() if self.command == "POST" else self.turns.first
        if server is None:
            self.send_error(409, "more questions than turns")
            return
        with closing(HTTPConnection(server, timeout=self.seconds)) as connection:
            try:
                connection.request(self.command, self.path, body or None, self._own(self.headers.items()))
                answer = connection.getresponse()
            except (OSError, HTTPException) as error:
                self.send_error(502, f"no answer from {server}: {error}")
                return
            self.send_response_only(answer.status, answer.reason)
            for name, value in self._own(answer.getheaders()).items():
                self.send_header(name, value)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                while piece := answer.read1(PIECE_BYTES):
                    self._write(piece)
                self._write(b"")
            except (OSError, HTTPException):
                # Half an answer must not look like a whole one: the last, empty chunk is missing.
                self.close_connection = True

    def _write(self, piece: bytes) -> None:
        """A chunk; the empty one ends the answer (RFC 9112, section 7.1)."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    @staticmethod
    def _own(headers: Any) -> dict[str, str]:
        return {name: value for name, value in headers if name.lower() not in OF_A_CONNECTION}

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the server has a log, and so has the client."""
