"""WHP as an ensemble: take back what a copy that studied the forget text once more has become surer of."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

from torch import Tensor

from hooked import HookedModel, Intervention, Spec, UnlearnData, VestigeError
from interventions.batches import split_of
from interventions.decoding.assistant import Assistant
from interventions.decoding.combiner import LogitCombiner, Term, finite
from interventions.training.descent import Minibatch, forget_nll
from interventions.training.losses import cross_entropy
from interventions.training.train import Training, learned


def whp_ensemble(
    model: HookedModel, data: UnlearnData, *, alpha: float = 1.0, **training: Unpack[Training]
) -> Intervention:
    """Lower each logit b to `b - alpha relu(r - b)`, r that of a copy which was trained further on the forget answers.

    Tokens of which the reinforced copy is no surer keep their logits. The weights of the model stay as they are: who
    has them has the knowledge.

    Args:
        model: Not changed.
        data: Needs `forget` items with an answer.
        alpha: At least 0; 1 for the ensemble, 5 for the labels from which the paper fine-tunes.
        training: Settings of `train`; here `lora` is 16, `lr` 1e-3 and `epochs` 3.

    Raises:
        VestigeError: No forget item has an answer, `alpha` is below 0 or not finite, or training diverged.

    Source:
        Eldan, Russinovich 2023, arXiv:2310.02238, its generic logits without the dictionary of anchors. The reinforced
        model there is fine-tuned on whole texts with all its weights.
    """
    finite(alpha=alpha)
    if alpha < 0:
        raise VestigeError(f"alpha is at least 0, got {alpha}")
    split_of(data, "forget", method="whp_ensemble", answered=True)

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        return cross_entropy(forget_nll(current, batch))

    source = "Eldan, Russinovich 2023, arXiv:2310.02238"
    spec = Spec("whp_ensemble", "suppression", ("forget",), source, {"alpha": alpha})
    defaults: Training = {"lora": 16, "lr": 1e-3, "epochs": 3.0}
    # Whatever else the copy unlearns along the way is not its business, so nothing is watched.
    made = learned(model, replace(data, retain=()), loss, spec, training, defaults=defaults)
    terms = (Term(1.0, "logits"), Term(-alpha, "excess", 1))
    return Intervention(made.spec, logits=LogitCombiner(terms, (Assistant(None, made.weights),)))
