"""Callers: what a tenants file may say, whose a token is and for how long, and what happens while nobody can be asked.

Keys are made here, and the API server is a real one over TLS; see `tests/issuer.py`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import jwt
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from sidecar import callers, jwks, limits, mounted, token_file
from sidecar.callers import METHODS, Callers, callers_of
from sidecar.config import Config
from sidecar.errors import (
    AuthenticatorUnavailable,
    ConfigInvalid,
    DeadlineExceeded,
    InvalidField,
    Overloaded,
    StandpipeError,
    TenantDenied,
    Unauthenticated,
)
from sidecar.mounted import Mounted
from sidecar.policies import Policies
from sidecar.servicers.boundary import Shares
from sidecar.stores.sqlite import SqliteRecord
from sidecar.telemetry import Log, Telemetry
from sidecar.tokens import Tokenizers
from tests.certificates import Certificates
from tests.issuer import AUDIENCE, ISSUER, OURS, ApiServer, Issuer, Volume, account

ACME, UMBRELLA = account("acme"), account("umbrella")
ENTRIES: list[dict[str, Any]] = [
    {"tenant": "acme", "callers": ["system:serviceaccount:acme:*"]},
    {"tenant": "umbrella", "callers": ["system:serviceaccount:umbrella:*", account("both")]},
    {"tenant": "acme", "callers": [account("both")], "methods": ["ContextService/HydrateContext"]},
]


def write(path: Path, entries: Any) -> str:
    """Write a tenants file at once."""
    fresh = path.with_suffix(".new")
    fresh.write_text(entries if isinstance(entries, str) else yaml.safe_dump({"tenants": entries}))
    return str(fresh.rename(path))


def parsed(entries: Any) -> callers.Tenants:
    """Read a tenants file's text."""
    text = entries if isinstance(entries, str) else yaml.safe_dump({"tenants": entries})
    return callers.parse(text.encode(), "tenants.yaml")


@pytest.fixture
def telemetry() -> Telemetry:
    """Return one whose log can be read."""
    return Telemetry(Log(io.StringIO()))


def said(telemetry: Telemetry) -> str:
    """Return what was logged."""
    stream = telemetry.log._stream
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


async def admitted(
    known: Callers,
    token: str = "",
    *,
    method: str = "HydrateContext",
    tenant: str | None = "",
    names: Sequence[str] = (),
    within_s: float = 10.0,
) -> str:
    """Ask for which tenant a call is."""
    return await known.admit(
        method,
        authorization=[f"Bearer {token}"] if token else [],
        certificate=lambda: names,
        tenant=tenant,
        deadline=time.monotonic() + within_s,
    )


# --- the tenants file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("system:serviceaccount:acme:*", "system:serviceaccount:acme:web", True),
        ("system:serviceaccount:acme:*", "system:serviceaccount:acme:a:b", False),
        ("system:serviceaccount:acme:*", "system:serviceaccount:acme-2:web", False),
        ("system:serviceaccount:acme:*", "xsystem:serviceaccount:acme:web", False),
        ("system:serviceaccount:*:web", "system:serviceaccount:a:b:web", False),
        ("system:serviceaccount:team-*:*-app", "system:serviceaccount:team-1:my-app", True),
        ("spiffe://example/ns/*/sa/web", "spiffe://example/ns/acme/sa/web", True),
        ("spiffe://example/ns/*/sa/web", "spiffe://example/ns/acme/x/sa/web", False),
        ("spiffe://example/*", "spiffe://example/ns/acme", False),
        ("dns:*.acme.example", "dns:a.acme.example", True),
        ("dns:*.acme.example", "dns:aXacmeXexample", False),
        ("a.c", "abc", False),
        ("*a*b*c", "xxaxxbxxbxxc", True),
        ("**", "anything", True),
        ("*", "", True),
    ],
)
def test_a_star_stands_for_a_part(pattern: str, name: str, matches: bool) -> None:
    """A star matches anything but : and /; all else matches itself alone, and the whole name (P8)."""
    tenants = parsed([{"tenant": "t", "callers": [pattern]}])
    assert (tenants.rights([name]) != {}) is matches


@given(
    st.lists(st.text("ab:/", max_size=3), min_size=1, max_size=4).map("*".join).filter(bool),
    st.text("ab:/", max_size=8),
)
def test_a_pattern_matches_as_its_plain_expression(pattern: str, name: str) -> None:
    """The expression that never looks back twice finds what the plain one finds."""
    plain = "[^:/]*".join(re.escape(part) for part in pattern.split("*"))
    assert bool(re.fullmatch(callers._expression(pattern), name)) is bool(re.fullmatch(plain, name))


def test_no_pattern_takes_long() -> None:
    """A pattern of many stars is decided at once, also for the longest of names (caller_chars_max)."""
    pattern = re.compile(callers._expression("*a" * 200 + "*b"))
    assert pattern.fullmatch("a" * limits.caller_chars_max) is None


def test_entries_add_up() -> None:
    """A caller may act for the tenants of all its entries, with all their methods."""
    tenants = parsed([*ENTRIES, {"tenant": "acme", "callers": [account("both")], "methods": ["SessionService/*"]}])
    rights = tenants.rights([account("both")])
    assert rights["umbrella"] == set(METHODS)
    assert rights["acme"] == {"HydrateContext", "GetSession", "ListSessions", "ListEvents", "EndSession"}
    assert tenants.rights([account("nobody")]) == {}
    assert tenants.rights([ACME, UMBRELLA]).keys() == {"acme", "umbrella"}


