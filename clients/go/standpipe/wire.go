package standpipe

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	// DefaultTarget is whom a client calls that neither an argument nor the environment tells: the server's default.
	DefaultTarget = "127.0.0.1:7460"

	// DefaultDeadline is for calls that bring no deadline, retries included: no call waits for ever.
	DefaultDeadline = 10 * time.Second

	// WireBytes is one gRPC message in either direction, as the server's wire_bytes; gRPC's own default is 4 MiB to
	// receive.
	WireBytes = 8 << 20
)

// serviceConfig is what every connection does with a failed call, in gRPC's own form: the same for clients of any
// language. Round robin only matters for a name with several addresses: a retry then goes to another replica. All
// methods are retried: reads change nothing, and a commit is counted once per request id (P3). The pauses are 0.1, 0.3,
// 0.9 and 2 s: enough for a sidecar to restart. CANCELLED is what gRPC answers for a call that a server took in just
// when it stopped; one that the caller cancels is not retried. A failed attempt costs 1 token of 100, a success gives
// 0.1 back, and below half nothing is retried: when a server is down for good, its clients add little to its load.
const serviceConfig = `{
	"loadBalancingConfig": [{"round_robin": {}}],
	"methodConfig": [{
		"name": [{}],
		"retryPolicy": {
			"maxAttempts": 5,
			"initialBackoff": "0.1s",
			"backoffMultiplier": 3,
			"maxBackoff": "2s",
			"retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"]
		}
	}],
	"retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1}
}`

// A wire is how a call reaches the server: one connection, who calls, and how its errors come out. It is the connection
// that the generated stubs are made for.
//
// A connection keeps the certificates that it was opened with. When their files change, later calls go through a new
// one, and the one before is closed when its last call has ended.
type wire struct {
	target   string
	tenant   string
	deadline time.Duration
	token    *tokenFile
	tls      *tlsFiles
	metadata []string
	options  []grpc.DialOption

	// open ends when the client is closed, and every call in flight with it.
	open context.Context
	shut context.CancelFunc

	mu   sync.Mutex
	line *line
}

// A line is one connection, and how many calls are on it.
type line struct {
	conn    *grpc.ClientConn
	calls   int
	retired bool
}

// dial returns a wire to the target; what is empty is taken from the environment.
func dial(target string, settings *connectSettings) (*wire, error) {
	w := &wire{tenant: settings.tenant, deadline: settings.deadline, metadata: settings.metadata}
	w.target = first(target, os.Getenv("STANDPIPE_TARGET"), DefaultTarget)
	if settings.deadline <= 0 {
		return nil, invalid("deadline", "must be more than 0")
	}
	if len(settings.metadata)%2 != 0 {
		return nil, invalid("metadata", "must be names and values in turn")
	}
	if err := w.authorize(settings); err != nil {
		return nil, err
	}
	transport := settings.credentials
	if transport != nil && (settings.caFile != "" || settings.certFile != "" || settings.keyFile != "") {
		return nil, invalid("credentials", "exclude ca_file, cert_file and key_file")
	}
	local := strings.HasPrefix(w.target, "unix:") || strings.HasPrefix(w.target, "unix-abstract:")
	if transport == nil && !local {
		files, err := openTLS(
			first(settings.caFile, os.Getenv("STANDPIPE_CA_FILE")),
			first(settings.certFile, os.Getenv("STANDPIPE_CERT_FILE")),
			first(settings.keyFile, os.Getenv("STANDPIPE_KEY_FILE")),
		)
		if err != nil {
			return nil, err
		}
		w.tls = files
	}
	if transport == nil {
		transport = insecure.NewCredentials()
	}
	w.options = append([]grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultServiceConfig(serviceConfig),
		// The policy is the client's: no look for another one in DNS.
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallSendMsgSize(WireBytes),
			grpc.MaxCallRecvMsgSize(WireBytes),
			// gRPC keeps a request for its retries only up to this size, and retries no larger one: its default is
			// 256 KiB.
			grpc.MaxRetryRPCBufferSize(WireBytes),
		),
		// A peer that is gone without a word is noticed within 70 s of a call. Pings only run during calls, and no
		// server takes one a minute for too many as long as calls end.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute, Timeout: 10 * time.Second}),
		// A restarted sidecar is found again at once; gRPC's defaults are 1 s, growing to 2 minutes.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second,
			},
			MinConnectTimeout: 20 * time.Second,
		}),
		// The pod's HTTP proxy is for the world outside.
		grpc.WithNoProxy(),
		grpc.WithUserAgent("standpipe-go"),
	}, settings.dialOptions...)
	w.open, w.shut = context.WithCancel(context.Background())
	fresh, err := w.newLine()
	if err != nil {
		w.shut()
		return nil, invalid("target", "%q, or an option of gRPC's: %v", w.target, err)
	}
	w.line = fresh
	return w, nil
}

