"""The table of attacks: what the attacker needs, whether it is shown the answers, and in which suites it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from hooked.errors import VestigeError

Access = Literal["prompts", "logits", "activations", "gradients", "weights", "training"]
Suite = Literal["quick", "standard", "full"]


@dataclass(frozen=True)
class Attack:
    """A row of the table.

    Args:
        name: Of the function and, behind a colon, of the settings that make it another attack.
        home: Module that holds the function.
        access: What the attacker needs at most; each kind includes those before it, training includes all.
        uses_target: Whether it optimises towards the answers it is scored on, which makes its score an upper bound.
        suite: The smallest suite in which it runs.
        passes: Its cost, in passes over the forget items (a backward pass counts twice), about.
        settings: Arguments beyond the defaults.
        says: What it does, in a few words.
        paper: Authors, year and arXiv number.
    """

    name: str
    home: str
    access: Access
    uses_target: bool
    suite: Suite
    passes: int
    settings: Mapping[str, Any]
    says: str
    paper: str


# Text, so that the command line can list names without paying for torch. A test holds it to the functions.
_TABLE = """
affirmative_prefix | affirmative_prefix | prompts | no | quick | 1 | | begins the reply with an obliging phrase | Wei et al. 2023, arXiv:2307.02483
"""  # noqa: E501


def _read(line: str) -> Attack:
    name, home, access, uses_target, suite, passes, settings, says, paper = (cell.strip() for cell in line.split("|"))
    pairs = dict(_setting(pair) for pair in settings.split())
    return Attack(
        name,
        f"vestige.attacks.{home}",
        cast(Access, access),
        uses_target == "yes",
        cast(Suite, suite),
        int(passes),
        pairs,
        says,
        paper,
    )


def _setting(pair: str) -> tuple[str, Any]:
    name, _, value = pair.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


ATTACKS: Mapping[str, Attack] = {row.name: row for row in map(_read, _TABLE.strip().splitlines())}


def chosen(suite: str | None = None, names: Sequence[str] = ()) -> tuple[Attack, ...]:
    """Return the attacks of a suite and those that are named, in the order of the table.

    Raises:
        VestigeError: There is no such suite or attack.
    """
    suites = get_args(Suite)
    if suite is not None and suite not in suites:
        raise VestigeError(f"no suite {suite!r}; there are {', '.join(suites)}")
    unknown = next((name for name in names if name not in ATTACKS), None)
    if unknown is not None:
        raise VestigeError(f"no attack {unknown!r}; there are {', '.join(ATTACKS)}")
    within = suites[: suites.index(cast(Suite, suite)) + 1] if suite is not None else ()
    return tuple(one for one in ATTACKS.values() if one.suite in within or one.name in names)