def test_a_namespace_can_be_the_tenant() -> None:
    """{namespace} is that of the caller's service account, and of nothing else."""
    tenants = parsed([{"tenant": "{namespace}", "callers": ["system:serviceaccount:*:app"]}])
    assert tenants.rights([account("red"), "dns:blue"]).keys() == {"red"}
    assert tenants.rights(["system:serviceaccount:sp ace:app"]) == {}


WRONG: list[tuple[Any, str]] = [
    ("", "it must be a mapping"),
    ("[]", "it must be a mapping"),
    ("tenants: []\nother: 1", "it must be a mapping"),
    ("tenants: [", "it must be YAML"),
    ("tenants: []\ntenants: []", "it must be YAML, with no key twice"),
    ("tenants:\n- {tenant: a, callers: [b], tenant: c}", "it must be YAML, with no key twice"),
    ("[" * 5000, "it must be YAML"),
    ("\x00", "it must be YAML"),
    ("? [a]\n: 1", "it must be YAML"),
    ("tenants: {}", "tenants must be a list"),
    ("tenants: []", "tenants must be a list"),
    ([1], r"tenants\[0\] must be a mapping"),
    ([{"tenant": "a"}], r"tenants\[0\] must be a mapping"),
    ([{"tenant": "a", "callers": ["b"], "caller": ["c"]}], r"tenants\[0\] must be a mapping"),
    ([ENTRIES[0], {"tenant": 2024, "callers": ["b"]}], r"tenants\[1\]\.tenant must be"),
    ([{"tenant": "a b", "callers": ["b"]}], r"tenants\[0\]\.tenant must be"),
    ([{"tenant": "x-{namespace}", "callers": ["system:serviceaccount:*:*"]}], r"tenants\[0\]\.tenant must be"),
    ([{"tenant": "a", "callers": "b"}], r"tenants\[0\]\.callers must be a list"),
    ([{"tenant": "a", "callers": []}], r"tenants\[0\]\.callers must be a list"),
    ([{"tenant": "a", "callers": ["b", "c d"]}], r"tenants\[0\]\.callers\[1\] must be"),
    ([{"tenant": "a", "callers": [5]}], r"tenants\[0\]\.callers\[0\] must be"),
    ([{"tenant": "{namespace}", "callers": ["*"]}], r"tenants\[0\]\.callers\[0\] must be of service accounts"),
    ([{"tenant": "a", "callers": ["b"], "methods": []}], r"tenants\[0\]\.methods must be a list"),
    ([{"tenant": "a", "callers": ["b"], "methods": ["Hydrate"]}], r"tenants\[0\]\.methods\[0\] must be"),
    ([{"tenant": "a", "callers": ["b"], "methods": ["*/*", "ContextServices/*"]}], r"tenants\[0\]\.methods\[1\] must"),
    ([{"tenant": "a", "callers": ["b"], "methods": [None]}], r"tenants\[0\]\.methods\[0\] must be"),
]


@pytest.mark.parametrize(("entries", "problem"), WRONG)
def test_what_is_wrong_with_a_tenants_file_is_named(entries: Any, problem: str) -> None:
    """Every mistake names the file and the field, and nothing of the file is quoted."""
    with pytest.raises(ConfigInvalid, match=f"^tenants.yaml: {problem}") as caught:
        parsed(entries)
    assert caught.value.field == "tenants_file"


