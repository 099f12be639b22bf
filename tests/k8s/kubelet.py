"""A kubelet, for one pod at a time: runs a Pod's manifest under podman as a node would, with no cluster and no network.

The containers share one network namespace that has only a loopback, and an address of the pod on it, which probes dial
as a kubelet does. Volumes are files with a kubelet's owners and modes, and change as a kubelet's do: a new directory,
and a link that is swapped. Init containers run in order; one that restarts always is a sidecar, which must have started
before the next begins, and ends after the application has. A field that is not known here is refused: no test may pass
because something was overlooked.

What differs from a node: requests bind nothing, `sizeLimit` binds memory volumes alone, crashed containers come back
after `back_off_s` without doubling, and a pod that may take the host's name or processes is refused.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import fcntl
import functools
import http.client
import itertools
import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.servers import at_the_end, directory, forget_end, wait_for

Manifest = Mapping[str, Any]
ADDRESS = "192.0.2.2"
"""Every pod's own: each has a network namespace to itself."""
_ULIMIT_NOFILE = 1 << 20
"""What podman asks for, and a process without the right to raise its limit cannot give."""
_SIDECAR_GRACE_S = 2.0
"""However long the application took to end, a sidecar has this."""
_FIELDS = {
    "pod": "automountServiceAccountToken containers dnsPolicy enableServiceLinks hostAliases initContainers "
    "nodeSelector preemptionPolicy priority restartPolicy schedulerName securityContext serviceAccount "
    "serviceAccountName terminationGracePeriodSeconds tolerations topologySpreadConstraints volumes",
    "pod's securityContext": "fsGroup fsGroupChangePolicy runAsGroup runAsNonRoot runAsUser seccompProfile "
    "supplementalGroups supplementalGroupsPolicy",
    "container": "args command env envFrom image imagePullPolicy livenessProbe name ports readinessProbe resources "
    "restartPolicy securityContext startupProbe terminationMessagePath terminationMessagePolicy volumeMounts",
    "securityContext": "allowPrivilegeEscalation capabilities readOnlyRootFilesystem runAsGroup runAsNonRoot "
    "runAsUser seccompProfile",
    "probe": "failureThreshold httpGet initialDelaySeconds periodSeconds successThreshold "
    "terminationGracePeriodSeconds timeoutSeconds",
    "volumeMount": "mountPath name readOnly subPath",
}


def _known(what: str, given: Manifest) -> Manifest:
    if unknown := set(given) - set(_FIELDS[what].split()):
        raise NotImplementedError(f"this kubelet does not know {sorted(unknown)} of a {what}")
    return given


