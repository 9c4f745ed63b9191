"""LEACE: the smallest affine change of an activation after which no linear probe reads a label off it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookContext, HookedModel, Intervention, Item, RunningMoments, Spec, UnlearnData, VestigeError
from hooked.sites import SiteLike
from interventions.batches import split_of

from .folded import Form, check_form, folded
from .labelled import Positions, rows_at

_SOURCE = "Belrose et al. 2023, arXiv:2306.03819"
# A whitened label of 0 and 1 has a singular value of at most a half.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Eraser:
    """The map `x - ((x - centre) left) right`, also as an edit of a site. Build it with `fit_eraser`.

    Args:
        left: Reads the label.
        right: Writes what is taken away; `right @ left` is the identity.
        centre: What is read as no evidence; None is the origin.
    """

    left: Float[Tensor, "d rank"]
    right: Float[Tensor, "rank d"]
    centre: Float[Tensor, " d"] | None

    def __call__(self, activation: Float[Tensor, "*n d"], /, hook: HookContext | None = None) -> Tensor:
        wide = activation.to(torch.promote_types(activation.dtype, torch.float32))
        read = (wide if self.centre is None else wide - self.centre.to(wide)) @ self.left.to(wide)
        return (wide - read @ self.right.to(wide)).to(activation.dtype)

    @property
    def projection(self) -> Float[Tensor, "d d"]:
        """The linear part P, so that `x` becomes `centre + P (x - centre)` for a column x."""
        return torch.eye(len(self.left)).to(self.left) - (self.left @ self.right).T


def fit_eraser(
    covariance: Float[Tensor, "d d"],
    cross: Float[Tensor, "d labels"],
    *,
    centre: Float[Tensor, " d"] | None = None,
    orthogonal: bool = False,
    tolerance: float = 0.0,
) -> Eraser:
    """Return the eraser of some labels: `P = I - W^+ U U^T W`, `W = covariance^(-1/2)`.

    `U` are the left singular vectors of `W cross`. `P cross = 0`, so no label is correlated with any dimension any
    more, and among the maps that achieve it this one changes activations least in mean square.

    Args:
        covariance: Of the activations.
        cross: Covariance of each dimension with each label.
        centre: Mean of the activations, which then stays; None for a linear map.
        orthogonal: Take `W = I`, an orthogonal projection, which changes more.
        tolerance: Singular values up to this one are left alone (released: 0.01); at 0 only rounding is.

    Raises:
        VestigeError: No singular value is above the tolerance.

    Source:
        Belrose et al. 2023, arXiv:2306.03819.
    """
    values, vectors = torch.linalg.eigh(covariance.double())
    rounding = torch.finfo(torch.float64).eps * len(values)
    spread = values > rounding * values.max()
    if orthogonal:
        whiten = colour = torch.eye(len(values), dtype=torch.float64)
    else:
        roots, axes = values[spread].sqrt(), vectors[:, spread]
        whiten, colour = (axes / roots) @ axes.T, (axes * roots) @ axes.T
    left, sizes, _ = torch.linalg.svd(whiten @ cross.double(), full_matrices=False)
    kept = left[:, sizes > max(tolerance, 1e-9 * float(sizes.max()), _ROUNDING)]
    if not kept.shape[1]:
        raise VestigeError(
            f"the largest singular value is {float(sizes.max()):.3g}, not above the tolerance of {tolerance:g}: forget "
            "and retain activations have the same mean, so there is nothing linear to erase; use another site"
        )
    return Eraser(whiten @ kept, kept.T @ colour, None if centre is None else centre.double())


def shrunk(covariance: Float[Tensor, "d d"], n: int) -> Float[Tensor, "d d"]:
    """Return the oracle-approximating shrinkage of a sample covariance of n rows towards a multiple of the identity.

    Source:
        Chen, Wiesel, Eldar, Hero 2010, arXiv:0907.4698, in the form of scikit-learn's `OAS`. The release of
        LEACE shrinks by another formula.
    """
    d = len(covariance)
    size = covariance.trace() / d
    spread = covariance.square().mean()
    share = ((spread + size**2) / ((n + 1) * (spread - size**2 / d))).clamp(max=1.0)
    return (1 - share) * covariance + share * size * torch.eye(d).to(covariance)


def leace(
    model: HookedModel,
    data: UnlearnData,
    *,
    site: SiteLike,
    form: Form = "hooks",
    positions: Positions = "last",
    affine: bool = True,
    shrinkage: bool = False,
    orthogonal: bool = False,
    tolerance: float = 0.0,
    batch_size: int = 32,
) -> Intervention:
    """Make forget and retain activations at a site indistinguishable to every linear probe, changing them least.

    Both kinds of activation are given the same mean: on the activations it was fitted on, no affine function of the
    result is correlated with the label, so the best linear probe is a constant. Other probes may still read it (the
    classes keep their own covariances), and so may the layers after the site. Text that was not fitted on keeps what
    the sample missed; with no more rows than dimensions that is most of it, and a warning says so.

    Args:
        model: Not changed.
        data: Needs `forget` (label 1) and `retain` (label 0).
        site: Where one vector per token is read and changed, e.g. `("resid_post", 5)`. Every token is changed.
        form: `hooks` edits the activation. `weights` folds the same map into the projection that writes `mlp_out` or
            `attn_out`.
        positions: Tokens it is fitted on: the `last` of each prompt, or `all` of prompts and answers but the BOS.
        affine: Keep the mean of the activations; needs a bias in the form `weights`.
        shrinkage: Shrink the covariance towards a multiple of the identity, for few rows. The guarantee stays, the
            change is no longer the least.
        orthogonal: Take an orthogonal projection instead of the least change.
        tolerance: As in `fit_eraser`.
        batch_size: Items per forward pass.

    Returns:
        The intervention. Its `spec.settings` hold the number of rows, the rank of what is taken away, and its variance
        as a fraction of that of the activations (`change`).

    Raises:
        VestigeError: A split is missing, the classes have the same mean, or the form does not fit the site.

    Source:
        Belrose et al. 2023, arXiv:2306.03819. Their release shrinks by default, ignores singular values up to 0.01, and
        blends with the orthogonal projection where the total variance would grow; here the first two are options, and
        the last is left out, since it gives up the least change.
    """
    check_form(form)
    name = model.site_map.editable(site)
    forget, retain = (
        _moments(model, split_of(data, split, method="leace"), name, positions=positions, batch_size=batch_size)
        for split in ("forget", "retain")
    )
    both = forget.merge(retain)
    if both.count <= len(both.mean) and not shrinkage:
        warnings.warn(
            f"leace was fitted on {both.count} rows of {len(both.mean)} dimensions, so it erases what sets these rows "
            "apart and little more; give more items, or use positions='all' or shrinkage=True",
            UserWarning,
            stacklevel=2,
        )
    share = forget.count / both.count
    cross = share * (1 - share) * (forget.mean - retain.mean)
    covariance = shrunk(both.covariance, both.count) if shrinkage else both.covariance
    eraser = fit_eraser(
        covariance,
        cross[:, None],
        centre=both.mean if affine else None,
        orthogonal=orthogonal,
        tolerance=tolerance,
    )
    taken = eraser.left.T @ both.covariance @ eraser.left
    change = (eraser.right.T @ taken @ eraser.right).trace() / both.covariance.trace()
    settings = {
        "site": name,
        "form": form,
        "positions": positions,
        "affine": affine,
        "shrinkage": shrinkage,
        "orthogonal": orthogonal,
        "tolerance": tolerance,
        "rows": both.count,
        "rank": eraser.left.shape[1],
        "change": float(change),
    }
    spec = Spec("leace", "suppression" if form == "hooks" else "removal", ("forget", "retain"), _SOURCE, settings)
    if form == "hooks":
        return Intervention(spec, edits={name: eraser})
    patch = folded(model, name, left=eraser.left, right=eraser.right, centre=eraser.centre, method="leace")
    return Intervention(spec, weights=patch)


def _moments(
    model: HookedModel, items: Sequence[Item], site: str, *, positions: Positions, batch_size: int
) -> RunningMoments:
    blocks = rows_at(model, items, site, positions=positions, batch_size=batch_size)
    return reduce(RunningMoments.merge, (RunningMoments.of(rows, covariance=True) for rows in blocks))
