// Command driver lets the tests of all languages drive this client: it reads one command a line, a JSON object, and
// writes one answer a line, until its input ends. What the commands are stands in tests/clients.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"standpipe.dev/go/standpipe"
	standpipev1 "standpipe.dev/go/standpipe/v1"
)

// lineBytesMax is the longest command: a turn at the limit of the wire, as JSON.
const lineBytesMax = 64 << 20

// A command is one line of input; which fields it has depends on what it does.
type command struct {
	Do              string            `json:"do"`
	Target          string            `json:"target"`
	Tenant          string            `json:"tenant"`
	DeadlineMS      int64             `json:"deadline_ms"`
	TokenFile       string            `json:"token_file"`
	CAFile          string            `json:"ca_file"`
	CertFile        string            `json:"cert_file"`
	KeyFile         string            `json:"key_file"`
	Session         string            `json:"session"`
	Subject         string            `json:"subject"`
	Query           string            `json:"query"`
	BudgetTokens    *int              `json:"budget_tokens"`
	Route           string            `json:"route"`
	Include         []string          `json:"include"`
	Fully           bool              `json:"fully"`
	Entries         []json.RawMessage `json:"entries"`
	ExpectedVersion *int64            `json:"expected_version"`
	RequestID       string            `json:"request_id"`
	Mode            string            `json:"mode"`
	FromBundle      bool              `json:"from_bundle"`
	Answer          string            `json:"answer"`
	Attempts        *int              `json:"attempts"`
	Receipt         []byte            `json:"receipt"`
	After           int64             `json:"after"`
	Committers      int               `json:"committers"`
	StartUnixMS     float64           `json:"start_unix_ms"`
	Tag             string            `json:"tag"`
	Calls           int               `json:"calls"`
	Warmup          int               `json:"warmup"`
}

type fields = map[string]any

// A driver keeps a client, and its sessions between commands: their tokens live on.
type driver struct {
	target   string
	client   *standpipe.Client
	sessions map[string]*standpipe.Session
	bundles  map[string]*standpipe.Bundle
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	d := &driver{}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, lineBytesMax)
	out := bufio.NewWriter(os.Stdout)
	answers := json.NewEncoder(out)
	answers.SetEscapeHTML(false)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return err
		}
		answer := fields{}
		if ok, err := d.obey(&c); err != nil {
			answer["error"] = errorOf(err)
		} else {
			answer["ok"] = ok
		}
		if err := answers.Encode(answer); err != nil {
			return err
		}
		if err := out.Flush(); err != nil {
			return err
		}
	}
	if d.client != nil {
		_ = d.client.Close()
	}
	return lines.Err()
}

func (d *driver) obey(c *command) (any, error) {
	ctx := context.Background()
	if c.DeadlineMS > 0 && c.Do != "connect" {
		within, cancel := context.WithTimeout(ctx, time.Duration(c.DeadlineMS)*time.Millisecond)
		defer cancel()
		ctx = within
	}
	if c.Do == "connect" {
		return d.connect(c)
	}
	if d.client == nil {
		return nil, errors.New("connect comes first")
	}
	switch c.Do {
	case "info":
		got, err := d.client.ServerInfo(ctx)
		if err != nil {
			return nil, err
		}
		return fields{"version": got.GetVersion(), "record_engine": got.GetRecordEngine()}, nil
	case "close":
		return fields{}, d.client.Close()
	case "hydrate":
		return d.hydrate(ctx, c)
	case "commit":
		return d.commit(ctx, c)
	case "turn":
		return d.turn(ctx, c)
	case "replay":
		got, err := d.client.Replay(ctx, c.Receipt)
		if err != nil {
			return nil, err
		}
		return fields{"fingerprint": got.Bundle.Fingerprint()}, nil
	case "events":
		events := []json.RawMessage{}
		for event, err := range d.session(c).Events(ctx, c.After) {
			if err != nil {
				return nil, err
			}
			one, err := plain(event)
			if err != nil {
				return nil, err
			}
			events = append(events, one)
		}
		return fields{"events": events}, nil
	case "get":
		got, err := d.session(c).Get(ctx)
		if err != nil {
			return nil, err
		}
		return fields{"version": got.GetVersion(), "token": d.session(c).Token()}, nil
	case "end":
		_, err := d.session(c).End(ctx, "")
		return fields{}, err
	case "token":
		return fields{"token": d.session(c).Token()}, nil
	case "race":
		return d.race(ctx, c)
	case "bench":
		return d.bench(ctx, c)
	}
	return nil, fmt.Errorf("no such command: %q", c.Do)
}

