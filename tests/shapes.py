"""The type checker of `make shapes`: beartype, called by jaxtyping around every annotated function of the packages."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintException

# An int is welcome where a float is asked for, as it is to mypy.
_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check arguments and result of every call that returns.

    jaxtyping asks twice: before a call about the arguments alone, with a result of type Any, and after it about both.
    The first is waved through, so that a function refuses what it refuses in its own words. Hints that are for mypy
    alone (`Self`, a plain Protocol) leave their function unchecked.
    """
    if function.__annotations__.get("return") is Any:
        return function
    try:
        return _beartype(function)
    except BeartypeDecorHintException:
        return function
