"""Tree: what the processes that a server consists of cost."""

import subprocess
import time

import psutil

MIB = 2**20
SECONDS = 10  # that a server may take to end; MLServer 1.7 sometimes never does


def tree(root: int) -> list[psutil.Process]:
    """Return a process and all that it started."""
    process = psutil.Process(root)
    return [process, *process.children(recursive=True)]


def cpu(root: int) -> float:
    """Return the CPU seconds that the tree has used."""
    times = [process.cpu_times() for process in tree(root)]
    return float(sum(used.user + used.system for used in times))


def memory(root: int) -> float:
    """Return the tree's memory in MiB: PSS, or where that is not known, what is not shared."""
    found = [process.memory_full_info() for process in tree(root)]
    return float(sum(getattr(used, "pss", used.uss) for used in found)) / MIB


def settle(root: int) -> None:
    """Wait until the tree is idle: it may still be at requests that nobody waits for."""
    for _ in range(100):
        before = cpu(root)
        time.sleep(0.1)
        if cpu(root) - before < 0.03:
            return


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    try:
        members = tree(process.pid)
    except psutil.NoSuchProcess:
        members = []
    process.terminate()
    psutil.wait_procs(members, SECONDS)  # the first ends its own
    for member in members:
        if member.is_running():
            member.kill()
    process.wait()
