"""A bot in conversations: read turn by turn it stands where reading the whole puts it; n-best, and what is generic."""

import pytest
import torch

from holdfast.engine import library
from holdfast.parts.text.beam import Search
from holdfast.parts.text.conversation import Slot, Turn
from holdfast.parts.text.exchanges import Limits, exchanges, spoken
from holdfast.parts.text.ngrams import count_bigrams
from holdfast.parts.text.reply_network import ReplyNetwork, Sizes
from holdfast.parts.text.reply_scores import has
from holdfast.parts.text.replying import Replying, Style, packed_talk, unpacked_talk
from holdfast.parts.text.sampling import Sampling
from holdfast.parts.text.tokens import learn
from holdfast.parts.text.translation_network import Dropout

pytestmark = pytest.mark.skipif(not library.available(), reason="no compiled library here")

TURNS = (
    Turn("user", "red fox"),
    Turn("bot", "over"),
    Turn("user", "a lazy dog", facts=(Slot("fox", "red"),)),
    Turn("bot", "jumps"),
)


def replying(style: Style | None = None) -> Replying:
    torch.manual_seed(1)
    vocabulary = learn(["a red fox jumps over the lazy dog = ;\n"], "subwords", 262)
    net = ReplyNetwork(len(vocabulary), Sizes(12, 14, 2), Dropout()).eval()
    bigrams = count_bigrams(
        [vocabulary.encode(" jumps over\n jumps over\n lazy dog\n")], len(vocabulary), vocabulary.start
    )
    return Replying(
        net, vocabulary, bigrams, style or Style(Search(beam=3, best=3, most=6), Sampling(0.0), 6, wanted=3), 80
    )


def test_turn_by_turn_is_the_whole() -> None:
    bot = replying()
    talk = bot.fresh()
    for turn in TURNS[:3]:
        talk = bot.hear(talk, turn.speaker, turn.text)
    step_by_step = bot.begin(talk, TURNS[2].facts)
    batch = exchanges([spoken(bot.vocabulary, TURNS, 80)], bot.vocabulary.start, Limits(80, 2))
    whole = bot.begins(batch)[1]
    assert step_by_step.tokens is not None and whole.tokens is not None
    assert step_by_step.tokens.tolist() == whole.tokens.tolist()
    for name in ("keys", "values"):
        torch.testing.assert_close(getattr(step_by_step, name), getattr(whole, name))
    for ours, its in zip(step_by_step.states[0], whole.states[0], strict=True):
        torch.testing.assert_close(ours, its)
    assert len(talk.last) == 2  # the memory does not grow


def test_a_talk_survives_as_arrays() -> None:
    bot = replying()
    talk = bot.hear(bot.hear(bot.fresh(), "user", "red fox"), "bot", "over")
    again = unpacked_talk(packed_talk(talk), len(talk.last))
    for name in ("keys", "values"):
        assert torch.equal(getattr(bot.begin(again, ()), name), getattr(bot.begin(talk, ()), name))
    with pytest.raises(KeyError):
        unpacked_talk(packed_talk(talk), 3)


def test_greedy_writing_is_a_beam_of_one() -> None:
    bot = replying(Style(Search(beam=1, most=6), Sampling(0.0), 6))
    begin = bot.begin(bot.hear(bot.fresh(), "user", "red fox"), ())
    ((best,),) = bot.best([begin], [()])
    assert " ".join("".join(bot.write(begin, 1)).split()) == best.text


def test_dice_are_thrown_anew_for_each_message_and_the_same_each_time() -> None:
    bot = replying(Style(Search(beam=1), Sampling(3.0), 12, seed=5))
    begin = bot.begin(bot.hear(bot.fresh(), "user", "red fox"), ())
    first, again, other = ("".join(bot.write(begin, number)) for number in (1, 1, 2))
    assert first == again != other


def test_what_is_said_to_everybody_is_ranked_lower() -> None:
    plain, wary = replying(), replying(Style(Search(beam=3, best=3, most=6), Sampling(0.0), 6, generic=50.0, wanted=3))
    begin = plain.begin(plain.hear(plain.fresh(), "user", "red fox"), ())
    usual, changed = plain.best([begin], [()])[0], wary.best([begin], [()])[0]
    assert {one.text for one in usual} == {one.text for one in changed}
    assert [one.score for one in changed] == sorted((one.score for one in changed), reverse=True)
    tokens = {one.text: wary.vocabulary.encode(f" {one.text}").tolist() for one in usual}
    strange = max(
        usual, key=lambda one: wary.strangeness(tokens[one.text]) / wary.style.search.divisor(len(tokens[one.text]) + 1)
    )
    assert changed[0].text == strange.text
    assert plain.strangeness(plain.vocabulary.encode(" jumps over").tolist()) < plain.strangeness(
        plain.vocabulary.encode(" dog jumps").tolist()
    )


def test_a_reply_that_leaves_facts_out_is_ranked_lower() -> None:
    search = Search(beam=12, best=12, most=6)
    plain = replying(Style(search, Sampling(0.0), 6, wanted=12))
    careful = replying(Style(search, Sampling(0.0), 6, missing=100.0))
    begin = plain.begin(plain.hear(plain.fresh(), "user", "red fox"), ())
    usual = plain.best([begin], [()])[0]
    other = next(one.text for one in usual if not has(usual[0].text, one.text))  # what the first does not say
    facts = [Slot("colour", other.upper()), Slot("nothing", "")]
    (best,) = careful.best([begin], [facts])[0]
    assert best.text != usual[0].text and has(best.text, other)
    assert careful.ranked([], facts) == []


def test_silence_is_no_reply() -> None:
    bot = replying(Style(Search(beam=1), Sampling(0.0), 12))
    torch.nn.init.constant_(bot.net.gate.bias, 60.0)  # nothing is copied
    with torch.no_grad():
        bot.net.bias[bot.vocabulary.start] = 50.0  # to end is all the network wants
        bot.net.bias[bot.vocabulary.encode("x")[0]] = 30.0
    begin = bot.begin(bot.hear(bot.fresh(), "user", "red fox"), ())
    assert "".join(bot.write(begin, 1)) == "x"
