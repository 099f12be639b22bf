package dev.standpipe.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.ByteString;
import dev.standpipe.v1.CommitTurnRequest;
import dev.standpipe.v1.ContextServiceGrpc;
import dev.standpipe.v1.HydrateContextRequest;
import dev.standpipe.v1.Turn;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** What is Java's own about this client, against a server of this process. */
@Timeout(60)
final class ClientTest {
  private static StandpipeClient.Builder builder() {
    return StandpipeClient.builder().environment(name -> null);
  }

  /**
   * Stubs of any service get the client's deadline and tenant, keep their own, and throw errors whose cause is typed.
   */
  @Test
  void stubsGoOverTheSameWire() throws Exception {
    try (ScriptedServer server = new ScriptedServer();
        StandpipeClient client = builder().target(server.target()).tenant("acme").connect()) {
      var stub = client.stub(ContextServiceGrpc::newBlockingStub);
      stub.hydrateContext(HydrateContextRequest.getDefaultInstance());
      stub.withDeadlineAfter(3, TimeUnit.SECONDS)
          .hydrateContext(HydrateContextRequest.newBuilder().setTenantId("other").build());
      client.withDeadline(Duration.ofSeconds(60)).call(
          ContextServiceGrpc.getHydrateContextMethod(), HydrateContextRequest.getDefaultInstance());
      List<String> tenants = new ArrayList<>();
      server.requests.forEach(request -> tenants.add(((HydrateContextRequest) request).getTenantId()));
      assertEquals(List.of("acme", "other", "acme"), tenants);
      assertTrue(server.deadlinesMs.get(0) > 3_000 && server.deadlinesMs.get(0) <= 10_000);
      assertTrue(server.deadlinesMs.get(1) <= 3_000);
      assertTrue(server.deadlinesMs.get(2) > 10_000);
      server.faults.add(Status.ABORTED.withDescription("lost"));
      var thrown =
          assertThrows(
              StatusRuntimeException.class, () -> stub.commitTurn(CommitTurnRequest.getDefaultInstance()));
      assertInstanceOf(StandpipeException.Conflict.class, thrown.getCause());
      assertSame(thrown.getCause(), StandpipeException.of(thrown));
      assertEquals("ABORTED: lost", thrown.getCause().getMessage());
    }
  }

  /** An asynchronous stub's observer hears a typed cause, too. */
  @Test
  void asynchronousStubsTellTypedErrors() throws Exception {
    try (ScriptedServer server = new ScriptedServer();
        StandpipeClient client = builder().target(server.target()).connect()) {
      server.faults.add(Status.NOT_FOUND);
      CompletableFuture<Throwable> heard = new CompletableFuture<>();
      client
          .stub(ContextServiceGrpc::newStub)
          .hydrateContext(
              HydrateContextRequest.getDefaultInstance(),
              new StreamObserver<>() {
                @Override
                public void onNext(dev.standpipe.v1.HydrateContextResponse answer) {}

                @Override
                public void onError(Throwable error) {
                  heard.complete(error);
                }

                @Override
                public void onCompleted() {
                  heard.complete(null);
                }
              });
      assertInstanceOf(StandpipeException.NotFound.class, StandpipeException.of(heard.get()));
    }
  }

  /** A message larger than the wire takes fails before it is sent, in every way of calling. */
  @Test
  void tooLargeMessagesAreNotSent() throws Exception {
    CommitTurnRequest large =
        CommitTurnRequest.newBuilder()
            .setTurn(Turn.newBuilder().setBundleReceipt(ByteString.copyFrom(new byte[Wire.WIRE_BYTES])))
            .build();
    try (ScriptedServer server = new ScriptedServer();
        StandpipeClient client = builder().target(server.target()).connect()) {
      var method = ContextServiceGrpc.getCommitTurnMethod();
      assertThrows(StandpipeException.ResourceExhausted.class, () -> client.call(method, large));
      var failed = assertThrows(ExecutionException.class, () -> client.callAsync(method, large).get());
      assertInstanceOf(StandpipeException.ResourceExhausted.class, failed.getCause());
      var stub = client.stub(ContextServiceGrpc::newBlockingStub);
      var thrown = assertThrows(StatusRuntimeException.class, () -> stub.commitTurn(large));
      assertInstanceOf(StandpipeException.ResourceExhausted.class, StandpipeException.of(thrown));
      assertEquals(List.of(), server.requests);
    }
  }

