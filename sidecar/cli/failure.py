"""A failed call in one line: status, reason, field, what is wrong, and what to do."""

from __future__ import annotations

from collections.abc import Mapping

from sidecar import errors as server_errors
from standpipe import errors as client_errors

ADVICE: Mapping[str, str] = {
    "INVALID_FIELD": "Correct it and call again.",
    "LIMIT_EXCEEDED": "Send less; `standpipe info` lists the limits.",
    "TOOL_RESULT_WITHOUT_CALL": "Commit the tool call first, or with its result.",
    "TOKEN_INVALID": "Use a token that this deployment gave for this session.",
    "RECEIPT_INVALID": "Use a receipt as it came from a hydrate of this deployment.",
    "BUDGET_TOO_SMALL": "Raise --budget, or shorten the policy's prompts.",
    "TOKENIZER_UNKNOWN": "Use a name that `standpipe info` lists.",
    "POLICY_INVALID": "Correct the document; `standpipe policy check` tries it offline.",
    "REQUEST_ID_REUSED": "Commit under a new request id.",
    "SESSION_NOT_FOUND": "Check the id and the tenant; a session begins with its first commit.",
    "POLICY_NOT_FOUND": "`standpipe policy list` shows what there is.",
    "FACT_NOT_FOUND": "`standpipe memory beliefs` shows what there is, and where it stands.",
    "ROUTE_NOT_FOUND": "Point it at a policy with `standpipe policy route`.",
    "SESSION_ENDED": "Begin a new session; this one stays readable.",
    "SESSION_EXPIRED": "Begin a new session under another id; this one's log is gone.",
    "ERASED": "Go on under another id; `standpipe subject receipt` shows what was erased.",
    "SUBJECT_MISMATCH": "Name the session's own subject, or none.",
    "VERSION_CONFLICT": "`standpipe hydrate` shows what came first.",
    "VERSION_IN_FUTURE": "Hydrate again: the log is not that far.",
    "TENANT_DENIED": "Leave --tenant out, or name the server's own.",
    "UNAUTHENTICATED": "Name a file with a valid token with --token-file.",
    "STORE_UNAVAILABLE": "Try again, a commit under the same request id.",
    "STORE_READ_ONLY": "Make the record store writable.",
    "STORE_FULL": "Make room on the record store's disk; nothing was written.",
    "STORE_CORRUPT": "Stop writing and restore the record store from a backup.",
    "STORE_SCHEMA_NEWER": "Upgrade Standpipe first.",
    "OVERLOADED": "Pause and try again.",
    "DEADLINE_EXCEEDED": "Try again, a commit under the same request id.",
    "DRAINING": "Try again: another replica, or this one restarted, will answer.",
    "MODEL_INVALID": "`standpipe model fetch` and `standpipe model ranks` put the pinned files there.",
    "MODEL_NOT_SERVED": "Name one that the embedder lists, or let it serve that one.",
    "EMBEDDER_UNAVAILABLE": "Try again; the embedder's log says what happened.",
    "AUTHENTICATOR_UNAVAILABLE": "Try again; the server's log says what did not answer.",
    "INTERNAL": "Look for the correlation id in the server's log and report it.",
    "CONFIG_INVALID": "`standpipe serve --help` lists the settings.",
    "REPLAY_UNAVAILABLE": "What the receipt names is gone; the turn itself is still in `standpipe events`.",
}
"""What to do, by reason: one for each value of `standpipe.v1.ErrorReason`."""


ERRORS = (server_errors.StandpipeError, client_errors.StandpipeError)
"""What `line` can say."""


def line(error: server_errors.StandpipeError | client_errors.StandpipeError) -> str:
    """Return an error in one line."""
    if isinstance(error, client_errors.StandpipeError):
        status, message = error.code, error.field_message or error.message
    else:
        status, message = error.status, error.message
    field = f" in {error.field}" if error.field else ""
    advice = "" if "standpipe " in message else ADVICE.get(error.reason, "")  # the message has its own
    parts = [f"error: {status} {error.reason}".rstrip() + f"{field}:", _sentence(message), advice]
    metadata = " ".join(f"{key}={value}" for key, value in sorted(error.metadata.items()) if value not in message)
    if metadata:
        parts.append(f"({metadata})")
    return " ".join(" ".join(part.split()) for part in parts if part)


def exit_code(error: server_errors.StandpipeError | client_errors.StandpipeError) -> int:
    """Return 2 for what is wrong with the configuration, 1 for what went wrong with a call."""
    return 2 if isinstance(error, server_errors.ConfigInvalid) else 1


def _sentence(message: str) -> str:
    return message if message.endswith((".", "!", "?")) else f"{message}."