@functools.cache
def _environment() -> dict[str, str]:
    """Return podman's environment; where the machine's limits are lower than those that it gives, they are kept."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if files == resource.RLIM_INFINITY or files >= _ULIMIT_NOFILE:
        return dict(os.environ)
    settings = directory() / "containers.conf"
    settings.write_text(f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc=4096:4096"]\n')
    return {**os.environ, "CONTAINERS_CONF": str(settings)}


def podman(*words: str | Path) -> str:
    """Run podman, and return what it wrote; it must succeed."""
    done = subprocess.run(["podman", *words], env=_environment(), capture_output=True, text=True, check=False)
    assert not done.returncode, f"podman {words[0]}: {done.stderr or done.stdout}"
    return done.stdout.strip()


@contextlib.contextmanager
def _within(namespace: str) -> Iterator[None]:
    """Be in another network namespace, this thread alone. A socket stays in the one that it was made in."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as ours, Path(namespace).open() as theirs:
        assert libc.setns(theirs.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert libc.setns(ours.fileno(), 0) == 0, os.strerror(ctypes.get_errno())


@functools.cache
def _image_user(image: str) -> str:
    return podman("image", "inspect", image, "--format", "{{.Config.User}}")


# --- volumes ---------------------------------------------------------------------------------------------------


class _Volumes:
    """A pod's volumes as directories of the host."""

    def __init__(self, pod: Pod) -> None:
        self._pod, self._root = pod, pod.directory / "volumes"
        self._writes = itertools.count(1)
        self.paths: dict[str, Path] = {}
        for volume in pod.spec.get("volumes", []):
            self.paths[volume["name"]] = self._make(volume)

    def _make(self, volume: Manifest) -> Path:
        (kind,) = set(volume) - {"name"}
        spec, path = volume[kind], self._root / volume["name"]
        if kind == "hostPath":
            return Path(spec["path"])
        if kind == "persistentVolumeClaim":
            path = self._pod.claims[spec["claimName"]]
        path.mkdir(parents=True, exist_ok=True)
        if kind == "emptyDir" and spec.get("medium") == "Memory":
            size = f"size={_bytes(spec['sizeLimit'])}," if "sizeLimit" in spec else ""
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"{size}nosuid,nodev", "tmpfs", path], check=True)
            at_the_end("umount", str(path))
        if kind in {"emptyDir", "persistentVolumeClaim"}:
            path.chmod(0o777 if kind == "emptyDir" else 0o755)
            if (group := self._pod.security.get("fsGroup")) is not None:
                os.chown(path, -1, group)
                path.chmod(0o2777 if kind == "emptyDir" else 0o2775)
        else:
            self._write(path, kind, spec)
        return path

    def refresh(self) -> None:
        """Write anew what came of objects and tokens that have changed since, as a kubelet does within a minute."""
        for volume in self._pod.spec.get("volumes", []):
            for kind in {"configMap", "secret", "projected", "downwardAPI"} & set(volume):
                self._write(self.paths[volume["name"]], kind, volume[kind])

    def _write(self, path: Path, kind: str, spec: Manifest) -> None:
        """Write a volume's files into a directory of their own, and point `..data` there in one step."""
        mode = spec.get("defaultMode", 0o644)
        sources = spec["sources"] if kind == "projected" else [{kind: spec}]
        files = dict(itertools.chain.from_iterable(self._source(source, mode) for source in sources))
        group = self._pod.security.get("fsGroup")
        new = path / f"..{next(self._writes)}"
        for name, (content, file_mode, owner) in files.items():
            file = new / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            os.chown(file, owner, -1 if group is None else group)
            file.chmod(file_mode if group is None else file_mode | 0o440)
        new.mkdir(exist_ok=True)
        for folder in (path, new, *(one for one in new.rglob("*") if one.is_dir())):
            folder.chmod(0o755 if group is None else 0o2775)
            os.chown(folder, -1, -1 if group is None else group)
        data, swap = path / "..data", path / "..data_tmp"
        old = data.resolve() if data.is_symlink() else None
        swap.symlink_to(new.name)
        swap.replace(data)
        for top in {Path(name).parts[0] for name in files}:
            if not (path / top).is_symlink():
                (path / top).symlink_to(Path("..data") / top)
        if old is not None:
            shutil.rmtree(old)

    def _source(self, source: Manifest, mode: int) -> Iterator[tuple[str, tuple[bytes, int, int]]]:
        """Yield a source's files: each with its content, mode and owner."""
        (kind,) = source
        spec = source[kind]
        if kind == "serviceAccountToken":
            users = {self._pod.user(one)[0] for one in self._pod.containers}
            (owner,) = users if len(users) == 1 and None not in users else {None}
            alone = owner is not None or self._pod.security.get("fsGroup") is not None
            token = self._pod.token(spec.get("audience", ""))
            yield spec["path"], (token.encode(), 0o600 if alone else mode, -1 if owner is None else owner)
        elif kind == "downwardAPI":
            for item in spec["items"]:
                yield (
                    item["path"],
                    (self._pod.field(item["fieldRef"]["fieldPath"]).encode(), item.get("mode", mode), -1),
                )
        else:
            name = spec.get("name") or spec["secretName"]
            data = self._pod.data({"configMap": "ConfigMap", "secret": "Secret"}[kind], name, spec.get("optional"))
            items = spec.get("items", [{"key": key, "path": key} for key in data])
            for item in items:
                if item["key"] in data:
                    yield item["path"], (data[item["key"]], item.get("mode", mode), -1)
                elif not spec.get("optional"):
                    raise LookupError(f"{name} has no key {item['key']}")


def _bytes(quantity: str | int) -> int:
    number, unit = re.fullmatch(r"(\d+)(|[KMG]i?)", str(quantity)).groups()  # type: ignore[union-attr]
    return int(number) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}[unit]


def _cores(quantity: str | int) -> float:
    text = str(quantity)
    return int(text[:-1]) / 1000 if text.endswith("m") else float(text)


# --- containers ------------------------------------------------------------------------------------------------


