package dev.standpipe.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.StatusRuntimeException;
import java.time.Duration;
import java.util.Collections;
import java.util.HashMap;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalLong;

/**
 * The root of all errors that a call can end in.
 *
 * <pre>
 * StandpipeException              code, reason, metadata, field, fieldMessage, retryAfter, requestId
 * ├── InvalidArgument             a field, token, receipt, budget or policy document is wrong: field names it
 * ├── NotFound                    no such session, policy or route
 * ├── AlreadyExists               the request id was used before with another body
 * ├── Conflict                    ABORTED: another commit won this version; rehydrate and reapply
 * ├── FailedPrecondition          subject mismatch, read-only store, replay no longer possible
 * │   └── SessionEnded            the session takes no more turns
 * ├── OutOfRange                  the version or token is ahead of the session's log
 * ├── PermissionDenied            the tenant is not the caller's
 * ├── Unauthenticated             the credential is missing or not valid
 * ├── ResourceExhausted           the store is full, or a message is larger than the wire limit
 * │   └── Overloaded              a bounded queue is full: pause for retryAfter
 * ├── Unavailable                 the server or its store cannot be reached; was retried already
 * ├── DeadlineExceeded            the deadline passed
 * ├── Cancelled                   the call was cancelled: by the server, by an interrupt, or by closing the client
 * ├── DataLoss, Internal, Unimplemented
 * └── (StandpipeException itself) any other status
 * </pre>
 *
 * <p>The class follows the gRPC status, and the reason where that says more. A commit that ends in {@link Unavailable}
 * or {@link DeadlineExceeded} may have happened. {@link #requestId} tells which it was: commit the same entries again
 * under that id, and it counts once.
 */
