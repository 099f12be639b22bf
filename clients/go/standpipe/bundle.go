package standpipe

import (
	"encoding/hex"
	"fmt"
	"strings"

	standpipev1 "standpipe.dev/go/standpipe/v1"
)

// A Bundle is everything that the model should see before the user's new message.
type Bundle struct {
	// Message is the bundle as it came; the methods read it.
	Message *standpipev1.Bundle
	// Query is what it was hydrated with.
	Query string
	// Receipt renders it again with [Client.Replay]; a commit [WithBundle] stores it with the turn.
	Receipt []byte
	// Token is the consistency token of what it has seen.
	Token string
	// Degraded is the sources that are missing or reduced, and why; empty when all is well (P12).
	Degraded []*standpipev1.Degradation
	// Timings is where the time went, in microseconds; nil for a replay.
	Timings *standpipev1.Timings
	// Tax is what it costs, in tokens; nil for a replay.
	Tax *standpipev1.TokenTax
	// Recall is what recall searched; nil when it was not asked for.
	Recall *standpipev1.RecallInfo
}

// WithQuery returns the same bundle with another query, for [Bundle.ToOpenAI] and [Bundle.ToAnthropic] to end in; empty
// leaves it out.
func (b *Bundle) WithQuery(query string) *Bundle {
	other := *b
	other.Query = query
	return &other
}

// Sections returns its sections in the order of [Source]; a source without content has none.
func (b *Bundle) Sections() []*standpipev1.Section { return b.Message.GetSections() }

// Tokens returns its tokens, never more than [Bundle.BudgetTokens] (P5).
func (b *Bundle) Tokens() int { return int(b.Message.GetTokens()) }

// BudgetTokens returns the total that was in force.
func (b *Bundle) BudgetTokens() int { return int(b.Message.GetBudgetTokens()) }

// Tokenizer returns the tokenizer that counted.
func (b *Bundle) Tokenizer() string { return b.Message.GetTokenizer() }

// Fingerprint returns the SHA-256 of its canonical bytes in hexadecimal: equal means identical model input (P6).
func (b *Bundle) Fingerprint() string { return hex.EncodeToString(b.Message.GetFingerprint()) }

// Policy returns the policy that shaped it, as name@version.
func (b *Bundle) Policy() string { return b.Message.GetPolicy() }

// Version returns the session's version that it shows; 0 for a session that does not exist yet.
func (b *Bundle) Version() int64 { return b.Message.GetSessionVersion() }

// Omissions returns the best-ranked candidates that were left out, and why; all of them in a full replay.
func (b *Bundle) Omissions() []*standpipev1.Omission { return b.Message.GetOmissions() }

// OmissionCounts returns how many candidates were left out, by source and reason.
func (b *Bundle) OmissionCounts() []*standpipev1.OmissionCount { return b.Message.GetOmissionCounts() }

// Text returns its canonical text: header and body of all segments, without the query.
func (b *Bundle) Text() string {
	var text strings.Builder
	for _, section := range b.Sections() {
		text.WriteString(textOf(section))
	}
	return text.String()
}

// String names it without showing content.
func (b *Bundle) String() string {
	return fmt.Sprintf("<Bundle version=%d tokens=%d fingerprint=%.12s>", b.Version(), b.Tokens(), b.Fingerprint())
}

// GoString names it without showing content.
func (b *Bundle) GoString() string { return b.String() }

func textOf(section *standpipev1.Section) string {
	var text strings.Builder
	for _, segment := range section.GetSegments() {
		text.WriteString(segment.GetHeader())
		text.WriteString(segment.GetBody())
	}
	return text.String()
}
