package dev.standpipe.client;

import com.google.gson.Gson;
import com.google.gson.reflect.TypeToken;
import com.google.protobuf.MessageLite;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ChannelCredentials;
import io.grpc.ClientCall;
import io.grpc.ConnectivityState;
import io.grpc.ForwardingClientCall;
import io.grpc.ForwardingClientCallListener.SimpleForwardingClientCallListener;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.StreamObserver;
import java.net.URI;
import java.net.URISyntaxException;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.function.Function;

/**
 * The wire: how a call reaches the server, who calls, and what the channel does on its own.
 *
 * <p>A channel keeps the certificates that it was opened with. When their files change, later calls go through a new
 * channel, and the one before is closed when its last call has ended.
 */
final class Wire extends Channel {
  /** Whom a client calls that neither an argument nor the environment tells: the server's default. */
  static final String TARGET = "127.0.0.1:7460";

  /** One gRPC message in either direction, as the server's wire_bytes; gRPC's own default is 4 MiB to receive. */
  static final int WIRE_BYTES = 8 << 20;

  /** All messages that wait for a retry: what eight calls of the largest size keep; gRPC's own default is 16 MiB. */
  static final long RETRY_BYTES = 8L * WIRE_BYTES;

  /** For calls that bring no deadline, retries included: no call waits for ever. */
  static final Duration DEADLINE = Duration.ofMillis(10_000);

  /**
   * What every channel does with a failed call, in gRPC's own form, the same in every language; channel.py says why.
   */
  static final String SERVICE_CONFIG =
      """
      {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
          {
            "name": [{}],
            "retryPolicy": {
              "maxAttempts": 5,
              "initialBackoff": "0.1s",
              "backoffMultiplier": 3,
              "maxBackoff": "2s",
              "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"]
            }
          }
        ],
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1}
      }
      """;

  /** A restarted sidecar is found again at once; gRPC's own pauses are 1 s, growing to 2 minutes, and cannot be set. */
  private static final long RECONNECT_MS = 100;

  private static final long RECONNECT_MS_MAX = 2_000;

  static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

  private final String target;
  private final TokenFile token;
  private final TlsFiles tls;
  private final ChannelCredentials credentials;
  private final Metadata metadata;
  private final Consumer<ManagedChannelBuilder<?>> configure;
  private final Duration deadline;
  private final Object lock = new Object();
  private Line line;
  private volatile boolean closed;

  /** One channel, and how many calls are about to start on it: a channel that is shut down starts none. */
  private static final class Line {
    final ManagedChannel channel;
    int starting;

    Line(ManagedChannel channel) {
      this.channel = channel;
    }
  }

  Wire(StandpipeClient.Builder builder) {
    target = builder.target();
    token = builder.token();
    tls = builder.tls();
    credentials = builder.credentials() == null ? InsecureChannelCredentials.create() : builder.credentials();
    metadata = builder.metadata();
    configure = builder.configure();
    deadline = builder.deadline();
  }

  /**
   * A call as its parts, so that blocking and asynchronous methods say it once; {@code requestId} is null where there
   * is none.
   */
  record Plan<Q, A, R>(MethodDescriptor<Q, A> method, Q request, String requestId, Function<A, R> result) {}

  /** Calls and waits; every failure is typed. */
  <Q, A, R> R run(Plan<Q, A, R> plan, Duration limit) {
    A answer;
    try {
      checkSize(plan.request);
      answer = ClientCalls.blockingUnaryCall(this, plan.method, options(limit), plan.request);
    } catch (StatusRuntimeException failed) {
      throw typed(failed.getStatus(), failed.getTrailers(), failed).withRequestId(plan.requestId);
    }
    return plan.result.apply(answer);
  }

  /** Calls and returns at once; cancelling the future cancels the call. */
  <Q, A, R> CompletableFuture<R> runAsync(Plan<Q, A, R> plan, Duration limit) {
    CompletableFuture<R> result = new CompletableFuture<>();
    try {
      checkSize(plan.request);
    } catch (StatusRuntimeException tooLarge) {
      result.completeExceptionally(typed(tooLarge.getStatus(), null, tooLarge).withRequestId(plan.requestId));
      return result;
    }
    ClientCall<Q, A> call = newCall(plan.method, options(limit));
    ClientCalls.asyncUnaryCall(
        call,
        plan.request,
        new StreamObserver<A>() {
          private R value;

          @Override
          public void onNext(A answer) {
            value = plan.result.apply(answer);
          }

          @Override
          public void onError(Throwable error) {
            StatusRuntimeException failed = (StatusRuntimeException) error;
            result.completeExceptionally(
                typed(failed.getStatus(), failed.getTrailers(), failed).withRequestId(plan.requestId));
          }

          @Override
          public void onCompleted() {
            result.complete(value);
          }
        });
    result.whenComplete(
        (value, error) -> {
          if (result.isCancelled()) {
            call.cancel("the future was cancelled", null);
          }
        });
    return result;
  }

