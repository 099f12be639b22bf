"""A pod that runs: the chart's pod under podman, beside an application, with no network, and what a kubelet does to it.

The image is `make image`'s, or the one that TEST_IMAGE names. Podman must run as root, as a node's runtime does.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import keys
from tests.e2e.pods import MODEL, MODELS
from tests.faults.log_check import broken_chain, check_store, every_event, rounds
from tests.k8s import chat, kubelet
from tests.k8s.apiserver import ApiServer
from tests.k8s.test_admission import in_force, render
from tests.servers import Postgres, Redis

pytestmark = [pytest.mark.needs("podman", "helm4"), pytest.mark.usefixtures("pods"), pytest.mark.timeout(180)]

DRAIN_S = 2.0
"""Drained in 1.5 s and gone: a sidecar's process must end in what Kubernetes gives it."""

ERASE = """
import asyncio, standpipe
from standpipe.turn import user
async def main():
    async with standpipe.connect() as client:
        session = client.session("long", subject="ben")
        for version in range(80):
            await session.commit([user("forget me " * 5000)], expected_version=version)
        print((await client.memory("ben").erase(deadline_ms=60000)).ByteSize())
asyncio.run(main())
"""
"""SQLite writes its whole file anew, for which it needs a place for a second one (P11)."""


def acknowledged(pod: kubelet.Pod) -> dict[str, list[tuple[int, str, str]]]:
    """Return what the application was told of: of every session the versions, request ids and hashes, in order."""
    found: dict[str, list[tuple[int, str, str]]] = {}
    for line in pod["chat"].records():
        if "acknowledged" in line:
            session, *event = line["acknowledged"]
            found.setdefault(session, []).append(tuple(event))
    return found


def count(pod: kubelet.Pod) -> int:
    """Return how many commits the application was told of."""
    return sum(map(len, acknowledged(pod).values()))


def more(pod: kubelet.Pod, commits: int = 5, *, seconds: float = 60) -> None:
    """Wait until so many more commits were acknowledged."""
    before = count(pod)
    pod.wait(lambda: count(pod) >= before + commits, seconds=seconds)


def audit(pod: kubelet.Pod, record: Path | str) -> int:
    """Check that every acknowledged commit is in the log, once and in its place (P1, P3); return how many there are.

    A session's log may be one commit longer: the one that was in flight when the application ended.
    """
    events = every_event(record)
    told = acknowledged(pod)
    assert told
    for session, commits in told.items():
        rows = events["acme", session]
        assert not broken_chain(rows), session
        log = [(row.version, row.request_id, row.event_hash.hex()) for row in rows]
        assert log[: len(commits)] == commits, session
        assert len(log) <= len(commits) + 1, session
        assert len({request for _, request, _ in log}) == len(log), session
    return sum(map(len, told.values()))


def drained(pod: kubelet.Pod) -> list[float]:
    """Return how long the sidecar took, by its own log, from each SIGTERM to its end."""
    lines = pod["standpipe"].records()
    ends = [line["at"] for line in lines if line["event"] == "stopped"]
    asked = [line["at"] for line in lines if line["event"] == "draining"]
    return [end - at for at, end in zip(asked, ends, strict=True)]


