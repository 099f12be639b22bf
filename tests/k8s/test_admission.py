"""Injection on a real API server: what pods come out of admission, what is refused, and in which words."""

from __future__ import annotations

import copy
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s import tools
from tests.k8s.apiserver import ApiServer, Manifest, Refused
from tests.servers import wait_for

pytestmark = [pytest.mark.needs("etcd", "kube-apiserver", "helm4")]

IMAGE = "registry.example/standpipe:1"
PARAMETERS = {"image": IMAGE, "secret": "standpipe", "cpu": "100m", "memory": "512Mi", "config.yaml": "tenant: acme\n"}
VALUES = {
    "injection": {"enabled": True, "namespaces": [{"name": "chat", "image": IMAGE, "settings": {"tenant": "acme"}}]}
}
TARGET = {"name": "STANDPIPE_TARGET", "value": "unix:/run/standpipe/standpipe.sock"}
MOUNT = {"name": "standpipe-socket", "mountPath": "/run/standpipe"}
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
INCLUDING = """
apiVersion: v1
kind: Pod
metadata: {name: including}
spec:
  automountServiceAccountToken: false
  securityContext:
    supplementalGroups: {{- include "standpipe.sidecar.groups" .Subcharts.standpipe | nindent 6 }}
  initContainers:
    {{- include "standpipe.sidecar.container" .Subcharts.standpipe | nindent 4 }}
  containers:
    - name: app
      image: registry.example/app:1
      env: {{- include "standpipe.sidecar.env" .Subcharts.standpipe | nindent 8 }}
      volumeMounts: {{- include "standpipe.sidecar.mount" .Subcharts.standpipe | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        runAsNonRoot: true
        capabilities: {drop: [ALL]}
        seccompProfile: {type: RuntimeDefault}
  volumes:
    {{- include "standpipe.sidecar.volumes" .Subcharts.standpipe | nindent 4 }}
"""
_names = itertools.count(1)


def render(values: Manifest, *, chart: Path = tools.CHART, kubernetes: str = "1.36") -> list[Manifest]:
    """Return what a chart makes of values for a release of Kubernetes."""
    flags = ("release", chart, "--kube-version", kubernetes, "--values", "-")
    text = tools.run(tools.need("helm4"), "template", *flags, stdin=yaml.dump(values))
    return [one for one in yaml.safe_load_all(text) if one]


def container(name: str = "app", **fields: Any) -> Manifest:
    """Return a container that a restricted namespace takes."""
    return {"name": name, "image": "registry.example/app:1", "securityContext": RESTRICTED} | fields


def pod(namespace: str = "chat", *, labels: Any = None, **spec: Any) -> Manifest:
    """Return a pod that asks for a sidecar."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"pod-{next(_names)}",
            "namespace": namespace,
            "labels": {"standpipe.dev/inject": "true"} if labels is None else labels,
        },
        "spec": {"containers": [container()], "automountServiceAccountToken": False} | spec,
    }


@pytest.fixture(scope="module", params=["1.36", "1.34"])
def kubernetes(request: pytest.FixtureRequest) -> str:
    """The release of Kubernetes: the newest, and the oldest that has the policies, as a beta."""
    return str(request.param)


@pytest.fixture(scope="module")
def api(kubernetes: str) -> Iterator[ApiServer]:
    """An API server with the chart's policies in force, and a restricted namespace that they serve."""
    with ApiServer(kubernetes) as server:
        server.namespace("chat", {"pod-security.kubernetes.io/enforce": "restricted"})
        for manifest in render(VALUES, kubernetes=kubernetes):
            server.apply(manifest)
        in_force(server)
        yield server


def in_force(api: ApiServer) -> None:
    """Wait until both policies say something: an API server reads them behind the answer that they are stored."""

    def both() -> bool:
        try:
            done = api.create(pod(), dry_run=True)
        except Refused:
            return False
        try:
            api.create(pod(labels={"standpipe.dev/inject": "what"}), dry_run=True)
        except Refused:
            return "initContainers" in done["spec"]
        return False

    wait_for(both, "the policies are in force")


def until(check: Callable[[], Any]) -> None:
    """Repeat a check until it holds, as an API server learns behind its answers; show why if it never does."""

    def holds() -> bool:
        nonlocal why
        try:
            check()
        except (AssertionError, Refused) as error:
            why = error
            return False
        return True

    why: Exception | None = None
    try:
        wait_for(holds, "")
    except TimeoutError:
        assert why is not None
        raise why from None


def injected(api: ApiServer, manifest: Manifest) -> Manifest:
    """Return the specification that a pod has after admission."""
    return api.create(manifest, dry_run=True)["spec"]


