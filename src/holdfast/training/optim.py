"""What the loop does to weights: the optimiser, the learning rate, the moving average."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from .application import Recipe


class RowAdamW(torch.optim.AdamW):
    """AdamW, and for tables whose gradient is sparse Adagrad with one sum per row, which moves the rows met only.

    A table of a million rows then costs a step what its batch costs, and instead of two moments per weight one number
    per row is kept (row-wise AdaGrad; Mudigere et al., "Software-hardware co-design for fast and scalable training of
    deep learning recommendation models", ISCA 2022). A row's first step is as long as all that Adam does over the
    following ones for a gradient that stays alone: lr / sqrt(1 - beta2), 32 times the rate. No decay.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        sparse: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            rate = group["lr"] / math.sqrt(1 - group["betas"][1])
            for table in group["params"]:
                if table.grad is not None and table.grad.is_sparse:
                    self.move_rows(table, table.grad.coalesce(), rate, group["eps"])
                    sparse.append((table, table.grad))
                    table.grad = None  # AdamW must not see it
        done = super().step(closure)
        for table, grad in sparse:
            table.grad = grad
        return done

    def move_rows(self, table: Tensor, grad: Tensor, rate: float, eps: float) -> None:
        """table [rows, width], grad coalesced."""
        rows, values = grad.indices()[0], grad.values()
        state = self.state[table]
        if not state:
            state["step"], state["sums"] = torch.zeros(()), torch.zeros(len(table))
        state["step"] += 1
        state["sums"].index_add_(0, rows, values.square().mean(1))
        table.index_add_(0, rows, values * (-rate / (state["sums"][rows].sqrt() + eps)).unsqueeze(1))


def optimiser(net: nn.Module, recipe: Recipe) -> RowAdamW:
    """AdamW (Loshchilov & Hutter 2019); decay on matrices only: biases and gains are not meant to shrink."""
    matrices = [p for p in net.parameters() if p.requires_grad and p.dim() > 1]
    vectors = [p for p in net.parameters() if p.requires_grad and p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return RowAdamW([group for group in groups if group["params"]], lr=recipe.learning_rate, fused=True)


def learning_rate(recipe: Recipe, progress: float) -> float:
    """The rate at a share 0...1 of training.

    one-cycle: half a cosine up from a 25th over the warm-up, half a cosine down to nearly nothing (Smith 2018).
    cosine: down from the peak, no warm-up (Loshchilov & Hutter 2017).
    """
    progress = min(max(progress, 0.0), 1.0)
    peak = recipe.learning_rate
    match recipe.schedule:
        case "constant":
            return peak
        case "cosine":
            return peak * falling(progress)
        case "one-cycle":
            if progress < recipe.warmup:
                return peak * (1 - 0.96 * falling(progress / recipe.warmup))
            rest = 1 - recipe.warmup
            return peak * max(falling((progress - recipe.warmup) / rest) if rest else 0.0, 1e-4)


@contextmanager
def precision(wanted: str) -> Generator[None]:
    """Products in torch's precision of that name, for as long as it lasts."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(wanted)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def falling(share: float) -> float:
    """Half a cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * share))


def clip(net: nn.Module, largest: float) -> float:
    """Scale the gradients so that their norm is at most ``largest`` (0: leave them); the norm before is returned."""
    limit = largest if largest > 0 else math.inf
    given = [p for p in net.parameters() if p.grad is not None]
    for p in given:
        if p.grad is not None and p.grad.is_sparse:
            p.grad = p.grad.coalesce()  # a row that was met twice has one gradient
    grads = [p.grad for p in given if p.grad is not None]
    if not any(grad.is_sparse for grad in grads):
        return float(nn.utils.clip_grad_norm_(given, limit))
    norm = torch.stack([(grad.values() if grad.is_sparse else grad).norm() for grad in grads]).norm()
    shrunk = torch.clamp(limit / (norm + 1e-6), max=1.0)  # as clip_grad_norm_ does it
    for grad in grads:
        (grad.values() if grad.is_sparse else grad).mul_(shrunk)
    return float(norm)


class Average:
    """An exponential moving average of the weights: often better than the last ones, and never noisy.

    The decay warms up, so that the random weights of the start do not linger. After the first steps weights are taken
    in at every fourth one, as much as four steps' worth: each time all of them go through memory.
    """

    EVERY: Final = 4
    FIRST: Final = 100  # steps after each of which weights are taken in: so short a training has an average, too

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """Take in the weights after optimiser step number ``step`` (from 1)."""
        every = 1 if step <= self.FIRST else self.EVERY
        if step % every:
            return
        keep = min(self.decay, (1 + step) / (10 + step)) ** every
        for name, tensor in net.state_dict().items():
            mean = self.tensors[name]
            if mean.is_floating_point():
                mean.lerp_(tensor, 1 - keep)
            else:
                mean.copy_(tensor)


def snapshot(net: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights and buffers."""
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
