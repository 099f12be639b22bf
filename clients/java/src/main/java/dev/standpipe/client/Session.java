package dev.standpipe.client;

import dev.standpipe.v1.CommitResult;
import dev.standpipe.v1.CommitTurnRequest;
import dev.standpipe.v1.CommitTurnResponse;
import dev.standpipe.v1.Consistency;
import dev.standpipe.v1.ContextServiceGrpc;
import dev.standpipe.v1.EndSessionRequest;
import dev.standpipe.v1.EndSessionResponse;
import dev.standpipe.v1.Event;
import dev.standpipe.v1.GetSessionRequest;
import dev.standpipe.v1.GetSessionResponse;
import dev.standpipe.v1.HydrateContextRequest;
import dev.standpipe.v1.HydrateContextResponse;
import dev.standpipe.v1.ListEventsRequest;
import dev.standpipe.v1.ListEventsResponse;
import dev.standpipe.v1.SessionServiceGrpc;
import dev.standpipe.v1.TurnEntry;
import io.grpc.Status;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.Function;

/**
 * One conversation, which threads may share.
 *
 * <p>It remembers the newest consistency token that it has seen, so that it reads its own writes through any pod, also
 * while the hot store is stale (P4).
 */
public final class Session {
  /** The longest pause after the first conflict; it doubles with each further one. */
  private static final double PAUSE_S = 0.05;

  /** The longest pause after any conflict. */
  private static final double PAUSE_S_MAX = 2.0;

  private final StandpipeClient client;
  private final String id;
  private final String subject;
  private final AtomicReference<Seen> seen;

  private record Seen(long version, String token) {}

  Session(StandpipeClient client, String id, String subject, String token) {
    this(client, id, subject, new AtomicReference<>(new Seen(-1, token)));
  }

  private Session(StandpipeClient client, String id, String subject, AtomicReference<Seen> seen) {
    this.client = client;
    this.id = id;
    this.subject = subject;
    this.seen = seen;
  }

  /**
   * Returns its id.
   *
   * @return the id
   */
  public String id() {
    return id;
  }

  /**
   * Returns whose memory it feeds.
   *
   * @return the subject; may be empty for a session that exists
   */
  public String subject() {
    return subject;
  }

  /**
   * Returns the newest consistency token that it has seen.
   *
   * @return the token; empty before the first answer
   */
  public String token() {
    return seen.get().token;
  }

  /**
   * Returns this session with another deadline; both remember one token.
   *
   * @param limit for every call, retries included; of listings, for each page
   * @return the session
   */
  public Session withDeadline(Duration limit) {
    return new Session(client.withDeadline(limit), id, subject, seen);
  }

  /**
   * Returns what the model should see, without recall.
   *
   * @return the bundle
   */
  public Bundle hydrate() {
    return hydrate("");
  }

  /**
   * Returns what the model should see for this turn.
   *
   * @param query what recall looks for, usually the user's new message, at most 32 KiB; empty recalls nothing
   * @return the bundle
   */
  public Bundle hydrate(String query) {
    return hydrate(query, HydrateOptions.create());
  }

  /**
   * Returns what the model should see for this turn.
   *
   * @param query what recall looks for, usually the user's new message, at most 32 KiB; empty recalls nothing
   * @param options what else it asks for
   * @return the bundle
   * @throws StandpipeException.InvalidArgument BUDGET_TOO_SMALL, TOKENIZER_UNKNOWN
   * @throws StandpipeException.NotFound ROUTE_NOT_FOUND
   * @throws StandpipeException.Overloaded a queue is full
   */
  public Bundle hydrate(String query, HydrateOptions options) {
    return client.run(hydrating(query, options));
  }

  /**
   * Does as {@link #hydrate(String, HydrateOptions)}, without waiting.
   *
   * @param query what recall looks for
   * @param options what else it asks for
   * @return the bundle; cancelling it cancels the call
   */
  public CompletableFuture<Bundle> hydrateAsync(String query, HydrateOptions options) {
    return client.runAsync(hydrating(query, options));
  }