def test_a_tenants_file_has_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond tenants_entries_max entries, tenants_patterns_max patterns, caller_chars_max characters it is refused."""
    monkeypatch.setattr(limits, "tenants_entries_max", 2)
    parsed(ENTRIES[:2])
    with pytest.raises(ConfigInvalid, match="a list of 1 to 2 entries"):
        parsed(ENTRIES[:3])
    most = ["c" * limits.caller_chars_max] * limits.tenants_patterns_max
    parsed([{"tenant": "a", "callers": most}])
    for bad in ([*most, "c"], [most[0] + "c"]):
        with pytest.raises(ConfigInvalid, match="callers"):
            parsed([{"tenant": "a", "callers": bad}])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner)
            | (st.dictionaries(st.sampled_from(["tenants", "tenant", "callers", "methods", "*"]), inner))
        ),
        max_leaves=12,
    )
)
def test_any_tenants_file_is_read_or_refused(whole: Any) -> None:
    """Whatever a file holds, it is read or refused as ConfigInvalid, and nothing else."""
    with contextlib.suppress(ConfigInvalid):
        parsed(yaml.safe_dump(whole))


# --- mounted files ---------------------------------------------------------------------------------------------------


def test_a_swapped_volume_is_taken_up(tmp_path: Path, telemetry: Telemetry) -> None:
    """The swap of a symlink is seen; what is wrong leaves the old in force, is logged once, and can be mended."""
    volume = Volume(tmp_path / "volume")
    one, two = "first-token-of-ours", "second-token-of-ours"
    volume.put(tokens=one)
    path = str(volume.path / "tokens")
    file = Mounted([path], lambda raw: token_file.parse(raw, path), setting="auth_token_file", telemetry=telemetry)
    digests = [hashlib.sha256(token.encode()).digest() for token in (one, two)]
    assert file.value == (digests[0],)
    volume.put(tokens=f"{one}\n\n{two}\n")
    file.look()
    assert file.value == tuple(digests)
    for bad in ("", "\n", "short", f"{one}\n{two}\nthird-token-of-ours", "a token with blanks"):
        volume.put(tokens=bad)
        file.look()
        file.look()
        assert file.value == tuple(digests)
    volume.put(tokens=two)
    file.look()
    assert file.value == (digests[1],)
    lines = [json.loads(line) for line in said(telemetry).splitlines()]
    refused = [line for line in lines if line["event"] == "changed files refused"]
    assert len(refused) == 4  # each once, until another was wrong
    assert not any(token in said(telemetry) for token in (one, two, 'short"'))
    assert telemetry.mounted_refused.labels("auth_token_file")._value.get() == len(refused)
    assert telemetry.mounted_taken_up.labels("auth_token_file")._value.get() == 2


def test_files_that_belong_together_are_of_one_time(tmp_path: Path, telemetry: Telemetry) -> None:
    """A swap between the readings of two files is noticed: they are read until two readings agree."""
    volume = Volume(tmp_path / "volume")
    volume.put(a="1", b="1")
    paths = [str(volume.path / name) for name in "ab"]
    seen: list[tuple[bytes, bytes]] = []
    file: Mounted[tuple[bytes, bytes]] = Mounted(
        paths, lambda *both: seen.append(both) or both, setting="tls_cert_file", telemetry=telemetry
    )
    plain, swapped = mounted.read, []

    def swap(path: Path, setting: str) -> bytes:
        content = plain(path, setting)
        if path.name == "a" and not swapped:
            swapped.append(True)
            volume.put(a="2", b="2")
        return content

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mounted, "read", swap)
        file.look()
    assert file.value == (b"2", b"2")
    assert seen == [(b"1", b"1"), (b"2", b"2")]


def test_a_mounted_file_has_a_size(tmp_path: Path) -> None:
    """Beyond mounted_bytes, and where it cannot be read, a file is refused with its setting."""
    path = tmp_path / "file"
    path.write_bytes(bytes(limits.mounted_bytes))
    assert len(mounted.read(path, "tenants_file")) == limits.mounted_bytes
    path.write_bytes(bytes(limits.mounted_bytes + 1))
    for bad in (path, tmp_path / "nowhere", tmp_path, Path("a\0b")):
        with pytest.raises(ConfigInvalid) as caught:
            mounted.read(bad, "tenants_file")
        assert caught.value.field == "tenants_file"


# --- tokens of a file ------------------------------------------------------------------------------------------------


async def test_tokens_of_a_file(tmp_path: Path, telemetry: Telemetry) -> None:
    """Either of two tokens is taken and no other; one that is taken out no longer is (P8)."""
    path = tmp_path / "tokens"
    path.write_text("first-token-of-ours\r\n  second-token-of-ours  \n")
    async with callers_of(Config(tenant="acme", auth_token_file=str(path)), telemetry) as known:
        assert known is not None
        for token in ("first-token-of-ours", "second-token-of-ours"):
            assert await admitted(known, token) == "acme"
            assert await admitted(known, token, tenant="acme") == "acme"
            assert await admitted(known, token, tenant=None) == "acme"
            with pytest.raises(TenantDenied):
                await admitted(known, token, tenant="umbrella")
        for bad in ("first-token-of-our", "first-token-of-oursx", "x"):
            with pytest.raises(Unauthenticated):
                await admitted(known, bad)
        with pytest.raises(Unauthenticated):  # a certificate alone is not what was asked for
            await admitted(known, names=["dns:somebody"])
        path.write_text("second-token-of-ours\n")
        await until_refused(known, "first-token-of-ours")
        assert await admitted(known, "second-token-of-ours") == "acme"


async def until_refused(known: Callers, token: str) -> None:
    """Wait until a token is taken no longer."""
    async with asyncio.timeout(20):
        while True:
            try:
                await admitted(known, token)
            except Unauthenticated:
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "authorization",
    [
        ["first-token-of-ours"],
        ["Basic first-token-of-ours"],
        ["Bearer"],
        ["Bearer  "],
        ["Bearer first-token-of-ours x"],
        ["Bearer first-token-of-ours", "Bearer first-token-of-ours"],
        ["Bearer first-token-öf-ours"],
        ["Bearer " + "x" * (limits.bearer_bytes + 1)],
    ],
)
async def test_a_bearer_token_has_one_form(tmp_path: Path, telemetry: Telemetry, authorization: list[str]) -> None:
    """Anything but one Bearer token of at most bearer_bytes is no credential, and is not quoted."""
    path = tmp_path / "tokens"
    path.write_text("first-token-of-ours\n")
    async with callers_of(Config(auth_token_file=str(path)), telemetry) as known:
        assert known is not None
        with pytest.raises(Unauthenticated) as caught:
            await known.admit(
                "HydrateContext",
                authorization=authorization,
                certificate=lambda: ["dns:x"],
                tenant="",
                deadline=time.monotonic() + 9,
            )
        assert "first" not in caught.value.message
        found = await known.admit(
            "HydrateContext",
            authorization=["bearer first-token-of-ours"],
            certificate=list,
            tenant="",
            deadline=time.monotonic() + 9,
        )
        assert found == "default"


@pytest.mark.parametrize("content", ["", "short", "one-token-of-ours\n" * 3, "tökens-of-nobody-at-all"])
async def test_a_token_file_that_is_none_refuses_to_start(tmp_path: Path, telemetry: Telemetry, content: str) -> None:
    """Without a good file nothing starts, and the file's name is in the error and its content is not."""
    path = tmp_path / "tokens"
    path.write_text(content)
    with pytest.raises(ConfigInvalid, match=str(path)) as caught:
        async with callers_of(Config(auth_token_file=str(path)), telemetry):
            pass
    assert caught.value.field == "auth_token_file"
    assert not content or content not in caught.value.message


# --- tokens that an issuer signed ------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def signed(tmp_path: Path, telemetry: Telemetry, issuer: Issuer, **changes: Any) -> AsyncIterator[Callers]:
    """Know callers by tokens that an issuer signs."""
    settings = {
        "auth_jwks": str(issuer.write(tmp_path / "jwks.json")),
        "auth_issuer": ISSUER,
        "tenants_file": write(tmp_path / "tenants.yaml", ENTRIES),
        **changes,
    }
    async with callers_of(Config(**settings), telemetry) as known:
        assert known is not None
        yield known


