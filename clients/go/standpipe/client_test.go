package standpipe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	standpipev1 "standpipe.dev/go/standpipe/v1"
)

// A step fails a call as a Standpipe server does.
func failing(code codes.Code, reason string, metadata map[string]string) func(context.Context) error {
	return func(context.Context) error {
		at, err := status.New(code, "scripted").WithDetails(
			&errdetails.ErrorInfo{Reason: reason, Domain: domain, Metadata: metadata})
		if err != nil {
			return err
		}
		return at.Err()
	}
}

// A step waits until its call is given up.
func hanging(ctx context.Context) error {
	<-ctx.Done()
	return status.FromContextError(ctx.Err()).Err()
}

func fieldOf(t *testing.T, err error) string {
	t.Helper()
	var failed *Error
	if !errors.As(err, &failed) || !errors.Is(err, ErrInvalidArgument) {
		t.Fatalf("%v is no ErrInvalidArgument", err)
	}
	return failed.Field
}

// What an argument does not say, the environment does, and else the default.
func TestConnectTakesTheEnvironment(t *testing.T) {
	for _, name := range []string{"TARGET", "TOKEN_FILE", "CA_FILE", "CERT_FILE", "KEY_FILE"} {
		t.Setenv("STANDPIPE_"+name, "")
	}
	if client := connected(t, ""); client.wire.target != "127.0.0.1:7460" || client.wire.tls != nil {
		t.Errorf("%q, want the server's default", client.wire.target)
	}
	listener, target := onSocket(t)
	served := serve(t, listener)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(" mine \nanother\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("STANDPIPE_TARGET", target)
	t.Setenv("STANDPIPE_TOKEN_FILE", token)
	t.Setenv("STANDPIPE_CA_FILE", "/nowhere") // a Unix socket never has TLS
	if _, err := connected(t, "").ServerInfo(context.Background()); err != nil {
		t.Fatal(err)
	}
	shown := served.asked("GetServerInfo")[0].metadata.Get("authorization")
	if fmt.Sprint(shown) != "[Bearer mine]" {
		t.Errorf("%v", shown)
	}
	client := connected(t, "", WithMetadata("Authorization", "Basic x", "more", "1"))
	if _, err := client.ServerInfo(context.Background()); err != nil {
		t.Fatal(err)
	}
	brought := served.asked("GetServerInfo")[1].metadata
	if fmt.Sprint(brought.Get("authorization"), brought.Get("more")) != "[Basic x] [1]" {
		t.Errorf("%v", brought)
	}
	t.Setenv("STANDPIPE_TARGET", "127.0.0.1:1")
	if _, err := Connect(""); fieldOf(t, err) != "ca_file" {
		t.Error(err)
	}
}

// What makes no sense is said at once, by the name of what is wrong.
func TestConnectRefuses(t *testing.T) {
	blank := filepath.Join(t.TempDir(), "blank")
	if err := os.WriteFile(blank, []byte("two words\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		field   string
		target  string
		options []ConnectOption
	}{
		{"token_file", "", []ConnectOption{WithTokenFile("/nowhere")}},
		{"token_file", "", []ConnectOption{WithTokenFile(blank)}},
		{"token_file", "", []ConnectOption{WithTokenFile(blank), WithMetadata("authorization", "x")}},
		{"ca_file", "", []ConnectOption{WithCAFile(blank)}},
		{"cert_file", "", []ConnectOption{WithCertFile(blank, "")}},
		{"cert_file", "", []ConnectOption{WithCertFile(blank, blank)}},
		{"deadline", "", []ConnectOption{WithDeadline(0)}},
		{"metadata", "", []ConnectOption{WithMetadata("alone")}},
		{"target", "", []ConnectOption{WithDialOptions(grpc.WithDefaultServiceConfig("{"))}},
	} {
		_, err := Connect(row.target, row.options...)
		if fieldOf(t, err) != row.field || strings.Contains(err.Error(), "two words") {
			t.Errorf("%v, want one of %s", err, row.field)
		}
	}
}

// A token stands in no text that a client can be made to show.
func TestTokensAreNotShown(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("confidential"), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := openToken(token)
	if err != nil {
		t.Fatal(err)
	}
	shown := fmt.Sprintf("%v %+v %#v %s", file.known, file, file, file.authorization(true))
	if strings.Contains(shown, "confidential") || !strings.Contains(shown, "***") {
		t.Error(shown)
	}
}

// Every raw stub brings the client's tenant where the request has none, and leaves the caller's request alone.
func TestStubsBringTheTenant(t *testing.T) {
	served, client := scripted(t, WithTenant("acme"))
	request := &standpipev1.GetStateRequest{Collection: "c"}
	if _, err := client.Stubs().State.GetState(context.Background(), request); err != nil {
		t.Fatal(err)
	}
	sent := served.last("GetState").(*standpipev1.GetStateRequest)
	if sent.TenantId != "acme" || sent.Collection != "c" || request.TenantId != "" {
		t.Errorf("%v sent, %v kept", sent, request)
	}
	request.TenantId = "other"
	if _, err := client.Stubs().State.GetState(context.Background(), request); err != nil {
		t.Fatal(err)
	}
	if sent := served.last("GetState").(*standpipev1.GetStateRequest); sent.TenantId != "other" {
		t.Errorf("%v", sent)
	}
	_, err := client.Stubs().Memory.PutProfile(context.Background(), &standpipev1.PutProfileRequest{})
	if !errors.Is(err, ErrUnimplemented) || status.Code(err) != codes.Unimplemented {
		t.Errorf("%v", err)
	}
}

// A deadline is the client's unless the context has one, and both are an error of Go's own, too.
func TestDeadlines(t *testing.T) {
	served, client := scripted(t, WithDeadline(50*time.Millisecond))
	served.plan("GetServerInfo", hanging, hanging, nil)
	_, err := client.ServerInfo(context.Background())
	if !errors.Is(err, ErrDeadlineExceeded) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	longer, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	served.plan("HydrateContext", func(ctx context.Context) error {
		if at, _ := ctx.Deadline(); time.Until(at) < 10*time.Second {
			return status.Error(codes.Internal, "the context's deadline did not come through")
		}
		return nil
	})
	if _, err := client.Session("s").Hydrate(longer, ""); err != nil {
		t.Error(err)
	}
	past, cancel := context.WithTimeout(context.Background(), -time.Second)
	defer cancel()
	if _, err := client.ServerInfo(past); !errors.Is(err, ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// A cancelled call ends at once, reaches the server, is not retried, and names its request id.
func TestCancel(t *testing.T) {
	served, client := scripted(t)
	ctx, cancel := context.WithCancel(context.Background())
	noticed := make(chan struct{})
	served.plan("CommitTurn", func(within context.Context) error {
		cancel()
		<-within.Done()
		close(noticed)
		return within.Err()
	})
	_, err := client.Session("s").Commit(ctx, Entries(User("Hi")), WithAppend())
	<-noticed
	var failed *Error
	if !errors.As(err, &failed) || !errors.Is(err, ErrCancelled) || !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	calls := served.asked("CommitTurn")
	if len(calls) != 1 || calls[0].request.(*standpipev1.CommitTurnRequest).RequestId != failed.RequestID {
		t.Errorf("%v, want one of %q", calls, failed.RequestID)
	}
	if errors.Is(err, ErrClosed) {
		t.Error("the client is open")
	}
}

// Closing ends the calls in flight at once, and later ones; it may be done again, and leaves no goroutine.
func TestClose(t *testing.T) {
	listener, target := onSocket(t)
	served := serve(t, listener)
	before := runtime.NumGoroutine()
	client, err := Connect(target)
	if err != nil {
		t.Fatal(err)
	}
	entered := make(chan struct{})
	for range 4 {
		served.plan("GetServerInfo", func(ctx context.Context) error {
			entered <- struct{}{}
			return hanging(ctx)
		})
	}
	failures := make(chan error)
	for range 4 {
		go func() {
			_, err := client.ServerInfo(context.Background())
			failures <- err
		}()
	}
	for range 4 {
		<-entered
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if err := <-failures; !errors.Is(err, ErrClosed) || !errors.Is(err, ErrCancelled) {
			t.Errorf("%v", err)
		}
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.ServerInfo(context.Background()); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
	for wait := 0; runtime.NumGoroutine() > before; wait++ {
		if wait == 500 {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A commit carries its bundle's receipt and version; what it was told otherwise goes before them.
func TestCommitFollowsItsBundle(t *testing.T) {
	served, client := scripted(t, WithTenant("acme"))
	session := client.Session("s", WithSubject("anna"))
	served.version = 7
	bundle, err := session.Hydrate(context.Background(), "q")
	if err != nil {
		t.Fatal(err)
	}
	done, err := session.Commit(context.Background(), Entries(User("Hi")), WithBundle(bundle))
	if err != nil {
		t.Fatal(err)
	}
	if done.Version != 8 || done.EventHash != "01fe" || done.Token != "committed" || session.Token() != "committed" {
		t.Errorf("%+v", done)
	}
	sent := served.last("CommitTurn").(*standpipev1.CommitTurnRequest)
	want := &standpipev1.CommitTurnRequest{
		TenantId: "acme", SessionId: "s", SubjectId: "anna", RequestId: done.RequestID, ExpectedVersion: proto.Int64(7),
		Turn: &standpipev1.Turn{Entries: Entries(User("Hi")), BundleReceipt: []byte("receipt")},
		Mode: standpipev1.CommitMode_COMMIT_MODE_FAIL,
	}
	if !proto.Equal(sent, want) || len(done.RequestID) != 32 {
		t.Errorf("%v\nwant\n%v", sent, want)
	}
	facts := []*standpipev1.Fact{{}}
	_, err = session.Commit(context.Background(), nil,
		WithBundle(bundle), WithExpectedVersion(3), WithRequestID("mine"), WithFacts(facts...))
	sent = served.last("CommitTurn").(*standpipev1.CommitTurnRequest)
	if err != nil || sent.GetExpectedVersion() != 3 || sent.RequestId != "mine" || len(sent.Facts) != 1 {
		t.Errorf("%v %v", sent, err)
	}
	_, err = session.Commit(context.Background(), nil, WithBundle(bundle), WithAppend())
	sent = served.last("CommitTurn").(*standpipev1.CommitTurnRequest)
	if err != nil || sent.ExpectedVersion != nil || sent.Mode != standpipev1.CommitMode_COMMIT_MODE_APPEND {
		t.Errorf("%v %v", sent, err)
	}
}

// What a hydrate is told reaches the request, of a turn, too.
func TestHydrateOptions(t *testing.T) {
	served, client := scripted(t)
	common := []BundleOption{
		WithRoute("r"), WithBudgetTokens(900), WithCap(SourceRecall, 0), WithSources(SourceRecall, SourceHistory),
		WithTokenizer("t"), WithModel("m"),
	}
	want := &standpipev1.HydrateContextRequest{
		SessionId: "s", Query: "q", Route: "r", Tokenizer: "t", Model: "m",
		Include: []Source{SourceRecall, SourceHistory},
		Budget: &standpipev1.Budget{
			TotalTokens: proto.Int32(900), Sources: []*standpipev1.SourceBudget{{Source: SourceRecall}},
		},
	}
	var hydrate []HydrateOption
	turn := []TurnOption{WithSpeaker("Anna")}
	for _, one := range common {
		hydrate, turn = append(hydrate, one), append(turn, one)
	}
	if _, err := client.Session("s").Hydrate(context.Background(), "q", hydrate...); err != nil {
		t.Fatal(err)
	}
	if sent := served.last("HydrateContext"); !proto.Equal(sent, want) {
		t.Errorf("%v, want %v", sent, want)
	}
	answer := Reply(func(context.Context, *Bundle) (string, error) { return "Ho", nil })
	if _, err := client.Session("s").Turn(context.Background(), "q", answer, turn...); err != nil {
		t.Fatal(err)
	}
	if sent := served.last("HydrateContext"); !proto.Equal(sent, want) {
		t.Errorf("%v, want %v", sent, want)
	}
	entries := served.last("CommitTurn").(*standpipev1.CommitTurnRequest).Turn.Entries
	committed := &standpipev1.Turn{Entries: Entries(User("q", WithSpeaker("Anna")), Assistant("Ho"))}
	if !proto.Equal(&standpipev1.Turn{Entries: entries}, committed) {
		t.Errorf("%v", entries)
	}
	for _, row := range []struct {
		option HydrateOption
		want   string
	}{
		{WithFullConsistency(), `{"fullyConsistent":true}`},
		{WithMinimalLatency(), `{"minimizeLatency":true}`},
		{WithAtLeast("x"), `{"atLeastAsFresh":"x"}`},
		{WithSnapshot("x"), `{"atExactSnapshot":"x"}`},
	} {
		if _, err := client.Session("s", WithToken("old")).Hydrate(context.Background(), "", row.option); err != nil {
			t.Fatal(err)
		}
		sent := served.last("HydrateContext").(*standpipev1.HydrateContextRequest).Consistency
		if !proto.Equal(sent, messageOf(t, []byte(row.want), &standpipev1.Consistency{})) {
			t.Errorf("%v, want %s", sent, row.want)
		}
	}
}

// P2: a lost turn is hydrated and answered again under a new request id, and ends with the conflict.
func TestTurnAnswersAgain(t *testing.T) {
	served, client := scripted(t)
	session := client.Session("s", WithSubject("anna"))
	asked := 0
	answer := Reply(func(_ context.Context, bundle *Bundle) (string, error) {
		asked++
		return fmt.Sprint("answer ", asked), nil
	})
	told := map[string]string{"current_version": "9", "winner_request_id": "w"}
	lost := failing(codes.Aborted, "VERSION_CONFLICT", told)
	served.plan("CommitTurn", lost, lost)
	done, err := session.Turn(context.Background(), "Hi?", answer)
	if err != nil || asked != 3 || done.Commit.Version != 1 || done.Bundle.Query != "Hi?" {
		t.Fatalf("%+v %v after %d answers", done, err, asked)
	}
	ids := map[string]bool{}
	for _, one := range served.asked("CommitTurn") {
		ids[one.request.(*standpipev1.CommitTurnRequest).RequestId] = true
	}
	if len(ids) != 3 {
		t.Errorf("%v", ids)
	}
	served.plan("CommitTurn", lost, lost)
	_, err = session.Turn(context.Background(), "Hi?", answer, WithAttempts(2))
	var failed *Error
	if !errors.Is(err, ErrConflict) || !errors.As(err, &failed) {
		t.Fatalf("%v", err)
	}
	if failed.RequestID == "" || failed.WinnerRequestID() != "w" {
		t.Errorf("%+v", failed)
	}
	if version, said := failed.CurrentVersion(); version != 9 || !said {
		t.Errorf("%d %v", version, said)
	}
	if failed.Error() != "standpipe: VERSION_CONFLICT: scripted" {
		t.Error(failed)
	}
	if _, err := session.Turn(context.Background(), "Hi?", answer, WithAttempts(0)); fieldOf(t, err) != "attempts" {
		t.Error(err)
	}
}

// What an answer fails with comes out as it is, and nothing is committed; a turn that is given up while it pauses ends.
func TestTurnThatIsNotAnswered(t *testing.T) {
	served, client := scripted(t)
	broken := errors.New("the model is away")
	got, err := client.Session("s").Turn(context.Background(), "Hi?", func(context.Context, *Bundle) ([]*Entry, error) {
		return nil, broken
	})
	if err != broken || got.Bundle == nil || len(served.asked("CommitTurn")) != 0 {
		t.Errorf("%v %v", got, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	lost := failing(codes.Aborted, "VERSION_CONFLICT", nil)
	served.plan("CommitTurn", func(within context.Context) error {
		err := lost(within)
		time.AfterFunc(time.Millisecond, cancel)
		return err
	}, lost, lost, lost, lost)
	answer := Reply(func(context.Context, *Bundle) (string, error) { return "Ho", nil })
	_, err = client.Session("s").Turn(ctx, "Hi?", answer)
	if !errors.Is(err, ErrCancelled) && !errors.Is(err, ErrConflict) {
		t.Errorf("%v", err)
	}
	if err := pause(ctx, time.Hour); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrCancelled) {
		t.Errorf("%v", err)
	}
}

// Pauses grow up to their limits, and never beyond.
func TestPauses(t *testing.T) {
	for attempt := range 100 {
		longest := min(pauseMax, pauseFirst<<min(attempt, 10))
		for range 100 {
			if found := pauseAfter(attempt); found < 0 || found >= longest {
				t.Fatalf("%v after attempt %d", found, attempt)
			}
		}
	}
}

// Listings read page by page to the end, stop where their reader stops, and end with their error.
func TestListings(t *testing.T) {
	served, client := scripted(t)
	served.events = 5
	session := client.Session("s")
	var versions []int64
	for event, err := range session.Events(context.Background(), 1, WithPageSize(2)) {
		if err != nil {
			t.Fatal(err)
		}
		versions = append(versions, event.Version)
	}
	if fmt.Sprint(versions) != "[2 3 4 5]" || len(served.asked("ListEvents")) != 2 {
		t.Errorf("%v in %d pages", versions, len(served.asked("ListEvents")))
	}
	for range session.Events(context.Background(), 0) {
		break
	}
	if len(served.asked("ListEvents")) != 3 {
		t.Error("a page was read that nobody asked for")
	}
	var ids []string
	for one, err := range client.Sessions(context.Background(), "anna") {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, one.SessionId)
	}
	if fmt.Sprint(ids) != "[a b c]" {
		t.Errorf("%v", ids)
	}
	served.plan("ListSessions", failing(codes.PermissionDenied, "TENANT_DENIED", nil))
	for one, err := range client.Sessions(context.Background(), "") {
		if one != nil || !errors.Is(err, ErrPermissionDenied) {
			t.Errorf("%v %v", one, err)
		}
	}
}

// An end keeps the id that it was given, and its error names it.
func TestEnd(t *testing.T) {
	served, client := scripted(t)
	session := client.Session("s")
	if _, err := session.End(context.Background(), "done", WithRequestID("mine"), WithExpectedVersion(4)); err != nil {
		t.Fatal(err)
	}
	want := &standpipev1.EndSessionRequest{
		SessionId: "s", RequestId: "mine", ExpectedVersion: proto.Int64(4), Cause: "done",
	}
	if sent := served.last("EndSession"); !proto.Equal(sent, want) {
		t.Errorf("%v", sent)
	}
	served.plan("EndSession", failing(codes.FailedPrecondition, "SESSION_ENDED", nil))
	_, err := session.End(context.Background(), "", WithRequestID("again"))
	var failed *Error
	if !errors.As(err, &failed) || failed.RequestID != "again" || failed.Kind != ErrSessionEnded {
		t.Fatalf("%v", err)
	}
	if !errors.Is(err, ErrSessionEnded) || !errors.Is(err, ErrFailedPrecondition) || errors.Is(err, ErrConflict) {
		t.Errorf("%v", err)
	}
}

// Text that is not UTF-8 is the caller's mistake, and called so.
func TestTextThatIsNotUTF8(t *testing.T) {
	_, client := scripted(t)
	if _, err := client.Session("s").Hydrate(context.Background(), "\xff"); !errors.Is(err, ErrInvalidArgument) {
		t.Errorf("%v", err)
	}
}

// A renewed token is shown with the next call, and one that was renewed as it was refused is tried once.
func TestTokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		next := path + ".next"
		if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	served, client := scripted(t, WithTokenFile(path))
	ask := func() error {
		_, err := client.ServerInfo(context.Background())
		return err
	}
	refused := failing(codes.Unauthenticated, "UNAUTHENTICATED", nil)
	served.plan("GetServerInfo", nil, nil, refused, func(ctx context.Context) error {
		write("third")
		return refused(ctx)
	})
	for _, next := range []string{"second", ""} {
		if err := ask(); err != nil {
			t.Fatal(err)
		}
		if next != "" {
			write(next)
		}
	}
	if err := ask(); !errors.Is(err, ErrUnauthenticated) || strings.Contains(err.Error(), "second") {
		t.Errorf("%v", err)
	}
	if calls := len(served.asked("GetServerInfo")); calls != 3 {
		t.Errorf("%d calls: a refused token was shown again", calls)
	}
	if err := ask(); err != nil {
		t.Error(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := ask(); err != nil { // the token before stays in force
		t.Error(err)
	}
	var shown []string
	for _, one := range served.asked("GetServerInfo") {
		for _, text := range one.metadata.Get("authorization") {
			shown = append(shown, strings.TrimPrefix(text, "Bearer "))
		}
	}
	if got := fmt.Sprint(shown); got != "[first second second second third third]" {
		t.Error(got)
	}
}

// Sessions and the client may be shared: many goroutines commit, hydrate and read the token at once.
func TestManyGoroutines(t *testing.T) {
	served, client := scripted(t, WithTenant("acme"))
	session := client.Session("s", WithSubject("anna"))
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			for range 10 {
				if _, err := session.Hydrate(context.Background(), "q"); err != nil {
					t.Error(err)
				}
				if _, err := session.Commit(context.Background(), Entries(User("Hi")), WithAppend()); err != nil {
					t.Error(err)
				}
				_ = session.Token()
			}
		})
	}
	all.Wait()
	if served.version != 320 {
		t.Errorf("%d commits", served.version)
	}
}

// A server that stopped and is back is found again within the retries of one call.
func TestRestart(t *testing.T) {
	_, target := func() (net.Listener, string) {
		listener, target := onSocket(t)
		_ = listener.Close() // removes the socket: nobody is there
		return listener, target
	}()
	client := connected(t, target)
	started := make(chan struct{})
	time.AfterFunc(250*time.Millisecond, func() {
		defer close(started)
		listener, err := net.Listen("unix", strings.TrimPrefix(target, "unix:"))
		if err != nil {
			t.Error(err)
			return
		}
		serve(t, listener)
	})
	_, err := client.ServerInfo(context.Background())
	<-started
	if err != nil {
		t.Error(err)
	}
}

// A bundle is named without what it holds.
func TestBundleIsNotShown(t *testing.T) {
	bundle := &Bundle{Query: "secret", Message: &standpipev1.Bundle{
		SessionVersion: 3, Tokens: 5, Fingerprint: []byte{0xab, 0xcd},
		Sections: []*standpipev1.Section{{Segments: []*standpipev1.Segment{{Header: "user: ", Body: "secret\n"}}}},
	}}
	if shown := fmt.Sprintf("%v %+v %#v %s", bundle, bundle, bundle, bundle); strings.Contains(shown, "secret") {
		t.Error(shown)
	}
	if bundle.Text() != "user: secret\n" || bundle.String() != "<Bundle version=3 tokens=5 fingerprint=abcd>" {
		t.Error(bundle)
	}
}

// Arguments of a tool are an object, and written as all clients write them.
func TestToolCallOf(t *testing.T) {
	entry, err := ToolCallOf("c", "n", struct {
		Text string  `json:"text"`
		Rate float64 `json:"rate"`
	}{"<b> \u2028 é \x01", 0.5})
	if err != nil || entry.GetToolCall().ArgumentsJson != "{\"text\":\"<b> \u2028 é \\u0001\",\"rate\":0.5}" {
		t.Errorf("%v %v", entry, err)
	}
	for _, wrong := range []any{nil, 3, "text", []int{1}, map[string]any{"f": func() {}}} {
		if _, err := ToolCallOf("c", "n", wrong); fieldOf(t, err) != "arguments" {
			t.Errorf("%v: %v", wrong, err)
		}
	}
}

// An abstract socket, which Linux has, is a target as any other.
func TestAbstractSocket(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has abstract sockets")
	}
	name := fmt.Sprintf("standpipe-go-%d", os.Getpid())
	listener, err := net.Listen("unix", "@"+name)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, listener)
	if _, err := connected(t, "unix-abstract:"+name).ServerInfo(context.Background()); err != nil {
		t.Error(err)
	}
}
