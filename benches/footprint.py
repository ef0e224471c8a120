#!/usr/bin/env python3
"""Idle memory and time to ready, by number of merchants: benches/footprint.py [N ...]

Starts target/release/countersign (cargo build --release; COUNTERSIGN names another) with N generated merchants, waits
for /readyz, and reads its resident memory from /proc. Five starts each; medians are printed. The loader's
limit of 4 Mi characters that are neither letters nor digits is met at some 240,000 merchants as bare as these."""

import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = os.environ.get("COUNTERSIGN", ROOT / "target/release/countersign")
STARTS = 5


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def write_config(folder, merchants):
    admin = free_port()
    (folder / "countersign.toml").write_text(
        f'[app]\nlisten = ["127.0.0.1:{free_port()}"]\n'
        f'[platform]\nurl = "http://127.0.0.1:1"\n[admin]\nlisten = "127.0.0.1:{admin}"\n'
    )
    (folder / "merchants.toml").write_text(
        "".join(f'[[merchant]]\nmerid = "{n:015}"\nkey = "{n * 7919 + 1:032x}"\n' for n in range(1, merchants + 1))
    )
    return admin


def start(folder, admin):
    """Milliseconds to ready, and KiB of resident memory a second later."""
    began = time.monotonic()
    with open(folder / "log", "w") as log:
        process = subprocess.Popen([BINARY, "run", "-c", folder / "countersign.toml"], stderr=log)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=1)
                break
            except (urllib.error.URLError, ConnectionError):
                if process.poll() is not None or time.monotonic() - began > 30:
                    sys.exit(f"did not start:\n{(folder / 'log').read_text()[:2000]}")
                time.sleep(0.002)
        ready = (time.monotonic() - began) * 1000
        time.sleep(1)
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        return ready, next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    finally:
        process.kill()
        process.wait()


print("| merchants | ready after | resident memory |\n|---:|---:|---:|")
for count in [int(n) for n in sys.argv[1:]] or [1, 1_000, 10_000, 100_000]:
    with tempfile.TemporaryDirectory() as name:
        address = write_config(pathlib.Path(name), count)
        starts = [start(pathlib.Path(name), address) for _ in range(STARTS)]
    ready, memory = (statistics.median(column) for column in zip(*starts))
    print(f"| {count:,} | {ready:.0f} ms | {memory / 1024:.1f} MiB |")