def refusal(api: ApiServer, manifest: Manifest) -> str:
    """Return the words in which a pod is refused."""
    said = ""
    try:
        api.create(manifest, dry_run=True)
    except Refused as refused:
        said = refused.message if refused.code in (403, 422) else f"not a refusal: {refused}"
    assert said, "the pod is admitted"
    return said


def names(found: list[Manifest]) -> list[str]:
    return [one["name"] for one in found]


# --- what is injected --------------------------------------------------------------------------------------------


def test_what_is_injected_equals_what_the_template_gives(api: ApiServer, tmp_path: Path) -> None:
    """Field by field, from the API server's own answer to both: the CEL and the template are one definition."""
    values = {"image": {"repository": "registry.example/standpipe", "tag": "1"}}
    chart = tmp_path / "including"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("{apiVersion: v2, name: including, version: 0.1.0}\n")
    (chart / "templates" / "pod.yaml").write_text(INCLUDING)
    shutil.copytree(tools.CHART, chart / "charts" / "standpipe")
    [included] = render({"standpipe": values}, chart=chart)
    included["metadata"] |= {"namespace": "chat", "name": "x"}
    for source in included["spec"]["volumes"][1]["projected"]["sources"]:
        if "configMap" in source:
            source["configMap"]["name"] = "standpipe-sidecar"
    plain = copy.deepcopy(included)
    plain["metadata"]["labels"] = {"standpipe.dev/inject": "true"}
    spec = plain["spec"]
    del spec["initContainers"], spec["volumes"], spec["securityContext"]
    for name in ("env", "volumeMounts"):
        del spec["containers"][0][name]
    assert injected(api, plain) == injected(api, included)


def test_a_pod_with_no_lists_gets_all(api: ApiServer) -> None:
    """Sidecar, volumes, groups, the application's mount and variable: where none of the lists was there."""
    found = injected(api, pod())
    [sidecar] = found["initContainers"]
    assert (sidecar["name"], sidecar["restartPolicy"], sidecar["image"]) == ("standpipe", "Always", IMAGE)
    assert sidecar["args"] == ["serve"]
    assert sidecar["resources"]["requests"] == {"cpu": "100m", "memory": "640Mi", "ephemeral-storage": "16Mi"}
    assert sidecar["startupProbe"]["httpGet"] == {"path": "/startupz", "port": 7461, "scheme": "HTTP"}
    assert names(found["volumes"]) == ["standpipe-socket", "standpipe-config"]
    assert found["securityContext"]["supplementalGroups"] == [10001]
    [app] = found["containers"]
    assert app["env"] == [TARGET]
    assert app["volumeMounts"] == [MOUNT]


def test_a_pod_with_all_lists_keeps_what_it_has(api: ApiServer) -> None:
    """The sidecar comes first; init containers, volumes, groups, variables and mounts that were there stay."""
    cache = {"name": "cache", "emptyDir": {}}
    at = {"name": "cache", "mountPath": "/cache"}
    mode = {"name": "MODE", "value": "chat"}
    given = pod(
        initContainers=[container("first"), container("second", env=[mode], volumeMounts=[at])],
        containers=[container(env=[mode], volumeMounts=[at]), container("other")],
        volumes=[cache],
        securityContext={"supplementalGroups": [5], "fsGroup": 7},
    )
    found = injected(api, given)
    assert names(found["initContainers"]) == ["standpipe", "first", "second"]
    assert names(found["volumes"]) == ["cache", "standpipe-socket", "standpipe-config"]
    assert found["volumes"][0] == cache
    assert found["securityContext"] == {"supplementalGroups": [5, 10001], "fsGroup": 7}
    everyone = {one["name"]: one for one in found["initContainers"][1:] + found["containers"]}
    assert set(everyone) == {"first", "second", "app", "other"}
    for name, one in everyone.items():
        had = name in ("second", "app")
        assert one["env"] == ([mode] if had else []) + [TARGET]
        assert one["volumeMounts"] == ([at] if had else []) + [MOUNT]


def test_a_pod_that_has_its_sidecar_stays_as_it_is(api: ApiServer) -> None:
    """What came out of admission comes out the same again: nothing is twice there, and nothing is replaced."""
    once = injected(api, pod())
    assert injected(api, pod(**copy.deepcopy(once))) == once
    own = copy.deepcopy(once)
    own["initContainers"][0]["resources"]["requests"]["cpu"] = "1"
    assert injected(api, pod(**copy.deepcopy(own))) == own