func (d *driver) connect(c *command) (any, error) {
	options := []standpipe.ConnectOption{
		standpipe.WithTenant(c.Tenant),
		standpipe.WithTokenFile(c.TokenFile),
		standpipe.WithCAFile(c.CAFile),
		standpipe.WithCertFile(c.CertFile, c.KeyFile),
	}
	if c.DeadlineMS > 0 {
		options = append(options, standpipe.WithDeadline(time.Duration(c.DeadlineMS)*time.Millisecond))
	}
	client, err := standpipe.Connect(c.Target, options...)
	if err != nil {
		return nil, err
	}
	if d.client != nil {
		_ = d.client.Close()
	}
	*d = driver{
		target:   c.Target,
		client:   client,
		sessions: map[string]*standpipe.Session{},
		bundles:  map[string]*standpipe.Bundle{},
	}
	return fields{}, nil
}

// session returns the session of a command: the one that an earlier command used, if there was one.
func (d *driver) session(c *command) *standpipe.Session {
	found := d.sessions[c.Session]
	if found == nil || c.Subject != "" && found.Subject() != c.Subject {
		found = d.client.Session(c.Session, standpipe.WithSubject(c.Subject))
		d.sessions[c.Session] = found
	}
	return found
}

func (d *driver) hydrate(ctx context.Context, c *command) (any, error) {
	var options []standpipe.HydrateOption
	if c.Route != "" {
		options = append(options, standpipe.WithRoute(c.Route))
	}
	if c.BudgetTokens != nil {
		options = append(options, standpipe.WithBudgetTokens(*c.BudgetTokens))
	}
	if c.Include != nil {
		var sources []standpipe.Source
		for _, name := range c.Include {
			sources = append(sources, standpipe.Source(standpipev1.Source_value["SOURCE_"+strings.ToUpper(name)]))
		}
		options = append(options, standpipe.WithSources(sources...))
	}
	if c.Fully {
		options = append(options, standpipe.WithFullConsistency())
	}
	bundle, err := d.session(c).Hydrate(ctx, c.Query, options...)
	if err != nil {
		return nil, err
	}
	d.bundles[c.Session] = bundle
	degraded := []string{}
	for _, one := range bundle.Degraded {
		degraded = append(degraded, one.GetCause())
	}
	return fields{
		"version":     bundle.Version(),
		"tokens":      bundle.Tokens(),
		"fingerprint": bundle.Fingerprint(),
		"receipt":     bundle.Receipt,
		"token":       bundle.Token,
		"openai":      bundle.ToOpenAI(),
		"anthropic":   bundle.ToAnthropic(),
		"degraded":    degraded,
	}, nil
}

func (d *driver) commit(ctx context.Context, c *command) (any, error) {
	var entries []*standpipe.Entry
	for _, text := range c.Entries {
		entry := &standpipe.Entry{}
		if err := protojson.Unmarshal(text, entry); err != nil {
			return nil, err
		}
		entries = append(entries, entry)
	}
	options := []standpipe.CommitOption{standpipe.WithRequestID(c.RequestID)}
	if c.ExpectedVersion != nil {
		options = append(options, standpipe.WithExpectedVersion(*c.ExpectedVersion))
	}
	if c.Mode == "append" {
		options = append(options, standpipe.WithAppend())
	}
	if c.FromBundle {
		options = append(options, standpipe.WithBundle(d.bundles[c.Session]))
	}
	got, err := d.session(c).Commit(ctx, entries, options...)
	if err != nil {
		return nil, err
	}
	return fields{
		"version":    got.Version,
		"event_hash": got.EventHash,
		"token":      got.Token,
		"replayed":   got.Replayed,
		"request_id": got.RequestID,
	}, nil
}

