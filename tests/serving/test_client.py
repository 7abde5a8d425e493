"""The client against a small real HTTP server that answers as vLLM does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from speculators.errors import StageError
from speculators.serving.client import ServerClient

MESSAGES = [{"role": "user", "content": "Hello"}]


class Answers(BaseHTTPRequestHandler):
    """Healthy from the third question on; completes with what it was asked."""

    probes = 0
    tokens = 0
    step = 1  # tokens made between two looks at the metrics

    def do_GET(self) -> None:
        if self.path == "/health":
            type(self).probes += 1
            self.answer(200 if self.probes > 2 else 503, {})
        elif self.path == "/metrics":
            type(self).tokens += self.step
            self.answer_text(f"vllm:prompt_tokens_total 4\nvllm:generation_tokens_total {self.tokens}\n")
        elif self.path == "/v1/models":
            self.answer(200, {"data": [{"id": "verifier"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            self.answer(200, {"tokens": [len(word) for word in body["prompt"].split()]})
        elif "hang" in body:
            time.sleep(4)
        elif "bad" in body:
            self.answer(400, {"error": {"message": "no such parameter"}})
        else:
            choice = {"message": {"content": None}, "token_ids": [5, 6], "finish_reason": "length"}
            self.answer(200, {"prompt_token_ids": [1, 2, body["temperature"]], "choices": [choice]})

    def answer_text(self, text: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def answer(self, status: int, document: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def client() -> Iterator[ServerClient]:
    Answers.probes = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield ServerClient(f"http://127.0.0.1:{server.server_port}", "verifier", 2.0)
        server.shutdown()


def test_waiting_ends_when_the_server_is_healthy(client: ServerClient) -> None:
    said: list[str] = []
    client.wait_until_healthy(30, said.append)
    assert Answers.probes == 3
    assert said[0].startswith("server healthy after")


def test_waiting_ends_at_the_time_out() -> None:
    with pytest.raises(StageError, match="not healthy within 0") as caught:
        ServerClient("http://127.0.0.1:1", "verifier", 2.0).wait_until_healthy(0, print)
    assert caught.value.rule == "server-not-ready"


def test_a_proxy_in_the_environment_is_not_asked(
    client: ServerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert client.models() == ["verifier"]


def test_completions_bring_the_ids(client: ServerClient) -> None:
    answer = client.complete(MESSAGES, {"temperature": 0})
    assert answer == ([1, 2, 0], [5, 6], "", "length")
    assert client.tokenize("one three") == [3, 5]


def test_a_refusal_shows_what_the_server_said(client: ServerClient) -> None:
    with pytest.raises(StageError, match=r"400.*no such parameter"):
        client.complete(MESSAGES, {"bad": True})


def test_a_server_that_does_not_answer_in_time_hangs(client: ServerClient) -> None:
    with pytest.raises(StageError, match=r"the server hangs: .*within 2 s") as caught:
        client.complete(MESSAGES, {"temperature": 0, "hang": True})
    assert caught.value.rule == "server-stalled"


def test_tokens_count_prompts_and_answers(client: ServerClient) -> None:
    before = client.tokens()
    assert before is not None
    assert before >= 4
    assert client.tokens() == before + 1
    assert ServerClient("http://127.0.0.1:1", "verifier", 2.0).tokens() is None
