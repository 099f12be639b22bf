package standpipe

import (
	"encoding/json"
	"strings"

	standpipev1 "standpipe.dev/go/standpipe/v1"
)

// An Entry is one step of a turn. Limits are the server's (turn.proto): 1 to 256 entries a turn, 512 KiB of text each,
// 256 KiB of arguments. What the functions of this package cannot say, such as media, is an Entry built by hand.
type Entry = standpipev1.TurnEntry

// Entries returns its arguments as a slice: the steps of a turn, in order.
func Entries(entries ...*Entry) []*Entry {
	return entries
}

// User returns what the human said.
func User(text string, options ...MessageOption) *Entry {
	return message(standpipev1.Role_ROLE_USER, text, options)
}

// Assistant returns what the model said.
func Assistant(text string, options ...MessageOption) *Entry {
	return message(standpipev1.Role_ROLE_ASSISTANT, text, options)
}

// ToolCall returns a call that the model made, with the arguments as the JSON text that the model wrote; empty means
// none.
func ToolCall(id, name, argumentsJSON string) *Entry {
	call := &standpipev1.ToolCall{Id: id, Name: name, ArgumentsJson: argumentsJSON}
	return &Entry{Entry: &standpipev1.TurnEntry_ToolCall{ToolCall: call}}
}

// ToolCallOf returns a call that the model made, with a value that is a JSON object when it is marshalled, such as a
// map or a struct. It fails with [ErrInvalidArgument] for any other.
func ToolCallOf(id, name string, arguments any) (*Entry, error) {
	text, err := json.Marshal(arguments)
	if err != nil || !isObject(string(text)) {
		return nil, invalid("arguments", "must be a value that is a JSON object")
	}
	// Every client writes the same text for the same value, and no more escapes than it must.
	var written strings.Builder
	for token := range tokens(string(text)) {
		if token[0] == '"' {
			var value string
			if err := json.Unmarshal([]byte(token), &value); err != nil {
				return nil, invalid("arguments", "must be a value that is a JSON object")
			}
			token = quote(value)
		}
		written.WriteString(token)
	}
	return ToolCall(id, name, written.String()), nil
}

// ToolResult returns what a tool answered to the call callID, of this turn or still open from an earlier one.
func ToolResult(callID, content string) *Entry {
	return toolResult(callID, content, false)
}

// ToolError returns what a tool that failed answered to the call callID.
func ToolError(callID, content string) *Entry {
	return toolResult(callID, content, true)
}

func toolResult(callID, content string, isError bool) *Entry {
	result := &standpipev1.ToolResult{CallId: callID, Content: content, IsError: isError}
	return &Entry{Entry: &standpipev1.TurnEntry_ToolResult{ToolResult: result}}
}

func message(role standpipev1.Role, text string, options []MessageOption) *Entry {
	said := &standpipev1.Message{Role: role, Text: text}
	for _, option := range options {
		option.applyMessage(said)
	}
	return &Entry{Entry: &standpipev1.TurnEntry_Message{Message: said}}
}
