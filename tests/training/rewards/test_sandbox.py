"""Nothing that a model writes holds up training: every answer is checked soon, in little memory, from any thread."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spectra.errors import MissingDependencyError, SpectraError
from spectra.training.rewards import sandbox
from spectra.training.rewards.math_equality import readable
from spectra.training.rewards.rewards import is_correct
from spectra.training.rewards.sandbox import check, spread

# Each keeps sympy or the parser busy for seconds to years when nothing guards them, or breaks a careless reader.
HOSTILE = [
    r"9^{9^{9}}",
    r"9^{9999999}",
    r"10^{10^{10^{10}}}",
    r"2^{2^{2^{2^{2^{2}}}}}",
    r"99999999!",
    r"(99999!)!",
    r"((9!)!)!",
    r"\binom{100000000}{50000000}",
    r"\gcd(10^{99999999},3)",
    r"\text{lcm}(10^{9999999},7^{9999999})",
    r"\operatorname{lcm}(99999999!,3)",
    r"10^{99999999}\bmod 7",
    r"\det\begin{pmatrix}10^{99999999}&2\\3&4\end{pmatrix}",
    r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^{99999999}",
    r"\begin{pmatrix}"
    + r"\\".join("&".join(f"x^{{{i + j}}}" for i in range(12)) for j in range(12))
    + r"\end{pmatrix}",
    r"\sum_{n=1}^{100000000}\sin(n)",
    r"\prod_{n=1}^{10000000}n",
    r"\bigcup_{i=1}^{9999999}\{i\}",
    r"\int_0^1x^{900}\sin(x^3)dx",
    r"\lim_{x\to0}\frac{\sin(x^{99})}{x^{100}-x}",
    r"(x+y+z+w)^{300}",
    r"((((x+y+z)^{16}+w)^{16}+u)^{16}+v)^{16}",
    r"(1+\sqrt{2}+\sqrt{3}+\sqrt{5}+\sqrt{7}+\sqrt{11})^{16}",
    r"\cos^{900}(x)\sin^{900}(x)",
    r"\sqrt{2+\sqrt{3+\sqrt{5+\sqrt{7+\sqrt{11+\sqrt{13}}}}}}",
    r"\sqrt[9999999]{2^{9999999}}",
    r"\log_{10}(10^{99999999})",
    r"e^{e^{e^{e^{79}}}}",
    r"\sin(10^{10^{8}})",
    r"\lfloor\pi\cdot10^{9999999}\rfloor",
    "(" * 100 + "1" + ")" * 100,
    "{" * 100 + "1" + "}" * 100,
    r"\frac{" * 200 + "1" + "}{2}" * 200,
    r"\sqrt{" * 60 + "2" + "}" * 60,
    "x^" * 100 + "2",
    "|" * 200 + "1",
    "1+" * 500 + "1",
    "1" * 100000,
    "9" * 200,
    "x" * 200,
    r"[1,2]" + r"\cup[1,2]" * 40,
    r"\{" + ",".join(map(str, range(80))) + r"\}",
    "1e999999999",
    "9**9**9**9",
    r"0.\overline{" + "142857" * 30 + "}",
    r"\frac{0}{0}",
    r"\frac{",
    "\x00\ud800é",
    "١٢٣",
    "𝟔𝟐" * 50,
    "e\u0301" * 100,
    r"\begin{matrix}&\\",
]
GOLDS = ["62", "x^2+2x+1", r"\{1,2\}"]
# The limits are 1.5 s of processor and 2 s of clock; the rest is this machine's own load.
SOON = 3.0


def in_a_thread(work: Callable[[], bool]) -> tuple[bool, float]:
    truths: list[bool] = []
    thread = threading.Thread(target=lambda: truths.append(work()))
    start = time.monotonic()
    thread.start()
    thread.join()
    return truths[0], time.monotonic() - start


@pytest.fixture(autouse=True, scope="module")
def _started() -> None:
    assert check("maths", {"gold": "62", "content": "62.0"})


@pytest.mark.timeout(400)
def test_hostile_answers_are_wrong_and_end_soon_in_a_thread() -> None:
    for content in HOSTILE:
        for gold in GOLDS:
            truth, seconds = in_a_thread(lambda: is_correct(rf"\boxed{{{content}}}", gold))  # noqa: B023  # called here
            assert not truth, content
            assert seconds < SOON, content


@pytest.mark.timeout(400)
def test_they_end_soon_where_no_guard_looks_at_them_first() -> None:
    turned_away = [content for content in HOSTILE if not readable(content)]
    assert len(turned_away) >= 12
    for content in turned_away[::3]:
        _, seconds = in_a_thread(lambda: check("maths", {"gold": "62", "content": content}))  # noqa: B023
        assert seconds < SOON, content
    assert check("maths", {"gold": "62", "content": r"\frac{124}{2}"})


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel tells no memory here")
def test_memory_is_bounded_and_a_new_copy_serves_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    process = served_by(monkeypatch, "bytes(8 * 1024**3)")
    assert process.check({}) is False
    assert process.check({}) is False
    assert peak(process) < 2 * sandbox.MEMORY_BYTES
    process.end()


def test_a_busy_processor_and_a_sleeper_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    for work in ("pow(7, 10**9)", "__import__('time').sleep(60)"):
        process = served_by(monkeypatch, work)
        start = time.monotonic()
        assert process.check({}) is False
        assert time.monotonic() - start < SOON
        process.end()


def test_a_copy_that_crashes_or_prints_answers_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    crash = "__import__('os').kill(__import__('os').getpid(), 11)"
    for work in (crash, "print('right') and False", "1 / 0", "__import__('sys').exit(0)"):
        process = served_by(monkeypatch, work)
        assert process.check({}) is False, work
        process.end()


def test_a_copy_is_replaced_after_its_share_of_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    command = sandbox._COMMAND.replace("worker.main()", "worker.sandbox.ANSWERS = 2; worker.main()")
    monkeypatch.setattr(sandbox, "_COMMAND", command)
    process = sandbox._Process("maths")
    assert all(process.check({"gold": "62", "content": f"62.{'0' * n}"}) for n in range(1, 6))
    process.end()


def test_a_lost_process_is_wrong_once_and_replaced() -> None:
    pool = sandbox._Pool("maths", 1)
    assert pool.check({"gold": "62", "content": "62.0"})
    os.killpg(pool._all[0]._process.pid, signal.SIGKILL)
    assert not pool.check({"gold": "62", "content": "62.0"})
    assert pool.check({"gold": "62", "content": "62.0"})
    pool.end()


def test_what_keeps_it_from_starting_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_COMMAND", "raise ImportError('no sympy here')")
    with pytest.raises(SpectraError, match="did not start .*no sympy here"):
        sandbox._Process("maths")


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox._only_pool.cache_clear()
    monkeypatch.setattr(sandbox, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"needs math-verify; pip install 'spectra-rlvr\[train\]'"):
        check("maths", {"gold": "62", "content": "62.0"})


def test_many_answers_are_spread_over_threads_and_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_most_processes", lambda: 3)
    threads: set[int] = set()
    assert spread(lambda n: threads.add(threading.get_ident()) or n % 3 == 0, range(200)) == [
        n % 3 == 0 for n in range(200)
    ]
    assert threading.get_ident() not in threads
    threads.clear()
    spread(lambda n: threads.add(threading.get_ident()) is None, range(10))
    assert threads == {threading.get_ident()}


def test_each_training_process_takes_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)
    assert sandbox._most_processes() == sandbox.MOST_PROCESSES
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert sandbox._most_processes() == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "99")
    assert sandbox._most_processes() == 1


def test_checking_processes_end_with_the_one_that_asks(tmp_path: Path) -> None:
    script = (
        "import os, signal; from spectra.training.rewards import sandbox as v;"
        "assert v.check('maths', {'gold': '62', 'content': '62.0'});"
        "print(v._pool('maths')._all[0]._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    deadline = time.monotonic() + 10
    while alive(int(done.stdout)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(int(done.stdout))


def served_by(monkeypatch: pytest.MonkeyPatch, work: str) -> sandbox._Process:
    """Start a process whose check is to do ``work``."""
    check = f"worker.CHECKS = {{**worker.CHECKS, 'maths': lambda: {work}}}; worker.main()"
    monkeypatch.setattr(sandbox, "_COMMAND", COMMAND.replace("worker.main()", check))
    return sandbox._Process("maths")


COMMAND = sandbox._COMMAND


def peak(process: sandbox._Process) -> int:
    """Return the peak resident memory, in bytes, of the copies that a process serves with now."""
    pid = process._process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    lines = "".join(Path(f"/proc/{child}/status").read_text() for child in [str(pid), *children]).splitlines()
    return max(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def alive(pid: int) -> bool:
    """Return whether a process runs; one that nobody waits for is a zombie, and does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
