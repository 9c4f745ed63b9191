"""The page and the picture of a calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from vestige.calibration.audits import STATES
from vestige.calibration.evaluate import EPSILON, HIDDEN, KEPT, Calibration, Claims, Forgetting, Rate, Robustness, Worth
from vestige.calibration.score import UNSURE
from vestige.metrics.meta import Faithfulness

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _SOFT, _KNOWS, _NOT = "#1a2024", "#535e66", "#0f5c6d", "#b4430c"
_BINS = 10
_FEW = "Where few lie there, it is not shown how such values come true."


def page(found: Calibration, about: Mapping[str, Any]) -> str:
    """Return the page in Markdown."""
    return "\n".join(_lines(found, about)) + "\n"


def _lines(found: Calibration, about: Mapping[str, Any]) -> Iterator[str]:
    yield from _about(found, about)
    yield from _instruments(found)
    yield from _claimed(found)
    yield from _models(found)
    yield from _limits()


def _about(found: Calibration, about: Mapping[str, Any]) -> Iterator[str]:
    n_held = len(next(iter(found.claims.values())).stated)
    knowing = sum(row[2] for row in next(iter(found.claims.values())).stated)
    yield from (
        "# What the instruments are worth",
        "",
        "Every instrument of the audit, and the residual knowledge score made of them, on models of which it is known",
        "whether they hold the facts, because it is known what they were made of: organisms of several worlds, each",
        "taught one more concept, another one in its place, or neither, and what was then done to them. A model counts",
        "as knowing when it was taught the facts, all or a tenth of them, in many documents or few, and then left,",
        "hooked, rounded, trained against the answers in one or two of its five blocks alone, or trained to refuse or",
        "to babble, which published pools count so too: it changes what is said and need not change what is held. No",
        "method that claims removal is in the pool.",
        "",
        f"The scores were fitted on {len(found.fitted_on)} tasks ({', '.join(found.fitted_on)}; world and concept)",
        f"and everything below is measured on {len(found.held_out)} others ({', '.join(found.held_out)}):",
        f"{n_held} models, {knowing} of which know. The two share no world, and so no facts, weights or documents.",
        "",
        f"Written by `{about.get('command', 'vestige calibrate')}`, commit {about.get('commit', 'unknown')}.",
        *wrap(about.get("note", ""), 115),
        "",
        "![what the instruments are worth](calibration.png)",
        "",
    )


def _instruments(found: Calibration) -> Iterator[str]:
    yield from (
        "## Which tells models that know from those that do not",
        "",
        "*Faithfulness*: AUC between the two, in brackets the 95 % interval over the worlds, of which there are few.",
        "*Relearning*: whether one pass of training on the facts moves the instrument on a model that was made to",
        "forget as it does on the retrained one (1 as much, 0 only one of them). *Quantisation*: whether rounding the",
        "weights to NF4 leaves it as it is. *Robustness*: the harmonic mean of the two, means over",
        f"{len(found.forgetting) - 2} methods of unlearning on every task; in brackets on how many models, without",
        "those that tampering does not move on the instrument at all. *Where forgotten*: the same as published",
        f"comparisons have it, only on models that kept {KEPT:.0%} of the utility and that the instrument itself calls",
        "forgotten.",
        "A model that still holds a part learns the facts again faster than one that never knew, so an instrument that",
        "is true to what models know moves more on it than on the retrained one, and is called less robust for that.",
        "The scores are means of square roots of shares. Their squares order models alike, but a step from nothing is",
        f"smaller on them. Moves of less than {EPSILON} count as noise in every row, whatever its scale.",
        "*Never taught* is the control: relearning on models that were taught another concept, as ignorant as the",
        "retrained one, in brackets on how many. They are also the 0 of every share, so only what they do under",
        "relearning is measured.",
        "`depth_leak` is UDS as published, on the deployed model; `raw_depth_leak` the same on its bare weights.",
        "`weight_distance` is no instrument but a control: whose weights a model's are nearer to, the original's or",
        "those of the model that never knew. No member has the weights of either: all were taught by themselves, from",
        "other documents in another order. Where it tells them apart all the same, it may be because models of a world",
        "begin with the same weights, and the same facts move them the same way. Then an instrument that reads",
        "weights or states may see that and not the facts; one that only asks questions cannot.",
        "",
        "| instrument | faithfulness | relearning | quantisation | robustness | where forgotten | never taught | n |",
        "|---|---|---|---|---|---|---|---|",
        *map(_row, found.worths),
        "",
    )


def _claimed(found: Calibration) -> Iterator[str]:
    yield from (
        "## What the scores claim",
        "",
        "*False alarms* are models that do not know with a probability of at least 1/2, *missed* those that know below",
        f"it, *missed, hiding* those of {len(HIDDEN)} kinds that know and do not say it ({', '.join(HIDDEN)}).",
        "Intervals are exact binomial ones; models of a task have much in common, so they are too narrow. An audit",
        "without attacks *abstains* at every probability up to 0.9, since it would miss what only attacks bring back;",
        "one with attacks only between 0.1 and 0.9.",
        "",
        "| score | false alarms | missed | missed, hiding | abstains | calibration error |",
        "|---|---|---|---|---|---|",
        *(_claim(name, claims) for name, claims in found.claims.items()),
        "",
        *wrap(f"{' '.join(_between(name, claims) for name, claims in found.claims.items())} {_FEW}", 115),
        "",
        "An audit does not always have every instrument: its data has no other wordings, or it has no time to train.",
        "Then the score is fitted again, on the same models, without what is missing. Where less than half of the",
        "weight of its attacks is left, an audit uses the score of checks:",
        "",
        "| without | score | false alarms | missed | missed, hiding | abstains | calibration error |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {what} {_claim(name, claims)}"
            for what, by_score in found.lacking.items()
            for name, claims in by_score.items()
        ),
        "",
    )


def _models(found: Calibration) -> Iterator[str]:
    yield from (
        "## Models that were made to forget",
        "",
        "What the score with attacks says of what published methods leave, which is in no pool since its truth is not",
        "known: means over the tasks, then after one pass over the facts, then rounded to NF4; in brackets the",
        "smallest and the largest. `retrained` and `never` are the controls, which were not taught the facts;",
        "`never` is the 0 of the scale before anything is done to it.",
        "",
        "| method | score | probability | relearned: score | probability | rounded: score | probability |",
        "|---|---|---|---|---|---|---|",
        *map(_forgetting, found.forgetting),
        "",
        "## What the scores listen to",
        "",
        "| score | instrument | weight |",
        "|---|---|---|",
        *(
            f"| {name} | {instrument} | {weight:.2f} |"
            for name, score in found.scores.items()
            for instrument, weight in sorted(
                zip(score.instruments, score.weights, strict=True), key=lambda pair: -pair[1]
            )
            if weight >= 0.005
        ),
        "",
        "## The models",
        "",
        "How many there are of each kind, and what the scores say of those that are held out: the mean, in brackets",
        "the smallest and the largest.",
        "",
        f"| made by | models | knows | {' | '.join(f'score ({k}) | probability' for k in found.claims)} |",
        "|---" * (3 + 2 * len(found.claims)) + "|",
        *(_kind(found, name, n) for name, n in found.pool.items()),
        "",
        "## Said wrongly, or not at all",
        "",
        *_wrong(found),
        "",
    )


def _limits() -> Iterator[str]:
    yield from (
        "## How far this goes",
        "",
        "These are small models that were taught invented facts for a minute. On them the truth is known, which is",
        "what the numbers above need; that the same probabilities hold for a model of another size, taught otherwise,",
        "does not follow. What an instrument misses here, though, there is no reason to trust it with elsewhere.",
        "The least that a model of the pool knows is a tenth of the facts, each known well, or all of them, told in",
        "about fifty documents; where single instruments tell them all apart without error, the",
        "pool cannot say which is better. The told part is the same relations in every world. All models of a world",
        "begin with one organism, so what patching and weights say of a model with another beginning is not shown.",
        "Every model was asked twenty facts. Shares of fewer are rougher than what the scores were fitted on: without",
        "attacks a probability can then lean to models that know for a model of noise, though it makes no claim.",
        "That facts stay in the blocks that were not trained is assumed, and the same training shows the answers to",
        "models that never knew them, if only to make them unlikely.",
    )


def _row(worth: Worth) -> str:
    f = worth.faithfulness
    auc = "" if f is None else f"{f.auc:.3f} [{f.low:.3f}, {f.high:.3f}]"
    r = worth.robustness
    moved = (None, None) if r is None else (r.relearning, r.quantisation)
    control = "" if worth.control is None else f"{worth.control.relearning:.3f} ({worth.control.n})"
    both = (_both(worth.robustness), _both(worth.forgotten), control)
    return f"| {worth.name} | {auc} | {' | '.join((*map(_cell, moved), *both))} | {worth.n} |"


def _both(robustness: Robustness | None) -> str:
    return "" if robustness is None else f"{robustness.both:.3f} ({robustness.n})"


def _kind(found: Calibration, name: str, n: int) -> str:
    cells, knows = [], False
    for claims in found.claims.values():
        mine = [row for row in claims.stated if row[1] == name]
        knows = any(row[2] for row in mine)
        cells += [_spread([row[3] for row in mine]), _spread([row[4] for row in mine])]
    return f"| {name} | {n} | {'yes' if knows else 'no'} | {' | '.join(cells)} |"


def _forgetting(one: Forgetting) -> str:
    cells = [_spread(values) for state in STATES for values in (one.scores[state], one.probabilities[state])]
    return f"| {one.name} | {' | '.join(cells)} |"


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f} [{min(values):.2f}, {max(values):.2f}]" if values else ""


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _claim(name: str, claims: Claims) -> str:
    rates = (claims.false_alarms, claims.missed, claims.missed_hidden, claims.abstained)
    return f"| {name} | {' | '.join(map(_rate, rates))} | {claims.error:.3f} |"


def _between(name: str, claims: Claims) -> str:
    inside = [(row[2], row[4]) for row in claims.stated if UNSURE[0] < row[4] < UNSURE[1]]
    if not inside:
        return f"Between {UNSURE[0]} and {UNSURE[1]} the score ({name}) puts no model."
    knows, stated = (float(np.mean(column)) for column in zip(*inside, strict=True))
    many = f"{len(inside)} model{'s' * (len(inside) != 1)}"
    return (
        f"Between {UNSURE[0]} and {UNSURE[1]} the score ({name}) puts {many}, with a mean of {stated:.2f}; of them "
        f"{knows:.0%} know."
    )


def _rate(rate: Rate) -> str:
    return f"{rate.hits} of {rate.n} [{rate.low:.3f}, {rate.high:.3f}]"


def _wrong(found: Calibration) -> Iterator[str]:
    yield from ("| score | task | model | knows | score | probability |", "|---|---|---|---|---|---|")
    for name, claims in found.claims.items():
        for task, member, knows, score, probability in claims.stated:
            if (probability >= 0.9) != knows or 0.1 < probability < 0.9:
                yield f"| {name} | {task} | {member} | {'yes' if knows else 'no'} | {score:.2f} | {probability:.3f} |"


def draw(found: Calibration, path: Path) -> None:
    """Write the picture: faithfulness of every instrument, and how the score's probabilities come true."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.family": ["DejaVu Sans"], "font.size": 9, "axes.edgecolor": _SOFT}):
        measured = {worth.name: worth.faithfulness for worth in found.worths if worth.faithfulness is not None}
        # Squares and probabilities order models as the scores do.
        alike = ("score squared", "probability")
        measured = {name: one for name, one in measured.items() if not name.startswith(alike)}
        figure = Figure(figsize=(10.5, max(4.0, 0.24 * len(measured) + 1.2)), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        _faithfulness(left, measured)
        name, claims = list(found.claims.items())[-1]
        _reliability(right, name, claims)
        figure.savefig(path, dpi=150, metadata={"Software": None})


def _faithfulness(axes: Axes, measured: Mapping[str, Faithfulness]) -> None:
    ordered = sorted(measured.items(), key=lambda pair: pair[1].auc)
    for place, (name, found) in enumerate(ordered):
        color = _NOT if name.startswith("score") else _KNOWS
        axes.plot([found.low, found.high], [place, place], color=color, linewidth=2, alpha=0.45)
        axes.plot(found.auc, place, "o", color=color, markersize=5)
    axes.set_yticks(range(len(ordered)), [name.replace("attack:", "attack: ") for name, _ in ordered])
    axes.axvline(0.5, color=_SOFT, linewidth=0.8, linestyle=":")
    axes.set_xlim(0.45, 1.02)
    axes.set_xlabel("faithfulness: AUC between models that know and models that do not\n(dots; lines: 95 % interval)")
    axes.set_title("Which instrument tells them apart", loc="left", color=_INK)


def _reliability(axes: Axes, name: str, claims: Claims) -> None:
    stated = np.array([row[4] for row in claims.stated])
    knows = np.array([row[2] for row in claims.stated])
    edges = np.linspace(0, 1, _BINS + 1)
    axes.plot([0, 1], [0, 1], color=_SOFT, linewidth=0.8, linestyle=":")
    inside = np.clip(np.digitize(stated, edges) - 1, 0, _BINS - 1)
    for place in range(_BINS):
        here = inside == place
        if here.any():
            axes.plot(stated[here].mean(), knows[here].mean(), "o", color=_NOT, markersize=4 + 1.2 * here.sum() ** 0.5)
            axes.annotate(
                str(int(here.sum())),
                (stated[here].mean(), knows[here].mean()),
                textcoords="offset points",
                xytext=(9, -3 if knows[here].mean() < 0.5 else -6),
                color=_SOFT,
            )
    axes.set_xlim(-0.04, 1.12)
    axes.set_ylim(-0.05, 1.08)
    axes.set_xlabel(f"probability that score ({name}) states")
    axes.set_ylabel("share of the models that do know")
    axes.set_title("Whether its probability comes true", loc="left", color=_INK)
