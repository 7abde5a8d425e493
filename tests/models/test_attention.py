from __future__ import annotations

import pytest
import torch

from speculators.models.attention import attend
from speculators.models.kernels import BLOCK, CPU_FLASH, CUDA_FLASH, PLAIN, Kernel, kernel_for, merged
from speculators.models.layout import Run, layout_of

KERNELS = {"plain": PLAIN, "cpu flash": CPU_FLASH}
# A whole document; two late runs of one document; a single late row.
RUNS = [Run((0, 4), (0, 4)), Run((4, 6), (4, 9)), Run((6, 9), (4, 15)), Run((9, 10), (15, 22))]
QUERIES, KEYS, HEADS, KEY_HEADS, SIZE = 10, 22, 4, 2, 4


def tensors(own: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[torch.Tensor]:
    """Queries, past, and keys and values of ``own`` later steps."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [(QUERIES, HEADS, SIZE), (KEYS, 2 * KEY_HEADS, SIZE)] + own * [(QUERIES, 2 * KEY_HEADS, SIZE)]
    made = [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes]
    return [x.requires_grad_() for x in made]


def by_definition(q, past, own, window=None) -> torch.Tensor:
    """One softmax over what each row sees, row by row and head by head."""
    rows = []
    for (first, end), (key_first, key_end) in RUNS:
        for query in range(first, end):
            place = key_end - (end - query)  # the row's own key
            oldest = key_first if window is None else max(key_first, place - window + 1)
            for head in range(HEADS):
                shared = head // (HEADS // KEY_HEADS)
                keys = [past[place_, shared] for place_ in range(oldest, place + 1)]
                values = [past[place_, KEY_HEADS + shared] for place_ in range(oldest, place + 1)]
                keys += [part[query, shared] for part in own]
                values += [part[query, KEY_HEADS + shared] for part in own]
                scores = torch.stack(keys) @ q[query, head] / SIZE**0.5
                rows.append(scores.softmax(0) @ torch.stack(values))
    return torch.stack(rows).view(QUERIES, HEADS, SIZE)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
@pytest.mark.parametrize("window", [None, 3, 40])
@pytest.mark.parametrize("own", [0, 2])
def test_it_is_one_softmax_over_the_past_and_the_row_s_own_drafts(
    kernel: Kernel, window: int | None, own: int
) -> None:
    layout = layout_of(RUNS)._replace(window=window)
    ours, theirs = tensors(own), tensors(own)
    out = attend(kernel, layout, ours[0], ours[1], ours[2:])
    expected = by_definition(theirs[0], theirs[1], theirs[2:], window)
    torch.testing.assert_close(out, expected)
    upstream = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(9))
    out.backward(upstream)
    expected.backward(upstream)
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_gradients_match_finite_differences(kernel: Kernel) -> None:
    layout = layout_of(RUNS)._replace(window=7)
    assert torch.autograd.gradcheck(
        lambda q, past, *own: attend(kernel, layout, q, past, own), tensors(2), fast_mode=True
    )


def test_long_runs_are_done_in_blocks() -> None:
    length = 2 * BLOCK + 5
    layout = layout_of([Run((0, length), (0, length + 3))])
    generator = torch.Generator().manual_seed(0)
    q, past = (
        torch.randn(rows, heads, 4, generator=generator) for rows, heads in ((length, 2), (length + 3, 2))
    )
    for window in (None, 9, BLOCK):
        chosen = layout._replace(window=window)
        torch.testing.assert_close(attend(PLAIN, chosen, q, past, []), attend(CPU_FLASH, chosen, q, past, []))


def test_half_precision_keeps_its_sums_in_float32() -> None:
    layout = layout_of(RUNS)
    exact = attend(PLAIN, layout, *(x.detach() for x in tensors(0)), [])
    for kernel in KERNELS.values():
        q, past = (x.detach() for x in tensors(0, torch.bfloat16))
        assert kernel.forward(q, *past.chunk(2, dim=1), layout)[1].dtype == torch.float32
        torch.testing.assert_close(attend(kernel, layout, q, past, []).double(), exact, rtol=3e-2, atol=3e-2)


def test_no_rows_are_no_work() -> None:
    for kernel in KERNELS.values():
        out = attend(kernel, layout_of([]), torch.empty(0, 4, 4), torch.randn(5, 4, 4), [])
        assert out.shape == (0, 4, 4)


def test_merging_two_sets_of_keys_is_attending_to_both() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, values = torch.randn(3, 2, 7, generator=generator), torch.randn(7, 4, generator=generator)

    def part(columns: slice) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = scores[..., columns]
        return chosen.softmax(-1) @ values[columns], chosen.logsumexp(-1)

    out, lse = merged(*part(slice(0, 3)), *part(slice(3, 7)))
    torch.testing.assert_close(out, scores.softmax(-1) @ values)
    torch.testing.assert_close(lse, scores.logsumexp(-1))


def test_the_kernel_follows_device_and_dtype() -> None:
    assert kernel_for(torch.device("cpu"), torch.float64, 64) is CPU_FLASH
    assert kernel_for(torch.device("cuda"), torch.bfloat16, 256) is CUDA_FLASH
    assert kernel_for(torch.device("cuda"), torch.float32, 64) is PLAIN
    for refused in (100, 512):
        assert kernel_for(torch.device("cuda"), torch.bfloat16, refused) is PLAIN


@pytest.mark.parametrize("window", [None, 7])
def test_the_gpu_s_operators_take_these_arguments_and_return_these_shapes(window: int | None) -> None:
    layout = layout_of(RUNS)._replace(window=window)
    tensors_of = ("query_offsets", "key_offsets", "key_rows")
    layout = layout._replace(**{name: getattr(layout, name).to("meta") for name in tensors_of})
    q, past, own = (x.detach().to("meta", torch.bfloat16).requires_grad_() for x in tensors(1))
    out = attend(kernel_for(q.device, q.dtype, q.shape[-1]), layout, q, past, [own])
    out.backward(torch.empty_like(out))
    assert out.shape == q.shape
    assert (q.grad.shape, past.grad.shape, own.grad.shape) == (q.shape, past.shape, own.shape)
