package standpipe

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// domain marks the details that a Standpipe server wrote.
const domain = "standpipe.dev"

// A Kind is a class of errors, for [errors.Is]. It follows the gRPC status, and the reason where that says more.
type Kind string

// The kinds of errors.
const (
	// ErrInvalidArgument: a field, token, receipt, budget or policy document is wrong; Field of the error names it.
	ErrInvalidArgument Kind = "InvalidArgument"
	// ErrNotFound: the tenant has no such session, policy or route.
	ErrNotFound Kind = "NotFound"
	// ErrAlreadyExists: the request id was used before in this session with another body.
	ErrAlreadyExists Kind = "AlreadyExists"
	// ErrConflict: another commit won this version (P2). Rehydrate, reapply, commit under a new request id.
	ErrConflict Kind = "Conflict"
	// ErrFailedPrecondition: the call is right but the state of the session or the server is not; see Reason.
	ErrFailedPrecondition Kind = "FailedPrecondition"
	// ErrSessionEnded: the session was ended and takes no more turns. It is an ErrFailedPrecondition, too.
	ErrSessionEnded Kind = "SessionEnded"
	// ErrOutOfRange: the version or the token is ahead of the session's log.
	ErrOutOfRange Kind = "OutOfRange"
	// ErrPermissionDenied: the tenant in the request is not the caller's (P8).
	ErrPermissionDenied Kind = "PermissionDenied"
	// ErrUnauthenticated: the credential is missing or not valid.
	ErrUnauthenticated Kind = "Unauthenticated"
	// ErrResourceExhausted: the store's disk is full, or a message exceeds the wire limit of 8 MiB.
	ErrResourceExhausted Kind = "ResourceExhausted"
	// ErrOverloaded: a bounded queue of the server is full (P12). Nothing happened; pause for RetryAfter. It is an
	// ErrResourceExhausted, too.
	ErrOverloaded Kind = "Overloaded"
	// ErrUnavailable: the server or its store cannot be reached; the connection's retries are used up.
	ErrUnavailable Kind = "Unavailable"
	// ErrDeadlineExceeded: the call's deadline passed. It is a [context.DeadlineExceeded], too.
	ErrDeadlineExceeded Kind = "DeadlineExceeded"
	// ErrCancelled: the call was cancelled, by the server, by its context (then it is a [context.Canceled], too), or by
	// closing the client (then it is an [ErrClosed], too).
	ErrCancelled Kind = "Cancelled"
	// ErrDataLoss: a stored event does not match its hash, or a stored row cannot be read.
	ErrDataLoss Kind = "DataLoss"
	// ErrInternal: a defect in Standpipe; Metadata has the correlation id of its log.
	ErrInternal Kind = "Internal"
	// ErrUnimplemented: the server does not know this call: it is older than the client, or not Standpipe.
	ErrUnimplemented Kind = "Unimplemented"
	// ErrUnknown: any other status.
	ErrUnknown Kind = "Unknown"
)

// ErrClosed is what calls of a closed client fail with, and those that were in flight when it was closed.
var ErrClosed = errors.New("standpipe: the client is closed")

// Error says that it is a kind of error.
func (k Kind) Error() string {
	return "standpipe: " + string(k)
}

// An Error is how every call fails.
//
// A commit that ends in [ErrUnavailable], [ErrDeadlineExceeded] or [ErrCancelled] may have happened. RequestID tells
// which it was: commit the same entries again under that id, and it counts once.
type Error struct {
	// Kind is the class, for [errors.Is].
	Kind Kind
	// Code is the gRPC status.
	Code codes.Code
	// Reason is the name of standpipe.v1.ErrorReason without its prefix, such as "VERSION_CONFLICT". It is empty when
	// no Standpipe server wrote the error: connection refused, a proxy's answer, a limit of gRPC itself.
	Reason string
	// Message is what is wrong and what would be right; it never holds a user's text.
	Message string
	// Metadata is what the reason documents in error.proto, such as current_version.
	Metadata map[string]string
	// Field is the path of the field that is wrong, where one is.
	Field string
	// FieldMessage is what that field must be.
	FieldMessage string
	// RequestID is the id of the commit or end that failed, to repeat it safely; empty for other calls.
	RequestID string

	retryAfter *time.Duration
	cause      error
}

// Error returns the reason, or else the status, and the message.
func (e *Error) Error() string {
	label := e.Reason
	if label == "" {
		label = e.CodeName()
	}
	if e.Message == "" {
		return "standpipe: " + label
	}
	return "standpipe: " + label + ": " + e.Message
}

// Is tells whether the error is of a [Kind].
func (e *Error) Is(target error) bool {
	kind, ok := target.(Kind)
	return ok && (kind == e.Kind || kind == kindOf(e.Code, ""))
}

// Unwrap returns what cancelled the call, such as the error of its context; nil if the server failed it.
func (e *Error) Unwrap() error {
	return e.cause
}