  Wire.Plan<HydrateContextRequest, HydrateContextResponse, Bundle> hydrating(
      String query, HydrateOptions options) {
    HydrateContextRequest.Builder request =
        options
            .request()
            .setTenantId(client.tenant())
            .setSessionId(id)
            .setSubjectId(subject)
            .setQuery(Entries.unicode("query", query));
    String token = token();
    if (!request.hasConsistency() && !token.isEmpty()) {
      request.setConsistency(Consistency.newBuilder().setAtLeastAsFresh(token));
    }
    return new Wire.Plan<>(
        ContextServiceGrpc.getHydrateContextMethod(),
        request.build(),
        null,
        got -> {
          saw(got.getBundle().getSessionVersion(), got.getConsistencyToken());
          return new Bundle(
              got.getBundle(),
              query,
              got.getReceipt(),
              got.getConsistencyToken(),
              got.getDegradedList(),
              got.getTimings(),
              got.getTokenTax(),
              got.hasRecall() ? got.getRecall() : null);
        });
  }

  /**
   * Appends one turn that answers a bundle, see {@link #commit(List, CommitOptions)}.
   *
   * @param entries the steps, in order
   * @param bundle what they answer
   * @return the turn
   */
  public Commit commit(List<TurnEntry> entries, Bundle bundle) {
    return commit(entries, CommitOptions.create().bundle(bundle));
  }

  /**
   * Appends one turn, exactly once (P3); it is durable when this returns (P1).
   *
   * <p>Cancelling does not undo it. After Unavailable, DeadlineExceeded or a cancel it may have happened: commit the
   * same entries again under the same id ({@link StandpipeException#requestId}).
   *
   * @param entries the steps, in order
   * @param options what it answers, or the version that it follows
   * @return the turn
   * @throws StandpipeException.Conflict another commit came first
   * @throws StandpipeException.SessionEnded it takes no more turns
   * @throws StandpipeException.AlreadyExists the request id was used with other entries
   */
  public Commit commit(List<TurnEntry> entries, CommitOptions options) {
    return client.run(committing(entries, options));
  }

  /**
   * Does as {@link #commit(List, CommitOptions)}, without waiting.
   *
   * @param entries the steps, in order
   * @param options what it answers, or the version that it follows
   * @return the turn
   */
  public CompletableFuture<Commit> commitAsync(List<TurnEntry> entries, CommitOptions options) {
    return client.runAsync(committing(entries, options));
  }

  private Wire.Plan<CommitTurnRequest, CommitTurnResponse, Commit> committing(
      List<TurnEntry> entries, CommitOptions options) {
    CommitTurnRequest.Builder request =
        options.request().setTenantId(client.tenant()).setSessionId(id).setSubjectId(subject);
    request.getTurnBuilder().addAllEntries(entries);
    String requestId = request.getRequestId();
    return new Wire.Plan<>(
        ContextServiceGrpc.getCommitTurnMethod(),
        request.build(),
        requestId,
        got -> {
          CommitResult result = got.getResult();
          saw(result.getVersion(), result.getConsistencyToken());
          return new Commit(
              result.getVersion(),
              HexFormat.of().formatHex(result.getEventHash().toByteArray()),
              result.getConsistencyToken(),
              Instant.ofEpochSecond(result.getCommittedAt().getSeconds(), result.getCommittedAt().getNanos()),
              got.getReplayed(),
              requestId,
              got.getFactsList());
        });
  }

  /**
   * Does a turn whose answer is the assistant's text, see {@link #turnWithEntries}.
   *
   * @param <E> what the answer may throw
   * @param query the user's message
   * @param answer asks the model
   * @return what it did
   * @throws E as the answer did
   */
  public <E extends Exception> TurnResult turn(String query, Answer<String, E> answer) throws E {
    return turn(query, answer, TurnOptions.create());
  }

