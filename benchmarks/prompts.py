"""The conversations of the LLM workload: made of word lists, so that any number of them differ from the first words on.

Each names its system prompt, as without one the chat template of a model may put in one of its own. Sizes are in tokens
of SmolLM2, of the whole prompt.
"""

from __future__ import annotations

import random
from collections.abc import Callable

Message = dict[str, str]
Conversation = list[Message]


def _words(text: str) -> list[str]:
    return text.split()


_SYSTEM = "You are a helpful assistant."
_WHO = _words(
    "clockmaker gardener pilot librarian fisherman baker astronomer tailor violinist miner nurse painter "
    "shepherd carpenter judge diver teacher locksmith beekeeper juggler postman weaver cook sailor printer "
    "botanist"
)
_WHERE = _words(
    "harbour desert lighthouse village library forest orchard monastery railway island canyon market castle "
    "glacier theatre vineyard swamp museum bakery tunnel"
)
_WHAT = _words(
    "lantern compass violin teapot letter coin bicycle umbrella telescope map feather mirror key barrel rope "
    "candle bell kettle ladder stamp"
)


def distinct(number: int) -> Conversation:
    """A prompt of about 64 tokens, another one for each number."""
    pick = random.Random(number)
    who, friend = pick.sample(_WHO, 2)
    text = (
        f"{who.capitalize()} number {number} lives near a {pick.choice(_WHERE)} and has lost a {pick.choice(_WHAT)}. "
        f"Write a long story about the search, in which a {friend} helps, a {pick.choice(_WHAT)} is found in a "
        f"{pick.choice(_WHERE)}, and both learn something new."
    )
    return _conversation(_SYSTEM, text)


def shared(number: int) -> Conversation:
    """A system prompt of about 512 tokens, the same for all, and a short question, another one for each number."""
    pick = random.Random(number)
    question = f"Guest {number} asks about the {pick.choice(_WHAT)} in the {pick.choice(_WHERE)}. What do you answer?"
    return _conversation(_rules(), question)


def _rules() -> str:
    pick = random.Random("rules")
    rules = [
        f"Rule {n}: a guest who asks for the {pick.choice(_WHAT)} of the {pick.choice(_WHO)} is sent to the "
        f"{pick.choice(_WHERE)}, and gets a {pick.choice(_WHAT)} back."
        for n in range(1, 19)
    ]
    return "You answer the guests of a large hotel, politely and in two sentences. " + " ".join(rules)


def repetitive(number: int) -> Conversation:
    """A list, and the request to write it down again with one word exchanged: about 200 tokens."""
    pick = random.Random(number)
    who = pick.sample(_WHO, 10)
    rows = (f"The {w} keeps a red {pick.choice(_WHAT)} in the {pick.choice(_WHERE)}." for w in who)
    listing = "\n".join(f"{place}. {row}" for place, row in enumerate(rows, 1))
    text = f"Here is list {number}:\n\n{listing}\n\nRepeat the whole list word for word, with blue in place of red."
    return _conversation(_SYSTEM, text)


def _conversation(system: str, user: str) -> Conversation:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def several(make: Callable[[int], Conversation], first: int, count: int) -> list[Conversation]:
    """Those with the numbers from `first` on."""
    return [make(number) for number in range(first, first + count)]


def chatml(conversation: Conversation) -> str:
    """What SmolLM2's chat template makes of it; for the loop that has no templates."""
    turns = (f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in conversation)
    return "".join(turns) + "<|im_start|>assistant\n"
