package standpipe

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	standpipev1 "standpipe.dev/go/standpipe/v1"
)

// vectors reads a file of what every client must do, and fails for none.
func vectors[Row any](t *testing.T, name string) []Row {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "tests", "vectors", name))
	if err != nil {
		t.Fatal(err)
	}
	var rows []Row
	if err := json.Unmarshal(text, &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) == 0 {
		t.Fatal("no vectors")
	}
	return rows
}

// asJSON returns a value as it is after its way through JSON.
func asJSON(t *testing.T, value any) any {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return decoded(t, text)
}

func decoded(t *testing.T, text []byte) any {
	t.Helper()
	var found any
	if err := json.Unmarshal(text, &found); err != nil {
		t.Fatal(err)
	}
	return found
}

func messageOf[M proto.Message](t *testing.T, text []byte, message M) M {
	t.Helper()
	if err := protojson.Unmarshal(text, message); err != nil {
		t.Fatal(err)
	}
	return message
}

// A bundle becomes these messages, whether it brought its query or was given it, and always the same bytes.
func TestRendering(t *testing.T) {
	type row struct {
		Name      string
		Bundle    json.RawMessage
		Query     *string
		OpenAI    any
		Anthropic any
	}
	for _, row := range vectors[row](t, "rendering.json") {
		t.Run(row.Name, func(t *testing.T) {
			query := ""
			if row.Query != nil {
				query = *row.Query
			}
			bundle := &Bundle{Message: messageOf(t, row.Bundle, &standpipev1.Bundle{}), Query: query}
			for _, shown := range []*Bundle{bundle, {Message: bundle.Message, Query: "something else"}} {
				again := shown.WithQuery(query)
				if found := asJSON(t, again.ToOpenAI()); !reflect.DeepEqual(found, row.OpenAI) {
					t.Errorf("OpenAI:\n%v\nwant\n%v", found, row.OpenAI)
				}
				if found := asJSON(t, again.ToAnthropic()); !reflect.DeepEqual(found, row.Anthropic) {
					t.Errorf("Anthropic:\n%v\nwant\n%v", found, row.Anthropic)
				}
			}
			one, _ := json.Marshal([]any{bundle.ToOpenAI(), bundle.ToAnthropic()})
			two, _ := json.Marshal([]any{bundle.ToOpenAI(), bundle.ToAnthropic()})
			if string(one) != string(two) {
				t.Error("the same bundle gave other bytes")
			}
		})
	}
}

// A status, its message and its details become this error.
func TestErrors(t *testing.T) {
	type row struct {
		Name          string
		Code          string
		Message       string
		DetailsBase64 *string `json:"details_base64"`
		Expect        struct {
			Kind         string
			Code         string
			Reason       string
			Metadata     map[string]string
			Field        *string
			FieldMessage *string `json:"field_message"`
			RetryAfterMS *int64  `json:"retry_after_ms"`
		}
	}
	for _, row := range vectors[row](t, "errors.json") {
		t.Run(row.Name, func(t *testing.T) {
			var status spb.Status
			if row.DetailsBase64 != nil {
				raw, err := base64.StdEncoding.DecodeString(*row.DetailsBase64)
				if err != nil {
					t.Fatal(err)
				}
				if proto.Unmarshal(raw, &status) != nil {
					status.Reset() // gRPC leaves out what it cannot read
				}
			}
			found := parse(codes.Code(code.Code_value[row.Code]), row.Message, status.GetDetails())
			kind := row.Expect.Kind
			if kind == "StandpipeError" {
				kind = string(ErrUnknown)
			}
			if string(found.Kind) != kind || found.CodeName() != row.Expect.Code || found.Reason != row.Expect.Reason {
				t.Errorf("%s %s %s, want %+v", found.Kind, found.CodeName(), found.Reason, row.Expect)
			}
			if !reflect.DeepEqual(found.Metadata, row.Expect.Metadata) || found.Message != row.Message {
				t.Errorf("%v %q, want %v %q", found.Metadata, found.Message, row.Expect.Metadata, row.Message)
			}
			if found.Field != orEmpty(row.Expect.Field) || found.FieldMessage != orEmpty(row.Expect.FieldMessage) {
				t.Errorf("%q %q, want %+v", found.Field, found.FieldMessage, row.Expect)
			}
			after, advised := found.RetryAfter()
			want := row.Expect.RetryAfterMS
			if advised != (want != nil) || advised && after.Milliseconds() != *want {
				t.Errorf("%v %v, want %v", after, advised, want)
			}
		})
	}
}

