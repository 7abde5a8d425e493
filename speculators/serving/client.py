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
from speculators.serving.metrics import SpecCounters, read_spec_counters, read_tokens

POLL_SECONDS = 0.5
PROBE_SECONDS = 5.0
#: A server that needs longer for a token of an answer counts as hung.
SECONDS_PER_TOKEN = 4.0

# Never through a proxy that the environment names: the server is on the loopback address.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Completion(NamedTuple):
    """One answer with the ids that the engine really saw and produced."""

    prompt_token_ids: list[int]
    output_token_ids: list[int]
    text: str
    finish_reason: str


class ServerClient:
    """A client of one OpenAI-compatible vLLM server at ``url``, which serves ``model``.

    ``patience``: seconds until a server that says nothing counts as hung.
    """

    def __init__(self, url: str, model: str, patience: float) -> None:
        self.url = url.rstrip("/")
        self.model = model
        self.patience = patience

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
        return read_spec_counters(self._metrics(self.patience))

    def tokens(self) -> int | None:
        """Tokens that the server has worked on so far; None when it does not answer at once."""
        try:
            return read_tokens(self._metrics(PROBE_SECONDS))
        except StageError:
            return None

    def tokenize(self, text: str) -> list[int]:
        """Token ids of ``text`` by the server's own tokenizer, without special tokens."""
        body = {"model": self.model, "prompt": text, "add_special_tokens": False}
        ids: list[int] = self._json("/tokenize", body)["tokens"]
        return ids

    def complete(self, messages: list[dict[str, Any]], body: dict[str, Any]) -> Completion:
        """One chat completion, not streamed, with its token ids."""
        request = {"model": self.model, "messages": messages, "return_token_ids": True, **body}
        patience = self.patience + SECONDS_PER_TOKEN * body.get("max_completion_tokens", 0)
        answer = self._json("/v1/chat/completions", request, patience)
        choice = answer["choices"][0]
        return Completion(
            answer["prompt_token_ids"],
            choice["token_ids"],
            choice["message"]["content"] or "",
            choice["finish_reason"],
        )

    def _metrics(self, timeout: float) -> str:
        return self._read("/metrics", None, timeout).decode()

    def _json(self, path: str, body: dict[str, Any] | None = None, timeout: float | None = None) -> Any:
        return json.loads(self._read(path, body, timeout or self.patience))

    def _read(self, path: str, body: dict[str, Any] | None, timeout: float) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with _OPENER.open(request, timeout=timeout) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            detail = error.read().decode(errors="replace")[:500]
            raise StageError(f"{path} answered {error.code}: {detail}", rule="server-refused") from error
        except TimeoutError as error:
            raise stalled(f"{path} had no answer within {timeout:g} s") from error
        except OSError as error:  # URLError is one
            if isinstance(getattr(error, "reason", None), TimeoutError):
                raise stalled(f"{path} had no answer within {timeout:g} s") from error
            raise StageError(f"{path}: {getattr(error, 'reason', error)}", rule="server-refused") from error


def stalled(what: str) -> StageError:
    """The server is there and does nothing."""
    return StageError(
        f"the server hangs: {what}",
        hint="see the server's log; if it is only slow, raise engine.stall_timeout",
        rule="server-stalled",
    )
