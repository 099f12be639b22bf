"""Callers with credentials: every call has one, acts for its own tenant alone, and rotation fails no call (P8)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
import yaml
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sidecar.callers import METHODS
from sidecar.errors import ConfigInvalid
from standpipe.v1 import context_pb2, fact_pb2, memory_pb2, policy_pb2, session_pb2, turn_pb2
from tests.certificates import Certificates
from tests.e2e.pods import Local, Pod, commit_request, exact, refused, serving, until
from tests.issuer import AUDIENCE, ISSUER, ApiServer, Issuer, Volume, account
from tests.servers import LOOPBACK, directory

ACME, UMBRELLA = account("acme"), account("umbrella")
ENTRIES: list[dict[str, Any]] = [
    {"tenant": "acme", "callers": ["system:serviceaccount:acme:*"]},
    {"tenant": "umbrella", "callers": ["system:serviceaccount:umbrella:*"]},
    {"tenant": "acme", "callers": [account("both")]},
    {"tenant": "umbrella", "callers": [account("both")], "methods": ["ContextService/HydrateContext"]},
    {"tenant": "{namespace}", "callers": ["system:serviceaccount:team-*:app"]},
]


def tenants(path: Path, entries: list[dict[str, Any]]) -> str:
    """Write a tenants file, whole or not at all."""
    fresh = path.with_suffix(".new")
    fresh.write_text(yaml.safe_dump({"tenants": entries}))
    return str(fresh.rename(path))


def signed(tmp_path: Path, issuer: Issuer, **changes: Any) -> dict[str, Any]:
    """Return the settings of a sidecar that takes an issuer's tokens."""
    return {
        "tenants_file": tenants(tmp_path / "tenants.yaml", ENTRIES),
        "auth_jwks": str(issuer.write(tmp_path / "jwks.json")),
        "auth_issuer": ISSUER,
        **changes,
    }


@contextlib.asynccontextmanager
async def calling(server: Local, token: str | Callable[[], str], target: str = "") -> AsyncIterator[Pod]:
    """Call a server with a token."""
    bring = token if callable(token) else lambda: token
    pod = Pod(target or server.target, token=bring)
    try:
        yield pod
    finally:
        await pod.close()


async def _raise(error: BaseException) -> None:
    raise error


# --- who may call ----------------------------------------------------------------------------------------------------


async def test_without_a_credential_nothing_is_answered_but_health(tmp_path: Path) -> None:
    """Every method of every service refuses a call without a token, on a port and on a socket; health answers (P8)."""
    file = tmp_path / "tokens"
    file.write_text("a-token-of-callers-1\n")
    socket = f"unix:{directory()}/socket"
    async with serving(tmp_path / "r.db", auth_token_file=str(file), listen=(f"{LOOPBACK}:0", socket)) as server:
        for target in (server.target, socket):
            channel = grpc.aio.insecure_channel(target)
            for full in METHODS.values():
                call = channel.unary_unary(f"/standpipe.v1.{full}")
                for brought in (
                    (),
                    (("authorization", "Bearer another-token-of-16"),),
                    (("authorization", "Basic YTpi"),),
                ):
                    found = await refused(call(b"", metadata=brought, timeout=20))
                    assert (found.status, found.reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED"), full
                    assert "another-token" not in found.text
            # Not even bytes that are no message, or a deadline, come before the credential.
            garbage = channel.unary_unary("/standpipe.v1.ContextService/CommitTurn")
            assert (await refused(garbage(b"\xff\xff", timeout=20))).reason == "UNAUTHENTICATED"
            healthy = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert healthy.status == health_pb2.HealthCheckResponse.SERVING
            listing = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            )
            assert (await listing.read()).list_services_response.service
            await channel.close()
        async with (
            calling(server, "a-token-of-callers-1") as pod,
            calling(server, "a-token-of-callers-1", socket) as by,
        ):
            await pod.append("s", "r", "hello")
            assert (await by.hydrate("s")).bundle
        metrics = server.metrics()
        assert metrics['standpipe_authentications_total{outcome="accepted"}'] == 2
        assert metrics['standpipe_authentications_total{outcome="missing"}'] == 2 * (len(METHODS) + 1)
        assert metrics['standpipe_authentications_total{outcome="refused"}'] == 2 * 2 * len(METHODS)
        assert "a-token-of-callers" not in server.log()


