"""How a network learns a task of long_memory_tasks.py: the network, the recipe, one trial."""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

import holdfast
from long_memory_tasks import Batch, Judged, NoiseFree, Rng, Source, Task

TEST = 2560  # new sequences after training, as in the paper from experiment 3 on
Layer = type[holdfast.LSTM] | type[nn.RNN]


@dataclass(frozen=True)
class Recipe:
    """How every network is trained."""

    hidden: int = 16
    batch: int = 16
    learning_rate: float = 0.005  # of Adam (Kingma & Ba 2015), constant
    clip: float = 1.0  # largest norm of the gradient


RECIPE = Recipe()


class Memory(nn.Module):
    """One recurrent layer, and logistic output units that see nothing but it, as in the paper.

    Symbols enter by their column of the input weights, which is what a product with the unit vector would give; the
    layer's own input matrix is then the identity, and not trained. In 2a and 2b the outputs see the input, too (the
    paper: "each layer has connections from all layers below").
    """

    def __init__(self, task: Task, layer: Layer, hidden: int) -> None:
        super().__init__()
        shape = task.shape
        gates = 4 * hidden if layer is holdfast.LSTM else hidden
        self.recurrent = layer(gates if shape.symbols else shape.features, hidden)
        self.readout = nn.Linear(hidden, shape.outputs)
        self.columns: nn.Parameter | None = None  # [symbols, gates]
        if shape.symbols:
            bound = hidden**-0.5  # torch's own for the input matrix
            self.columns = nn.Parameter(torch.empty(shape.symbols, gates).uniform_(-bound, bound))
            nn.init.eye_(self.recurrent.weight_ih_l0).requires_grad_(False)
        self.direct = nn.Parameter(torch.zeros(shape.symbols, shape.outputs)) if isinstance(task, NoiseFree) else None
        if shape.outputs > 1:
            nn.init.constant_(self.readout.bias, -math.log(shape.outputs - 1))  # one of so many is on
        if isinstance(self.recurrent, holdfast.LSTM):
            hold(self.recurrent, shape.longest)

    def forward(self, batch: Batch) -> Tensor:
        """Net inputs of the output units, in the shape of the batch's targets."""
        x = batch.x if self.columns is None else nn.functional.embedding(batch.x, self.columns)
        y, _ = self.recurrent(x)  # [time, batch, hidden]
        if batch.targets.dim() == 2:
            y = y[batch.lengths - 1, torch.arange(y.shape[1])]  # [batch, hidden]; padding comes later and is not seen
        net = self.readout(y)
        return net if self.direct is None else net + nn.functional.embedding(batch.x, self.direct)

    def cells_wait(self) -> None:
        """Forget the gradients of everything but the direct connections, so that the optimiser leaves it as it is."""
        for parameter in (*self.recurrent.parameters(), self.columns, self.readout.weight):
            assert parameter is not None
            parameter.grad = None

    def weights(self) -> int:
        """How many are trained; two biases that are always summed count once."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad) - self.recurrent.bias_hh_l0.numel()


@torch.no_grad()
def hold(layer: nn.LSTM, longest: int) -> None:
    """Biases for memories of up to so many steps ("chrono", Tallec & Ollivier, ICLR 2018): b_f = log u, b_i = -b_f.

    A forget gate sigmoid(log u) keeps 1/e of a memory for about u steps; u is uniform on [1, longest - 1]. The input
    gates begin nearly closed, which is the remedy against drifting states in the paper's section 4, too.
    """
    hidden = layer.hidden_size
    forget = torch.empty(hidden).uniform_(1, longest - 1).log()
    layer.bias_hh_l0.zero_()
    layer.bias_ih_l0.zero_()
    layer.bias_ih_l0[:hidden] = -forget
    layer.bias_ih_l0[hidden : 2 * hidden] = forget


def loss(net: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of logistic units, whose gradient in their net input is output minus target.

    Its least value lies at the conditional expectation of the target, as that of the paper's squared error does; but
    its gradient stays where a unit is saturated and wrong. Summed over units, averaged over steps and sequences.
    """
    each = nn.functional.binary_cross_entropy_with_logits(net, batch.targets, reduction="none").sum(-1)
    if each.dim() == 2:  # [time, batch]
        runs = torch.arange(len(each)).unsqueeze(1) < batch.lengths
        each = (each * runs).sum(0) / batch.lengths
    return each.mean()


