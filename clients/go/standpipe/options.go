package standpipe

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/timestamppb"

	standpipev1 "standpipe.dev/go/standpipe/v1"
)

// A Source is where a bundle's section comes from.
type Source = standpipev1.Source

// The sources, in the order in which they stand in a bundle.
const (
	SourcePolicy    = standpipev1.Source_SOURCE_POLICY
	SourceProfile   = standpipev1.Source_SOURCE_PROFILE
	SourceSummary   = standpipev1.Source_SOURCE_SUMMARY
	SourceHistory   = standpipev1.Source_SOURCE_HISTORY
	SourceRecall    = standpipev1.Source_SOURCE_RECALL
	SourceFacts     = standpipev1.Source_SOURCE_FACTS
	SourceDocuments = standpipev1.Source_SOURCE_DOCUMENTS
)

// --- of Connect --------------------------------------------------------------------------------------------------

// A ConnectOption says how [Connect] reaches the server, and as whom.
type ConnectOption func(*connectSettings)

type connectSettings struct {
	tenant      string
	deadline    time.Duration
	tokenFile   string
	caFile      string
	certFile    string
	keyFile     string
	credentials credentials.TransportCredentials
	metadata    []string
	dialOptions []grpc.DialOption
}

// WithTenant names the tenant, which the server checks against the caller's own; without it that is left to the server.
func WithTenant(tenant string) ConnectOption {
	return func(s *connectSettings) { s.tenant = tenant }
}

// WithDeadline sets what a call may take, retries included, whose context has no deadline; else it is
// [DefaultDeadline].
func WithDeadline(deadline time.Duration) ConnectOption {
	return func(s *connectSettings) { s.deadline = deadline }
}

// WithTokenFile names a file that holds a bearer token on its first line, such as a projected service-account token. It
// goes with every call, also over plaintext, and is read again when the file changes, and when the server refuses it.
func WithTokenFile(path string) ConnectOption {
	return func(s *connectSettings) { s.tokenFile = path }
}

// WithCAFile names a file of the certificates, as PEM, one of which must have signed the server's: then host:port is
// spoken to in TLS. When it is renewed on disk, later calls take a new connection. A Unix socket never has TLS.
func WithCAFile(path string) ConnectOption {
	return func(s *connectSettings) { s.caFile = path }
}

// WithCertFile names the files of the certificate and of its key, as PEM, for a server that asks for one; beside
// [WithCAFile]. When they are renewed on disk, later calls take a new connection.
func WithCertFile(certPath, keyPath string) ConnectOption {
	return func(s *connectSettings) { s.certFile, s.keyFile = certPath, keyPath }
}

// WithTransportCredentials takes gRPC's own credentials in place of files.
func WithTransportCredentials(credentials credentials.TransportCredentials) ConnectOption {
	return func(s *connectSettings) { s.credentials = credentials }
}

// WithMetadata sends names and values, in turn, with every call; an "authorization" in it stands in for a token's file.
func WithMetadata(namesAndValues ...string) ConnectOption {
	return func(s *connectSettings) { s.metadata = append(s.metadata, namesAndValues...) }
}

// WithDialOptions gives gRPC options of one's own, such as a stats handler; they override the client's.
func WithDialOptions(options ...grpc.DialOption) ConnectOption {
	return func(s *connectSettings) { s.dialOptions = append(s.dialOptions, options...) }
}

// --- of Client.Session, Client.Replay and listings ----------------------------------------------------------------

// A SessionOption says what is known of a session.
type SessionOption func(*Session)

// WithSubject names whose memory the session feeds, needed for its first commit.
func WithSubject(subject string) SessionOption {
	return func(s *Session) { s.subject = subject }
}

// WithToken gives a consistency token from elsewhere, such as another process's [Session.Token], which the session must
// not see less than.
func WithToken(token string) SessionOption {
	return func(s *Session) { s.seenToken = token }
}

// A ReplayOption says more about a replay.
type ReplayOption func(*standpipev1.ReplayContextRequest)

// WithAllOmissions lists everything that was left out, in place of the best-ranked.
func WithAllOmissions() ReplayOption {
	return func(r *standpipev1.ReplayContextRequest) { r.AllOmissions = true }
}

