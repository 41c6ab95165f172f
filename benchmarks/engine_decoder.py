"""One step of an attention decoder: engine.decoder.DecoderStep against the same step in plain torch.

    python benchmarks/engine_decoder.py [--threads 1 2] [--quick]

The network of Luong, Pham & Manning 2015 with input feeding: vocabulary 8,000, embedding and a 256 wide, one LSTM layer
of 512 units, sources of 20 steps whose memory is 512 wide. Hypotheses: one; a beam of five; beams of five of eight
sentences. torch: embedding, nn.LSTMCell, attention by matmul over the sentences, two linear layers, log_softmax, under
inference_mode in float32. A run is STEPS steps, each fed with the one before. Before anything is timed the two are
compared: in float32 they must agree to 1e-4, and how far bf16 and int8 are off is printed.
"""

import json
from collections.abc import Callable

import torch
from torch import Tensor, nn

from holdfast.engine.decoder import DecoderStep
from holdfast.engine.stream import Precision
from measure import RESULTS, Row, options, report, row

WORDS, EMBEDDED, HIDDEN, SOURCE = 8000, 256, 512, 20
STEPS = 20
CASES = {"one hypothesis": (1, 1), "a beam of 5": (1, 5), "8 sentences, beams of 5": (8, 5)}
PRECISIONS: tuple[Precision, ...] = ("highest", "medium", "int8")

Step = Callable[[Tensor], Tensor]


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(WORDS, EMBEDDED)
        self.cell = nn.LSTMCell(2 * EMBEDDED, HIDDEN)
        self.combine = nn.Linear(2 * HIDDEN, EMBEDDED)
        self.output = nn.Linear(EMBEDDED, WORDS)

    def lstm(self) -> nn.LSTM:
        lstm = nn.LSTM(2 * EMBEDDED, HIDDEN)
        lstm.load_state_dict({f"{name}_l0": value for name, value in self.cell.state_dict().items()})
        return lstm


def sources(sentences: int) -> tuple[Tensor, Tensor]:
    """Keys and values, [sentences, SOURCE, HIDDEN]."""
    rng = torch.Generator().manual_seed(1)
    keys, values = torch.randn(2, sentences, SOURCE, HIDDEN, generator=rng)
    return keys * 0.2, values


def in_torch(net: Network, sentences: int, beam: int) -> Step:
    rows = sentences * beam
    keys, values = sources(sentences)
    turned = keys.transpose(1, 2)
    state = [torch.zeros(rows, HIDDEN), torch.zeros(rows, HIDDEN), torch.zeros(rows, EMBEDDED)]

    def step(tokens: Tensor) -> Tensor:
        h, c, fed = state
        h, c = net.cell(torch.cat([net.embedding(tokens), fed], dim=1), (h, c))
        alpha = (h.view(sentences, beam, HIDDEN) @ turned).softmax(-1)  # [sentences, beam, SOURCE]
        context = (alpha @ values).view(rows, HIDDEN)
        fed = net.combine(torch.cat([context, h], dim=1)).tanh()
        state[:] = [h, c, fed]
        return net.output(fed).log_softmax(-1)

    return step


def ours(net: Network, sentences: int, beam: int, precision: Precision) -> Step:
    rows = sentences * beam
    decoder = DecoderStep(net.lstm(), net.embedding.weight, net.combine, net.output, slots=rows, precision=precision)
    handles = [decoder.open_source(*pair) for pair in zip(*sources(sentences), strict=True)]
    slots = torch.tensor([decoder.open(handle) for handle in handles for _ in range(beam)])
    return lambda tokens: decoder.step(tokens, slots)[0]


def block(step: Step, tokens: Tensor) -> Callable[[], object]:
    def run() -> None:
        for _ in range(STEPS):
            step(tokens)

    return run


def largest_error(one: Step, other: Step, rows: int) -> float:
    """Of log-probabilities, over fifty steps with random tokens."""
    rng = torch.Generator().manual_seed(2)
    steps = [torch.randint(0, WORDS, (rows,), generator=rng) for _ in range(50)]
    return max(float((one(tokens) - other(tokens)).abs().max()) for tokens in steps)


def flops(rows: int) -> float:
    """Of a run's products."""
    lstm, attention = 4 * HIDDEN * (2 * EMBEDDED + HIDDEN), 2 * SOURCE * HIDDEN
    return 2.0 * STEPS * rows * (lstm + attention + EMBEDDED * 2 * HIDDEN + WORDS * EMBEDDED)


def main() -> None:
    given = options(__doc__ or "")
    net = Network().eval()
    rows: list[Row] = []
    errors: dict[str, float] = {}
    with torch.inference_mode():
        for precision in PRECISIONS:
            pair = ours(net, 8, 5, precision), in_torch(net, 8, 5)
            errors[precision] = largest_error(*pair, rows=40)
        if errors["highest"] > 1e-4:
            raise AssertionError(f"these are two different networks: {errors}")
        for threads in given.threads:
            torch.set_num_threads(threads)
            for case, (sentences, beam) in CASES.items():
                count = sentences * beam
                tokens = torch.arange(count) * 7 % WORDS
                for precision in PRECISIONS:
                    mine = block(ours(net, sentences, beam, precision), tokens)
                    theirs = block(in_torch(net, sentences, beam), tokens)
                    rows.append(row(f"{case}, {precision}", threads, flops(count), mine, theirs, given.seconds))
    report("engine_decoder", "torch", given, rows)
    print("largest error of a log-probability over 50 steps:", ", ".join(f"{p} {e:.1e}" for p, e in errors.items()))
    if given.write:
        path = RESULTS / "engine_decoder.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "steps": STEPS, "errors": errors}, indent=1) + "\n")


if __name__ == "__main__":
    main()
