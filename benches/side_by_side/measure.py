"""Running processes, and what they spend: processor time, memory, system calls, and the load that makes them."""

import dataclasses
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import time

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
# How long a program may take to listen, to take the load's end, and to go.
PATIENCE_S = 20


class NotMeasured(Exception):
    """A program did not do what it was started for; the message says which, and what it said."""


class Running:
    """A contender that runs on given cores, with the processes it has started; ended with the `with` block."""

    def __init__(self, contender, cores, folder):
        self.contender = contender
        self.log = pathlib.Path(folder) / f"{contender.file_name}.stderr"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                ["taskset", "-c", cores, *contender.command],
                env={**os.environ, **contender.environment},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def __enter__(self):
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.contender.port), 1).close()
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    self.__exit__()
                    raise NotMeasured(
                        f"{self.contender.name}: did not listen on port {self.contender.port}: {self.said()}"
                    ) from None
                time.sleep(0.02)

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def said(self):
        return self.log.read_text(errors="replace")[-500:].strip() or "it said nothing"

    def pids(self):
        found = [self.process.pid]
        for pid in found:
            for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        return found

    def cpu_s(self):
        """User and system time of all its processes so far."""
        ticks = 0
        for pid in self.pids():
            # The name, in parentheses, may contain anything.
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS_A_SECOND

    def memory_mib(self):
        """Resident, its own share of what several of its processes have in common."""
        kib = 0
        for pid in self.pids():
            lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            kib += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return kib / 1024


@dataclasses.dataclass
class Round:
    """What one contender did in one round."""

    calls: int
    a_second: float
    failed: int
    p50_us: float
    p99_us: float
    cpu_us: float  # a call


def load(running, script, cores, connections, seconds):
    """One round of wrk."""
    before = running.cpu_s()
    url = f"http://127.0.0.1:{running.contender.port}/api/query"
    said = subprocess.run(
        ["taskset", "-c", cores, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script, url],
        capture_output=True,
        text=True,
        timeout=seconds + PATIENCE_S,
    )
    spent = running.cpu_s() - before
    result = re.search(r"^RESULT (\d+) (\d+) (\d+) (\d+) (\d+)$", said.stdout, re.M)
    if not result or result[1] == "0":
        raise NotMeasured(f"wrk on {running.contender.name}: {(said.stdout + said.stderr).strip()[-500:]}")
    calls, took_us, failed, p50, p99 = map(int, result.groups())
    return Round(calls, calls * 1e6 / took_us, failed, p50, p99, spent * 1e6 / calls)


def system_calls(running, script, cores, connections, seconds, folder):
    """System calls a call, by name, most frequent first."""
    counts = pathlib.Path(folder) / f"{running.contender.file_name}.strace"
    attach = [word for pid in running.pids() for word in ("-p", str(pid))]
    strace = subprocess.Popen(
        ["strace", "-c", "-f", "-U", "name,calls", "-o", counts, *attach], stderr=subprocess.PIPE, text=True
    )
    # It says so once it is attached.
    for line in strace.stderr:
        if "attached" in line:
            break
    calls = load(running, script, cores, connections, seconds).calls
    strace.send_signal(signal.SIGINT)
    strace.communicate(timeout=PATIENCE_S)
    found = re.findall(r"^(\w+)\s+(\d+)$", counts.read_text(), re.M)
    by_name = {name: int(count) / calls for name, count in found if name != "total"}
    return dict(sorted(by_name.items(), key=lambda item: -item[1]))


def median(rounds, figure):
    return statistics.median(getattr(one, figure) for one in rounds)


def ratios(rounds, base, figure):
    """Round by round, so that what disturbs a whole round disturbs both: median, least, most."""
    found = [getattr(ours, figure) / getattr(theirs, figure) for ours, theirs in zip(rounds, base)]
    return statistics.median(found), min(found), max(found)
