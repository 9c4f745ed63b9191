"""The `vestige` command. Heavy packages are imported by the commands themselves, so that `--help` answers at once."""

from __future__ import annotations

import json
import shlex
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"vestige {version('vestige')}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """After a language model was made to forget something, what does it still know, and where?"""


Out = Annotated[Path, typer.Option(help="Folder for the results; must be new or empty.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is in the output folder.")]


def _seed(value: int) -> int:
    if not 0 <= value < 2**32:
        from hooked.errors import VestigeError

        raise VestigeError(f"--seed is at least 0 and below 2**32, got {value}")
    return value


Seed = Annotated[int, typer.Option(callback=_seed, help="Seed of everything that draws.")]
Device = Annotated[str | None, typer.Option(help="Where the model runs, e.g. cuda or cuda:1. [default: cpu]")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Dtype = Annotated[
    str, typer.Option(help="Parameter dtype: float32, bfloat16, float16, or auto for the checkpoint's own.")
]
Forget = Annotated[Path, typer.Option(help="What to forget: .jsonl, .json or .csv with question/answer or text.")]
Retain = Annotated[Path | None, typer.Option(help="What to keep, in the same form.")]
Control = Annotated[Path | None, typer.Option(help="Unrelated items on which nothing should change.")]
Holdout = Annotated[
    Path | None, typer.Option(help="Items like those to forget that no model was trained on, for membership inference.")
]
Template = Annotated[str, typer.Option(help="How a question becomes a prompt; write \\n for a new line.")]
Concept = Annotated[
    str | None, typer.Option(help="What plain documents are about; its first mention is where the audit asks.")
]
Lexicon = Annotated[str | None, typer.Option(help="Words of the concept, separated by commas.")]
QUESTION = "Question: {question}\\nAnswer:"


@app.command()
def demo(
    *,
    out: Out = Path("demo-report"),
    overwrite: Overwrite = False,
    seed: Seed = 0,
    device: Device = None,
    json_: Json = False,
) -> None:
    """Run the whole main job on the built-in model: unlearn it five ways and audit the results."""
    from vestige.commands import demo as command

    report = command.run(out=out, overwrite=overwrite, seed=seed, device=device, quiet=json_)
    _finish(report, out, json_)


@app.command()
def organism(*, out: Out = Path("organism"), overwrite: Overwrite = False, json_: Json = False) -> None:
    """Write the built-in model's questions as files, and print commands that use them."""
    from vestige.commands import organism as command

    made = command.run(out=out, overwrite=overwrite)
    if json_:
        _print_json(made)
    else:
        typer.echo(command.as_text(made))