def test_the_application_hydrates_and_commits(figure: Callable[[str], None]) -> None:
    """The pod as rendered, with its model: the application starts when it may, and talks through the socket alone."""
    manifest = chat.on_sqlite(chat.talking(chat.template()))
    with kubelet.Pod(manifest, chat.objects(embedder=MODEL)) as pod:
        pod.wait_ready()
        more(pod, 20)
        sidecar, application = pod["standpipe"], pod["chat"]
        (started,) = (line for line in sidecar.records() if line["event"] == "started")
        assert application.starts[0] > started["at"], "the application started before the sidecar could serve"
        assert started["provider"] == "CPUExecutionProvider"
        (begun,) = (line for line in application.records() if "begun" in line)
        socket = pod.volumes.paths["standpipe-socket"] / "standpipe.sock"
        assert (begun["uid"], socket.stat().st_uid, socket.stat().st_gid) == (1000, 10001, 10001)
        assert socket.stat().st_mode & 0o777 == 0o660
        for process in sidecar.processes():
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
            assert status["Uid"].split() == ["10001"] * 4
            assert (int(status["CapBnd"], 16), status["NoNewPrivs"], status["Seccomp"]) == (0, "1", "2")
        assert pod.get("/readyz", 7461) == (200, "ok\n")
        status_code, page = pod.get("/metrics", 7461)
        assert (status_code, "standpipe_hydrate" in page) == (200, True)
        with pytest.raises(ConnectionRefusedError):
            pod.get("/", 7460)  # gRPC is at the loopback, and never at the pod's address
        erased = kubelet.podman("exec", application.id, "python", "-c", ERASE)
        assert int(erased) > 0, "with no directory to write to but the record store's"
        figure(f"pod: {started['seconds']} s from the sidecar's first step to its start with its own embedder")
        record = pod.volumes.paths["standpipe-data"] / "record.db"
        pod.stop()
        assert (sidecar.exits, application.exits) == ([0], [0])
        assert len(sidecar.starts) == len(application.starts) == 1
        audit(pod, record)
        check_store(record)


def test_sigterm_in_the_middle_of_commits(figure: Callable[[str], None]) -> None:
    """Sidecars that are told to end while commits are in flight lose none, count none twice, and end soon (P1, P3)."""
    manifest = chat.on_sqlite(chat.talking(chat.template(), writers=16, pause_ms=0))
    with kubelet.Pod(manifest, chat.objects()) as pod:
        pod.wait_ready()
        sidecar = pod["standpipe"]
        for number in range(1, rounds(3) + 1):
            more(pod, 40)
            sidecar.send(signal.SIGTERM)
            pod.wait(lambda number=number: len(sidecar.starts) > number)
            pod.wait(lambda: sidecar.started)
        more(pod, 40)
        record = pod.volumes.paths["standpipe-data"] / "record.db"
        pod.stop()
        assert sidecar.exits == [0] * (rounds(3) + 1), pod.described()
        assert pod["chat"].exits == [0]
        assert max(drained(pod)) < DRAIN_S
        total = audit(pod, record)
        check_store(record)
        lines = pod["chat"].records()
        refused = Counter(line["code"] for line in lines if "refused" in line)
        assert set(refused) <= {"UNAVAILABLE"}, refused
        figure(
            f"pod: {rounds(3) + 1} SIGTERMs among {total} commits: none lost or doubled, "
            f"{sum(line.get('replayed', False) for line in lines)} answered again, {sum(refused.values())} calls "
            f"refused, drained in at most {max(drained(pod)):.2f} s"
        )


def test_a_sidecar_that_was_killed_comes_back_under_its_clients() -> None:
    """After kill -9 the next process takes the socket's place, and the application's client carries on (P1, P4)."""
    manifest = chat.on_sqlite(chat.talking(chat.template(), writers=4))
    with kubelet.Pod(manifest, chat.objects()) as pod:
        pod.wait_ready()
        for number in (1, 2):
            more(pod, 10)
            pod["standpipe"].send(signal.SIGKILL)
            pod.wait(lambda number=number: len(pod["standpipe"].starts) > number)
            more(pod, 10)
        assert pod["standpipe"].exits == [137, 137]
        assert (len(pod["chat"].starts), pod["chat"].exits) == (1, [])
        assert [line for line in pod["chat"].records() if "begun" in line][1:] == []
        pod.stop()
        audit(pod, pod.volumes.paths["standpipe-data"] / "record.db")