# --- tenants in one server -------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def shared(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Local, Issuer]]:
    """One server for several tenants, on either pair of stores, and the issuer of its callers' tokens."""
    issuer = Issuer()
    settings = signed(tmp_path, issuer)
    if request.param == "postgres":
        settings["record"] = request.getfixturevalue("database")
        settings["hot"] = request.getfixturevalue("redis_server").url
    async with serving(tmp_path / "r.db", **settings) as server:
        yield server, issuer


def everything(tenant: str) -> dict[str, Any]:
    """Return a request of every method, for a session, a subject and a policy that both tenants have."""
    of = {"tenant_id": tenant}
    subject, own = {**of, "subject_id": "anna"}, {**of, "subject_id": "anna", "request_id": "new"}
    fact = fact_pb2.Fact(attribute="city", value="Porto")
    return {
        "HydrateContext": context_pb2.HydrateContextRequest(**subject, session_id="s"),
        "CommitTurn": commit_request("s", "new", "hello", tenant_id=tenant, mode=context_pb2.COMMIT_MODE_APPEND),
        "ReplayContext": context_pb2.ReplayContextRequest(**of, receipt=b"x"),
        "GetSession": session_pb2.GetSessionRequest(**of, session_id="s"),
        "ListSessions": session_pb2.ListSessionsRequest(**of),
        "ListEvents": session_pb2.ListEventsRequest(**of, session_id="s"),
        "EndSession": session_pb2.EndSessionRequest(**of, session_id="s", request_id="end"),
        "PublishPolicy": policy_pb2.PublishPolicyRequest(**of, document_yaml="name: p\n"),
        "GetPolicy": policy_pb2.GetPolicyRequest(**of, name="p"),
        "ListPolicies": policy_pb2.ListPoliciesRequest(**of),
        "SetRoute": policy_pb2.SetRouteRequest(**of, route=policy_pb2.Route(name="r", policy_name="p")),
        "RecordFacts": memory_pb2.RecordFactsRequest(**own, facts=[fact]),
        "CorrectFact": memory_pb2.CorrectFactRequest(**own),
        "PinFact": memory_pb2.PinFactRequest(**own),
        "PutProfile": memory_pb2.PutProfileRequest(**own),
        "IngestDocuments": memory_pb2.IngestDocumentsRequest(**subject),
        "SearchMemory": memory_pb2.SearchMemoryRequest(**subject, query="hello"),
        "ListBeliefs": memory_pb2.ListBeliefsRequest(**subject),
        "ListQuarantine": memory_pb2.ListQuarantineRequest(**of),
        "ReviewQuarantine": memory_pb2.ReviewQuarantineRequest(**own),
        "EraseSubject": memory_pb2.EraseSubjectRequest(**subject),
        "ExportSubject": memory_pb2.ExportSubjectRequest(**subject),
    }


def method(pod: Pod, name: str) -> Any:
    """Return a method of a client, by its name."""
    stubs = {"Context": pod.context, "Session": pod.sessions, "Policy": pod.policies, "Memory": pod.memory}
    return getattr(stubs[METHODS[name].partition("Service")[0]], name)


def test_every_method_that_names_a_tenant_is_asked() -> None:
    """The list above has all methods but the one that is about the server."""
    assert everything("acme").keys() == METHODS.keys() - {"GetServerInfo"}


