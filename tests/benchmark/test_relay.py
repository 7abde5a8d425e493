"""The relay before several servers: whose turn it is, what passes through, what must not look whole."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

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
        self.answer([self.name.encode(), asked], breaks=b"break" in asked)

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


class Quiet(ThreadingHTTPServer):
    """Says nothing of a relay that left it early."""

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@contextmanager
def servers(*names: str, pause: float = 0.0) -> Iterator[list[str]]:
    running: list[Quiet] = []
    for name in names:
        handler = type("Named", (Server,), {"name": name, "pause": pause})
        running.append(Quiet(("127.0.0.1", 0), handler))
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


def question(messages: str) -> str:
    return json.dumps({"messages": messages})


def test_questions_go_to_the_servers_in_their_order_and_everything_else_to_the_first() -> None:
    with servers("plain", "draft") as urls, relay(urls, [0, 1, 1, 0]) as (url, asked):
        connection = http.client.HTTPConnection(urlsplit(url).netloc)
        answers = [
            ask(connection, body)
            for body in (question("a"), question("b"), None, question("c"), question("d"))
        ]
    assert [text for _, text in answers] == [
        "plain" + question("a"),
        "draft" + question("b"),
        "plain",
        "draft" + question("c"),
        "plain" + question("d"),
    ]
    assert asked == ["a", "b", "c", "d"]


def test_a_question_beyond_the_last_turn_is_refused() -> None:
    with servers("plain") as urls, relay(urls, [0]) as (url, _):
        connection = http.client.HTTPConnection(urlsplit(url).netloc)
        assert [ask(connection, question(one))[0] for one in "ab"] == [200, 409]


def test_a_token_goes_on_when_it_comes() -> None:
    with servers("plain", pause=0.5) as urls, relay(urls, [0]) as (url, _):
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
    with servers("plain") as urls, relay(urls, [0]) as (url, _):
        connection = http.client.HTTPConnection(urlsplit(url).netloc)
        connection.request("POST", "/", question("break"))
        answer = connection.getresponse()
        with pytest.raises(http.client.IncompleteRead) as caught:
            answer.read()
    assert caught.value.partial == b"plain" + question("break").encode()


def test_a_server_that_is_gone_is_an_error_of_the_request() -> None:
    with servers("plain") as urls:
        gone = urls[0]
    with relay([gone], [0]) as (url, _):
        status, text = ask(http.client.HTTPConnection(urlsplit(url).netloc), question("a"))
    assert status == 502
    assert "no answer from" in text


@pytest.mark.parametrize("sent", [100, 1000])
def test_an_answer_of_a_told_length_is_handed_on_as_one(sent: int) -> None:
    class Sized(Server):
        def do_POST(self) -> None:
            self.send_response(400)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * sent)
            self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Sized)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with server, relay([f"http://127.0.0.1:{server.server_port}"], [0]) as (url, _):
        connection = http.client.HTTPConnection(urlsplit(url).netloc)
        connection.request("POST", "/", question("a"))
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("Content-Length")) == (400, "1000")
        if sent == 1000:
            assert len(answer.read()) == 1000
        else:
            with pytest.raises(http.client.IncompleteRead):
                answer.read()
        server.shutdown()


def test_a_client_that_leaves_early_is_no_fault(capfd: pytest.CaptureFixture[str]) -> None:
    with servers("plain", pause=0.3) as urls, relay(urls, [0, 0]) as (url, _):
        with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0)) as gone:
            body = question("a").encode()
            gone.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            gone.recv(10)
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        time.sleep(0.8)
        connection = http.client.HTTPConnection(urlsplit(url).netloc)
        assert ask(connection, question("b"))[0] == 200
    assert "Traceback" not in capfd.readouterr().err
