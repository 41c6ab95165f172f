"""LSTMLayer and LSTMStack as ONNX files, run by onnxruntime, against the module itself in float64."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from holdfast.engine import Cell, Connection, LSTMLayer, LSTMStack, State
from holdfast.engine.onnx import export_onnx

from .test_onnx import CLOSE, RAGGED, normal, session

FEATURES = 4
STACKS = {
    "plain": Cell(),
    "peephole": Cell(peephole=True, learnt_state=True),
    "coupled": Cell(coupled=True, bias=False, weight_drop=0.3),
    "peephole coupled": Cell(peephole=True, coupled=True, dropout_h=0.2),
}


def moved(module: nn.Module) -> nn.Module:
    """So that no bias, peephole or learnt state is zero."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return module


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", STACKS)
def test_the_file_computes_what_the_stack_does(
    name: str, bidirectional: bool, state: bool, lengths: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    cells = [STACKS[name], Cell(peephole=True)]
    batch_first = name.startswith("peephole")
    stack = moved(LSTMStack(FEATURES, [7, 3], cells, bidirectional=bidirectional, batch_first=batch_first))
    export_onnx(stack, tmp_path / "stack.onnx", lengths=lengths, state=state)  # in training, which the file is not
    run, exact = session(tmp_path / "stack.onnx"), stack.eval().double()
    units = [7] * (2 if bidirectional else 1) + [3] * (2 if bidirectional else 1)
    for time, rows in RAGGED:
        batch = len(rows)
        x = normal(batch, time, FEATURES) if batch_first else normal(time, batch, FEATURES)
        given = [(normal(batch, n) + place, normal(batch, n) - place) for place, n in enumerate(units)]
        feed: dict[str, Tensor] = {"x": x} | ({"lengths": torch.tensor(rows)} if lengths else {})
        for place, (h, c) in enumerate(given if state else []):
            feed |= {f"h0_{place}": h, f"c0_{place}": c}
        found = run.run(None, {key: t.numpy() for key, t in feed.items()})
        states = [State(h.double(), c.double()) for h, c in given] if state else None
        y, lasts = exact(x.double(), states, lengths=feed.get("lengths"))
        for mine, wanted in zip(found, [y, *(t for last in lasts for t in last)], strict=True):
            torch.testing.assert_close(torch.from_numpy(mine).double(), wanted.detach(), **CLOSE)


def test_a_layer_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = moved(LSTMLayer(FEATURES, 5, Cell(peephole=True, coupled=True)))
    export_onnx(layer, tmp_path / "layer.onnx", lengths=False, state=False)
    x = normal(6, 2, FEATURES)
    y, h, c = session(tmp_path / "layer.onnx").run(None, {"x": x.numpy()})
    wanted, last = layer(x)
    for mine, other in ((y, wanted), (h, last.h), (c, last.c)):
        torch.testing.assert_close(torch.from_numpy(mine), other.detach(), **CLOSE)


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        (LSTMStack(3, [4, 4], [Cell(), Cell(normalised=True)]), "direction 1 has normalised"),
        (LSTMStack(3, [4], Cell(exponential=True)), "exponential, for which ONNX"),
        (LSTMLayer(3, 4, Cell(projection=2)), "projection"),
        (LSTMLayer(3, 4, Cell(zoneout_c=0.1)), "zoneout_c"),
        (LSTMStack(3, [4], connection=Connection.HIGHWAY), "HIGHWAY"),
        (LSTMLayer(3, 4).double(), "float64"),
        (nn.GRU(3, 4), "not a GRU"),
    ],
)
def test_what_onnx_cannot_say_is_refused(module: nn.Module, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=problem):
        export_onnx(module, tmp_path / "never.onnx")  # pyright: ignore[reportArgumentType]
    assert not list(tmp_path.iterdir())
