"""One process at a time, whoever it is and however it ends."""

import subprocess
import sys
from pathlib import Path

import pytest

from spectra.errors import RunExistsError
from spectra.runs.lock import exclusive

HOLDER = """
import sys, pathlib
from spectra.runs.lock import exclusive
with exclusive(pathlib.Path(sys.argv[1]), "training this run"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_what_another_process_holds_is_refused_until_it_dies(tmp_path: Path) -> None:
    lock = tmp_path / "run" / ".lock"
    command = [sys.executable, "-c", HOLDER, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(RunExistsError, match="run: another process is training this run; wait for it"):
            with exclusive(lock, "training this run"):
                raise AssertionError("held twice")
        holder.kill()
    with exclusive(lock, "training this run"):
        assert lock.exists()


def test_one_process_does_not_hold_it_twice_and_can_hold_it_again(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    for _ in range(2):
        with exclusive(lock, "analyzing"), pytest.raises(RunExistsError, match="another process is analyzing"):
            with exclusive(lock, "analyzing"):
                raise AssertionError("held twice")


def test_it_is_let_go_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path / ".lock", "analyzing"):
        raise ZeroDivisionError
    with exclusive(tmp_path / ".lock", "analyzing"):
        pass


def test_a_link_is_neither_followed_nor_emptied(tmp_path: Path) -> None:
    precious = tmp_path / "weights"
    precious.write_text("precious")
    (tmp_path / "run").mkdir()
    lock = tmp_path / "run" / ".lock"
    lock.symlink_to(precious)
    with pytest.raises(RunExistsError, match=r"\.lock: is a link, and must be a plain file; remove it"):
        with exclusive(lock, "training this run"):
            raise AssertionError("followed")
    lock.unlink()
    lock.hardlink_to(precious)
    with exclusive(lock, "training this run"):
        pass
    assert precious.read_text() == "precious"
