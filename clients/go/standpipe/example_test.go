package standpipe_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"

	"standpipe.dev/go/standpipe"
	standpipev1 "standpipe.dev/go/standpipe/v1"
)

// A turn hydrates, asks the model, and commits both sides; another pod's commit in between makes it do so again.
func ExampleSession_Turn() {
	client, err := standpipe.Connect("unix:/run/standpipe/standpipe.sock")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	session := client.Session("chat-42", standpipe.WithSubject("anna"))
	answer := func(ctx context.Context, bundle *standpipe.Bundle) (string, error) {
		messages, err := json.Marshal(bundle.ToOpenAI()) // what the model is asked
		return fmt.Sprintf("I have read %d bytes.", len(messages)), err
	}
	done, err := session.Turn(context.Background(), "Where were we?", standpipe.Reply(answer))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("committed as version", done.Commit.Version)
}

// An error says what kind it is, and all that the server told.
func ExampleError() {
	client, err := standpipe.Connect("")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	session := client.Session("chat-42", standpipe.WithSubject("anna"))
	entries := standpipe.Entries(standpipe.User("Hi"), standpipe.Assistant("Hello!"))
	_, err = session.Commit(context.Background(), entries, standpipe.WithExpectedVersion(0))
	var failed *standpipe.Error
	switch {
	case errors.Is(err, standpipe.ErrConflict) && errors.As(err, &failed):
		version, _ := failed.CurrentVersion()
		fmt.Println("another commit came first; the session is at", version)
	case errors.Is(err, standpipe.ErrUnavailable) && errors.As(err, &failed):
		// It may have happened: under the same id it counts once.
		_, err = session.Commit(context.Background(), entries,
			standpipe.WithExpectedVersion(0), standpipe.WithRequestID(failed.RequestID))
	}
	if err != nil {
		log.Print(err)
	}
}

// A session's log is read as it comes.
func ExampleSession_Events() {
	client, err := standpipe.Connect("")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	for event, err := range client.Session("chat-42").Events(context.Background(), 0) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(event.Version, len(event.GetTurn().GetEntries()))
	}
}

// What has no method of its own here has its stub, over the same connection.
func ExampleClient_Stubs() {
	client, err := standpipe.Connect("", standpipe.WithTenant("acme"))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	got, err := client.Stubs().State.GetState(context.Background(), &standpipev1.GetStateRequest{
		SubjectId: "anna", Collection: "settings", Keys: []string{"language"},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(got.Records))
}

// A model's call of a tool, and what the tool answered, are entries of a turn.
func ExampleToolCallOf() {
	call, err := standpipe.ToolCallOf("call-1", "weather", map[string]any{"city": "Kyoto"})
	if err != nil {
		log.Fatal(err)
	}
	entries := standpipe.Entries(
		standpipe.User("Is it warm in Kyoto?"),
		call,
		standpipe.ToolResult("call-1", "21 °C"),
		standpipe.Assistant("Yes, it has 21 °C."),
	)
	fmt.Println(len(entries), call.GetToolCall().GetArgumentsJson())
	// Output: 4 {"city":"Kyoto"}
}

// A bundle's messages are plain JSON, in the form that the models' APIs take.
func ExampleBundle_ToOpenAI() {
	bundle := &standpipe.Bundle{Query: "Where were we?", Message: &standpipev1.Bundle{
		Sections: []*standpipev1.Section{{Source: standpipe.SourcePolicy, Segments: []*standpipev1.Segment{
			{Kind: standpipev1.SegmentKind_SEGMENT_KIND_TEXT, Body: "Be brief.\n"},
		}}},
	}}
	messages, err := json.Marshal(bundle.ToOpenAI())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(messages))
	// Output: [{"role":"system","content":"Be brief."},{"role":"user","content":"Where were we?"}]
}