KINDS = ("RS256", "ES256", "ES384", "PS512", "EdDSA")


async def test_every_algorithm_of_public_keys(tmp_path: Path, telemetry: Telemetry) -> None:
    """Tokens of RSA, elliptic curves and Ed25519 are taken, each by its own key."""
    issuer = Issuer(*KINDS)
    async with signed(tmp_path, telemetry, issuer) as known:
        for key in issuer.keys:
            assert await admitted(known, issuer.token(ACME, key=key)) == "acme"
            other = next(name for name in issuer.keys if name != key)
            with pytest.raises(Unauthenticated):
                await admitted(known, issuer.token(ACME, key=key, header={"kid": other}))


async def test_what_a_caller_may_do(tmp_path: Path, telemetry: Telemetry) -> None:
    """The tenant follows from the caller; another, none of several, and a method not allowed are refused (P8)."""
    issuer = Issuer()
    async with signed(tmp_path, telemetry, issuer) as known:
        acme, both, nobody = (issuer.token(account(name)) for name in ("acme", "both", "nobody"))
        assert await admitted(known, acme) == await admitted(known, acme, tenant="acme") == "acme"
        assert await admitted(known, acme, tenant=None, method="GetServerInfo") == ""
        assert await admitted(known, both, tenant="umbrella", method="CommitTurn") == "umbrella"
        assert await admitted(known, both, tenant="acme") == "acme"
        for token, asked in (
            (acme, {"tenant": "umbrella"}),
            (both, {"tenant": "acme", "method": "CommitTurn"}),
            (both, {"tenant": "third"}),
            (nobody, {}),
            (nobody, {"tenant": "acme"}),
            (nobody, {"tenant": None, "method": "GetServerInfo"}),
        ):
            with pytest.raises(TenantDenied):
                await admitted(known, token, **asked)
        with pytest.raises(InvalidField) as caught:
            await admitted(known, both)
        assert caught.value.field == "tenant_id"
        assert telemetry.authentications.labels("denied")._value.get() == 7


def forged(issuer: Issuer, header: dict[str, Any], body: dict[str, Any] | None = None, signature: bytes = b"") -> str:
    """Return a token that was put together by hand."""
    claims = jwt.decode(issuer.token(ACME), options={"verify_signature": False})
    parts = [json.dumps(part).encode() for part in (header, {**claims, **(body or {})})]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*parts, signature))


def bad_tokens(issuer: Issuer) -> Iterator[str]:
    """Yield tokens of which none may pass."""
    good = issuer.token(ACME)
    head, body, signature = good.split(".")
    other = jwt.decode(issuer.token(UMBRELLA), options={"verify_signature": False})
    swapped = base64.urlsafe_b64encode(json.dumps(other).encode()).rstrip(b"=").decode()
    yield f"{head}.{swapped}.{signature}"
    yield f"{head}.{body}."
    yield f"{head}.{body}"
    yield good[:-8]
    yield "not-a-token"
    yield "a.b.c"
    yield Issuer().token(ACME)  # the same key id, another key
    yield forged(issuer, {"alg": "ES256", "kid": 5}, signature=b"x" * 64)
    yield forged(issuer, {"alg": "ES256", "kid": "key-0"}, signature=b"x" * 64)
    yield forged(issuer, {"alg": "none", "kid": "key-0"})
    yield forged(issuer, {"alg": "None"})
    yield forged(issuer, {"kid": "key-0"})
    # A shared secret made of what everybody can read.
    public = issuer.keys["key-0"][1].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for secret in (pem, json.dumps(issuer.public("key-0")).encode()):
        signed_part = forged(issuer, {"alg": "HS256", "kid": "key-0"}).rpartition(".")[0]
        digest = hmac.digest(secret, signed_part.encode(), "sha256")
        yield f"{signed_part}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
    yield issuer.token(ACME, valid_s=-limits.jwt_leeway_s - 2)
    yield issuer.token(ACME, exp=None)
    yield issuer.token(ACME, exp="never")
    yield issuer.token(ACME, iss="https://other.example")
    yield issuer.token(ACME, iss=None)
    yield issuer.token(ACME, aud="https://kubernetes.default.svc")
    yield issuer.token(ACME, aud=None)
    yield issuer.token(ACME, aud=[])
    yield issuer.token(ACME, nbf=time.time() + limits.jwt_leeway_s + 60)
    yield issuer.token("", sub=None)
    yield issuer.token("")
    yield issuer.token("x" * (limits.caller_chars_max + 1))
    yield issuer.token("dns:acme.example")  # a certificate's names are no issuer's to give


async def test_a_token_that_is_not_good_is_refused(tmp_path: Path, telemetry: Telemetry) -> None:
    """Forged, expired, early, foreign and unsigned tokens are all refused, in words that hold nothing of them (P8)."""
    issuer = Issuer()
    entries = [*ENTRIES, {"tenant": "acme", "callers": ["dns:*"]}]
    async with signed(tmp_path, telemetry, issuer, tenants_file=write(tmp_path / "more.yaml", entries)) as known:
        for token in bad_tokens(issuer):
            with pytest.raises(Unauthenticated) as caught:
                await admitted(known, token)
            assert token not in caught.value.message
        assert await admitted(known, issuer.token(ACME)) == "acme"
    assert "eyJ" not in said(telemetry)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60), st.booleans())