class Plateau:
    """Whether the loss has stopped falling: over a block of batches it was above 0.95 times that of the block before.

    In 2a and 2b memory cells join the network only then ("once the error has stopped decreasing", the paper's 5.2 and
    solution 1 of its "abuse problem"). From the beginning on they would be used up for what the direct connections can
    do, until they are saturated: tried, and 2a was not learned in 120,000 sequences.
    """

    def __init__(self, block: int = 256) -> None:
        self.block = block
        self.losses: list[float] = []
        self.is_reached = False

    def reached(self, loss: float) -> bool:
        """Take in one batch's loss."""
        self.losses.append(loss)
        if not self.is_reached and len(self.losses) == 2 * self.block:
            before, after = self.losses[: self.block], self.losses[self.block :]
            self.is_reached = sum(after) > 0.95 * sum(before)
            self.losses = after
        return self.is_reached


@dataclass(frozen=True)
class Outcome:
    """One trial."""

    seed: int
    solved: bool
    sequences: int  # presented
    seconds: float  # of processor time, training and exams
    wrong: int  # of 2,560 new sequences, after training
    mean_error: float  # mean absolute error on them
    squared_error: float  # and mean squared error


def trial(task: Task, layer: Layer, most: int, seed: int, recipe: Recipe = RECIPE) -> Outcome:
    """Train one network until the task counts as solved, at most on so many sequences, and test it."""
    _, outcome = trained(task, layer, most, seed, recipe)
    return outcome


def trained(task: Task, layer: Layer, most: int, seed: int, recipe: Recipe = RECIPE) -> tuple[Memory, Outcome]:
    """The network of a trial, and how it went."""
    torch.manual_seed(seed)
    rng, test_rng = (np.random.default_rng([seed, part]) for part in (0, 1))
    net, source = Memory(task, layer, recipe.hidden), task.source(rng)
    optimiser = torch.optim.Adam((p for p in net.parameters() if p.requires_grad), recipe.learning_rate, fused=True)
    plateau = None if net.direct is None else Plateau()
    seen, solved, next_exam, start = 0, False, 0, time.process_time()
    recent = Judged(torch.empty(0, dtype=torch.bool), torch.empty(0))
    while not solved and seen < most:
        batch = source.draw(recipe.batch)
        net_input = net(batch)
        optimiser.zero_grad()
        cost = loss(net_input, batch)
        cost.backward()
        if plateau is not None and not plateau.reached(float(cost.detach())):
            net.cells_wait()
        nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
        optimiser.step()
        seen += recipe.batch
        judged = task.judge(net_input.detach().sigmoid(), batch)
        recent = Judged(*(part[-task.aim.training.sequences :] for part in Judged.joined([recent, judged])))
        if seen >= next_exam and task.aim.training.passes(recent):
            solved = passes_exam(net, task, source)
            next_exam = seen + 256  # exams are long; one that failed will not be passed a step later
    seconds = time.process_time() - start
    return net, Outcome(seed, solved, seen, round(seconds, 2), *tested(net, task, test_rng))


@torch.no_grad()
def passes_exam(net: Memory, task: Task, source: Source) -> bool:
    """Whether everything in the exam is processed as the paper demands; true where it has none."""
    rule, parts = task.aim.exam, list[Judged]()
    if rule is None:
        return True
    for batch in source.exam():
        parts.append(task.judge(net(batch).sigmoid(), batch))
        if sum(int(part.wrong.sum()) for part in parts) >= rule.fewer_than:
            return False
    return rule.passes(Judged.joined(parts))


@torch.no_grad()
def tested(net: Memory, task: Task, rng: Rng) -> tuple[int, float, float]:
    """On new sequences: how many are wrong, the mean absolute error, the mean squared error of the last outputs."""
    parts, squares = list[Judged](), list[float]()
    for _ in range(TEST // 256):
        batch = task.batch(256, rng)
        outputs = net(batch).sigmoid()
        parts.append(task.judge(outputs, batch))
        squares.append(float(((outputs - batch.expected) ** 2).mean()))
    judged = Judged.joined(parts)
    return int(judged.wrong.sum()), float(judged.error.mean()), float(np.mean(squares))
