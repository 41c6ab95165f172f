"""How good replies are: BLEU, details that are missing, and how much they differ from each other."""

import itertools
import re
from collections.abc import Sequence

from .bleu import judge
from .conversation import Slot

WORD = re.compile(r"\w+|[^\w\s]")


def judge_replies(
    replies: Sequence[str], references: Sequence[str], facts: Sequence[Sequence[Slot]]
) -> dict[str, float]:
    """Of replies beside what was really said, the facts being what each was to tell.

    BLEU           percent, of all together
    slot_error     share of the facts' values in the references that the replies lack (Wen et al., EMNLP 2015, count
                   repeated ones, too); where there are any
    distinct_1     different words, and pairs of them, per word (Li et al., NAACL 2016)
    distinct_2
    """
    scores = {"BLEU": judge(replies, [[one] for one in references], "13a")["BLEU"]}
    wanted = missing = 0
    for reply, reference, known in zip(replies, references, facts, strict=True):
        values = {fact.value.lower() for fact in known if fact.value and has(reference, fact.value)}
        wanted += len(values)
        missing += sum(not has(reply, value) for value in values)
    if wanted:
        scores["slot_error"] = missing / wanted
    words = [WORD.findall(reply.lower()) for reply in replies]
    count = max(1, sum(map(len, words)))
    scores["distinct_1"] = len({word for one in words for word in one}) / count
    scores["distinct_2"] = len({pair for one in words for pair in itertools.pairwise(one)}) / count
    return scores


def has(text: str, value: str) -> bool:
    """Whether a value stands in a text, capitals or not, and not inside a word."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None