// A ListOption says more about a listing.
type ListOption func(*listSettings)

type listSettings struct {
	pageSize int32
}

// WithPageSize asks for so many rows a page, 0 (the server's 100) to 1000.
func WithPageSize(rows int) ListOption {
	return func(s *listSettings) { s.pageSize = clamp(rows) }
}

// --- of Session.Hydrate and Session.Turn --------------------------------------------------------------------------

// A HydrateOption says more about a hydrate.
type HydrateOption interface {
	applyHydrate(*standpipev1.HydrateContextRequest)
}

// A TurnOption says more about a turn.
type TurnOption interface {
	applyTurn(*turnSettings)
}

// A BundleOption says what a bundle may hold: of a hydrate, or of each hydrate of a turn.
type BundleOption interface {
	HydrateOption
	TurnOption
}

type turnSettings struct {
	hydrate  []HydrateOption
	attempts int
	speaker  string
}

type hydrateOption func(*standpipev1.HydrateContextRequest)

func (o hydrateOption) applyHydrate(request *standpipev1.HydrateContextRequest) { o(request) }

type bundleOption struct{ hydrateOption }

func (o bundleOption) applyTurn(settings *turnSettings) {
	settings.hydrate = append(settings.hydrate, o)
}

type turnOption func(*turnSettings)

func (o turnOption) applyTurn(settings *turnSettings) { o(settings) }

// WithRoute takes the policy that a route points at; else it is the route "default".
func WithRoute(route string) BundleOption {
	return bundleOption{func(r *standpipev1.HydrateContextRequest) { r.Route = route }}
}

// WithBudgetTokens lowers the policy's budget, and never raises it.
func WithBudgetTokens(tokens int) BundleOption {
	total := clamp(tokens)
	return bundleOption{func(r *standpipev1.HydrateContextRequest) { budget(r).TotalTokens = &total }}
}

// WithCap lowers what one source may take, and never raises it.
func WithCap(source Source, tokens int) BundleOption {
	return bundleOption{func(r *standpipev1.HydrateContextRequest) {
		one := &standpipev1.SourceBudget{Source: source, CapTokens: clamp(tokens)}
		budget(r).Sources = append(budget(r).Sources, one)
	}}
}

// WithSources names the sources wanted; else they are all that the policy allows.
func WithSources(sources ...Source) BundleOption {
	return bundleOption{func(r *standpipev1.HydrateContextRequest) { r.Include = sources }}
}

// WithTokenizer counts with this tokenizer, such as "cl100k_base", in place of the policy's.
func WithTokenizer(name string) BundleOption {
	return bundleOption{func(r *standpipev1.HydrateContextRequest) { r.Tokenizer = name }}
}

// WithModel counts with the tokenizer of this model, such as "gpt-4o", in place of the policy's.
func WithModel(model string) BundleOption {
	return bundleOption{func(r *standpipev1.HydrateContextRequest) { r.Model = model }}
}

// WithConsistency says how fresh the answer must be, in place of the session's own token.
func WithConsistency(consistency *standpipev1.Consistency) HydrateOption {
	return hydrateOption(func(r *standpipev1.HydrateContextRequest) { r.Consistency = consistency })
}

// WithFullConsistency asks the record store, whatever the hot store says.
func WithFullConsistency() HydrateOption {
	return WithConsistency(&standpipev1.Consistency{
		Requirement: &standpipev1.Consistency_FullyConsistent{FullyConsistent: true},
	})
}

// WithMinimalLatency takes the nearest view, which may lag.
func WithMinimalLatency() HydrateOption {
	return WithConsistency(&standpipev1.Consistency{
		Requirement: &standpipev1.Consistency_MinimizeLatency{MinimizeLatency: true},
	})
}

// WithAtLeast sees at least what this token of the session has seen.
func WithAtLeast(token string) HydrateOption {
	return WithConsistency(&standpipev1.Consistency{
		Requirement: &standpipev1.Consistency_AtLeastAsFresh{AtLeastAsFresh: token},
	})
}