def test_a_broken_model_never_starts_the_pod(tmp_path: Path) -> None:
    """The application waits for a sidecar that refuses its model, and the sidecar's log says why."""
    models = shutil.copytree(
        MODELS, tmp_path / "models", ignore=shutil.ignore_patterns("model.fp16.onnx", "model.onnx")
    )
    (models / MODEL / "model.int8.onnx").write_bytes(b"no model")
    tmp_path.chmod(0o755)
    manifest = chat.on_sqlite(chat.talking(chat.template()))
    chat.mounted(manifest, "standpipe", {"hostPath": {"path": str(models)}}, "/models")
    with kubelet.Pod(manifest, chat.objects(embedder=MODEL)) as pod:
        pod.wait(lambda: len(pod["standpipe"].exits) >= 2)
        assert set(pod["standpipe"].exits) == {2}, pod.described()
        assert any("model.int8.onnx" in line for line in pod["standpipe"].logs()), pod.described()
        assert not pod.ready
        assert pod["chat"].starts == []


def test_a_stuck_sidecar_is_restarted() -> None:
    """Liveness fails where nothing answers, and the next process serves; here each second, in place of each tenth."""
    manifest = chat.on_sqlite(chat.talking(chat.template()))
    probe = chat.container(manifest, "standpipe")["livenessProbe"]
    assert (probe["httpGet"]["path"], probe["periodSeconds"]) == ("/livez", 10)
    probe |= {"periodSeconds": 1, "timeoutSeconds": 1, "terminationGracePeriodSeconds": 1}
    with kubelet.Pod(manifest, chat.objects()) as pod:
        pod.wait_ready()
        more(pod)
        pod["standpipe"].send(signal.SIGSTOP)
        pod.wait(lambda: len(pod["standpipe"].starts) == 2)
        more(pod)
        assert pod["standpipe"].events == ["liveness probe failed", "killed after its grace"]
        assert (pod["standpipe"].exits, pod["chat"].exits) == ([137], [])
        pod.stop()
        audit(pod, pod.volumes.paths["standpipe-data"] / "record.db")


def test_who_is_not_of_the_group_cannot_open_the_socket() -> None:
    """Where a pod does not give its processes the socket's group, they are denied: the socket's mode guards it."""
    manifest = chat.on_sqlite(chat.template())
    del manifest["spec"]["securityContext"]["supplementalGroups"]
    code = "import socket; print(socket.socket(socket.AF_UNIX).connect_ex('/run/standpipe/standpipe.sock'))"
    chat.container(manifest, "chat")["command"] = ["python", "-c", code]
    manifest["spec"]["restartPolicy"] = "Never"
    with kubelet.Pod(manifest, chat.objects()) as pod:
        pod.wait(lambda: pod["chat"].ended)
        assert pod["chat"].logs() == ["13"], pod.described()
        assert pod["standpipe"].started


def test_tokens_change_under_calls() -> None:
    """A kubelet swaps the token's files on both sides, one after the other: no call fails, and the old one ends."""
    first, second, third = ((letter * 43) for letter in "abc")
    manifest = chat.on_sqlite(chat.talking(chat.template(), writers=4))
    chat.mounted(manifest, "chat", {"secret": {"secretName": "token"}}, "/token")
    chat.container(manifest, "chat")["env"].append({"name": "STANDPIPE_TOKEN_FILE", "value": "/token/token"})
    files = chat.files_of(manifest)
    objects = [
        *chat.objects(auth_token_file="/etc/standpipe/auth/tokens"),
        chat.secret(files, tokens=f"{first}\n"),
        chat.secret("token", token=first),
    ]
    with kubelet.Pod(manifest, objects) as pod:

        def accepts(*tokens: str) -> None:
            before = taken_up()
            pod.change(chat.secret(files, tokens="".join(f"{one}\n" for one in tokens)))
            pod.wait(lambda: taken_up() > before)
            more(pod)

        def taken_up() -> int:
            return sum(line["event"] == "changed files taken up" for line in pod["standpipe"].records())

        def unauthenticated() -> bool:
            return any(line.get("code") == "UNAUTHENTICATED" for line in pod["chat"].records())

        pod.wait_ready()
        more(pod)
        accepts(second, first)
        pod.change(chat.secret("token", token=second))
        more(pod, 20)
        accepts(second)
        assert not unauthenticated(), pod.described()
        pod.change(chat.secret("token", token=third))
        pod.wait(unauthenticated)
        accepts(third)
        pod.stop()
        audit(pod, pod.volumes.paths["standpipe-data"] / "record.db")


