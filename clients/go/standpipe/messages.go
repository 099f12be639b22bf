package standpipe

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"iter"
	"strconv"
	"strings"
	"unicode"

	standpipev1 "standpipe.dev/go/standpipe/v1"
)

// Both forms keep the order that prompt caches want, stable before volatile, and the same bundle and query always give
// the same JSON bytes:
//
//   - POLICY, PROFILE and SUMMARY, in this order, are the system side, as canonical text.
//   - HISTORY becomes real messages: a body without its final newline and without the header, whose role the message
//     itself has. A tool call and its result stay next to each other. Should one ever come without the other, it
//     becomes plain text, since providers refuse half a pair. Frame lines become text on the user's side.
//   - RECALL, FACTS and DOCUMENTS stand in front of the query in the last user message: what a query finds in what was
//     said is never system. So does a section whose source this client does not know yet.
//
// Providers are narrower than Standpipe, so some names are mapped, always in the same way: a tool name's characters
// outside A-Z a-z 0-9 _ - become "_" and 64 are kept; a call id with other characters, or longer than 40, becomes
// "call_" and 32 digits of its SHA-256; arguments that are not a JSON object, such as shortened ones, become
// {"raw": text}.

const (
	// historyStart is the user's message in front of a history that starts with the assistant, which Anthropic refuses.
	historyStart = "[start of the visible conversation]"

	// breakpointsMax is how many cache breakpoints Anthropic takes in one request; the last ones stay, since they cover
	// most.
	breakpointsMax = 4

	// nameCharsMax is the longest name that the providers take, of a tool or a speaker.
	nameCharsMax = 64

	// callIDCharsMax is the longest call id that all providers take.
	callIDCharsMax = 40

	// depthMax is how deep a tool's arguments may be nested: more than any tool's, and less than any JSON reader's
	// limit.
	depthMax = 128
)

// An OpenAIMessage is one message of OpenAI's chat completions, in the form that it has in JSON.
type OpenAIMessage struct {
	// Role is "system", "user", "assistant" or "tool".
	Role string `json:"role"`
	// Content is the text; nil beside tool calls.
	Content *string `json:"content"`
	// Name is the speaker's, where OpenAI allows it.
	Name string `json:"name,omitempty"`
	// ToolCalls is what the assistant called.
	ToolCalls []OpenAIToolCall `json:"tool_calls,omitempty"`
	// ToolCallID is the call that a tool answers.
	ToolCallID string `json:"tool_call_id,omitempty"`
}

// An OpenAIToolCall is a call of a tool in an [OpenAIMessage].
type OpenAIToolCall struct {
	// ID is the call's id.
	ID string `json:"id"`
	// Type is "function".
	Type string `json:"type"`
	// Function is what was called.
	Function OpenAIFunctionCall `json:"function"`
}

// An OpenAIFunctionCall is what an [OpenAIToolCall] calls.
type OpenAIFunctionCall struct {
	// Name is the tool's.
	Name string `json:"name"`
	// Arguments is a JSON object, as text.
	Arguments string `json:"arguments"`
}

// An AnthropicPrompt is `system` and `messages` of Anthropic's Messages API, in the form that they have in JSON.
type AnthropicPrompt struct {
	// System is the system side; never nil.
	System []*AnthropicBlock `json:"system"`
	// Messages is the conversation; never nil.
	Messages []*AnthropicMessage `json:"messages"`
}

// An AnthropicMessage is one message of an [AnthropicPrompt].
type AnthropicMessage struct {
	// Role is "user" or "assistant".
	Role string `json:"role"`
	// Content is its blocks.
	Content []*AnthropicBlock `json:"content"`
}

// An AnthropicBlock is one block of content.
type AnthropicBlock struct {
	// Type is "text", "tool_use" or "tool_result".
	Type string `json:"type"`
	// Text is that of a text.
	Text string `json:"text,omitempty"`
	// ID is the call's id, of a tool_use.
	ID string `json:"id,omitempty"`
	// Name is the tool's, of a tool_use.
	Name string `json:"name,omitempty"`
	// Input is the arguments, a JSON object, of a tool_use.
	Input json.RawMessage `json:"input,omitempty"`
	// ToolUseID is the call that a tool_result answers.
	ToolUseID string `json:"tool_use_id,omitempty"`
	// Content is what a tool_result says.
	Content string `json:"content,omitempty"`
	// IsError tells that the tool failed.
	IsError bool `json:"is_error,omitempty"`
	// CacheControl marks a cache breakpoint.
	CacheControl *AnthropicCacheControl `json:"cache_control,omitempty"`
}