// WithSnapshot sees exactly what this token saw.
func WithSnapshot(token string) HydrateOption {
	return WithConsistency(&standpipev1.Consistency{
		Requirement: &standpipev1.Consistency_AtExactSnapshot{AtExactSnapshot: token},
	})
}

// WithAttempts sets how many answers a turn asks for before it gives up; else it is [TurnAttempts].
func WithAttempts(attempts int) TurnOption {
	return turnOption(func(s *turnSettings) { s.attempts = attempts })
}

func budget(request *standpipev1.HydrateContextRequest) *standpipev1.Budget {
	if request.Budget == nil {
		request.Budget = &standpipev1.Budget{}
	}
	return request.Budget
}

// clamp keeps a number within what the wire carries; whether it is a right one is for the server to say.
func clamp(number int) int32 {
	return int32(min(max(number, -1), 1<<30))
}

// --- of Session.Commit and Session.End ------------------------------------------------------------------------------

// A CommitOption says more about a commit.
type CommitOption interface {
	applyCommit(*commitSettings)
}

// A WriteOption says more about a commit or the end of a session.
type WriteOption interface {
	CommitOption
	write()
}

type commitSettings struct {
	bundle   *Bundle
	expected *int64
	request  string
	mode     standpipev1.CommitMode
	facts    []*standpipev1.Fact
}

func (s *commitSettings) requestID() string {
	if s.request == "" {
		return newRequestID()
	}
	return s.request
}

type commitOption func(*commitSettings)

func (o commitOption) applyCommit(settings *commitSettings) { o(settings) }

type writeOption struct{ commitOption }

func (writeOption) write() {}

// WithBundle names what the turn answers: its receipt is stored with the turn, and its version is the one that the turn
// follows, unless [WithExpectedVersion] says another.
func WithBundle(bundle *Bundle) CommitOption {
	return commitOption(func(s *commitSettings) { s.bundle = bundle })
}

// WithExpectedVersion says which version a turn follows, 0 for the first one, or which version a session ends at.
func WithExpectedVersion(version int64) WriteOption {
	return writeOption{func(s *commitSettings) { s.expected = &version }}
}

// WithRequestID repeats a commit or an end under the id of an earlier one: it counts once. Else a new id is made, which
// the connection's retries keep.
func WithRequestID(id string) WriteOption {
	return writeOption{func(s *commitSettings) { s.request = id }}
}

// WithAppend puts a turn behind whatever is there, in place of failing with [ErrConflict]: for turns that hold true
// whatever was said meanwhile.
func WithAppend() CommitOption {
	return commitOption(func(s *commitSettings) { s.mode = standpipev1.CommitMode_COMMIT_MODE_APPEND })
}

// WithFacts records claims with a turn, or not at all.
func WithFacts(facts ...*standpipev1.Fact) CommitOption {
	return commitOption(func(s *commitSettings) { s.facts = append(s.facts, facts...) })
}

// --- of User, Assistant and Session.Turn ----------------------------------------------------------------------------

// A MessageOption says more about what was said.
type MessageOption interface {
	applyMessage(*standpipev1.Message)
}

// A SpeakerOption names who speaks: in a message, or the user of a turn.
type SpeakerOption interface {
	MessageOption
	TurnOption
}

type messageOption func(*standpipev1.Message)

func (o messageOption) applyMessage(message *standpipev1.Message) { o(message) }

type speakerOption string

func (o speakerOption) applyMessage(message *standpipev1.Message) { message.Speaker = string(o) }

func (o speakerOption) applyTurn(settings *turnSettings) { settings.speaker = string(o) }

// WithSpeaker names the speaker, who is shown by it in place of the role.
func WithSpeaker(name string) SpeakerOption {
	return speakerOption(name)
}

// WithSpokenAt says when it was said, by the application's clock; else it is the time of the commit.
func WithSpokenAt(at time.Time) MessageOption {
	return messageOption(func(m *standpipev1.Message) { m.SpokenAt = timestamppb.New(at) })
}

// WithCitations names what it rests on: events of the tenant's log.
func WithCitations(citations ...*standpipev1.EventRef) MessageOption {
	return messageOption(func(m *standpipev1.Message) { m.Citations = append(m.Citations, citations...) })
}
