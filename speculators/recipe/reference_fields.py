"""Every setting of the reference system's trainer, and what becomes of it in a recipe.

Tables only, for vllm-project/speculators 0.9.0 (``train/config/schema.py``): a field is in exactly one of
them, and ``tests/reference`` compares names and defaults with the package itself.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ALWAYS", "COMPUTED", "DIFFERS", "FIELDS", "NEEDLESS", "RENAMED"]

#: Its fields whose values are taken as they are, by their place here, and its defaults.
RENAMED: dict[str, tuple[str, Any]] = {
    "seed": ("training.seed", 42),
    "verifier.trust_remote_code": ("verifier.trust_remote_code", False),
    "data.total_seq_len": ("training.sequence_length", 8192),
    "data.hidden_states_dtype": ("training.precision", "bfloat16"),
    "optimizer.optimizer": ("training.optimizer", "muon"),
    "optimizer.lr": ("training.learning_rate", 1e-3),
    "optimizer.weight_decay": ("training.weight_decay", 0.01),
    "trainer.epochs": ("training.epochs", 20),
    "trainer.gradient_checkpointing": ("training.gradient_checkpointing", False),
}
#: Its fields that are computed into something here, and its defaults.
COMPUTED: dict[str, tuple[str, Any]] = {
    "speculator_type": ("algorithm.kind", "eagle3"),
    "verifier.verifier_name_or_path": ("verifier", ""),
    "draft.from_pretrained": ("training.init_from", ""),
    "draft.num_layers": ("algorithm.layers", None),
    "draft.target_layer_ids": ("algorithm.aux_layers", None),
    "draft.draft_vocab_size": ("algorithm.draft_vocabulary", None),
    "draft.mask_token_id": ("algorithm.mask_token_id", None),
    "draft.norm_before_residual": ("algorithm.norm_before_residual", True),
    "draft.norm_before_fc": ("algorithm.norm_before_fc", None),
    "draft.fc_norm": ("algorithm.fc_norm", False),
    "draft.norm_output": ("algorithm.norm_output", None),
    "data.data_path": ("datagen.prepared", "./output"),
    "data.train_data_ratio": ("datagen.prompts.validation_fraction", 0.9),
    "data.max_anchors": ("algorithm.anchors", 512),
    "loss.loss_fn": ("training.losses", None),
    "loss.ttt_steps": ("algorithm.speculative_tokens", 3),
    "loss.ttt_step_loss_decay": ("training.step_decay", 1.0),
    "dflash.block_size": ("algorithm.speculative_tokens", None),
    "dflash.dflash_decay_gamma": ("training.step_decay", 4.0),
    "dflash.per_position_loss_weight": ("training.step_decay", None),
    "peagle.num_depths": ("algorithm.speculative_tokens", 8),
    "scheduler.scheduler_type": ("training.schedule", "linear"),
    "scheduler.scheduler_warmup_ratio": ("training.warmup_fraction", None),
    "trainer.fsdp_shard": ("training.parallelism", False),
    "logging.logger": ("training.trackers", ""),
}

_VOCABULARY = "the vocabulary is counted anew from the learnt tokens"
_SHAPE = "a draft takes its shape from the verifier here"
_WINDOW = "drafts attend to the whole context here, without a sliding window"
_SCHEDULE = "the schedule spans the whole training here"
_MUON = "Muon has one rate and one decay for all parameters here, and torch's own settings"
_SAMPLING = "depths are drawn in another way here: docs/trainer.md"
#: Its fields that have no place here although they shape the draft.
DIFFERS: dict[str, str] = {
    "draft.draft_config": _SHAPE,
    "draft.draft_arch": _SHAPE,
    "draft.draft_hidden_act": _SHAPE,
    "draft.draft_mrope_full_head_hack": "MRoPE has no such rescaling here",
    "draft.embed_requires_grad": "embeddings are the verifier's, frozen, but for P-EAGLE's mask",
    "draft.sliding_window": _WINDOW,
    "draft.full_attention_indices": _WINDOW,
    "draft.sliding_window_non_causal": _WINDOW,
    "optimizer.muon_lr": _MUON,
    "optimizer.muon_momentum": _MUON,
    "optimizer.muon_weight_decay": _MUON,
    "optimizer.muon_ns_steps": _MUON,
    "optimizer.muon_adjust_lr_fn": _MUON,
    "scheduler.scheduler_warmup_steps": "the warm-up is a share of the steps: training.warmup_fraction",
    "scheduler.scheduler_total_steps": _SCHEDULE,
    "scheduler.scheduler_num_cosine_cycles": _SCHEDULE,
    "trainer.max_steps": "there is no such limit: lower training.epochs or datagen.prompts.limit",
    "dflash.sample_from_anchor": "blocks predict from the token after their anchor here",
    "dflash.dpace_alpha": "D-PACE weights are not offered",
    "peagle.down_sample_ratio": _SAMPLING,
    "peagle.down_sample_ratio_min": _SAMPLING,
}

_SERVER = "nothing is generated while training: the states must be there"
_LOADING = "states are read from shards, without worker processes"
_RUNS = "every run has a folder of its own below --runs-dir"
_RESUME = "training continues at its last checkpoint by itself"
_KIND = "of a kind that is not trained here"
#: Its fields that change nothing of the draft, or have no meaning here.
NEEDLESS: dict[str, str] = {
    "dry_run": "'speculators plan' and the dry step ask that",
    "deterministic_cuda": "a training on a CPU is the same to the last digit, on a GPU no promise is made",
    "draft.token_freq_path": _VOCABULARY,
    "draft.d2t_path": _VOCABULARY,
    "draft.t2d_path": _VOCABULARY,
    "draft.draft_attn_impl": "attention is computed in one way",
    "data.hidden_states_backend": "states are read from files",
    "data.num_workers": _LOADING,
    "data.prefetch_factor": _LOADING,
    **dict.fromkeys(
        (
            f"generation.{name}"
            for name in (
                "vllm_endpoint", "on_missing", "on_generate", "request_timeout", "max_retries",
                "generation_validation_retries", "max_consecutive_generation_failures",
            )
        ),
        _SERVER,
    ),
    "loss.loss_implementation": "the loss is computed in chunks, in one way",
    "trainer.checkpoint_freq": _RESUME,
    "trainer.no_resume_from_checkpoint": "'speculators run --fresh training' begins anew",
    "trainer.save_best": "the draft that is best on validation is always kept",
    "trainer.log_freq": "every step is in metrics.jsonl",
    "trainer.save_path": _RUNS,
    "logging.log_dir": _RUNS,
    "logging.run_name": _RUNS,
    **dict.fromkeys((f"dflash2.{name}" for name in (
        "conv_kernel_size", "conv_group_size", "selector_rank", "selector_top_k", "selector_loss_alpha",
    )), _KIND),
    **dict.fromkeys((f"dspark.{name}" for name in (
        "markov_rank", "markov_head_type", "enable_confidence_head", "confidence_head_with_markov",
        "confidence_head_alpha",
    )), _KIND),
    **dict.fromkeys((f"xpress.{name}" for name in (
        "xpress_rank", "xpress_mlp_ratio", "num_jacobi_passes", "consistency_weight", "consistency_passes",
        "base_anchor_weight", "ce_from_data", "base_anchor_full_weight",
    )), _KIND),
    "mtp.num_speculative_steps": _KIND,
    "mtp.step_weight_beta": _KIND,
}  # fmt: skip
FIELDS = frozenset({*RENAMED, *COMPUTED, *DIFFERS, *NEEDLESS})

#: Of the fields above, those that differ even when nobody gave them, by kind.
ALWAYS = {
    "eagle3": ("draft.sliding_window",),
    "peagle": ("draft.sliding_window", "peagle.down_sample_ratio"),
    "dflash": ("draft.sliding_window",),
}
