package dev.standpipe.client;

import com.google.protobuf.ByteString;
import com.google.protobuf.Descriptors.FieldDescriptor;
import com.google.protobuf.Message;
import dev.standpipe.v1.ContextServiceGrpc;
import dev.standpipe.v1.GetServerInfoRequest;
import dev.standpipe.v1.GetServerInfoResponse;
import dev.standpipe.v1.ListSessionsRequest;
import dev.standpipe.v1.ListSessionsResponse;
import dev.standpipe.v1.ReplayContextRequest;
import dev.standpipe.v1.ReplayContextResponse;
import dev.standpipe.v1.SessionServiceGrpc;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ChannelCredentials;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ClientInterceptors;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.ForwardingClientCallListener.SimpleForwardingClientCallListener;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.stub.AbstractStub;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.function.Function;
import java.util.function.UnaryOperator;

/**
 * A connection to Standpipe, to be shared by all sessions and threads of a process. It opens at the first call; close
 * it when no more are to come.
 */
public final class StandpipeClient implements AutoCloseable {
  private final Wire wire;
  private final String tenant;
  private final Duration deadline;

  private StandpipeClient(Wire wire, String tenant, Duration deadline) {
    this.wire = wire;
    this.tenant = tenant;
    this.deadline = deadline;
  }

  /**
   * Returns a client of the server that the environment names, see {@link Builder}: an application that a platform put
   * a sidecar beside needs no more.
   *
   * @return the client
   * @throws IllegalArgumentException for files that are missing or not what they must be
   */
  public static StandpipeClient connect() {
    return builder().connect();
  }

  /**
   * Returns a client of one server; the environment may name a token and certificates.
   *
   * @param target such as "unix:/run/standpipe/standpipe.sock" or "127.0.0.1:7460"
   * @return the client
   * @throws IllegalArgumentException for files that are missing or not what they must be
   */
  public static StandpipeClient connect(String target) {
    return builder().target(target).connect();
  }

  /**
   * Returns what makes a client of other settings.
   *
   * @return a builder
   */
  public static Builder builder() {
    return new Builder();
  }

  /**
   * Returns this client with another deadline; both share one connection.
   *
   * @param limit for every call, retries included; of listings, for each page
   * @return the client
   */
  public StandpipeClient withDeadline(Duration limit) {
    return new StandpipeClient(wire, tenant, limit);
  }

  /**
   * Closes the connection, of all its clients: calls in flight are cancelled, later ones throw IllegalStateException.
   */
  @Override
  public void close() {
    wire.close();
  }

  /**
   * Returns a session that exists, by its id; calls nothing yet.
   *
   * @param id the session's
   * @return the session
   */
  public Session session(String id) {
    return session(id, "");
  }

  /**
   * Returns a session by its id; calls nothing yet.
   *
   * @param id the session's
   * @param subject whose memory it feeds, needed for its first commit
   * @return the session
   */
  public Session session(String id, String subject) {
    return session(id, subject, "");
  }

  /**
   * Returns a session by its id; calls nothing yet.
   *
   * @param id the session's
   * @param subject whose memory it feeds, needed for its first commit
   * @param token a consistency token from elsewhere, such as another process's {@link Session#token}, which this one
   *     must not see less than
   * @return the session
   */
  public Session session(String id, String subject, String token) {
    return new Session(this, id, subject, token);
  }

  /**
   * Renders a bundle that was served before again, from {@link Bundle#receipt} or a turn of the log (P7).
   *
   * @param receipt the receipt
   * @return the bundle as it was served
   * @throws StandpipeException.InvalidArgument RECEIPT_INVALID
   * @throws StandpipeException.FailedPrecondition REPLAY_UNAVAILABLE: its subject was erased, or its model is gone
   */
  public Replay replay(ByteString receipt) {
    return replay(receipt, false);
  }

  /**
   * Renders a bundle that was served before again.
   *
   * @param receipt the receipt
   * @param allOmissions lists everything that was left out
   * @return the bundle as it was served
   */
  public Replay replay(ByteString receipt, boolean allOmissions) {
    return run(replaying(receipt, allOmissions));
  }

