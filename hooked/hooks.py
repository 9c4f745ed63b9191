"""The only place that registers hooks: always through a context manager, removed by handle, foreign hooks untouched."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hooked.errors import VestigeError
from hooked.sites import Tap, layer_of


@dataclass
class Request:
    """One pass of a top-level call, as an edit sees it. `state` lives for the whole call, the rest for one chunk of it.

    Args:
        mask: True on real tokens of the current chunk.
        prompt: True on prompt tokens of the current chunk.
        step: True where the logits answer a decoding step: from each row's last prompt token on.
        offset: Number of cached positions before the chunk; 0 for a prefill or a full forward.
        ids: Token ids of the current chunk.
        state: Free for edits that carry something along a generation; a new dict for every top-level call. Decoding
            without a KV cache runs the whole text at every step, so there it is new at every step.
        decided: What gates said about the prompt; it stands for the whole call.
        cached: Whether the call keeps a KV cache, so that later chunks hold new tokens alone.
    """

    mask: Bool[Tensor, "batch pos"]
    prompt: Bool[Tensor, "batch pos"]
    step: Bool[Tensor, "batch pos"]
    offset: int
    ids: Tensor
    state: dict[Any, Any] = field(default_factory=dict)
    decided: dict[Any, Any] = field(default_factory=dict)
    cached: bool = False


class HookContext:
    """The `hook` argument of an edit: the site's name and the request it runs in.

    Has `name`, `layer()` and `ctx` as TransformerLens' HookPoint has, so that existing hook functions work unchanged.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.ctx: dict[str, Any] = {}
        self.fired = False
        self.request: Request | None = None

    def layer(self) -> int:
        """Return the block index of the site."""
        layer = layer_of(self.name)
        if layer is None:
            raise VestigeError(f"site '{self.name}' is outside the blocks and has no layer")
        return layer

    def __repr__(self) -> str:
        return f"HookContext({self.name!r})"


@runtime_checkable
class Edit(Protocol):
    """`fn(activation, hook) -> replacement or None`, as in TransformerLens; `hook` is passed as a keyword.

    One with a true attribute `notes` changes nothing: it reads a site after every edit there, on all rows.
    """

    def __call__(self, activation: Tensor, /, hook: HookContext) -> Tensor | None: ...


def only_notes(edit: Edit) -> bool:
    """Whether an edit reads a site and changes nothing."""
    return bool(getattr(edit, "notes", False))


class StopForward(Exception):
    """Raised by our own hooks to end a forward pass early; never leaves this package."""


@dataclass(frozen=True)
class Attachment:
    """One function to run at one tap. `context` is shared by all functions of a site in one call."""

    tap: Tap
    context: HookContext
    function: Callable[..., Tensor | None]
    writes: bool = True


class Standing:
    """The contexts of hooks that a caller keeps in place; every pass lends them its request."""

    def __init__(self) -> None:
        self._contexts: list[HookContext] = []

    @property
    def contexts(self) -> tuple[HookContext, ...]:
        """Contexts of the hooks that are in place now."""
        return tuple(self._contexts)

    @contextmanager
    def holding(self, contexts: Sequence[HookContext]) -> Iterator[None]:
        """Count contexts in for the length of a block."""
        self._contexts.extend(contexts)
        try:
            yield
        finally:
            for context in contexts:
                self._contexts.remove(context)

    @contextmanager
    def serving(self, request: Request) -> Iterator[None]:
        """Show a request to every context for the length of a pass, and then the one that an outer pass had."""
        before = [(context, context.request) for context in self._contexts]
        for context in self._contexts:
            context.request = request
        try:
            yield
        finally:
            for context, earlier in before:
                context.request = earlier


