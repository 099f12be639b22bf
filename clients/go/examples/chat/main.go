// Command chat is a conversation that Standpipe remembers, with any OpenAI-compatible model.
//
//	go run standpipe.dev/go/examples/chat -session chat-42 -subject anna "Where were we?"
//
// Each argument is a question; without arguments, each line of the standard input is. Standpipe is found by
// STANDPIPE_TARGET, the model by OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"standpipe.dev/go/standpipe"
)

// answerBytesMax is what is read of a model's answer.
const answerBytesMax = 8 << 20

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

func run() error {
	sessionID := flag.String("session", "chat", "the conversation's id")
	subject := flag.String("subject", "someone", "whose memory it feeds")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	client, err := standpipe.Connect("")
	if err != nil {
		return err
	}
	defer client.Close()
	session := client.Session(*sessionID, standpipe.WithSubject(*subject))
	for question, err := range questions(flag.Args()) {
		if err != nil {
			return err
		}
		said := ""
		_, err := session.Turn(ctx, question, standpipe.Reply(
			func(ctx context.Context, bundle *standpipe.Bundle) (_ string, err error) {
				said, err = ask(ctx, bundle.ToOpenAI())
				return said, err
			}))
		if err != nil {
			return err
		}
		fmt.Println(said)
	}
	return nil
}

// questions yields the arguments, or without any the lines of the standard input that are not blank.
func questions(arguments []string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, question := range arguments {
			if !yield(question, nil) {
				return
			}
		}
		if len(arguments) > 0 {
			return
		}
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			if line := strings.TrimSpace(lines.Text()); line != "" && !yield(line, nil) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield("", err)
		}
	}
}

// ask returns what the model says to the messages.
func ask(ctx context.Context, messages []standpipe.OpenAIMessage) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	body, err := json.Marshal(map[string]any{"model": setting("OPENAI_MODEL", "gpt-4o"), "messages": messages})
	if err != nil {
		return "", err
	}
	url := strings.TrimRight(setting("OPENAI_BASE_URL", "https://api.openai.com/v1"), "/") + "/chat/completions"
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/json")
	if key := os.Getenv("OPENAI_API_KEY"); key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, answerBytesMax))
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the model's endpoint answered %s", response.Status)
	}
	var answer struct {
		Choices []struct {
			Message struct {
				Content string `json:"content"`
			} `json:"message"`
		} `json:"choices"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return "", fmt.Errorf("the model's endpoint answered no JSON: %w", err)
	}
	if len(answer.Choices) == 0 || answer.Choices[0].Message.Content == "" {
		return "", errors.New("the model said nothing")
	}
	return answer.Choices[0].Message.Content, nil
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
