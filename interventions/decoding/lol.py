"""LOL-style decoding: contrast with an amateur at the last block and at a lower one, and with an instruction."""

from __future__ import annotations

from typing import Unpack

from hooked import HookedModel, Intervention, Spec, UnlearnData, VestigeError
from interventions.decoding.amateur import taught_wrongly
from interventions.decoding.assistant import Assistant
from interventions.decoding.combiner import LogitCombiner, Term, finite
from interventions.decoding.early_exit import early_layers, notes
from interventions.decoding.plausible import Plausible
from interventions.training.train import Training

INSTRUCTION = "Answer truthfully. If you are not sure, say so."


def lol(
    model: HookedModel,
    data: UnlearnData,
    *,
    layer: int | None = None,
    omega: float = 0.5,
    mu: float = 0.0,
    instruction: str = INSTRUCTION,
    cutoff: float | None = 0.1,
    **training: Unpack[Training],
) -> Intervention:
    """Score tokens by `log p - log p_a + omega (log p^l - log p_a^l) + mu (log p_instructed - log p)`.

    p is the model, p_a an amateur as in `icd`, p^l and p_a^l their early exits after block `layer`, and p_instructed
    the model with an instruction in front of the text. A decoding for truthfulness rather than for forgetting.

    **LOL-style only.** The paper released no code. `omega`, `mu`, `layer` and the last term are reconstructed from its
    description, their defaults are ours, and nothing here claims to reproduce its numbers. With `omega` and `mu` at 0
    this is `icd` with weight 1.

    Args:
        model: Not changed.
        data: As in `icd`.
        layer: The lower block, before the last; the middle one when not given.
        omega: Weight of the contrast at the lower block.
        mu: Weight of the instruction; 0 leaves it out.
        instruction: Put before the text; read only if `mu` is not 0.
        cutoff: As in `icd`.
        training: Settings of `train`; here `lora` is 16, `lr` 1e-3 and `epochs` 5.

    Raises:
        VestigeError: As in `icd`; the layer does not exist or is the last, or the instruction is empty.

    Source:
        After Chen et al. 2024, arXiv:2408.08769.
    """
    finite(omega=omega, mu=mu)
    middle = max(0, model.n_layers // 2 - 1) if layer is None else layer
    exits = early_layers(model, [middle], method="lol")
    rule = None if cutoff is None else Plausible(cutoff)
    said = instruction if mu != 0 else None
    settings = {"layer": exits[0], "omega": omega, "mu": mu, "instruction": said, "cutoff": cutoff}
    spec = Spec("lol", "suppression", ("forget",), "after Chen et al. 2024, arXiv:2408.08769", settings)
    prompted = None if said is None else _instructed(model, said)
    defaults: Training = {"lora": 16, "lr": 1e-3, "epochs": 5.0}
    amateur, spec = taught_wrongly(model, data, spec, training, defaults=defaults)
    terms = [Term(1.0), Term(-1.0, model=1)]
    if omega != 0:
        terms += [Term(omega, layers=exits), Term(-omega, model=1, layers=exits)]
    if prompted is not None:
        terms += [Term(mu, model=2), Term(-mu)]
    others = (amateur,) if prompted is None else (amateur, prompted)
    edits = notes(exits) if omega != 0 else {}
    return Intervention(spec, edits=edits, logits=LogitCombiner(tuple(terms), others, rule))


def _instructed(model: HookedModel, instruction: str) -> Assistant:
    if not instruction.strip():
        raise VestigeError("lol with mu other than 0 needs an instruction of at least one word")
    ids = tuple(model.tokenize(instruction).ids[0].tolist())
    bos = getattr(model.tokenizer, "bos_token_id", None)
    return Assistant(before=ids, bos=bos if ids[0] == bos else None)
