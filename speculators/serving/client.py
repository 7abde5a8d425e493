"""Talking to a running server: is it ready, what does it count, what does it answer.

Only the standard library: the same few lines run in any environment a benchmark client lives in.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple

from speculators.errors import StageError
from speculators.serving.metrics import SpecCounters, read_spec_counters

POLL_SECONDS = 0.5
PROBE_SECONDS = 5.0
ANSWER_SECONDS = 600.0

# Never through a proxy that the environment names: the server is on the loopback address.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Completion(NamedTuple):
    """One answer with the ids that the engine really saw and produced."""

    prompt_token_ids: list[int]
    output_token_ids: list[int]
    text: str
    finish_reason: str


class ServerClient:
    """A client of one OpenAI-compatible vLLM server at ``url``, which serves ``model``."""

    def __init__(self, url: str, model: str) -> None:
        self.url = url.rstrip("/")
        self.model = model

    def healthy(self) -> bool:
        """Whether /health answers 200 now."""
        try:
            with _OPENER.open(f"{self.url}/health", timeout=PROBE_SECONDS) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def wait_until_healthy(self, timeout: float, say: Callable[[str], None]) -> float:
        """Wait for /health; the seconds it took.

        A server that dies meanwhile is noticed by the executor, which holds its process.

        Raises:
            StageError: not healthy within ``timeout`` seconds.
        """
        started = time.monotonic()
        while not self.healthy():
            waited = time.monotonic() - started
            if waited > timeout:
                raise StageError(
                    f"the server at {self.url} was not healthy within {timeout:g} s",
                    hint="raise engine.startup_timeout, or see the server's log for what it is doing",
                    rule="server-not-ready",
                )
            time.sleep(POLL_SECONDS)
        seconds = time.monotonic() - started
        say(f"server healthy after {seconds:.1f} s")
        return seconds

    def models(self) -> list[str]:
        """The names the server answers to."""
        return [entry["id"] for entry in self._json("/v1/models")["data"]]

    def counters(self) -> SpecCounters | None:
        """The speculation counters now; None when the server does not speculate."""
        with _OPENER.open(f"{self.url}/metrics", timeout=ANSWER_SECONDS) as answer:
            return read_spec_counters(answer.read().decode())

    def tokenize(self, text: str) -> list[int]:
        """Token ids of ``text`` by the server's own tokenizer, without special tokens."""
        body = {"model": self.model, "prompt": text, "add_special_tokens": False}
        ids: list[int] = self._json("/tokenize", body)["tokens"]
        return ids

    def complete(self, messages: list[dict[str, Any]], body: dict[str, Any]) -> Completion:
        """One chat completion, not streamed, with its token ids."""
        request = {"model": self.model, "messages": messages, "return_token_ids": True, **body}
        answer = self._json("/v1/chat/completions", request)
        choice = answer["choices"][0]
        return Completion(
            answer["prompt_token_ids"],
            choice["token_ids"],
            choice["message"]["content"] or "",
            choice["finish_reason"],
        )

    def _json(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with _OPENER.open(request, timeout=ANSWER_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            detail = error.read().decode(errors="replace")[:500]
            raise StageError(f"{path} answered {error.code}: {detail}", rule="server-refused") from error
        except urllib.error.URLError as error:
            raise StageError(f"{path}: {error.reason}", rule="server-refused") from error
