"""INLP: project out one linear probe after the other."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Intervention, Spec, UnlearnData, VestigeError
from hooked.sites import SiteLike
from interventions.batches import split_of
from interventions.direction import RemoveSubspace

from .folded import Form, check_form, folded
from .labelled import Positions, rows_at

_SOURCE = "Ravfogel et al. 2020, arXiv:2004.07667"
# Of a probe fitted on rows of size 1: what is left to read is rounding.
_NOTHING = 1e-6


def nullspace_basis(
    forget: Float[Tensor, "n_forget d"], retain: Float[Tensor, "n_retain d"], *, directions: int
) -> tuple[Float[Tensor, "found d"], list[float]]:
    """Return the directions of successive probes as orthonormal rows, and how well each probe did.

    Each probe is a logistic regression (scikit-learn, both classes weighed alike, L2 of strength 1 on activations of
    size 1) on what the earlier ones left. A probe penalised by L2 lies in the span of its data, so it is orthogonal to
    the earlier ones but for rounding, which is taken off.

    Args:
        forget: Activations of label 1.
        retain: Activations of label 0.
        directions: How many at most; fewer where a probe finds nothing at all.

    Returns:
        The rows, and the balanced accuracy on these activations before the first projection, before the second, ...,
        and after the last: in [0, 1], chance is 0.5.
    """
    from sklearn.linear_model import LogisticRegression

    acts = torch.cat([forget, retain]).double()
    labels = np.repeat([1, 0], [len(forget), len(retain)])
    acts = acts - acts.mean(0)
    acts = acts / acts.square().mean().sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    basis = acts.new_zeros(0, acts.shape[1])
    accuracies: list[float] = []
    for step in range(directions + 1):
        left = acts - (acts @ basis.T) @ basis
        probe = LogisticRegression(class_weight="balanced", max_iter=10_000).fit(left.numpy(), labels)
        right = probe.predict(left.numpy()) == labels
        accuracies.append(float((right[labels == 1].mean() + right[labels == 0].mean()) / 2))
        found = torch.from_numpy(np.asarray(probe.coef_[0], dtype=np.float64))
        found = found - (basis @ found) @ basis
        if step == directions or float(found.norm()) < _NOTHING:
            break
        basis = torch.cat([basis, (found / found.norm())[None]])
    return basis, accuracies


def inlp(
    model: HookedModel,
    data: UnlearnData,
    *,
    site: SiteLike,
    form: Form = "hooks",
    directions: int = 8,
    positions: Positions = "last",
    batch_size: int = 32,
) -> Intervention:
    """Remove the directions in which successive linear probes tell forget from retain activations.

    An orthogonal projection: every token's activation at the site loses its part in the span of the probes. Unlike
    `leace` it takes one dimension for each probe, and nothing says that the last one was enough: read the accuracies.
    Other probes than linear ones may still read the label, and so may the layers after the site.

    Args:
        model: Not changed.
        data: Needs `forget` (label 1) and `retain` (label 0).
        site: Where one vector per token is read and changed, e.g. `("resid_post", 5)`. Every token is changed.
        form: `hooks` edits the activation. `weights` folds the same map into the projection that writes `mlp_out` or
            `attn_out`. `orthogonalize(model, basis)` removes the span from the whole residual stream instead.
        directions: How many probes at most.
        positions: Tokens it is fitted on: the `last` of each prompt, or `all` of prompts and answers but the BOS.
        batch_size: Items per forward pass.

    Returns:
        The intervention. Its `spec.settings` hold the rank, and `accuracies`: the balanced accuracy of each probe on
        the activations it was fitted on, the last one after all projections; chance is 0.5.

    Raises:
        VestigeError: A split is missing, a setting is out of range, or the form does not fit the site.

    Source:
        Ravfogel, Elazar, Gonen, Twiton, Goldberg 2020, arXiv:2004.07667. They multiply the projections, which is a
        projection only as long as each probe lies in what the earlier ones left; here the span is orthonormalised.
    """
    check_form(form)
    name = model.site_map.editable(site)
    forget, retain = (
        torch.cat(
            list(rows_at(model, split_of(data, split, method="inlp"), name, positions=positions, batch_size=batch_size))
        )
        for split in ("forget", "retain")
    )
    if not 1 <= directions < forget.shape[1]:
        raise VestigeError(
            f"directions is at least 1 and below the {forget.shape[1]} dimensions of '{name}', got {directions}"
        )
    basis, accuracies = nullspace_basis(forget, retain, directions=directions)
    if not len(basis):
        raise VestigeError(f"no linear probe finds a difference at '{name}', so there is nothing to remove")
    settings = {
        "site": name,
        "form": form,
        "directions": directions,
        "positions": positions,
        "rows": len(forget) + len(retain),
        "rank": len(basis),
        "accuracies": accuracies,
    }
    spec = Spec("inlp", "suppression" if form == "hooks" else "removal", ("forget", "retain"), _SOURCE, settings)
    if form == "hooks":
        return Intervention(spec, edits={name: RemoveSubspace(basis)})
    return Intervention(spec, weights=folded(model, name, left=basis.T, right=basis, centre=None, method="inlp"))
