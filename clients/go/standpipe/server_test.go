package standpipe

import (
	"context"
	"net"
	"os"
	"path"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	standpipev1 "standpipe.dev/go/standpipe/v1"
)

// A call is what the scripted server was asked.
type call struct {
	method   string
	request  proto.Message
	metadata metadata.MD
}

// A server keeps what it is asked. A step of its script comes before an answer; an error of it is the answer.
type server struct {
	standpipev1.UnimplementedContextServiceServer
	standpipev1.UnimplementedSessionServiceServer
	standpipev1.UnimplementedMemoryServiceServer
	standpipev1.UnimplementedStateServiceServer

	mu       sync.Mutex
	calls    []call
	script   map[string][]func(context.Context) error
	hydrated *standpipev1.HydrateContextResponse
	version  int64
	events   int64
}

// plan scripts the next calls of a method.
func (s *server) plan(method string, steps ...func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script[method] = append(s.script[method], steps...)
}

// asked returns what a method was asked, in order.
func (s *server) asked(method string) []call {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []call
	for _, one := range s.calls {
		if one.method == method {
			found = append(found, one)
		}
	}
	return found
}

// last returns the last request of a method.
func (s *server) last(method string) proto.Message {
	calls := s.asked(method)
	return calls[len(calls)-1].request
}

func (s *server) intercept(
	ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler,
) (any, error) {
	method := path.Base(info.FullMethod)
	brought, _ := metadata.FromIncomingContext(ctx)
	s.mu.Lock()
	s.calls = append(s.calls, call{method, request.(proto.Message), brought})
	var step func(context.Context) error
	if steps := s.script[method]; len(steps) > 0 {
		step, s.script[method] = steps[0], steps[1:]
	}
	s.mu.Unlock()
	if step != nil {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return handle(ctx, request)
}

func (s *server) HydrateContext(
	context.Context, *standpipev1.HydrateContextRequest,
) (*standpipev1.HydrateContextResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hydrated != nil {
		return s.hydrated, nil
	}
	return &standpipev1.HydrateContextResponse{
		Bundle: &standpipev1.Bundle{SessionVersion: s.version}, Receipt: []byte("receipt"), ConsistencyToken: "token",
	}, nil
}

func (s *server) CommitTurn(
	context.Context, *standpipev1.CommitTurnRequest,
) (*standpipev1.CommitTurnResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	return &standpipev1.CommitTurnResponse{Result: &standpipev1.CommitResult{
		Version: s.version, EventHash: []byte{1, 254}, ConsistencyToken: "committed",
	}}, nil
}

func (s *server) GetServerInfo(
	context.Context, *standpipev1.GetServerInfoRequest,
) (*standpipev1.GetServerInfoResponse, error) {
	return &standpipev1.GetServerInfoResponse{Version: "1"}, nil
}

func (s *server) ListEvents(
	_ context.Context, request *standpipev1.ListEventsRequest,
) (*standpipev1.ListEventsResponse, error) {
	answer := &standpipev1.ListEventsResponse{HeadVersion: s.events}
	for version := request.AfterVersion + 1; version <= s.events && len(answer.Events) < 2; version++ {
		answer.Events = append(answer.Events, &standpipev1.Event{Version: version})
	}
	return answer, nil
}

func (s *server) ListSessions(
	_ context.Context, request *standpipev1.ListSessionsRequest,
) (*standpipev1.ListSessionsResponse, error) {
	if request.PageToken == "" {
		return &standpipev1.ListSessionsResponse{
			Sessions: []*standpipev1.Session{{SessionId: "a"}, {SessionId: "b"}}, NextPageToken: "more",
		}, nil
	}
	return &standpipev1.ListSessionsResponse{Sessions: []*standpipev1.Session{{SessionId: "c"}}}, nil
}

func (s *server) EndSession(
	context.Context, *standpipev1.EndSessionRequest,
) (*standpipev1.EndSessionResponse, error) {
	return &standpipev1.EndSessionResponse{}, nil
}

func (s *server) GetState(context.Context, *standpipev1.GetStateRequest) (*standpipev1.GetStateResponse, error) {
	return &standpipev1.GetStateResponse{}, nil
}

// serve starts a scripted server on a listener; the test's end stops it.
func serve(t *testing.T, listener net.Listener, options ...grpc.ServerOption) *server {
	t.Helper()
	s := &server{script: map[string][]func(context.Context) error{}}
	options = append(options, grpc.UnaryInterceptor(s.intercept), grpc.MaxRecvMsgSize(WireBytes))
	grpcServer := grpc.NewServer(options...)
	standpipev1.RegisterContextServiceServer(grpcServer, s)
	standpipev1.RegisterSessionServiceServer(grpcServer, s)
	standpipev1.RegisterMemoryServiceServer(grpcServer, s)
	standpipev1.RegisterStateServiceServer(grpcServer, s)
	ended := make(chan error, 1)
	go func() { ended <- grpcServer.Serve(listener) }()
	t.Cleanup(func() {
		grpcServer.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

// onSocket returns a listener on a Unix socket, and its target.
func onSocket(t *testing.T) (net.Listener, string) {
	t.Helper()
	directory, err := os.MkdirTemp("", "sp-") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(directory) })
	place := filepath.Join(directory, "s.sock")
	listener, err := net.Listen("unix", place)
	if err != nil {
		t.Fatal(err)
	}
	return listener, "unix:" + place
}

// scripted returns a scripted server on a Unix socket, and a client of it.
func scripted(t *testing.T, options ...ConnectOption) (*server, *Client) {
	t.Helper()
	listener, target := onSocket(t)
	s := serve(t, listener)
	return s, connected(t, target, options...)
}

func connected(t *testing.T, target string, options ...ConnectOption) *Client {
	t.Helper()
	client, err := Connect(target, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}
