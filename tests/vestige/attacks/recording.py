"""A target to attack, and a gate that tells what it saw of an attack."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from hooked import Edit, HookedModel, Intervention, Request, Spec
from hooked.sites import SiteLike
from tests.tiny import tiny_model
from tests.vestige.attacks.contract import Same, facts
from vestige.attacks.attacked import Target
from vestige.attacks.notes import notes_of


def tiny_target(arch: str = "gpt2") -> Target:
    """Return a random original."""
    model = tiny_model(arch, dtype=torch.float64)
    return Target("original", "original", model, model, notes_of(model, facts(), batch_size=8))


@dataclass
class Recorder:
    """A gate that acts on nothing and keeps what it sees as prompt."""

    prompts: list[str] = field(default_factory=list)

    def __call__(self, raw: HookedModel, request: Request, /) -> torch.Tensor:
        rows = zip(request.ids, request.prompt, strict=True)
        self.prompts += [raw.to_string(ids[prompt]) for ids, prompt in rows]
        return torch.zeros(len(request.ids), dtype=torch.bool)


@contextmanager
def gated(target: Target) -> Iterator[tuple[Target, list[str]]]:
    """Put a gate in front of a target, and give what it sees."""
    gate = Recorder()
    edits: dict[SiteLike, Edit] = {"blocks.0.hook_resid_post": Same()}
    with Intervention(Spec("recorder", "suppression"), edits=edits, gate=gate).applied(target.raw) as view:
        yield replace(target, view=view), gate.prompts
