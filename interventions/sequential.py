"""Sequential unlearning: one request after the other, each on the model that the earlier ones left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

from hooked import HookedModel, Intervention, UnlearnData, VestigeError


def sequentially(
    model: HookedModel, requests: Sequence[UnlearnData], method: Callable[..., Intervention], **settings: Any
) -> Intervention:
    """Forget several sets in turn.

    What an earlier request forgot is left out of the retain items of the later ones, which would teach it again.

    Args:
        model: Not changed.
        requests: What to forget and keep, in the order in which it is asked for.
        method: `fn(model, data, **settings)`, e.g. `npo`; it is given a view in which the earlier results are in force.
        settings: Of the method, the same for every request.

    Returns:
        The results composed, `first + second + ...`.

    Raises:
        VestigeError: There is no request, the earlier ones leave nothing to retain, or the method refuses one; the
            message says which.
    """
    if isinstance(requests, UnlearnData):
        raise VestigeError("sequential unlearning takes a list of UnlearnData, got a bare one; write [data]")
    if not requests:
        raise VestigeError("sequential unlearning needs at least one request; give a list of UnlearnData")
    made: list[Intervention] = []
    gone: set[tuple[str, str]] = set()
    with ExitStack() as stack:
        view = model
        for number, request in enumerate(requests, 1):
            kept = tuple(item for item in request.retain if (item.prompt, item.answer) not in gone)
            if request.retain and not kept:
                raise VestigeError(
                    f"request {number} of {len(requests)}: its {len(request.retain)} retain items are all among what "
                    "earlier requests forget; give it others to keep"
                )
            try:
                made.append(method(view, replace(request, retain=kept), **settings))
            except VestigeError as error:
                raise VestigeError(f"request {number} of {len(requests)}: {error}") from error
            gone |= {(item.prompt, item.answer) for item in request.forget}
            view = stack.enter_context(made[-1].applied(view))
    return reduce(add, made)