class Container:
    """One container of a pod, from its first start to its last end: a thread starts it, probes it and restarts it."""

    def __init__(self, pod: Pod, spec: Manifest, *, init: bool) -> None:
        self.pod, self.spec, self.init, self.name = pod, _known("container", spec), init, spec["name"]
        self.sidecar = init and spec.get("restartPolicy") == "Always"
        self.security = _known("securityContext", spec.get("securityContext", {}))
        self.probes = {
            kind: _known("probe", spec[f"{kind}Probe"])
            for kind in ("startup", "readiness", "liveness")
            if f"{kind}Probe" in spec
        }
        self.id = ""
        self.pid = 0
        self.started = self.ready = self.ended = False
        self.starts: list[float] = []
        self.exits: list[int] = []
        """The exit codes of its runs so far; 137 for one that was killed."""
        self.events: list[str] = []
        """What a kubelet would have said of it, such as that a probe failed."""
        self._thread = threading.Thread(target=self._keep, name=self.name, daemon=True)
        self._stopping = threading.Event()
        self._fd = -1
        self._lines: list[str] = []
        self._read, self._part = (0, 0), ""

    def begin(self) -> None:
        """Start it, and let its thread look after it."""
        self._thread.start()

    def logs(self) -> list[str]:
        """Return the lines that it wrote, in all of its runs."""
        for number in range(self._read[0], len(self.starts)):
            log = self.pod.directory / f"{self.name}-{number}.log"
            with contextlib.suppress(FileNotFoundError), log.open(errors="replace", newline="") as file:
                file.seek(self._read[1] if number == self._read[0] else 0)
                while (line := file.readline()).endswith("\n"):
                    self._read = (number, file.tell())
                    _, _, whole, text = line.rstrip("\n").split(" ", 3)
                    self._part += text
                    if whole == "F":
                        self._lines.append(self._part)
                        self._part = ""
        return self._lines

    def records(self) -> list[dict[str, Any]]:
        """Return the lines that are JSON objects, parsed."""
        return [json.loads(line) for line in self.logs() if line.startswith("{") and line.endswith("}")]

    def send(self, number: int) -> None:
        """Send its first process a signal, as `kubectl exec -- kill` would."""
        signal.pidfd_send_signal(self._fd, number)

    def stop(self, grace_s: float) -> None:
        """SIGTERM, then SIGKILL when the grace is over; it is not started again."""
        self._stopping.set()
        self._terminate(grace_s)
        if self._thread.ident:
            self._thread.join(30)
        assert not self._thread.is_alive(), f"{self.name} did not end"

    def processes(self) -> list[int]:
        """Return the ids, on this host, of the processes that run in it."""
        return [int(line) for line in podman("top", self.id, "hpid").splitlines()[1:]]

    def _keep(self) -> None:
        always = self.sidecar or (not self.init and self.pod.spec.get("restartPolicy", "Always") == "Always")
        on_failure = self.pod.spec.get("restartPolicy", "Always") != "Never"
        try:
            while not self._stopping.is_set():
                self._start()
                if self._stopping.is_set():  # since
                    self._terminate(0)
                self._watch()
                self.ready = self.started = False
                self.exits.append(int(podman("wait", self.id)))
                if not (always or (on_failure and self.exits[-1])) or self._stopping.wait(self.pod.back_off_s):
                    break
            self.ended = True
        except Exception as error:
            self.pod.broken = f"{self.name} cannot be run: {error}"

    def _start(self) -> None:
        self.starts.append(time.time())
        pid_file = self.pod.directory / f"{self.name}-{len(self.starts)}.pid"
        log = self.pod.directory / f"{self.name}-{len(self.starts) - 1}.log"
        self.id = podman("run", "--detach", "--pidfile", pid_file, "--log-opt", f"path={log}", *self._flags())
        self.pid = int(pid_file.read_text())
        if self._fd >= 0:
            os.close(self._fd)
        try:
            self._fd = os.pidfd_open(self.pid)
        except ProcessLookupError:  # it has ended, and so does a pipe that nobody writes to
            self._fd, writer = os.pipe()
            os.close(writer)

    def _flags(self) -> list[str]:
        """Return podman's words for the manifest."""
        spec, security = self.spec, self.security
        user, group = self.pod.user(spec)
        runs_as = str(user) if user is not None else _image_user(spec["image"])
        if security.get("runAsNonRoot", self.pod.security.get("runAsNonRoot")):
            assert re.fullmatch(r"[1-9]\d*(:\d+)?", runs_as), f"{self.name} must not run as root, but as {runs_as!r}"
        words = ["--pod", self.pod.id, "--pull", "never", "--log-driver", "k8s-file", "--no-healthcheck"]
        words += ["--user", f"{runs_as}:{group}" if group is not None else runs_as] if runs_as else []
        groups = {*self.pod.security.get("supplementalGroups", []), self.pod.security.get("fsGroup")} - {None}
        words += [f"--group-add={one}" for one in sorted(groups)]
        words += ["--read-only", "--read-only-tmpfs=false"] if security.get("readOnlyRootFilesystem") else []
        words += [f"--cap-drop={one}" for one in security.get("capabilities", {}).get("drop", [])]
        words += [f"--cap-add={one}" for one in security.get("capabilities", {}).get("add", [])]
        if security.get("allowPrivilegeEscalation") is False:
            words.append("--security-opt=no-new-privileges")
        limits = spec.get("resources", {}).get("limits", {})
        if "memory" in limits:
            words += [f"--memory={_bytes(limits['memory'])}", f"--memory-swap={_bytes(limits['memory'])}"]
        words += [f"--cpus={_cores(limits['cpu'])}"] if "cpu" in limits else []
        for mount in spec.get("volumeMounts", []):
            _known("volumeMount", mount)
            kind = next(set(one) - {"name"} for one in self.pod.spec["volumes"] if one["name"] == mount["name"])
            fixed = kind & {"configMap", "secret", "projected", "downwardAPI"}
            mode = "ro" if fixed or mount.get("readOnly") else "rw"
            source = (self.pod.volumes.paths[mount["name"]] / mount.get("subPath", "")).resolve()
            words += ["--volume", f"{source}:{mount['mountPath']}:{mode}"]
        words += ["--volume", f"{self.pod.directory / 'hosts'}:/etc/hosts:ro"]
        variables = self._variables()
        words += [f"--env={name}={value}" for name, value in variables.items()]
        expanded = {key: [_expand(one, variables) for one in spec.get(key, [])] for key in ("command", "args")}
        words += [f"--entrypoint={json.dumps(expanded['command'])}"] if expanded["command"] else []
        return [*words, spec["image"], *expanded["args"]]

    def _variables(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in self.spec.get("envFrom", []):
            for kind, name in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
                if name in source:
                    data = self.pod.data(kind, source[name]["name"], source[name].get("optional"))
                    found |= {source.get("prefix", "") + key: value.decode() for key, value in data.items()}
        for one in self.spec.get("env", []):
            assert one["name"] not in {each["name"] for each in self.spec["env"] if each is not one}, one["name"]
            if "valueFrom" not in one:
                found[one["name"]] = _expand(str(one.get("value", "")), found)
                continue
            ((kind, ref),) = one["valueFrom"].items()
            if kind == "fieldRef":
                found[one["name"]] = self.pod.field(ref["fieldPath"])
                continue
            data = self.pod.data({"configMapKeyRef": "ConfigMap", "secretKeyRef": "Secret"}[kind], **_ref(ref))
            if ref["key"] in data:
                found[one["name"]] = data[ref["key"]].decode()
            elif not ref.get("optional"):
                raise LookupError(f"{ref['name']} has no key {ref['key']}")
        return found

    def _watch(self) -> None:
        """Probe it until it ends. Its start is over when its startup probe has succeeded."""
        begun = time.monotonic()
        due = {kind: begun + probe.get("initialDelaySeconds", 0) for kind, probe in self.probes.items()}
        failures, successes = dict.fromkeys(due, 0), dict.fromkeys(due, 0)
        self.started, self.ready = "startup" not in due, not due.keys() & {"startup", "readiness"}
        while True:
            kinds = ["startup"] if not self.started else [kind for kind in due if kind != "startup"]
            kind = min(kinds, key=due.__getitem__, default="")
            if select.select([self._fd], [], [], max(0.0, due[kind] - time.monotonic()) if kind else None)[0]:
                return
            probe = self.probes[kind]
            due[kind] = time.monotonic() + probe.get("periodSeconds", 10)
            good = self._passes(probe)
            failures[kind], successes[kind] = (0, successes[kind] + 1) if good else (failures[kind] + 1, 0)
            passed = successes[kind] >= probe.get("successThreshold", 1)
            failed = failures[kind] >= probe.get("failureThreshold", 3)
            if kind == "readiness":
                self.ready = passed or (self.ready and not failed)
            elif kind == "startup" and passed:
                self.started, self.ready = True, "readiness" not in due
                due |= {name: max(at, time.monotonic()) for name, at in due.items() if name != "readiness"}
            elif failed:
                self.events.append(f"{kind} probe failed")
                self._terminate(probe.get("terminationGracePeriodSeconds", self.pod.grace_s))
                select.select([self._fd], [], [])
                return

    def _terminate(self, grace_s: float) -> None:
        """SIGTERM, then SIGKILL when the grace is over."""
        with contextlib.suppress(OSError):  # it has ended
            self.send(signal.SIGTERM)
            if not select.select([self._fd], [], [], grace_s)[0]:
                self.events.append("killed after its grace")
                self.send(signal.SIGKILL)

    def _passes(self, probe: Manifest) -> bool:
        timeout_s = probe.get("timeoutSeconds", 1)
        try:
            get = probe["httpGet"]
            assert get.get("scheme", "HTTP") == "HTTP", "HTTPS"
            ports = {one["name"]: one["containerPort"] for one in self.spec.get("ports", []) if "name" in one}
            host, port = get.get("host", ADDRESS), ports.get(get["port"], get["port"])
            return 200 <= self.pod.get(get.get("path", "/"), port, host=host, timeout_s=timeout_s)[0] < 400
        except (OSError, http.client.HTTPException):
            return False


def _ref(ref: Manifest) -> dict[str, Any]:
    return {"name": ref["name"], "optional": ref.get("optional")}


def _expand(text: str, variables: Mapping[str, str]) -> str:
    """Expand $(NAME) as Kubernetes does: what is unknown stays, and $$ is a dollar."""
    return re.sub(r"\$\$|\$\(([^)]+)\)", lambda found: variables.get(found[1], found[0]) if found[1] else "$", text)


# --- the pod ---------------------------------------------------------------------------------------------------


class Pod:
    """A pod that runs: ``with Pod(manifest, objects) as pod``; it is gone at the end."""

    def __init__(
        self,
        manifest: Manifest,
        objects: Sequence[Manifest] = (),
        *,
        claims: Mapping[str, Path] | None = None,
        token: Callable[[str], str] = lambda audience: f"token for {audience}",
        back_off_s: float = 0.1,
    ) -> None:
        """`objects` are the ConfigMaps and Secrets that it names, `claims` the directories of its persistent volumes.

        `token` gives its service account's token for an audience.
        """
        self.metadata, self.spec = manifest["metadata"], _known("pod", manifest["spec"])
        self.security = _known("pod's securityContext", self.spec.get("securityContext", {}))
        self.objects = {(one["kind"], one["metadata"]["name"]): one for one in objects}
        self.claims, self.token, self.back_off_s = claims or {}, token, back_off_s
        self.grace_s: float = self.spec.get("terminationGracePeriodSeconds", 30)
        self.directory = directory()
        self.directory.chmod(0o711)
        self.id = self.network = self.broken = ""
        self._init = [Container(self, one, init=True) for one in self.spec.get("initContainers", [])]
        self._applications = [Container(self, one, init=False) for one in self.spec["containers"]]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        self.volumes = _Volumes(self)
        names = [{"ip": "127.0.0.1", "hostnames": ["localhost"]}, *self.spec.get("hostAliases", [])]
        hosts = self.directory / "hosts"
        hosts.write_text("".join(f"{one['ip']}\t{' '.join(one['hostnames'])}\n" for one in names))
        hosts.chmod(0o644)
        self.id = podman("pod", "create", "--network=none", "--share=net,ipc,uts", f"--name={self.directory.name}")
        at_the_end("podman", "pod", "rm", "-f", "-t", "0", self.id)
        podman("pod", "start", self.id)
        infra = podman("pod", "inspect", self.id, "--format", "{{.InfraContainerID}}")
        self.network = f"/proc/{podman('inspect', infra, '--format', '{{.State.Pid}}')}/ns/net"
        with _within(self.network), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            set_address = 0x8916  # SIOCSIFADDR, of an alias of the loopback
            request = struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton(ADDRESS))
            fcntl.ioctl(any_socket, set_address, request)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(0)
        podman("pod", "rm", "-f", "-t", "0", self.id)
        forget_end("podman", "pod", "rm", "-f", "-t", "0", self.id)
        for path in self.volumes.paths.values():
            if path.is_mount():
                subprocess.run(["umount", path], check=True)
                forget_end("umount", str(path))
        shutil.rmtree(self.directory, ignore_errors=True)

    def __getitem__(self, name: str) -> Container:
        return next(one for one in (*self._init, *self._applications) if one.name == name)

    @property
    def containers(self) -> list[Manifest]:
        """The containers of the manifest, init containers among them."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ready(self) -> bool:
        """Whether a Service would send it calls."""
        lasting = [one for one in self._init if one.sidecar] + self._applications
        return not self._thread.is_alive() and all(one.ready for one in lasting)

    def wait(self, condition: Callable[[], bool], *, seconds: float = 60) -> None:
        """Wait until something is so; fail with what its containers logged where it is not in time, or cannot be."""
        try:
            wait_for(lambda: bool(self.broken) or condition(), "it did not come about", seconds=seconds)
        except TimeoutError as error:
            raise TimeoutError(self.described()) from error
        assert not self.broken, self.broken

    def wait_ready(self) -> Self:
        """Wait until it is ready."""
        self.wait(lambda: self.ready)
        return self

    def described(self) -> str:
        """Say how its containers are, and what they logged last."""
        return "\n".join(
            f"{one.name}: starts {len(one.starts)}, exits {one.exits}, {one.events}\n  " + "\n  ".join(one.logs()[-20:])
            for one in (*self._init, *self._applications)
        )

    def stop(self, grace_s: float | None = None) -> None:
        """End it as a kubelet does: the application's containers together, then the sidecars, the last one first.

        All of it has one grace; a sidecar has two seconds of its own at least.
        """
        grace_s = self.grace_s if grace_s is None else grace_s
        self._stopping.set()
        give_up = time.monotonic() + grace_s
        once = [one for one in self._init if not one.sidecar]
        ends = [threading.Thread(target=one.stop, args=(grace_s,)) for one in (*self._applications, *once)]
        for end in ends:
            end.start()
        for end in (*ends, self._thread):
            end.join()
        for one in reversed([one for one in self._init if one.sidecar]):
            one.stop(max(give_up - time.monotonic(), _SIDECAR_GRACE_S) if grace_s else 0)

    def change(self, one: Manifest) -> None:
        """Take up a ConfigMap or Secret that was changed, as a kubelet does; variables stay as they were."""
        self.objects[one["kind"], one["metadata"]["name"]] = one
        self.volumes.refresh()

    def get(self, path: str, port: int, *, host: str = ADDRESS, timeout_s: float = 5) -> tuple[int, str]:
        """Return the status and the text of a page, asked for at the pod's address."""
        with _within(self.network):
            wire = socket.socket()
        wire.settimeout(timeout_s)
        with wire:
            wire.connect((host, port))
            connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
            connection.sock = wire
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def user(self, spec: Manifest) -> tuple[int | None, int | None]:
        """Return whom a container runs as by the manifest, and in which group; None says the image's."""
        own = spec.get("securityContext", {})
        user, group = (own.get(name, self.security.get(name)) for name in ("runAsUser", "runAsGroup"))
        return user, group

    def field(self, path: str) -> str:
        """Return a field of the pod, by its path."""
        if found := re.fullmatch(r"metadata\.(labels|annotations)\['([^']+)'\]", path):
            return str(self.metadata.get(found[1], {}).get(found[2], ""))
        return {
            "metadata.name": self.metadata.get("name", ""),
            "metadata.namespace": self.metadata.get("namespace", "default"),
            "spec.serviceAccountName": self.spec.get("serviceAccountName", "default"),
            "status.podIP": ADDRESS,
        }[path]

    def data(self, kind: str, name: str, optional: bool | None = None) -> dict[str, bytes]:
        """Return what a ConfigMap or a Secret holds."""
        found = self.objects.get((kind, name))
        if found is None:
            if optional:
                return {}
            raise LookupError(f"there is no {kind} {name}")
        plain = {**(found.get("data") or {} if kind == "ConfigMap" else {}), **found.get("stringData", {})}
        coded = {**(found.get("data") or {} if kind == "Secret" else {}), **found.get("binaryData", {})}
        return {key: str(value).encode() for key, value in plain.items()} | {
            key: base64.b64decode(value) for key, value in coded.items()
        }

    def _run(self) -> None:
        """Start the init containers in their order, then the application's."""
        for one in self._init:
            one.begin()
            while not (one.started if one.sidecar else one.ended):
                if self._stopping.wait(0.02):
                    return
            if not one.sidecar and one.exits[-1]:
                return
        for one in self._applications:
            if not self._stopping.is_set():
                one.begin()
