"""Nothing that a model writes holds up training: every answer is checked in little time and memory, from any thread.

Time is that of the processor: how long an answer takes by the clock is decided by what else the machine does.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spectra.errors import MissingDependencyError, SpectraError
from spectra.training.rewards import sandbox
from spectra.training.rewards.math_equality import readable
from spectra.training.rewards.rewards import is_correct
from spectra.training.rewards.sandbox import check, parallel_map

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
# The kernel looks at its limit of processor time a few hundred times a second; a copy is made again for a little more.
LIMIT = sandbox.PROCESSOR_SECONDS + 0.3


def in_a_thread(work: Callable[[], bool]) -> tuple[bool, float]:
    """Return what the work returns in another thread, and the processor time that the checking process took for it."""
    truths: list[bool] = []
    (process,) = sandbox._sandbox()._pool("maths")._all
    start = processor_seconds(process)
    thread = threading.Thread(target=lambda: truths.append(work()))
    thread.start()
    thread.join()
    return truths[0], processor_seconds(process) - start


@pytest.fixture(autouse=True, scope="module")
def _one_process() -> Iterator[None]:
    others = sandbox._OWN[:]
    sandbox._OWN[:] = [sandbox.Sandbox(1)]
    assert check("maths", {"gold": "62", "content": "62.0"})
    yield
    sandbox._OWN[0].end()
    sandbox._OWN[:] = others


@pytest.mark.timeout(400)
def test_hostile_answers_are_wrong_and_end_soon_in_a_thread() -> None:
    for content in HOSTILE:
        for gold in GOLDS:
            truth, seconds = in_a_thread(lambda: is_correct(rf"\boxed{{{content}}}", gold))  # noqa: B023  # called here
            assert not truth, content
            assert seconds < LIMIT, content


@pytest.mark.timeout(400)
def test_they_end_soon_where_no_guard_looks_at_them_first() -> None:
    turned_away = [content for content in HOSTILE if not readable(content)]
    assert len(turned_away) >= 12
    for content in turned_away[::3]:
        _, seconds = in_a_thread(lambda: check("maths", {"gold": "62", "content": content}))  # noqa: B023
        assert seconds < LIMIT, content
    assert check("maths", {"gold": "62", "content": r"\frac{124}{2}"})


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel tells no memory here")
def test_memory_is_bounded_and_a_new_copy_serves_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    process = served_by(monkeypatch, "bytes(8 * 1024**3)")
    assert process.check({}) is False
    assert process.check({}) is False
    assert peak(process) < 2 * sandbox.MEMORY_BYTES
    process.end()


def test_a_busy_processor_is_wrong_after_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    process = served_by(monkeypatch, "pow(7, 10**9)")
    start = processor_seconds(process)
    assert process.check({}) is False
    assert sandbox.PROCESSOR_SECONDS - 0.1 < processor_seconds(process) - start < LIMIT
    process.end()


def test_one_that_waits_is_not_judged_but_asked_again_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    sleeps = f"open({str(asked)!r}, 'a').write('x') and __import__('time').sleep(600)"
    monkeypatch.setattr(sandbox, "_COMMAND", command(sleeps).replace("worker.main()", f"{SHORT}; worker.main()"))
    pool = sandbox._Pool("maths", 1)
    assert pool.check({}) is False
    assert asked.read_text() == "xx"
    assert pool._all == []
    pool.end()


def test_one_that_waited_on_a_crowded_machine_is_right_when_asked_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The clock stands in for the machine: the first time an answer waits for longer than the limit, then not."""
    asked = tmp_path / "asked"
    first = f"not open({str(asked)!r}, 'a').write('x') or __import__('os').stat({str(asked)!r}).st_size > 1"
    waits = f"({first}) or __import__('time').sleep(600)"
    monkeypatch.setattr(sandbox, "_COMMAND", command(waits).replace("worker.main()", f"{SHORT}; worker.main()"))
    pool = sandbox._Pool("maths", 1)
    assert pool.check({}) is True
    assert asked.read_text() == "xx"
    pool.end()


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


def test_a_lost_process_is_replaced_and_its_answer_asked_again() -> None:
    pool = sandbox._Pool("maths", 1)
    assert pool.check({"gold": "62", "content": "62.0"})
    lost = pool._all[0]._process
    os.killpg(lost.pid, signal.SIGKILL)
    assert pool.check({"gold": "62", "content": "62.0"})
    assert lost.returncode == -signal.SIGKILL  # waited for: no zombie
    pool.end()
    assert pool._all == []


def test_a_process_that_is_lost_twice_makes_its_answer_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_COMMAND", command("__import__('os').killpg(0, 9)"))
    pool = sandbox._Pool("maths", 1)
    assert pool.check({}) is False
    assert pool._all == []


def test_what_keeps_it_from_starting_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_COMMAND", "raise ImportError('no sympy here')")
    with pytest.raises(SpectraError, match="did not start .*no sympy here"):
        sandbox._Process("maths")


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"needs math-verify; pip install 'spectra-rlvr\[train\]'"):
        sandbox.Sandbox().check("maths", {"gold": "62", "content": "62.0"})


def test_a_forked_child_has_a_sandbox_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    own = sandbox._sandbox()
    assert sandbox._sandbox() is own
    monkeypatch.setattr(sandbox, "_OWN", [own])
    monkeypatch.setattr(os, "getpid", lambda: own.owner + 1)
    assert sandbox._sandbox() is not own
    own.end()  # what the child inherits of its parent's exit functions
    monkeypatch.undo()
    assert own.check("maths", {"gold": "62", "content": "62.0"})


def test_many_answers_are_spread_over_threads_and_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_most_processes", lambda: 3)
    threads: set[int] = set()
    assert parallel_map(lambda n: threads.add(threading.get_ident()) or n % 3 == 0, range(200)) == [
        n % 3 == 0 for n in range(200)
    ]
    assert threading.get_ident() not in threads
    threads.clear()
    parallel_map(lambda n: threads.add(threading.get_ident()) is None, range(10))
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
        "print(v._sandbox()._pool('maths')._all[0]._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    deadline = time.monotonic() + 10
    while alive(int(done.stdout)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(int(done.stdout))


def served_by(monkeypatch: pytest.MonkeyPatch, work: str) -> sandbox._Process:
    """Start a process whose check is to do ``work``."""
    monkeypatch.setattr(sandbox, "_COMMAND", command(work))
    return sandbox._Process("maths")


COMMAND = sandbox._COMMAND
SHORT = "worker.sandbox.CLOCK_SECONDS = 0.2"


def command(work: str) -> str:
    check = f"worker.CHECKS = {{**worker.CHECKS, 'maths': lambda: {work}}}; worker.main()"
    return COMMAND.replace("worker.main()", check)


def processor_seconds(process: sandbox._Process) -> float:
    """Return the processor time of a checking process: its own, and that of its copies, ended or not."""
    pid = process._process.pid
    copies = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = sum(sum(map(int, fields(int(copy))[11:13])) for copy in copies) + sum(map(int, fields(pid)[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def fields(pid: int) -> list[str]:
    """Return what the kernel tells of a process after its name."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def peak(process: sandbox._Process) -> int:
    """Return the peak resident memory, in bytes, of the copies that a process serves with now."""
    pid = process._process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    lines = "".join(Path(f"/proc/{child}/status").read_text() for child in [str(pid), *children]).splitlines()
    return max(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def alive(pid: int) -> bool:
    """Return whether a process runs; one that nobody waits for is a zombie, and does not."""
    try:
        state = fields(pid)[0]
    except FileNotFoundError:
        return False
    return state != "Z"
