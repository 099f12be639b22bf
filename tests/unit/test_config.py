"""Configuration: what overrules what, and every bad value named before anything starts."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar import config, limits
from sidecar.config import Config
from sidecar.errors import ConfigInvalid

ROOT = Path(__file__).parents[2]
SETTINGS = [one.name for one in dataclasses.fields(Config)]


def write(tmp_path: Path, values: Any) -> str:
    """Write a configuration file; return its path."""
    path = tmp_path / "standpipe.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return str(path)


def test_flags_before_environment_before_file_before_defaults(tmp_path: Path) -> None:
    """Each level overrules the ones below, setting by setting; None among the flags is no flag."""
    path = write(tmp_path, {"tenant": "file", "record": "sqlite:file", "log_level": "error"})
    environment = {"STANDPIPE_TENANT": "variable", "STANDPIPE_RECORD": "sqlite:variable", "PATH": "/bin"}
    found = config.load(path=path, environment=environment, flags={"tenant": "flag", "http": None})
    assert (found.tenant, found.record, found.log_level, found.hot) == (
        "flag",
        "sqlite:variable",
        "error",
        "memory",
    )
    assert found.http == Config().http


def test_without_anything_the_defaults_hold() -> None:
    """An empty environment gives the defaults, which are valid and keep to the machine itself."""
    found = config.load(environment={})
    assert found == Config()
    assert all(address.startswith("127.0.0.1:") for address in (*found.listen, found.http))
    assert (found.drain_ms, found.view_cache_bytes, found.block_cache_bytes) == (
        limits.drain_ms,
        limits.view_cache_bytes,
        limits.block_cache_bytes,
    )


def test_the_file_is_named_by_a_variable_too(tmp_path: Path) -> None:
    """STANDPIPE_CONFIG names the file; the flag overrules it; an empty file sets nothing."""
    path = write(tmp_path, {"tenant": "file"})
    assert config.load(environment={config.CONFIG_VARIABLE: path}).tenant == "file"
    assert config.load(path=path, environment={config.CONFIG_VARIABLE: "/nowhere"}).tenant == "file"
    assert config.load(path=write(tmp_path, "# nothing\n"), environment={}) == Config()


BAD: list[tuple[str, Any]] = [
    ("tenant", ""),
    ("tenant", "a b"),
    ("tenant", "x" * 129),
    ("listen", ""),
    ("listen", "7460"),
    ("listen", "host:"),
    ("listen", ":7460"),
    ("listen", "host:65536"),
    ("listen", "host:²"),
    ("listen", "host:٣"),
    ("listen", "unix:"),
    ("listen", "unix:/" + "x" * 107),
    ("listen", "127.0.0.1:1,bad"),
    ("listen_json", "7464"),
    ("listen_json", "unix:"),
    ("listen_json", "127.0.0.1:1,bad"),
    ("http", "7461"),
    ("http", "unix:/x"),
    ("record", "mysql://u:secret@h/d"),
    ("record", "sqlite:"),
    ("record", "postgresql://"),
    ("record", "postgresql://u:a secret@h/d"),
    ("record_migrate", "maybe"),
    ("hot", "redis"),
    ("hot", "redis://"),
    ("hot", "memcached://:secret@h"),
    ("hot", "unix:///run/redis.sock"),
    ("hot", "redis://:sec ret@h"),
    ("hot", "rediss+unix:///run/redis.sock"),
    ("hot", "redis+unix://"),
    ("encryption_keys_file", "keys\nsecret"),
    ("encryption_keys_command", "print 'secret"),
    ("encryption_keys_command", "  "),
    ("plaintext", "maybe"),
    ("models_dir", ""),
    ("embedder", ""),
    ("embedder", "../x"),
    ("precision", "fp8"),
    ("embedder_before", "all-MiniLM-L6-v2"),
    ("embedder_before", "all-MiniLM-L6-v2/int4"),
    ("embedder_before", "all-MiniLM-L6-v2/int8"),  # that is what it moves to
    ("embedder_before", "up/../int8"),
    ("embedder_address", "embedder"),
    ("embedder_address", "embedder:7462,unix:"),
    ("embedder_fallback", "maybe"),
    ("embedder_fallback", "true"),  # of no shared embedder
    ("embedder_ca_file", "ca.pem"),  # of no shared embedder
    ("embedder_cert_file", "cert.pem"),  # of no authority, and without its key
    ("embedder_key_file", "key\n.pem"),
    ("tls_cert_file", "cert\n.pem"),
    ("tls_key_file", "key.pem"),  # of no certificate
    ("tls_client_ca_file", "ca.pem"),  # of no certificate
    ("auth_token_file", "tokens\nsecret"),
    ("auth_jwks", "http://issuer.example/keys"),
    ("auth_jwks", "https://user:secret@issuer.example/keys"),
    ("auth_jwks", "https://issuer.example/keys?key=secret"),
    ("auth_jwks", "https://issuer.example:65536"),
    ("auth_jwks", "keys\n.json"),
    ("auth_issuer", "https://issuer.example"),  # of no keys
    ("auth_review", "https://kubernetes.default.svc"),  # for everybody, and without a token of its own
    ("auth_jwks", "keys.json"),  # of anybody
    ("auth_review", "kubernetes.default.svc"),
    ("auth_review", "http://kubernetes.default.svc"),
    ("auth_review", "https://user:secret@kubernetes.default.svc"),
    ("auth_audience", ""),
    ("auth_audience", "a\nb"),
    ("auth_ca_file", "ca.pem"),  # of nobody
    ("auth_api_token_file", "token"),  # for nobody
    ("tenants_file", "tenants.yaml"),  # of nobody
    ("device", "cuda"),
    ("gpu_memory_bytes", str((384 << 20) - 1)),
    ("gpu_memory_bytes", "2GiB"),
    ("embed_threads", "0"),
    ("embed_threads", "65"),
    ("embed_threads", "one"),
    ("embed_threads", "1.0"),
    ("embed_threads", "9" * 5000),
    ("tokenizers", ""),
    ("tokenizers", ","),
    ("project", "maybe"),
    ("reflection", "maybe"),
    ("log_level", "debug"),
    ("drain_ms", "-1"),
    ("drain_ms", "600001"),
    ("view_cache_bytes", "1048575"),
    ("block_cache_bytes", "0"),
    ("extractor_url", "llm.example/v1"),
    ("extractor_url", "ftp://llm.example"),
    ("extractor_url", "https://user:secret@llm.example/v1"),
    ("extractor_url", "https://llm.example/v1?key=secret"),
    ("extractor_url", "https://"),
    ("extractor_model", "a-model-without-an-endpoint"),
    ("extractor_key_file", "key\nsecret"),
]


GOOD: list[tuple[str, str]] = [
    ("record", "sqlite:standpipe.db"),
    ("record", "postgresql:///standpipe?host=/run/postgresql"),
    ("record", "postgres://u:p%40ss@h:5432,i:5432/d?target_session_attrs=read-write&sslmode=verify-full"),
    ("hot", "memory"),
    ("hot", "redis://h"),
    ("hot", "redis://u:p%40ss@h:6379/0"),
    ("hot", "rediss://:p@[::1]:6380/"),
    ("hot", "redis+unix:///run/redis.sock"),
    ("hot", "redis+unix://u:p@/run/redis.sock"),
    ("hot", "redis+sentinel://u:p@h:26379,i/main/0"),
    ("hot", "rediss+sentinel://h:26379/main?sentinel_password=p"),
    ("hot", "redis+cluster://u:p@h:7000,i:7001"),
    ("hot", "rediss+cluster://h/"),
]


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_every_form_of_a_store_is_taken(name: str, value: str) -> None:
    """Each documented form of an address is taken as it is."""
    assert getattr(config.load(environment={f"STANDPIPE_{name.upper()}": value}), name) == value


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_names_its_setting(name: str, value: str) -> None:
    """Each setting refuses what it cannot be, names itself, says what it must be, and does not quote a secret."""
    with pytest.raises(ConfigInvalid) as caught:
        config.load(environment={f"STANDPIPE_{name.upper()}": value})
    assert caught.value.field == name
    assert caught.value.message.startswith(f"{name} must be ")
    assert not re.search("sec ?ret", caught.value.message)


def test_every_setting_has_a_bad_value() -> None:
    """No setting takes just anything: each is in the list of the test above."""
    assert {name for name, _ in BAD} == set(SETTINGS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reflection", 5),
        ("embed_threads", True),
        ("embed_threads", 1.5),
        ("tenant", 5),
        ("tenant", None),
        ("listen", 7460),
        ("listen", [7460]),
        ("tokenizers", {"a": 1}),
        ("drain_ms", None),
    ],
)
def test_a_file_has_types_too(tmp_path: Path, name: str, value: Any) -> None:
    """In the file a value of another type is refused, and not turned into text."""
    with pytest.raises(ConfigInvalid) as caught:
        config.load(path=write(tmp_path, {name: value}), environment={})
    assert caught.value.field == name


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"- a list\n", "must be a mapping"),
        (b"text", "must be a mapping"),
        (b"{", "is not YAML"),
        (b"\xff\xfe\xff", "is not YAML"),
        (b"tenant: 2024-13-45", "is not YAML"),
        (b"[" * 5000, "is not YAML"),
        (b"a: \x00", "is not YAML"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    """Whatever is wrong with the file, the error is ConfigInvalid and names it."""
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigInvalid, match=problem) as caught:
        config.load(path=str(path), environment={})
    assert caught.value.field == "config"


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    """A missing file and a directory are named with the system's reason."""
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        config.load(path=str(tmp_path / name), environment={})


