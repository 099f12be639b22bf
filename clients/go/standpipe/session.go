package standpipe

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"iter"
	mathrand "math/rand/v2"
	"sync"
	"time"

	standpipev1 "standpipe.dev/go/standpipe/v1"
)

const (
	// TurnAttempts is how many answers [Session.Turn] asks for before it gives up: each one is a model call.
	TurnAttempts = 5

	// pauseFirst is the longest pause after the first conflict; it doubles with each further one.
	pauseFirst = 50 * time.Millisecond

	// pauseMax is the longest pause after any conflict.
	pauseMax = 2 * time.Second
)

// A Session is one conversation.
//
// It remembers the newest consistency token that it has seen, so that it reads its own writes through any pod, also
// while the hot store is stale (P4).
type Session struct {
	client  *Client
	id      string
	subject string

	mu          sync.Mutex
	seenVersion int64
	seenToken   string
}

// A Commit is a turn that is durable (P1).
type Commit struct {
	// Version is the version that it became.
	Version int64
	// EventHash is the hash of its event, in hexadecimal.
	EventHash string
	// Token shows it to every hydrate that carries this token, through any pod (P4).
	Token string
	// CommittedAt is when the record store took it.
	CommittedAt time.Time
	// Replayed tells whether an earlier request with this id had already committed it (P3).
	Replayed bool
	// RequestID is the id that it was committed under.
	RequestID string
	// Facts is what became of the claims that were committed with it.
	Facts []*standpipev1.FactResult
}

// A TurnResult is what [Session.Turn] did.
type TurnResult struct {
	// Commit is the turn.
	Commit *Commit
	// Bundle is what its answer was made from.
	Bundle *Bundle
}

// An Answer returns the entries that follow the user's message, such as tool calls, their results and the assistant's
// words. It must do nothing that may not be done twice. [Reply] makes one of a function that returns text.
type Answer func(ctx context.Context, bundle *Bundle) ([]*Entry, error)

// Reply returns an [Answer] that is the assistant's text.
func Reply(reply func(ctx context.Context, bundle *Bundle) (string, error)) Answer {
	return func(ctx context.Context, bundle *Bundle) ([]*Entry, error) {
		text, err := reply(ctx, bundle)
		if err != nil {
			return nil, err
		}
		return []*Entry{Assistant(text)}, nil
	}
}

// ID returns the session's id.
func (s *Session) ID() string { return s.id }

// Subject returns whose memory it feeds; empty if it was not told.
func (s *Session) Subject() string { return s.subject }

// Token returns the newest consistency token that it has seen; empty before the first answer. Give it to another
// process as [WithToken], which then sees no less.
func (s *Session) Token() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seenToken
}

// Hydrate returns what the model should see for this turn.
//
// query is what recall looks for, usually the user's new message, at most 32 KiB; empty recalls nothing. Without a
// consistency option it sees every acknowledged commit and all that this session has seen.
//
// It fails with [ErrInvalidArgument] (BUDGET_TOO_SMALL, TOKENIZER_UNKNOWN), [ErrNotFound] (ROUTE_NOT_FOUND) and
// [ErrOverloaded].
func (s *Session) Hydrate(ctx context.Context, query string, options ...HydrateOption) (*Bundle, error) {
	request := &standpipev1.HydrateContextRequest{
		TenantId: s.client.wire.tenant, SessionId: s.id, SubjectId: s.subject, Query: query,
	}
	for _, option := range options {
		option.applyHydrate(request)
	}
	if request.Consistency == nil {
		if token := s.Token(); token != "" {
			WithAtLeast(token).applyHydrate(request)
		}
	}
	got, err := s.client.stubs.Context.HydrateContext(ctx, request)
	if err != nil {
		return nil, err
	}
	s.saw(got.GetBundle().GetSessionVersion(), got.GetConsistencyToken())
	return &Bundle{
		Message:  got.GetBundle(),
		Query:    query,
		Receipt:  got.GetReceipt(),
		Token:    got.GetConsistencyToken(),
		Degraded: got.GetDegraded(),
		Timings:  got.GetTimings(),
		Tax:      got.GetTokenTax(),
		Recall:   got.GetRecall(),
	}, nil
}

