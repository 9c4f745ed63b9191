"""Corruptions of prompt embeddings: what they do to a token, and to which dimensions of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked import HookContext, Request, VestigeError

from .tokens_hit import Which, tokens_hit

Operation = Literal[
    "rand_noise", "set_rand_noise", "zero_out", "flip_sign", "add_value", "sub_value", "shuffle", "reverse"
]
Dims = Literal["first_n", "rand_n", "top_k", "all"]

_OPERATIONS: tuple[Operation, ...] = (
    "rand_noise",
    "set_rand_noise",
    "zero_out",
    "flip_sign",
    "add_value",
    "sub_value",
)
_DIMS: tuple[Dims, ...] = ("first_n", "rand_n", "top_k")
FAMILIES: Mapping[str, tuple[Operation, Dims]] = {
    **{f"{operation}_{dims}": (operation, dims) for operation in _OPERATIONS for dims in _DIMS},
    "shuffle": ("shuffle", "all"),
    "reverse": ("reverse", "all"),
}


@dataclass(frozen=True, eq=False)
class Corruption:
    """Edit of `hook_embed`: changes some dimensions of some prompt tokens. Build it with `corruption_of`.

    Everything random is drawn per row, from the seed and the ids of the row's prompt. So the same prompt is corrupted
    in the same way whatever stands around it: padding, other rows, or an answer that is scored.

    Args:
        operation: `rand_noise` adds a normal number of standard deviation `strength`, `set_rand_noise` puts one in
            place, `add_value` and `sub_value` add and subtract `strength`, `zero_out` and `flip_sign` do what they say.
            `shuffle` and `reverse` move whole tokens to each other's places.
        dims: The `first_n` dimensions, `rand_n` ones drawn for each token, or the `top_k` largest by absolute value.
        n: How many dimensions.
        strength: In the units of the embedding.
        which: Tokens that are changed.
        seed: Of everything random.
    """

    operation: Operation
    dims: Dims
    n: int
    strength: float
    which: Which
    seed: int

    def __call__(self, activation: Float[Tensor, "batch pos d_model"], /, hook: HookContext) -> Tensor:
        request = hook.request
        if request is None:
            raise VestigeError(
                "a corruption has to know which tokens are the prompt; run it through Intervention.applied"
            )
        if request.offset > 0:
            return activation
        changed = activation.clone()
        hit = tokens_hit(request, self.which).to(activation.device)
        for row, generator in enumerate(self._generators(request)):
            if bool(hit[row].any()):
                changed[row, hit[row]] = self._corrupted(activation[row, hit[row]], generator)
        return changed

    def _generators(self, request: Request) -> Iterator[torch.Generator]:
        for ids, prompt in zip(request.ids, request.prompt, strict=True):
            text = f"{self.seed}/{','.join(map(str, ids[prompt].tolist()))}"
            digest = hashlib.sha256(text.encode()).digest()
            # A CPU generator looks at the low 32 bits of its seed only.
            yield torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))

    def _corrupted(self, tokens: Float[Tensor, "n d_model"], generator: torch.Generator) -> Float[Tensor, "n d_model"]:
        if self.operation == "reverse":
            return tokens.flip(0)
        if self.operation == "shuffle":
            return tokens[torch.randperm(len(tokens), generator=generator)]
        chosen = self._chosen(tokens, generator)
        wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        noise = torch.randn(tokens.shape, generator=generator, dtype=torch.float64).to(wide)
        new = {
            "rand_noise": lambda: wide + self.strength * noise,
            "set_rand_noise": lambda: self.strength * noise,
            "zero_out": lambda: torch.zeros_like(wide),
            "flip_sign": lambda: -wide,
            "add_value": lambda: wide + self.strength,
            "sub_value": lambda: wide - self.strength,
        }[self.operation]()
        # Published strengths go up to 1e6, which half precision does not hold.
        limit = torch.finfo(tokens.dtype).max
        return torch.where(chosen, new.clamp(-limit, limit).to(tokens.dtype), tokens)

    def _chosen(self, tokens: Float[Tensor, "n d_model"], generator: torch.Generator) -> Bool[Tensor, "n d_model"]:
        d_model = tokens.shape[-1]
        chosen = torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.device)
        if self.dims == "first_n":
            chosen[:, : self.n] = True
            return chosen
        if self.dims == "rand_n":
            order: Int[Tensor, "n d_model"] = torch.rand(len(tokens), d_model, generator=generator).argsort(-1)
        else:
            order = tokens.abs().sort(dim=-1, descending=True, stable=True).indices
        return chosen.scatter_(-1, order[:, : self.n].to(tokens.device), True)


def corruption_of(
    family: str, *, strength: float, which: Which, n: int = 1, seed: int = 0, d_model: int | None = None
) -> Corruption:
    """Return a corruption by the name of its family.

    Args:
        family: A key of `FAMILIES`, e.g. `rand_noise_first_n`, `zero_out_top_k` or `shuffle`.
        strength: Standard deviation or value in the units of the embedding; for `zero_out` and `flip_sign`, which have
            neither, the fraction of the dimensions that are changed, in [0, 1]. Nothing to `shuffle` and `reverse`.
        which: Tokens that are changed.
        n: How many dimensions are changed, where `strength` does not say it.
        seed: Of everything random.
        d_model: Width of the embedding, for families whose strength is a fraction of it.

    Raises:
        VestigeError: The family is unknown, or a number is out of range.

    Source:
        Liu, Wang, Flanigan, Liu 2024, arXiv:2406.07933. The release writes `set_rand_noise_first_n` over every position
        and moves every token in `shuffle` and `reverse`, whatever was selected; here only selected tokens change.
    """
    if family not in FAMILIES:
        raise VestigeError(f"no corruption {family!r}; there are {', '.join(FAMILIES)}")
    operation, dims = FAMILIES[family]
    if not 0 <= strength < inf:
        raise VestigeError(f"the strength of a corruption is a finite number of at least 0, got {strength}")
    if counts_dimensions(family):
        if d_model is None or strength > 1:
            raise VestigeError(
                f"the strength of {family} is a fraction of the dimensions of d_model=, in [0, 1], got {strength} "
                f"of {d_model}"
            )
        n = max(1, round(strength * d_model))
    if n < 1:
        raise VestigeError(f"a corruption changes at least one dimension, got n={n}")
    return Corruption(operation, dims, n, float(strength), which, seed)


def counts_dimensions(family: str) -> bool:
    """Whether the strength of a family says how many dimensions are changed."""
    return FAMILIES[family][0] in ("zero_out", "flip_sign")


def has_strength(family: str) -> bool:
    """Whether a family can be weak or strong at all."""
    return FAMILIES[family][1] != "all"
