"""A random Llama of four layers whose words are its tokens: small enough that the engine's own start
is all that it costs.
"""

from __future__ import annotations

from pathlib import Path

WORDS = [f"w{number}" for number in range(60)]
TOKENS = ["<end>", "<start>", "<answer>", "<unknown>", *WORDS]
TEMPLATE = (
    "{% for message in messages %}<start> {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}<answer> {% endif %}"
)
#: vLLM settings that fit it.
ENGINE_ARGS = {
    "max_model_len": 128,
    "dtype": "float32",
    "enforce_eager": True,
    "kv_cache_memory_bytes": "64M",
    "max_num_seqs": 8,
}
ENGINE_ENV = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
ALGORITHM = {
    "speculative_tokens": 2,
    "aux_layers": [1, 2, 3],
    "layers": 1,
    "draft_vocabulary": 32,
    "norm_before_residual": False,
    "norm_before_fc": True,
    "fc_norm": False,
    "norm_output": False,
}


def write_tokenizer(folder: Path) -> None:
    """Leave the tokenizer in ``folder``; always the same bytes."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(TOKENS)}, unk_token="<unknown>")
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="<unknown>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


def write_words_model(folder: Path) -> None:
    """Leave the model and its tokenizer in ``folder``; always the same bytes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=0,
        initializer_range=0.5,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder)
