"""A few messages with intents, slots, both or neither, for several tests."""

from holdfast.parts.text.conversation import Asked, Slot, Turn, asked

TURNS = [
    Turn("user", "Where is my new card?", "card", ()),
    Turn("bot", "Which card of all cards do you mean?"),
    Turn("user", "My card is not here", "card", ()),
    Turn("user", "Book a table at Sino in San Jose", "table", (Slot("who", "Sino"), Slot("where", "San Jose"))),
    Turn("user", "A table for Rome, book it!", "table", (Slot("where", "Rome"),)),
    Turn("user", "book a table in san jose", "table"),  # nobody said which slots
    Turn("user", "In San Jose please", None, (Slot("where", "San Jose"),)),  # nor here which intent
    Turn("user", "What do cats dream of?", "oos", ()),
]
MESSAGES: list[Asked] = asked(TURNS, 0)  # each by itself