@contextmanager
def attached(model: nn.Module, attachments: Sequence[Attachment]) -> Iterator[None]:
    """Register functions at taps, in order, and remove exactly them on the way out, whatever happened."""
    handles: list[RemovableHandle] = []
    try:
        for attachment in attachments:
            handles += _register(model, attachment)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _register(model: nn.Module, attachment: Attachment) -> list[RemovableHandle]:
    tap, module = attachment.tap, model.get_submodule(attachment.tap.module)
    change: list[Tensor] = []

    def show(whole: Tensor) -> Tensor | None:
        replaced = _run(attachment, whole)
        # Cleared first: a pass that was stopped half way leaves its change behind.
        change[:] = [] if replaced is None or replaced is whole else [replaced - whole]
        return replaced

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return _on_output(attachment, output, show)

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _on_input(attachment, args, kwargs, show)

    def along(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return _on_output(attachment, output, lambda whole: whole + change.pop().view_as(whole)) if change else None

    handles: list[RemovableHandle] = []
    if tap.carry is not None and attachment.writes:
        # First of all hooks there, so that every other one sees the stream as it is after the edit.
        handles.append(model.get_submodule(tap.carry).register_forward_hook(along, prepend=True))
    if tap.side == "output":
        handles.append(module.register_forward_hook(after))
    else:
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
    return handles


def _on_output(attachment: Attachment, output: Any, show: Callable[[Tensor], Tensor | None]) -> Any:
    if isinstance(output, Tensor):
        return show(output)
    element = attachment.tap.element
    items = list(output.values()) if isinstance(output, Mapping) else output
    value = items[element] if isinstance(items, tuple | list) and len(items) > element else None
    if not isinstance(value, Tensor):
        raise VestigeError(_no_tensor(attachment, output))
    replaced = show(value)
    if replaced is None:
        return None
    if isinstance(output, Mapping):
        changed: Any = copy.copy(output)
        changed[list(output)[element]] = replaced
        return changed
    return tuple(replaced if i == element else item for i, item in enumerate(output))


def _no_tensor(attachment: Attachment, output: Any) -> str:
    name = attachment.context.name
    if attachment.tap.element > 0:
        return (
            f"'{name}' is not materialised by this attention implementation; "
            "load the model with attn_implementation='eager'"
        )
    return f"the module behind '{name}' returned {type(output).__name__}, not a tensor, so the site cannot be read"


def _on_input(
    attachment: Attachment, args: tuple[Any, ...], kwargs: dict[str, Any], show: Callable[[Tensor], Tensor | None]
) -> Any:
    if args and isinstance(args[0], Tensor):
        replaced = show(args[0])
        return None if replaced is None else ((replaced, *args[1:]), kwargs)
    tensors = [name for name, value in kwargs.items() if isinstance(value, Tensor)]
    name = "hidden_states" if "hidden_states" in tensors else next(iter(tensors), None)
    if name is None:
        raise VestigeError(
            f"the module behind '{attachment.context.name}' was called without a tensor, so the site cannot be read"
        )
    replaced = show(kwargs[name])
    return None if replaced is None else (args, {**kwargs, name: replaced})


def _run(attachment: Attachment, whole: Tensor) -> Tensor | None:
    """Show a function its part of a tensor and put back what it returns."""
    tap, context = attachment.tap, attachment.context
    context.fired = True
    part = whole if tap.columns is None else whole[..., tap.columns]
    part = _shaped(part, tap, context)
    result = attachment.function(part, hook=context)
    if not attachment.writes:
        return None
    if result is None:
        # Columns picked by an index are a copy, so an edit made in place has to be written back.
        if not isinstance(tap.columns, Tensor):
            return None
        result = part
    check_replacement(result, part, context)
    if tap.columns is None:
        return result.reshape(whole.shape)
    written = whole.clone()
    written[..., tap.columns] = result.reshape(*whole.shape[:-1], -1)
    return written


def _shaped(part: Tensor, tap: Tap, context: HookContext) -> Tensor:
    """Give a tensor its site's shape: batch and position apart (some MLPs flatten them), and heads apart.

    Both only split axes, so the result is a view and an edit made in place reaches the model.
    """
    request = context.request
    if part.ndim == 2 and request is not None and part.shape[0] == request.ids.numel():
        part = part.view(*request.ids.shape, part.shape[-1])
    if tap.d_head is not None and part.shape[-1] % tap.d_head == 0:
        part = part.unflatten(-1, (-1, tap.d_head))
    return part


def check_replacement(result: Any, part: Tensor, context: HookContext) -> None:
    """Refuse what an edit returned if it does not fit where the activation was.

    Raises:
        VestigeError: It is no tensor, or of another shape, dtype or device.
    """
    if not isinstance(result, Tensor):
        raise VestigeError(
            f"the edit at '{context.name}' returned {type(result).__name__}; it must return a tensor or None"
        )
    for what in ("shape", "dtype", "device"):
        got, need = getattr(result, what), getattr(part, what)
        if got != need:
            shown = (tuple(got), tuple(need)) if what == "shape" else (got, need)
            raise VestigeError(f"the edit at '{context.name}' returned {what} {shown[0]}, the site has {shown[1]}")
