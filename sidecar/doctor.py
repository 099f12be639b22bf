"""Examine a deployment as its configuration describes it: stores, models, tokenizers. Nothing is changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from sidecar import config as settings
from sidecar import limits
from sidecar.callers import tenants_of, verifier_of
from sidecar.config import Config
from sidecar.embedders import load
from sidecar.engines import engine_of, hot_of
from sidecar.errors import AuthenticatorUnavailable, ConfigInvalid, StandpipeError
from sidecar.finding import Finding, failed, ok, warning
from sidecar.jwks import Jwks
from sidecar.model import MODEL_FILES, TOKENIZER_FILE, Model, Precision
from sidecar.remote import SharedEmbedder
from sidecar.sockets import certificates
from sidecar.stores.hot import Hot
from sidecar.stores.record import Record
from sidecar.telemetry import Log, Telemetry
from sidecar.token_file import TokenFile
from sidecar.tokens import Tokenizers
from sidecar.vault import vault_of
from sidecar.verifier import Verifier
from sidecar.view import View

Progress = Callable[[str], None]
"""Called with the name of the area that is looked at now."""

Areas = dict[str, list[Finding]]
"""What was found, by area, in the order in which it was looked at."""


async def examine(config: Config, *, progress: Progress = lambda _area: None) -> Areas:
    """Examine everything. Raises nothing: what cannot be asked is a finding too."""
    found: Areas = {}
    progress("record store")
    found["record store"] = await _store("record", config.record, lambda: engine_of(config))
    progress("encryption")
    found["encryption"] = await _encryption(config)
    progress("hot store")
    found["hot store"] = await _store("hot", config.hot, lambda: hot_of(config))
    if config.embedder_address:
        progress("shared embedder")
        found["shared embedder"] = await _shared(config)
    if not config.embedder_address or config.embedder_fallback:
        progress("model")
        found["model"] = await asyncio.to_thread(_models, config)
    area = "shared embedder" if config.embedder_address else "model"
    found[area] += _ranking(found["record store"], found[area])
    if config.tls_cert_file or config.auth_token_file or config.auth_jwks or config.auth_review or config.tenants_file:
        progress("callers")
        found["callers"] = await _callers(config)
    progress("tokenizers")
    found["tokenizers"] = await asyncio.to_thread(_tokenizers, config)
    return found


async def _store(name: str, address: str, make: Callable[[], Record | Hot[View]]) -> list[Finding]:
    found = [ok("address", settings.mask(address))]
    wait_s = limits.examine_ms / 1000
    try:
        async with asyncio.timeout(wait_s):
            found += await make().examine()
    except TimeoutError:
        found.append(
            failed("answers", f"nothing, within {wait_s:.0f} s", f"Look at the network, and at what `{name}` names.")
        )
    except StandpipeError as error:
        found.append(failed("address", error.message, f"Correct the setting `{name}`."))
    return found


async def _encryption(config: Config) -> list[Finding]:
    """Read the wrapping keys. Whether the store's keys are wrapped by them `standpipe keys check` says."""
    try:
        vault = vault_of(config)
        if vault is None:
            found = "content is stored unencrypted, as `plaintext` says: who reads a disk or a backup reads all"
            return [
                warning("keys", found, "`standpipe keys new` makes a key; name its file in `encryption_keys_file`.")
            ]
        await vault.open()
    except ConfigInvalid as error:
        advice = f"Correct the setting `{error.field}`; `standpipe keys new` makes a key."
        return [failed("keys", error.message, advice)]
    first, *others = vault.ids
    return [ok("keys", f"{first} encrypts" + (f"; {', '.join(others)} open what was before" if others else ""))]


async def _shared(config: Config) -> list[Finding]:
    """Ask each replica of the shared embedder what it serves, and have it embed a text."""
    replicas = await asyncio.gather(*(_replica(address, config) for address in config.embedder_address))
    found = [finding for finding, _ in replicas]
    if len({models for _, models in replicas if models}) > 1:
        advice = "Give all replicas the same `embedder`, `precision`, `device` and `embedder_before`."
        found.append(warning("replicas", "they serve different models, or in another order", advice))
    return found


async def _replica(address: str, config: Config) -> tuple[Finding, tuple[str, ...]]:
    """Return what is to be said of a replica, and the ids of its models."""
    wait_s = limits.examine_ms / 1000
    certificates_too = ", and at the certificates of both" if config.embedder_ca_file else ""
    advice = f"Look at the network, at `standpipe embed` there, at what `embedder_address` names{certificates_too}."
    try:
        shared = SharedEmbedder(
            [address],
            Telemetry(Log(level="error")),
            ca_file=config.embedder_ca_file,
            cert_file=config.embedder_cert_file,
            key_file=config.embedder_key_file,
        )
    except StandpipeError as error:
        return failed(address, error.message, f"Correct the setting `{error.field}`."), ()
    async with shared:
        try:
            async with asyncio.timeout(wait_s):
                await shared.changed.wait()
            models = shared.models()
            for model in models:
                await model.embed_query("Is anybody there?", deadline_s=wait_s)
        except TimeoutError:
            return failed(address, f"nothing, within {wait_s:.0f} s", advice), ()
        except StandpipeError as error:
            return failed(address, error.message, advice), ()
    ids = tuple(model.id for model in models)
    said = (f"{model.id} gives {model.dimensions} dimensions on {model.provider}" for model in models)
    return ok(address, "; ".join(said), model_ids=ids), ids