async def test_no_method_serves_another_tenant(shared: tuple[Local, Issuer]) -> None:
    """Whatever the method, a request that names another tenant is refused, and changes nothing there (P8)."""
    server, issuer = shared
    async with calling(server, issuer.token(ACME)) as acme, calling(server, issuer.token(UMBRELLA)) as umbrella:
        await acme.append("s", "r1", "Acme keeps its anvils in Toledo.")
        before = [exact(one) for one in await acme.events("s")]
        for name, request in everything("acme").items():
            found = await refused(method(umbrella, name)(request, timeout=20))
            assert (found.status, found.reason, found.field) == ("PERMISSION_DENIED", "TENANT_DENIED", "tenant_id"), (
                name
            )
            assert "acme" not in found.text, name
            assert "anvil" not in found.text, name
        assert [exact(one) for one in await acme.events("s")] == before
        assert (await acme.policies.ListPolicies(policy_pb2.ListPoliciesRequest())).policies == []
        # Nor does leaving it out, or naming one's own, lead there.
        assert (await umbrella.sessions.ListSessions(session_pb2.ListSessionsRequest())).sessions == []
        own = session_pb2.GetSessionRequest(tenant_id="umbrella", session_id="s")
        assert (await refused(umbrella.sessions.GetSession(own))).reason == "SESSION_NOT_FOUND"


async def test_the_same_names_are_not_the_same(shared: tuple[Local, Issuer]) -> None:
    """Two tenants have sessions, subjects, requests, facts, documents and policies of one name, and never meet (P8)."""
    server, issuer = shared
    words = {"acme": "Acme keeps its anvils in Toledo", "umbrella": "Umbrella grows its herbs in Raccoon"}
    async with calling(server, issuer.token(ACME)) as acme, calling(server, issuer.token(UMBRELLA)) as umbrella:
        pods = {"acme": acme, "umbrella": umbrella}

        async def live(tenant: str) -> None:
            pod, text = pods[tenant], words[tenant]
            assert (await pod.commit("s", "r1", f"{text}.", expected=0)).result.version == 1
            assert (await pod.commit("s", "r2", f"{text}, they say.", expected=1)).result.version == 2
            said = turn_pb2.EventRef(session_id="s", version=1, entry=0)
            fact = fact_pb2.Fact(attribute="place", value=f"{text}!", sources=[said])
            await pod.memory.RecordFacts(memory_pb2.RecordFactsRequest(subject_id="anna", request_id="f", facts=[fact]))
            document = fact_pb2.Document(document_id="d", title=tenant, text=f"{text}, as everybody knows.")
            await pod.memory.IngestDocuments(memory_pb2.IngestDocumentsRequest(subject_id="anna", documents=[document]))
            await pod.publish(f"name: p\nbudget_tokens: 2000\nprompts: [{{name: a, text: Serve {tenant} well.}}]\n")
            await pod.route("default", "p", 1)

        await asyncio.gather(*(live(tenant) for tenant in pods))
        receipts = {}
        for tenant, pod in pods.items():
            (other,) = words.keys() - {tenant}
            answer = await pod.hydrate("s2", words["acme"] + " " + words["umbrella"])
            seen = str(answer.bundle)
            assert words[tenant] in seen
            assert f"Serve {tenant} well" in seen
            assert words[other] not in seen
            assert f"Serve {other}" not in seen
            receipts[tenant] = answer.receipt
            found = await pod.memory.SearchMemory(
                memory_pb2.SearchMemoryRequest(subject_id="anna", query=" ".join(words.values()))
            )
            assert words[tenant] in str(found)
            assert words[other] not in str(found)
            beliefs = await pod.memory.ListBeliefs(memory_pb2.ListBeliefsRequest(subject_id="anna"))
            assert words[other] not in str(beliefs)
            assert len(beliefs.beliefs) == 1
            policies = await pod.policies.ListPolicies(policy_pb2.ListPoliciesRequest())
            assert [(one.name, one.version) for one in policies.policies] == [("p", 1)]
        for tenant, pod in pods.items():
            (other,) = words.keys() - {tenant}
            assert (await pod.replay(receipts[tenant])).bundle.fingerprint
            stolen = await refused(pod.replay(receipts[other]))
            assert stolen.reason in {"RECEIPT_INVALID", "SESSION_NOT_FOUND"}
            assert words[other] not in stolen.text
            token = (
                await pods[other].sessions.GetSession(session_pb2.GetSessionRequest(session_id="s"))
            ).consistency_token
            foreign = context_pb2.Consistency(at_least_as_fresh=token)
            assert (await refused(pod.hydrate("s", consistency=foreign))).reason == "TOKEN_INVALID"
        # Erased here, kept there.
        await acme.memory.EraseSubject(memory_pb2.EraseSubjectRequest(subject_id="anna"))
        assert (await refused(acme.hydrate("s", "anvils"))).reason == "ERASED"
        assert words["acme"] not in str(await acme.hydrate("s2", "anvils"))
        assert words["umbrella"] in str(await umbrella.hydrate("s2", words["umbrella"]))
        assert len(await umbrella.events("s")) == 2
        assert (await umbrella.replay(receipts["umbrella"])).bundle.fingerprint
    log, metrics = server.log(), str(server.metrics())
    assert not any(word in log + metrics for word in ("anvil", "herbs", "umbrella", "acme"))


