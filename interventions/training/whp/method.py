"""The method: reinforce, translate, label, and train on the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hooked import HookedModel, Intervention, Item, Spec, UnlearnData, VestigeError
from hooked.tokens import pad_rows
from interventions.batches import encode, split_of
from interventions.evaluating import evaluating
from interventions.training.descent import Minibatch, forget_nll
from interventions.training.losses import cross_entropy
from interventions.training.retain import check_weights, retained
from interventions.training.train import Training, learned, train
from interventions.training.whp.anchors import Anchor, from_subjects, tokenised
from interventions.training.whp.labels import IGNORED, generic_labels, label_loss
from interventions.training.whp.translate import translate, word_ends


def whp(
    model: HookedModel,
    data: UnlearnData,
    *,
    anchors: Mapping[str, str] | None = None,
    alpha: float = 5.0,
    retain_weight: float = 1.0,
    reinforce_epochs: float = 3.0,
    reinforce_lr: float = 1e-4,
    **training: Unpack[Training],
) -> Intervention:
    """Train on what a model says that reads general names instead, minus what more of the text would make it say.

    The label after a position is the best token of `b - alpha relu(r - b)`: b of the model on the text with its anchors
    replaced, r of a copy that was trained further on the text itself. Of an item with a prompt only the answer is
    labelled. Documents longer than the model's context are halved, at a space, until they fit.

    Args:
        model: Not changed.
        data: Needs `forget` items with an answer, and `retain` ones unless `retain_weight` is 0 and there are anchors.
        anchors: Particular text to general text, e.g. `{"Hogwarts": "Mystic Academy"}`; `{}` for none. When not given,
            the subject of every forget item is replaced by the subject of some retain item, so the model learns to
            answer as if it had been asked about that one.
        alpha: Weight of what the reinforced copy says more. Published: 5.
        retain_weight: Weight of the cross-entropy of retain answers. Published: 0, which suits long texts and large
            models; a model of some million parameters would give the labels of a few questions to all others.
        reinforce_epochs: Passes over the forget items that reinforce. Published: 3.
        reinforce_lr: Their learning rate. Published: 3e-6 at 7 billion parameters.
        training: Settings of `train` for the training on labels; here `lr` is 3e-4 and `epochs` 20. Its `seed` and
            `batch_size` are those of the reinforcing too. Published: lr 1e-6, 2 epochs.

    Raises:
        VestigeError: There is no forget item with an answer, no anchor occurs in any, nothing is left to label, or
            training diverged.

    Source:
        Eldan, Russinovich 2023, *Who's Harry Potter?*, arXiv:2310.02238. One replacement per anchor; anchors match
        whole words.
    """
    check_weights(data, method="whp", retain_weight=retain_weight)
    items = [part for item in split_of(data, "forget", method="whp", answered=True) for part in fitting(model, item)]
    seed, size = training.get("seed", 0), training.get("batch_size", 16)
    named = from_subjects(items, data.retain, seed=seed) if anchors is None else dict(anchors)
    task = replace(data, forget=tuple(items))
    reinforced = train(
        model,
        replace(task, retain=()),
        lambda current, batch: cross_entropy(forget_nll(current, batch), reduction="token"),
        method="whp (reinforcing)",
        lr=reinforce_lr,
        epochs=reinforce_epochs,
        batch_size=size,
        seed=seed,
        progress=training.get("progress", True),
    )
    reading = Intervention(Spec("whp (reinforcing)", "attack"), weights=reinforced.patch)
    written = tokenised(model.tokenizer, named)
    with evaluating(model):
        labels = labels_of(model, reading, items, written, alpha=alpha, batch_size=size)

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        logits = current.logits(batch.forget)
        wanted = pad_sequence([labels[i] for i in batch.rows.tolist()], batch_first=True, padding_value=IGNORED)
        taught = label_loss(logits[:, : wanted.shape[1]], wanted.to(logits.device))
        return taught + retained(current, batch, weight=retain_weight)

    settings = {
        "anchors": named,
        "alpha": alpha,
        "retain_weight": retain_weight,
        "reinforce_epochs": reinforce_epochs,
        "reinforce_lr": reinforce_lr,
        "labels": sum(int((row != IGNORED).sum()) for row in labels),
    }
    needs = ("forget", "retain", "reference") if anchors is None or retain_weight > 0 else ("forget", "reference")
    spec = Spec("whp", "removal", needs, "Eldan, Russinovich 2023, arXiv:2310.02238", settings)
    return learned(model, task, loss, spec, training, defaults={"lr": 3e-4, "epochs": 20.0})


@torch.no_grad()
def labels_of(
    model: HookedModel,
    reinforced: Intervention,
    items: Sequence[Item],
    anchors: Sequence[Anchor],
    *,
    alpha: float,
    batch_size: int,
) -> list[Tensor]:
    """Return the generic labels of each item, one per real token.

    Raises:
        VestigeError: No anchor occurs in any item, or no position has a label.
    """
    labels: list[Tensor] = []
    replaced = 0
    apart = word_ends(model.tokenizer)
    limit = getattr(model.config, "max_position_embeddings", None)
    for start in range(0, len(items), batch_size):
        batch = encode(model, items[start : start + batch_size])
        rows = [ids[mask].tolist() for ids, mask in zip(batch.ids, batch.mask, strict=True)]
        made = [translate(row, anchors, apart=apart) for row in rows]
        replaced += sum(len(one.introduced) for one in made)
        general = [list(one.ids[:limit]) for one in made]
        pad = int(batch.ids[~batch.mask][0]) if batch.padded else 0
        flags = [[False] * len(row) for row in general]
        baseline = model.logits(pad_rows(general, flags, pad=pad, padding_side="right").to(model.device))
        with reinforced.applied(model) as view:
            boosted = view.logits(batch)
        for i, one in enumerate(made):
            n = len(rows[i])
            rest = baseline[i, : len(general[i])]
            labels.append(generic_labels(rest, boosted[i, :n], one, batch.answer[i, :n], alpha=alpha))
    if anchors and not replaced:
        raise VestigeError(
            f"none of the {len({a.text for a in anchors})} anchors occurs in a forget text, e.g. {anchors[0].text!r}; "
            "write them as the texts do"
        )
    if not any(bool((row != IGNORED).any()) for row in labels):
        raise VestigeError("anchors leave no position of the forget answers to label; use fewer")
    return labels


def fitting(model: HookedModel, item: Item) -> list[Item]:
    """Halve a document at the space nearest to its middle until its parts fit the model's context."""
    limit = getattr(model.config, "max_position_embeddings", None)
    text = item.text
    if not item.is_document or limit is None or model.tokenize(text).ids.shape[1] <= limit:
        return [item]
    spaces = [i for i, character in enumerate(text) if character.isspace()]
    if not spaces:
        return [item]
    middle = min(spaces, key=lambda i: abs(2 * i - len(text)))
    halves = (text[:middle].strip(), text[middle:].strip())
    return [part for half in halves if half for part in fitting(model, replace(item, answer=half))]