@pytest.mark.needs("etcd", "kube-apiserver")
def test_from_a_label_to_a_running_pod() -> None:
    """A Deployment's pod with the label alone becomes, by a real API server's admission, a pod that runs and talks."""
    settings = {"tenant": "acme", "embedder": "none"}
    injected = {"enabled": True, "namespaces": [{"name": "chat", "image": chat.IMAGE, "settings": settings}]}
    with ApiServer() as api:
        api.namespace("chat", {"pod-security.kubernetes.io/enforce": "restricted"})
        manifests = render({"injection": injected})
        for manifest in manifests:
            api.apply(manifest)
        in_force(api)
        deployment = api.create(chat.labelled("chat"))
        # A ReplicaSet's controller does this; the API server has none.
        pod = {"apiVersion": "v1", "kind": "Pod", **deployment["spec"]["template"]}
        pod["metadata"] |= {"name": "chat-0", "namespace": "chat"}
        admitted = api.create(pod)
    assert chat.container(admitted, "standpipe")["restartPolicy"] == "Always"
    objects = [
        *(one for one in manifests if one["kind"] == "ConfigMap"),
        *(one for one in chat.objects() if one["metadata"]["name"] == "application"),
        chat.secret("standpipe", record="sqlite:/data/record.db", hot="memory", **{"standpipe.keys": keys.LINE}),
    ]
    with kubelet.Pod(chat.on_sqlite(admitted), objects) as running:
        running.wait_ready()
        more(running, 20)
        running.stop()
        assert (running["standpipe"].exits, running["chat"].exits) == ([0], [0])
        audit(running, running.volumes.paths["standpipe-data"] / "record.db")


# --- with real stores --------------------------------------------------------------------------------------------


@pytest.fixture
def stores() -> Iterator[tuple[Postgres, Redis]]:
    """PostgreSQL and Redis on this host; a pod reaches them through the sockets in their directories."""
    with Postgres(durable=True) as postgres, Redis(unixsocketperm="777") as redis:
        for one in (postgres, redis):
            one.directory.chmod(0o755)
        yield postgres, redis


def test_readiness_does_not_depend_on_the_stores(stores: tuple[Postgres, Redis]) -> None:
    """On PostgreSQL and Redis: while both are away the pod stays ready and calls say so; then all goes on (P1, P12)."""
    postgres, _ = stores
    database = postgres.create_database()
    record = f"postgresql://postgres@/{database}?host=/stores/postgres&port={postgres.port}"
    manifest = chat.talking(chat.template(), writers=4)
    chat.container(manifest, "standpipe")["readinessProbe"] |= {"periodSeconds": 1}
    for one in stores:
        chat.mounted(manifest, "standpipe", {"hostPath": {"path": str(one.directory)}}, f"/stores/{one.kind}")
    objects = chat.objects(record=record, hot="redis+unix:///stores/redis/socket", record_migrate=True)
    with kubelet.Pod(manifest, objects) as pod:
        pod.wait_ready()
        more(pod, 20)
        for one in stores:
            one.stop()
        refused = sum(line.get("refused") == "STORE_UNAVAILABLE" for line in pod["chat"].records())
        give_up = time.monotonic() + 5  # five times the period in which readiness would fail
        while time.monotonic() < give_up:
            assert pod.ready, pod.described()
            time.sleep(0.1)
        pod.wait(lambda: sum(line.get("refused") == "STORE_UNAVAILABLE" for line in pod["chat"].records()) > refused)
        for one in stores:
            one.start()
        more(pod, 20)
        assert pod.ready
        assert len(pod["standpipe"].starts) == len(pod["chat"].starts) == 1
        pod.stop()
        assert (pod["standpipe"].exits, pod["chat"].exits) == ([0], [0])
        assert max(drained(pod)) < DRAIN_S
        audit(pod, postgres.dsn(database))
