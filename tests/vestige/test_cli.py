"""The command line: every command, pure JSON, one-line errors, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import vestige.auditing
from hooked import HookedModel, Intervention
from tests import warm
from tests.vestige.facts import items, jsonl, saved_model
from tests.vestige.report.sample import NAMES, sample_report
from tests.vestige.test_audit import CHECKS
from vestige import AuditReport, cli
from vestige.cli import app, main
from vestige.commands.attacks import print_table
from vestige.report.storage import read_json
from vestige.result import AttackResult

COMMANDS = ("demo", "unlearn", "audit", "concepts", "features")
COMMON = ("--out", "--seed", "--device", "--json", "--overwrite")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, two references, and data."""
    folder = tmp_path_factory.mktemp("files")
    for seed, name in enumerate(("full", "retain", "never")):
        saved_model(folder / name, seed=seed)
    jsonl(folder / "forget.jsonl", items(4, seed=1))
    jsonl(folder / "kept.jsonl", items(5, seed=2))
    return folder


@pytest.fixture
def run(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Call `vestige` in an empty folder, in this process; `{name}` stands for a file of `files`."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        known = {path.name.partition(".")[0]: path for path in files.iterdir()}
        monkeypatch.setattr(sys, "argv", ["vestige", *(word.format(**known) for word in words)])
        with pytest.raises(SystemExit) as ended:
            main()
        done = capfd.readouterr()
        return int(ended.value.code or 0), done.out, done.err

    return call


AUDIT = ("audit", "--original", "{full}", "--forget", "{forget}")
ATTACK = ("attack", "--original", "{full}", "--forget", "{forget}")
UNLEARN = ("unlearn", "--model", "{full}", "--forget", "{forget}", "--retain", "{kept}")


def left_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--help"], terminal_width=200)
    assert done.exit_code == 0
    for option in COMMON:
        assert option in done.output
    assert "Traceback" not in done.output


def test_it_says_its_version() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"vestige {version('vestige')}\n")


def test_help_lists_the_commands() -> None:
    done = CliRunner().invoke(app, ["--help"])
    assert done.exit_code == 0
    assert all(command in done.output for command in COMMANDS)


@pytest.mark.parametrize("option", ["--bake", "--set", "--method", "--lexicon", "--template", "--concept", "--dtype"])
def test_unlearn_has_its_options(option: str) -> None:
    assert option in CliRunner().invoke(app, ["unlearn", "--help"], terminal_width=200).output


def test_audit_writes_the_report_and_sums_it_up(run: Run, tmp_path: Path) -> None:
    code, out, err = run(
        *AUDIT, "--retain", "{kept}", "--unlearned", "{never}", "--retrained", "{retain}", "--out", "rep"
    )
    assert code == 0, err
    assert err == ""
    assert set(left_in(tmp_path / "rep")) >= {"report.html", "report.json", "figures"}
    report = read_json(tmp_path / "rep" / "report.json")
    assert [s.name for s in report.subjects] == ["original", "never", "retain"]
    assert "report: rep/report.html" in out
    for subject in report.subjects:
        assert subject.name in out
    assert report.verdicts["never"] in out.replace("\n", " ").replace("  ", " ")
    assert left_in(tmp_path)[0] == "rep"


def test_audit_takes_unlearned_folders_in_every_spelling(run: Run) -> None:
    code, out, err = run(
        *AUDIT,
        "--out",
        "r",
        "--json",
        "--max-items",
        "2",
        "--unlearned",
        "{never}",
        "{retain}",
        "--unlearned",
        "{full}",
    )
    assert code == 0, err
    report = json.loads(out)
    assert [s["name"] for s in report["subjects"]] == ["original", "never", "full", "retain"]
    assert report["provenance"]["items"]["forget"] == 2
    assert report["provenance"]["command"] == shlex.join(["vestige", *sys.argv[1:]])
    assert report["provenance"]["suite"] is None