// Commit appends one turn, exactly once (P3); it is durable when this returns (P1).
//
// It follows the version of its bundle (see [WithBundle]) or another one (see [WithExpectedVersion]), and needs one of
// the two unless [WithAppend] puts it behind whatever is there.
//
// Cancelling does not undo it. It fails with [ErrConflict] (another commit came first), [ErrSessionEnded] and
// [ErrAlreadyExists] (the id was used with other entries). After [ErrUnavailable], [ErrDeadlineExceeded] or
// [ErrCancelled] it may have happened: commit the same entries again under the same id, which is RequestID of the
// [*Error].
func (s *Session) Commit(ctx context.Context, entries []*Entry, options ...CommitOption) (*Commit, error) {
	settings := commitSettings{mode: standpipev1.CommitMode_COMMIT_MODE_FAIL}
	for _, option := range options {
		option.applyCommit(&settings)
	}
	turn := &standpipev1.Turn{Entries: entries}
	if settings.bundle != nil {
		turn.BundleReceipt = settings.bundle.Receipt
		if settings.expected == nil && settings.mode == standpipev1.CommitMode_COMMIT_MODE_FAIL {
			version := settings.bundle.Version()
			settings.expected = &version
		}
	}
	request := &standpipev1.CommitTurnRequest{
		TenantId:        s.client.wire.tenant,
		SessionId:       s.id,
		SubjectId:       s.subject,
		RequestId:       settings.requestID(),
		ExpectedVersion: settings.expected,
		Turn:            turn,
		Mode:            settings.mode,
		Facts:           settings.facts,
	}
	got, err := s.client.stubs.Context.CommitTurn(ctx, request)
	if err != nil {
		return nil, withRequestID(err, request.GetRequestId())
	}
	result := got.GetResult()
	s.saw(result.GetVersion(), result.GetConsistencyToken())
	return &Commit{
		Version:     result.GetVersion(),
		EventHash:   hex.EncodeToString(result.GetEventHash()),
		Token:       result.GetConsistencyToken(),
		CommittedAt: result.GetCommittedAt().AsTime(),
		Replayed:    got.GetReplayed(),
		RequestID:   request.GetRequestId(),
		Facts:       got.GetFacts(),
	}, nil
}

// Turn hydrates for query, asks for an answer, and commits the user's query and the answer as one turn.
//
// If another commit came first, it hydrates again and asks for a new answer, [TurnAttempts] times in all unless
// [WithAttempts] says otherwise, with growing random pauses of at most 2 s; then it fails with [ErrConflict]. So answer
// must do nothing that may not be done twice. The client's deadline is for each call, the context's for all. An error
// of answer comes out as it is, and nothing is committed.
//
// If the commit itself ends in [ErrUnavailable], [ErrDeadlineExceeded] or [ErrCancelled], it may have happened: commit
// [User](query) and the last answer again with the same bundle and, as [WithRequestID], the error's RequestID. The
// bundle is in the result also then.
func (s *Session) Turn(ctx context.Context, query string, answer Answer, options ...TurnOption) (TurnResult, error) {
	settings := turnSettings{attempts: TurnAttempts}
	for _, option := range options {
		option.applyTurn(&settings)
	}
	if settings.attempts < 1 {
		return TurnResult{}, invalid("attempts", "must be at least 1")
	}
	for attempt := 0; ; attempt++ {
		bundle, err := s.Hydrate(ctx, query, settings.hydrate...)
		if err != nil {
			return TurnResult{}, err
		}
		said, err := answer(ctx, bundle)
		if err != nil {
			return TurnResult{Bundle: bundle}, err
		}
		entries := append([]*Entry{User(query, WithSpeaker(settings.speaker))}, said...)
		commit, err := s.Commit(ctx, entries, WithBundle(bundle))
		if err == nil {
			return TurnResult{Commit: commit, Bundle: bundle}, nil
		}
		if !errors.Is(err, ErrConflict) || attempt+1 >= settings.attempts {
			return TurnResult{Bundle: bundle}, err
		}
		if err := pause(ctx, pauseAfter(attempt)); err != nil {
			return TurnResult{Bundle: bundle}, err
		}
	}
}

