"""One seed of the shapes: models made to forget, audited and attacked together. Every fit and every part is kept."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.shapes.models import Seed, broken, noisy
from hooked import Intervention, VestigeError
from interventions.training.descent import DivergedError
from probes import answer_probability
from vestige.attacking import attack
from vestige.attacks.weights.quantisation import quantised
from vestige.auditing import audit
from vestige.calibration.baked import baked
from vestige.calibration.relearn import relearned
from vestige.commands.unlearn import fit
from vestige.metrics.forget_quality import forget_quality
from vestige.result import AuditReport
from vestige.subjects import Source

# As published: without the stop that Vestige has by default where answers are gone or the model is lost.
TO_THE_END = ("stop_fraction=null", "retain_bound=1e9")
# Subject name to method and settings: as the methods benchmark chose them on the shipped model.
METHODS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "npo": ("npo", ("lr=3e-4", "beta=0.5")),
    "graddiff": ("gradient_difference", ("lr=1e-4", *TO_THE_END)),
    "graddiff to the end": ("gradient_difference", ("lr=3e-4", *TO_THE_END)),
    "idk": ("idk_finetune", ("lr=3e-4",)),
    "rmu": ("rmu", ("layer=3", "alpha=100", "epochs=20")),
    "simnpo": ("simnpo", ("lr=3e-4", "delta=2")),
    "dpo": ("idk_dpo", ("lr=3e-4", "beta=auto", "epochs=5")),
    "ga": ("gradient_ascent", ("lr=1e-4", "stop_fraction=0.2")),
    "ga to the end": ("gradient_ascent", ("lr=3e-4", *TO_THE_END)),
    "flat": ("flat", ("lr=1e-4", "divergence=kl")),
    "needle": ("needle_tune", ("lr=0.5", "epochs=20")),
    "rows zeroed": ("ablate_vectors", ("mode=zero",)),
    "adjust": ("neuron_adjust", ("top=0.1", "mode=deterministic")),
    "detect": ("key_space_detection", ("layers=[3]",)),
    "eco": ("eco", ("corruption=rand_noise_first_n", "n=32")),
    "uld": ("uld", ("n_layers=3", "weight=-1.5", "cutoff=0.1")),
}
RATES = tuple(f"lr={rate}" for rate in ("1e-5", "2e-5", "3e-5", "5e-5", "1e-4", "2e-4", "3e-4", "5e-4", "1e-3"))
# Subject name to method, its other settings and a ladder of one of them. A method that runs until it has forgotten, and
# no further, stands on the first rung that leaves less than half of the answers, found on each seed.
LADDERS: Mapping[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "npo": ("npo", ("beta=0.5",), RATES),
    "graddiff": ("gradient_difference", TO_THE_END, RATES),
    "idk": ("idk_finetune", (), RATES),
    "rmu": ("rmu", ("layer=3", "alpha=100"), tuple(f"epochs={n}" for n in (10, 15, 20, 25, 30, 40))),
    "dpo": ("idk_dpo", ("beta=auto", "epochs=5"), RATES),
    "flat": ("flat", ("divergence=kl",), RATES),
}
# How far above that rung, or on the last one.
RUNGS: Mapping[str, int] = {"mild": 0, "second": 1, "third": 2}
MILD = tuple(f"{name}/mild" for name in LADDERS)
SWEEP = tuple(f"{name}/{rung}" for name in ("npo", "graddiff", "idk", "rmu") for rung in ("second", "third"))
# One matrix edited in the first, the fourth or the last of five blocks: the facts are recalled about the fourth.
EDITS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    f"{short}@{layer}": (name, (f"layer={layer}", "epochs=20"))
    for short, name, layers in (
        ("erase", "fact_erasure", (0, 3, 4)),
        ("project", "head_projection", (3, 4)),
        ("entropy", "max_entropy", (3,)),
        ("inject", "error_injection", (3,)),
        ("empty", "empty_response", (3,)),
    )
    for layer in layers
}
ASKED = ("affirmative_prefix", "role_play", "reworded", "format_shift", "repeated_prompt")
LENSES = ("lens_attack", "lens_attack:delta", "lens_attack:delta2")
ATTACKS = (
    *ASKED,
    *LENSES,
    "quantisation",
    "quantisation:int8",
    "in_context_reintroduction",
    "direction_ablation",
    "stripped",
)
MILD_TRIO = ("npo/mild", "idk/mild", "rmu/mild")
# Attacks that train are dear: who is attacked with what.
TAUGHT: Mapping[str, tuple[str, ...]] = {
    "relearning:forget": ("npo", "idk", "rmu", "rows zeroed", "ga to the end", *MILD_TRIO),
    "relearning:retain": MILD_TRIO,
    "relearning": MILD_TRIO,
    "soft_prompt:same": (),
}
# What says that it removes and changes weights, and what hides behind hooks.
REMOVAL = ("npo", "graddiff", "idk", "rmu", "simnpo", "dpo", "ga", "flat")
HOOKS = ("adjust", "detect", "eco", "uld")
# Models on which it is asked whether an instrument survives tampering.
TAMPERED = ("npo", "graddiff", "simnpo", "rmu", "idk")
MOST_ITEMS, FEW = 48, 5
# What a folder's parts were made with.
SETTINGS = (METHODS, LADDERS, RUNGS, EDITS, ATTACKS, LENSES, TAUGHT, TAMPERED, MOST_ITEMS)

Numbers = dict[str, dict[str, float]]


def numbers_of(seed: Seed, folder: Path, *, done: Callable[[str], object] = print) -> Numbers:
    """Return every number of a seed, by subject and name, from what the folder has and what is missing there.

    Args:
        seed: From `seed_of`.
        folder: Keeps what is fitted and one file for each part.
        done: Called with the name of each part before it starts.

    Raises:
        VestigeError: The folder has parts that were made with other settings.
    """
    home = folder / f"seed-{seed.number}"
    check_settings(home / "settings.json")

    def fitted(names: Iterable[str]) -> dict[str, Intervention]:
        made = {}
        for name in names:
            # A method that breaks the model at its settings has no numbers, and no claim about it comes out.
            try:
                made[name] = _stepped(seed, home / "made", name) if "/" in name else _fitted(seed, home / "made", name)
            except DivergedError as error:
                done(f"seed {seed.number}: {error}")
        return made

    def taught(name: str) -> Numbers:
        made = fitted(TAUGHT[name])
        task = seed.task
        report = attack(
            task.original,
            unlearned=list(made.values()),
            data=task.given,
            never=task.never,
            suite=None,
            names=[name],
            lexicon=seed.words,
            seed=seed.number,
            batch_size=64,
            progress=False,
        )
        return flat(report, list(made))

    parts: dict[str, Callable[[], Numbers]] = {
        "methods": lambda: _audited(seed, {**fitted((*METHODS, *MILD)), **broken(seed)}, ATTACKS),
        "sweep": lambda: _audited(seed, fitted(SWEEP), ()),
        "edits": lambda: _audited(seed, fitted(EDITS), (*LENSES, "rephrasing")),
        "pool": lambda: _audited(seed, _pool(seed), ()),
        "states": lambda: _audited(seed, _states(seed, fitted(TAMPERED)), ()),
        "rungs": lambda: {f"{name}/mild": {"rung": _rung(seed, home / "made", name)} for name in LADDERS},
    }
    found: Numbers = {}
    for part in (*parts, *TAUGHT):
        path = home / f"{part.replace(':', '-')}.json"
        if not path.is_file():
            done(f"seed {seed.number}: {part}")
            scratch = path.with_suffix(".part")
            scratch.write_text(json.dumps(parts[part]() if part in parts else taught(part), indent=1) + "\n", "utf-8")
            os.replace(scratch, path)
        for subject, numbers in json.loads(path.read_text(encoding="utf-8")).items():
            found.setdefault(subject, {}).update(numbers)
    return found


def check_settings(path: Path) -> None:
    """Refuse a folder of other settings, or note these where it is new."""
    asked = json.dumps(SETTINGS, indent=1) + "\n"
    there = path.read_text(encoding="utf-8") if path.is_file() else ""
    if there != asked and any(path.parent.glob("*.json")):
        raise VestigeError(f"'{path.parent}' was made with other settings; remove it, or give another folder")
    path.write_text(asked, encoding="utf-8")


def _fitted(seed: Seed, folder: Path, name: str) -> Intervention:
    """Return what makes a subject of the original, fitted where the folder does not have it."""
    return _kept(seed, folder, name, *{**METHODS, **EDITS}[name])


def _stepped(seed: Seed, folder: Path, name: str) -> Intervention:
    """Return the same for a rung of a ladder."""
    which, above = name.split("/")
    ladder = LADDERS[which][2]
    return _on(seed, folder, which, min(_rung(seed, folder, which) + RUNGS[above], len(ladder) - 1))


def _rung(seed: Seed, folder: Path, name: str) -> int:
    """Return the first rung that forgets, or the last one that does not break the model."""
    ladder = LADDERS[name][2]
    known = answer_probability(seed.task.original, seed.data.forget).mean()
    for rung in range(len(ladder)):
        try:
            made = _on(seed, folder, name, rung)
        except DivergedError:
            if not rung:
                raise
            return rung - 1
        with made.applied(seed.task.original) as model:
            if answer_probability(model, seed.data.forget).mean() < known / 2:
                return rung
    return len(ladder) - 1


def _on(seed: Seed, folder: Path, name: str, rung: int) -> Intervention:
    method, pairs, ladder = LADDERS[name]
    return _kept(seed, folder, f"{name} {ladder[rung]}", method, (*pairs, ladder[rung]))


def _kept(seed: Seed, folder: Path, name: str, method: str, settings: Sequence[str]) -> Intervention:
    home = folder / name.replace(" ", "-")
    if not home.is_dir():
        scratch = folder / f".{home.name}"
        _fit(seed, method, settings).save(scratch)
        scratch.rename(home)
    return Intervention.load(home)


def _fit(seed: Seed, method: str, settings: Sequence[str]) -> Intervention:
    task = seed.task
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit(
            method, task.original, task.given, lexicon=seed.words, seed=seed.number, pairs=settings, progress=False
        )


def _audited(seed: Seed, models: Mapping[str, Source], attacks: Sequence[str]) -> Numbers:
    report = audit(
        seed.task.original,
        unlearned=list(models.values()),
        data=seed.data,
        retrained=seed.task.retrained,
        never=seed.task.never,
        attacks=attacks,
        # Concept vectors are the methods benchmark's.
        top_vectors=0,
        seed=seed.number,
        batch_size=64,
        max_items=MOST_ITEMS,
        progress=False,
    )
    return flat(report, list(models))


def flat(report: AuditReport, unlearned: Sequence[str]) -> Numbers:
    """Return the numbers of a report by subject and name; what could not be measured is left out.

    Checks have their own names. An attack has its score under its name, the plain question under `plain`, its recovery
    gap behind `gap `, a curve behind its name and the number of steps, and where a rate ended behind `at`.

    Args:
        report: Of an audit or of attacks.
        unlearned: What the unlearned subjects are called here, in their order.
    """
    theirs = [subject.name for subject in report.subjects if subject.kind == "unlearned"]
    names = {s.name: s.name for s in report.subjects} | dict(zip(theirs, unlearned, strict=True))
    ratios = {r.subject: r.per_item for r in report.results if r.check == "forget_quality"}
    found: Numbers = {name: {} for name in names.values()}
    for result in report.results:
        if result.estimate is not None:
            found[names[result.subject]][result.check] = result.estimate
        if result.check == "forget_quality" and result.per_item:
            found[names[result.subject]] |= _of_ratios(result.per_item, ratios.get("retain", ()))
    for one in report.attacks:
        values = {one.attack: one.estimate, f"gap {one.attack}": one.gap, "plain": one.plain}
        values |= {f"{one.attack} {step}": score for step, score in (one.curve or {}).items()}
        values |= {f"{one.attack} at {rate}": curve[-1] for rate, curve in one.budget.get("curves", {}).items()}
        found[names[one.subject]] |= {name: value for name, value in values.items() if value is not None}
    return found


def _of_ratios(mine: Sequence[float], retrained: Sequence[float]) -> dict[str, float]:
    """Return what OpenUnlearning's meta-evaluation reads off truth ratios, the right answer's part of both, and the
    forget quality of the first few questions alone."""
    found = {"right_part": sum(1 / (1 + ratio) for ratio in mine) / len(mine)}
    if min(len(mine), len(retrained)) >= FEW:
        found["forget_quality_of_five"] = forget_quality(mine[:FEW], retrained[:FEW]).p
    return found


def _pool(seed: Seed) -> dict[str, Source]:
    """Models that know, and models that do not, each tampered with in the same ways.

    They do not differ in knowledge alone. Those that do not know are made of `never`, which had the same lesson seed as
    the original and the retrained model that span the depth score's scale; those that know were taught again with
    another seed. A metric that compares with these two may tell the lessons apart and not the knowledge.
    """
    found: dict[str, Source] = {}
    for name, model in (("knows", seed.again), ("ignorant", seed.task.never)):
        found[name] = model
        for short, method, pairs in (
            ("refusing", "idk_finetune", ("lr=1e-3", "epochs=5")),
            ("last block", "npo", ("lr=1e-3", "epochs=5", "layers=[-1]")),
        ):
            made = fit(method, model, seed.task.given, lexicon=None, seed=seed.number, pairs=pairs, progress=False)
            found[f"{name}, {short}"] = baked(model, made.weights)
        found[f"{name}, int4"] = baked(model, quantised(model, "int4").weights)
        found[f"{name}, noise"] = noisy(model, seed.number)
    return found


def _states(seed: Seed, made: Mapping[str, Intervention]) -> dict[str, Source]:
    """Every tampered model and the retrained one, after one pass over the facts, and with rounded weights."""
    models = {name: baked(seed.task.original, one.weights) for name, one in made.items()}
    found: dict[str, Source] = {}
    for name, model in {**models, "retrained": seed.task.retrained}.items():
        found[f"{name}, relearned"] = relearned(model, seed.task.given, epochs=1, keep=False, lr=5e-4, seed=seed.number)
        found[f"{name}, rounded"] = baked(model, quantised(model, "nf4").weights)
    return found