def test_any_text_is_a_token_or_refused(text: str, dotted: bool) -> None:
    """Whatever stands for a token, what becomes of it is a refusal and no defect."""
    verifier = jwks.Jwks(
        "nowhere", issuer=ISSUER, audience=AUDIENCE, authority=None, telemetry=Telemetry(Log(io.StringIO()))
    )
    token = f"{jwt.encode({}, None, algorithm='none').split('.')[0]}.{text}" if dotted else text
    with pytest.raises(StandpipeError) as caught:
        asyncio.run(verifier.check(token))
    assert isinstance(caught.value, Unauthenticated | AuthenticatorUnavailable)


async def test_clocks_may_differ_a_little(tmp_path: Path, telemetry: Telemetry) -> None:
    """Within jwt_leeway_s a token that is just over, or just about to begin, is taken."""
    issuer = Issuer()
    async with signed(tmp_path, telemetry, issuer) as known:
        assert await admitted(known, issuer.token(ACME, valid_s=-limits.jwt_leeway_s / 2)) == "acme"
        assert await admitted(known, issuer.token(ACME, nbf=time.time() + limits.jwt_leeway_s / 2)) == "acme"


async def test_a_known_token_ends_with_its_time(tmp_path: Path, telemetry: Telemetry) -> None:
    """What is known of a token is kept until the token's end, and not beyond."""
    issuer = Issuer()
    async with signed(tmp_path, telemetry, issuer) as known:
        token = issuer.token(ACME, valid_s=1 - limits.jwt_leeway_s)
        assert await admitted(known, token) == "acme"
        await until_refused(known, token)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"keys": {}}',
        '{"keys": []}',
        '{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "key-0"}]}',
        '{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}',
        '{"keys": [{"kty": "EC", "crv": "P-256", "x": "a", "y": "b"}]}',
        '{"keys": [5, null, {"kty": []}]}',
        "[" * 10_000,
    ],
)
def test_a_jwks_without_a_good_key_is_refused(content: str) -> None:
    """No list, no key, a shared secret, a weak key and a broken one: all are refused with the file's name."""
    with pytest.raises(ConfigInvalid, match=r"^keys\.json must ") as caught:
        jwks.parse(content.encode(), "keys.json")
    assert caught.value.field == "auth_jwks"


def test_keys_that_check_no_signatures_are_passed_over() -> None:
    """Keys to encrypt with, secret ones, and those of another algorithm than they name are left out."""
    issuer = Issuer("ES256", "RS256")
    good = issuer.public("key-0")
    others = [
        {**good, "use": "enc"},
        {**good, "alg": "ES384"},
        {**good, "alg": "HS256"},
        {**good, "alg": "none"},
        {**good, "d": "AQAB"},
    ]
    (key,) = jwks.parse(json.dumps({"keys": [*others, good]}).encode(), "keys.json")
    assert (key.id, key.algorithms) == ("key-0", ("ES256",))
    bare = {name: value for name, value in issuer.public("key-1").items() if name not in {"alg", "use", "kid"}}
    (key,) = jwks.parse(json.dumps({"keys": [bare]}).encode(), "keys.json")
    assert (key.id, key.algorithms[0]) == ("", "RS256")
    many = {"keys": [good] * (limits.jwks_keys_max + 1)}
    with pytest.raises(ConfigInvalid, match=f"at most {limits.jwks_keys_max} keys"):
        jwks.parse(json.dumps(many).encode(), "keys.json")