// authorize finds the token's file, unless the metadata say who calls.
func (w *wire) authorize(settings *connectSettings) error {
	for at := 0; at < len(settings.metadata); at += 2 {
		if strings.EqualFold(settings.metadata[at], "authorization") {
			if settings.tokenFile != "" {
				return invalid("token_file", "excludes an \"authorization\" in the metadata")
			}
			return nil
		}
	}
	path := first(settings.tokenFile, os.Getenv("STANDPIPE_TOKEN_FILE"))
	if path == "" {
		return nil
	}
	file, err := openToken(path)
	w.token = file
	return err
}

// Invoke calls a method; a refused token is tried once more if its file has another by now.
func (w *wire) Invoke(ctx context.Context, method string, request, reply any, options ...grpc.CallOption) error {
	// Go's own context brings the deadline of a call; the client's stands in for one that has none.
	until, bounded := ctx.Deadline()
	if !bounded {
		until = time.Now().Add(w.deadline)
	}
	within, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	defer context.AfterFunc(w.open, cancel)()
	request = w.named(request)
	shown := w.token.authorization(false)
	err := w.attempt(within, shown, method, request, reply, options)
	if status.Code(err) == codes.Unauthenticated && within.Err() == nil {
		if newer := w.token.authorization(true); newer.reveal() != shown.reveal() {
			err = w.attempt(within, newer, method, request, reply, options)
		}
	}
	if err == nil {
		return nil
	}
	return w.failure(ctx, request, err)
}

// NewStream fails: no call of Standpipe is a stream.
func (w *wire) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, &Error{Kind: ErrUnimplemented, Code: codes.Unimplemented, Message: "no call of Standpipe is a stream"}
}

// attempt calls once, as who is shown.
func (w *wire) attempt(
	ctx context.Context, shown secret, method string, request, reply any, options []grpc.CallOption,
) error {
	with := w.metadata
	if bearer := shown.reveal(); bearer != "" {
		with = append(with[:len(with):len(with)], "authorization", bearer)
	}
	if len(with) > 0 {
		ctx = metadata.AppendToOutgoingContext(ctx, with...)
	}
	on, err := w.begin()
	if err != nil {
		return err
	}
	defer w.end(on)
	return on.conn.Invoke(ctx, method, request, reply, options...)
}

// named returns the request with the client's tenant where it names none; the caller's own is left as it is.
func (w *wire) named(request any) any {
	message, ok := request.(interface {
		proto.Message
		GetTenantId() string
	})
	if w.tenant == "" || !ok || message.GetTenantId() != "" {
		return request
	}
	copied := proto.Clone(message).ProtoReflect()
	copied.Set(copied.Descriptor().Fields().ByName("tenant_id"), protoreflect.ValueOfString(w.tenant))
	return copied.Interface()
}

// failure returns the typed error of a failed call.
func (w *wire) failure(ctx context.Context, request any, err error) error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	at := status.Convert(err)
	if at.Code() == codes.Canceled {
		if w.open.Err() != nil {
			return closed()
		}
		if ctx.Err() != nil {
			return ended(ctx)
		}
	}
	failed := parse(at.Code(), at.Message(), at.Proto().GetDetails())
	switch failed.Code {
	case codes.DeadlineExceeded:
		failed.cause = context.DeadlineExceeded
	case codes.Internal:
		// gRPC calls it internal when a request cannot be written; only text that is not UTF-8 cannot.
		if message, ok := request.(proto.Message); ok && failed.Reason == "" {
			if _, err := proto.Marshal(message); err != nil {
				return invalid("request", "must hold text that is valid UTF-8")
			}
		}
	}
	return failed
}

// begin returns the connection for a call, on which end must follow.
func (w *wire) begin() (*line, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open.Err() != nil {
		return nil, closed()
	}
	if w.tls != nil && w.tls.renewed() {
		fresh, err := w.newLine()
		if err != nil {
			return nil, err
		}
		w.retire()
		w.line = fresh
	}
	w.line.calls++
	return w.line, nil
}

// end notes the end of a call, and closes its connection if a newer one is in use and this was the last.
func (w *wire) end(on *line) {
	w.mu.Lock()
	defer w.mu.Unlock()
	on.calls--
	if on.retired && on.calls == 0 {
		_ = on.conn.Close()
	}
}

// retire lets the connection go when its last call has ended.
func (w *wire) retire() {
	w.line.retired = true
	if w.line.calls == 0 {
		_ = w.line.conn.Close()
	}
}

func (w *wire) newLine() (*line, error) {
	options := w.options
	if w.tls != nil {
		options = append(options[:len(options):len(options)], grpc.WithTransportCredentials(w.tls.credentials))
	}
	conn, err := grpc.NewClient(w.target, options...)
	if err != nil {
		return nil, err
	}
	return &line{conn: conn}, nil
}

// close ends all calls, and closes the connection when they have.
func (w *wire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open.Err() == nil {
		w.shut()
		w.retire()
	}
}

// first returns the first text that is not empty.
func first(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}
