"""Wiring of a sidecar: what is made in which order, and undone in reverse.

Start: the record store, the tokenizers, the embedder, then the sockets. Stop: no new calls, the calls at work end, then
the commits whose callers left, the projection, the stores.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from sidecar import limits
from sidecar.beliefs import BeliefStore
from sidecar.callers import callers_of
from sidecar.commit import Committer
from sidecar.config import Config
from sidecar.embed import Embedder
from sidecar.embedders import embedders_of
from sidecar.engines import open_hot, open_record
from sidecar.erasure import Eraser
from sidecar.errors import ConfigInvalid
from sidecar.export import Exporter
from sidecar.gateway import Gateway
from sidecar.hydrate import Hydrator
from sidecar.lease import Leases
from sidecar.policies import Policies
from sidecar.receipt import Signer
from sidecar.retention import Retention
from sidecar.scope import Scopes
from sidecar.servicers.boundary import Boundary
from sidecar.servicers.context import ContextServicer
from sidecar.servicers.memory import MemoryServicer
from sidecar.servicers.policy import PolicyServicer
from sidecar.servicers.session import SessionServicer
from sidecar.servicers.state import StateServicer
from sidecar.sessions import Sessions
from sidecar.sockets import Serving, Sockets, cancelled, version
from sidecar.stores.hot import Hot
from sidecar.stores.record import Record
from sidecar.switch import Switch
from sidecar.tokens import Tokenizers
from sidecar.view import View
from standpipe.v1 import (
    context_pb2,
    context_pb2_grpc,
    memory_pb2,
    memory_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
    state_pb2,
    state_pb2_grpc,
)

SERVICES = (
    context_pb2.DESCRIPTOR.services_by_name["ContextService"].full_name,
    session_pb2.DESCRIPTOR.services_by_name["SessionService"].full_name,
    policy_pb2.DESCRIPTOR.services_by_name["PolicyService"].full_name,
    memory_pb2.DESCRIPTOR.services_by_name["MemoryService"].full_name,
    state_pb2.DESCRIPTOR.services_by_name["StateService"].full_name,
)


class Server(Serving):
    """A sidecar: ``async with Server(config) as server``."""

    def __init__(self, config: Config, *, embedder: Embedder | None = None) -> None:
        """`embedder` stands in for the one that the configuration names; it is for tests and benches."""
        super().__init__(config)
        self._given_embedder = embedder

    @property
    def provider(self) -> str:
        """What computes embeddings."""
        ranking = self.embedders.ranking
        return ranking.provider if ranking else "none"

    async def _start(self) -> None:
        config, telemetry, stack = self.config, self.telemetry, self._stack
        tls = self._certificates()
        callers = await stack.enter_async_context(callers_of(config, telemetry))
        self.record: Record = await open_record(config)
        stack.push_async_callback(self.record.close)
        if not config.tenants_file and not await self.record.may_be(config.tenant):
            raise ConfigInvalid("the record store binds this role to other tenants", field="tenant")
        models = Path(config.models_dir)
        tokenizers = Tokenizers(models / "tokenizers", config.tokenizers)
        counters = {}
        for name in config.tokenizers:
            counters[name] = (await asyncio.to_thread(tokenizers.get, name)).count
        given = [self._given_embedder] if self._given_embedder else []
        self.embedders = embedders = await stack.enter_async_context(embedders_of(config, telemetry, given=given))
        self.health.sound = lambda: not any(one.broken for one in embedders.all)

        signing_key = await self.record.signing_key()
        signer = Signer(signing_key)
        hot: Hot[View] = await open_hot(config, self.record)
        stack.push_async_callback(hot.close)
        policies = Policies(self.record, tokenizers)
        leases = Leases(self.record, hot, policies, telemetry)
        stack.push_async_callback(leases.close)
        stack.push_async_callback(cancelled, asyncio.create_task(leases.run()))
        self.sessions = sessions = Sessions(self.record, hot, leases, tokenizers, telemetry)
        self.scopes = scopes = Scopes(self.record, self.embedders, bytes_max=config.block_cache_bytes)
        beliefs = BeliefStore(self.record, key=signing_key)
        self.eraser = Eraser(record=self.record, hot=hot, telemetry=telemetry, signer=signer, caches=(scopes, beliefs))
        stack.push_async_callback(self.eraser.drain)
        self.switch = Switch(self.record, self.embedders, telemetry=telemetry, project=config.project)
        if self.embedders.configured:
            await self.switch.look()
            stack.push_async_callback(cancelled, asyncio.create_task(self.switch.run()))
        if config.project:
            retention = Retention(self.record, hot, telemetry, self.eraser)
            stack.push_async_callback(cancelled, asyncio.create_task(retention.run()))
        stack.push_async_callback(sessions.drain)
        committer = Committer(
            sessions=sessions,
            gateway=Gateway(self.record, beliefs),
            counters=counters,
            signer=signer,
            telemetry=telemetry,
            wake_projection=self.switch.wake,
        )
        stack.push_async_callback(committer.drain)
        hydrator = Hydrator(
            record=self.record,
            sessions=sessions,
            scopes=scopes,
            beliefs=beliefs,
            leases=leases,
            tokenizers=tokenizers,
            embedders=self.embedders,
            signer=signer,
            telemetry=telemetry,
        )
        telemetry.info.labels(version(), self.record.engine, hot.engine, self.provider).set(1)
        telemetry.block_cache_bytes.set_function(lambda: scopes.nbytes)

        self.boundary = boundary = Boundary(tenant=config.tenant, telemetry=telemetry, callers=callers)
        sockets = Sockets(config, boundary, tls=tls)
        context_pb2_grpc.add_ContextServiceServicer_to_server(
            ContextServicer(boundary, hydrator, committer, self._info), sockets.services
        )
        session_pb2_grpc.add_SessionServiceServicer_to_server(
            SessionServicer(boundary, self.record, committer, signer), sockets.services
        )
        policy_pb2_grpc.add_PolicyServiceServicer_to_server(
            PolicyServicer(boundary, self.record, leases), sockets.services
        )
        memory_pb2_grpc.add_MemoryServiceServicer_to_server(
            MemoryServicer(
                boundary,
                record=self.record,
                committer=committer,
                beliefs=beliefs,
                policies=policies,
                eraser=self.eraser,
                exporter=Exporter(record=self.record, beliefs=beliefs, signer=signer),
                hydrator=hydrator,
            ),
            sockets.services,
        )
        state_pb2_grpc.add_StateServiceServicer_to_server(
            StateServicer(boundary, self.record, signer), sockets.services
        )
        await self._open(sockets, SERVICES)

    async def _info(self) -> context_pb2.GetServerInfoResponse:
        lags, ranking = await self.switch.lags(), self.embedders.ranking
        embeddings = []
        for one in self.embedders.all:
            embeddings.append(one.info())
            embeddings[-1].ranks = one is ranking
            embeddings[-1].lag_items = lags[one.id].items if one.id in lags else 0
        embedding = next((one for one in embeddings if one.ranks), context_pb2.EmbeddingInfo(provider="none"))
        return context_pb2.GetServerInfoResponse(
            version=version(),
            record_engine=self.record.engine,
            hot_engine=self.config.hot.partition("://")[0],  # what stands behind it may hold a password
            tokenizers=self.config.tokenizers,
            embedding=embedding,
            embeddings=embeddings,
            limits=[
                context_pb2.Limit(name=name, value=value)
                for name, value in sorted(vars(limits).items())
                if isinstance(value, int)
            ],
            projection_lag_items=embedding.lag_items,
        )