  /**
   * Does a turn whose answer is the assistant's text, see {@link #turnWithEntries}.
   *
   * @param <E> what the answer may throw
   * @param query the user's message
   * @param answer asks the model
   * @param options how
   * @return what it did
   * @throws E as the answer did
   */
  public <E extends Exception> TurnResult turn(String query, Answer<String, E> answer, TurnOptions options) throws E {
    return turnWithEntries(query, bundle -> List.of(Entries.assistant(answer.to(bundle))), options);
  }

  /**
   * Hydrates for {@code query}, asks {@code answer}, and commits the user's {@code query} and the answer as one turn.
   *
   * <p>The answer is the entries that follow the user's message, such as tool calls, their results and the assistant's
   * words. If another commit came first, it hydrates again and asks for a new answer, with growing random pauses of at
   * most 2 s, until its attempts are used up; then it throws Conflict. So {@code answer} must do nothing that may not
   * be done twice. What it throws comes out as it is, and nothing is committed.
   *
   * <p>If the commit itself ends in Unavailable or DeadlineExceeded, it may have happened: commit {@code [user(query),
   * ...]} again with the same bundle under {@link StandpipeException#requestId}.
   *
   * @param <E> what the answer may throw
   * @param query the user's message
   * @param answer asks the model
   * @param options how
   * @return what it did
   * @throws E as the answer did
   */
  public <E extends Exception> TurnResult turnWithEntries(
      String query, Answer<List<TurnEntry>, E> answer, TurnOptions options) throws E {
    for (int attempt = 0; ; attempt++) {
      Bundle bundle = hydrate(query, options.hydrate());
      List<TurnEntry> entries = entries(query, options, answer.to(bundle));
      try {
        return new TurnResult(commit(entries, bundle), bundle);
      } catch (StandpipeException.Conflict conflict) {
        if (attempt + 1 == options.attempts()) {
          throw conflict;
        }
      }
      try {
        TimeUnit.NANOSECONDS.sleep(pauseNs(attempt));
      } catch (InterruptedException interrupted) {
        Thread.currentThread().interrupt();
        throw new StandpipeException.Cancelled(Status.Code.CANCELLED, "the thread was interrupted", interrupted);
      }
    }
  }

  /**
   * Does a turn without waiting, see {@link #turnWithEntries}.
   *
   * @param query the user's message
   * @param answer asks the model for the entries that follow it; cancelling the turn does not cancel it
   * @param options how
   * @return what it did
   */
  public CompletableFuture<TurnResult> turnAsync(
      String query, Function<Bundle, ? extends CompletionStage<List<TurnEntry>>> answer, TurnOptions options) {
    return attempt(query, answer, options, 0);
  }

  private CompletableFuture<TurnResult> attempt(
      String query,
      Function<Bundle, ? extends CompletionStage<List<TurnEntry>>> answer,
      TurnOptions options,
      int attempt) {
    return hydrateAsync(query, options.hydrate())
        .thenCompose(
            bundle ->
                answer
                    .apply(bundle)
                    .thenCompose(
                        said ->
                            commitAsync(entries(query, options, said), CommitOptions.create().bundle(bundle))
                                .thenApply(commit -> new TurnResult(commit, bundle))
                                .exceptionallyCompose(
                                    error -> {
                                      boolean lost = plain(error) instanceof StandpipeException.Conflict;
                                      if (!lost || attempt + 1 == options.attempts()) {
                                        return CompletableFuture.failedFuture(plain(error));
                                      }
                                      return CompletableFuture.supplyAsync(
                                              () -> attempt(query, answer, options, attempt + 1),
                                              CompletableFuture.delayedExecutor(pauseNs(attempt), TimeUnit.NANOSECONDS))
                                          .thenCompose(Function.identity());
                                    })));
  }

  private static List<TurnEntry> entries(String query, TurnOptions options, List<TurnEntry> said) {
    List<TurnEntry> all = new ArrayList<>(said.size() + 1);
    all.add(Entries.user(query, options.speaker()));
    all.addAll(said);
    return all;
  }

