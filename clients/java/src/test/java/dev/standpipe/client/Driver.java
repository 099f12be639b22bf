package dev.standpipe.client;

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.util.JsonFormat;
import dev.standpipe.v1.Consistency;
import dev.standpipe.v1.ContextServiceGrpc;
import dev.standpipe.v1.Event;
import dev.standpipe.v1.GetServerInfoResponse;
import dev.standpipe.v1.HydrateContextRequest;
import dev.standpipe.v1.Source;
import dev.standpipe.v1.TurnEntry;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import java.io.BufferedReader;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * The Java client as the tests of all languages drive it: a command as one JSON object a line in, its answer as one a
 * line out.
 */
public final class Driver {
  private static final Gson GSON = new GsonBuilder().serializeNulls().disableHtmlEscaping().create();

  private final Map<String, Session> sessions = new HashMap<>();
  private final Map<String, Bundle> bundles = new HashMap<>();
  private StandpipeClient client;
  private String target = "";

  private Driver() {}

  /**
   * Answers until the input ends.
   *
   * @param arguments none
   * @throws Exception when its streams break
   */
  public static void main(String[] arguments) throws Exception {
    Driver driver = new Driver();
    PrintStream out = new PrintStream(new FileOutputStream(FileDescriptor.out), true, StandardCharsets.UTF_8);
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      JsonObject answer = new JsonObject();
      try {
        answer.add("ok", driver.answer(JsonParser.parseString(line).getAsJsonObject()));
      } catch (StandpipeException error) {
        answer.add("error", told(error));
      } catch (RuntimeException | IOException | ExecutionException error) {
        JsonObject other = new JsonObject();
        other.addProperty("kind", error.getClass().getSimpleName());
        other.addProperty("message", String.valueOf(error.getMessage()));
        answer.add("error", other);
      }
      out.println(GSON.toJson(answer));
    }
    driver.close();
  }

  private JsonObject answer(JsonObject command) throws Exception {
    return switch (text(command, "do")) {
      case "connect" -> connect(command);
      case "info" -> info();
      case "close" -> close();
      case "hydrate" -> hydrate(command);
      case "commit" -> commit(command);
      case "turn" -> turn(command);
      case "replay" -> replay(command);
      case "events" -> events(command);
      case "get" -> get(command);
      case "end" -> end(command);
      case "token" -> token(command);
      case "race" -> race(command);
      case "bench" -> bench(command);
      default -> throw new IllegalArgumentException("no such command");
    };
  }

  private JsonObject connect(JsonObject command) {
    close();
    target = text(command, "target");
    StandpipeClient.Builder builder =
        StandpipeClient.builder()
            .target(target)
            .tenant(text(command, "tenant"))
            .tokenFile(text(command, "token_file"))
            .caFile(text(command, "ca_file"))
            .certFile(text(command, "cert_file"))
            .keyFile(text(command, "key_file"));
    if (given(command, "deadline_ms")) {
      builder.deadline(deadline(command));
    }
    client = builder.connect();
    return new JsonObject();
  }

  private JsonObject close() {
    if (client != null) {
      client.close();
    }
    client = null;
    sessions.clear();
    bundles.clear();
    return new JsonObject();
  }

  private JsonObject info() {
    GetServerInfoResponse found = client.serverInfo();
    JsonObject out = new JsonObject();
    out.addProperty("version", found.getVersion());
    out.addProperty("record_engine", found.getRecordEngine());
    return out;
  }

  private Session session(JsonObject command) {
    String id = text(command, "session");
    Session session = sessions.computeIfAbsent(id, name -> client.session(name, text(command, "subject")));
    return given(command, "deadline_ms") ? session.withDeadline(deadline(command)) : session;
  }

  private JsonObject hydrate(JsonObject command) {
    HydrateOptions options = HydrateOptions.create();
    if (given(command, "route")) {
      options = options.route(text(command, "route"));
    }
    if (given(command, "budget_tokens")) {
      options = options.budgetTokens(command.get("budget_tokens").getAsInt());
    }
    if (given(command, "include")) {
      List<Source> sources = new ArrayList<>();
      for (JsonElement name : command.getAsJsonArray("include")) {
        sources.add(Source.valueOf("SOURCE_" + name.getAsString().toUpperCase(Locale.ROOT)));
      }
      options = options.include(sources.toArray(new Source[0]));
    }
    if (given(command, "fully") && command.get("fully").getAsBoolean()) {
      options = options.consistency(Consistency.newBuilder().setFullyConsistent(true).build());
    }
    Bundle bundle = session(command).hydrate(text(command, "query"), options);
    bundles.put(text(command, "session"), bundle);
    JsonObject out = new JsonObject();
    out.addProperty("version", bundle.version());
    out.addProperty("tokens", bundle.tokens());
    out.addProperty("fingerprint", bundle.fingerprint());
    out.addProperty("receipt", Base64.getEncoder().encodeToString(bundle.receipt().toByteArray()));
    out.addProperty("token", bundle.token());
    out.add("openai", JsonParser.parseString(bundle.toOpenAIJson()));
    out.add("anthropic", JsonParser.parseString(bundle.toAnthropicJson()));
    JsonArray degraded = new JsonArray();
    bundle.degraded().forEach(one -> degraded.add(one.getCause()));
    out.add("degraded", degraded);
    return out;
  }

  private JsonObject commit(JsonObject command) throws InvalidProtocolBufferException {
    List<TurnEntry> entries = new ArrayList<>();
    for (JsonElement entry : command.getAsJsonArray("entries")) {
      TurnEntry.Builder made = TurnEntry.newBuilder();
      JsonFormat.parser().merge(entry.toString(), made);
      entries.add(made.build());
    }
    CommitOptions options = CommitOptions.create();
    if (given(command, "from_bundle") && command.get("from_bundle").getAsBoolean()) {
      options = options.bundle(bundles.get(text(command, "session")));
    }
    if (given(command, "expected_version")) {
      options = options.expectedVersion(command.get("expected_version").getAsLong());
    }
    if (given(command, "request_id")) {
      options = options.requestId(text(command, "request_id"));
    }
    if (text(command, "mode").equals("append")) {
      options = options.append();
    }
    Commit done = session(command).commit(entries, options);
    JsonObject out = new JsonObject();
    out.addProperty("version", done.version());
    out.addProperty("event_hash", done.eventHash());
    out.addProperty("token", done.token());
    out.addProperty("replayed", done.replayed());
    out.addProperty("request_id", done.requestId());
    return out;
  }

  private JsonObject turn(JsonObject command) {
    AtomicInteger asked = new AtomicInteger();
    TurnOptions options = TurnOptions.create();
    if (given(command, "attempts")) {
      options = options.attempts(command.get("attempts").getAsInt());
    }
    TurnResult done =
        session(command)
            .turn(
                text(command, "query"), bundle -> text(command, "answer") + " " + asked.incrementAndGet(), options);
    JsonObject out = new JsonObject();
    out.addProperty("version", done.commit().version());
    out.addProperty("asked", asked.get());
    return out;
  }

  private JsonObject replay(JsonObject command) {
    byte[] receipt = Base64.getDecoder().decode(text(command, "receipt"));
    JsonObject out = new JsonObject();
    out.addProperty("fingerprint", client.replay(ByteString.copyFrom(receipt)).bundle().fingerprint());
    return out;
  }

  private JsonObject events(JsonObject command) throws InvalidProtocolBufferException {
    JsonArray events = new JsonArray();
    long after = given(command, "after") ? command.get("after").getAsLong() : 0;
    for (Event event : session(command).events(after, 0)) {
      events.add(JsonParser.parseString(JsonFormat.printer().print(event)));
    }
    JsonObject out = new JsonObject();
    out.add("events", events);
    return out;
  }

  private JsonObject get(JsonObject command) {
    JsonObject out = new JsonObject();
    out.addProperty("version", session(command).get().getVersion());
    out.addProperty("token", session(command).token());
    return out;
  }

  private JsonObject end(JsonObject command) {
    session(command).end();
    return new JsonObject();
  }

  private JsonObject token(JsonObject command) {
    JsonObject out = new JsonObject();
    out.addProperty("token", session(command).token());
    return out;
  }

  private JsonObject race(JsonObject command) throws InterruptedException, ExecutionException {
    int committers = command.get("committers").getAsInt();
    ExecutorService threads = Executors.newFixedThreadPool(committers);
    List<Future<JsonObject>> running = new ArrayList<>();
    for (int number = 0; number < committers; number++) {
      int mine = number;
      running.add(threads.submit(() -> racer(command, mine)));
    }
    JsonArray outcomes = new JsonArray();
    for (Future<JsonObject> one : running) {
      outcomes.add(one.get());
    }
    threads.shutdown();
    JsonObject out = new JsonObject();
    out.add("outcomes", outcomes);
    return out;
  }

  private JsonObject racer(JsonObject command, int number) throws InterruptedException {
    String tag = text(command, "tag");
    Session racer = client.session(text(command, "session"), text(command, "subject"));
    CommitOptions options =
        CommitOptions.create()
            .expectedVersion(command.get("expected_version").getAsLong())
            .requestId(tag + "-" + number);
    TimeUnit.MILLISECONDS.sleep((long) (command.get("start_unix_ms").getAsDouble() - System.currentTimeMillis()));
    JsonObject outcome = new JsonObject();
    try {
      outcome.addProperty("version", racer.commit(List.of(Entries.user(tag + " " + number)), options).version());
    } catch (StandpipeException error) {
      outcome.add("error", told(error));
    }
    return outcome;
  }

  private JsonObject bench(JsonObject command) throws InterruptedException {
    Session mine = client.session(text(command, "session"), text(command, "subject"));
    // The client asks for what its session has seen; the stub must not be asked for less.
    HydrateContextRequest request =
        HydrateContextRequest.newBuilder()
            .setSessionId(mine.id())
            .setSubjectId(mine.subject())
            .setConsistency(Consistency.newBuilder().setAtLeastAsFresh(mine.hydrate().token()))
            .build();
    int warmup = command.get("warmup").getAsInt();
    int calls = command.get("calls").getAsInt();
    JsonArray clientUs = new JsonArray();
    JsonArray stubUs = new JsonArray();
    ManagedChannel channel = Wire.plain(target, InsecureChannelCredentials.create()).build();
    try {
      ContextServiceGrpc.ContextServiceBlockingStub stub = ContextServiceGrpc.newBlockingStub(channel);
      for (int number = 0; number < warmup + calls; number++) {
        long began = System.nanoTime();
        mine.hydrate();
        long between = System.nanoTime();
        stub.withDeadlineAfter(10, TimeUnit.SECONDS).hydrateContext(request);
        long ended = System.nanoTime();
        if (number >= warmup) {
          clientUs.add((between - began) / 1000.0);
          stubUs.add((ended - between) / 1000.0);
        }
      }
    } finally {
      channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
    }
    JsonObject out = new JsonObject();
    out.add("client_us", clientUs);
    out.add("stub_us", stubUs);
    return out;
  }

  /** Returns an error as all drivers tell it. */
  static JsonObject told(StandpipeException error) {
    JsonObject out = new JsonObject();
    out.addProperty("kind", kind(error));
    out.addProperty("code", error.code().name());
    out.addProperty("reason", error.reason());
    out.add("metadata", GSON.toJsonTree(error.metadata()));
    out.addProperty("field", error.field().orElse(null));
    out.addProperty("field_message", error.fieldMessage().orElse(null));
    out.add(
        "retry_after_ms",
        error.retryAfter().map(Duration::toMillis).map(GSON::toJsonTree).orElse(JsonNull.INSTANCE));
    out.addProperty("request_id", error.requestId().orElse(null));
    out.addProperty("message", error.detail());
    return out;
  }

  /** Returns the name that an error's class has in Python. */
  static String kind(StandpipeException error) {
    return error.getClass() == StandpipeException.class ? "StandpipeError" : error.getClass().getSimpleName();
  }

  private static boolean given(JsonObject command, String name) {
    return command.has(name) && !command.get(name).isJsonNull();
  }

  private static String text(JsonObject command, String name) {
    return given(command, name) ? command.get(name).getAsString() : "";
  }

  private static Duration deadline(JsonObject command) {
    return Duration.ofMillis(command.get("deadline_ms").getAsLong());
  }
}