  /**
   * A token goes with every call, is read again when its file changes, and is tried once more if it is another by then.
   */
  @Test
  void tokensAreReadAgain(@TempDir Path directory) throws Exception {
    Path file = directory.resolve("token");
    Files.writeString(file, "first\nsecond line\n");
    try (ScriptedServer server = new ScriptedServer();
        StandpipeClient client = builder().target(server.target()).tokenFile(file.toString()).connect()) {
      client.serverInfo();
      replace(file, "renewed");
      client.stub(ContextServiceGrpc::newBlockingStub).hydrateContext(HydrateContextRequest.getDefaultInstance());
      server.before.add(() -> replace(file, "newest"));
      server.faults.add(Status.UNAUTHENTICATED);
      client.session("s").hydrateAsync("", HydrateOptions.create()).get();
      assertEquals(
          List.of("Bearer first", "Bearer renewed", "Bearer renewed", "Bearer newest"), server.authorizations);
      server.faults.add(Status.UNAUTHENTICATED.withDescription("no"));
      var refused = assertThrows(StandpipeException.Unauthenticated.class, client::serverInfo);
      assertFalse(refused.toString().contains("newest"));
      assertEquals(5, server.authorizations.size());
      Files.delete(file);
      client.serverInfo();
      assertEquals("Bearer newest", server.authorizations.get(5));
    }
  }

  private static void replace(Path file, String text) {
    try {
      Path next = file.resolveSibling("next");
      Files.writeString(next, text);
      Files.move(next, file, java.nio.file.StandardCopyOption.REPLACE_EXISTING);
    } catch (IOException error) {
      throw new java.io.UncheckedIOException(error);
    }
  }

  /**
   * Settings that exclude each other, and files that are not what they must be, are refused by name and without their
   * content.
   */
  @Test
  void wrongSettingsAreRefused(@TempDir Path directory) throws Exception {
    Path file = directory.resolve("token");
    Files.writeString(file, "a secret with blanks");
    Metadata metadata = new Metadata();
    metadata.put(Wire.AUTHORIZATION, "Bearer x");
    List<StandpipeClient.Builder> wrong =
        List.of(
            builder().tokenFile(file.toString()),
            builder().tokenFile(directory.resolve("none").toString()),
            builder().tokenFile(file.toString()).metadata(metadata),
            builder().caFile(file.toString()),
            builder().certFile(file.toString()),
            builder().certFile(file.toString()).keyFile(file.toString()),
            builder().caFile(file.toString()).credentials(io.grpc.InsecureChannelCredentials.create()));
    List<String> fields = List.of("tokenFile", "tokenFile", "tokenFile", "caFile", "keyFile", "caFile", "credentials");
    for (int at = 0; at < wrong.size(); at++) {
      var refused = assertThrows(IllegalArgumentException.class, wrong.get(at)::connect);
      assertTrue(refused.getMessage().contains(fields.get(at)), refused.getMessage());
      assertFalse(refused.getMessage().contains("secret"));
    }
  }

  /** The environment tells what no setting says. */
  @Test
  void theEnvironmentNamesTheServer(@TempDir Path directory) throws Exception {
    Path file = directory.resolve("token");
    Files.writeString(file, "mine");
    try (ScriptedServer server = new ScriptedServer()) {
      Map<String, String> environment =
          Map.of("STANDPIPE_TARGET", server.target(), "STANDPIPE_TOKEN_FILE", file.toString());
      try (StandpipeClient client = StandpipeClient.builder().environment(environment::get).connect()) {
        assertEquals("double", client.serverInfo().getVersion());
      }
      Metadata metadata = new Metadata();
      metadata.put(Wire.AUTHORIZATION, "Bearer own");
      try (StandpipeClient client =
          StandpipeClient.builder().environment(environment::get).metadata(metadata).connect()) {
        client.serverInfo();
      }
      assertEquals(List.of("Bearer mine", "Bearer own"), server.authorizations);
      assertEquals("127.0.0.1:7460", builder().target());
    }
  }