// An AnthropicCacheControl is a cache breakpoint.
type AnthropicCacheControl struct {
	// Type is "ephemeral".
	Type string `json:"type"`
}

// ToOpenAI returns OpenAI chat messages; the last is the user's, with what was found and the bundle's Query, if there
// is either.
//
// Content is plain text and there is one system message at most, since many compatible servers take no other; its
// sections are set apart by an empty line. A speaker's name goes into Name where OpenAI allows it. A failed tool's
// result starts with "error: ", since this form has no field for it.
func (b *Bundle) ToOpenAI() []OpenAIMessage {
	out := []OpenAIMessage{}
	if system := b.system(); len(system) > 0 {
		texts := make([]string, len(system))
		for at, section := range system {
			texts[at] = textOf(section)
		}
		out = append(out, spoken("system", strings.TrimSuffix(strings.Join(texts, "\n"), "\n")))
	}
	for segment, result := range b.history() {
		if result == nil {
			message := spoken(roleOf(segment), contentOf(segment))
			if name := segment.GetName(); name != message.Role && isSpoken(segment) && isName(name, nameCharsMax) {
				message.Name = name
			}
			out = append(out, message)
			continue
		}
		arguments, _ := argumentsOf(segment)
		content := bodyOf(result)
		if result.GetIsError() {
			content = "error: " + content
		}
		answer := spoken("tool", content)
		answer.ToolCallID = callIDOf(segment)
		call := OpenAIToolCall{ID: answer.ToolCallID, Type: "function"}
		call.Function = OpenAIFunctionCall{Name: toolNameOf(segment), Arguments: arguments}
		out = append(out, OpenAIMessage{Role: "assistant", ToolCalls: []OpenAIToolCall{call}}, answer)
	}
	var last []string
	for _, text := range []string{b.found(), b.Query} {
		if text != "" {
			last = append(last, text)
		}
	}
	if len(last) > 0 {
		out = append(out, spoken("user", strings.Join(last, "\n")))
	}
	return out
}

// ToAnthropic returns `system` and `messages` for Anthropic's Messages API, with cache breakpoints; the bundle's Query
// stands at the end.
//
// Roles alternate: neighbours of one role are one message of several blocks. A history that starts with the assistant
// gets "[start of the visible conversation]" in front. Every section that has a cache_breakpoint, and the history
// always, ends in a block with CacheControl. Blocks of white space alone are left out, since the API refuses them.
func (b *Bundle) ToAnthropic() AnthropicPrompt {
	prompt := AnthropicPrompt{System: []*AnthropicBlock{}, Messages: []*AnthropicMessage{}}
	var marks []*AnthropicBlock
	for _, section := range b.system() {
		if text := strings.TrimSuffix(textOf(section), "\n"); !isBlank(text) {
			block := &AnthropicBlock{Type: "text", Text: text}
			prompt.System = append(prompt.System, block)
			if section.GetCacheBreakpoint() {
				marks = append(marks, block)
			}
		}
	}
	for segment, result := range b.history() {
		if result == nil {
			if content := contentOf(segment); !isBlank(content) {
				prompt.add(roleOf(segment), &AnthropicBlock{Type: "text", Text: content})
			}
			continue
		}
		_, input := argumentsOf(segment)
		id := callIDOf(segment)
		prompt.add("assistant", &AnthropicBlock{Type: "tool_use", ID: id, Name: toolNameOf(segment), Input: input})
		answer := &AnthropicBlock{Type: "tool_result", ToolUseID: id, IsError: result.GetIsError()}
		if content := bodyOf(result); !isBlank(content) {
			answer.Content = content
		}
		prompt.add("user", answer)
	}
	if len(prompt.Messages) > 0 {
		content := prompt.Messages[len(prompt.Messages)-1].Content
		marks = append(marks, content[len(content)-1])
	}
	for _, text := range []string{strings.TrimSuffix(b.found(), "\n"), b.Query} {
		if !isBlank(text) {
			prompt.add("user", &AnthropicBlock{Type: "text", Text: text})
		}
	}
	for _, block := range marks[max(0, len(marks)-breakpointsMax):] {
		block.CacheControl = &AnthropicCacheControl{Type: "ephemeral"}
	}
	return prompt
}

