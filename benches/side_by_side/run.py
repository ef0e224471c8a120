#!/usr/bin/env python3
"""Countersign beside other programs on the same job, on this machine: a JSON query in, a signed form out, a verified
answer back, plain JSON home.

The table goes to standard output as Markdown, the plot to a file. A contender's processor time of a call is divided by
that of nginx merely passing the call on, round by round; the median of these ratios is what counts.

Each contender has core 0 and one worker; the load (wrk) and the stand-in platform (an nginx) have core 1. With
--threads 2 a contender has cores 0 and 1 and as many workers; where the machine has no more cores, the load has to share
them, and the processor time says more than the calls a second. Rounds alternate in direction. Before anything is
measured, each must have given the right answer.

Needs, as Debian packages: nginx libnginx-mod-http-lua lua-cjson haproxy wrk strace; and go on the PATH. What is missing
is left out, and the output says so. Only nginx and wrk are indispensable.
Environment: COUNTERSIGN names our binary (default: target/release/countersign; cargo build --release)."""

import argparse
import contextlib
import http.client
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time

import contenders
import measure
import plot

WARM_UP_S = 1
SYSTEM_CALLS_S = 2


def arguments():
    numbers = lambda text: [int(number) for number in text.split(",")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--seconds", type=int, default=6, help="of each contender in each round (default: 6)")
    parser.add_argument("--connections", type=numbers, default=[32, 256], metavar="N,…", help="default: 32,256")
    parser.add_argument("--threads", type=numbers, default=[1], metavar="N,…", help="workers, e.g. 1,2 (default: 1)")
    parser.add_argument("--only", metavar="NAME,…", help="these contenders and nginx; the names are those of the table")
    parser.add_argument("--no-system-calls", action="store_true", help="leave strace out")
    parser.add_argument("--plot", type=pathlib.Path, metavar="FILE", help="write the plot of the first threads there")
    return parser.parse_args()


def main():
    wanted = arguments()
    for program in ["nginx", "wrk", "taskset"]:
        if not shutil.which(program):
            sys.exit(f"no {program} found: nothing can be measured without it; --help says what to install")
    if os.cpu_count() < 2:
        sys.exit("one core: the load needs another than the contender's")
    with tempfile.TemporaryDirectory(prefix="side-by-side-") as folder:
        # nginx' workers give their rights away where root starts it.
        os.chmod(folder, 0o755)
        binary = os.environ.get("COUNTERSIGN", contenders.ROOT / "target/release/countersign")
        field = contenders.Field(folder, binary)
        describe_machine(field.countersign)
        with measure.Running(field.platform(), str(measured_cores(1)[1]), folder):
            results = [compare(field, threads, wanted) for threads in wanted.threads]
    if len(results) > 1:
        show_scaling(wanted.threads, results, wanted.connections)
    if wanted.plot:
        wanted.plot.write_text(draw(results[0]))


def describe_machine(countersign):
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    load = pathlib.Path("/proc/loadavg").read_text().split()[0]
    model = cpu[1] if cpu else platform.machine()
    print(f"{os.cpu_count()} cores, {model}, Linux {platform.release()}, load average {load} before.")
    said = []
    for command in [[countersign, "--version"], ["nginx", "-v"], ["haproxy", "-v"], ["go", "version"]]:
        if shutil.which(command[0]):
            shown = subprocess.run(command, capture_output=True, text=True)
            said.append((shown.stdout + shown.stderr).splitlines()[0].strip())
            if command[0] == countersign:
                said[-1] += time.strftime(" (built %Y-%m-%d %H:%M)", time.localtime(countersign.stat().st_mtime))
    print("; ".join(said) + ".\n", flush=True)


def measured_cores(threads):
    """The contender's cores, and those of the load and the platform: others where there are any."""
    most = os.cpu_count()
    threads = min(threads, most)
    ours = "0" if threads == 1 else f"0-{threads - 1}"
    theirs = "1" if most == 2 or threads == 1 else f"{min(threads, most - 1)}-{most - 1}"
    return ours, theirs


def compare(field, threads, wanted):
    """The table of all contenders with so many workers. Returns the rounds by connections, each by contender."""
    ours, theirs = measured_cores(threads)
    with contextlib.ExitStack() as stack:
        here = []
        for contender in field.all(threads):
            if wanted.only and contender.name not in ["nginx", *wanted.only.split(",")]:
                continue
            if contender.left_out:
                print(f"Left out: {contender.name}: {contender.left_out}.\n")
                continue
            running = stack.enter_context(measure.Running(contender, ours, field.folder))
            check(contender)
            here.append(running)
        time.sleep(WARM_UP_S)
        idle = {running: running.memory_mib() for running in here}
        for running in here:
            measure.load(running, field.load, theirs, wanted.connections[0], WARM_UP_S)
        calls = count_system_calls(here, field, theirs, wanted)
        measured = {}
        for connections in wanted.connections:
            rounds = {running: [] for running in here}
            for number in range(wanted.rounds):
                for running in here if number % 2 == 0 else reversed(here):
                    one = measure.load(running, field.load, theirs, connections, wanted.seconds)
                    rounds[running].append(one)
            show_table(threads, connections, rounds, idle, calls, wanted)
            measured[connections] = {running.contender: rounds[running] for running in here}
        show_system_calls(calls)
    return measured


def check(contender):
    connection = http.client.HTTPConnection("127.0.0.1", contender.port, timeout=measure.PATIENCE_S)
    connection.request("POST", "/api/query", contenders.QUERY, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read().decode(errors="replace")
    connection.close()
    if (response.status, answer) != (200, contender.answer):
        raise measure.NotMeasured(f"{contender.name}: the wrong answer: {response.status} {answer[:200]}")


def count_system_calls(here, field, cores, wanted):
    if wanted.no_system_calls or not shutil.which("strace"):
        print("Left out: system calls: no strace.\n")
        return {}
    connections = wanted.connections[0]
    count = lambda running: measure.system_calls(running, field.load, cores, connections, SYSTEM_CALLS_S, field.folder)
    return {running: count(running) for running in here}


def show_table(threads, connections, rounds, idle, calls, wanted):
    base, *_ = rounds
    workers = "one worker each" if threads == 1 else f"{threads} workers each"
    print(f"**{connections} connections, {workers}**, rounds of {wanted.seconds} s: {wanted.rounds}, medians:\n")
    print(
        "| | does | CPU of a call | × nginx' hop (min..max) | calls/s | p50 | p99 | failed | system calls a call "
        "| idle | after |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    )
    for running, own in rounds.items():
        ratio, least, most = measure.ratios(own, rounds[base], "cpu_us")
        a_call = f"{sum(calls[running].values()):.2f}" if running in calls else ""
        cells = [
            running.contender.name,
            running.contender.does,
            f"{measure.median(own, 'cpu_us'):.1f} µs",
            f"**{ratio:.2f}** ({least:.2f}..{most:.2f})",
            f"{measure.median(own, 'a_second'):,.0f}",
            f"{measure.median(own, 'p50_us') / 1000:.2f} ms",
            f"{measure.median(own, 'p99_us') / 1000:.2f} ms",
            str(sum(one.failed for one in own)),
            a_call,
            f"{idle[running]:.0f} MiB",
            f"{running.memory_mib():.0f} MiB",
        ]
        print(f"| {' | '.join(cells)} |")
    named = {running.contender.name: own for running, own in rounds.items()}
    for name in [name for name in named if name.startswith("Countersign") and "nginx+Lua" in named]:
        ratio, least, most = measure.ratios(named[name], named["nginx+Lua"], "cpu_us")
        print(f"\n{name}, CPU of a call × nginx+Lua: **{ratio:.2f}** ({least:.2f}..{most:.2f})")
    print(flush=True)


def show_system_calls(calls):
    if not calls:
        return
    print("| system calls a call | which |\n|---|---|")
    for running, counts in calls.items():
        which = ", ".join(f"{name} {count:.2f}" for name, count in counts.items() if count >= 0.01)
        print(f"| {running.contender.name} | {which} |")
    print(flush=True)


def show_scaling(threads, results, connections):
    """Each contender beside itself with the first number of threads."""
    shared = "" if max(threads) < os.cpu_count() else " With the most of them the load shares their cores."
    print(f"**Scaling**, each against itself with the first number of workers.{shared}\n")
    print("| | connections | workers | calls/s | × | CPU of a call | × |\n|---|---:|---:|---:|---:|---:|---:|")
    for contender in results[0][connections[0]]:
        for number in connections:
            for count, result in zip(threads, results):
                # Contenders are made anew for each number of threads.
                own = next(rounds for other, rounds in result[number].items() if other.name == contender.name)
                first = results[0][number][contender]
                rate, cpu = measure.median(own, "a_second"), measure.median(own, "cpu_us")
                print(
                    f"| {contender.name} | {number} | {count} | {rate:,.0f} | {rate / measure.median(first, 'a_second'):.2f} "
                    f"| {cpu:.1f} µs | {cpu / measure.median(first, 'cpu_us'):.2f} |"
                )
    print()


def draw(result):
    def row(contender, rounds, base):
        kind = "ours" if contender.name.startswith("Countersign") else contender.does.split()[0]
        return (contender.name, kind, *measure.ratios(rounds, base, "cpu_us"))

    panels = []
    for connections, rounds in result.items():
        base, *_ = rounds.values()
        panels.append((f"{connections} connections", [row(who, own, base) for who, own in rounds.items()]))
    return plot.svg(panels, "nginx")


if __name__ == "__main__":
    try:
        main()
    except measure.NotMeasured as why:
        sys.exit(str(why))