  /**
   * Does as {@link #replay(ByteString, boolean)}, without waiting.
   *
   * @param receipt the receipt
   * @param allOmissions lists everything that was left out
   * @return the bundle as it was served
   */
  public CompletableFuture<Replay> replayAsync(ByteString receipt, boolean allOmissions) {
    return runAsync(replaying(receipt, allOmissions));
  }

  /**
   * Returns what the server is and can: versions, limits, engines, tokenizers, embedding model.
   *
   * @return the description
   */
  public GetServerInfoResponse serverInfo() {
    return call(ContextServiceGrpc.getGetServerInfoMethod(), GetServerInfoRequest.getDefaultInstance());
  }

  /**
   * Lists the tenant's sessions by id.
   *
   * @return the sessions
   */
  public Listing<dev.standpipe.v1.Session> sessions() {
    return sessions("", 0);
  }

  /**
   * Lists the sessions of one subject by id.
   *
   * @param subject the subject; empty means all
   * @return the sessions
   */
  public Listing<dev.standpipe.v1.Session> sessions(String subject) {
    return sessions(subject, 0);
  }

  /**
   * Lists sessions by id.
   *
   * @param subject the subject; empty means all
   * @param pageSize rows of a page, 0 (the server's 100) to 1000
   * @return the sessions
   */
  public Listing<dev.standpipe.v1.Session> sessions(String subject, int pageSize) {
    ListSessionsRequest.Builder request =
        ListSessionsRequest.newBuilder().setTenantId(tenant).setSubjectId(subject).setPageSize(pageSize);
    return new Listing<>(() -> page(request.build()));
  }

  private Listing.Page<dev.standpipe.v1.Session> page(ListSessionsRequest request) {
    ListSessionsResponse got = call(SessionServiceGrpc.getListSessionsMethod(), request);
    String next = got.getNextPageToken();
    return new Listing.Page<>(
        got.getSessionsList(), next.isEmpty() ? null : () -> page(request.toBuilder().setPageToken(next).build()));
  }

  /**
   * Calls any method of any service and waits, such as {@code call(StateServiceGrpc.getPutStateMethod(), request)}:
   * with this client's deadline, credentials and retries, and with its tenant where the request has none.
   *
   * @param <Q> the request
   * @param <A> the answer
   * @param method of a generated service
   * @param request its request
   * @return its answer
   */
  public <Q extends Message, A> A call(MethodDescriptor<Q, A> method, Q request) {
    return run(new Wire.Plan<>(method, withTenant(request), null, Function.identity()));
  }

  /**
   * Calls any method of any service, without waiting, see {@link #call}.
   *
   * @param <Q> the request
   * @param <A> the answer
   * @param method of a generated service
   * @param request its request
   * @return its answer; cancelling it cancels the call
   */
  public <Q extends Message, A> CompletableFuture<A> callAsync(MethodDescriptor<Q, A> method, Q request) {
    return runAsync(new Wire.Plan<>(method, withTenant(request), null, Function.identity()));
  }

  /**
   * Returns a generated stub of any service over the same connection: with this client's deadline where the stub has
   * none, its credentials and retries, and its tenant where the request has none. A stub throws gRPC's
   * StatusRuntimeException, whose cause is the typed error, see {@link StandpipeException#of}.
   *
   * @param <S> the stub
   * @param factory such as {@code MemoryServiceGrpc::newBlockingStub}
   * @return the stub
   */
  public <S extends AbstractStub<S>> S stub(Function<Channel, S> factory) {
    return factory.apply(ClientInterceptors.intercept(wire, new ForStubs()));
  }

  String tenant() {
    return tenant;
  }

  <Q, A, R> R run(Wire.Plan<Q, A, R> plan) {
    return wire.run(plan, deadline);
  }

  <Q, A, R> CompletableFuture<R> runAsync(Wire.Plan<Q, A, R> plan) {
    return wire.runAsync(plan, deadline);
  }