  /** Reads a failed call; what closing the client ended was cancelled. */
  StandpipeException typed(Status status, Metadata trailers, Throwable cause) {
    if (closed && status.getCode() == Status.Code.UNAVAILABLE && (trailers == null || trailers.keys().isEmpty())) {
      return new StandpipeException.Cancelled(Status.Code.CANCELLED, "the client was closed", cause);
    }
    return StandpipeException.parse(status, trailers, cause);
  }

  /** Refuses what is too large before it is sent; gRPC's own check ends a call that may be retried as cancelled. */
  static void checkSize(Object request) {
    if (request instanceof MessageLite message && message.getSerializedSize() > WIRE_BYTES) {
      throw Status.RESOURCE_EXHAUSTED
          .withDescription("the message has " + message.getSerializedSize() + " bytes of at most " + WIRE_BYTES)
          .asRuntimeException();
    }
  }

  private static CallOptions options(Duration limit) {
    return CallOptions.DEFAULT.withDeadlineAfter(limit.toNanos(), TimeUnit.NANOSECONDS);
  }

  /** Starts a call; also those of stubs, which may bring no deadline. */
  @Override
  public <Q, A> ClientCall<Q, A> newCall(MethodDescriptor<Q, A> method, CallOptions given) {
    CallOptions options = given;
    if (options.getDeadline() == null) {
      options = options.withDeadlineAfter(deadline.toNanos(), TimeUnit.NANOSECONDS);
    }
    if (token == null && tls == null && metadata.keys().isEmpty()) {
      return current().channel.newCall(method, options);
    }
    if (closed) {
      throw closedAlready();
    }
    return new Call<>(method, options);
  }

  @Override
  public String authority() {
    return current().channel.authority();
  }

  /** Closes the channel: calls in flight are cancelled. May be called again. */
  void close() {
    synchronized (lock) {
      closed = true;
      if (line != null) {
        line.channel.shutdownNow();
      }
    }
  }

  private Line current() {
    synchronized (lock) {
      if (closed) {
        throw closedAlready();
      }
      if (line == null || (tls != null && tls.renewed())) {
        Line before = line;
        line = new Line(open());
        if (before != null && before.starting == 0) {
          before.channel.shutdown();
        }
      }
      return line;
    }
  }

  private static IllegalStateException closedAlready() {
    return new IllegalStateException("the client is closed");
  }

  private ManagedChannel open() {
    ManagedChannelBuilder<?> builder = shipped(target, tls == null ? credentials : tls.credentials());
    configure.accept(builder);
    ManagedChannel channel = builder.build();
    watch(channel, RECONNECT_MS);
    return channel;
  }

  /** Returns a channel of gRPC's own settings: to any target that this client takes. */
  static ManagedChannelBuilder<?> plain(String target, ChannelCredentials credentials) {
    boolean socket = isSocket(target);
    ManagedChannelBuilder<?> builder = Grpc.newChannelBuilder(socket ? socketUri(target) : target, credentials);
    // What gRPC says for sockets in other languages: a path is no host.
    return socket ? builder.overrideAuthority("localhost") : builder;
  }

  private static ManagedChannelBuilder<?> shipped(String target, ChannelCredentials credentials) {
    Map<String, ?> config = new Gson().fromJson(SERVICE_CONFIG, new TypeToken<Map<String, Object>>() {}.getType());
    return plain(target, credentials)
        .defaultServiceConfig(config)
        .disableServiceConfigLookUp()
        .enableRetry()
        // A message that is too large to be kept would be sent only once; gRPC's own default is 1 MiB.
        .perRpcBufferLimit(WIRE_BYTES)
        .retryBufferSize(RETRY_BYTES)
        .maxInboundMessageSize(WIRE_BYTES)
        // A peer that is gone without a word is noticed within 70 s of a call. Pings only run during calls, and no
        // server takes one a minute for too many as long as calls end.
        .keepAliveTime(60, TimeUnit.SECONDS)
        .keepAliveTimeout(10, TimeUnit.SECONDS)
        // The pod's proxy is for the world outside.
        .proxyDetector(address -> null)
        .userAgent("standpipe-java");
  }

  static boolean isSocket(String target) {
    return target.startsWith("unix:") || target.startsWith("unix-abstract:");
  }

