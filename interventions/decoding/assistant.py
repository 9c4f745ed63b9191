"""Which other models run beside the one that is combined, as values that can be saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from hooked import HookedModel, VestigeError, WeightPatch
from hooked.truncated import truncated


@runtime_checkable
class Companion(Protocol):
    """Describes a model that runs beside another one on the same tokens."""

    def build(self, target: HookedModel, /) -> HookedModel:
        """Return the model.

        Args:
            target: The model it will run beside, weights in force.
        """
        ...


@dataclass(frozen=True)
class Assistant:
    """The target's own first blocks with some weights changed; it shares every other weight with the target.

    Args:
        n_layers: How many blocks; all when None.
        weights: Deltas on the target's weights; None changes none.
        before: Token ids put before every text it reads, e.g. those of an instruction.
        bos: The first id of `before` if that is a BOS: where a text begins with it too, it is not shown a second time.
    """

    n_layers: int | None = None
    weights: WeightPatch | None = None
    before: tuple[int, ...] = ()
    bos: int | None = None

    def build(self, target: HookedModel, /) -> HookedModel:
        """Return the model; it holds copies of the changed weights alone."""
        return truncated(target, self.n_layers, patch=self.weights)


@dataclass(frozen=True)
class Checkpoint:
    """A model of its own in a Hugging Face folder or on the hub, loaded each time the intervention is applied.

    Only its name is saved with an intervention. Code from the checkpoint is never run.

    Args:
        name: Folder or hub id.
    """

    name: str

    def build(self, target: HookedModel, /) -> HookedModel:
        """Load the model in the target's dtype, on its device.

        Raises:
            VestigeError: Nothing loadable is there, or its vocabulary is another one.
        """
        model = HookedModel.from_pretrained(self.name, dtype=target.dtype, device=target.device)
        check_vocabulary(model, target)
        return model


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model that is in memory already; an intervention with it cannot be saved."""

    model: HookedModel

    def build(self, target: HookedModel, /) -> HookedModel:
        """Return the model.

        Raises:
            VestigeError: Its vocabulary is another one.
        """
        check_vocabulary(self.model, target)
        return self.model


def check_vocabulary(model: HookedModel, target: HookedModel) -> None:
    """Refuse a model whose ids mean other tokens than the target's.

    One tokenizer is enough: models of different sizes often pad their embeddings to different numbers of ids.

    Raises:
        VestigeError: A token has another id, or the numbers of ids differ and no common tokenizer fits into both.
    """
    known = [one.tokenizer.get_vocab() for one in (model, target) if one.tokenizer is not None]
    if len(known) == 2:
        mine, theirs = known
        tokens = sorted(mine.keys() | theirs.keys())
        other = next((token for token in tokens if mine.get(token) != theirs.get(token)), None)
        if other is not None:
            raise VestigeError(
                f"models are combined id by id: {other!r} has id {mine.get(other)} in '{model.name}' and "
                f"{theirs.get(other)} in '{target.name}'; use one of the same tokenizer"
            )
    covered = len(known) == 2 and max(known[0].values(), default=-1) < min(model.d_vocab, target.d_vocab)
    if model.d_vocab != target.d_vocab and not covered:
        raise VestigeError(
            f"models are combined id by id: '{model.name}' has {model.d_vocab} ids, '{target.name}' {target.d_vocab}; "
            "use one of the same vocabulary, or give both the tokenizer that they share"
        )
