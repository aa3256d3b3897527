"""Names for runs that were given none: adjective-animal-N, as in `brave-otter-1`."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_ADJECTIVES = (
    "bold brave bright brisk calm clever cool eager early fair fast fine fond free fresh glad gold good grand green "
    "happy keen kind large light lucky mild neat new nice proud quick quiet rare rich ripe sharp shy silver slow "
    "smart soft sound spry still strong sunny sure swift tall tame tidy true vast warm wild wise young"
).split()
_ANIMALS = (
    "badger bat bear bee beetle bison boar crab crane crow deer dingo dove duck eagle eel elk falcon finch fish fox "
    "frog gecko goat goose hare hawk heron ibex jay koala lark lemur lion llama lynx mole moose moth mouse newt "
    "otter owl panda pony puma quail rabbit raven robin seal shark sheep sloth snail stork swan tapir tiger toad trout "
    "turtle wasp whale wolf wren yak zebra"
).split()


def run_name(taken: Collection[str]) -> str:
    """A name that is not in `taken`."""
    base = f"{random.choice(_ADJECTIVES)}-{random.choice(_ANIMALS)}"  # noqa: S311 - a name, not a secret
    number = 1
    while f"{base}-{number}" in taken:
        number += 1
    return f"{base}-{number}"
