"""The relay before several servers: whose turn it is, what passes through, what must not look whole."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from speculators.benchmark.relay import relay


class Server(BaseHTTPRequestHandler):
    """Streams its name and what it was asked, piece by piece; breaks off where it is asked to."""

    protocol_version = "HTTP/1.1"
    name = ""
    pause = 0.0

    def do_GET(self) -> None:
        self.answer([self.name.encode()])

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer([self.name.encode(), asked], breaks=asked == b"break")

    def answer(self, pieces: list[bytes], *, breaks: bool = False) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            time.sleep(self.pause)
        if not breaks:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = breaks

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def servers(*names: str, pause: float = 0.0) -> Iterator[list[str]]:
    running = []
    for name in names:
        handler = type("Named", (Server,), {"name": name, "pause": pause})
        running.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=running[-1].serve_forever, daemon=True).start()
    try:
        yield [f"http://127.0.0.1:{one.server_port}" for one in running]
    finally:
        for one in running:
            one.shutdown()
            one.server_close()


def ask(connection: http.client.HTTPConnection, body: str | None = None) -> tuple[int, str]:
    connection.request("GET" if body is None else "POST", "/v1/chat/completions", body)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_questions_go_to_the_servers_in_their_order_and_everything_else_to_the_first() -> None:
    with servers("plain", "draft") as urls, relay(urls, [0, 1, 1, 0], 5.0) as url:
        connection = http.client.HTTPConnection(urlsplit(url).netloc)  # one, kept, as GuideLLM's is
        asked = [ask(connection, body) for body in ("a", "b", None, "c", "d")]
    assert [text for _, text in asked] == ["plaina", "draftb", "plain", "draftc", "plaind"]


def test_a_question_beyond_the_last_turn_is_refused() -> None:
    with servers("plain") as urls, relay(urls, [0], 5.0) as url:
        connection = http.client.HTTPConnection(urlsplit(url).netloc)
        assert [ask(connection, "a")[0], ask(connection, "b")[0]] == [200, 409]


def test_a_token_goes_on_when_it_comes() -> None:
    with servers("plain", pause=0.5) as urls, relay(urls, [0], 5.0) as url:
        connection = http.client.HTTPConnection(urlsplit(url).netloc)
        connection.request("POST", "/", json.dumps({}))
        answer, times = connection.getresponse(), []
        while answer.read1():
            times.append(time.monotonic())
        headers = dict(answer.getheaders())
    assert len(times) == 2
    assert times[1] - times[0] > 0.3  # not both when the answer was whole
    assert headers["Content-Type"] == "text/event-stream"


def test_half_an_answer_does_not_look_like_a_whole_one() -> None:
    with servers("plain") as urls, relay(urls, [0], 5.0) as url:
        connection = http.client.HTTPConnection(urlsplit(url).netloc)
        connection.request("POST", "/", "break")
        answer = connection.getresponse()
        try:
            text = answer.read()
        except http.client.IncompleteRead as error:
            text = error.partial
        else:
            raise AssertionError(f"taken for whole: {text!r}")
    assert text == b"plainbreak"


def test_a_server_that_is_gone_is_an_error_of_the_request() -> None:
    with servers("plain") as urls:
        gone = urls[0]
    with relay([gone], [0], 5.0) as url:
        status, text = ask(http.client.HTTPConnection(urlsplit(url).netloc), "a")
    assert status == 502
    assert "no answer from" in text