  /**
   * Returns the form of a socket's name that grpc-java's resolver takes: a URI, and for an abstract name one with a
   * zero.
   */
  static String socketUri(String target) {
    try {
      if (target.startsWith("unix-abstract:")) {
        return new URI("unix", "\0" + target.substring("unix-abstract:".length()), null).toASCIIString();
      }
      String path = target.substring("unix:".length());
      if (path.startsWith("//")) {
        path = path.substring(2);
      }
      return path.startsWith("/")
          ? new URI("unix", null, path, null).toASCIIString()
          : new URI("unix", path, null).toASCIIString();
    } catch (URISyntaxException error) {
      throw new IllegalArgumentException("target: " + target + " names no socket", error);
    }
  }

  /** Connects again soon as long as the server cannot be reached, and no sooner: pauses grow, and are random. */
  private void watch(ManagedChannel channel, long pauseMs) {
    ConnectivityState state = channel.getState(false);
    switch (state) {
      case SHUTDOWN -> {
        return;
      }
      case TRANSIENT_FAILURE -> {
        long randomMs = ThreadLocalRandom.current().nextLong(pauseMs * 4 / 5, pauseMs * 6 / 5);
        CompletableFuture.delayedExecutor(randomMs, TimeUnit.MILLISECONDS)
            .execute(
                () -> {
                  if (channel.getState(false) == ConnectivityState.TRANSIENT_FAILURE) {
                    channel.resetConnectBackoff();
                  }
                  watch(channel, Math.min(RECONNECT_MS_MAX, pauseMs * 8 / 5));
                });
      }
      case READY -> channel.notifyWhenStateChanged(state, () -> watch(channel, RECONNECT_MS));
      default -> channel.notifyWhenStateChanged(state, () -> watch(channel, pauseMs));
    }
  }

  /**
   * A call that shows a token, and is repeated once if the token is refused and its file has another one by now. All of
   * Standpipe's calls are unary, so what was sent is one message.
   */
  private final class Call<Q, A> extends ForwardingClientCall<Q, A> {
    private final MethodDescriptor<Q, A> method;
    private final CallOptions options;
    private volatile ClientCall<Q, A> attempt;
    private Q sent;
    private int wanted;
    private String cancelled;

    Call(MethodDescriptor<Q, A> method, CallOptions options) {
      this.method = method;
      this.options = options;
    }

    @Override
    protected ClientCall<Q, A> delegate() {
      return attempt;
    }

    @Override
    public void start(Listener<A> listener, Metadata headers) {
      String shown = token == null ? null : token.authorization(false);
      Metadata first = headers(headers, shown);
      begin(token == null ? listener : new Again(listener, headers, shown), first);
    }

    private Metadata headers(Metadata given, String authorization) {
      Metadata all = new Metadata();
      all.merge(given);
      all.merge(metadata);
      if (authorization != null) {
        all.discardAll(AUTHORIZATION);
        all.put(AUTHORIZATION, authorization);
      }
      return all;
    }

    private void begin(Listener<A> listener, Metadata headers) {
      Line taken;
      synchronized (lock) {
        taken = current();
        taken.starting++;
      }
      try {
        attempt = taken.channel.newCall(method, options);
        attempt.start(listener, headers);
      } finally {
        synchronized (lock) {
          if (--taken.starting == 0 && taken != line) {
            taken.channel.shutdown();
          }
        }
      }
    }

    @Override
    public void request(int messages) {
      wanted += messages;
      attempt.request(messages);
    }

    @Override
    public void sendMessage(Q message) {
      sent = message;
      attempt.sendMessage(message);
    }

    @Override
    public synchronized void cancel(String message, Throwable cause) {
      cancelled = String.valueOf(message);
      if (attempt != null) {
        attempt.cancel(message, cause);
      }
    }

    private synchronized void repeat(Listener<A> listener, Metadata headers) {
      begin(listener, headers);
      attempt.request(wanted);
      attempt.sendMessage(sent);
      attempt.halfClose();
      if (cancelled != null) {
        attempt.cancel(cancelled, null);
      }
    }

    /** Hears how the first attempt ends. */
    private final class Again extends SimpleForwardingClientCallListener<A> {
      private final Metadata given;
      private final String shown;

      Again(Listener<A> listener, Metadata given, String shown) {
        super(listener);
        this.given = given;
        this.shown = shown;
      }

      @Override
      public void onClose(Status status, Metadata trailers) {
        if (status.getCode() == Status.Code.UNAUTHENTICATED && !closed && !options.getDeadline().isExpired()) {
          String newer = token.authorization(true);
          if (!newer.equals(shown)) {
            repeat(delegate(), headers(given, newer));
            return;
          }
        }
        super.onClose(status, trailers);
      }
    }
  }
}