@pytest.mark.parametrize("level", ["file", "environment", "flags"])
def test_an_unknown_name_is_refused(tmp_path: Path, level: str) -> None:
    """A typing error never passes for a default, wherever it is made; the known names are listed."""
    options: dict[str, Any] = {"environment": {}}
    if level == "file":
        options["path"] = write(tmp_path, {"tenannt": "x"})
    elif level == "environment":
        options["environment"] = {"STANDPIPE_TENANNT": "x"}
    else:
        options["flags"] = {"tenannt": "x"}
    with pytest.raises(ConfigInvalid, match="no setting has the name tenannt") as caught:
        config.load(**options)
    assert caught.value.field == "tenannt"
    assert all(name in caught.value.message for name in SETTINGS)


def test_what_kubernetes_sets_for_a_service_is_not_ours() -> None:
    """Beside a Service that is called standpipe every pod has such variables; they are no settings."""
    links = {
        "STANDPIPE_SERVICE_HOST": "10.0.0.1",
        "STANDPIPE_SERVICE_PORT": "7460",
        "STANDPIPE_SERVICE_PORT_GRPC": "7460",
        "STANDPIPE_PORT": "tcp://10.0.0.1:7460",
        "STANDPIPE_PORT_7460_TCP": "tcp://10.0.0.1:7460",
        "STANDPIPE_PORT_7460_TCP_PROTO": "tcp",
        "STANDPIPE_PORT_7460_TCP_PORT": "7460",
        "STANDPIPE_PORT_7460_TCP_ADDR": "10.0.0.1",
        "STANDPIPE_EMBEDDER_SERVICE_HOST": "10.0.0.2",
    }
    assert config.load(environment={**links, "STANDPIPE_TENANT": "acme"}) == Config(tenant="acme")
    assert not any(config._NOT_SETTINGS.fullmatch(name) for name in SETTINGS)