func (d *driver) turn(ctx context.Context, c *command) (any, error) {
	asked := 0
	answer := standpipe.Reply(func(context.Context, *standpipe.Bundle) (string, error) {
		asked++
		return fmt.Sprintf("%s %d", c.Answer, asked), nil
	})
	var options []standpipe.TurnOption
	if c.Attempts != nil {
		options = append(options, standpipe.WithAttempts(*c.Attempts))
	}
	got, err := d.session(c).Turn(ctx, c.Query, answer, options...)
	if err != nil {
		return nil, err
	}
	return fields{"version": got.Commit.Version, "asked": asked}, nil
}

// race commits the same version from many goroutines at one moment.
func (d *driver) race(ctx context.Context, c *command) (any, error) {
	outcomes := make([]fields, c.Committers)
	var expected int64
	if c.ExpectedVersion != nil {
		expected = *c.ExpectedVersion
	}
	var all sync.WaitGroup
	for at := range outcomes {
		all.Go(func() {
			session := d.client.Session(c.Session, standpipe.WithSubject(c.Subject))
			entries := standpipe.Entries(standpipe.User(fmt.Sprintf("%s %d", c.Tag, at)))
			time.Sleep(time.Until(time.UnixMicro(int64(c.StartUnixMS * 1000))))
			got, err := session.Commit(ctx, entries,
				standpipe.WithExpectedVersion(expected), standpipe.WithRequestID(fmt.Sprintf("%s-%d", c.Tag, at)))
			if err != nil {
				outcomes[at] = fields{"error": errorOf(err)}
			} else {
				outcomes[at] = fields{"version": got.Version}
			}
		})
	}
	all.Wait()
	return fields{"outcomes": outcomes}, nil
}

// bench hydrates through the client and through the bare stub, in turns, with the same request.
func (d *driver) bench(ctx context.Context, c *command) (any, error) {
	conn, err := grpc.NewClient(d.target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stub := standpipev1.NewContextServiceClient(conn)
	session := d.client.Session(c.Session, standpipe.WithSubject(c.Subject))
	seen, err := session.Hydrate(ctx, c.Query)
	if err != nil {
		return nil, err
	}
	request := &standpipev1.HydrateContextRequest{SessionId: c.Session, SubjectId: c.Subject, Query: c.Query}
	// The client asks for what its session has seen; the stub must not be asked for less.
	request.Consistency = &standpipev1.Consistency{
		Requirement: &standpipev1.Consistency_AtLeastAsFresh{AtLeastAsFresh: seen.Token},
	}
	through := func() error {
		_, err := session.Hydrate(ctx, c.Query)
		return err
	}
	bare := func() error {
		within, cancel := context.WithTimeout(ctx, standpipe.DefaultDeadline)
		defer cancel()
		_, err := stub.HydrateContext(within, request)
		return err
	}
	clientUS, stubUS := []float64{}, []float64{}
	for call := range c.Warmup + c.Calls {
		for _, way := range []struct {
			call  func() error
			taken *[]float64
		}{{through, &clientUS}, {bare, &stubUS}} {
			start := time.Now()
			if err := way.call(); err != nil {
				return nil, err
			}
			if took := time.Since(start); call >= c.Warmup {
				*way.taken = append(*way.taken, float64(took.Nanoseconds())/1000)
			}
		}
	}
	return fields{"client_us": clientUS, "stub_us": stubUS}, nil
}

// plain returns a message in protobuf's JSON.
func plain(message proto.Message) (json.RawMessage, error) {
	return protojson.Marshal(message)
}

// errorOf returns an error as all drivers show it.
func errorOf(err error) fields {
	var failed *standpipe.Error
	if !errors.As(err, &failed) {
		return fields{"kind": fmt.Sprintf("%T", err), "message": err.Error()}
	}
	kind := string(failed.Kind)
	if failed.Kind == standpipe.ErrUnknown {
		kind = "StandpipeError"
	}
	out := fields{
		"kind":           kind,
		"code":           failed.CodeName(),
		"reason":         failed.Reason,
		"metadata":       failed.Metadata,
		"field":          orNull(failed.Field),
		"field_message":  orNull(failed.FieldMessage),
		"retry_after_ms": nil,
		"request_id":     orNull(failed.RequestID),
		"message":        failed.Message,
	}
	if failed.Metadata == nil {
		out["metadata"] = fields{}
	}
	if after, ok := failed.RetryAfter(); ok {
		out["retry_after_ms"] = after.Milliseconds()
	}
	return out
}

func orNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}
