"""Output folders: what is refused before any work, what is replaced, and that nothing half-done stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hooked import VestigeError
from vestige import output
from vestige.output import check_apart, check_output, output_folder


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones included, and every empty folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file():
            found[name] = path.read_text()
        elif not any(path.iterdir()):
            found[name] = "<empty>"
    return found


def write(folder: Path, *, overwrite: bool = False, text: str = "new") -> None:
    with output_folder(folder, overwrite=overwrite) as scratch:
        (scratch / "report.json").write_text(text)
        (scratch / "figures").mkdir()
        (scratch / "figures" / "one.png").write_text(text)


RESULT = {"report.json": "new", "figures/one.png": "new"}


def test_a_new_folder_and_its_parents_are_made(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "out")
    assert tree(tmp_path) == {f"a/b/out/{name}": text for name, text in sorted(RESULT.items())}
    assert os.stat(tmp_path / "a" / "b" / "out").st_mode & 0o777 == 0o755


def test_an_empty_folder_is_filled_and_stays_the_same_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o700)
    inode = out.stat().st_ino
    write(out)
    assert tree(out) == RESULT
    assert out.stat().st_ino == inode


def test_the_current_folder_is_fine_while_it_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path())
    assert tree(tmp_path) == RESULT


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    for call in (lambda: check_output(tmp_path, overwrite=False), lambda: write(tmp_path)):
        with pytest.raises(VestigeError, match="is not empty; choose another --out or pass --overwrite"):
            call()
    assert tree(tmp_path) == {"keep.txt": "mine"}


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(VestigeError, match="is a file"):
        check_output(tmp_path / "out", overwrite=True)


def test_overwrite_replaces_everything(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, text="old")
    (out / "stale.txt").write_text("old")
    write(out, overwrite=True)
    assert tree(tmp_path) == {f"out/{name}": text for name, text in sorted(RESULT.items())}


def test_a_link_to_a_folder_is_followed_and_kept(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    write(tmp_path / "out")
    write(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out").is_symlink()
    assert tree(tmp_path / "real") == RESULT


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existing", ["nothing", "empty", "results"])
def test_nothing_half_done_is_left_behind(tmp_path: Path, error: type[BaseException], existing: str) -> None:
    out = tmp_path / "a" / "out"
    if existing != "nothing":
        out.mkdir(parents=True)
    if existing == "results":
        write(out, overwrite=True, text="old")
    before = tree(tmp_path)
    with pytest.raises(error), output_folder(out, overwrite=True) as scratch:  # noqa: PT012
        (scratch / "report.json").write_text("half")
        raise error
    assert tree(tmp_path) == before


def test_old_results_are_not_lost_when_the_exchange_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    write(out, text="old")
    rename, calls = Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(KeyboardInterrupt):
        write(out, overwrite=True)
    assert sorted(tree(tmp_path).values()) == ["old", "old"]


@pytest.mark.parametrize("place", [".", "..", "child/.."])
def test_overwrite_never_takes_the_working_folder_or_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "here" / "child").mkdir(parents=True)
    (tmp_path / "here" / "mine.txt").write_text("mine")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(VestigeError, match="working folder"):
        check_output(Path(place), overwrite=True)


def test_overwrite_never_takes_home_or_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, repository = tmp_path / "home", tmp_path / "repository"
    (home / "x").mkdir(parents=True)
    (repository / ".git").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    for folder in (home, repository):
        with pytest.raises(VestigeError, match="working folder"):
            check_output(folder, overwrite=True)


def test_overwrite_never_takes_what_the_command_reads(tmp_path: Path) -> None:
    model, forget = tmp_path / "out" / "model", tmp_path / "out" / "forget.jsonl"
    model.mkdir(parents=True)
    forget.write_text("{}")
    for read in (model, forget, str(tmp_path / "out")):
        with pytest.raises(VestigeError, match="which this command reads"):
            check_output(tmp_path / "out", overwrite=True, inputs=[None, read])
    check_output(tmp_path / "out", overwrite=True, inputs=[None, "some/hub-id", tmp_path / "elsewhere"])


@pytest.mark.parametrize(("out", "work"), [("a", "a"), ("a/b", "a"), ("a", "a/b/c"), ("a/../b", "b")])
def test_results_and_work_are_kept_apart(tmp_path: Path, out: str, work: str) -> None:
    with pytest.raises(VestigeError, match="give each a folder of its own"):
        check_apart(tmp_path / out, tmp_path / work)
    assert not list(tmp_path.iterdir())


def test_results_beside_work_are_fine(tmp_path: Path) -> None:
    check_apart(tmp_path / "results", tmp_path / "results-work")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(VestigeError, match="cannot be written: Not a directory"):
        check_output(tmp_path / "file" / "deep" / "out", overwrite=False)
    with pytest.raises(VestigeError, match="cannot be written"):
        check_output(Path("/proc/nothing/out"), overwrite=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(VestigeError, match="Permission denied"):
        check_output(tmp_path / "closed" / "out", overwrite=False)


def test_a_failing_scratch_folder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output.tempfile, "mkdtemp", full)
    with pytest.raises(VestigeError, match="cannot be written: No space left on device"):
        write(tmp_path / "out")
    assert tree(tmp_path) == {}
