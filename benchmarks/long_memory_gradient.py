"""How far back a recurrent layer can feel: the gradient through a thousand steps, drawn.

The curve of a network shows, for every distance k, the Frobenius norm of the derivative of its last output h_T by its
whole state k steps earlier (h and c of an LSTM, h of an RNN), over the root of the number of units, so that a memory
passed on as it is counts 1. Inputs are sequences of the adding problem; the curve is the geometric mean over eight.

Computed in float64 by autograd through holdfast.engine.reference, one backward pass for every unit: no kernel has a
say in it. The LSTM "after training" is trial 0 of experiment 4-1000.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import holdfast
from holdfast.engine import State, Weights, reference
from long_memory_tasks import Marked
from long_memory_training import RECIPE, Memory, hold, trained

PICTURE = Path(__file__).parents[1] / "docs" / "guide" / "images" / "long_memory.svg"
STEPS = 1000
SEQUENCES = 8
RIVAL_SEQUENCES = 16_000  # a minute; an RNN that feels nothing learns nothing later either
FLOOR = 1e-20  # what is smaller is drawn here
Step = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]  # input of a step, state -> state; h comes first


def lstm_step(layer: nn.LSTM) -> Step:
    """One step of the layer in float64, by the reference."""
    w, r, b_input, b_recurrent = (p.detach().double() for p in layer.parameters())
    weights = Weights(w, r, b_input + b_recurrent)

    def step(x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return reference.lstm(x.unsqueeze(0), weights, State(*state))[1]

    return step


def rnn_step(layer: nn.RNN) -> Step:
    """One step of torch.nn.RNN in float64."""
    w, r, b_input, b_recurrent = (p.detach().double() for p in layer.parameters())
    return lambda x, state: (torch.tanh(x @ w.T + b_input + state[0] @ r.T + b_recurrent),)


def reach(layer: nn.Module, x: Tensor) -> Tensor:
    """The curve of one layer: [time], entry k - 1 for k steps back. x [time, batch, features] float64."""
    assert isinstance(layer, (nn.LSTM, nn.RNN))
    step = lstm_step(layer) if isinstance(layer, nn.LSTM) else rnn_step(layer)
    halves = 2 if isinstance(layer, nn.LSTM) else 1
    state = tuple(x.new_zeros(x.shape[1], layer.hidden_size, requires_grad=True) for _ in range(halves))
    states = [state]
    for now in x:
        state = step(now, state)
        states.append(tuple(half.view_as(half) for half in state))  # of its own in the graph: h is not c's daughter
        state = states[-1]
    befores = [half for before in states[:-1] for half in before]
    square = x.new_zeros(len(x), x.shape[1])  # [time, batch]
    for unit in range(layer.hidden_size):
        found = torch.autograd.grad(state[0][:, unit].sum(), befores, retain_graph=True)
        square += torch.stack(found).pow(2).sum(-1).view(len(x), halves, -1).sum(1)
    norm = (square / layer.hidden_size).sqrt().clamp(min=1e-300)
    return norm.log().mean(1).exp().flip(0)


def beginners() -> dict[str, nn.Module]:
    """Layers as they are before training."""
    found: dict[str, nn.Module] = {}
    torch.manual_seed(0)
    found["RNN, torch's weights"] = nn.RNN(2, RECIPE.hidden)
    for bias in (0.0, 1.0):
        layer = holdfast.LSTM(2, RECIPE.hidden)
        with torch.no_grad():
            for part in (layer.bias_ih_l0, layer.bias_hh_l0):
                part[RECIPE.hidden : 2 * RECIPE.hidden] = bias / 2
        found[f"LSTM, forget bias {bias:.0f}"] = layer
    layer = holdfast.LSTM(2, RECIPE.hidden)
    hold(layer, STEPS)
    found["LSTM, as we begin (chrono)"] = layer
    return found


def graduates() -> dict[str, nn.Module]:
    """Layers that were trained on the adding problem with a thousand steps: the LSTM until it solved it."""
    task = Marked(STEPS)
    net, outcome = trained(task, holdfast.LSTM, 200_000, seed=0)
    words = "solved it" if outcome.solved else "did not solve it"
    rival, failed = trained(task, nn.RNN, RIVAL_SEQUENCES, seed=0)
    rival_words = "solved it" if failed.solved else "did not solve it"
    return {f"RNN after training ({rival_words})": layer_of(rival), f"LSTM after training ({words})": layer_of(net)}


def layer_of(net: Memory) -> nn.Module:
    return net.recurrent


def draw() -> None:
    """Write the picture."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "holdfast"  # the same curves give the same file
    from matplotlib import pyplot

    x = Marked(STEPS).batch(SEQUENCES, np.random.default_rng(1)).x[:STEPS].double()
    figure, axes = pyplot.subplots(figsize=(7.5, 4.2), layout="constrained")
    styles = ["C3--", "C7:", "C7-.", "C0--", "C3-", "C0-"]
    for (name, layer), style in zip({**beginners(), **graduates()}.items(), styles, strict=True):
        curve = reach(layer, x).clamp(min=FLOOR)
        print(f"{name:40} 100 steps back {curve[99]:.1e}, 1000 steps back {curve[-1]:.1e}", flush=True)
        at = [k for k in range(1, STEPS + 1) if k <= 50 or k % 5 == 0]
        axes.semilogy(at, [float(curve[k - 1]) for k in at], style, label=name, linewidth=1.5)
    axes.set(xlabel="steps back", ylabel="size of the gradient", xlim=(0, STEPS), ylim=(FLOOR, 30))
    axes.set_title("What the last output still feels of the state before", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="center right")
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, metadata={"Date": None})
    print(f"{PICTURE.name}: {math.ceil(PICTURE.stat().st_size / 1000)} kB")