async def test_a_tenant_per_namespace(shared: tuple[Local, Issuer]) -> None:
    """Where the tenant is the namespace, each account has its own, and names no other (P8)."""
    server, issuer = shared
    async with (
        calling(server, issuer.token(account("team-red"))) as red,
        calling(server, issuer.token(account("team-blue"))) as blue,
        calling(server, issuer.token(account("team-blue", "other"))) as nobody,
    ):
        await red.append("s", "r", "Red has the lift's key.")
        assert "lift" not in str(await blue.hydrate("s", "who has the key?"))
        assert "lift" in str(await red.hydrate("s", tenant_id="team-red"))
        assert (await refused(blue.hydrate("s", tenant_id="team-red"))).reason == "TENANT_DENIED"
        assert (await refused(nobody.hydrate("s"))).reason == "TENANT_DENIED"


async def test_who_acts_for_several_names_one(shared: tuple[Local, Issuer]) -> None:
    """A caller of two tenants must name one, may do there what its entry says, and need name none for the server's."""
    server, issuer = shared
    async with calling(server, issuer.token(account("both"))) as both:
        assert (await both.info()).version
        unnamed = await refused(both.hydrate("s"))
        assert (unnamed.reason, unnamed.field) == ("INVALID_FIELD", "tenant_id")
        await both.append("s", "r", "hello", tenant_id="acme")
        assert "hello" in str(await both.hydrate("s", tenant_id="acme"))
        assert "hello" not in str(await both.hydrate("s", tenant_id="umbrella"))
        denied = await refused(both.append("s", "r", "hello", tenant_id="umbrella"))
        assert (denied.status, denied.reason) == ("PERMISSION_DENIED", "TENANT_DENIED")


