"""Configuration: defaults, then one YAML file, then STANDPIPE_* variables, then flags; checked whole at start.

A setting `name` is ``name`` in the file, ``STANDPIPE_NAME`` in the environment and ``--name`` on the command
line; lists are comma-separated outside the file. An unknown name is refused, so a typing error never passes for
a default.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from sidecar import limits
from sidecar.errors import ConfigInvalid

ENV_PREFIX = "STANDPIPE_"
CONFIG_VARIABLE = "STANDPIPE_CONFIG"
"""Names the YAML file; `--config` does too."""

_NOT_SETTINGS = re.compile(
    r"config|target|(token|ca|cert|key)_file|(\w+_)?(service_(host|port)\w*|port(_\d+_(tcp|udp|sctp)\w*)?)"
)
"""Variables under the prefix that are no settings: the file's, the clients' target, token and certificates, and what
Kubernetes writes into every pod beside a Service whose name begins with "standpipe"."""

TENANT = re.compile(r"[A-Za-z0-9._:@/+-]{1,128}")
"""What a tenant may be called."""

_RECORD = re.compile(r"sqlite:[^\0]+|postgres(ql)?://[!-~]+")
_HOT = re.compile(r"memory|(rediss?(\+(sentinel|cluster))?|redis\+unix)://[!-~]+")
"""By their schemes alone: what follows is the driver's to read, and the engine's to refuse."""

_BEFORE = re.compile(r"[^/\0]{1,100}/(int8|fp16|fp32)")
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/%:@-]*)?")
_AUTHORITY = re.compile(r"https://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/%-]*)?")
_MODEL = re.compile(r"[!-~]{0,100}")
"""With its prompt's version it names an extractor, which has 128 bytes."""

_HOT_FORMS = (
    "memory, redis[s]://HOST:PORT, redis+unix:///PATH, redis[s]+sentinel://HOST:PORT,…/NAME or"
    " redis[s]+cluster://HOST:PORT,…"
)


