"""A worker whose study is gone."""

import os
import subprocess
import sys
import time
from pathlib import Path

WORKER = (
    "import time; from spectra.training.studies.worker import leave_with_parent;"
    "leave_with_parent(); print(1, flush=True)"
)
STUDY = (
    "import subprocess, sys;"
    "worker = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE);"
    "worker.stdout.readline(); print(worker.pid, flush=True)"
)


def test_a_worker_ends_with_the_process_that_started_it() -> None:
    command = [sys.executable, "-c", STUDY, f"{WORKER}; time.sleep(10**6)"]
    pid = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    while _runs(pid):  # for ever, were the worker not to end: then pytest's timeout fails the test
        time.sleep(0.1)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that ended and was not waited for is still listed.
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