async def test_one_tenant_does_not_starve_others(shared: tuple[Local, Issuer], monkeypatch: pytest.MonkeyPatch) -> None:
    """While one tenant presses with all it has it is told OVERLOADED; another's calls are answered (P12)."""
    server, issuer = shared
    monkeypatch.setattr(server.server.boundary.shares, "_free", 8)
    async with calling(server, issuer.token(ACME)) as acme, calling(server, issuer.token(UMBRELLA)) as umbrella:
        await acme.append("s", "r", "hello")
        await umbrella.append("s", "r", "hello")
        with contextlib.ExitStack() as held:
            for _ in range(4):
                held.enter_context(server.server.boundary.shares.of("acme"))
            found = await refused(acme.hydrate("s"))
            assert (found.status, found.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
            assert found.metadata["limit"] == "calls_at_work_max"
            assert found.retry_ms
            assert await umbrella.hydrate("s")
        assert await acme.hydrate("s")


# --- an API server, certificates -------------------------------------------------------------------------------------


async def test_reviewed_callers(tmp_path: Path) -> None:
    """An API server's review names the caller; while it hangs deadlines hold, and known callers go on (P12)."""
    with ApiServer(Certificates.make(tmp_path / "tls")) as api:
        api.accounts = {"token-of-acme": (ACME, [AUDIENCE]), "token-of-umbrella": (UMBRELLA, [AUDIENCE])}
        settings = {**api.settings(tmp_path), "tenants_file": tenants(tmp_path / "tenants.yaml", ENTRIES)}
        async with (
            serving(tmp_path / "r.db", **settings) as server,
            calling(server, "token-of-acme") as acme,
            calling(server, "token-of-umbrella") as umbrella,
            calling(server, "token-of-nobody") as nobody,
        ):
            await acme.append("s", "r", "hello")
            assert (await refused(nobody.hydrate("s"))).reason == "UNAUTHENTICATED"
            api.hold.clear()
            late = await refused(umbrella.hydrate("s", timeout_s=0.3))
            assert late.status == "DEADLINE_EXCEEDED"
            await asyncio.gather(*(acme.hydrate("s") for _ in range(20)))
            away = await refused(umbrella.hydrate("s"))
            assert (away.status, away.reason) == ("UNAVAILABLE", "AUTHENTICATOR_UNAVAILABLE")
            assert away.retry_ms
            api.hold.set()
            assert await umbrella.hydrate("s")
            assert server.metrics()['standpipe_authority_calls_total{outcome="failed"}'] >= 1
            assert server.metrics()['standpipe_authentications_total{outcome="unavailable"}'] >= 1
        assert "token-of" not in server.log()


def trusting(authority: Path, pair: tuple[Path, Path] | None = None) -> grpc.ChannelCredentials:
    """Return a client's credentials, with a certificate of its own or without."""
    certificate, key = ((one.read_bytes()) for one in pair) if pair else (None, None)
    return grpc.ssl_channel_credentials(authority.read_bytes(), key, certificate)


async def test_certificates_name_callers(tmp_path: Path) -> None:
    """With mutual TLS a certificate's SAN is the caller; without a good certificate there is no call (P8)."""
    ours, others = Certificates.make(tmp_path / "ours"), Certificates.make(tmp_path / "others")
    uri, dns = x509.UniformResourceIdentifier, x509.DNSName
    web = ours.issue("web", uri("spiffe://example/acme/web"))
    mail = ours.issue("mail", dns("mail.umbrella.example"))
    posing = ours.issue("posing", dns("web"), uri(account("acme")))
    foreign = others.issue("web", uri("spiffe://example/acme/web"))
    entries = [
        {"tenant": "acme", "callers": ["spiffe://example/acme/*", account("acme")]},
        {"tenant": "umbrella", "callers": ["dns:*.umbrella.example"]},
    ]
    socket = f"unix:{directory()}/socket"
    settings = {
        "tls_cert_file": str(ours.certificate),
        "tls_key_file": str(ours.key),
        "tls_client_ca_file": str(ours.authority),
        "tenants_file": tenants(tmp_path / "tenants.yaml", entries),
        "listen": (f"{LOOPBACK}:0", socket),
    }
    async with serving(tmp_path / "r.db", **settings) as server:

        async def seen(pair: tuple[Path, Path] | None) -> str:
            pod = Pod(server.target, tls=trusting(ours.authority, pair), timeout_s=5)
            try:
                await pod.append("s", "r", "hello")
                return (await pod.sessions.GetSession(session_pb2.GetSessionRequest(session_id="s"))).session.session_id
            except grpc.aio.AioRpcError as error:
                return (await refused(_raise(error))).reason or error.code().name
            finally:
                await pod.close()

        assert await seen(web) == await seen(mail) == "s"
        assert await seen(posing) == "TENANT_DENIED"  # a URI that reads like a service account is none
        assert await seen(foreign) == await seen(None) == "UNAVAILABLE"
        bare = Pod(server.target, timeout_s=5)
        assert (await refused(bare.hydrate("s"))).status == "UNAVAILABLE"
        await bare.close()
        by_socket = Pod(socket)
        assert (await refused(by_socket.hydrate("s"))).reason == "UNAUTHENTICATED"
        await by_socket.close()
        for tenant, count in (("acme", 1), ("umbrella", 1)):
            read = session_pb2.ListSessionsRequest(tenant_id=tenant)
            pod = Pod(server.target, tls=trusting(ours.authority, web if tenant == "acme" else mail))
            assert len((await pod.sessions.ListSessions(read)).sessions) == count
            await pod.close()


@pytest.mark.parametrize("name", ["certificate", "key", "authority"])
async def test_a_server_without_its_certificates_does_not_start(tmp_path: Path, name: str) -> None:
    """A file that is missing, no PEM, or of another pair is named before anything is opened."""
    ours, others = (Certificates.make(tmp_path / one) for one in ("ours", "others"))
    settings = {
        "tls_cert_file": str(ours.certificate),
        "tls_key_file": str(ours.key),
        "tls_client_ca_file": str(ours.authority),
    }
    changes = [lambda path: path.write_text("nonsense"), lambda path: path.unlink()]
    if name != "authority":
        changes.insert(0, lambda path: path.write_bytes(getattr(others, name).read_bytes()))
    for change in changes:
        change(getattr(ours, name))
        with pytest.raises(ConfigInvalid) as caught:
            async with serving(tmp_path / "r.db", **settings):
                pass
        assert caught.value.field in {"tls_cert_file", "tls_client_ca_file"}
    assert not (tmp_path / "r.db").exists()


# --- rotation under load ---------------------------------------------------------------------------------------------


class Load:
    """Callers that go on calling; each failure is kept."""

    def __init__(self, make: Callable[[], Pod], *, renewed: bool = False) -> None:
        """`renewed`: each call has a connection of its own."""
        self._make, self._renewed = make, renewed
        self.failures: list[str] = []
        self.count = 0

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._call(number)) for number in range(4)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _call(self, number: int) -> None:
        pod = self._make()
        try:
            while True:
                try:
                    await pod.hydrate(f"s{number}", timeout_s=20)
                except grpc.aio.AioRpcError as error:
                    self.failures.append(f"{error.code().name} {error.details()}")
                self.count += 1
                if self._renewed:
                    await pod.close()
                    pod = self._make()
        finally:
            await pod.close()

    async def go_on(self, calls: int = 40) -> None:
        """Let some more calls end."""
        end = self.count + calls

        async def done() -> bool:
            return self.count >= end

        await until(done, seconds=60)