def test_what_an_application_chose_stays(api: ApiServer) -> None:
    """A target of its own, and the socket's volume at the same place by its own hand, also with a slash at the end."""
    elsewhere = {"name": "STANDPIPE_TARGET", "value": "standpipe.shared:7460"}
    mount = MOUNT | {"mountPath": "/run/standpipe/", "readOnly": True}
    [app] = injected(api, pod(containers=[container(env=[elsewhere], volumeMounts=[mount])]))["containers"]
    assert app["env"] == [elsewhere]
    assert app["volumeMounts"] == [mount]


def test_other_pods_are_left_alone(api: ApiServer) -> None:
    """Without the label, or with the label "false", nothing is added, in a namespace without a ConfigMap too."""
    api.namespace("elsewhere")
    for namespace in ("chat", "elsewhere"):
        for labels in ({}, {"standpipe.dev/inject": "false"}):
            found = injected(api, pod(namespace, labels=labels))
            assert not {"initContainers", "volumes"} & set(found)


def test_a_large_pod_is_within_what_cel_may_cost(api: ApiServer) -> None:
    """A hundred containers with a hundred variables and mounts each: policies may cost so much and no more."""
    env = [{"name": f"VARIABLE_{number}", "value": "x" * 100} for number in range(100)]
    mounts = [{"name": "cache", "mountPath": f"/cache/{number}"} for number in range(100)]
    many = [container(f"app-{number}", env=env, volumeMounts=mounts) for number in range(100)]
    found = injected(api, pod(containers=many, volumes=[{"name": "cache", "emptyDir": {}}]))
    assert all(one["env"][-1] == TARGET and one["volumeMounts"][-1] == MOUNT for one in found["containers"])


def test_later_changes_are_left_alone(api: ApiServer) -> None:
    """A label that a running pod gets, and an ephemeral container, are admitted; the pod's containers stay."""
    manifest = api.create(pod(labels={}))
    path = f"/api/v1/namespaces/chat/pods/{manifest['metadata']['name']}"
    content = "application/strategic-merge-patch+json"
    labelled = {"metadata": {"labels": {"standpipe.dev/inject": "true"}}}
    assert "initContainers" not in api.call("PATCH", path, labelled, content=content)["spec"]
    debug = {"spec": {"ephemeralContainers": [container("debug")]}}
    found = api.call("PATCH", f"{path}/ephemeralcontainers", debug, content=content)["spec"]
    assert "volumeMounts" not in found["ephemeralContainers"][0]


def test_another_operators_containers_get_the_socket_too(api: ApiServer) -> None:
    """Two policies add a container each, one of them after ours: ours runs again, and completes it."""
    others = [each for name in ("aa", "zz") for each in mutation(name)]
    for manifest in others:
        api.apply(manifest)
    try:
        api.namespace("proxied")
        api.apply(parameters("proxied"))

        def check() -> None:
            found = injected(api, pod("proxied", labels={"standpipe.dev/inject": "true", "proxy": "yes"}))
            assert sorted(names(found["containers"])) == ["aa", "app", "zz"]
            assert names(found["initContainers"]) == ["standpipe"]
            for one in found["containers"]:
                assert one["env"][-1] == TARGET
                assert one["volumeMounts"] == [MOUNT]

        until(check)
    finally:
        for manifest in others:
            api.delete(manifest)


def test_a_namespace_has_its_own_parameters(api: ApiServer) -> None:
    """Image, Secret, CPU and memory are those of the pod's namespace."""
    api.namespace("own")
    api.apply(parameters("own", image="other:2", secret="mine", cpu="2", memory="1Gi"))

    def check() -> None:
        found = injected(api, pod("own"))
        [sidecar] = found["initContainers"]
        assert sidecar["image"] == "other:2"
        assert sidecar["resources"]["limits"]["memory"] == "1Gi"
        assert {one["valueFrom"]["secretKeyRef"]["name"] for one in sidecar["env"] if "valueFrom" in one} == {"mine"}
        sources = found["volumes"][1]["projected"]["sources"]
        assert [one["secret"]["name"] for one in sources if "secret" in one] == ["mine", "mine"]

    until(check)


# --- what is refused ---------------------------------------------------------------------------------------------


def test_a_namespace_without_parameters_refuses(api: ApiServer) -> None:
    """No ConfigMap standpipe-sidecar, no labelled pod."""
    api.namespace("bare")
    assert "no params found" in refusal(api, pod("bare"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"image": None}, "ConfigMap standpipe-sidecar of this namespace must have image"),
        ({"cpu": None, "config.yaml": None}, "must have cpu, config.yaml"),
        (dict.fromkeys(PARAMETERS), "must have image, secret, cpu, memory, config.yaml"),
        ({"image": ""}, "image must be one word"),
        ({"secret": "No Name"}, "secret must be the name of a Secret"),
        ({"memory": "much", "cpu": "-"}, "cpu must be a quantity, such as 100m or 512Mi; memory must be"),
    ],
)
def test_parameters_that_make_no_sense_refuse(api: ApiServer, changed: dict[str, str | None], words: str) -> None:
    """The message names the ConfigMap, the key, and what it must be."""
    namespace = api.namespace(f"wrong-{next(_names)}")
    api.apply(parameters(namespace, **changed))

    def check() -> None:
        assert words in refusal(api, pod(namespace))

    until(check)


