"""StateService: records that applications keep beside the conversation. They are the record store's alone."""

from __future__ import annotations

from typing import cast

import grpc

from sidecar import canonical, limits, names, validate
from sidecar.receipt import Signer
from sidecar.servicers.boundary import Boundary
from sidecar.stores.record import Deadline, Record, StateFound, StateList, StateRead, StateRecord, StateWrite
from standpipe.v1 import state_pb2, state_pb2_grpc


class StateServicer(state_pb2_grpc.StateServiceServicer):
    """See protos/standpipe/v1/state.proto."""

    def __init__(self, boundary: Boundary, record: Record, signer: Signer) -> None:
        self._boundary = boundary
        self._record = record
        self._signer = signer

    async def PutState(
        self, request: state_pb2.PutStateRequest, context: grpc.aio.ServicerContext
    ) -> state_pb2.PutStateResponse:
        """Write and delete records."""

        async def work(tenant: str, deadline: Deadline) -> state_pb2.PutStateResponse:
            subject, collection = _place(request)
            validate.state_writes(request.writes)
            revision = await self._record.put_state(
                tenant,
                subject=subject,
                collection=collection,
                writes=[_write(write) for write in request.writes],
                deadline=deadline,
            )
            return state_pb2.PutStateResponse(revision=revision)

        return await self._boundary.call("PutState", request, context, work)

    async def GetState(
        self, request: state_pb2.GetStateRequest, context: grpc.aio.ServicerContext
    ) -> state_pb2.GetStateResponse:
        """Read records by their keys."""

        async def work(tenant: str, deadline: Deadline) -> state_pb2.GetStateResponse:
            subject, collection = _place(request)
            keys = list(request.keys)
            validate.state_keys(keys, "keys")
            read = StateRead(
                tenant=tenant, subject=subject, collection=collection, keys=keys, bytes_max=limits.page_bytes
            )
            (answer,) = await self._record.fetch([read], deadline=deadline)
            found = cast(StateFound, answer)
            unread = keys[keys.index(found.records[-1].key) + 1 :] if found.more else []
            return state_pb2.GetStateResponse(records=map(_record, found.records), unread_keys=unread)

        return await self._boundary.call("GetState", request, context, work)

    async def ListState(
        self, request: state_pb2.ListStateRequest, context: grpc.aio.ServicerContext
    ) -> state_pb2.ListStateResponse:
        """List records; the page token is the last key, bound to what was asked for."""

        async def work(tenant: str, deadline: Deadline) -> state_pb2.ListStateResponse:
            subject, collection = _place(request)
            validate.state_prefix(request.key_prefix, "key_prefix")
            asked = (tenant, subject, collection, request.key_prefix, int(request.descending), int(request.keys_only))
            of = ("state", canonical.sha256(asked).hex())
            after = ""
            if request.page_token:
                (last,) = self._signer.open_page(
                    request.page_token, of=of, field_name="page_token", chars_max=limits.state_token_chars_max
                )
                after = cast(str, last)
            read = StateList(
                tenant=tenant,
                subject=subject,
                collection=collection,
                prefix=request.key_prefix,
                after_key=after,
                descending=request.descending,
                keys_only=request.keys_only,
                count_max=validate.page(request.page_size),
                bytes_max=limits.page_bytes,
            )
            (answer,) = await self._record.fetch([read], deadline=deadline)
            found = cast(StateFound, answer)
            token = self._signer.seal_page([found.records[-1].key], of=of) if found.more else ""
            return state_pb2.ListStateResponse(records=map(_record, found.records), next_page_token=token)

        return await self._boundary.call("ListState", request, context, work)

    async def DeleteState(
        self, request: state_pb2.DeleteStateRequest, context: grpc.aio.ServicerContext
    ) -> state_pb2.DeleteStateResponse:
        """Delete records by the beginning of their keys, so many a call."""

        async def work(tenant: str, deadline: Deadline) -> state_pb2.DeleteStateResponse:
            subject, collection = _place(request)
            validate.state_prefix(request.key_prefix, "key_prefix")
            deleted, more = await self._record.delete_state(
                tenant,
                subject=subject,
                collection=collection,
                prefix=request.key_prefix,
                count_max=limits.state_delete_max,
                deadline=deadline,
            )
            return state_pb2.DeleteStateResponse(deleted=deleted, more=more)

        return await self._boundary.call("DeleteState", request, context, work)


def _place(
    request: state_pb2.PutStateRequest
    | state_pb2.GetStateRequest
    | state_pb2.ListStateRequest
    | state_pb2.DeleteStateRequest,
) -> tuple[str, str]:
    """Return (subject, collection), checked; without a subject the records are the tenant's."""
    validate.identifier(request.subject_id, "subject_id", optional=True)
    return request.subject_id or names.EVERYONE, validate.name(request.collection, "collection")


def _write(write: state_pb2.StateWrite) -> StateWrite:
    return StateWrite(
        key=write.key,
        value=write.value if write.HasField("value") else None,
        expected_revision=write.expected_revision if write.HasField("expected_revision") else None,
        keep_us=write.ttl_s * 1_000_000,
    )


def _record(record: StateRecord) -> state_pb2.StateRecord:
    made = state_pb2.StateRecord(key=record.key, value=record.value, revision=record.revision)
    made.updated_at.FromMicroseconds(record.updated_at_us)
    if record.expires_at_us:
        made.expires_at.FromMicroseconds(record.expires_at_us)
    return made