async def test_a_new_key_is_found_with_its_first_token(
    tmp_path: Path, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token of a key that was just published waits for the next reading, and is taken; an unknown one is refused."""
    monkeypatch.setattr(limits, "mounted_look_s", 3600)
    monkeypatch.setattr(limits, "jwks_pause_s", 0.3)
    issuer = Issuer()
    async with signed(tmp_path, telemetry, issuer) as known:
        with pytest.raises(Unauthenticated):
            await admitted(known, Issuer().token(ACME, header={"kid": "nobody's"}))
        issuer.add("key-1", "RS256")
        issuer.write(tmp_path / "jwks.json")
        tokens = [issuer.token(account("acme", f"a{number}"), key="key-1") for number in range(8)]
        assert set(await asyncio.gather(*(admitted(known, token) for token in tokens))) == {"acme"}
        # A key that was withdrawn counts no more with the next reading, also for tokens that were known.
        issuer.write(tmp_path / "jwks.json", "key-1")
        with pytest.raises(Unauthenticated):
            await admitted(known, Issuer().token(ACME, header={"kid": "nobody's"}))
        with pytest.raises(Unauthenticated):
            await admitted(known, issuer.token(ACME, key="key-0"))


async def test_unknown_keys_are_no_load(tmp_path: Path, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of tokens of unknown keys make the JWKS be read once in jwks_pause_s, over https."""
    monkeypatch.setattr(limits, "jwks_pause_s", 0.5)
    issuer, made = Issuer(), Certificates.make(tmp_path / "tls")
    with ApiServer(made) as server:
        server.jwks = issuer.jwks()
        own = tmp_path / "own"
        own.write_text(OURS)
        https = {
            "auth_jwks": f"{server.url}/openid/v1/jwks",
            "auth_ca_file": str(made.authority),
            "auth_api_token_file": str(own),
        }
        async with signed(tmp_path, telemetry, issuer, **https) as known:
            assert await admitted(known, issuer.token(ACME)) == "acme"
            began, looks = time.monotonic(), server.looks
            strangers = [Issuer().token(ACME, header={"kid": f"k{number}"}) for number in range(50)]
            found = await asyncio.gather(*(admitted(known, one) for one in strangers), return_exceptions=True)
            assert {type(one) for one in found} == {Unauthenticated}
            assert server.looks - looks <= 2 + (time.monotonic() - began) / limits.jwks_pause_s
            assert await admitted(known, issuer.token(ACME)) == "acme"
            # Away, what is known goes on, and what is not cannot be told.
            server.status = 503
            assert await admitted(known, issuer.token(UMBRELLA)) == "umbrella"
            with pytest.raises(AuthenticatorUnavailable):
                await admitted(known, strangers[0])
            # Those who wait are few.
            monkeypatch.setattr(limits, "authority_waiting_max", 0)
            with pytest.raises(AuthenticatorUnavailable):
                await admitted(known, strangers[0])


async def test_a_withdrawn_key_counts_no_longer(
    tmp_path: Path, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over https the keys are read every jwks_look_s: one that was withdrawn is out, for tokens that were known too."""
    monkeypatch.setattr(limits, "jwks_look_s", 0.1)
    monkeypatch.setattr(limits, "jwks_pause_s", 0.05)
    issuer, made = Issuer("ES256", "ES256"), Certificates.make(tmp_path / "tls")
    with ApiServer(made) as server:
        server.jwks = issuer.jwks()
        https = {**server.settings(tmp_path), "auth_review": "", "auth_jwks": f"{server.url}/openid/v1/jwks"}
        async with signed(tmp_path, telemetry, issuer, **https) as known:
            token = issuer.token(ACME, key="key-0")
            assert await admitted(known, token) == "acme"
            server.jwks = issuer.jwks("key-1")
            await until_refused(known, token)
            assert await admitted(known, issuer.token(ACME, key="key-1")) == "acme"


async def test_a_jwks_over_https_may_come_later(tmp_path: Path, telemetry: Telemetry) -> None:
    """A place that is away when a sidecar starts is asked with the first token; a wrong answer changes nothing."""
    issuer, made = Issuer(), Certificates.make(tmp_path / "tls")
    with ApiServer(made) as server:
        own = tmp_path / "own"
        own.write_text(OURS)
        server.status = 500
        https = {
            "auth_jwks": f"{server.url}/openid/v1/jwks",
            "auth_ca_file": str(made.authority),
            "auth_api_token_file": str(own),
        }
        async with signed(tmp_path, telemetry, issuer, **https) as known:
            with pytest.raises(AuthenticatorUnavailable) as caught:
                await admitted(known, issuer.token(ACME))
            assert caught.value.retry_after_ms
            server.status = 0
            server.jwks = issuer.jwks()
            assert await admitted(known, issuer.token(ACME)) == "acme"
            server.jwks = {"keys": "none"}
            with pytest.raises(AuthenticatorUnavailable):
                await admitted(known, Issuer().token(ACME, header={"kid": "k"}))
            assert await admitted(known, issuer.token(UMBRELLA)) == "umbrella"


# --- tokens that an API server reviews -------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def reviewed(tmp_path: Path, telemetry: Telemetry) -> AsyncIterator[tuple[Callers, ApiServer]]:
    """Know callers by reviews of a server."""
    with ApiServer(Certificates.make(tmp_path / "tls")) as server:
        server.accounts = {
            "token-of-acme": (ACME, [AUDIENCE, "other"]),
            "token-of-umbrella": (UMBRELLA, [AUDIENCE]),
            "token-for-others": (ACME, ["https://kubernetes.default.svc"]),
        }
        settings = {**server.settings(tmp_path), "tenants_file": write(tmp_path / "tenants.yaml", ENTRIES)}
        async with callers_of(Config(**settings), telemetry) as known:
            assert known is not None
            yield known, server


async def test_a_review_tells_whose_a_token_is(tmp_path: Path, telemetry: Telemetry) -> None:
    """A token is reviewed once for all who bring it; one for another audience, and an unknown one, are refused (P8)."""
    async with reviewed(tmp_path, telemetry) as (known, server):
        assert set(await asyncio.gather(*(admitted(known, "token-of-acme") for _ in range(20)))) == {"acme"}
        assert await admitted(known, "token-of-acme") == "acme"
        assert len(server.reviews) == 1
        assert await admitted(known, "token-of-umbrella") == "umbrella"
        for bad in ("token-for-others", "token-of-nobody"):
            for _ in range(3):
                with pytest.raises(Unauthenticated):
                    await admitted(known, bad)
        assert len(server.reviews) == 4  # within review_refused_s none is asked for again
        assert telemetry.authority_calls.labels("answered")._value.get() == 4


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", AuthenticatorUnavailable),
        (b"[]", AuthenticatorUnavailable),
        (b'{"status": 5}', AuthenticatorUnavailable),
        (b'{"status": {"authenticated": true}}', AuthenticatorUnavailable),
        (b"x" * (limits.authority_answer_bytes + 1), AuthenticatorUnavailable),
        (b'{"status": {"authenticated": true, "user": {"username": "%s"}}}', Unauthenticated),
        (b'{"status": {"authenticated": true, "user": {"username": "%s"}, "audiences": ["x"]}}', Unauthenticated),
        (b'{"status": {"authenticated": true, "user": {"username": "%s"}, "audiences": "standpipe"}}', Unauthenticated),
        (
            b'{"status": {"authenticated": "yes", "user": {"username": "%s"}, "audiences": ["standpipe"]}}',
            Unauthenticated,
        ),
        (
            b'{"status": {"error": 1, "authenticated": true, "user": {"username": "%s"}, "audiences": ["standpipe"]}}',
            Unauthenticated,
        ),
        (b'{"status": {"authenticated": true, "user": {"username": 5}, "audiences": ["standpipe"]}}', Unauthenticated),
        (b'{"status": {}}', Unauthenticated),
    ],
)
async def test_an_odd_answer_vouches_for_nobody(
    tmp_path: Path, telemetry: Telemetry, answer: bytes, error: type[StandpipeError]
) -> None:
    """Only `authenticated` true with our audience among `audiences` counts; what is no review is an outage."""
    async with reviewed(tmp_path, telemetry) as (known, server):
        server.answer = answer.replace(b"%s", ACME.encode())
        with pytest.raises(error):
            await admitted(known, "token-of-acme")


@pytest.mark.parametrize("status", [301, 401, 403, 404, 429, 500, 503])
async def test_a_server_that_refuses_us_refuses_no_caller(tmp_path: Path, telemetry: Telemetry, status: int) -> None:
    """Whatever goes wrong between this process and the API server, no caller's token is called bad for it."""
    async with reviewed(tmp_path, telemetry) as (known, server):
        server.status = status
        with pytest.raises(AuthenticatorUnavailable):
            await admitted(known, "token-of-acme")
        server.status = 0
        assert await admitted(known, "token-of-acme") == "acme"
        assert f'"cause": "{status}"' in said(telemetry)


async def test_another_servers_certificate_is_not_taken(tmp_path: Path, telemetry: Telemetry) -> None:
    """A server whose certificate another authority signed is not asked, and gets no token (P8)."""
    other = Certificates.make(tmp_path / "other")
    async with reviewed(tmp_path, telemetry) as (_, server):
        settings = {
            **server.settings(tmp_path),
            "auth_ca_file": str(other.authority),
            "tenants_file": write(tmp_path / "more.yaml", ENTRIES),
        }
        async with callers_of(Config(**settings), telemetry) as known:
            assert known is not None
            with pytest.raises(AuthenticatorUnavailable):
                await admitted(known, "token-of-acme")
        assert server.reviews == []


async def test_a_hanging_server_holds_up_nobody_for_long(
    tmp_path: Path, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deadlines hold while a review hangs; who is known is not asked for; after some the server is left alone (P12)."""
    monkeypatch.setattr(limits, "authority_call_ms", 300)
    monkeypatch.setattr(limits, "breaker_pause_ms", 60_000)
    monkeypatch.setattr(limits, "breaker_pause_longest_ms", 60_000)
    async with reviewed(tmp_path, telemetry) as (known, server):
        assert await admitted(known, "token-of-acme") == "acme"
        server.hold.clear()
        with pytest.raises(DeadlineExceeded) as late:
            await admitted(known, "token-of-umbrella", within_s=0.05)
        assert late.value.metadata["phase"] == "authenticate"
        for number in range(limits.breaker_failures_max):
            with pytest.raises(AuthenticatorUnavailable):
                await admitted(known, f"new-token-{number}")
        asked = len(server.reviews)
        with pytest.raises(AuthenticatorUnavailable) as left_alone:
            await admitted(known, "token-of-umbrella")
        assert left_alone.value.retry_after_ms > 1000
        assert len(server.reviews) == asked
        assert await admitted(known, "token-of-acme") == "acme"


async def test_reviews_at_work_are_bounded(
    tmp_path: Path, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond authority_waiting_max new tokens the next is told to come again; authority_calls_max are asked at once."""
    monkeypatch.setattr(limits, "authority_waiting_max", 12)
    async with reviewed(tmp_path, telemetry) as (known, server):
        server.hold.clear()
        server.accounts |= {f"token-{number}": (ACME, [AUDIENCE]) for number in range(12)}
        calls = [asyncio.create_task(admitted(known, f"token-{number}")) for number in range(12)]
        for _ in range(limits.authority_calls_max):
            assert await asyncio.to_thread(server.reached.acquire, timeout=20)
        with pytest.raises(AuthenticatorUnavailable):
            await admitted(known, "one-more")
        assert len(server.reviews) == limits.authority_calls_max
        server.hold.set()
        assert set(await asyncio.gather(*calls)) == {"acme"}


async def test_a_deleted_account_is_out_within_a_minute(
    tmp_path: Path, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A review counts for review_fresh_s and is asked again before, while no call waits; then a deletion holds."""
    monkeypatch.setattr(limits, "review_fresh_s", 0.4)
    async with reviewed(tmp_path, telemetry) as (known, server):
        assert await admitted(known, "token-of-acme") == "acme"
        del server.accounts["token-of-acme"]
        await until_refused(known, "token-of-acme")
        assert len(server.reviews) >= 2


async def test_known_callers_stay_known_while_the_server_is_away(
    tmp_path: Path, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage ends no known caller for review_good_s, and then it does."""
    monkeypatch.setattr(limits, "review_fresh_s", 0.1)
    monkeypatch.setattr(limits, "review_good_s", 3.0)
    async with reviewed(tmp_path, telemetry) as (known, server):
        assert await admitted(known, "token-of-acme") == "acme"
        server.status = 503
        await asyncio.sleep(0.3)
        assert await admitted(known, "token-of-acme") == "acme"
        async with asyncio.timeout(20):
            while True:
                try:
                    await admitted(known, "token-of-acme")
                except AuthenticatorUnavailable:
                    break
                await asyncio.sleep(0.1)
        server.status = 0
        async with asyncio.timeout(20):  # a breaker may leave it alone for a moment
            while True:
                with contextlib.suppress(AuthenticatorUnavailable):
                    assert await admitted(known, "token-of-acme") == "acme"
                    break
                await asyncio.sleep(0.1)


async def test_known_callers_do_not_wait_for_a_server_that_hangs(
    tmp_path: Path, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A review that is over while the server hangs costs one call half its time at most; then nobody waits (P12)."""
    monkeypatch.setattr(limits, "review_fresh_s", 0.05)
    async with reviewed(tmp_path, telemetry) as (known, server):
        assert await admitted(known, "token-of-acme") == "acme"
        server.hold.clear()
        await asyncio.sleep(0.1)
        assert await admitted(known, "token-of-acme", within_s=0.4) == "acme"
        async with asyncio.timeout(20):
            while not known._verifier.away:
                await asyncio.sleep(0.02)
        asked = len(server.reviews)
        for _ in range(50):
            assert await admitted(known, "token-of-acme", within_s=0.0) == "acme"
        assert len(server.reviews) <= asked + 1


async def test_what_is_known_is_bounded(tmp_path: Path, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond callers_known_max the oldest is forgotten, of tokens, of refusals and of rights, and asked for anew."""
    monkeypatch.setattr(limits, "callers_known_max", 2)
    async with reviewed(tmp_path, telemetry) as (known, server):
        server.accounts = {f"token-{number}": (account("acme", f"a{number}"), [AUDIENCE]) for number in range(4)}
        for number in range(4):
            await admitted(known, f"token-{number}")
        assert (len(known._known), len(known._rights)) == (2, 2)
        await admitted(known, "token-0")
        assert len(server.reviews) == 5
        for number in range(4):
            with pytest.raises(Unauthenticated):
                await admitted(known, f"bad-{number}")
        assert len(known._verifier._refused) == 2


# --- certificates, and files that change -----------------------------------------------------------------------------


async def test_a_certificates_names_are_a_caller(tmp_path: Path, telemetry: Telemetry) -> None:
    """URIs and DNS names of a client's certificate are callers; a token is none here, and neither is nothing (P8)."""
    entries = [
        {"tenant": "acme", "callers": ["spiffe://example/acme/*"]},
        {"tenant": "umbrella", "callers": ["dns:*.umbrella.example"]},
    ]
    config = Config(
        tls_cert_file="c",
        tls_key_file="k",
        tls_client_ca_file="ca",
        tenants_file=write(tmp_path / "tenants.yaml", entries),
    )
    async with callers_of(config, telemetry) as known:
        assert known is not None
        assert await admitted(known, names=["spiffe://example/acme/web"]) == "acme"
        assert await admitted(known, names=["dns:a.umbrella.example", "dns:other"]) == "umbrella"
        with pytest.raises(TenantDenied):
            await admitted(known, names=["dns:spiffe://example/acme/web"])
        for token, names in (("", ()), ("a-token-of-somebody", ("spiffe://example/acme/web",))):
            with pytest.raises(Unauthenticated):
                await admitted(known, token, names=names)


async def test_with_tokens_a_certificate_is_a_credential_too(tmp_path: Path, telemetry: Telemetry) -> None:
    """Who brings no token may be named by a certificate; a bad token is not mended by one."""
    issuer = Issuer()
    entries = [*ENTRIES, {"tenant": "umbrella", "callers": ["dns:umbrella.example"]}]
    async with signed(tmp_path, telemetry, issuer, tenants_file=write(tmp_path / "more.yaml", entries)) as known:
        assert await admitted(known, names=["dns:umbrella.example"]) == "umbrella"
        assert await admitted(known, issuer.token(ACME), names=["dns:umbrella.example"]) == "acme"
        with pytest.raises(Unauthenticated):
            await admitted(known, "bad", names=["dns:umbrella.example"])


async def test_tenants_follow_their_file(tmp_path: Path, telemetry: Telemetry) -> None:
    """A change takes hold for known callers too; one that is wrong, or a file that is gone, changes nothing."""
    issuer = Issuer()
    path = tmp_path / "tenants.yaml"
    async with signed(tmp_path, telemetry, issuer) as known:
        token = issuer.token(ACME)
        assert await admitted(known, token) == "acme"
        write(path, [{"tenant": "moved", "callers": [ACME]}])
        async with asyncio.timeout(20):
            while await admitted(known, token) != "moved":
                await asyncio.sleep(0.02)
        refused = telemetry.mounted_refused.labels("tenants_file")._value
        for number, bad in enumerate((lambda: write(path, "tenants: []"), path.unlink), 1):
            bad()
            async with asyncio.timeout(20):
                while refused.get() < number:
                    await asyncio.sleep(0.02)
            assert await admitted(known, token) == "moved"
        os.utime(tmp_path)


# --- shares ----------------------------------------------------------------------------------------------------------


def test_no_tenant_takes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of calls_at_work_max one tenant has half, two that press have a third, and another always finds room (P12)."""
    monkeypatch.setattr(limits, "calls_at_work_max", 60)
    shares, held = Shares(), contextlib.ExitStack()

    def press(tenant: str) -> int:
        got = 0
        while True:
            try:
                held.enter_context(shares.of(tenant))
            except Overloaded:
                return got
            got += 1

    with held:
        assert press("a") == 30
        with pytest.raises(Overloaded) as caught, shares.of("a"):
            pass
        assert caught.value.metadata["limit"] == "calls_at_work_max"
        assert press("b") == 15
        assert press("a") == 0
        assert press("c") == 8
        assert press("d") > 0
    assert press("a") == 30
    held.close()
    assert shares._at_work == {}


async def test_a_tenant_that_is_used_stays_at_hand(
    tmp_path: Path, models_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever number of others come once, the route and policy of a tenant that goes on calling are not given up."""
    monkeypatch.setattr(limits, "policy_cache_max", 4)
    record = SqliteRecord(tmp_path / "record.db")
    await record.open()
    policies = Policies(record, Tokenizers(models_directory / "tokenizers", ("o200k_base",)))
    await policies.follow("busy", "default", None, asked_at=1.0)
    for number in range(20):
        assert policies.nearest("busy", "default") is not None
        await policies.follow(f"other-{number}", "default", None, asked_at=1.0)
    assert len(policies.routes_in_use()) == 4
    await record.close()


def test_who_has_no_jwks_does_not_load_its_library() -> None:
    """A server imports the library of signed tokens where it is configured, and not before."""
    code = "import sys, sidecar.server; sys.exit('jwt' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
