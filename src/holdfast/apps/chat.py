"""Chat: a conversation in; what the user wants, with which details, and a reply out, token by token."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal, final

import numpy as np
from torch import nn

from ..parts.errors import DataError
from ..parts.settings import setting
from ..parts.text import made_up_talk, message_network, reply_network, tokens
from ..parts.text.answers import Answered, answer_rows, draw_answers
from ..parts.text.arriving_turns import arriving_turns
from ..parts.text.beam import Search
from ..parts.text.chat_network import ChatNetwork
from ..parts.text.chat_scores import judge_chat, temperature_of, threshold_of
from ..parts.text.chatting import ChatStreaming, Chatting, Said
from ..parts.text.conversation import Conversation, asked, told
from ..parts.text.exchanges import Limits, is_answered
from ..parts.text.message_network import MessageNetwork
from ..parts.text.message_vocabulary import MessageFacts, learn_messages
from ..parts.text.ngrams import Bigrams, count_bigrams
from ..parts.text.reply_network import ReplyNetwork
from ..parts.text.replying import Replying, Style
from ..parts.text.sampling import Sampling
from ..parts.text.spoken_batches import Piece, Steps, batched, labelled, pieces_of, steps_of
from ..parts.text.templates import Templates, learn_templates
from ..parts.text.tokens import Vocabulary
from ..parts.text.transcripts import Columns, read_conversations
from ..parts.text.translating import spaced
from ..parts.text.translation_network import Dropout
from ..parts.text.understanding import understand
from ..training.application import Application, Loss, Prose, Recipe, Scores, Showcase, Source, Stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HELD_OUT = 0.05  # share of the conversations for validation; of single messages twice as much


@dataclass(frozen=True)
class Replies:
    """Facts found in what the bot said."""

    vocabulary: Vocabulary  # of all messages and facts
    bigrams: Bigrams
    templates: Templates  # the baseline


@dataclass(frozen=True)
class Talk:
    """Facts found in the training conversations."""

    messages: MessageFacts | None  # None: nobody said what messages mean
    replies: Replies | None  # None: no message is answered


@final
@dataclass(frozen=True)
class Chatbot(Application[Conversation, Talk, list[Piece], Steps, Answered, Said]):
    """A user's messages -> intent, slots, and replies."""

    understanding: bool = setting(True, "learn intents and slots, where the data have them")
    replying: bool = setting(True, "learn to write replies, where the data have them")
    outside: str = setting("oos", "the intent of messages that are none of the others")
    accepted: float = setting(0.95, "share of the intents' own messages that are taken for one", low=0.5, high=1.0)
    context: int = setting(2, "turns before a message by which it is understood", low=0)
    members: int = setting(1, "readers of messages that are averaged, beside the n-grams", low=1)
    message_width: int = setting(128, "width of the embeddings that understand", low=1)
    message_hidden: int = setting(128, "memory cells of each direction that understands", low=1)
    message_dropout: float = setting(0.4, "share of features left out while learning intents", low=0.0, high=0.95)
    message_words: float = setting(0.1, "share of words and n-grams left out, too", low=0.0, high=0.95)
    smoothing: float = setting(0.1, "share of an intent's probability spread over all", low=0.0, high=0.9)
    mixup: float = setting(0.0, "intents are learned from messages mixed in pairs, 0 for none", low=0.0, high=10.0)
    vocabulary: int = setting(6000, "subwords at most", low=256)
    width: int = setting(128, "width of the embeddings that write", low=1)
    hidden: int = setting(256, "memory cells that write, and of the conversation", low=2)
    window: int = setting(3, "messages that a reply looks at", low=1)
    longest: int = setting(80, "subwords of a message that are read", low=2)
    dropout: float = setting(0.2, "share of features left out while learning to write", low=0.0, high=0.95)
    dropout_words: float = setting(0.05, "share of subwords left out while learning to write", low=0.0, high=0.95)
    weight_drop: float = setting(0.0, "share of the recurrent weights left out while training", low=0.0, high=0.95)
    hidden_facts: float = setting(0.1, "share of replies that are learned without their facts", low=0.0, high=1.0)
    beam: int = setting(1, "replies kept open; 1 writes token by token", low=1, use=True)
    n_best: int = setting(1, "replies per message", low=1, use=True)
    diversity: float = setting(0.0, "how far the n best are from each other; 0: as the beam has it", low=0.0, use=True)
    length: int = setting(80, "subwords of a reply at most", low=1, use=True)
    length_penalty: float = setting(1.0, "0 prefers short replies, more longer ones", low=0.0, use=True)
    generic: float = setting(0.0, "how much what is said to everybody counts against a reply", low=0.0, use=True)
    missing: float = setting(1.0, "how much a fact that it leaves out counts against a reply", low=0.0, use=True)
    no_repeat: int = setting(0, "no run of so many subwords twice, 0 for any", low=0, use=True)
    temperature: float = setting(0.0, "0 writes the likeliest, more is wilder; with a beam of 1", low=0.0, use=True)
    top_k: int = setting(0, "draw from so many likeliest subwords, 0 for all", low=0, use=True)
    top_p: float = setting(0.95, "draw from the likeliest subwords of this probability", low=0.01, high=1.0, use=True)
    repetition: float = setting(1.0, "divides the odds of subwords just used", low=0.01, use=True)
    sampling_seed: int = setting(0, "seed of the dice that choose subwords", low=0, use=True)
    decoder_precision: Literal["highest", "medium", "int8"] = setting("highest", "of the weights that write", use=True)
    text_column: str | None = setting(None, "column of messages; found by its name where not given", use=True)
    reply_column: str | None = setting(None, "column of replies", use=True)
    conversation_column: str | None = setting(None, "column of conversations", use=True)
    speaker_column: str | None = setting(None, "column of who speaks", use=True)
    intent_column: str | None = setting(None, "column of intents", use=True)
    slots_column: str | None = setting(None, "column of slots", use=True)
    facts_column: str | None = setting(None, "column of facts", use=True)
    bot: str | None = setting(None, "the speaker who is the bot; then all others are users", use=True)

    task: ClassVar[str] = "chat"
    summary: ClassVar[str] = "a user's messages in, intents, slots and replies out, token by token"
    prose: ClassVar[Prose] = Prose("reply", end="")
    recipe: ClassVar[Recipe] = Recipe(
        steps=2000, batch=64, learning_rate=3e-3, weight_decay=0.01, validate_every=200, average=0.99
    )
    codec_type: ClassVar[type] = Talk

    @property
    def columns(self) -> Columns:
        """Which column of a table is what."""
        return Columns(
            self.text_column,
            self.reply_column,
            self.conversation_column,
            self.speaker_column,
            self.intent_column,
            self.slots_column,
            self.facts_column,
            self.bot,
        )

    # --- examples -----------------------------------------------------------------------------------------------------

    def read(self, source: Source) -> list[Conversation]:
        return read_conversations(source, self.columns)

    def synthesize(self, count: int, rng: np.random.Generator) -> list[Conversation]:
        """Conversations with a tailor's shop."""
        return [made_up_talk.conversation(str(number), rng) for number in range(count)]

    def split(
        self, examples: Sequence[Conversation], rng: np.random.Generator
    ) -> tuple[list[Conversation], list[Conversation]]:
        """Whole conversations are held out; of single messages some of every intent."""
        single = all(len(one.turns) == 1 for one in examples)
        count = max(1, round(HELD_OUT * (1 + single) * len(examples)))
        if len(examples) < 2:
            raise DataError("there is one conversation alone", hint="hand in more, or --valid")
        order = rng.permutation(len(examples))
        if single:  # of those sorted by intent every n-th
            order = np.array(sorted(order.tolist(), key=lambda n: examples[n].turns[0].intent or ""))
            order = np.concatenate(
                [order[:: len(order) // count], np.delete(order, slice(0, None, len(order) // count))]
            )
            count = len(order[:: len(order) // count])
        held = set(order[:count].tolist())
        return [one for n, one in enumerate(examples) if n not in held], [examples[n] for n in sorted(held)]

    def prepare(self, examples: Sequence[Conversation]) -> Talk:
        said = [message for one in examples for message in asked(one.turns, self.context)]
        known = self.understanding and labelled([one.turn for one in said])
        messages = learn_messages(said, self.outside) if known else None
        replies = self.learn_replies(examples) if self.replying else None
        if messages is None and replies is None:
            hint = "a column of intents or of slots, replies, or messages of both user and bot"
            raise DataError("these conversations hold nothing to learn", hint=hint)
        return Talk(messages, replies)

    def learn_replies(self, examples: Sequence[Conversation]) -> Replies | None:
        """What there is to know before replies are learned; None where there are none."""
        pairs = [pair for one in examples for pair in itertools.pairwise(one.turns) if is_answered(*pair)]
        if not pairs:
            return None
        texts = [text for one in examples for turn in one.turns for text in (turn.text, told(turn.facts)) if text]
        vocabulary = tokens.learn((f"{spaced(text)}\n" for text in texts), "subwords", self.vocabulary)
        said = [np.append(vocabulary.encode(spaced(after.text)), vocabulary.start) for _, after in pairs]
        bigrams = count_bigrams([np.concatenate(said)], len(vocabulary), vocabulary.start)
        return Replies(vocabulary, bigrams, learn_templates(examples))

    # --- learning -----------------------------------------------------------------------------------------------------

    def network(self, codec: Talk) -> nn.Module:
        messages = replies = None
        if codec.messages is not None:
            sizes = message_network.Sizes(self.message_width, self.message_hidden, 1, self.members)
            rates = message_network.Rates(
                self.message_words, self.message_dropout, self.message_words, 0.0, self.smoothing, self.mixup
            )
            messages = MessageNetwork(codec.messages, sizes, rates)
        if codec.replies is not None:
            dropout = Dropout(self.dropout_words, self.dropout, self.weight_drop)
            sizes = reply_network.Sizes(self.width, self.hidden, self.window)
            replies = ReplyNetwork(len(codec.replies.vocabulary), sizes, dropout)
        return ChatNetwork(messages, replies)

    def encode(self, codec: Talk, examples: Sequence[Conversation]) -> list[Piece]:
        vocabulary = None if codec.replies is None else codec.replies.vocabulary
        return [piece for one in examples for piece in pieces_of(one, vocabulary, codec.messages, self.longest)]

    def batches(self, codec: Talk, encoded: list[Piece], size: int, rng: np.random.Generator | None) -> Iterator[Steps]:
        end = 0 if codec.replies is None else codec.replies.vocabulary.start
        for batch in batched(encoded, size, rng):
            steps = steps_of(batch, codec.messages, Limits(self.longest, self.window), end, self.hidden_facts, rng)
            if steps != Steps(None, None):
                yield steps

    def loss(self, net: nn.Module, batch: Steps, state: Any = None) -> Loss:
        """Every token of a reply, every intent and every word with a tag counts as one."""
        assert isinstance(net, ChatNetwork)
        return Loss(*net.loss(batch))

    def calibrate(self, net: nn.Module, codec: Talk, examples: Sequence[Conversation]) -> Talk:
        """What is accepted as one of the intents, and how sure that is, by the validation messages."""
        assert isinstance(net, ChatNetwork)
        if codec.messages is None or net.messages is None:
            return codec
        said = [message for one in examples for message in asked(one.turns, codec.messages.context)]
        found = dataclasses.replace(
            codec.messages,
            threshold=threshold_of(net.messages, codec.messages, said, self.accepted),
            temperature=temperature_of(net.messages, codec.messages, said),
        )
        return dataclasses.replace(codec, messages=found)

    # --- answering ----------------------------------------------------------------------------------------------------

    def chatting(self, net: nn.Module, codec: Talk) -> Chatting:
        assert isinstance(net, ChatNetwork)
        known = None
        if net.messages is not None and codec.messages is not None:
            known = functools.partial(understand, net.messages, codec.messages)
        return Chatting(known, self.replier(net, codec), 0 if codec.messages is None else codec.messages.context)

    def replier(self, net: nn.Module, codec: Talk) -> Replying | None:
        """What writes replies; None where nobody taught it."""
        assert isinstance(net, ChatNetwork)
        if net.replies is None or codec.replies is None:
            return None
        beam = max(self.beam, self.n_best)
        search = Search(
            beam,
            beam if self.generic or self.missing else self.n_best,
            self.length_penalty,
            no_repeat=self.no_repeat,
            shortest=1,
            most=self.length,
            diversity=self.diversity,
        )
        sampling = Sampling(self.temperature, self.top_k, self.top_p, self.repetition, no_repeat=self.no_repeat)
        style = Style(search, sampling, self.length, self.generic, self.missing, self.n_best, self.sampling_seed)
        known = codec.replies
        return Replying(net.replies, known.vocabulary, known.bigrams, style, self.longest, self.decoder_precision)

    def predict(self, net: nn.Module, codec: Talk, inputs: Sequence[Conversation]) -> list[Answered]:
        """Every message of a user is answered."""
        chatting = self.chatting(net, codec)
        return [chatting.answers(one) for one in inputs]

    def evaluate(self, net: nn.Module, codec: Talk, examples: Sequence[Conversation]) -> Scores:
        """Intents, slots and replies, each beside a baseline; every reply follows what was really said before."""
        assert isinstance(net, ChatNetwork)
        templates = None if codec.replies is None else codec.replies.templates
        batches = self.batches(codec, self.encode(codec, examples), self.recipe.batch, None)
        return judge_chat(net, codec.messages, self.replier(net, codec), templates, examples, batches)

    def stream(self, net: nn.Module, codec: Talk) -> Stream[Said, Answered]:
        size = 0 if codec.replies is None else len(codec.replies.vocabulary)
        return ChatStream(self.chatting(net, codec), f"{size} subwords, {self.hidden} cells")

    def pieces(self, source: BinaryIO) -> Iterator[Said]:
        return arriving_turns(source, self.columns)

    @classmethod
    def showcase(cls) -> Showcase:
        """A bot learns to answer for a tailor."""
        train, held = (cls().synthesize(count, np.random.default_rng(seed)) for count, seed in ((400, 0), (20, 1)))
        app = cls(vocabulary=400, width=48, hidden=64, members=1, message_width=32, message_hidden=32, dropout=0.1)
        recipe = dataclasses.replace(cls.recipe, steps=300, batch=32, learning_rate=5e-3, validate_every=50, average=0)
        asked = [Conversation(one.name, tuple(t for t in one.turns if t.speaker == "user")) for one in held[:4]]
        return Showcase(
            "Four hundred conversations with a tailor; four more are held.", app, recipe, train, asked, held
        )

    def rows(self, outputs: Sequence[Answered]) -> list[dict[str, Any]]:
        return answer_rows(outputs)

    def draw(self, inputs: Sequence[Conversation], outputs: Sequence[Answered]) -> "Figure":
        return draw_answers(outputs)


@final
class ChatStream(ChatStreaming, Stream[Said, Answered]):
    """Every message is answered when it comes."""