  private static long pauseNs(int attempt) {
    double longest = Math.min(PAUSE_S_MAX, PAUSE_S * Math.pow(2, attempt));
    return (long) (ThreadLocalRandom.current().nextDouble() * longest * 1e9);
  }

  /**
   * Returns its version, subject and times.
   *
   * @return the session as the server knows it
   * @throws StandpipeException.NotFound before the first commit
   */
  public dev.standpipe.v1.Session get() {
    return client.run(getting());
  }

  /**
   * Does as {@link #get}, without waiting.
   *
   * @return the session as the server knows it
   */
  public CompletableFuture<dev.standpipe.v1.Session> getAsync() {
    return client.runAsync(getting());
  }

  private Wire.Plan<GetSessionRequest, GetSessionResponse, dev.standpipe.v1.Session> getting() {
    return new Wire.Plan<>(
        SessionServiceGrpc.getGetSessionMethod(),
        GetSessionRequest.newBuilder().setTenantId(client.tenant()).setSessionId(id).build(),
        null,
        got -> {
          saw(got.getSession().getVersion(), got.getConsistencyToken());
          return got.getSession();
        });
  }

  /**
   * Lists its log by version, see {@link #events(long, int)}.
   *
   * @return the events
   */
  public Listing<Event> events() {
    return events(0, 0);
  }

  /**
   * Lists its log by version, up to the version that it has when the last page is read.
   *
   * @param afterVersion 0 for all
   * @param pageSize rows of a page, 0 (the server's 100) to 1000
   * @return the events; reading them may throw NotFound and DataLoss
   */
  public Listing<Event> events(long afterVersion, int pageSize) {
    ListEventsRequest.Builder request =
        ListEventsRequest.newBuilder()
            .setTenantId(client.tenant())
            .setSessionId(id)
            .setAfterVersion(afterVersion)
            .setPageSize(pageSize);
    return new Listing<>(() -> page(request.build()));
  }

  private Listing.Page<Event> page(ListEventsRequest request) {
    ListEventsResponse got =
        client.call(SessionServiceGrpc.getListEventsMethod(), request);
    List<Event> events = got.getEventsList();
    if (events.isEmpty() || events.get(events.size() - 1).getVersion() >= got.getHeadVersion()) {
      return new Listing.Page<>(events, null);
    }
    long last = events.get(events.size() - 1).getVersion();
    return new Listing.Page<>(events, () -> page(request.toBuilder().setAfterVersion(last).build()));
  }

  /**
   * Ends it: it takes no more turns and stays readable and recallable.
   *
   * @return the end
   */
  public EndSessionResponse end() {
    return end(EndOptions.create());
  }

  /**
   * Ends it: it takes no more turns and stays readable and recallable.
   *
   * @param options why, and at which version
   * @return the end
   * @throws StandpipeException.Conflict it has another version
   * @throws StandpipeException.NotFound before the first commit
   * @throws StandpipeException.SessionEnded by another request id
   */
  public EndSessionResponse end(EndOptions options) {
    return client.run(ending(options));
  }

  /**
   * Does as {@link #end(EndOptions)}, without waiting.
   *
   * @param options why, and at which version
   * @return the end
   */
  public CompletableFuture<EndSessionResponse> endAsync(EndOptions options) {
    return client.runAsync(ending(options));
  }

  private Wire.Plan<EndSessionRequest, EndSessionResponse, EndSessionResponse> ending(EndOptions options) {
    EndSessionRequest request = options.request().setTenantId(client.tenant()).setSessionId(id).build();
    return new Wire.Plan<>(
        SessionServiceGrpc.getEndSessionMethod(), request, request.getRequestId(), Function.identity());
  }

  private static Throwable plain(Throwable error) {
    return error instanceof CompletionException && error.getCause() != null ? plain(error.getCause()) : error;
  }

  /** Keeps a token unless a later version was seen: answers may overtake each other. */
  void saw(long version, String token) {
    if (!token.isEmpty()) {
      seen.accumulateAndGet(new Seen(version, token), (before, now) -> now.version >= before.version ? now : before);
    }
  }
}
