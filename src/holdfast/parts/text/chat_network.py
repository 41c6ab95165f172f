"""The network of a bot: one part understands messages, the other writes replies; either may be missing."""

from typing import final

from torch import Tensor, nn

from .message_network import MessageNetwork
from .reply_network import ReplyNetwork
from .spoken_batches import Steps


@final
class ChatNetwork(nn.Module):
    """Two networks that share nothing but their batches: what is right for the one spoils the other.

    Args:
        messages: understands; None: nothing is understood.
        replies: writes; None: nothing is said.
    """

    def __init__(self, messages: MessageNetwork | None, replies: ReplyNetwork | None) -> None:
        super().__init__()
        self.messages, self.replies = messages, replies

    def loss(self, batch: Steps) -> tuple[Tensor, int, dict[str, Tensor]]:
        """Nats of all tokens of replies, of intents and of slots; how many they are; and the three by name."""
        parts: dict[str, Tensor] = {}
        count = 0
        if self.replies is not None and batch.exchanges is not None:
            nats = self.replies(batch.exchanges)
            parts["reply"] = nats.sum()
            count += nats.numel()
        if self.messages is not None and batch.messages is not None:
            found = self.messages.loss(self.messages(batch.messages), batch.messages)
            parts |= {"intent": found.intent, "slots": found.slot}
            count += found.intents + found.words
        return sum(parts.values(), next(iter(parts.values())).new_zeros(())), max(1, count), parts