async def _callers(config: Config) -> list[Finding]:
    """Read what callers are known by, and ask who vouches for them."""
    telemetry, found = Telemetry(Log(level="error")), []
    try:
        if certificates(config, telemetry):
            clients = ", and clients'" if config.tls_client_ca_file else ""
            found.append(ok("tls_cert_file", f"a certificate and its key{clients}"))
        tenants = tenants_of(config, telemetry)
        if tenants:
            found.append(ok("tenants_file", f"entries: {len(tenants.value.entries)}"))
        verifier, _ = verifier_of(config, telemetry)
    except ConfigInvalid as error:
        return [*found, failed(error.field or "", error.message, f"Correct what the setting `{error.field}` names.")]
    if verifier is not None:
        found.append(await _verifier(verifier))
        verifier.close()
    return found


async def _verifier(verifier: Verifier) -> Finding:
    advice = "Look at the network, at `auth_ca_file` and at `auth_api_token_file`"
    try:
        await verifier.open()
    except ConfigInvalid as error:
        return failed("auth_jwks", error.message, "Correct what the setting `auth_jwks` names.")
    if isinstance(verifier, TokenFile):
        return ok("auth_token_file", f"tokens: {verifier.count}")
    if isinstance(verifier, Jwks):
        if verifier.count:
            return ok("auth_jwks", f"keys: {verifier.count}")
        return failed("auth_jwks", "no JWKS is answered", f"{advice}, and at what `auth_jwks` names.")
    try:
        await verifier.check("a-token-of-nobody")
    except AuthenticatorUnavailable:
        role = "whose account needs the role system:auth-delegator"
        return failed("auth_review", "the API server makes no review", f"{advice}, {role}.")
    except StandpipeError:
        return ok("auth_review", "the API server reviews tokens")
    return failed("auth_review", "the API server knows a token of nobody", "Look at what `auth_review` names.")


def _models(config: Config) -> list[Finding]:
    """Load the models that this process would load."""
    if config.embedder == "none":
        return [ok("embedder", "none: recall goes by words alone")]
    found = _model(config, "embedder", config.embedder, config.embed_precision)
    if config.embedder_before:
        name, _, precision = config.embedder_before.partition("/")
        found += _model(config, "embedder_before", name, cast(Precision, precision))
    return found


def _model(config: Config, setting: str, directory: str, precision: Precision) -> list[Finding]:
    found = []
    try:
        model = Model.open(Path(config.models_dir) / directory)
        for name in (MODEL_FILES[precision], TOKENIZER_FILE):
            model.file(name)
            if name in model.files:
                found.append(ok(name, f"SHA-256 {model.files[name][:16]}…, as its model.yaml says"))
            else:
                found.append(warning(name, "of no known SHA-256", "Name its SHA-256 under `files` in model.yaml."))
        embedder = load(config, directory, precision)
    except ConfigInvalid as error:
        return [*found, failed(setting, error.message, f"Correct the setting `{error.field}`.")]
    except StandpipeError as error:
        advice = f"`standpipe model fetch` makes the pinned one; or name another with the setting `{setting}`."
        return [*found, failed(setting, error.message, advice)]
    said = f"{embedder.chosen}, {embedder.dimensions} dimensions on {embedder.provider}"
    return [*found, ok(setting, said, model_ids=(embedder.id,))]


def _ranking(record: Sequence[Finding], models: Sequence[Finding]) -> list[Finding]:
    """Compare the model that the store ranks by with those that a sidecar of these settings would have."""
    serving = [one for finding in record for one in finding.model_ids]
    at_hand = [one for finding in models for one in finding.model_ids]
    if not serving or not at_hand:
        return []
    if serving[0] in at_hand:
        return [ok("ranking", f"recall ranks by {serving[0]}, which is at hand")]
    return [
        warning(
            "ranking",
            f"recall ranks by {serving[0]}, and these settings give {', '.join(dict.fromkeys(at_hand))}",
            "Name it in `embedder_before` until recall has moved; `standpipe model list` shows how far that is.",
        )
    ]


def _tokenizers(config: Config) -> list[Finding]:
    found = []
    tokenizers = Tokenizers(Path(config.models_dir) / "tokenizers", config.tokenizers)
    for name in config.tokenizers:
        try:
            tokenizers.get(name)
        except StandpipeError as error:
            advice = "`standpipe model ranks` fetches the pinned ones; the setting `tokenizers` names which are used."
            found.append(failed(name, error.message, advice))
        else:
            found.append(ok(name, "its ranks have their pinned SHA-256"))
    return found