def taken_up(server: Local, setting: str, count: int) -> Callable[[], Awaitable[bool]]:
    """Return what tells whether a change was taken up."""

    async def done() -> bool:
        return server.metrics().get(f'standpipe_mounted_taken_up_total{{setting="{setting}"}}', 0) >= count

    return done


async def test_tokens_rotate_under_load(tmp_path: Path) -> None:
    """A second token is added, callers move to it, the first is taken out: no call fails, and then the first does."""
    first, second = "the-first-token-of-callers", "the-second-token-of-callers"
    volume = Volume(tmp_path / "volume")
    volume.put(tokens=first)
    token = [first]
    async with serving(tmp_path / "r.db", auth_token_file=str(volume.path / "tokens")) as server:
        async with Load(lambda: Pod(server.target, token=lambda: token[0])) as load:
            await load.go_on()
            volume.put(tokens=f"{second}\n{first}")
            await until(taken_up(server, "auth_token_file", 1))
            token[0] = second
            await load.go_on()
            volume.put(tokens=second)
            await until(taken_up(server, "auth_token_file", 2))
            volume.put(tokens="")  # a mistake
            await load.go_on(200)
        assert load.failures == []
        async with calling(server, first) as late:
            assert (await refused(late.hydrate("s"))).reason == "UNAUTHENTICATED"