def test_json_is_one_document_and_the_file_is_the_same(run: Run, tmp_path: Path) -> None:
    code, out, err = run(*AUDIT, "--retain", "{kept}", "--never", "{never}", "--out", "rep", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document == json.loads((tmp_path / "rep" / "report.json").read_text())
    assert {r["check"] for r in document["results"]} == CHECKS
    assert list(document)[:3] == ["provenance", "subjects", "results"]
    assert set(document["results"][0]) >= {"check", "subject", "estimate", "low", "high", "n", "floor", "control"}


@pytest.mark.parametrize("counted", [True, False])
def test_scores_without_a_gap_are_explained(counted: bool, capsys: pytest.CaptureFixture[str]) -> None:
    report = sample_report(hostile=False)
    one = AttackResult("steering", NAMES[1], 0.9, gap=0.4 if counted else None)
    print_table(replace(report, attacks=(one,), subjects=report.subjects[1:2]))
    said = capsys.readouterr().out
    assert ("In brackets: scores as they are" in " ".join(said.split())) is not counted
    assert ("0.40" if counted else "(0.90)") in said


def test_where_no_attack_can_be_run_there_is_no_report(run: Run, tmp_path: Path) -> None:
    code, out, err = run(*ATTACK, "--name", "second_language", "--out", "o")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("vestige: no attack could be run: second_language: ")
    assert not (tmp_path / "o").exists()


def test_attack_writes_a_report_that_says_how_it_was_made(run: Run, tmp_path: Path) -> None:
    alone = (*ATTACK, "--unlearned", "{retain}", "--name", "affirmative_prefix", "--out", "a")
    assert "In brackets: scores as they are" in " ".join(run(*alone)[1].split())
    asked = (*ATTACK, "--unlearned", "{retain}", "--never", "{never}", "--name", "affirmative_prefix")
    code, out, err = run(*asked, "--out", "o")
    assert code == 0, err
    assert "affirmative_prefix" in out.replace(" ", "_")
    assert "report: o/report.html" in out
    report = read_json(tmp_path / "o" / "report.json")
    assert {(one.attack, one.subject) for one in report.attacks} == {
        ("affirmative_prefix", subject.name) for subject in report.subjects
    }
    assert report.provenance["command"] == shlex.join(["vestige", *sys.argv[1:]])
    code, out, err = run(*asked, "--out", "p", "--json")
    assert code == 0, err
    assert json.loads(out)["attacks"] == json.loads((tmp_path / "o" / "report.json").read_text())["attacks"]


def test_concepts(run: Run, tmp_path: Path) -> None:
    code, out, err = run("concepts", "--model", "{full}", "--lexicon", "t5, t6,", "--top", "3", "--out", "c")
    assert code == 0, err
    assert "concept vectors" in out
    found = json.loads((tmp_path / "c" / "concepts.json").read_text())
    assert found["lexicon"] == ["t5", "t6"]
    assert len(found["vectors"]) == 3
    assert set(found["vectors"][0]) >= {"layer", "neuron", "score", "p_value", "top_tokens"}
    code, out, _ = run("concepts", "--model", "{full}", "--lexicon", "t5,t6", "--top", "3", "--json")
    assert (code, json.loads(out)) == (0, found)


def test_concepts_without_a_lexicon(run: Run, tmp_path: Path) -> None:
    code, out, err = run("concepts", "--model", "{full}", "--top", "2", "--json")
    assert code == 0, err
    assert len(json.loads(out)["vectors"]) == 2
    assert left_in(tmp_path) == []


def test_unlearn_then_audit(run: Run, files: Path, tmp_path: Path) -> None:
    code, out, err = run(
        *UNLEARN, "--method", "gradient_ascent", "--set", "steps=2", "--set", "lr=1e-3", "--out", "edit"
    )
    assert code == 0, err
    assert "gradient_ascent (removal, acts through weights) is in edit" in out
    assert "vestige audit --original" in out
    assert re.search(r"mean probability of the forget answers: 0\.\d+ before, 0\.\d+ after", out)
    code, out, err = run(
        *UNLEARN,
        "--method",
        "gradient_ascent",
        "--set",
        "steps=2",
        "--set",
        "lr=1e-3",
        "--out",
        "baked",
        "--bake",
        "--json",
    )
    assert code == 0, err
    summary = json.loads(out)
    assert (summary["kind"], summary["method"], summary["out"]) == ("model", "gradient_ascent", "baked")
    assert summary["settings"]["lr"] == 1e-3
    code, out, err = run(
        *AUDIT, "--retain", "{kept}", "--never", "{never}", "--unlearned", "edit", "baked", "--out", "rep", "--json"
    )
    assert code == 0, err
    report = read_json(tmp_path / "rep" / "report.json")
    assert [s.name for s in report.subjects] == ["original", "gradient_ascent", "baked", "never"]
    assert report.subjects[1].intent == "removal"
    # The same edit, as an edit and as a model.
    for check in CHECKS:
        one, other = report.result(check, "gradient_ascent"), report.result(check, "baked")
        assert replace(one, subject="") == replace(other, subject="")
    changed = [report.result("forget_probability", s.name).estimate for s in report.subjects[:2]]
    assert changed[0] != changed[1]
    assert Intervention.load(tmp_path / "edit").weights is not None
    assert HookedModel.from_pretrained(str(tmp_path / "baked"), dtype="float32").n_layers == 3


@pytest.mark.parametrize("method", ["neuron_adjust", "ablate_vectors", "needle_tune", "selective_pruning"])
def test_methods_by_name(run: Run, method: str, tmp_path: Path) -> None:
    extra = ("--set", "steps=1") if method == "needle_tune" else ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code, out, err = run(*UNLEARN, "--method", method, "--lexicon", "t5", "--out", "edit", "--json", *extra)
    assert code == 0, err
    assert json.loads(out)["method"] == method
    assert Intervention.load(tmp_path / "edit").spec.name == method


def test_documents_with_a_concept(run: Run, tmp_path: Path) -> None:
    texts = [f"t{i} t{i + 1} t50 t{i + 2} t{i + 3}" for i in range(10, 14)]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    code, out, err = run(
        "audit", "--original", "{full}", "--forget", "docs.jsonl", "--concept", "t50", "--out", "rep", "--json"
    )
    assert code == 0, err
    report = json.loads(out)
    assert report["provenance"]["concepts"] == report["provenance"]["words"] == ["t50"]
    assert report["generations"][0]["prompt"] == "t10 t11"
    assert report["generations"][0]["answer"].startswith("t50")


def test_a_template_with_a_written_line_break(run: Run, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "t5", "answer": "t6"}\n{"question": "t7", "answer": "t8"}\n')
    code, out, err = run(
        "audit",
        "--original",
        "{full}",
        "--forget",
        "q.jsonl",
        "--template",
        "t9\\n{{question}}",
        "--out",
        "rep",
        "--json",
    )
    assert code == 0, err
    assert json.loads(out)["generations"][0]["prompt"] == "t9\nt5"


ERRORS: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown method": ((*UNLEARN, "--method", "npoo", "--out", "o"), "no method 'npoo'; did you mean 'npo'"),
    "missing file": (
        ("audit", "--original", "{full}", "--forget", "absent.jsonl", "--out", "o"),
        "--forget: no file absent.jsonl",
    ),
    "bad row": (("audit", "--original", "{full}", "--forget", "bad.jsonl", "--out", "o"), "bad.jsonl, line 2"),
    "empty file": (("audit", "--original", "{full}", "--forget", "empty.jsonl", "--out", "o"), "empty"),
    "no such model": (
        ("audit", "--original", "absent/a/b", "--forget", "{forget}", "--out", "o"),
        "--original: 'absent/a/b' is not a folder",
    ),
    "folder without model": ((*AUDIT, "--unlearned", ".", "--out", "o"), "config.json"),
    "missing folder": ((*AUDIT, "--never", "absent", "--out", "o"), "--never: 'absent' is not a folder"),
    "missing retrained": ((*AUDIT, "--retrained", "absent", "--out", "o"), "--retrained: 'absent' is not a folder"),
    "missing unlearned": ((*AUDIT, "absent", "--out", "o"), "--unlearned: 'absent' is not a folder"),
    "missing retain": ((*AUDIT, "--retain", "absent.jsonl", "--out", "o"), "--retain: no file absent.jsonl"),
    "missing holdout": ((*AUDIT, "--holdout", "absent.jsonl", "--out", "o"), "--holdout: no file absent.jsonl"),
    "missing control": ((*AUDIT, "--control", "absent.jsonl", "--out", "o"), "--control: no file absent.jsonl"),
    "sae without retain": (
        ("audit", "--original", "{full}", "--forget", "{forget}", "--sae", "s", "--out", "o"),
        "--sae follows latents that tell forget from retain prompts; give these with --retain",
    ),
    "site without sae": ((*AUDIT, "--site", "resid_post.1", "--out", "o"), "--site says more of an SAE"),
    "missing sae": ((*AUDIT, "--retain", "{kept}", "--sae", "absent", "--out", "o"), "--sae: "),
    "missing texts": (
        ("features", "--model", "m", "--sae", "s", "--positive", "absent.jsonl", "--negative", "n", "--out", "o"),
        "--positive: no file absent.jsonl",
    ),
    "nothing to build on": ((*UNLEARN, "--method", "npo", "--after", "absent", "--out", "o"), "--after: there is no"),
    "mistyped attack": (
        ("attack", "--original", "{full}", "--forget", "{forget}", "--name", "few_shots", "--out", "o"),
        "no attack 'few_shots'; did you mean 'few_shot'? there are",
    ),
    "mistyped suite": ((*AUDIT, "--suite", "quik", "--out", "o"), "no suite 'quik'; did you mean 'quick'? there are"),
    "calibration of one world": (
        ("calibrate", "--work", "w", "--fit", "1", "--out", "o"),
        "--fit needs two worlds",
    ),
    "calibration of a shared world": (
        ("calibrate", "--work", "w", "--fit", "1,2", "--held", "2,3", "--out", "o"),
        "world 2 is in both",
    ),
    "calibration of no concept": (
        ("calibrate", "--work", "w", "--concepts", "0", "--out", "o"),
        "--concepts is 1 to",
    ),
    "calibration by nobody": (
        ("calibrate", "--work", "w", "--workers", "0", "--out", "o"),
        "--workers is at least 1",
    ),
    "calibration by a stranger": (
        ("calibrate", "--work", "w", "--engine", "dask", "--out", "o"),
        "--engine is one of",
    ),
    "calibration on a cluster without Ray": (
        ("calibrate", "--work", "w", "--address", "head:6379", "--out", "o"),
        "give --engine ray as well",
    ),
    "attacks on a cluster without Ray": (
        ("attack", "--original", "{full}", "--forget", "{forget}", "--workers", "4", "--out", "o"),
        "workers, num_gpus and address are settings of Ray",
    ),
    "a seed that is too far": ((*ATTACK, "--seed", str(2**32), "--out", "o"), "--seed is at least 0 and below 2**32"),
    "no items to attack": ((*ATTACK, "--max-items", "0", "--out", "o"), "max_items is at least 1, got 0"),
    "less than none": ((*ATTACK, "--max-items", "-3", "--out", "o"), "max_items is at least 1, got -3"),
    "no rows to attack": ((*ATTACK, "--batch-size", "0", "--out", "o"), "batch_size is at least 1, got 0"),
    "negative seed of attacks": (
        (*ATTACK, "--seed", "-1", "--out", "o"),
        "--seed is at least 0 and below 2**32, got -1",
    ),
    "negative seed of a method": ((*UNLEARN, "--method", "npo", "--seed", "-1", "--out", "o"), "--seed is at least 0"),
    "negative seed of a calibration": (
        ("calibrate", "--work", "w", "--seed", "-1", "--out", "o"),
        "--seed is at least",
    ),
    "a world that is too far": (
        ("calibrate", "--work", "w", "--fit", "99999999999999999999,2", "--out", "o"),
        "--fit is a list of different whole numbers below 2**32",
    ),
    "training for nothing": (
        (*UNLEARN, "--method", "npo", "--set", "epochs=0", "--out", "o"),
        "npo took no step; give it some with --set epochs=5, or steps",
    ),
    "calibration inside its work": (("calibrate", "--work", "w", "--out", "w/o"), "one inside the other"),
    "work inside a calibration": (("calibrate", "--work", "o/w", "--out", "o"), "one inside the other"),
    "calibration into its work": (("calibrate", "--work", "o", "--out", "o"), "--work and --out are both 'o'"),
    "calibration in a file": (
        ("calibrate", "--work", "bad.jsonl", "--out", "o"),
        "--work: 'bad.jsonl' is a file",
    ),
    "unknown device": ((*AUDIT, "--device", "abacus", "--out", "o"), "device 'abacus' is not available"),
    "absent device": ((*AUDIT, "--device", "cuda:63", "--out", "o"), "device 'cuda:63' is not available"),
    "unknown dtype": ((*AUDIT, "--dtype", "float99", "--out", "o"), "float99"),
    "non-empty out": ((*AUDIT, "--out", "full-folder"), "'full-folder' is not empty"),
    "out is a file": ((*AUDIT, "--out", "bad.jsonl"), "is a file"),
    "out below a file": ((*AUDIT, "--out", "bad.jsonl/deep"), "cannot be written"),
    "out is read": (
        (*AUDIT, "--unlearned", "full-folder", "--overwrite", "--out", "full-folder"),
        "which this command reads",
    ),
    "empty lexicon": (("concepts", "--model", "{full}", "--lexicon", " , ", "--out", "o"), "the lexicon has no word"),
    "nothing to find": (("concepts", "--model", "{full}", "--top", "0", "--out", "o"), "top"),
    "set without =": ((*UNLEARN, "--method", "npo", "--set", "lr", "--out", "o"), "--set takes key=value"),
    "set of no setting": ((*UNLEARN, "--method", "npo", "--set", "rate=1", "--out", "o"), "with a key of"),
    "set of another type": ((*UNLEARN, "--method", "npo", "--set", "lr=fast", "--out", "o"), "lr needs a number"),
    "template": ((*AUDIT, "--template", "no place", "--out", "o"), "template"),
    "no items": ((*AUDIT, "--max-items", "0", "--out", "o"), "max_items is at least 1"),
    "no rows": ((*AUDIT, "--batch-size", "0", "--out", "o"), "batch_size is at least 1"),
    "negative seed": ((*AUDIT, "--seed", "-1", "--out", "o"), "seed is at least 0"),
    "needs retain": (
        ("unlearn", "--model", "{full}", "--forget", "{forget}", "--method", "npo", "--out", "o"),
        "retain",
    ),
    "bake of hooks": ((*UNLEARN, "--method", "neuron_adjust", "--bake", "--out", "o"), "weights cannot carry"),
    "a row in both": (
        ("audit", "--original", "{full}", "--forget", "{forget}", "--retain", "{forget}", "--out", "o"),
        "retain",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_a_user_can_cause_is_one_line_and_exit_code_2(run: Run, tmp_path: Path, case: str) -> None:
    (tmp_path / "bad.jsonl").write_text('{"question": "a", "answer": "b"}\n{"question": "a"\n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "full-folder").mkdir()
    (tmp_path / "full-folder" / "config.json").write_text("{}")
    before = left_in(tmp_path)
    words, reason = ERRORS[case]
    code, out, err = run(*words)
    assert code == 2
    assert out == ""
    assert re.fullmatch(r"vestige: .+\n", err), err
    assert reason in err
    assert left_in(tmp_path) == before


@pytest.mark.parametrize(
    "words", [("audit",), ("unlearn", "--model", "x"), ("concepts",), ("nothing",), ("audit", "--wrong")]
)
def test_a_wrong_call_is_exit_code_2_without_traceback(run: Run, words: tuple[str, ...]) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_overwrite_replaces_an_old_report(run: Run, tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "old.txt").write_text("old")
    code, _, err = run("concepts", "--model", "{full}", "--top", "1", "--out", "o", "--overwrite")
    assert code == 0, err
    assert left_in(tmp_path) == ["o", "o/concepts.json"]


def test_a_bug_is_not_dressed_up_as_a_users_mistake(
    run: Run, monkeypatch: pytest.MonkeyPatch, files: Path, tmp_path: Path
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(vestige.auditing, "audit", broken)
    monkeypatch.setattr(
        sys,
        "argv",
        ["vestige", "audit", "--original", str(files / "full"), "--forget", str(files / "forget.jsonl"), "--out", "o"],
    )
    with pytest.raises(RuntimeError, match="a bug"):
        main()
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("when", ["reading", "writing"])
def test_an_interrupt_leaves_nothing(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, when: str) -> None:
    def stop(*given: Any, **_: Any) -> None:
        if when == "writing":
            (given[1] / "report.html").write_text("half")
        raise KeyboardInterrupt

    if when == "reading":
        monkeypatch.setattr(vestige.auditing, "audit", stop)
    else:
        monkeypatch.setattr(AuditReport, "save", stop)
    code, out, err = run(*AUDIT, "--out", "a/o")
    assert code not in (0, 2)
    assert out == ""
    assert "Traceback" not in err
    assert left_in(tmp_path) == []


def test_warnings_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def warns() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("first line\nsecond line", UserWarning, stacklevel=1)

    monkeypatch.setattr(cli, "app", warns)
    main()
    assert capsys.readouterr().err == "vestige: first line second line\n"


# The same once more as a person meets it: another process, its real streams, a real signal.


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def test_a_real_process_prints_json_alone(files: Path, tmp_path: Path) -> None:
    words = [
        "audit",
        "--original",
        files / "full",
        "--forget",
        files / "forget.jsonl",
        "--out",
        tmp_path / "o",
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "vestige.cli", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["subjects"][0]["name"] == "original"
    assert done.stderr == ""


def test_a_real_process_ends_in_one_line(tmp_path: Path) -> None:
    words = [
        *warm.python(),
        "-m",
        "vestige.cli",
        "unlearn",
        "--model",
        "m",
        "--method",
        "x",
        "--forget",
        "f",
        "--out",
        "o",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment())
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"vestige: no method 'x'; methods are .+\n", done.stderr)


def test_a_real_interrupt_leaves_nothing(files: Path, tmp_path: Path) -> None:
    waits = (
        # A shell starts what it puts into the background without interrupts, and that is inherited.
        "import signal, sys, time, vestige.auditing as a\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def check(evidence):\n    print('ready', file=sys.stderr, flush=True)\n    time.sleep(120)\n"
        "a.CHECKS = (check,)\n"
        "from vestige.cli import main\nmain()\n"
    )
    words = ["audit", "--original", files / "full", "--forget", files / "forget.jsonl", "--out", tmp_path / "a" / "o"]
    with subprocess.Popen(
        [sys.executable, "-c", waits, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if line == "ready\n":
                break
        else:
            pytest.fail("it ended before it could be interrupted")
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert running.returncode not in (0, 2)
    assert out == ""
    assert "Traceback" not in err
    assert left_in(tmp_path) == []


def test_one_method_builds_on_another(run: Run, tmp_path: Path) -> None:
    fast = ("--set", "steps=2", "--set", "lr=1e-3")
    assert run(*UNLEARN, "--method", "gradient_ascent", *fast, "--out", "first")[0] == 0
    code, out, err = run(*UNLEARN, "--method", "neuron_adjust", "--after", "first", "--out", "both", "--json")
    assert code == 0, err
    summary = json.loads(out)
    assert summary["method"] == "gradient_ascent + neuron_adjust"
    assert summary["intent"] == "suppression"
    assert summary["acts_through"] == ["weights", "edits"]
    both = Intervention.load(tmp_path / "both")
    assert [step.spec.name for step in both.steps] == ["gradient_ascent", "neuron_adjust"]
    code, out, err = run(*UNLEARN, "--method", "neuron_adjust", "--after", "nowhere", "--out", "third")
    assert (code, out) == (2, "")
    assert "there is no folder 'nowhere'" in err
    code, out, err = run(*UNLEARN, "--method", "npo", "--after", "both", "--bake", "--out", "third")
    assert (code, out) == (2, "")
    assert "neuron_adjust is not made of weights, so there is no model to write; leave --bake out" in err
    assert not (tmp_path / "third").exists()


@pytest.mark.filterwarnings("always:.*fitted on other weights")
def test_an_audit_of_other_weights_than_were_fitted_on_says_so(run: Run) -> None:
    fast = ("--set", "steps=2", "--set", "lr=1e-3")
    assert run(*UNLEARN, "--method", "gradient_ascent", *fast, "--out", "edit")[0] == 0
    ask = ("--forget", "{forget}", "--retain", "{kept}", "--unlearned", "edit", "--max-items", "4")
    code, _, err = run("audit", "--original", "{full}", *ask, "--out", "same")
    assert (code, err) == (0, "")
    code, _, err = run("audit", "--original", "{never}", *ask, "--out", "other")
    assert code == 0
    assert "'gradient_ascent' was fitted on other weights (or another dtype)" in err


def test_a_method_that_acts_at_a_site_takes_it_as_an_option(run: Run) -> None:
    code, _, err = run(*UNLEARN, "--method", "leace", "--out", "edit")
    assert code == 2
    assert "leace has to be told its site; pass --site resid_post.2" in err
    code, _, err = run(*UNLEARN, "--method", "npo", "--site", "resid_post.1", "--out", "edit")
    assert code == 2
    assert "npo takes no --site" in err
