"""Muon with an iteration that a CPU can run.

torch's own Muon orthogonalises in bfloat16, which a GPU is built for.  A CPU without instructions for it
emulates each product: an update of a small draft took 26 seconds on two such cores, and 0.7 in float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


class Muon(torch.optim.Muon):
    """torch's Muon, which on a CPU orthogonalises in float32.

    For matrices only.  The update of a matrix of a rows and b columns has the root mean square of AdamW's:
    ``0.2 sqrt(max(a, b))`` times an orthogonal one (Liu et al., "Muon is scalable for LLM training",
    arXiv 2502.16982, section 2.2).
    """

    def __init__(self, matrices: Iterable[torch.nn.Parameter], **settings: Any) -> None:
        super().__init__(matrices, adjust_lr_fn="match_rms_adamw", **settings)

    def step(self, closure: None = None) -> None:
        """One update of every matrix that has a gradient."""
        if self.param_groups[0]["params"][0].device.type != "cpu":
            super().step()
            return
        with torch.no_grad():
            for group in self.param_groups:
                for matrix in group["params"]:
                    if matrix.grad is not None:
                        self._move(matrix, self.state[matrix], group)

    @staticmethod
    def _move(matrix: torch.Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix.grad)
        mean = state["momentum_buffer"].lerp_(matrix.grad, 1 - group["momentum"])  # [a, b]
        ahead = matrix.grad.lerp(mean, group["momentum"]) if group["nesterov"] else mean
        update = orthogonal(ahead.float(), group["ns_coefficients"], group["ns_steps"], group["eps"])
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.add_(update, alpha=-0.2 * group["lr"] * max(matrix.shape) ** 0.5)


def orthogonal(
    matrix: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """About the orthogonal matrix nearest to ``matrix`` [a, b]: its singular values become about one.

    The quintic Newton-Schulz iteration ``X <- p X + (q S + r S^2) X`` with ``S = X X^T``, from X of norm
    one, moves each singular value s by ``p s + q s^3 + r s^5`` (Jordan et al.,
    https://kellerjordan.github.io/posts/muon/).
    """
    first, third, fifth = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        square = x @ x.T  # [a, a], the shorter side
        x = torch.addmm(x, torch.addmm(square, square, square, beta=third, alpha=fifth), x, beta=first)
    return x.T if tall else x
