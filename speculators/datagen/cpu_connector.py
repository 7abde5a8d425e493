"""Hidden states out of vLLM on a CPU: the stock connector without its CUDA stream.

vLLM's ExampleHiddenStatesConnector copies states through pinned memory and a CUDA stream, which a CPU
build does not have; there the states lie in host memory already.  This file imports nothing but torch
and vllm, so that it works with itself alone on the path (``kv_connector_module_path``).
"""

from __future__ import annotations

from functools import partial

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.example_hidden_states_connector import (
    ExampleHiddenStatesConnector,
    PendingSave,
    extract_from_kv_cache,
)


class _Done:
    """Stands for the CUDA event of a copy: a copy within host memory is done when it returns."""

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        return None


class CpuHiddenStatesConnector(ExampleHiddenStatesConnector):  # type: ignore[misc]
    """Writes each finished request's states from the engine's host-memory cache to its file."""

    def _submit_async_write(self, pending: PendingSave) -> None:
        if not self._is_tp_rank_zero:
            return
        assert self._kv_cache is not None
        blocks = torch.tensor(pending.block_ids, dtype=torch.long)  # [B]
        slots = blocks[:, None] * self._block_size + torch.arange(self._block_size)  # [B, block_size]
        # Indexing copies: the engine may reuse the blocks as soon as this request is reported finished.
        states = extract_from_kv_cache(self._kv_cache, slots.flatten(), len(pending.token_ids))  # [T, L, H]
        tensors = {"hidden_states": states.contiguous(), "token_ids": pending.token_ids.clone()}
        done = _Done()
        future = self._executor.submit(
            self._write_tensors, tensors, done, pending.filename, self._lock_fds.pop(pending.req_id, None)
        )
        self._req_copy_events[pending.req_id] = done
        self._req_futures[pending.req_id] = future
        future.add_done_callback(partial(self._on_write_done, pending.req_id))
