/**
 * Every way a call can fail, as the client sees it.
 *
 *     StandpipeError                  .code, .reason, .metadata, .field, .fieldMessage, .retryAfterMs, .requestId
 *     ├── InvalidArgument             a field, token, receipt, budget or policy document is wrong: `field` names it
 *     ├── NotFound                    no such session, policy or route
 *     ├── AlreadyExists               the request id was used before with another body
 *     ├── Conflict                    ABORTED: another commit won this version; rehydrate and reapply
 *     ├── FailedPrecondition          subject mismatch, read-only store, replay no longer possible
 *     │   └── SessionEnded            the session takes no more turns
 *     ├── OutOfRange                  the version or token is ahead of the session's log
 *     ├── PermissionDenied            the tenant is not the caller's
 *     ├── Unauthenticated             the credential is missing or not valid
 *     ├── ResourceExhausted           the store is full, or a message is larger than the wire limit
 *     │   └── Overloaded              a bounded queue is full: pause for `retryAfterMs`
 *     ├── Unavailable                 the server or its store cannot be reached; was retried already
 *     ├── DeadlineExceeded            `deadlineMs` passed
 *     ├── Cancelled                   the server cancelled the call, or the client was closed
 *     ├── DataLoss, Internal, Unimplemented
 *     └── (StandpipeError itself)     any other status
 *
 * The class follows the gRPC status, and the reason where that says more. A call that the caller's own AbortSignal ends
 * throws the signal's reason, and none of these.
 *
 * A commit that ends in Unavailable or DeadlineExceeded may have happened. `requestId` tells which it was: commit the
 * same entries again under that id, and it counts once.
 */

