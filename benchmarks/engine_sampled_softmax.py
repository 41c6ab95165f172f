"""Sampled softmax with its gradients against plain torch: the steps of language models and recommenders.

    python benchmarks/engine_sampled_softmax.py [--threads 1 2] [--quick]

Forward and backward pass, everything wanting a gradient; targets by Zipf's law; the same negatives for both, drawn
beforehand, half of them the commonest. torch's has the target's logit as a column before the negatives' and
F.cross_entropy over all; in "medium" it is measured under autocast to bfloat16 and in float32. Both look rows up with
sparse gradients, so that the matrix of gradients, which is the same for both, is not what is measured.
"""

from collections.abc import Callable

import torch
from torch.nn import functional

from engine_medium import in_precision, under_autocast
from holdfast.parts.sampled_softmax import NegativeSampler, merged, sampled_softmax_loss
from measure import Row, options, report, row

SIZES = ((2240, 512, 33_278, 2048), (4096, 256, 100_000, 4096), (700, 650, 33_278, 1024))  # tokens ... negatives
Step = Callable[[], None]


def sides(tokens: int, width: int, vocabulary: int, negatives: int) -> tuple[Step, Step]:
    """Ours, torch's."""
    torch.manual_seed(0)
    h, weight, bias = torch.randn(tokens, width), torch.randn(vocabulary, width) / width**0.5, torch.zeros(vocabulary)
    leaves = [leaf.requires_grad_() for leaf in (h, weight, bias)]
    counts = (1e7 / torch.arange(1.0, vocabulary + 1)).long()
    targets = torch.multinomial(counts.float(), tokens, replacement=True)
    items, log_q = NegativeSampler(counts, 0.75, negatives // 2).draw(negatives, torch.Generator().manual_seed(1))

    def torchs() -> torch.Tensor:
        others, spread = merged(items, log_q)
        own, rows = functional.embedding(torch.cat([targets, others]), weight, sparse=True).split([tokens, len(others)])
        chosen = (h * own).sum(1) + bias[targets]
        logits = functional.linear(h, rows, bias[others] - spread)
        logits = logits.masked_fill(targets.unsqueeze(1) == others, -1e30)
        every = torch.cat([chosen.unsqueeze(1), logits], 1)
        return functional.cross_entropy(every, torch.zeros(tokens, dtype=torch.int64))

    def step(loss: Callable[[], torch.Tensor]) -> Step:
        def one() -> None:
            for leaf in leaves:
                leaf.grad = None
            loss().backward()

        return one

    ours = step(lambda: sampled_softmax_loss(h, weight, bias, targets, items, log_q, sparse=True))
    return ours, step(torchs)


def main() -> None:
    given = options(__doc__ or "")
    found: list[Row] = []
    for threads in given.threads:
        torch.set_num_threads(threads)
        for size in SIZES:
            ours, torchs = sides(*size)
            tokens, width, vocabulary, negatives = size
            flops = 6.0 * tokens * width * negatives
            name = f"{tokens} tokens, width {width}, {negatives} of {vocabulary}"
            medium, seconds = in_precision("medium", ours), given.seconds / 4
            found += [
                row(f"float32, {name}, torch float32", threads, flops, ours, torchs, seconds),
                row(f"medium, {name}, torch bfloat16", threads, flops, medium, under_autocast(torchs), seconds),
                row(f"medium, {name}, torch float32", threads, flops, medium, torchs, seconds),
            ]
    report("engine_sampled_softmax", "torch", given, found)


if __name__ == "__main__":
    main()