def _setting(default: Any, doc: str) -> Any:
    if isinstance(default, tuple):
        return field(default_factory=lambda: default, metadata={"doc": doc})
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting, with its default and its meaning."""

    tenant: str = _setting("default", "The tenant that every call belongs to; a call that names another is refused.")
    listen: tuple[str, ...] = _setting(
        ("127.0.0.1:7460",), "Where gRPC is served: host:port, or unix:/path; several are served at once."
    )
    listen_json: tuple[str, ...] = _setting(
        (), "Where the API is served as JSON over HTTP, too: host:port, or unix:/path; empty: nowhere."
    )
    http: str = _setting("127.0.0.1:7461", "Where /startupz, /readyz, /livez and /metrics are served; empty: nowhere.")
    record: str = _setting("sqlite:standpipe.db", "The record store: sqlite:PATH, or a libpq URI, postgresql://….")
    record_migrate: bool = _setting(
        True, "Whether a start brings PostgreSQL's schema up to this release; else `standpipe migrate` must."
    )
    hot: str = _setting(
        "memory",
        "The hot store: memory, redis[s]://HOST, redis+unix:///PATH, redis[s]+sentinel://HOST,…/NAME,"
        " redis[s]+cluster://HOST,….",
    )
    encryption_keys_file: str = _setting(
        "", "The file of keys that content is encrypted under, as `standpipe keys new` prints them; the first encrypts."
    )
    encryption_keys_command: str = _setting(
        "", "A command that prints such a file, in place of it; run without a shell."
    )
    plaintext: bool = _setting(
        False, "Whether content is stored unencrypted; without keys nothing starts unless it is."
    )
    models_dir: str = _setting("models", "The directory that holds tokenizers/ and the embedding models.")
    embedder: str = _setting("all-MiniLM-L6-v2", "The embedding model's directory in models_dir, or none.")
    precision: Literal["auto", "int8", "fp16", "fp32"] = _setting(
        "auto", "The embedding model's weights: int8, fp16, fp32, or auto: int8 where device is cpu, else fp16."
    )
    embedder_before: str = _setting(
        "", "While another model takes over: the one, NAME/PRECISION, that ranks until all items have the new vectors."
    )
    embedder_address: tuple[str, ...] = _setting(
        (), "Where a shared embedder serves these models: host:port or unix:/path; several are replicas."
    )
    embedder_fallback: bool = _setting(
        False, "Whether this process loads the model too, for when the shared embedder does not answer."
    )
    embedder_ca_file: str = _setting(
        "", "The certificates, as PEM, one of which must have signed the shared embedder's at host:port; empty: no TLS."
    )
    embedder_cert_file: str = _setting(
        "", "The certificate, as PEM, that is shown to a shared embedder that asks for one; with embedder_ca_file."
    )
    embedder_key_file: str = _setting("", "That certificate's private key, as PEM.")
    tls_cert_file: str = _setting(
        "",
        "This server's certificate, as PEM: then every host:port that serves calls speaks TLS; empty: none does.",
    )
    tls_key_file: str = _setting("", "The certificate's private key, as PEM.")
    tls_client_ca_file: str = _setting(
        "", "The certificates, as PEM, one of which must have signed that of every caller at host:port; empty: any may."
    )
    auth_token_file: str = _setting(
        "", "A file of one or two tokens, one a line, one of which every call must bring; read again when it changes."
    )
    auth_jwks: str = _setting(
        "", "The keys that callers' tokens are signed with, a JWKS: a path, or https://…; read again for a new key."
    )
    auth_issuer: str = _setting("", "Who must have issued callers' tokens, their `iss`; with auth_jwks.")
    auth_review: str = _setting(
        "", "The Kubernetes API server that reviews callers' tokens, such as https://kubernetes.default.svc."
    )
    auth_audience: str = _setting("standpipe", "Whom callers' tokens must be meant for, their `aud`.")
    auth_ca_file: str = _setting(
        "",
        "The certificates, as PEM, one of which must have signed auth_jwks' or auth_review's; empty: the system's.",
    )
    auth_api_token_file: str = _setting(
        "", "A file with the token that this process shows to auth_jwks or auth_review, read anew for each call."
    )
    tenants_file: str = _setting(
        "", "The YAML file that says which callers act for which tenants; then `tenant` says nothing."
    )
    device: Literal["cpu", "gpu", "auto"] = _setting(
        "cpu", "What embeds: cpu; gpu, or nothing starts; auto: a GPU if there is one, and the log says which."
    )
    gpu_memory_bytes: int = _setting(
        2 << 30, "The most GPU memory of one model, from 384 MiB; it is taken at start and kept."
    )
    embed_threads: int = _setting(1, "Threads of one embedding run, 1 to 64; more are rarely quicker for one query.")
    tokenizers: tuple[str, ...] = _setting(
        ("o200k_base",), "The tokenizers whose counts are stored at write; the first is the built-in policy's."
    )
    project: bool = _setting(
        True, "Whether this process embeds items and removes expired logs; false leaves both to `standpipe work`."
    )
    reflection: bool = _setting(True, "Whether stock gRPC clients may list the API.")
    log_level: str = _setting("info", "The least level that is logged: info, warning or error.")
    drain_ms: int = _setting(limits.drain_ms, "The most time from SIGTERM to the exit, 0 to 600000 ms.")
    view_cache_bytes: int = _setting(limits.view_cache_bytes, "Memory for session views, from 1 MiB.")
    block_cache_bytes: int = _setting(limits.block_cache_bytes, "Memory for recall blocks, from 1 MiB.")
    extractor_url: str = _setting(
        "", "The OpenAI-compatible endpoint of `standpipe work --extract`, such as https://llm.example/v1."
    )
    extractor_model: str = _setting("", "The model that the endpoint is asked for.")
    extractor_key_file: str = _setting("", "A file with the endpoint's key on one line; empty: it takes none.")

    def __post_init__(self) -> None:
        _check(
            bool(TENANT.fullmatch(self.tenant)),
            "tenant",
            "1 to 128 characters of A-Z a-z 0-9 . _ : - @ / +",
        )
        _check(
            bool(self.listen) and all(_is_address(one) for one in self.listen),
            "listen",
            "host:port or unix:/path, at least one",
        )
        _check(all(_is_address(one) for one in self.listen_json), "listen_json", "host:port or unix:/path, or empty")
        _check(
            not self.http or (_is_address(self.http) and not self.http.startswith("unix:")),
            "http",
            "host:port, or empty",
        )
        _check(bool(_RECORD.fullmatch(self.record)), "record", "sqlite:PATH or postgresql://…")
        _check(bool(_HOT.fullmatch(self.hot)), "hot", _HOT_FORMS)
        _check(self.encryption_keys_file.isprintable(), "encryption_keys_file", "a path, or empty")
        _check(_is_command(self.encryption_keys_command), "encryption_keys_command", "a command's words, or empty")
        keys = [name for name in ("encryption_keys_file", "encryption_keys_command") if getattr(self, name)]
        _check(len(keys) < 2, "encryption_keys_command", "empty where encryption_keys_file is not")
        _check(not (keys and self.plaintext), "plaintext", "false where encryption keys are named")
        _check(bool(self.models_dir), "models_dir", "a directory")
        _check(
            bool(self.embedder) and "/" not in self.embedder,
            "embedder",
            "the name of a directory in models_dir, or none",
        )
        _check(self.precision in ("auto", "int8", "fp16", "fp32"), "precision", "auto, int8, fp16 or fp32")
        _check(
            not self.embedder_before or bool(_BEFORE.fullmatch(self.embedder_before)),
            "embedder_before",
            "NAME/PRECISION, such as all-MiniLM-L6-v2/int8, or empty",
        )
        _check(
            self.embedder_before != f"{self.embedder}/{self.embed_precision}",
            "embedder_before",
            "another model than embedder, or another precision",
        )
        _check(all(_is_address(one) for one in self.embedder_address), "embedder_address", "host:port or unix:/path")
        _check(
            not self.embedder_fallback or (bool(self.embedder_address) and self.embedder != "none"),
            "embedder_fallback",
            "false where there is no embedder_address, or no embedder",
        )
        _check(
            self.embedder_ca_file.isprintable() and (not self.embedder_ca_file or bool(self.embedder_address)),
            "embedder_ca_file",
            "a path where there is an embedder_address, or empty",
        )
        for name, other in (
            ("embedder_cert_file", self.embedder_key_file),
            ("embedder_key_file", self.embedder_cert_file),
        ):
            value = getattr(self, name)
            _check(
                value.isprintable() and not (value and not (other and self.embedder_ca_file)),
                name,
                "a path, beside the other's and embedder_ca_file, or empty",
            )
        for name, other in (("tls_cert_file", self.tls_key_file), ("tls_key_file", self.tls_cert_file)):
            value = getattr(self, name)
            _check(value.isprintable() and not (value and not other), name, "a path, beside the other's, or empty")
        _check(
            self.tls_client_ca_file.isprintable() and not (self.tls_client_ca_file and not self.tls_cert_file),
            "tls_client_ca_file",
            "a path, where there is a tls_cert_file, or empty",
        )
        self._check_callers()
        _check(self.device in ("cpu", "gpu", "auto"), "device", "cpu, gpu or auto")
        _check(
            self.device == "cpu" or self.precision != "int8",
            "precision",
            "auto, fp16 or fp32 where device is not cpu: int8 is no faster on a GPU, and a pod without one must agree",
        )
        _check(self.gpu_memory_bytes >= 384 << 20, "gpu_memory_bytes", "at least 402653184")
        _check(1 <= self.embed_threads <= 64, "embed_threads", "1 to 64")
        _check(bool(self.tokenizers), "tokenizers", "at least one tokenizer's name")
        _check(self.log_level in ("info", "warning", "error"), "log_level", "info, warning or error")
        _check(0 <= self.drain_ms <= 600_000, "drain_ms", "0 to 600000")
        _check(self.view_cache_bytes >= 1 << 20, "view_cache_bytes", "at least 1048576")
        _check(self.block_cache_bytes >= 1 << 20, "block_cache_bytes", "at least 1048576")

        _check(
            not self.extractor_url or bool(_ENDPOINT.fullmatch(self.extractor_url)),
            "extractor_url",
            "http[s]://HOST[:PORT][/PATH], without a user or a query",
        )
        _check(
            bool(self.extractor_model) == bool(self.extractor_url) and bool(_MODEL.fullmatch(self.extractor_model)),
            "extractor_model",
            "set with extractor_url: 1 to 100 printable characters",
        )
        _check(self.extractor_key_file.isprintable(), "extractor_key_file", "a path, or empty")

    def _check_callers(self) -> None:
        """Check what says who may call: one way at most to tell whose a token is, and nothing that says nothing."""
        _check(self.auth_token_file.isprintable(), "auth_token_file", "a path, or empty")
        over_https = self.auth_jwks.startswith("https:")
        _check(
            self.auth_jwks.isprintable()
            and not self.auth_jwks.startswith("http:")
            and not (over_https and not _is_authority(self.auth_jwks)),
            "auth_jwks",
            "a path, or https://HOST[:PORT][/PATH] without a user or a query, or empty",
        )
        _check(
            not self.auth_jwks or bool(self.auth_issuer and self.tenants_file),
            "auth_jwks",
            "beside auth_issuer and tenants_file, or empty: else any token of any issuer would do",
        )
        _check(
            self.auth_issuer.isprintable() and not (self.auth_issuer and not self.auth_jwks),
            "auth_issuer",
            "what callers' tokens have as iss, where there is auth_jwks, or empty",
        )
        _check(
            not self.auth_review or _is_authority(self.auth_review),
            "auth_review",
            "https://HOST[:PORT][/PATH] without a user or a query, or empty",
        )
        _check(
            not self.auth_review or bool(self.auth_api_token_file and self.tenants_file),
            "auth_review",
            "beside auth_api_token_file and tenants_file, or empty: else any account of the cluster would do",
        )
        ways = [name for name in ("auth_token_file", "auth_jwks", "auth_review") if getattr(self, name)]
        _check(len(ways) < 2, ways[-1] if ways else "", f"empty where {ways[0] if ways else ''} is not")
        _check(
            bool(self.auth_audience) and self.auth_audience.isprintable(),
            "auth_audience",
            "what callers' tokens have as aud",
        )
        asks = bool(self.auth_review) or over_https
        _check(
            self.auth_ca_file.isprintable() and not (self.auth_ca_file and not asks),
            "auth_ca_file",
            "a path, where there is auth_review, or auth_jwks over https, or empty",
        )
        _check(
            self.auth_api_token_file.isprintable() and not (self.auth_api_token_file and not asks),
            "auth_api_token_file",
            "a path, where there is auth_review, or auth_jwks over https, or empty",
        )
        _check(
            self.tenants_file.isprintable()
            and not (self.tenants_file and self.auth_token_file)
            and not (self.tenants_file and not (ways or self.tls_client_ca_file)),
            "tenants_file",
            "a path, where auth_jwks, auth_review or tls_client_ca_file tells who calls, or empty",
        )

    @property
    def embed_precision(self) -> Literal["int8", "fp16", "fp32"]:
        """The precision, decided: by what was configured and not by what is found, so that all pods agree."""
        if self.precision != "auto":
            return self.precision
        return "int8" if self.device == "cpu" else "fp16"

    def masked(self) -> dict[str, Any]:
        """Return the settings for a log or a screen: a password inside an address is not among them."""
        return {
            name: mask(value) if isinstance(value, str) else value for name, value in dataclasses.asdict(self).items()
        }


def mask(address: str) -> str:
    """Return an address without its passwords, in whatever form it has them.

    Rather too much is masked than too little: a password that should have been percent-encoded and was not may hold
    any character, an @ too.
    """
    address = re.sub(r"(?<=://)([^:/@?]*):.*@", r"\1:***@", address, flags=re.DOTALL)
    return re.sub(r"([?&][^=&]*(?:pass(?!file)|secret)[^=&]*=)[^&]*", r"\1***", address, flags=re.IGNORECASE)


def load(
    *,
    path: str | None = None,
    environment: Mapping[str, str] = os.environ,
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """Read the configuration. Raises ConfigInvalid, naming the setting and what it must be."""
    path = path or environment.get(CONFIG_VARIABLE)
    values: dict[str, Any] = {}
    if path:
        values |= _read_file(Path(path))
    for variable, text in environment.items():
        name = variable.removeprefix(ENV_PREFIX).lower()
        if variable.startswith(ENV_PREFIX) and not _NOT_SETTINGS.fullmatch(name):
            values[name] = text
    values |= {name: value for name, value in (flags or {}).items() if value is not None}
    known = {one.name for one in dataclasses.fields(Config)}
    for name in values:
        if name not in known:
            raise ConfigInvalid(f"no setting has the name {name}; known: {', '.join(sorted(known))}", field=name)
    defaults = Config()
    return Config(**{name: _typed(name, value, getattr(defaults, name)) for name, value in values.items()})


def _read_file(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigInvalid(f"{path} cannot be read: {error.strerror}", field="config") from None
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: bytes that are no text, a date that is none
        raise ConfigInvalid(f"{path} is not YAML", field="config") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigInvalid(f"{path} must be a mapping of settings", field="config")
    return {str(name): value for name, value in raw.items()}


def _typed(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, bool):
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if isinstance(value, bool):
            return value
        _check(str(value).lower() in words, name, "true or false")
        return words[str(value).lower()]
    if isinstance(default, int):
        digits = re.fullmatch(r"-?[0-9]{1,18}", str(value))
        _check(isinstance(value, int | str) and bool(digits), name, "a whole number")
        return int(value)
    if isinstance(default, tuple):
        parts = value.split(",") if isinstance(value, str) else value
        _check(
            isinstance(parts, list | tuple) and all(isinstance(part, str) for part in parts),
            name,
            "a list of texts",
        )
        return tuple(part.strip() for part in parts if part.strip())
    _check(isinstance(value, str), name, "text")
    return value


def _is_address(value: str) -> bool:
    if value.startswith("unix:"):
        return len(value.encode()) - 5 in range(1, 108)  # sun_path
    host, _, port = value.rpartition(":")
    return bool(host) and bool(re.fullmatch(r"[0-9]{1,5}", port)) and int(port) < 65_536


def _is_authority(value: str) -> bool:
    found = _AUTHORITY.fullmatch(value)
    return found is not None and int((found[2] or ":0")[1:]) < 65_536


def _is_command(value: str) -> bool:
    try:
        return value.isprintable() and bool(shlex.split(value)) == bool(value)
    except ValueError:  # a quote that is not closed
        return False


def _check(good: bool, name: str, must_be: str) -> None:
    if not good:
        raise ConfigInvalid(f"{name} must be {must_be}", field=name)