public class StandpipeException extends RuntimeException {
  private static final long serialVersionUID = 1;
  private static final String DOMAIN = "standpipe.dev";
  private static final Metadata.Key<byte[]> DETAILS =
      Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER);

  private final Status.Code code;
  private final String detail;
  private String reason = "";
  private HashMap<String, String> metadata = new HashMap<>();
  private String field;
  private String fieldMessage;
  private Duration retryAfter;
  private String requestId;

  StandpipeException(Status.Code code, String detail, Throwable cause) {
    super(detail, cause);
    this.code = code;
    this.detail = detail;
  }

  /**
   * Returns the typed error of whatever a generated stub threw: for stubs of {@link StandpipeClient#stub}, the cause of
   * what they throw.
   *
   * @param thrown what a stub threw, or gave to its observer or future
   * @return what it means; {@code thrown} itself if it is typed already
   * @throws IllegalArgumentException if it has no gRPC status
   */
  public static StandpipeException of(Throwable thrown) {
    for (Throwable at = thrown; at != null; at = at.getCause()) {
      if (at instanceof StandpipeException typed) {
        return typed;
      }
      if (at.getCause() instanceof StandpipeException typed) {
        return typed;
      }
      if (at instanceof StatusRuntimeException failed) {
        return parse(failed.getStatus(), failed.getTrailers(), failed);
      }
      if (at instanceof StatusException failed) {
        return parse(failed.getStatus(), failed.getTrailers(), failed);
      }
    }
    throw new IllegalArgumentException("only what a gRPC call ended in has a status", thrown);
  }

  /**
   * Reads a failed call. Details of another domain, and details that cannot be read, are left out: the status alone is
   * still true.
   */
  static StandpipeException parse(Status status, Metadata trailers, Throwable cause) {
    ErrorInfo info = null;
    BadRequest bad = null;
    RetryInfo retry = null;
    for (Any any : details(trailers)) {
      try {
        if (info == null && any.is(ErrorInfo.class)) {
          ErrorInfo found = any.unpack(ErrorInfo.class);
          info = found.getDomain().equals(DOMAIN) ? found : null;
        } else if (bad == null && any.is(BadRequest.class)) {
          bad = any.unpack(BadRequest.class);
        } else if (retry == null && any.is(RetryInfo.class)) {
          retry = any.unpack(RetryInfo.class);
        }
      } catch (InvalidProtocolBufferException unreadable) {
        continue;
      }
    }
    StandpipeException error = create(status, info == null ? "" : info.getReason(), cause);
    if (info != null) {
      error.reason = info.getReason();
      error.metadata = new HashMap<>(info.getMetadataMap());
    }
    if (bad != null && bad.getFieldViolationsCount() > 0) {
      error.field = bad.getFieldViolations(0).getField();
      error.fieldMessage = bad.getFieldViolations(0).getDescription();
    }
    if (retry != null) {
      com.google.protobuf.Duration pause = retry.getRetryDelay();
      error.retryAfter = Duration.ofMillis(pause.getSeconds() * 1000 + pause.getNanos() / 1_000_000);
    }
    return error;
  }

  private static Iterable<Any> details(Metadata trailers) {
    byte[] bytes = trailers == null ? null : trailers.get(DETAILS);
    try {
      return bytes == null ? Collections.emptyList() : com.google.rpc.Status.parseFrom(bytes).getDetailsList();
    } catch (InvalidProtocolBufferException unreadable) {
      return Collections.emptyList();
    }
  }

  private static StandpipeException create(Status status, String reason, Throwable cause) {
    String detail = status.getDescription() == null ? "" : status.getDescription();
    Status.Code code = status.getCode();
    if (reason.equals("OVERLOADED")) {
      return new Overloaded(code, detail, cause);
    }
    if (reason.equals("SESSION_ENDED")) {
      return new SessionEnded(code, detail, cause);
    }
    return switch (code) {
      case INVALID_ARGUMENT -> new InvalidArgument(code, detail, cause);
      case NOT_FOUND -> new NotFound(code, detail, cause);
      case ALREADY_EXISTS -> new AlreadyExists(code, detail, cause);
      case ABORTED -> new Conflict(code, detail, cause);
      case FAILED_PRECONDITION -> new FailedPrecondition(code, detail, cause);
      case OUT_OF_RANGE -> new OutOfRange(code, detail, cause);
      case PERMISSION_DENIED -> new PermissionDenied(code, detail, cause);
      case UNAUTHENTICATED -> new Unauthenticated(code, detail, cause);
      case RESOURCE_EXHAUSTED -> new ResourceExhausted(code, detail, cause);
      case UNAVAILABLE -> new Unavailable(code, detail, cause);
      case DEADLINE_EXCEEDED -> new DeadlineExceeded(code, detail, cause);
      case CANCELLED -> new Cancelled(code, detail, cause);
      case DATA_LOSS -> new DataLoss(code, detail, cause);
      case INTERNAL -> new Internal(code, detail, cause);
      case UNIMPLEMENTED -> new Unimplemented(code, detail, cause);
      default -> new StandpipeException(code, detail, cause);
    };
  }

  StandpipeException withRequestId(String id) {
    requestId = id;
    return this;
  }

  /** Returns the reason, or else the code, and what is wrong. */
  @Override
  public String getMessage() {
    String label = reason.isEmpty() ? code.name() : reason;
    return detail.isEmpty() ? label : label + ": " + detail;
  }

  /**
   * Returns the gRPC status.
   *
   * @return its code
   */
  public Status.Code code() {
    return code;
  }

  /**
   * Returns what is wrong and what would be right, without the label; it never holds a user's text.
   *
   * @return the server's message
   */
  public String detail() {
    return detail;
  }

  /**
   * Returns the name of {@link dev.standpipe.v1.ErrorReason} without its prefix, such as "VERSION_CONFLICT".
   *
   * @return the reason; empty when no Standpipe server wrote the error (connection refused, a proxy's answer, a limit
   *     of gRPC)
   */
  public String reason() {
    return reason;
  }

  /**
   * Returns what the reason documents in error.proto, such as {@code current_version}.
   *
   * @return names and values, not to be changed
   */
  public Map<String, String> metadata() {
    return Collections.unmodifiableMap(metadata);
  }

  /**
   * Returns the path of the field that is wrong, where one is.
   *
   * @return the path
   */
  public Optional<String> field() {
    return Optional.ofNullable(field);
  }

  /**
   * Returns what that field must be.
   *
   * @return the rule
   */
  public Optional<String> fieldMessage() {
    return Optional.ofNullable(fieldMessage);
  }

  /**
   * Returns the pause that the server advises.
   *
   * @return the pause; empty where a retry of the same call cannot help
   */
  public Optional<Duration> retryAfter() {
    return Optional.ofNullable(retryAfter);
  }

  /**
   * Returns the id of the commit or end that failed, to repeat it safely.
   *
   * @return the id; empty for other calls
   */
  public Optional<String> requestId() {
    return Optional.ofNullable(requestId);
  }

  /** Something in the request is wrong; the same request fails again. */
  public static final class InvalidArgument extends StandpipeException {
    private static final long serialVersionUID = 1;

    InvalidArgument(Status.Code code, String detail, Throwable cause) {
      super(code, detail, cause);
    }
  }

  /** The tenant has no such session, policy or route. */
  public static final class NotFound extends StandpipeException {
    private static final long serialVersionUID = 1;

    NotFound(Status.Code code, String detail, Throwable cause) {
      super(code, detail, cause);
    }
  }

  /** The request id was used before in this session with another body. */
  public static final class AlreadyExists extends StandpipeException {
    private static final long serialVersionUID = 1;

    AlreadyExists(Status.Code code, String detail, Throwable cause) {
      super(code, detail, cause);
    }
  }

  /** Another commit won this version (P2). Rehydrate, reapply, commit under a new request id. */
  public static final class Conflict extends StandpipeException {
    private static final long serialVersionUID = 1;

    Conflict(Status.Code code, String detail, Throwable cause) {
      super(code, detail, cause);
    }

    /**
     * Returns the session's version now.
     *
     * @return the version; empty if the server did not say
     */
    public OptionalLong currentVersion() {
      String value = metadata().getOrDefault("current_version", "");
      return value.matches("[0-9]{1,18}") ? OptionalLong.of(Long.parseLong(value)) : OptionalLong.empty();
    }

    /**
     * Returns the request id of the commit that won.
     *
     * @return the id; empty if the server did not say
     */
    public Optional<String> winnerRequestId() {
      return Optional.ofNullable(metadata().get("winner_request_id")).filter(id -> !id.isEmpty());
    }
  }

  /** The call is right but the state of the session or the server is not; see {@link #reason}. */
  public static class FailedPrecondition extends StandpipeException {
    private static final long serialVersionUID = 1;

    FailedPrecondition(Status.Code code, String detail, Throwable cause) {
      super(code, detail, cause);
    }
  }

  /** The session was ended and takes no more turns. */
  public static final class SessionEnded extends FailedPrecondition {
    private static final long serialVersionUID = 1;

    SessionEnded(Status.Code code, String detail, Throwable cause) {
      super(code, detail, cause);
    }
  }

  /** The version or the token is ahead of the session's log. */
  public static final class OutOfRange extends StandpipeException {
    private static final long serialVersionUID = 1;

    OutOfRange(Status.Code code, String detail, Throwable cause) {
      super(code, detail, cause);
    }
  }

  /** The tenant in the request is not the caller's (P8). */
  public static final class PermissionDenied extends StandpipeException {
    private static final long serialVersionUID = 1;

    PermissionDenied(Status.Code code, String detail, Throwable cause) {
      super(code, detail, cause);
    }
  }

  /** The credential is missing or not valid. */
  public static final class Unauthenticated extends StandpipeException {
    private static final long serialVersionUID = 1;

    Unauthenticated(Status.Code code, String detail, Throwable cause) {
      super(code, detail, cause);
    }
  }

  /** The store's disk is full, or a message exceeds the wire limit of 8 MiB. */
  public static class ResourceExhausted extends StandpipeException {
    private static final long serialVersionUID = 1;

    ResourceExhausted(Status.Code code, String detail, Throwable cause) {
      super(code, detail, cause);
    }
  }

  /** A bounded queue of the server is full (P12). Nothing happened; pause for {@link #retryAfter}. */
  public static final class Overloaded extends ResourceExhausted {
    private static final long serialVersionUID = 1;

    Overloaded(Status.Code code, String detail, Throwable cause) {
      super(code, detail, cause);
    }
  }

  /** The server or its store cannot be reached; the channel's retries are used up. */
  public static final class Unavailable extends StandpipeException {
    private static final long serialVersionUID = 1;

    Unavailable(Status.Code code, String detail, Throwable cause) {
      super(code, detail, cause);
    }
  }

  /** The call's deadline passed. */
  public static final class DeadlineExceeded extends StandpipeException {
    private static final long serialVersionUID = 1;

    DeadlineExceeded(Status.Code code, String detail, Throwable cause) {
      super(code, detail, cause);
    }
  }

  /** The call was cancelled: by the server, by an interrupt of its thread, or by closing the client. */
  public static final class Cancelled extends StandpipeException {
    private static final long serialVersionUID = 1;

    Cancelled(Status.Code code, String detail, Throwable cause) {
      super(code, detail, cause);
    }
  }

  /** A stored event does not match its hash, or a stored row cannot be read. */
  public static final class DataLoss extends StandpipeException {
    private static final long serialVersionUID = 1;

    DataLoss(Status.Code code, String detail, Throwable cause) {
      super(code, detail, cause);
    }
  }

  /** A defect in Standpipe; metadata has the correlation id of its log. */
  public static final class Internal extends StandpipeException {
    private static final long serialVersionUID = 1;

    Internal(Status.Code code, String detail, Throwable cause) {
      super(code, detail, cause);
    }
  }

  /** The server does not know this call: it is older than the client, or not Standpipe. */
  public static final class Unimplemented extends StandpipeException {
    private static final long serialVersionUID = 1;

    Unimplemented(Status.Code code, String detail, Throwable cause) {
      super(code, detail, cause);
    }
  }
}