func orEmpty(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

// A helper makes this entry.
func TestEntries(t *testing.T) {
	type row struct {
		Name string
		Call struct {
			Helper    string
			Arguments struct {
				Text, Speaker, At string
				Citations         []json.RawMessage
				ID, Name          string
				Arguments         json.RawMessage
				CallID            string `json:"call_id"`
				Content           string
				IsError           bool `json:"is_error"`
			}
		}
		Entry json.RawMessage
	}
	for _, row := range vectors[row](t, "entries.json") {
		t.Run(row.Name, func(t *testing.T) {
			given := row.Call.Arguments
			var options []MessageOption
			if given.Speaker != "" {
				options = append(options, WithSpeaker(given.Speaker))
			}
			if given.At != "" {
				at, err := time.Parse(time.RFC3339Nano, given.At)
				if err != nil {
					t.Fatal(err)
				}
				options = append(options, WithSpokenAt(at))
			}
			for _, one := range given.Citations {
				options = append(options, WithCitations(messageOf(t, one, &standpipev1.EventRef{})))
			}
			var made *Entry
			switch row.Call.Helper {
			case "user":
				made = User(given.Text, options...)
			case "assistant":
				made = Assistant(given.Text, options...)
			case "tool_call":
				var text string
				if given.Arguments == nil || json.Unmarshal(given.Arguments, &text) == nil {
					made = ToolCall(given.ID, given.Name, text)
				} else if entry, err := ToolCallOf(given.ID, given.Name, given.Arguments); err != nil {
					t.Fatal(err)
				} else {
					made = entry
				}
			case "tool_result":
				made = ToolResult(given.CallID, given.Content)
				if given.IsError {
					made = ToolError(given.CallID, given.Content)
				}
			default:
				t.Fatalf("no helper %q", row.Call.Helper)
			}
			if want := messageOf(t, row.Entry, &Entry{}); !proto.Equal(made, want) {
				t.Errorf("%v, want %v", made, want)
			}
		})
	}
}

// P4: after these answers, a session asks for what the newest of them showed, unless the caller asks for else.
func TestTokens(t *testing.T) {
	type answer struct {
		Version int64
		Token   string
	}
	type row struct {
		Name        string
		Initial     string
		Seen        []answer
		Consistency json.RawMessage
		Sends       json.RawMessage
	}
	for _, row := range vectors[row](t, "tokens.json") {
		t.Run(row.Name, func(t *testing.T) {
			server, client := scripted(t)
			session := client.Session("s", WithToken(row.Initial))
			for _, one := range row.Seen {
				server.hydrated = &standpipev1.HydrateContextResponse{
					Bundle: &standpipev1.Bundle{SessionVersion: one.Version}, ConsistencyToken: one.Token,
				}
				if _, err := session.Hydrate(context.Background(), ""); err != nil {
					t.Fatal(err)
				}
			}
			var options []HydrateOption
			if string(row.Consistency) != "null" {
				options = append(options, WithConsistency(messageOf(t, row.Consistency, &standpipev1.Consistency{})))
			}
			if _, err := session.Hydrate(context.Background(), "", options...); err != nil {
				t.Fatal(err)
			}
			sent := server.last("HydrateContext").(*standpipev1.HydrateContextRequest)
			if string(row.Sends) == "null" {
				if sent.Consistency != nil {
					t.Errorf("%v, want none", sent.Consistency)
				}
				return
			}
			if want := messageOf(t, row.Sends, &standpipev1.Consistency{}); !proto.Equal(sent.Consistency, want) {
				t.Errorf("%v, want %v", sent.Consistency, want)
			}
		})
	}
}

// What was said comes through a call, and through both renderings, as it was.
func TestTexts(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "tests", "vectors", "limits.json"))
	if err != nil {
		t.Fatal(err)
	}
	var rows struct {
		Texts []struct{ Name, Text string }
	}
	if err := json.Unmarshal(text, &rows); err != nil || len(rows.Texts) == 0 {
		t.Fatal("no vectors", err)
	}
	served, client := scripted(t)
	for _, row := range rows.Texts {
		bundle, err := client.Session("s").Hydrate(context.Background(), row.Text)
		if err != nil {
			t.Fatal(err)
		}
		sent := served.last("HydrateContext").(*standpipev1.HydrateContextRequest)
		openAI, anthropic := bundle.ToOpenAI(), bundle.ToAnthropic()
		shown := []string{sent.Query, *openAI[0].Content, anthropic.Messages[0].Content[0].Text}
		for _, one := range shown {
			if one != row.Text {
				t.Errorf("%s: %q, want %q", row.Name, one, row.Text)
			}
		}
	}
}
