"""HookedModule: record, edit and patch any `nn.Module` by module path (vision towers, generators, heads)."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self

from torch import Tensor, nn

from hooked.errors import VestigeError
from hooked.hooks import Attachment, Edit, HookContext, attached
from hooked.ledger import patched
from hooked.sites import Tap
from hooked.weights import WeightPatch

Side = Literal["input", "output"]


class HookedModule:
    """Wraps any module; an address is the path of a module, optionally followed by `.input` or `.output` (the default).

    Args:
        module: The module; it is called as it is.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._paths = dict(module.named_modules())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def record(self, *args: Any, addresses: Sequence[str], **kwargs: Any) -> tuple[Any, dict[str, Tensor]]:
        """Run the module and return its output with a copy of the activation at each address.

        Raises:
            VestigeError: An address does not exist or was never reached.
        """
        kept: dict[str, Tensor] = {}

        def keep(activation: Tensor, hook: HookContext) -> None:
            kept[hook.name] = activation.detach().clone()

        with attached(self.module, [Attachment(self._tap(a), HookContext(a), keep, writes=False) for a in addresses]):
            output = self.module(*args, **kwargs)
        silent = [a for a in addresses if a not in kept]
        if silent:
            raise VestigeError(f"'{silent[0]}' was never reached during the forward pass")
        return output, kept

    @contextmanager
    def edit(self, edits: Mapping[str, Edit] | Sequence[tuple[str, Callable[..., Tensor | None]]]) -> Iterator[Self]:
        """Keep edits `fn(activation, hook)` in place inside the `with` block."""
        pairs = list(edits.items()) if isinstance(edits, Mapping) else list(edits)
        with attached(self.module, [Attachment(self._tap(a), HookContext(a), f) for a, f in pairs]):
            yield self

    @contextmanager
    def patch(self, patch: WeightPatch) -> Iterator[Self]:
        """Keep weight deltas in force inside the `with` block."""
        with patched(self.module, patch):
            yield self

    def _tap(self, address: str) -> Tap:
        path, _, side = address.rpartition(".")
        # Some models have modules that are called `output`: the path of a module means that module.
        if side not in ("input", "output") or address in self._paths:
            path, side = address, "output"
        if path not in self._paths:
            near = difflib.get_close_matches(path, self._paths, n=1, cutoff=0.4)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise VestigeError(f"no module '{path}' in {type(self.module).__name__}{hint}")
        return Tap(path, "input" if side == "input" else "output")
