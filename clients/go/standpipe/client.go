package standpipe

import (
	"context"
	"iter"
	"time"

	standpipev1 "standpipe.dev/go/standpipe/v1"
)

// A Client is a connection to Standpipe, to be shared by all sessions. Close it.
type Client struct {
	wire  *wire
	stubs Stubs
}

// Stubs are the generated stubs of all services, over the client's own connection: its deadline, retries and
// credentials are theirs, they fail with an [*Error], and a request that names no tenant gets the client's.
type Stubs struct {
	// Context has the hot path, for what [Session] does not say.
	Context standpipev1.ContextServiceClient
	// Sessions has sessions and their logs.
	Sessions standpipev1.SessionServiceClient
	// Memory has facts, profiles and documents, erasure and export.
	Memory standpipev1.MemoryServiceClient
	// Policies has what bundles may hold, and the routes that point at it.
	Policies standpipev1.PolicyServiceClient
	// State has the application's own records beside the conversation.
	State standpipev1.StateServiceClient
	// Embedding has the vectors of a shared embedder, `standpipe embed`; a sidecar does not serve it.
	Embedding standpipev1.EmbeddingServiceClient
}

// Connect returns a client of the server at target; the connection opens at the first call.
//
// An empty target means STANDPIPE_TARGET of the environment, and else 127.0.0.1:7460. Where no option names a file,
// STANDPIPE_TOKEN_FILE, STANDPIPE_CA_FILE, STANDPIPE_CERT_FILE and STANDPIPE_KEY_FILE tell it. So an application that a
// platform put a sidecar beside just calls Connect("").
//
// Targets are gRPC's: "unix:/run/standpipe/standpipe.sock", "127.0.0.1:7460", "dns:///standpipe.default.svc:7460".
//
// It fails, with [ErrInvalidArgument] and the option's name in Field, for files that are missing or not what they must
// be, and for options that exclude each other.
func Connect(target string, options ...ConnectOption) (*Client, error) {
	settings := connectSettings{deadline: DefaultDeadline}
	for _, option := range options {
		option(&settings)
	}
	wire, err := dial(target, &settings)
	if err != nil {
		return nil, err
	}
	return &Client{wire: wire, stubs: Stubs{
		Context:   standpipev1.NewContextServiceClient(wire),
		Sessions:  standpipev1.NewSessionServiceClient(wire),
		Memory:    standpipev1.NewMemoryServiceClient(wire),
		Policies:  standpipev1.NewPolicyServiceClient(wire),
		State:     standpipev1.NewStateServiceClient(wire),
		Embedding: standpipev1.NewEmbeddingServiceClient(wire),
	}}, nil
}

// Close closes the connection: calls in flight are cancelled, and they and later ones fail with [ErrClosed]. It may be
// called again.
func (c *Client) Close() error {
	c.wire.close()
	return nil
}

// Session returns a session by its id; it calls nothing yet.
func (c *Client) Session(id string, options ...SessionOption) *Session {
	session := &Session{client: c, id: id, seenVersion: -1}
	for _, option := range options {
		option(session)
	}
	return session
}

// Stubs returns the generated stubs of all services, for everything that has no method of its own here.
func (c *Client) Stubs() Stubs {
	return c.stubs
}

// ServerInfo returns what the server is and can: versions, limits, engines, tokenizers, embedding model.
func (c *Client) ServerInfo(ctx context.Context) (*standpipev1.GetServerInfoResponse, error) {
	return c.stubs.Context.GetServerInfo(ctx, &standpipev1.GetServerInfoRequest{})
}

// A Replay is a bundle that was served before, rendered again byte for byte (P7).
type Replay struct {
	// Bundle equals what was served, except for the length of its omission list when all were asked for.
	Bundle *Bundle
	// ServedAt is when it was served.
	ServedAt time.Time
	// SessionID is the session that it was served for.
	SessionID string
	// SubjectID is whose memory it recalled.
	SubjectID string
}

// Replay renders a bundle that was served before again, from its Receipt or from a turn of the log (P7).
//
// It fails with [ErrInvalidArgument] (RECEIPT_INVALID) and [ErrFailedPrecondition] (REPLAY_UNAVAILABLE: its subject was
// erased, or its model is gone).
func (c *Client) Replay(ctx context.Context, receipt []byte, options ...ReplayOption) (*Replay, error) {
	request := &standpipev1.ReplayContextRequest{TenantId: c.wire.tenant, Receipt: receipt}
	for _, option := range options {
		option(request)
	}
	got, err := c.stubs.Context.ReplayContext(ctx, request)
	if err != nil {
		return nil, err
	}
	return &Replay{
		Bundle:    &Bundle{Message: got.GetBundle(), Receipt: receipt, Degraded: got.GetDegraded()},
		ServedAt:  got.GetServedAt().AsTime(),
		SessionID: got.GetSessionId(),
		SubjectID: got.GetSubjectId(),
	}, nil
}

// Sessions iterates over the tenant's sessions by id, or over those of one subject if it is not empty. It ends at the
// first error. The client's deadline is for each page, the context's for all.
func (c *Client) Sessions(
	ctx context.Context, subject string, options ...ListOption,
) iter.Seq2[*standpipev1.Session, error] {
	var settings listSettings
	for _, option := range options {
		option(&settings)
	}
	return func(yield func(*standpipev1.Session, error) bool) {
		request := &standpipev1.ListSessionsRequest{
			TenantId: c.wire.tenant, SubjectId: subject, PageSize: settings.pageSize,
		}
		for {
			page, err := c.stubs.Sessions.ListSessions(ctx, request)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, session := range page.GetSessions() {
				if !yield(session, nil) {
					return
				}
			}
			if page.GetNextPageToken() == "" {
				return
			}
			request.PageToken = page.GetNextPageToken()
		}
	}
}