  private Wire.Plan<ReplayContextRequest, ReplayContextResponse, Replay> replaying(
      ByteString receipt, boolean allOmissions) {
    ReplayContextRequest request =
        ReplayContextRequest.newBuilder()
            .setTenantId(tenant)
            .setReceipt(receipt)
            .setAllOmissions(allOmissions)
            .build();
    return new Wire.Plan<>(
        ContextServiceGrpc.getReplayContextMethod(),
        request,
        null,
        got ->
            new Replay(
                new Bundle(got.getBundle(), "", receipt, "", got.getDegradedList(), null, null, null),
                Instant.ofEpochSecond(got.getServedAt().getSeconds(), got.getServedAt().getNanos()),
                got.getSessionId(),
                got.getSubjectId()));
  }

  @SuppressWarnings("unchecked") // a builder of Q builds Q
  private <Q> Q withTenant(Q request) {
    if (tenant.isEmpty() || !(request instanceof Message message)) {
      return request;
    }
    FieldDescriptor field = message.getDescriptorForType().findFieldByName("tenant_id");
    boolean filled = field == null || field.getJavaType() != FieldDescriptor.JavaType.STRING || message.hasField(field);
    return filled ? request : (Q) message.toBuilder().setField(field, tenant).build();
  }

  /** What generated stubs lack. */
  private final class ForStubs implements ClientInterceptor {
    @Override
    public <Q, A> ClientCall<Q, A> interceptCall(MethodDescriptor<Q, A> method, CallOptions given, Channel next) {
      CallOptions options =
          given.getDeadline() != null
              ? given
              : given.withDeadlineAfter(deadline.toNanos(), TimeUnit.NANOSECONDS);
      return new SimpleForwardingClientCall<>(next.newCall(method, options)) {
        @Override
        public void start(Listener<A> listener, Metadata headers) {
          super.start(
              new SimpleForwardingClientCallListener<>(listener) {
                @Override
                public void onClose(Status status, Metadata trailers) {
                  if (status.isOk()) {
                    super.onClose(status, trailers);
                  } else {
                    super.onClose(status.withCause(wire.typed(status, trailers, status.getCause())), trailers);
                  }
                }
              },
              headers);
        }

        @Override
        public void sendMessage(Q message) {
          Q complete = withTenant(message);
          Wire.checkSize(complete);
          super.sendMessage(complete);
        }
      };
    }
  }

  /**
   * Settings of a client. Where target or files are not given, the environment tells them: STANDPIPE_TARGET,
   * STANDPIPE_TOKEN_FILE, STANDPIPE_CA_FILE, STANDPIPE_CERT_FILE, STANDPIPE_KEY_FILE; and else the target is
   * 127.0.0.1:7460.
   */
  public static final class Builder {
    private String target = "";
    private String tenant = "";
    private Duration deadline = Wire.DEADLINE;
    private String tokenFile = "";
    private String caFile = "";
    private String certFile = "";
    private String keyFile = "";
    private ChannelCredentials credentials;
    private Metadata metadata = new Metadata();
    private Consumer<ManagedChannelBuilder<?>> configure = builder -> {};
    private UnaryOperator<String> environment = System::getenv;

    private Builder() {}

    /**
     * Names the server.
     *
     * @param target "unix:/run/standpipe/standpipe.sock", "unix-abstract:name" (both on Linux alone), "127.0.0.1:7460",
     *     "dns:///standpipe.default.svc:7460"; empty leaves it to the environment
     * @return this
     */
    public Builder target(String target) {
      this.target = target;
      return this;
    }

    /**
     * Names the tenant, to be checked by the server against the caller's own.
     *
     * @param tenant its id; empty leaves it to the server
     * @return this
     */
    public Builder tenant(String tenant) {
      this.tenant = tenant;
      return this;
    }

    /**
     * Limits every call, retries included.
     *
     * @param deadline 10 s if not set
     * @return this
     */
    public Builder deadline(Duration deadline) {
      this.deadline = deadline;
      return this;
    }

    /**
     * Names the file of a bearer token, on its first line, such as a projected service-account token. It goes with
     * every call, also over plaintext, and is read again when the file changes, and when the server refuses it.
     *
     * @param path the file
     * @return this
     */
    public Builder tokenFile(String path) {
      this.tokenFile = path;
      return this;
    }