  /** Closing ends calls in flight as cancelled, not as something to retry; later calls are the caller's mistake. */
  @Test
  void closingCancelsCallsInFlight() throws Exception {
    try (ScriptedServer server = new ScriptedServer()) {
      server.hang = true;
      StandpipeClient client = builder().target(server.target()).connect();
      CompletableFuture<Bundle> call = client.session("s").hydrateAsync("", HydrateOptions.create());
      server.arrived.await();
      client.close();
      client.close();
      var failed = assertThrows(ExecutionException.class, call::get);
      assertInstanceOf(StandpipeException.Cancelled.class, failed.getCause());
      assertThrows(IllegalStateException.class, client::serverInfo);
      assertThrows(
          IllegalStateException.class, () -> client.session("s").hydrateAsync("", HydrateOptions.create()));
    }
  }

  /** An interrupt ends a waiting call as cancelled, stays set, and reaches the server; so does cancelling a future. */
  @Test
  void interruptsAndCancelsReachTheServer() throws Exception {
    try (ScriptedServer server = new ScriptedServer();
        StandpipeClient client = builder().target(server.target()).connect()) {
      server.hang = true;
      AtomicReference<Throwable> thrown = new AtomicReference<>();
      AtomicReference<Boolean> interrupted = new AtomicReference<>();
      Thread waiting =
          new Thread(
              () -> {
                thrown.set(assertThrows(StandpipeException.class, client::serverInfo));
                interrupted.set(Thread.currentThread().isInterrupted());
              });
      waiting.start();
      server.arrived.await();
      waiting.interrupt();
      waiting.join();
      assertInstanceOf(StandpipeException.Cancelled.class, thrown.get());
      assertTrue(interrupted.get());
      server.cancelled.await();
      assertEquals(1, server.requests.size());
    }
    try (ScriptedServer server = new ScriptedServer();
        StandpipeClient client = builder().target(server.target()).connect()) {
      server.hang = true;
      CompletableFuture<Commit> call =
          client.session("s").commitAsync(List.of(Entries.user("Hi")), CommitOptions.create().append());
      server.arrived.await();
      assertTrue(call.cancel(true));
      server.cancelled.await();
      assertEquals(1, server.requests.size());
    }
  }

  /** A turn that lost is answered again, blocking or not; what an answer throws comes out as it is. */
  @Test
  void turnsAreAnsweredAgain() throws Exception {
    try (ScriptedServer server = new ScriptedServer();
        StandpipeClient client = builder().target(server.target()).connect()) {
      Session session = client.session("s", "anna");
      AtomicInteger asked = new AtomicInteger();
      server.before.addAll(List.of(() -> {}, () -> server.faults.add(Status.ABORTED)));
      TurnResult done = session.turn("Hi?", bundle -> "Ho " + asked.incrementAndGet());
      assertEquals(2, asked.get());
      assertEquals(done.bundle().version() + 1, done.commit().version());
      server.before.addAll(List.of(() -> {}, () -> server.faults.add(Status.ABORTED)));
      session
          .turnAsync(
              "Hi?",
              bundle -> CompletableFuture.completedFuture(List.of(Entries.assistant("Ho " + asked.incrementAndGet()))),
              TurnOptions.create())
          .get();
      assertEquals(4, asked.get());
      server.before.addAll(List.of(() -> {}, () -> server.faults.add(Status.ABORTED)));
      var lost =
          assertThrows(
              ExecutionException.class,
              () ->
                  session
                      .turnAsync(
                          "Hi?",
                          bundle -> CompletableFuture.completedFuture(List.of()),
                          TurnOptions.create().attempts(1))
                      .get());
      assertInstanceOf(StandpipeException.Conflict.class, lost.getCause());
      assertTrue(((StandpipeException) lost.getCause()).requestId().isPresent());
      assertThrows(
          IOException.class,
          () ->
              session.turn(
                  "Hi?",
                  bundle -> {
                    throw new IOException("the model is away");
                  }));
      assertInstanceOf(HydrateContextRequest.class, server.requests.get(server.requests.size() - 1));
      assertThrows(IllegalArgumentException.class, () -> TurnOptions.create().attempts(0));
    }
  }

