"""Measure the image in pods: `make bench-k8s`. Writes build/k8s.json, and prints the README's table.

Sizes; from a process's first instant to /startupz, with the image's files out of the page cache and in it; memory at
rest, after a few hundred calls; processor time at rest; and a hydrate's and a commit's p50 through the socket within a
pod over the same between two processes of the host. Each figure is the median of several pods.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from tests import keys
from tests.e2e.pods import MODEL, MODELS
from tests.faults.log_check import rounds
from tests.k8s import chat, kubelet, tools
from tests.servers import directory, wait_for

PODS = rounds(3)
CALLS = 100
REST_S = 10.0

TALK = """
import asyncio, json, os, statistics, sys, time, standpipe
from standpipe.turn import assistant, user
async def main(calls, name):
    took = {"hydrate": [], "commit": []}
    async with standpipe.connect(os.environ["STANDPIPE_TARGET"]) as client:
        session, version = client.session(name, subject="anna"), 0
        for number in range(calls + 20):
            at = time.perf_counter()
            await session.hydrate()
            hydrated = time.perf_counter()
            done = await session.commit([user(f"Night {number}."), assistant("Lit.")], expected_version=version)
            version = done.version
            if number >= 20:
                took["hydrate"].append(hydrated - at)
                took["commit"].append(time.perf_counter() - hydrated)
    print(json.dumps({one: statistics.median(times) for one, times in took.items()}), flush=True)
asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
"""


# --- the image -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _root() -> Iterator[Path]:
    """Yield the directory that the image's files lie in."""
    at = Path(kubelet.podman("image", "mount", chat.IMAGE))
    try:
        yield at
    finally:
        kubelet.podman("image", "unmount", chat.IMAGE)


def sizes() -> dict[str, Any]:
    """Return the image's bytes: unpacked, as a registry keeps them, and by what fills them."""
    parts: dict[str, int] = {}
    with _root() as root:
        for path in root.rglob("*"):
            if path.is_symlink() or not path.is_file():
                continue
            within = path.relative_to(root)
            part = within.parts[0]
            if "site-packages" in within.parts:
                part = within.parts[within.parts.index("site-packages") + 1].partition("-")[0].removesuffix(".libs")
            elif part != "models":
                part = "Python" if "python3" in str(within) else "system"
            parts[part] = parts.get(part, 0) + path.stat().st_size
    packed = 0
    words = ["podman", "save", "--quiet", "--format", "oci-archive", chat.IMAGE]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as saved:
        assert saved.stdout is not None
        while block := saved.stdout.read(1 << 20):
            packed += len(block)
    largest = dict(sorted(parts.items(), key=lambda part: -part[1])[:9])
    largest["the rest"] = sum(parts.values()) - sum(largest.values())
    return {"unpacked_bytes": sum(parts.values()), "compressed_bytes": packed, "parts_bytes": largest}


def _forget() -> None:
    """Put the image's files out of the page cache."""
    os.sync()
    with _root() as root:
        for path in root.rglob("*"):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# --- pods ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(*args: str, calls: bool = True, shared: Path | None = None, **settings: Any) -> Iterator[kubelet.Pod]:
    """Run the sidecar's container of the chart with other arguments and settings, and an idle application beside it."""
    manifest = chat.on_sqlite(chat.template())
    sidecar, idle = chat.container(manifest, "standpipe"), chat.container(manifest, "chat")
    sidecar["args"] = list(args)
    idle["command"] = ["python", "-c", "import signal; signal.sigwait([signal.SIGTERM])"]
    if shared:
        chat.mounted(manifest, "standpipe", {"hostPath": {"path": str(shared)}}, "/shared")
    if not calls:
        sidecar["env"] = [one for one in sidecar["env"] if one["name"] != "STANDPIPE_LISTEN"]
    with kubelet.Pod(manifest, chat.objects(**settings)) as pod:
        yield pod


def _start(pod: kubelet.Pod) -> dict[str, float]:
    """Return the seconds from the process's first instant to /startupz, and those of processors."""
    sidecar = pod["standpipe"]
    at = 0.0

    def serves() -> bool:
        nonlocal at
        with contextlib.suppress(OSError):
            at = time.time() if pod.get("/startupz", 7461)[0] == 200 else 0.0
        return bool(at)

    pod.wait(serves)
    process = psutil.Process(sidecar.pid)
    return {"start_s": at - process.create_time(), "start_cpu_s": sum(process.cpu_times()[:2])}


def _talk(pod: kubelet.Pod, number: int) -> dict[str, float]:
    """Call from within the application's container; return the p50s in seconds."""
    words = ["exec", pod["chat"].id, "python", "-c", TALK, str(CALLS), f"s-{number}"]
    try:
        return json.loads(kubelet.podman(*words))
    except AssertionError as error:
        raise AssertionError(pod.described()) from error


def _memory(pod: kubelet.Pod) -> dict[str, float]:
    found = {"rss_bytes": 0, "pss_bytes": 0}
    for process in pod["standpipe"].processes():
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        for name in ("Rss", "Pss"):
            found[f"{name.lower()}_bytes"] += (
                int(next(one for one in lines if one.startswith(f"{name}:")).split()[1]) << 10
            )
    return found


def _idle(pod: kubelet.Pod) -> float:
    """Return the cores that it takes at rest."""
    processes = [psutil.Process(one) for one in pod["standpipe"].processes()]
    before = sum(sum(one.cpu_times()[:2]) for one in processes)
    time.sleep(REST_S)
    return (sum(sum(one.cpu_times()[:2]) for one in processes) - before) / REST_S