def _sidecar(**fields: Any) -> dict[str, Any]:
    mounts = [MOUNT, {"name": "standpipe-config", "mountPath": "/etc/standpipe"}]
    whole = container("standpipe", image=IMAGE, restartPolicy="Always", args=["serve"], volumeMounts=mounts) | fields
    return {"initContainers": [{name: value for name, value in whole.items() if value is not None}]}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (_sidecar(restartPolicy=None), "must have restartPolicy Always"),
        (_sidecar(image="other:1"), f"must have the image that ConfigMap standpipe-sidecar names, {IMAGE}"),
        (_sidecar(args=["demo"]), 'must have no command, and args ["serve"]'),
        (_sidecar(args=None), 'must have no command, and args ["serve"]'),
        (_sidecar(command=["sh"]), 'must have no command, and args ["serve"]'),
        (_sidecar(volumeMounts=None), "must have volume standpipe-socket at /run/standpipe"),
        (_sidecar(volumeMounts=[MOUNT]), "must have volume standpipe-config at /etc/standpipe"),
        ({"volumes": [{"name": "standpipe-socket", "secret": {"secretName": "x"}}]}, "must be of kind emptyDir"),
        ({"volumes": [{"name": "standpipe-config", "emptyDir": {}}]}, "must be of kind projected"),
        ({"containers": [container("standpipe")]}, "a container is called standpipe"),
        (
            {
                "containers": [container(volumeMounts=[{"name": "mine", "mountPath": "/run/standpipe"}])],
                "volumes": [{"name": "mine", "emptyDir": {}}],
            },
            "containers without the sidecar's socket, because they have another volume at /run/standpipe: app",
        ),
    ],
)
def test_a_pod_without_the_sidecar_as_it_should_be_is_refused(api: ApiServer, spec: Manifest, words: str) -> None:
    """The message says what is wrong with which container or volume."""
    assert words in refusal(api, pod(**spec))


def test_a_pod_in_the_nodes_network_is_refused(api: ApiServer) -> None:
    """Its loopback is everybody's on the node, and so would be the sidecar."""
    api.namespace("nodes")
    api.apply(parameters("nodes"))

    def check() -> None:
        assert "a pod with hostNetwork has no loopback of its own" in refusal(api, pod("nodes", hostNetwork=True))

    until(check)


def test_a_label_that_says_neither_yes_nor_no_is_refused(api: ApiServer) -> None:
    """A typing error never passes for a pod without a sidecar."""
    assert 'must be "true" or "false"' in refusal(api, pod(labels={"standpipe.dev/inject": "True"}))


def test_injection_fails_closed(api: ApiServer, kubernetes: str) -> None:
    """While the mutating policy's binding is away a labelled pod is refused, and told why."""
    rendered = render(VALUES, kubernetes=kubernetes)
    [binding] = [one for one in rendered if one["kind"] == "MutatingAdmissionPolicyBinding"]
    api.delete(binding)

    def check() -> None:
        assert "or its binding is not there" in refusal(api, pod())

    try:
        until(check)
    finally:
        api.apply(binding)
        in_force(api)


# --- helpers -----------------------------------------------------------------------------------------------------


def parameters(namespace: str, **changed: str | None) -> Manifest:
    """Return a namespace's ConfigMap."""
    data = {name: value for name, value in (PARAMETERS | changed).items() if value is not None}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "standpipe-sidecar", "namespace": namespace},
        "data": data,
    }


def mutation(name: str) -> list[Manifest]:
    """Return another operator's policy, which adds a container first of all to pods with the label proxy."""
    expression = f"""
        object.spec.containers.exists(c, c.name == "{name}") ? [] : [JSONPatch{{
            op: "add", path: "/spec/containers/0", value: Object.spec.containers{{
                name: "{name}", image: "proxy:1", env: [Object.spec.containers.env{{name: "A", value: "b"}}]}}}}]"""
    version = "admissionregistration.k8s.io/v1"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    policy = {
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "matchConstraints": {"resourceRules": [rule], "objectSelector": {"matchLabels": {"proxy": "yes"}}},
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}],
    }
    return [
        {"apiVersion": version, "kind": "MutatingAdmissionPolicy", "metadata": {"name": name}, "spec": policy},
        {
            "apiVersion": version,
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name},
        },
    ]