def test_lists_and_words() -> None:
    """Lists are comma-separated, blanks around them do not count; yes and no have their usual spellings."""
    found = config.load(
        environment={"STANDPIPE_LISTEN": "127.0.0.1:1, unix:/run/x,[::1]:2,", "STANDPIPE_REFLECTION": "No"}
    )
    assert found.listen == ("127.0.0.1:1", "unix:/run/x", "[::1]:2")
    assert found.reflection is False
    for word, meant in (("TRUE", True), ("1", True), ("yes", True), ("0", False), ("false", False)):
        assert config.load(environment={"STANDPIPE_REFLECTION": word}).reflection is meant


@given(value=st.text(max_size=40), name=st.sampled_from(SETTINGS))
@settings(deadline=None, max_examples=300)
def test_any_text_is_a_value_or_refused(name: str, value: str) -> None:
    """Whatever stands in a variable, there is a configuration or ConfigInvalid of that name, and nothing else."""
    try:
        found = config.load(environment={f"STANDPIPE_{name.upper()}": value})
    except ConfigInvalid as error:
        assert error.field == name  # noqa: PT017
    else:
        assert found.masked().keys() == set(SETTINGS)


@pytest.mark.parametrize(
    ("address", "masked"),
    [
        ("postgresql://u:hunter2@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:hunter2@h:1,i:2/d?sslmode=require", "postgresql://u:***@h:1,i:2/d?sslmode=require"),
        ("postgresql://u:hunt@er2@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:hun/t:er2?@h/d", "postgresql://u:***@h/d"),
        (
            "postgresql:///d?user=u&password=hunter2&sslpassword=hunter2&passfile=/p",
            "postgresql:///d?user=u&password=***&sslpassword=***&passfile=/p",
        ),
        ("redis://:hunter2@h", "redis://:***@h"),
        ("rediss://u:hunter2@[::1]:1/0", "rediss://u:***@[::1]:1/0"),
        ("redis+unix://u:hunter2@/run/r?db=1", "redis+unix://u:***@/run/r?db=1"),
        ("redis+unix:///run/r?password=hunter2", "redis+unix:///run/r?password=***"),
        (
            "redis+sentinel://u:hunter2@h:1,i:2/m?sentinel_password=hunter2",
            "redis+sentinel://u:***@h:1,i:2/m?sentinel_password=***",
        ),
        ("rediss+cluster://u:hunter2@h:1,i:2", "rediss+cluster://u:***@h:1,i:2"),
        ("postgresql://h:5432/d", "postgresql://h:5432/d"),
        ("sqlite:a@b", "sqlite:a@b"),
    ],
)
def test_a_password_is_masked(address: str, masked: str) -> None:
    """What is printed of a configuration has no password, wherever an address holds it, and all else as it is."""
    assert config.mask(address) == masked
    assert Config(models_dir=address).masked()["models_dir"] == masked
    assert Config().masked() == dataclasses.asdict(Config())