// Get returns its version, subject and times. It fails with [ErrNotFound] before the first commit.
func (s *Session) Get(ctx context.Context) (*standpipev1.Session, error) {
	request := &standpipev1.GetSessionRequest{TenantId: s.client.wire.tenant, SessionId: s.id}
	got, err := s.client.stubs.Sessions.GetSession(ctx, request)
	if err != nil {
		return nil, err
	}
	s.saw(got.GetSession().GetVersion(), got.GetConsistencyToken())
	return got.GetSession(), nil
}

// Events iterates over its log by version, behind the version afterVersion (0 for all) and up to the version that it
// has when the last page is read. It ends at the first error, such as [ErrNotFound] or [ErrDataLoss]. The client's
// deadline is for each page, the context's for all.
func (s *Session) Events(
	ctx context.Context, afterVersion int64, options ...ListOption,
) iter.Seq2[*standpipev1.Event, error] {
	var settings listSettings
	for _, option := range options {
		option(&settings)
	}
	return func(yield func(*standpipev1.Event, error) bool) {
		request := &standpipev1.ListEventsRequest{
			TenantId: s.client.wire.tenant, SessionId: s.id, AfterVersion: afterVersion, PageSize: settings.pageSize,
		}
		for {
			page, err := s.client.stubs.Sessions.ListEvents(ctx, request)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, event := range page.GetEvents() {
				if !yield(event, nil) {
					return
				}
				request.AfterVersion = event.GetVersion()
			}
			if len(page.GetEvents()) == 0 || request.GetAfterVersion() >= page.GetHeadVersion() {
				return
			}
		}
	}
}

// End ends it: it takes no more turns and stays readable and recallable.
//
// cause is for operators, at most 256 bytes. Without [WithExpectedVersion] it ends at whatever version it is. It fails
// with [ErrConflict], [ErrNotFound] and [ErrSessionEnded] (by another request id).
func (s *Session) End(
	ctx context.Context, cause string, options ...WriteOption,
) (*standpipev1.EndSessionResponse, error) {
	var settings commitSettings
	for _, option := range options {
		option.applyCommit(&settings)
	}
	request := &standpipev1.EndSessionRequest{
		TenantId:        s.client.wire.tenant,
		SessionId:       s.id,
		RequestId:       settings.requestID(),
		ExpectedVersion: settings.expected,
		Cause:           cause,
	}
	got, err := s.client.stubs.Sessions.EndSession(ctx, request)
	if err != nil {
		return nil, withRequestID(err, request.GetRequestId())
	}
	return got, nil
}

// saw keeps a token unless a later version was seen: answers may overtake each other.
func (s *Session) saw(version int64, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if token != "" && version >= s.seenVersion {
		s.seenVersion, s.seenToken = version, token
	}
}

// newRequestID returns an id that nobody else makes: 128 random bits in hexadecimal.
func newRequestID() string {
	var bits [16]byte
	_, _ = rand.Read(bits[:]) // never fails, since Go 1.24
	return hex.EncodeToString(bits[:])
}

// pauseAfter returns a random pause after the conflict of an attempt, counted from 0.
func pauseAfter(attempt int) time.Duration {
	longest := pauseMax
	if attempt < 6 { // 50 ms doubled six times is more than the most
		longest = min(pauseMax, pauseFirst<<attempt)
	}
	return mathrand.N(longest)
}

// pause waits, or fails as a call does when the context ends.
func pause(ctx context.Context, length time.Duration) error {
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ended(ctx)
	}
}