import { fromBinary, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import { anyUnpack, type Any } from "@bufbuild/protobuf/wkt";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "./gen/google/rpc/status_pb.js";

const DOMAIN = "standpipe.dev";

/** What an error is made of. */
export interface ErrorFields {
  /** The gRPC status by name. */
  code: string;
  reason?: string;
  metadata?: Readonly<Record<string, string>>;
  field?: string | undefined;
  fieldMessage?: string | undefined;
  retryAfterMs?: number | undefined;
  cause?: unknown;
}

/** The root of all errors that a call can end in. Its `message` never holds a user's text. */
export class StandpipeError extends Error {
  static {
    this.prototype.name = "StandpipeError";
  }

  /** The gRPC status by name, such as "ABORTED". */
  readonly code: string;
  /**
   * The name of `ErrorReason` without its prefix, such as "VERSION_CONFLICT"; empty when no Standpipe server wrote the
   * error: connection refused, a proxy's answer, a limit of gRPC itself.
   */
  readonly reason: string;
  /** What the reason documents in error.proto, such as `current_version`. */
  readonly metadata: Readonly<Record<string, string>>;
  /** The path of the field that is wrong, where one is. */
  readonly field: string | undefined;
  /** What that field must be. */
  readonly fieldMessage: string | undefined;
  /** The pause that the server advises; undefined where a retry of the same call cannot help. */
  readonly retryAfterMs: number | undefined;
  /** The id of the commit or end that failed, to repeat it safely; undefined for other calls. */
  requestId: string | undefined;

  constructor(message: string, fields: ErrorFields) {
    super(message, fields.cause === undefined ? {} : { cause: fields.cause });
    this.code = fields.code;
    this.reason = fields.reason ?? "";
    this.metadata = fields.metadata ?? {};
    this.field = fields.field;
    this.fieldMessage = fields.fieldMessage;
    this.retryAfterMs = fields.retryAfterMs;
    this.requestId = undefined;
  }
}

/** Something in the request is wrong; the same request fails again. */
export class InvalidArgument extends StandpipeError {
  static {
    this.prototype.name = "InvalidArgument";
  }
}

/** The tenant has no such session, policy or route. */
export class NotFound extends StandpipeError {
  static {
    this.prototype.name = "NotFound";
  }
}

/** The request id was used before in this session with another body. */
export class AlreadyExists extends StandpipeError {
  static {
    this.prototype.name = "AlreadyExists";
  }
}

/** Another commit won this version (P2). Rehydrate, reapply, commit under a new request id. */
export class Conflict extends StandpipeError {
  static {
    this.prototype.name = "Conflict";
  }

  /** The session's version now; undefined if the server did not say. */
  get currentVersion(): number | undefined {
    const value = this.metadata["current_version"] ?? "";
    return /^[0-9]+$/.test(value) ? Number(value) : undefined;
  }

  /** The request id of the commit that won; undefined if the server did not say. */
  get winnerRequestId(): string | undefined {
    return this.metadata["winner_request_id"] || undefined;
  }
}

/** The call is right but the state of the session or the server is not; see `reason`. */
export class FailedPrecondition extends StandpipeError {
  static {
    this.prototype.name = "FailedPrecondition";
  }
}

/** The session was ended and takes no more turns. */
export class SessionEnded extends FailedPrecondition {
  static {
    this.prototype.name = "SessionEnded";
  }
}

/** The version or the token is ahead of the session's log. */
export class OutOfRange extends StandpipeError {
  static {
    this.prototype.name = "OutOfRange";
  }
}

/** The tenant in the request is not the caller's (P8). */
export class PermissionDenied extends StandpipeError {
  static {
    this.prototype.name = "PermissionDenied";
  }
}

/** The credential is missing or not valid. */
export class Unauthenticated extends StandpipeError {
  static {
    this.prototype.name = "Unauthenticated";
  }
}

/** The store's disk is full, or a message exceeds the wire limit of 8 MiB. */
export class ResourceExhausted extends StandpipeError {
  static {
    this.prototype.name = "ResourceExhausted";
  }
}

/** A bounded queue of the server is full (P12). Nothing happened; pause for `retryAfterMs`. */
export class Overloaded extends ResourceExhausted {
  static {
    this.prototype.name = "Overloaded";
  }
}

/** The server or its store cannot be reached; the channel's retries are used up. */
export class Unavailable extends StandpipeError {
  static {
    this.prototype.name = "Unavailable";
  }
}

/** The call's `deadlineMs` passed. */
export class DeadlineExceeded extends StandpipeError {
  static {
    this.prototype.name = "DeadlineExceeded";
  }
}

/** The call was cancelled by the server or by closing the client. */
export class Cancelled extends StandpipeError {
  static {
    this.prototype.name = "Cancelled";
  }
}

/** A stored event does not match its hash, or a stored row cannot be read. */
export class DataLoss extends StandpipeError {
  static {
    this.prototype.name = "DataLoss";
  }
}

/** A defect in Standpipe; metadata has the correlation id of its log. */
export class Internal extends StandpipeError {
  static {
    this.prototype.name = "Internal";
  }
}

/** The server does not know this call: it is older than the client, or not Standpipe. */
export class Unimplemented extends StandpipeError {
  static {
    this.prototype.name = "Unimplemented";
  }
}

const BY_STATUS: Readonly<Record<string, typeof StandpipeError>> = {
  INVALID_ARGUMENT: InvalidArgument,
  NOT_FOUND: NotFound,
  ALREADY_EXISTS: AlreadyExists,
  ABORTED: Conflict,
  FAILED_PRECONDITION: FailedPrecondition,
  OUT_OF_RANGE: OutOfRange,
  PERMISSION_DENIED: PermissionDenied,
  UNAUTHENTICATED: Unauthenticated,
  RESOURCE_EXHAUSTED: ResourceExhausted,
  UNAVAILABLE: Unavailable,
  DEADLINE_EXCEEDED: DeadlineExceeded,
  CANCELLED: Cancelled,
  DATA_LOSS: DataLoss,
  INTERNAL: Internal,
  UNIMPLEMENTED: Unimplemented,
};
const BY_REASON: Readonly<Record<string, typeof StandpipeError>> = {
  OVERLOADED: Overloaded,
  SESSION_ENDED: SessionEnded,
};

/**
 * Return the error of a failed call from its status by name, its message and the bytes of grpc-status-details-bin.
 *
 * Details of another domain, and details that cannot be read, are left out: the status alone is still true. Of details
 * of one kind the first counts.
 */
export function parse(code: string, message: string, details?: Uint8Array, cause?: unknown): StandpipeError {
  const found = details === undefined ? [] : read(details);
  const info = all(found, ErrorInfoSchema).find(({ domain }) => domain === DOMAIN);
  const violation = all(found, BadRequestSchema)[0]?.fieldViolations[0];
  const retry = all(found, RetryInfoSchema)[0];
  const kind = BY_REASON[info?.reason ?? ""] ?? BY_STATUS[code] ?? StandpipeError;
  const { seconds = 0n, nanos = 0 } = retry?.retryDelay ?? {};
  return new kind(message, {
    code,
    reason: info?.reason ?? "",
    metadata: info?.metadata ?? {},
    field: violation?.field,
    fieldMessage: violation?.description,
    retryAfterMs: retry && Number(seconds) * 1000 + Math.trunc(nanos / 1_000_000),
    cause,
  });
}

function read(details: Uint8Array): Any[] {
  try {
    return fromBinary(StatusSchema, details).details;
  } catch {
    return [];
  }
}

function all<Desc extends DescMessage>(details: readonly Any[], schema: Desc): MessageShape<Desc>[] {
  return details.flatMap((detail) => {
    try {
      return anyUnpack(detail, schema) ?? [];
    } catch {
      return [];
    }
  });
}
