"""Are the trained ids those that a real chat endpoint serves?

    python -m tests.serving.served_ids MODEL
    python -m tests.serving.served_ids MODEL qwen3.jinja     one that knows enable_thinking, both settings

By hand, not in CI, where each generation compares 50 rows with the engine's own chat renderer anyway: this
starts the HTTP server on the model folder that is named, and sends 50 conversations to /v1/chat/completions.
The endpoint says which ids it gave the model.  Its template is the one named, or the model's own with
lines for tools and calls before it, because small models' templates know neither.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from speculators.datagen.chat import SWITCH, template_arguments
from speculators.datagen.chat_template import chat_template
from speculators.datagen.prompts import question
from speculators.datagen.responses import kept_answer, render_ids
from speculators.datagen.rows import conversation
from speculators.executors.base import Service
from speculators.executors.local import LocalExecutor
from speculators.serving.client import ServerClient
from speculators.serving.command import SERVED_NAME, server_arguments, server_argv, server_environment
from speculators.serving.environment import engine_environment
from speculators.serving.launcher import find_launcher

ROWS = 50
ARGS = {
    "max_model_len": 512, "dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": "256M",
    "max_num_seqs": 4,
}  # fmt: skip
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "tide",
            "description": "The tide's height.",
            "parameters": {"type": "object", "properties": {"port": {"type": "string"}}},
        },
    }
]
CALL = [{"id": "1", "type": "function", "function": {"name": "tide", "arguments": '{"port": "Brest"}'}}]
KNOWING_TOOLS = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages if m.tool_calls %}<!-- {{ m.tool_calls | tojson }} -->{% endfor %}OWN"
)


def rows() -> list[dict[str, Any]]:
    """Plain ones, with a system prompt, of several turns, with tools, a tool's answer, and thoughts."""

    def made(number: int) -> dict[str, Any]:
        asked = f"Why are there {number} tides — and whose “fault” is it?\n"
        turns = [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": " The Moon's. "},
            {"role": "user", "content": "Und die Sonne? 太阳呢？"},
        ]
        called = [
            turns[0],
            {"role": "assistant", "content": "", "tool_calls": CALL},
            {"role": "tool", "content": "5 m", "tool_call_id": "1"},
        ]
        return [
            {"prompt": asked},
            {"prompt": asked, "system": "Answer like a sailor."},
            {"messages": turns},
            {"conversations": [{"from": "human", "value": asked}], "tools": TOOLS},
            {"messages": called, "tools": TOOLS},
            {"messages": [turns[0], {**turns[1], "reasoning_content": "Who pulls?"}, turns[2]]},
            {"messages": [turns[0], {**called[1], "content": None, "reasoning": "Look it up."}, called[2]]},
        ][number % 7]

    return [made(number) for number in range(ROWS)]


def main(model: Path, template: Path | None = None) -> int:
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        folder.mkdir()
        for file in model.iterdir():
            (folder / file.name).symlink_to(file.resolve())
        own = chat_template(model)
        assert isinstance(own, str)
        shown = template.read_text() if template else KNOWING_TOOLS.replace("OWN", own)
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        (folder / "chat_template.jinja").write_text(shown)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        environment = server_environment(engine_environment({"VLLM_CPU_OMP_THREADS_BIND": "nobind"}))
        service = Service(
            "plain",
            lambda port: server_argv(find_launcher().start, folder, server_arguments(port, ARGS, None)),
            environment,
            Path(scratch, "server.log"),
        )
        with LocalExecutor().serve(service) as endpoint:
            client = ServerClient(endpoint.url, SERVED_NAME, 300)
            client.wait_until_healthy(500, print)
            modes = (False, True) if SWITCH in shown else (False,)
            return max(compare(client, tokenizer, template_arguments({}, shown, mode)) for mode in modes)


def compare(client: ServerClient, tokenizer: Any, arguments: dict[str, Any]) -> int:
    """Print how many rows of each form are equal; 0 if all are."""
    seen: Counter[str] = Counter()
    sent = {"chat_template_kwargs": arguments} if arguments else {}
    for row in rows():
        said = conversation(row)
        form = " ".join(sorted({*row, *(message["role"] for message in said.messages)}))
        asked = question(said.messages)
        ours = render_ids(tokenizer, asked, arguments, tools=said.tools, generation_prompt=True)
        offered = {"tools": said.tools, "tool_choice": "none"} if said.tools else {}
        body = {"max_completion_tokens": 1, "temperature": 0, **offered, **sent}
        served = client.complete(asked, body).prompt_token_ids
        whole = [*asked, {"role": "assistant", "content": "Aye."}]
        kept = kept_answer(tokenizer, whole, arguments, [2], 512, tools=said.tools)
        same = ours == served and not isinstance(kept, str) and kept.prompt_token_ids == served
        if not same:
            print(json.dumps({"row": row, "ours": ours, "served": served, "kept": str(kept)[:200]}))
        seen[f"{form}: {'equal' if same else 'DIFFERS'}"] += 1
    for form, count in sorted(seen.items()):
        print(f"{count:3} {arguments or ''} {form}")
    return int(any("DIFFERS" in form for form in seen))


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
