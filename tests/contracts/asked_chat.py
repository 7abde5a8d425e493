"""Does a chat template get from vLLM's endpoint what it gets from us, thinking or not?

A draft that was trained on other ids than the endpoint serves is slow without any error.  So conversations of
every form go through the endpoint's own request class and renderer, in process, and through ours.
"""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from speculators.datagen.chat import template_arguments
from speculators.datagen.prompts import question
from speculators.datagen.responses import render_ids
from speculators.datagen.rows import conversation
from tests.contracts.answers import Answer
from tests.contracts.asked_configs import engine_config
from tests.contracts.stand_ins import StandIn
from tests.serving.served_ids import rows

FORMS = 7  # of ``rows``, which repeat
#: Shows all that it is given, and has the switch as Qwen3's has it.
TEMPLATE = (
    "{{ tools | tojson if tools else '' }}{% for message in messages %}{{ message | dictsort | tojson }}\n"
    "{% endfor %}{% if add_generation_prompt %}<answer>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)


def chat(stand_in: StandIn) -> Answer:
    """What reaches the template of each form of conversation, in both settings of the thinking switch."""
    folder = stand_in.verifier.parent / "chat"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes((stand_in.verifier / "config.json").read_bytes())
    bytes_tokenizer().save_pretrained(folder)
    config = engine_config(["--model", str(folder), "--max-model-len", "2048"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    facts, missing = {}, []
    for number, row in enumerate(rows()[:FORMS]):
        said = conversation(row)
        for thinking in (False, True):
            arguments = template_arguments({}, TEMPLATE, thinking)
            asked = question(said.messages)
            served = asyncio.run(_served(config, asked, said.tools, arguments))
            ours = render_ids(tokenizer, asked, arguments, tools=said.tools, generation_prompt=True)
            name = f"form {number}, thinking {'on' if thinking else 'off'}"
            facts[name] = tokenizer.decode(served)
            if ours != served:
                missing.append(f"{name}: we train on {json.dumps(tokenizer.decode(ours))}")
    return Answer(facts, tuple(missing))


async def _served(
    config: Any, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, arguments: dict[str, Any]
) -> list[int]:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.renderers.online_renderer import OnlineRenderer
    from vllm.renderers.registry import renderer_from_config

    online = OnlineRenderer(
        config.model_config,
        renderer_from_config(config),
        request_logger=None,
        chat_template=None,
        chat_template_content_format="auto",
    )
    offered = {"tools": tools, "tool_choice": "none"} if tools else {}
    said = copy.deepcopy(messages)  # the request class changes them in place
    request = ChatCompletionRequest(messages=said, model="m", chat_template_kwargs=arguments, **offered)
    _, (prompt,) = await online.render_chat(request)
    ids: list[int] = prompt["prompt_token_ids"]
    return ids


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte: whatever text differs, its ids do."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, clean_up_tokenization_spaces=False)
    tokenizer.chat_template = TEMPLATE
    return tokenizer