// GRPCStatus returns the gRPC status, so that [status.Code] and its like understand the error.
func (e *Error) GRPCStatus() *status.Status {
	return status.New(e.Code, e.Message)
}

// CodeName returns the gRPC status by name, such as "ABORTED".
func (e *Error) CodeName() string {
	if name, ok := code.Code_name[int32(e.Code)]; ok {
		return name
	}
	return "UNKNOWN"
}

// RetryAfter returns the pause that the server advises; false where a retry of the same call cannot help.
func (e *Error) RetryAfter() (time.Duration, bool) {
	if e.retryAfter == nil {
		return 0, false
	}
	return *e.retryAfter, true
}

// CurrentVersion returns the session's version now, of an [ErrConflict]; false if the server did not say.
func (e *Error) CurrentVersion() (int64, bool) {
	version, err := strconv.ParseInt(e.Metadata["current_version"], 10, 64)
	return version, err == nil && version >= 0
}

// WinnerRequestID returns the request id of the commit that won, of an [ErrConflict]; empty if the server did not say.
func (e *Error) WinnerRequestID() string {
	return e.Metadata["winner_request_id"]
}

// parse returns the error of a failed call. Of each kind of detail the first counts, of reasons the first of
// Standpipe's own domain. Details that cannot be read are left out: the status alone is still true.
func parse(statusCode codes.Code, message string, details []*anypb.Any) *Error {
	failed := &Error{Code: statusCode, Message: message, Metadata: map[string]string{}}
	var info *errdetails.ErrorInfo
	var bad *errdetails.BadRequest
	var retry *errdetails.RetryInfo
	for _, detail := range details {
		found, err := detail.UnmarshalNew()
		if err != nil {
			continue
		}
		switch found := found.(type) {
		case *errdetails.ErrorInfo:
			if info == nil && found.GetDomain() == domain {
				info = found
			}
		case *errdetails.BadRequest:
			if bad == nil {
				bad = found
			}
		case *errdetails.RetryInfo:
			if retry == nil {
				retry = found
			}
		}
	}
	if info != nil {
		failed.Reason = info.GetReason()
		if info.GetMetadata() != nil {
			failed.Metadata = info.GetMetadata()
		}
	}
	if violations := bad.GetFieldViolations(); len(violations) > 0 {
		failed.Field, failed.FieldMessage = violations[0].GetField(), violations[0].GetDescription()
	}
	if retry != nil {
		after := retry.GetRetryDelay().AsDuration().Truncate(time.Millisecond)
		failed.retryAfter = &after
	}
	failed.Kind = kindOf(statusCode, failed.Reason)
	return failed
}

func kindOf(statusCode codes.Code, reason string) Kind {
	switch reason {
	case "OVERLOADED":
		return ErrOverloaded
	case "SESSION_ENDED":
		return ErrSessionEnded
	}
	switch statusCode {
	case codes.InvalidArgument:
		return ErrInvalidArgument
	case codes.NotFound:
		return ErrNotFound
	case codes.AlreadyExists:
		return ErrAlreadyExists
	case codes.Aborted:
		return ErrConflict
	case codes.FailedPrecondition:
		return ErrFailedPrecondition
	case codes.OutOfRange:
		return ErrOutOfRange
	case codes.PermissionDenied:
		return ErrPermissionDenied
	case codes.Unauthenticated:
		return ErrUnauthenticated
	case codes.ResourceExhausted:
		return ErrResourceExhausted
	case codes.Unavailable:
		return ErrUnavailable
	case codes.DeadlineExceeded:
		return ErrDeadlineExceeded
	case codes.Canceled:
		return ErrCancelled
	case codes.DataLoss:
		return ErrDataLoss
	case codes.Internal:
		return ErrInternal
	case codes.Unimplemented:
		return ErrUnimplemented
	}
	return ErrUnknown
}

// invalid returns the error of an argument that this client refuses by itself.
func invalid(field, format string, arguments ...any) *Error {
	text := fmt.Sprintf(format, arguments...)
	return &Error{
		Kind: ErrInvalidArgument, Code: codes.InvalidArgument,
		Message: field + " " + text, Field: field, FieldMessage: text,
	}
}

// closed returns the error of a call of a closed client.
func closed() *Error {
	return &Error{Kind: ErrCancelled, Code: codes.Canceled, Message: "the client is closed", cause: ErrClosed}
}

// ended returns the error of a call whose context has ended.
func ended(ctx context.Context) *Error {
	cause := ctx.Err()
	if errors.Is(cause, context.DeadlineExceeded) {
		const text = "the deadline passed"
		return &Error{Kind: ErrDeadlineExceeded, Code: codes.DeadlineExceeded, Message: text, cause: cause}
	}
	return &Error{Kind: ErrCancelled, Code: codes.Canceled, Message: "the call was cancelled", cause: cause}
}

// withRequestID notes the id of a write in its error.
func withRequestID(err error, id string) error {
	var failed *Error
	if errors.As(err, &failed) {
		failed.RequestID = id
	}
	return err
}