async def test_keys_and_tenants_rotate_under_load(tmp_path: Path) -> None:
    """An issuer's new key is used as soon as it is published, the old is withdrawn, a tenant comes: no call fails."""
    issuer = Issuer()
    settings = signed(tmp_path, issuer)
    tokens = [issuer.token(ACME)]
    async with serving(tmp_path / "r.db", **settings) as server:
        async with Load(lambda: Pod(server.target, token=lambda: tokens[-1])) as load:
            await load.go_on()
            issuer.add("key-1", "RS256")
            issuer.write(tmp_path / "jwks.json")
            tokens.append(issuer.token(ACME, key="key-1"))  # at once: nobody waits for the server to look
            await load.go_on()
            issuer.write(tmp_path / "jwks.json", "key-1")
            tenants(tmp_path / "tenants.yaml", [*ENTRIES, {"tenant": "third", "callers": [account("third")]}])
            await until(taken_up(server, "auth_jwks", 2))
            await until(taken_up(server, "tenants_file", 1))
            (tmp_path / "jwks.json").write_text("a mistake")
            (tmp_path / "tenants.yaml").write_text("a mistake")
            await load.go_on(200)
        assert load.failures == []
        async with calling(server, issuer.token(account("third"), key="key-1")) as third:
            await third.append("s", "r", "hello")
        issuer.write(tmp_path / "jwks.json", "key-1")
        async with calling(server, tokens[0]) as late:
            assert (await refused(late.hydrate("s"))).reason == "UNAUTHENTICATED"


async def test_certificates_rotate_under_load(tmp_path: Path) -> None:
    """The server's certificate and its callers' authority change while connections come and go: no call fails."""
    before, after = Certificates.make(tmp_path / "before"), Certificates.make(tmp_path / "after")
    volume = Volume(tmp_path / "volume")

    def put(of: Certificates, *authorities: Certificates) -> None:
        ca = "".join(one.authority.read_text() for one in authorities)
        volume.put(**{"tls.crt": of.certificate.read_text(), "tls.key": of.key.read_text(), "ca.crt": ca})

    put(before, before)
    uri = x509.UniformResourceIdentifier("spiffe://example/acme/web")
    pairs = [before.issue("web", uri), after.issue("web", uri)]
    both = tmp_path / "both.pem"
    both.write_bytes(before.authority.read_bytes() + after.authority.read_bytes())
    settings = {
        "tls_cert_file": str(volume.path / "tls.crt"),
        "tls_key_file": str(volume.path / "tls.key"),
        "tls_client_ca_file": str(volume.path / "ca.crt"),
        "tenants_file": tenants(tmp_path / "t.yaml", [{"tenant": "acme", "callers": ["spiffe://example/acme/*"]}]),
    }
    mine = [pairs[0]]
    async with serving(tmp_path / "r.db", **settings) as server:
        async with (
            Load(lambda: Pod(server.target, tls=trusting(both, mine[0])), renewed=True) as load,
            Load(lambda: Pod(server.target, tls=trusting(both, pairs[0]))) as kept,
        ):
            await load.go_on(10)
            put(before, before, after)
            await until(taken_up(server, "tls_cert_file", 1))
            mine[0] = pairs[1]
            put(after, before, after)
            await until(taken_up(server, "tls_cert_file", 2))
            await load.go_on(10)
            put(after, after)
            await until(taken_up(server, "tls_cert_file", 3))
            volume.put(**{"tls.crt": "a mistake", "tls.key": "", "ca.crt": ""})
            await load.go_on(10)
            await kept.go_on(10)  # a connection that stands is not cut
        assert load.failures == kept.failures == []
        new = Pod(server.target, tls=trusting(after.authority, pairs[1]))
        assert await new.hydrate("s")
        await new.close()
        for authority, pair in ((before.authority, pairs[1]), (after.authority, pairs[0])):
            late = Pod(server.target, tls=trusting(authority, pair), timeout_s=5)
            assert (await refused(late.hydrate("s"))).status == "UNAVAILABLE"
            await late.close()
