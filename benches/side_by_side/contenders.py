"""Who is measured: the files each contender needs, its command, and what it must answer.

Everything is written anew into one folder for each run; ports are free ones."""

import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import urllib.parse

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MERCHANTS = 1_000
KEYS = {str(100000000000001 + n): hashlib.md5(b"merchant %d" % n).hexdigest() for n in range(MERCHANTS)}
MERID, ORDERID = "100000000000001", "ORD2017030100000001"
QUERY = f'{{"merid":"{MERID}","orderid":"{ORDERID}"}}'
PLAIN = json.dumps(
    {
        "respcode": "00",
        "respmsg": "成功",
        "resultcode": "0000",
        "resultmsg": "交易成功",
        "queryid": "2017030112345678901234",
        "txnamt": 1280,
        "merid": MERID,
        "orderid": ORDERID,
        "paytime": "2017-03-01 12:00:05",
    },
    separators=(",", ":"),
    ensure_ascii=False,
)


def signed_answer():
    text = base64.b64encode(PLAIN.encode()).decode()
    sign = hashlib.md5((text + KEYS[MERID]).encode()).hexdigest()
    return urllib.parse.urlencode({"resp": text, "sign": sign})


ANSWER = signed_answer()


def free_ports(count):
    """Below those that the kernel gives to outgoing connections, of which there will be many."""
    found = []
    for port in range(18_000, 32_000):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"no {count} free ports below 32000")


@dataclasses.dataclass(eq=False)
class Contender:
    """A program that takes calls. `left_out` says why it cannot be started here, where it cannot."""

    name: str
    does: str  # "hop" or "whole job"
    port: int
    command: list
    left_out: str = ""
    environment: dict = dataclasses.field(default_factory=dict)

    @property
    def answer(self):
        """What it must answer to the query: a hop brings the platform's own words."""
        return ANSWER if self.does == "hop" else PLAIN

    @property
    def file_name(self):
        return re.sub(r"[^a-z]+", "-", self.name.lower()).strip("-")


class Field:
    """The folder of one run, and the contenders and the platform in it."""

    def __init__(self, folder, countersign):
        self.folder = pathlib.Path(folder)
        self.countersign = pathlib.Path(countersign)
        self.platform_port, *self.ports = free_ports(16)
        (self.folder / "keys.json").write_text(json.dumps(KEYS))
        pairs = "".join(f'["{merid}"]="{key}",\n' for merid, key in KEYS.items())
        (self.folder / "keys.lua").write_text(f"return {{\n{pairs}}}\n")
        self.write("signing.lua")
        self.load = self.write("wrk.lua", QUERY=QUERY)

    def write(self, template, to=None, **values):
        """A file of ours with its placeholders filled in."""
        text = (HERE / template).read_text()
        for name, value in {"RUN": self.folder, "PLATFORM": self.platform_port, **values}.items():
            text = text.replace(f"@{name}@", str(value))
        path = self.folder / (to or template)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def platform(self):
        conf = self.write("platform.conf", ANSWER=ANSWER)
        return Contender("platform", "hop", self.platform_port, ["nginx", "-c", conf], missing("nginx"))

    def all(self, threads):
        """Every contender with this many threads, the measure of all first."""
        ports = iter(self.ports)
        return [
            self.nginx("nginx", "hop", "nginx_hop.conf", next(ports), threads),
            self.nginx("nginx+Lua", "whole job", "nginx_lua.conf", next(ports), threads, missing_lua()),
            self.haproxy(next(ports), threads),
            self.go(next(ports), threads),
            self.sidecar("Countersign", "info", [next(ports) for _ in range(3)], threads),
            self.sidecar("Countersign (log: warn)", "warn", [next(ports) for _ in range(3)], threads),
        ]

    def nginx(self, name, does, template, port, threads, lacks=""):
        conf = self.write(template, PORT=port, THREADS=threads)
        return Contender(name, does, port, ["nginx", "-c", conf], missing("nginx") or lacks)

    def haproxy(self, port, threads):
        conf = self.write("haproxy.cfg", PORT=port, THREADS=threads)
        return Contender("HAProxy", "hop", port, ["haproxy", "-db", "-f", conf], missing("haproxy"))

    def go(self, port, threads):
        binary = self.folder / "go-whole-job"
        left_out = missing("go") or ("" if binary.exists() else self.build_go(binary))
        command = [binary, f"127.0.0.1:{port}", f"http://127.0.0.1:{self.platform_port}", self.folder / "keys.json"]
        return Contender("Go net/http", "whole job", port, command, left_out, {"GOMAXPROCS": str(threads)})

    def build_go(self, binary):
        environment = {**os.environ, "GOTOOLCHAIN": "local"}
        built = subprocess.run(
            ["go", "build", "-o", binary, "."], cwd=HERE / "go", env=environment, capture_output=True, text=True
        )
        return f"go could not build it: {built.stderr.strip()[:200]}" if built.returncode else ""

    def sidecar(self, name, level, ports, threads):
        port, callbacks, admin = ports
        # A folder of its own: it watches the merchants' one, and would be told of each line of a log in it.
        home = f"countersign-{level}"
        path = self.write(
            "countersign.toml", f"{home}/countersign.toml", PORT=port, CALLBACKS=callbacks, ADMIN=admin, LEVEL=level
        )
        tables = (f'[[merchant]]\nmerid = "{merid}"\nkey = "{key}"\n' for merid, key in KEYS.items())
        path.with_name("merchants.toml").write_text("".join(tables))
        left_out = "" if self.countersign.exists() else f"{self.countersign} is not there: cargo build --release"
        command = [self.countersign, "run", "-c", path]
        return Contender(name, "whole job", port, command, left_out, {"COUNTERSIGN_THREADS": str(threads)})


def missing(program):
    return "" if shutil.which(program) else f"no {program} found"


def missing_lua():
    """nginx says where it looks for modules: below its prefix, or at its modules path."""
    if missing("nginx"):
        return missing("nginx")
    said = subprocess.run(["nginx", "-V"], capture_output=True, text=True).stderr.split()
    prefixes = [word.partition("=")[2] for word in said if word.startswith("--prefix=")]
    there = any((pathlib.Path(prefix) / "modules/ngx_http_lua_module.so").exists() for prefix in prefixes)
    return "" if there else "nginx has no Lua module (libnginx-mod-http-lua, lua-cjson)"