@given(password=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20))
def test_no_password_can_be_written_so_that_it_is_shown(password: str) -> None:
    """Percent-encoded or not, whatever characters it has, a password behind the user's name is masked whole."""
    for scheme in ("postgresql", "redis", "redis+sentinel"):
        assert config.mask(f"{scheme}://user:{password}@host:1/d") == f"{scheme}://user:***@host:1/d"


def test_every_setting_says_what_it_is() -> None:
    """Each setting carries a sentence for --help."""
    for one in dataclasses.fields(Config):
        assert one.metadata["doc"].endswith("."), one.name


def test_every_setting_is_in_the_readme() -> None:
    """The manual names every setting."""
    text = (ROOT / "README.md").read_text()
    assert [name for name in SETTINGS if f"`{name}`" not in text] == []


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"encryption_keys_file": "keys", "encryption_keys_command": "print-keys"}, "encryption_keys_command"),
        ({"encryption_keys_file": "keys", "plaintext": True}, "plaintext"),
        ({"encryption_keys_command": "print-keys", "plaintext": True}, "plaintext"),
    ],
)
def test_keys_have_one_source(given: dict[str, Any], field: str) -> None:
    """A file and a command, or keys beside plain text, are a mistake, and not a preference."""
    with pytest.raises(ConfigInvalid, match=f"{field} must be ") as caught:
        Config(**given)
    assert caught.value.field == field


_REVIEW = {"auth_review": "https://kubernetes.default.svc", "auth_api_token_file": "token", "tenants_file": "tenants"}
_JWKS = {"auth_jwks": "keys.json", "auth_issuer": "https://issuer.example", "tenants_file": "tenants"}


@pytest.mark.parametrize(
    "given",
    [
        _REVIEW,
        {**_REVIEW, "auth_review": "https://[fd00::1]:443/prefix", "auth_ca_file": "ca.pem", "auth_audience": "us"},
        _JWKS,
        {**_JWKS, "auth_jwks": "https://issuer.example/openid/v1/jwks", "auth_ca_file": "ca.pem"},
        {**_JWKS, "auth_jwks": "https://10.0.0.1:6443/openid/v1/jwks", "auth_api_token_file": "token"},
        {"auth_token_file": "tokens"},
        {"tls_cert_file": "c", "tls_key_file": "k", "tls_client_ca_file": "ca", "tenants_file": "tenants"},
        {"tls_cert_file": "c", "tls_key_file": "k", "tls_client_ca_file": "ca"},
        {"tls_cert_file": "c", "tls_key_file": "k", "tls_client_ca_file": "ca", "auth_token_file": "tokens"},
    ],
)
def test_every_way_to_know_callers_is_taken(given: dict[str, Any]) -> None:
    """Each documented way is taken as it is."""
    assert {name: getattr(Config(**given), name) for name in given} == given


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({**_REVIEW, "auth_api_token_file": ""}, "auth_review"),
        ({**_REVIEW, "tenants_file": ""}, "auth_review"),
        ({**_JWKS, "tenants_file": ""}, "auth_jwks"),
        ({**_JWKS, "auth_issuer": ""}, "auth_jwks"),
        ({**_JWKS, "auth_ca_file": "ca.pem"}, "auth_ca_file"),
        ({**_JWKS, "auth_api_token_file": "token"}, "auth_api_token_file"),
        ({**_JWKS, **_REVIEW}, "auth_review"),
        ({**_JWKS, "auth_token_file": "tokens"}, "auth_jwks"),
        ({"auth_token_file": "tokens", "tenants_file": "tenants"}, "tenants_file"),
    ],
)
def test_callers_are_known_in_one_way(given: dict[str, Any], field: str) -> None:
    """Two ways at once, one without what it needs, and one that says nothing are mistakes, and not preferences."""
    with pytest.raises(ConfigInvalid, match=f"{field} must be ") as caught:
        Config(**given)
    assert caught.value.field == field


def test_the_precision_follows_from_what_was_configured() -> None:
    """All pods of a configuration store vectors of one precision, whatever device each of them finds."""
    assert Config().embed_precision == "int8"
    assert {Config(device="gpu").embed_precision, Config(device="auto").embed_precision} == {"fp16"}
    assert Config(device="gpu", precision="fp32").embed_precision == "fp32"
    with pytest.raises(ConfigInvalid) as caught:
        Config(device="auto", precision="int8")
    assert caught.value.field == "precision"