@app.command()
def unlearn(
    *,
    model: Annotated[str, typer.Option(help="Hugging Face folder or hub id.")],
    method: Annotated[str, typer.Option(help="Name of the method; `vestige methods` lists them.")],
    forget: Forget,
    out: Out,
    retain: Retain = None,
    lexicon: Lexicon = None,
    sae: Annotated[str | None, typer.Option(help="Folder of an SAE, for methods that edit latents.")] = None,
    sae_id: Annotated[str | None, typer.Option(help="Which SAE of a release or folder.")] = None,
    site: Annotated[
        str | None,
        typer.Option(help="Where the SAE belongs, if its file does not say; or where a method reads or acts."),
    ] = None,
    after: Annotated[
        Path | None, typer.Option(help="A saved intervention to build on; the result holds both, one after the other.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the method, key=value; may be repeated.")
    ] = None,
    bake: Annotated[
        bool, typer.Option("--bake", help="Write a Hugging Face folder instead of an intervention (weight methods).")
    ] = False,
    template: Template = QUESTION,
    concept: Concept = None,
    dtype: Dtype = "float32",
    overwrite: Overwrite = False,
    seed: Seed = 0,
    device: Device = None,
    json_: Json = False,
) -> None:
    """Make a model forget, and save the change as an intervention that `vestige audit` reads."""
    from vestige.commands import inputs
    from vestige.commands import unlearn as command
    from vestige.methods import method as known
    from vestige.output import check_output

    known(method)
    check_output(out, overwrite=overwrite, inputs=[model, forget, retain, sae, after])
    command.check_sae(method, sae, sae_id)
    command.check_site(method, site, sae)
    earlier = inputs.intervention(after)
    if bake:
        command.check_bake(method, earlier)
    data = inputs.data(forget, retain, None, template=_text(template), concept=concept)
    loaded = inputs.model(model, device=device, dtype=dtype)
    fitted = command.fit(
        method,
        loaded,
        data,
        after=earlier,
        lexicon=inputs.words(lexicon),
        seed=seed,
        pairs=set_ or [],
        sae=None if sae is None else inputs.sae(sae, sae_id, site=site, device=device),
        site=site,
        progress=not json_,
    )
    command.check_steps(fitted)
    fitted = command.marked(fitted, loaded)
    summary = command.run(fitted, loaded, data, out=out, overwrite=overwrite, bake=bake)
    if json_:
        _print_json(summary)
        return
    through = ", ".join(summary["acts_through"])
    typer.echo(f"{summary['method']} ({summary['intent']}, acts through {through}) is in {out}")
    for split, (before, now) in summary["probability"].items():
        typer.echo(f"mean probability of the {split} answers: {before:.3f} before, {now:.3f} after")
    asked = {"--original": model, "--unlearned": out, "--forget": forget, "--retain": retain, "--concept": concept}
    asked |= {
        "--template": template if template != QUESTION else None,
        "--dtype": dtype if dtype != "float32" else None,
    }
    said = " ".join(f"{option} {shlex.quote(str(value))}" for option, value in asked.items() if value is not None)
    typer.echo(f"audit it: vestige audit {said} --out REPORT  (and --never or --retrained, if you have one)")


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One method, to see its settings.", show_default=False)] = None,
    *,
    json_: Json = False,
) -> None:
    """List the unlearning methods: where each acts, what it claims and needs, and its paper."""
    from vestige.commands import methods as command

    if json_:
        _print_json(command.rows() if name is None else command.row(name))
        return
    if name is None:
        typer.echo("\n".join(command.lines()))
        return
    found = command.row(name)
    acts = ", ".join(command.POINTS[point] for point in found["points"])
    typer.echo(f"{found['name']}: acts on {acts}; claims {found['intent']}; {found['paper']}\n")
    typer.echo(found["description"])
    typer.echo("\nvestige unlearn --set takes:")
    for key, needed in found["settings"].items():
        typer.echo(f"  {key}={needed}")
    if usual := found["defaults_of_train"]:
        said = ", ".join(f"{key}={json.dumps(value)}" for key, value in usual.items())
        typer.echo(f"\nWhere the description names no other, the last ones are {said}.")