func (p *AnthropicPrompt) add(role string, block *AnthropicBlock) {
	if len(p.Messages) == 0 && role == "assistant" {
		p.add("user", &AnthropicBlock{Type: "text", Text: historyStart})
	}
	if len(p.Messages) == 0 || p.Messages[len(p.Messages)-1].Role != role {
		p.Messages = append(p.Messages, &AnthropicMessage{Role: role})
	}
	last := p.Messages[len(p.Messages)-1]
	last.Content = append(last.Content, block)
}

// system returns the sections of the system side.
func (b *Bundle) system() []*standpipev1.Section {
	var system []*standpipev1.Section
	for _, section := range b.Sections() {
		if isSystem(section.GetSource()) {
			system = append(system, section)
		}
	}
	return system
}

// history yields the history's segments, a tool call together with its result; else the second one is nil.
func (b *Bundle) history() iter.Seq2[*standpipev1.Segment, *standpipev1.Segment] {
	var segments []*standpipev1.Segment
	for _, section := range b.Sections() {
		if section.GetSource() == SourceHistory {
			segments = append(segments, section.GetSegments()...)
		}
	}
	return func(yield func(*standpipev1.Segment, *standpipev1.Segment) bool) {
		for at := 0; at < len(segments); at++ {
			segment, result := segments[at], (*standpipev1.Segment)(nil)
			if at+1 < len(segments) && segment.GetKind() == standpipev1.SegmentKind_SEGMENT_KIND_TOOL_CALL &&
				segments[at+1].GetKind() == standpipev1.SegmentKind_SEGMENT_KIND_TOOL_RESULT &&
				segments[at+1].GetToolCallId() == segment.GetToolCallId() {
				at++
				result = segments[at]
			}
			if !yield(segment, result) {
				return
			}
		}
	}
}

// found returns the text of all that stands in front of the query.
func (b *Bundle) found() string {
	var text strings.Builder
	for _, section := range b.Sections() {
		if source := section.GetSource(); !isSystem(source) && source != SourceHistory {
			text.WriteString(textOf(section))
		}
	}
	return text.String()
}

func isSystem(source Source) bool {
	return source == SourcePolicy || source == SourceProfile || source == SourceSummary
}

func spoken(role, content string) OpenAIMessage {
	return OpenAIMessage{Role: role, Content: &content}
}

func bodyOf(segment *standpipev1.Segment) string {
	return strings.TrimSuffix(segment.GetBody(), "\n")
}

func isSpoken(segment *standpipev1.Segment) bool {
	return segment.GetKind() == standpipev1.SegmentKind_SEGMENT_KIND_TEXT
}

// contentOf returns what a message says; what nobody said keeps its header, as the only word on what it is.
func contentOf(segment *standpipev1.Segment) string {
	if isSpoken(segment) {
		return bodyOf(segment)
	}
	return segment.GetHeader() + bodyOf(segment)
}

func roleOf(segment *standpipev1.Segment) string {
	frame := segment.GetKind() == standpipev1.SegmentKind_SEGMENT_KIND_FRAME
	if segment.GetRole() == standpipev1.Role_ROLE_ASSISTANT && !frame {
		return "assistant"
	}
	return "user"
}

func toolNameOf(call *standpipev1.Segment) string {
	name := []rune(call.GetName())
	for at, char := range name {
		if !isNameChar(char) {
			name[at] = '_'
		}
	}
	if len(name) == 0 {
		return "tool"
	}
	return string(name[:min(nameCharsMax, len(name))])
}

