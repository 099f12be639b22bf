package dev.standpipe.client;

import dev.standpipe.v1.Bundle;
import dev.standpipe.v1.CommitResult;
import dev.standpipe.v1.CommitTurnRequest;
import dev.standpipe.v1.CommitTurnResponse;
import dev.standpipe.v1.ContextServiceGrpc;
import dev.standpipe.v1.GetServerInfoRequest;
import dev.standpipe.v1.GetServerInfoResponse;
import dev.standpipe.v1.HydrateContextRequest;
import dev.standpipe.v1.HydrateContextResponse;
import dev.standpipe.v1.ListSessionsRequest;
import dev.standpipe.v1.ListSessionsResponse;
import dev.standpipe.v1.SessionServiceGrpc;
import io.grpc.Context;
import io.grpc.Contexts;
import io.grpc.Deadline;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerCredentials;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.util.List;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/** A gRPC server on a port of its own that answers as it is told, and keeps what it was asked. */
final class ScriptedServer implements AutoCloseable {
  private static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

  final List<Object> requests = new CopyOnWriteArrayList<>();
  final List<String> authorizations = new CopyOnWriteArrayList<>();
  final List<Long> deadlinesMs = new CopyOnWriteArrayList<>();
  final Queue<Runnable> before = new ConcurrentLinkedQueue<>();
  final Queue<Status> faults = new ConcurrentLinkedQueue<>();
  final CountDownLatch arrived = new CountDownLatch(1);
  final CountDownLatch cancelled = new CountDownLatch(1);
  volatile boolean hang;
  private final Server server;

  ScriptedServer() throws IOException {
    this(InsecureServerCredentials.create());
  }

  ScriptedServer(ServerCredentials credentials) throws IOException {
    server =
        Grpc.newServerBuilderForPort(0, credentials)
            .addService(new Answers())
            .addService(new Sessions())
            .intercept(new Watch())
            .build()
            .start();
  }

  String target() {
    return "127.0.0.1:" + server.getPort();
  }

  @Override
  public void close() {
    server.shutdownNow();
    try {
      server.awaitTermination(10, TimeUnit.SECONDS);
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  private final class Watch implements ServerInterceptor {
    @Override
    public <Q, A> ServerCall.Listener<Q> interceptCall(
        ServerCall<Q, A> call, Metadata headers, ServerCallHandler<Q, A> next) {
      authorizations.add(String.valueOf(headers.get(AUTHORIZATION)));
      Deadline deadline = Context.current().getDeadline();
      deadlinesMs.add(deadline == null ? -1 : deadline.timeRemaining(TimeUnit.MILLISECONDS));
      return Contexts.interceptCall(Context.current(), call, headers, next);
    }
  }

  private <A> void answer(Object request, A answer, StreamObserver<A> out) {
    requests.add(request);
    Runnable first = before.poll();
    if (first != null) {
      first.run();
    }
    Status fault = faults.poll();
    if (fault != null) {
      out.onError(fault.asRuntimeException());
      return;
    }
    if (hang) {
      ((ServerCallStreamObserver<A>) out).setOnCancelHandler(cancelled::countDown);
      arrived.countDown();
      return;
    }
    out.onNext(answer);
    out.onCompleted();
  }

  private final class Answers extends ContextServiceGrpc.ContextServiceImplBase {
    @Override
    public void hydrateContext(HydrateContextRequest request, StreamObserver<HydrateContextResponse> out) {
      HydrateContextResponse.Builder answer = HydrateContextResponse.newBuilder().setConsistencyToken("h");
      answer.setBundle(Bundle.newBuilder().setSessionVersion(requests.size()));
      answer(request, answer.build(), out);
    }

    @Override
    public void commitTurn(CommitTurnRequest request, StreamObserver<CommitTurnResponse> out) {
      CommitResult.Builder result =
          CommitResult.newBuilder().setVersion(request.getExpectedVersion() + 1).setConsistencyToken("c");
      answer(request, CommitTurnResponse.newBuilder().setResult(result).build(), out);
    }

    @Override
    public void getServerInfo(GetServerInfoRequest request, StreamObserver<GetServerInfoResponse> out) {
      answer(request, GetServerInfoResponse.newBuilder().setVersion("double").build(), out);
    }
  }

  private final class Sessions extends SessionServiceGrpc.SessionServiceImplBase {
    @Override
    public void listSessions(ListSessionsRequest request, StreamObserver<ListSessionsResponse> out) {
      int at = request.getPageToken().isEmpty() ? 0 : Integer.parseInt(request.getPageToken());
      ListSessionsResponse.Builder page = ListSessionsResponse.newBuilder();
      if (at != 1) { // a page without rows is not the end
        page.addSessions(dev.standpipe.v1.Session.newBuilder().setSessionId("s" + at));
      }
      answer(request, page.setNextPageToken(at < 3 ? String.valueOf(at + 1) : "").build(), out);
    }
  }
}