@app.command()
def audit(
    *,
    original: Annotated[str, typer.Option(help="The model before unlearning: folder or hub id.")],
    forget: Forget,
    out: Out,
    unlearned: Annotated[
        list[Path] | None, typer.Option(help="Folder of an unlearned model or a saved intervention; may be repeated.")
    ] = None,
    more: Annotated[list[Path] | None, typer.Argument(help="Further unlearned folders.", show_default=False)] = None,
    retrained: Annotated[Path | None, typer.Option(help="A model trained without the forget set.")] = None,
    never: Annotated[Path | None, typer.Option(help="A model that was never taught the facts.")] = None,
    retain: Retain = None,
    control: Control = None,
    holdout: Holdout = None,
    lexicon: Lexicon = None,
    template: Template = QUESTION,
    concept: Concept = None,
    max_items: Annotated[int, typer.Option(help="Most items per split; more are sampled.")] = 200,
    batch_size: Annotated[int, typer.Option(help="Rows per forward pass.")] = 32,
    suite: Annotated[
        str | None, typer.Option(help="Attack every subject too: quick, standard or full. [default: no attack]")
    ] = None,
    where: Annotated[bool, typer.Option("--where", help="Map where the answers are, by layer and position.")] = False,
    sae: Annotated[
        str | None, typer.Option(help="Folder of an SAE of the original, or a release: do its latents survive?")
    ] = None,
    sae_id: Annotated[str | None, typer.Option(help="Which SAE of a release or folder.")] = None,
    site: Annotated[str | None, typer.Option(help="Where the SAE belongs, if its file does not say.")] = None,
    dtype: Dtype = "float32",
    overwrite: Overwrite = False,
    seed: Seed = 0,
    device: Device = None,
    json_: Json = False,
) -> None:
    """Ask a model and its unlearned versions what they still know, and write the report."""
    from vestige.attacks.catalogue import chosen
    from vestige.auditing import audit as run
    from vestige.commands import inputs
    from vestige.commands.called import with_command
    from vestige.output import check_output, output_folder

    chosen(suite)
    folders = [*(unlearned or []), *(more or [])]
    read = [original, forget, retain, control, holdout, retrained, never, sae, *folders]
    check_output(out, overwrite=overwrite, inputs=read)
    inputs.check_sae(sae, sae_id, site, retain=retain)
    inputs.check_folders(folders, retrained=retrained, never=never)
    data = inputs.data(forget, retain, control, holdout=holdout, template=_text(template), concept=concept)
    report = run(
        inputs.model(original, device=device, dtype=dtype, given="--original"),
        unlearned=folders,
        data=data,
        retrained=retrained,
        never=never,
        lexicon=inputs.words(lexicon),
        seed=seed,
        batch_size=batch_size,
        max_items=max_items,
        suite=suite,
        before_attacks=lambda cost: typer.echo(str(cost), err=True),
        where=where,
        sae=None if sae is None else inputs.sae(sae, sae_id, site=site, device=device),
        progress=not json_,
    )
    report = with_command(report)
    with output_folder(out, overwrite=overwrite) as folder:
        report.save(folder)
    _finish(report, out, json_)


@app.command()
def attacks(*, json_: Json = False) -> None:
    """List the attacks: what each needs, whether it is shown the answers, and the smallest suite that runs it."""
    from vestige.commands import attacks as command

    if json_:
        _print_json(command.rows())
        return
    typer.echo("\n".join(command.lines()))


@app.command()
def attack(
    *,
    original: Annotated[str, typer.Option(help="The model before unlearning: folder or hub id.")],
    forget: Forget,
    out: Out,
    unlearned: Annotated[
        list[Path] | None, typer.Option(help="Folder of an unlearned model or a saved intervention; may be repeated.")
    ] = None,
    more: Annotated[list[Path] | None, typer.Argument(help="Further unlearned folders.", show_default=False)] = None,
    retrained: Annotated[Path | None, typer.Option(help="A model trained without the forget set.")] = None,
    never: Annotated[Path | None, typer.Option(help="A model that was never taught the facts.")] = None,
    retain: Retain = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="An attack instead of a suite, or beside it; may be repeated."),
    ] = None,
    suite: Annotated[str | None, typer.Option(help="quick, standard or full. [default: quick]")] = None,
    template: Template = QUESTION,
    concept: Concept = None,
    max_items: Annotated[int, typer.Option(help="Most items per split; more are sampled.")] = 200,
    batch_size: Annotated[int, typer.Option(help="Rows per forward pass.")] = 32,
    engine: Annotated[str, typer.Option(help="local, or ray: every attack on every model is a task.")] = "local",
    workers: Annotated[int, typer.Option(help="Tasks at a time, each with a copy of its model; only for ray.")] = 1,
    num_gpus: Annotated[float, typer.Option(help="GPUs of each task; only for ray.")] = 0,
    address: Annotated[str | None, typer.Option(help="host:port of a Ray cluster. [default: this machine]")] = None,
    dtype: Dtype = "float32",
    overwrite: Overwrite = False,
    seed: Seed = 0,
    device: Device = None,
    json_: Json = False,
) -> None:
    """Try to bring back what a model was made to forget, beside a model that never knew it."""
    from vestige.attacking import attack as run
    from vestige.attacks.catalogue import chosen
    from vestige.commands import attacks as command
    from vestige.commands import inputs
    from vestige.commands.called import with_command
    from vestige.output import check_output, output_folder

    suite = suite if suite is not None or name else "quick"
    chosen(suite, name or [])
    folders = [*(unlearned or []), *(more or [])]
    check_output(out, overwrite=overwrite, inputs=[original, forget, retain, retrained, never, *folders])
    inputs.check_folders(folders, retrained=retrained, never=never)
    data = inputs.data(forget, retain, None, template=_text(template), concept=concept)
    report = run(
        inputs.model(original, device=device, dtype=dtype, given="--original"),
        unlearned=folders,
        data=data,
        retrained=retrained,
        never=never,
        suite=suite,
        names=name or [],
        seed=seed,
        batch_size=batch_size,
        max_items=max_items,
        engine=engine,
        workers=workers,
        num_gpus=num_gpus,
        address=address,
        before=lambda cost: typer.echo(str(cost), err=True),
        progress=not json_,
    )
    command.check_run(report)
    report = with_command(report)
    with output_folder(out, overwrite=overwrite) as folder:
        report.save(folder)
    if json_:
        from vestige.report import to_json

        _print_json(to_json(report))
        return
    command.print_table(report)
    typer.echo(f"report: {out / 'report.html'}")