func callIDOf(call *standpipev1.Segment) string {
	id := call.GetToolCallId()
	if isName(id, callIDCharsMax) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return "call_" + hex.EncodeToString(sum[:])[:32]
}

// argumentsOf returns a call's arguments as JSON text, unchanged if it is an object, and as that object.
func argumentsOf(call *standpipev1.Segment) (string, json.RawMessage) {
	text := bodyOf(call)
	if isBlank(text) {
		return "{}", json.RawMessage("{}")
	}
	if !isObject(text) {
		text = `{"raw": ` + quote(text) + "}"
	}
	return text, json.RawMessage(text)
}

// isObject tells whether a text is a JSON object that every reader takes: one that UTF-8 can carry, which half a
// surrogate pair is not, without numbers beyond a double's range, and not nested deeper than depthMax.
func isObject(text string) bool {
	if !strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), "{") || !json.Valid([]byte(text)) {
		return false
	}
	depth := 0
	for token := range tokens(text) {
		switch char := token[0]; {
		case char == '{' || char == '[':
			if depth++; depth > depthMax {
				return false
			}
		case char == '}' || char == ']':
			depth--
		case char == '"':
			if !isPaired(token) {
				return false
			}
		case char == '-' || '0' <= char && char <= '9':
			if _, err := strconv.ParseFloat(token, 64); err != nil {
				return false
			}
		}
	}
	return true
}

// tokens yields the tokens of valid JSON as they are written, white space among them.
func tokens(text string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for at := 0; at < len(text); {
			end := at + 1
			switch char := text[at]; {
			case char == '"':
				for text[end] != '"' {
					if text[end] == '\\' {
						end++
					}
					end++
				}
				end++
			case char == '-' || '0' <= char && char <= '9':
				for end < len(text) && strings.IndexByte("+-.eE0123456789", text[end]) >= 0 {
					end++
				}
			}
			if !yield(text[at:end]) {
				return
			}
			at = end
		}
	}
}

// isPaired tells whether a JSON string has no escaped half of a surrogate pair without the other half behind it.
func isPaired(text string) bool {
	high := false // whether the escape just before was the first half of a pair
	for at := 0; at < len(text); at++ {
		if text[at] != '\\' || text[at+1] != 'u' {
			if high {
				return false
			}
			if text[at] == '\\' {
				at++
			}
			continue
		}
		unit, _ := strconv.ParseUint(text[at+2:at+6], 16, 16)
		at += 5
		if low := 0xDC00 <= unit && unit < 0xE000; low != high {
			return false
		}
		high = 0xD800 <= unit && unit < 0xDC00
	}
	return true
}

// quote returns a text as a JSON string that escapes no more than JSON must, as the clients of all languages do.
func quote(text string) string {
	const digits = "0123456789abcdef"
	var out strings.Builder
	out.WriteByte('"')
	for at := range len(text) {
		switch char := text[at]; char {
		case '"', '\\':
			out.WriteByte('\\')
			out.WriteByte(char)
		case '\n':
			out.WriteString(`\n`)
		case '\r':
			out.WriteString(`\r`)
		case '\t':
			out.WriteString(`\t`)
		case '\b':
			out.WriteString(`\b`)
		case '\f':
			out.WriteString(`\f`)
		default:
			if char < ' ' {
				out.WriteString(`\u00`)
				out.WriteByte(digits[char>>4])
				out.WriteByte(digits[char&15])
			} else {
				out.WriteByte(char)
			}
		}
	}
	out.WriteByte('"')
	return out.String()
}

func isName(text string, charsMax int) bool {
	if text == "" || len(text) > charsMax {
		return false
	}
	for _, char := range text {
		if !isNameChar(char) {
			return false
		}
	}
	return true
}

func isNameChar(char rune) bool {
	letter := 'a' <= char && char <= 'z' || 'A' <= char && char <= 'Z'
	return letter || '0' <= char && char <= '9' || char == '_' || char == '-'
}

// isBlank tells whether a text is white space alone, under the same rule in the clients of all languages.
func isBlank(text string) bool {
	for _, char := range text {
		if !unicode.IsSpace(char) && (char < 0x1c || char > 0x1f) {
			return false
		}
	}
	return true
}