  /** Listings read every page, as late as they can, and each iteration anew. */
  @Test
  void listingsReadEveryPage() throws Exception {
    try (ScriptedServer server = new ScriptedServer();
        StandpipeClient client = builder().target(server.target()).connect()) {
      Listing<dev.standpipe.v1.Session> sessions = client.sessions("anna", 1);
      assertEquals(0, server.requests.size());
      assertEquals("s0", sessions.iterator().next().getSessionId());
      assertEquals(1, server.requests.size());
      for (int again = 0; again < 2; again++) {
        List<String> found = sessions.stream().map(dev.standpipe.v1.Session::getSessionId).toList();
        assertEquals(List.of("s0", "s2", "s3"), found);
      }
      assertEquals(1 + 2 * 4, server.requests.size());
    }
  }

  /** Another deadline is of the same session: what one saw, the other sends. */
  @Test
  void aSessionWithAnotherDeadlineSeesTheSame() throws Exception {
    try (ScriptedServer server = new ScriptedServer();
        StandpipeClient client = builder().target(server.target()).deadline(Duration.ofMinutes(2)).connect()) {
      Session session = client.session("s", "anna");
      session.withDeadline(Duration.ofSeconds(5)).hydrate();
      assertEquals("h", session.token());
      session.hydrate();
      assertTrue(server.deadlinesMs.get(0) <= 5_000);
      assertTrue(server.deadlinesMs.get(1) > 10_000);
      assertEquals(
          "h", ((HydrateContextRequest) server.requests.get(1)).getConsistency().getAtLeastAsFresh());
      server.hang = true;
      assertThrows(
          StandpipeException.DeadlineExceeded.class, () -> session.withDeadline(Duration.ofMillis(100)).hydrate());
    }
  }

  /** What UTF-8 cannot carry is refused: protobuf would write question marks in its place. */
  @Test
  void halfASurrogatePairIsRefused() {
    for (String text : List.of("\ud83d", "a\ude00", "\ud83d\ud83d\ude00", "\ude00\ud83d")) {
      assertThrows(IllegalArgumentException.class, () -> Entries.user(text));
      assertThrows(IllegalArgumentException.class, () -> Entries.toolResult("c", text));
      assertThrows(IllegalArgumentException.class, () -> Entries.toolCall("c", "go", Map.of("a", text)));
    }
    assertEquals("\ud83d\ude00", Entries.user("\ud83d\ude00").getMessage().getText());
    assertThrows(
        IllegalArgumentException.class, () -> Entries.toolCall("c", "go", Map.of("a", Double.NaN)));
    assertThrows(IllegalArgumentException.class, () -> Entries.toolCall("c", "go", Map.of("a", new Object())));
  }

  /** What a debugger or a log prints of a bundle is not what was said. */
  @Test
  void aBundlePrintsNoContent() {
    dev.standpipe.v1.Section section =
        dev.standpipe.v1.Section.newBuilder()
            .addSegments(dev.standpipe.v1.Segment.newBuilder().setBody("a secret\n"))
            .build();
    Bundle bundle = new Bundle(dev.standpipe.v1.Bundle.newBuilder().addSections(section).build(), "my secret");
    assertEquals("a secret\n", bundle.text());
    assertFalse(bundle.toString().contains("secret"));
  }

  /** Targets of sockets become what grpc-java's resolver takes, whatever characters a path has. */
  @Test
  void socketsAreNamedAsEverywhere() {
    assertEquals("unix:/run/a%20b/s.sock", Wire.socketUri("unix:/run/a b/s.sock"));
    assertEquals("unix:/run/s.sock", Wire.socketUri("unix:///run/s.sock"));
    assertEquals("unix:s.sock", Wire.socketUri("unix:s.sock"));
    assertEquals("unix:%00name", Wire.socketUri("unix-abstract:name"));
  }
}