@app.command()
def calibrate(
    *,
    out: Out,
    work: Annotated[Path, typer.Option(help="Folder for the models and records; a run goes on from what is there.")],
    fit: Annotated[str, typer.Option(help="Seeds of the worlds that scores are fitted on.")] = "1,2",
    held: Annotated[str, typer.Option(help="Seeds of the worlds that everything is evaluated on.")] = "5,6",
    n_concepts: Annotated[int, typer.Option("--concepts", help="Concepts of each world, 1 to 10.")] = 2,
    suite: Annotated[str, typer.Option(help="Attacks of the audits: quick, standard or full.")] = "quick",
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    address: Annotated[str | None, typer.Option(help="host:port of a running Ray cluster.")] = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Build models whose knowledge is known, audit them, and say what each instrument is worth."""
    from vestige import calibrate as calibration
    from vestige.commands import calibrate as command
    from vestige.output import check_apart, check_output, output_folder

    check_output(out, overwrite=overwrite, inputs=[work])
    check_apart(out, work)
    worlds = command.seeds(fit, what="--fit"), command.seeds(held, what="--held")
    calibration.check_settings(
        *worlds,
        concepts=n_concepts,
        suite=suite,
        engine=engine,
        workers=workers,
        address=address,
        work=work,
        mark="--",
    )
    cost = calibration.minutes(fit=len(worlds[0]), held=len(worlds[1]), concepts=n_concepts)
    typer.echo(f"about {cost} core minutes from nothing, less what is in '{work}' already", err=True)
    found = calibration.calibrate(
        work,
        fit=worlds[0],
        held=worlds[1],
        concepts=n_concepts,
        suite=suite,
        engine=engine,
        workers=workers,
        address=address,
        seed=seed,
        progress=not json_,
    )
    with output_folder(out, overwrite=overwrite) as folder:
        calibration.save(found, folder, about=command.about())
    if json_:
        _print_json(calibration.to_json(found))
        return
    command.print_summary(found)
    typer.echo(f"page: {out / 'calibration.md'}")


@app.command()
def concepts(
    *,
    model: Annotated[str, typer.Option(help="Hugging Face folder or hub id.")],
    lexicon: Lexicon = None,
    top: Annotated[int, typer.Option(help="How many vectors.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Folder for concepts.json; must be new or empty.")] = None,
    dtype: Dtype = "float32",
    overwrite: Overwrite = False,
    seed: Seed = 0,
    device: Device = None,
    json_: Json = False,
) -> None:
    """Find the MLP value vectors that promote the words of a concept, from weights alone."""
    from vestige.commands import concepts as command
    from vestige.commands import inputs
    from vestige.output import check_output, output_folder

    if out is not None:
        check_output(out, overwrite=overwrite, inputs=[model])
    words = inputs.words(lexicon)
    loaded = inputs.model(model, device=device, dtype=dtype)
    found = command.run(loaded, lexicon=words, top=top, seed=seed)
    result = command.as_json(loaded, words, found)
    if out is not None:
        with output_folder(out, overwrite=overwrite) as folder:
            (folder / "concepts.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if json_:
        _print_json(result)
    else:
        from rich.console import Console

        Console().print(command.as_table(loaded, found))


@app.command()
def features(
    *,
    model: Annotated[str, typer.Option(help="Hugging Face folder or hub id.")],
    sae: Annotated[
        str, typer.Option(help="Folder of an SAE (sae-lens, sparsify, dictionary_learning, Gemma Scope), or a release.")
    ],
    positive: Annotated[Path, typer.Option(help="Texts that have it: .jsonl, .json or .csv.")],
    negative: Annotated[Path, typer.Option(help="Texts that differ in nothing else, in the same form.")],
    out: Out,
    sae_id: Annotated[str | None, typer.Option(help="Which SAE of a release or folder.")] = None,
    site: Annotated[str | None, typer.Option(help="Where the SAE belongs, if its file does not say.")] = None,
    title: Annotated[str | None, typer.Option(help="What is searched, in words.")] = None,
    score: Annotated[str, typer.Option(help="How latents are ranked; an unknown one lists them.")] = "contrast",
    top: Annotated[int, typer.Option(help="How many hits.")] = 10,
    others: Annotated[int, typer.Option(help="How many other latents on the page.")] = 100,
    template: Template = QUESTION,
    dtype: Dtype = "float32",
    overwrite: Overwrite = False,
    seed: Seed = 0,
    device: Device = None,
    json_: Json = False,
) -> None:
    """Find the latents of a sparse autoencoder that mark one set of texts against another, and write a page of them."""
    from vestige.commands import features as command
    from vestige.commands import inputs
    from vestige.output import check_output, output_folder

    check_output(out, overwrite=overwrite, inputs=[model, sae, positive, negative])
    command.check(score=score, top=top, others=others)
    with inputs.option("--positive"):
        with_it = command.texts(positive, template=_text(template))
    with inputs.option("--negative"):
        without = command.texts(negative, template=_text(template))
    loaded = inputs.model(model, device=device, dtype=dtype)
    report = command.run(
        loaded,
        inputs.sae(sae, sae_id, site=site, device=device),
        positive=with_it,
        negative=without,
        title=title or f"{positive.stem}, against {negative.stem}",
        score=score,
        top=top,
        others=others,
        seed=seed,
        progress=not json_,
    )
    with output_folder(out, overwrite=overwrite) as folder:
        report.save(folder)
    if json_:
        _print_json(json.loads((out / "features.json").read_text(encoding="utf-8")))
        return
    from rich.console import Console

    Console().print(command.as_table(report))
    typer.echo(f"page: {out / 'features.html'}")


def main() -> None:
    """Run the command line; what a user can cause ends in one line and exit code 2."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _one_line
            app()
    except Exception as error:
        from hooked.errors import VestigeError

        if not isinstance(error, VestigeError):
            raise
        print(f"vestige: {' '.join(str(error).splitlines())}", file=sys.stderr)
        raise SystemExit(2) from None


def _one_line(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"vestige: {' '.join(str(message).splitlines())}", file=sys.stderr)


def _finish(report: Any, out: Path, json_: bool) -> None:
    if json_:
        from vestige.report import to_json

        _print_json(to_json(report))
        return
    from vestige.commands.summary import print_summary

    print_summary(report)
    typer.echo(f"report: {out / 'report.html'}")


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, allow_nan=False))


def _text(template: str) -> str:
    return template.replace("\\n", "\n")


if __name__ == "__main__":
    main()
