"""How good translations are: BLEU (Papineni et al., ACL 2002) and chrF (Popović, WMT 2015), by sacrebleu."""

from collections.abc import Sequence
from typing import Any, Literal

from ..errors import MissingExtraError

Tokens = Literal["13a", "none", "intl", "char"]


def judge(texts: Sequence[str], references: Sequence[Sequence[str]], tokens: Tokens) -> dict[str, float]:
    """Percentages, of a whole corpus; every text may have several references.

    Args:
        texts: the translations.
        references: for each of them, at least one.
        tokens: how BLEU cuts texts into words: "13a" as WMT does, "none" for texts that are cut by spaces already.
    """
    sacrebleu = library()
    most = max(len(ways) for ways in references)
    streams = [[ways[n] if n < len(ways) else None for ways in references] for n in range(most)]
    # force: sacrebleu warns where a text ends in " ." although "none" was asked for.
    bleu = sacrebleu.corpus_bleu(list(texts), streams, tokenize=tokens, force=True)
    return {"BLEU": float(bleu.score), "chrF": float(sacrebleu.corpus_chrf(list(texts), streams).score)}


def library() -> Any:
    try:
        import sacrebleu
    except ImportError:
        raise MissingExtraError("sacrebleu", "text", "BLEU") from None
    return sacrebleu