    /**
     * Names the certificates, as PEM, one of which must have signed the server's: then host:port is spoken to in TLS.
     * They are read again when they change. A Unix socket never has TLS.
     *
     * @param path the file
     * @return this
     */
    public Builder caFile(String path) {
      this.caFile = path;
      return this;
    }

    /**
     * Names the own certificate, as PEM, for a server that asks for one; it needs {@link #keyFile} and {@link #caFile}.
     *
     * @param path the file
     * @return this
     */
    public Builder certFile(String path) {
      this.certFile = path;
      return this;
    }

    /**
     * Names the own certificate's key, as PEM without a password, in any of its usual forms (PKCS#8, RSA, EC).
     *
     * @param path the file
     * @return this
     */
    public Builder keyFile(String path) {
      this.keyFile = path;
      return this;
    }

    /**
     * Takes gRPC's own credentials in place of files.
     *
     * @param credentials such as those of {@link io.grpc.TlsChannelCredentials}
     * @return this
     */
    public Builder credentials(ChannelCredentials credentials) {
      this.credentials = credentials;
      return this;
    }

    /**
     * Sends metadata with every call; an "authorization" in it stands in for a token's file.
     *
     * @param metadata copied
     * @return this
     */
    public Builder metadata(Metadata metadata) {
      Metadata copy = new Metadata();
      copy.merge(metadata);
      this.metadata = copy;
      return this;
    }

    /**
     * Changes settings of gRPC's channel after the client has set its own.
     *
     * @param configure called with each channel's builder
     * @return this
     */
    public Builder channel(Consumer<ManagedChannelBuilder<?>> configure) {
      this.configure = configure;
      return this;
    }

    Builder environment(UnaryOperator<String> environment) {
      this.environment = environment;
      return this;
    }

    /**
     * Returns the client; the channel opens at the first call.
     *
     * @return the client
     * @throws IllegalArgumentException for files that are missing or not what they must be, and for settings that
     *     exclude each other
     */
    public StandpipeClient connect() {
      if (credentials != null && !(caFile + certFile + keyFile).isEmpty()) {
        throw new IllegalArgumentException("give either credentials, or caFile with certFile and keyFile");
      }
      if (authorized() && !tokenFile.isEmpty()) {
        throw new IllegalArgumentException("give either tokenFile, or \"authorization\" in metadata");
      }
      return new StandpipeClient(new Wire(this), tenant, deadline);
    }

    String target() {
      String named = or(target, "STANDPIPE_TARGET");
      return named.isEmpty() ? Wire.TARGET : named;
    }

    TokenFile token() {
      String path = authorized() ? "" : or(tokenFile, "STANDPIPE_TOKEN_FILE");
      return path.isEmpty() ? null : new TokenFile(Path.of(path));
    }

    TlsFiles tls() {
      if (credentials != null || Wire.isSocket(target())) {
        return null;
      }
      String ca = or(caFile, "STANDPIPE_CA_FILE");
      String cert = or(certFile, "STANDPIPE_CERT_FILE");
      String key = or(keyFile, "STANDPIPE_KEY_FILE");
      if (cert.isEmpty() != key.isEmpty()) {
        throw new IllegalArgumentException("give both certFile and keyFile, or neither");
      }
      if (ca.isEmpty()) {
        if (!cert.isEmpty()) {
          throw new IllegalArgumentException("certFile needs caFile: whom to trust with it");
        }
        return null;
      }
      return new TlsFiles(Path.of(ca), cert.isEmpty() ? null : Path.of(cert), key.isEmpty() ? null : Path.of(key));
    }

    ChannelCredentials credentials() {
      return credentials;
    }

    Metadata metadata() {
      return metadata;
    }

    Consumer<ManagedChannelBuilder<?>> configure() {
      return configure;
    }

    Duration deadline() {
      return deadline;
    }

    private boolean authorized() {
      return metadata.containsKey(Wire.AUTHORIZATION);
    }

    private String or(String given, String name) {
      if (!given.isEmpty()) {
        return given;
      }
      String told = environment.apply(name);
      return told == null ? "" : told;
    }
  }
}
