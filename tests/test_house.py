"""House rules that no single package can hold by itself."""

import ast
import importlib
import json
import re
import resource
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import torch

from tests.conftest import NetworkBlockedError, seed_of

ROOT = Path(__file__).parents[1]
PACKAGES = ("hooked", "probes", "sae", "interventions", "vestige")
# "About 25" with a little slack: nobody should meet a wall of names.
MAX_PUBLIC_NAMES = 28
HEAVY = ("sae_lens", "wandb", "matplotlib", "transformer_lens")
MAX_HELP_CPU_SECONDS = 1.0
# Import name to distribution name, where the two differ.
DISTRIBUTIONS = {"sklearn": "scikit-learn"}
PICKLE_READ = re.compile(r"(pickle|cPickle|dill|cloudpickle|joblib)\.(load|loads|Unpickler)")
# A folder of one person's machine. Paths that every Linux has (/usr/bin, /etc) and /tmp are not meant.
MACHINE_PATH = re.compile(r"(?<![\w.\]})-])/(?:home|Users|root|work|opt|mnt|media)/[\w.]")


@cache
def repository_files() -> tuple[Path, ...]:
    """Every file that is or would be committed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return tuple(path for name in sorted(filter(None, names.split("\0"))) if (path := ROOT / name).is_file())


def python_sources() -> Iterator[tuple[Path, ast.Module]]:
    """Modules, and the code cells of notebooks."""
    for path in repository_files():
        if path.suffix == ".py":
            yield path, ast.parse(path.read_text(encoding="utf-8"))
        elif path.suffix == ".ipynb":
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            lines = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code").splitlines()
            yield path, ast.parse("\n".join("" if line.startswith(("%", "!")) else line for line in lines))


def unsafe_loads(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Places that read a pickle or run code from a model's folder: line number and what is wrong."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
            if called == "torch.load" and keywords.get("weights_only") is not True:
                yield node.lineno, "torch.load without weights_only=True"
            if PICKLE_READ.fullmatch(called):
                yield node.lineno, called
            if keywords.get("allow_pickle") is True or keywords.get("trust_remote_code") is True:
                yield node.lineno, f"allow_pickle or trust_remote_code in a call of {called}"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            arguments = node.args
            positional = [*arguments.posonlyargs, *arguments.args]
            defaults = [
                *zip(positional[len(positional) - len(arguments.defaults) :], arguments.defaults, strict=True),
                *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
            ]
            for argument, default in defaults:
                on = isinstance(default, ast.Constant) and default.value is True
                if on and argument.arg in ("trust_remote_code", "allow_pickle"):
                    yield node.lineno, f"{argument.arg} is on by default"
        elif isinstance(node, ast.ImportFrom) and node.module in ("pickle", "dill", "cloudpickle"):
            yield node.lineno, f"names imported from {node.module}"


def in_new_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def children_cpu_seconds(code: str) -> float:
    """User plus system time of one Python process; the best of three, since other work on the machine only adds."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        in_new_python(code)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return min(times)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_owns_our_import_name(package: str) -> None:
    owners = set(packages_distributions().get(package, ())) - {"vestige"}
    assert not owners, f"{package} is also installed by {sorted(owners)}: uninstall it, or the wrong code is imported"


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_typed_and_says_what_it_is(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
    assert importlib.import_module(package).__doc__


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_exist_and_are_few(package: str) -> None:
    module = importlib.import_module(package)
    names = module.__all__
    assert len(names) == len(set(names)) <= MAX_PUBLIC_NAMES
    assert [name for name in names if not hasattr(module, name)] == []


def test_importing_hooked_stays_light() -> None:
    code = f"import sys, hooked; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    assert in_new_python(code) == ""


@pytest.mark.skipif(not (ROOT / "vestige" / "cli.py").is_file(), reason="vestige/cli.py is not there")
def test_help_answers_quickly() -> None:
    show = "import sys; sys.argv = ['vestige', '--help']; from vestige.cli import main; main()"
    assert children_cpu_seconds(show) - children_cpu_seconds("pass") < MAX_HELP_CPU_SECONDS


def test_nothing_reads_a_pickle_or_trusts_remote_code() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path, tree in python_sources()
        for line, what in unsafe_loads(tree)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("code", "n_found"),
    [
        ("torch.load(path)", 1),
        ("torch.load(path, weights_only=False)", 1),
        ("torch.load(path, weights_only=True)", 0),
        ("pickle.loads(data)", 1),
        ("pickle.dumps(data)", 0),
        ("from pickle import loads", 1),
        ("AutoModel.from_pretrained(path, trust_remote_code=True)", 1),
        ("def f(path, *, trust_remote_code=True): ...", 1),
        ("def f(path, trust_remote_code=False): ...", 0),
    ],
)
def test_the_search_for_unsafe_loads_finds_them(code: str, n_found: int) -> None:
    assert len(list(unsafe_loads(ast.parse(code)))) == n_found


def test_no_file_names_a_path_of_one_machine() -> None:
    found = []
    for path in repository_files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}:{i}" for i, line in enumerate(lines, 1) if MACHINE_PATH.search(line)]
    assert found == []


def test_every_imported_distribution_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    # Triton comes with the CUDA builds of torch.
    allowed = {"triton", *PACKAGES, *sys.stdlib_module_names}
    extras = (project["optional-dependencies"][extra] for extra in ("ray", "lm-eval", "inspect"))
    for line in (*project["dependencies"], *(line for extra in extras for line in extra)):
        allowed.add(re.split(r"[<>=!~\[; ]", line)[0].replace("-", "_"))
    missing = set()
    for path, tree in python_sources():
        if path.relative_to(ROOT).parts[0] in PACKAGES:
            for name in imported_roots(tree):
                if DISTRIBUTIONS.get(name, name).replace("-", "_") not in allowed:
                    missing.add(f"{name} ({path.relative_to(ROOT)})")
    assert missing == set()


def imported_roots(tree: ast.Module) -> set[str]:
    roots = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            roots.add(node.module.partition(".")[0])
    return roots


def test_the_suite_cannot_reach_the_network() -> None:
    with socket.socket() as client, pytest.raises(NetworkBlockedError, match="offline"):
        client.connect(("192.0.2.1", 80))


def test_loopback_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), timeout=5):
        pass


def test_random_numbers_follow_from_the_name_of_the_test(rng: torch.Generator, request: pytest.FixtureRequest) -> None:
    assert rng.initial_seed() == seed_of(request.node.nodeid)
    assert seed_of("tests/test_a.py::test_b") == 8056254547315127777
    assert seed_of("tests/test_a.py::test_c") != 8056254547315127777