@contextlib.contextmanager
def on_host() -> Iterator[Callable[[int], dict[str, float]]]:
    """Serve without containers, with the same settings; yield what calls it from another process."""
    at = directory()
    config, socket = at / "config.json", at / "socket"
    config.write_text(
        json.dumps(
            {
                "listen": [f"unix:{socket}"],
                "http": "",
                "record": f"sqlite:{at / 'record.db'}",
                "encryption_keys_file": keys.key_file(),
                "models_dir": str(MODELS),
                "embedder": "none",
            }
        )
    )
    environment = {**os.environ, "STANDPIPE_TARGET": f"unix:{socket}"}
    server = subprocess.Popen([sys.executable, "-m", "tests.e2e.serve", str(config)], stdout=subprocess.DEVNULL)
    try:
        wait_for(socket.exists, "the server is there")
        yield lambda number: json.loads(
            subprocess.run(
                [sys.executable, "-c", TALK, str(CALLS), f"h-{number}"],
                env=environment,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
    finally:
        server.terminate()
        server.wait(30)


# --- figures ---------------------------------------------------------------------------------------------------


def _median(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def starts(**settings: Any) -> dict[str, float]:
    """Return the start's seconds, cold and again, and what it is like at rest then."""
    rows = []
    for number in range(PODS):
        _forget()
        row = {}
        for name in ("cold_start_s", "start_s"):
            with running("serve", **settings) as pod:
                start = _start(pod)
                row[name] = start["start_s"]
                if name == "start_s":
                    row |= start
                    pod.wait_ready()
                    _talk(pod, number)
                    row |= _memory(pod) | {"idle_cores": _idle(pod)}
        rows.append(row)
    return _median(rows)


def shared_embedder() -> dict[str, dict[str, float]]:
    """Return what a slim sidecar and the embedder that it shares are like, in pods that share a socket's volume."""
    slim, embedder = [], []
    for number in range(PODS):
        shared = Path(tempfile.mkdtemp(dir=directory()))
        os.chown(shared, 10001, 10001)
        shared.parent.chmod(0o755)
        address = "unix:/shared/embed.sock"
        with running("embed", calls=False, shared=shared, embedder=MODEL, listen=[address]) as other:
            start = _start(other)
            with running("serve", shared=shared, embedder=MODEL, embedder_address=[address]) as pod:
                slim.append(_start(pod))
                pod.wait_ready()
                _talk(pod, number)
                slim[-1] |= _memory(pod) | {"idle_cores": _idle(pod)}
                embedder.append(start | _memory(other) | {"idle_cores": _idle(other)})
    return {"slim": _median(slim), "embedder": _median(embedder)}


def worker() -> dict[str, float]:
    """Return what a worker is like."""
    rows = []
    for _ in range(PODS):
        with running("work", embedder=MODEL) as pod:
            rows.append(_start(pod) | _memory(pod) | {"idle_cores": _idle(pod)})
    return _median(rows)


def calls() -> dict[str, float]:
    """Return p50s within a pod and on the host, in turns, and their ratios."""
    rows = []
    with running("serve", embedder="none") as pod, on_host() as host:
        pod.wait_ready()
        for number in range(3 * PODS):  # one after the other, so that what else the machine does meets both
            within, without = _talk(pod, number), host(number)
            row = {f"{name}_pod_s": value for name, value in within.items()}
            row |= {f"{name}_host_s": value for name, value in without.items()}
            rows.append(row | {f"{name}_ratio": within[name] / without[name] for name in within})
    return _median(rows)


def _table(found: dict[str, Any]) -> str:
    """Return the README's table."""
    size = found["size"]
    parts = ", ".join(f"{name} {value / 1e6:.0f}" for name, value in size["parts_bytes"].items())
    rows = [
        ("", "start to ready, cold / again", "processor time of it", "memory, PSS / RSS", "at rest"),
        ("---", "---", "---", "---", "---"),
    ]
    names = {
        "own": "sidecar with its own embedder, int8",
        "slim": "sidecar with a shared embedder",
        "embedder": "`standpipe embed`, int8",
        "worker": "`standpipe work`, int8",
    }
    for name, title in names.items():
        one = found[name]
        cold = f"{one['cold_start_s']:.1f} s / " if "cold_start_s" in one else ""
        memory = f"{one['pss_bytes'] / 1e6:.0f} / {one['rss_bytes'] / 1e6:.0f} MB"
        started = f"{cold}{one['start_s']:.1f} s"
        rows.append(
            (title, started, f"{one['start_cpu_s']:.1f} s", memory, f"{one['idle_cores'] * 1000:.0f}m of a core")
        )
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    both = found["calls"]
    return (
        f"Image: {size['compressed_bytes'] / 1e6:.0f} MB compressed, {size['unpacked_bytes'] / 1e6:.0f} MB unpacked "
        f"({parts} MB).\n\n{table}\n\nThrough the socket within the pod over the same on the host: p50 of a hydrate "
        f"{both['hydrate_ratio']:.2f}, of a commit {both['commit_ratio']:.2f}."
    )


def main() -> None:
    """Measure all, write it down, and print it."""
    found: dict[str, Any] = {"image": chat.IMAGE}
    for name, measure in (
        ("size", sizes),
        ("own", lambda: starts(embedder=MODEL)),
        ("shared", shared_embedder),
        ("worker", worker),
        ("calls", calls),
    ):
        at = time.monotonic()
        found[name] = measure()
        print(f"{name}: {time.monotonic() - at:.0f} s", file=sys.stderr, flush=True)
    found |= found.pop("shared")
    out = tools.ROOT / "build"
    out.mkdir(exist_ok=True)
    (out / "k8s.json").write_text(json.dumps(found, indent=2) + "\n")
    print(_table(found))


if __name__ == "__main__":
    main()
