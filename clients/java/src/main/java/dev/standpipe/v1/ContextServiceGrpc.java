package dev.standpipe.v1;

import static io.grpc.MethodDescriptor.generateFullMethodName;

/**
 * <pre>
 * The hot path: everything a stateless pod needs around one model call.
 * </pre>
 */
@io.grpc.stub.annotations.GrpcGenerated
public final class ContextServiceGrpc {

  private ContextServiceGrpc() {}

  public static final java.lang.String SERVICE_NAME = "standpipe.v1.ContextService";

  // Static method descriptors that strictly reflect the proto.
  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.HydrateContextRequest,
      dev.standpipe.v1.HydrateContextResponse> getHydrateContextMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "HydrateContext",
      requestType = dev.standpipe.v1.HydrateContextRequest.class,
      responseType = dev.standpipe.v1.HydrateContextResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.HydrateContextRequest,
      dev.standpipe.v1.HydrateContextResponse> getHydrateContextMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.HydrateContextRequest, dev.standpipe.v1.HydrateContextResponse> getHydrateContextMethod;
    if ((getHydrateContextMethod = ContextServiceGrpc.getHydrateContextMethod) == null) {
      synchronized (ContextServiceGrpc.class) {
        if ((getHydrateContextMethod = ContextServiceGrpc.getHydrateContextMethod) == null) {
          ContextServiceGrpc.getHydrateContextMethod = getHydrateContextMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.HydrateContextRequest, dev.standpipe.v1.HydrateContextResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "HydrateContext"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.HydrateContextRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.HydrateContextResponse.getDefaultInstance()))
              .setSchemaDescriptor(new ContextServiceMethodDescriptorSupplier("HydrateContext"))
              .build();
        }
      }
    }
    return getHydrateContextMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.CommitTurnRequest,
      dev.standpipe.v1.CommitTurnResponse> getCommitTurnMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "CommitTurn",
      requestType = dev.standpipe.v1.CommitTurnRequest.class,
      responseType = dev.standpipe.v1.CommitTurnResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.CommitTurnRequest,
      dev.standpipe.v1.CommitTurnResponse> getCommitTurnMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.CommitTurnRequest, dev.standpipe.v1.CommitTurnResponse> getCommitTurnMethod;
    if ((getCommitTurnMethod = ContextServiceGrpc.getCommitTurnMethod) == null) {
      synchronized (ContextServiceGrpc.class) {
        if ((getCommitTurnMethod = ContextServiceGrpc.getCommitTurnMethod) == null) {
          ContextServiceGrpc.getCommitTurnMethod = getCommitTurnMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.CommitTurnRequest, dev.standpipe.v1.CommitTurnResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "CommitTurn"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.CommitTurnRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.CommitTurnResponse.getDefaultInstance()))
              .setSchemaDescriptor(new ContextServiceMethodDescriptorSupplier("CommitTurn"))
              .build();
        }
      }
    }
    return getCommitTurnMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.ReplayContextRequest,
      dev.standpipe.v1.ReplayContextResponse> getReplayContextMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "ReplayContext",
      requestType = dev.standpipe.v1.ReplayContextRequest.class,
      responseType = dev.standpipe.v1.ReplayContextResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.ReplayContextRequest,
      dev.standpipe.v1.ReplayContextResponse> getReplayContextMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.ReplayContextRequest, dev.standpipe.v1.ReplayContextResponse> getReplayContextMethod;
    if ((getReplayContextMethod = ContextServiceGrpc.getReplayContextMethod) == null) {
      synchronized (ContextServiceGrpc.class) {
        if ((getReplayContextMethod = ContextServiceGrpc.getReplayContextMethod) == null) {
          ContextServiceGrpc.getReplayContextMethod = getReplayContextMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.ReplayContextRequest, dev.standpipe.v1.ReplayContextResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "ReplayContext"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.ReplayContextRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.ReplayContextResponse.getDefaultInstance()))
              .setSchemaDescriptor(new ContextServiceMethodDescriptorSupplier("ReplayContext"))
              .build();
        }
      }
    }
    return getReplayContextMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.GetServerInfoRequest,
      dev.standpipe.v1.GetServerInfoResponse> getGetServerInfoMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "GetServerInfo",
      requestType = dev.standpipe.v1.GetServerInfoRequest.class,
      responseType = dev.standpipe.v1.GetServerInfoResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.GetServerInfoRequest,
      dev.standpipe.v1.GetServerInfoResponse> getGetServerInfoMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.GetServerInfoRequest, dev.standpipe.v1.GetServerInfoResponse> getGetServerInfoMethod;
    if ((getGetServerInfoMethod = ContextServiceGrpc.getGetServerInfoMethod) == null) {
      synchronized (ContextServiceGrpc.class) {
        if ((getGetServerInfoMethod = ContextServiceGrpc.getGetServerInfoMethod) == null) {
          ContextServiceGrpc.getGetServerInfoMethod = getGetServerInfoMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.GetServerInfoRequest, dev.standpipe.v1.GetServerInfoResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "GetServerInfo"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.GetServerInfoRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.GetServerInfoResponse.getDefaultInstance()))
              .setSchemaDescriptor(new ContextServiceMethodDescriptorSupplier("GetServerInfo"))
              .build();
        }
      }
    }
    return getGetServerInfoMethod;
  }

  /**
   * Creates a new async stub that supports all call types for the service
   */
  public static ContextServiceStub newStub(io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<ContextServiceStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<ContextServiceStub>() {
        @java.lang.Override
        public ContextServiceStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new ContextServiceStub(channel, callOptions);
        }
      };
    return ContextServiceStub.newStub(factory, channel);
  }

  /**
   * Creates a new blocking-style stub that supports all types of calls on the service
   */
  public static ContextServiceBlockingV2Stub newBlockingV2Stub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<ContextServiceBlockingV2Stub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<ContextServiceBlockingV2Stub>() {
        @java.lang.Override
        public ContextServiceBlockingV2Stub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new ContextServiceBlockingV2Stub(channel, callOptions);
        }
      };
    return ContextServiceBlockingV2Stub.newStub(factory, channel);
  }

  /**
   * Creates a new blocking-style stub that supports unary and streaming output calls on the service
   */
  public static ContextServiceBlockingStub newBlockingStub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<ContextServiceBlockingStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<ContextServiceBlockingStub>() {
        @java.lang.Override
        public ContextServiceBlockingStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new ContextServiceBlockingStub(channel, callOptions);
        }
      };
    return ContextServiceBlockingStub.newStub(factory, channel);
  }

  /**
   * Creates a new ListenableFuture-style stub that supports unary calls on the service
   */
  public static ContextServiceFutureStub newFutureStub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<ContextServiceFutureStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<ContextServiceFutureStub>() {
        @java.lang.Override
        public ContextServiceFutureStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new ContextServiceFutureStub(channel, callOptions);
        }
      };
    return ContextServiceFutureStub.newStub(factory, channel);
  }

  /**
   * <pre>
   * The hot path: everything a stateless pod needs around one model call.
   * </pre>
   */
  public interface AsyncService {

    /**
     * <pre>
     * Returns what the model should see for this turn. A session that does not exist yet gives a bundle at
     * version 0. Reads only. Errors: INVALID_FIELD, LIMIT_EXCEEDED, TENANT_DENIED, SUBJECT_MISMATCH,
     * ROUTE_NOT_FOUND, BUDGET_TOO_SMALL, TOKENIZER_UNKNOWN, TOKEN_INVALID, VERSION_IN_FUTURE,
     * SESSION_EXPIRED, ERASED, DEADLINE_EXCEEDED, STORE_UNAVAILABLE, OVERLOADED.
     * </pre>
     */
    default void hydrateContext(dev.standpipe.v1.HydrateContextRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.HydrateContextResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getHydrateContextMethod(), responseObserver);
    }

    /**
     * <pre>
     * Appends one turn, exactly once per request id, by compare-and-swap on the session's version. It is not
     * undone by the caller's cancellation. Errors: INVALID_FIELD, LIMIT_EXCEEDED, TOOL_RESULT_WITHOUT_CALL,
     * RECEIPT_INVALID, REQUEST_ID_REUSED, VERSION_CONFLICT, VERSION_IN_FUTURE, SESSION_ENDED,
     * SUBJECT_MISMATCH, ERASED, TENANT_DENIED, DEADLINE_EXCEEDED, STORE_UNAVAILABLE, STORE_READ_ONLY, STORE_FULL,
     * OVERLOADED.
     * </pre>
     */
    default void commitTurn(dev.standpipe.v1.CommitTurnRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.CommitTurnResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getCommitTurnMethod(), responseObserver);
    }

    /**
     * <pre>
     * Renders a bundle that was served before again, byte for byte, from its receipt (P7).
     * Errors: RECEIPT_INVALID, TENANT_DENIED, REPLAY_UNAVAILABLE, DEADLINE_EXCEEDED, STORE_UNAVAILABLE.
     * </pre>
     */
    default void replayContext(dev.standpipe.v1.ReplayContextRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.ReplayContextResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getReplayContextMethod(), responseObserver);
    }

    /**
     * <pre>
     * Tells what this server is and can: versions, limits, engines, tokenizers, embedding model and provider.
     * </pre>
     */
    default void getServerInfo(dev.standpipe.v1.GetServerInfoRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.GetServerInfoResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getGetServerInfoMethod(), responseObserver);
    }
  }

  /**
   * Base class for the server implementation of the service ContextService.
   * <pre>
   * The hot path: everything a stateless pod needs around one model call.
   * </pre>
   */
  public static abstract class ContextServiceImplBase
      implements io.grpc.BindableService, AsyncService {

    @java.lang.Override public final io.grpc.ServerServiceDefinition bindService() {
      return ContextServiceGrpc.bindService(this);
    }
  }

  /**
   * A stub to allow clients to do asynchronous rpc calls to service ContextService.
   * <pre>
   * The hot path: everything a stateless pod needs around one model call.
   * </pre>
   */
  public static final class ContextServiceStub
      extends io.grpc.stub.AbstractAsyncStub<ContextServiceStub> {
    private ContextServiceStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected ContextServiceStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new ContextServiceStub(channel, callOptions);
    }

    /**
     * <pre>
     * Returns what the model should see for this turn. A session that does not exist yet gives a bundle at
     * version 0. Reads only. Errors: INVALID_FIELD, LIMIT_EXCEEDED, TENANT_DENIED, SUBJECT_MISMATCH,
     * ROUTE_NOT_FOUND, BUDGET_TOO_SMALL, TOKENIZER_UNKNOWN, TOKEN_INVALID, VERSION_IN_FUTURE,
     * SESSION_EXPIRED, ERASED, DEADLINE_EXCEEDED, STORE_UNAVAILABLE, OVERLOADED.
     * </pre>
     */
    public void hydrateContext(dev.standpipe.v1.HydrateContextRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.HydrateContextResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getHydrateContextMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Appends one turn, exactly once per request id, by compare-and-swap on the session's version. It is not
     * undone by the caller's cancellation. Errors: INVALID_FIELD, LIMIT_EXCEEDED, TOOL_RESULT_WITHOUT_CALL,
     * RECEIPT_INVALID, REQUEST_ID_REUSED, VERSION_CONFLICT, VERSION_IN_FUTURE, SESSION_ENDED,
     * SUBJECT_MISMATCH, ERASED, TENANT_DENIED, DEADLINE_EXCEEDED, STORE_UNAVAILABLE, STORE_READ_ONLY, STORE_FULL,
     * OVERLOADED.
     * </pre>
     */
    public void commitTurn(dev.standpipe.v1.CommitTurnRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.CommitTurnResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getCommitTurnMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Renders a bundle that was served before again, byte for byte, from its receipt (P7).
     * Errors: RECEIPT_INVALID, TENANT_DENIED, REPLAY_UNAVAILABLE, DEADLINE_EXCEEDED, STORE_UNAVAILABLE.
     * </pre>
     */
    public void replayContext(dev.standpipe.v1.ReplayContextRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.ReplayContextResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getReplayContextMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Tells what this server is and can: versions, limits, engines, tokenizers, embedding model and provider.
     * </pre>
     */
    public void getServerInfo(dev.standpipe.v1.GetServerInfoRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.GetServerInfoResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getGetServerInfoMethod(), getCallOptions()), request, responseObserver);
    }
  }

  /**
   * A stub to allow clients to do synchronous rpc calls to service ContextService.
   * <pre>
   * The hot path: everything a stateless pod needs around one model call.
   * </pre>
   */
  public static final class ContextServiceBlockingV2Stub
      extends io.grpc.stub.AbstractBlockingStub<ContextServiceBlockingV2Stub> {
    private ContextServiceBlockingV2Stub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected ContextServiceBlockingV2Stub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new ContextServiceBlockingV2Stub(channel, callOptions);
    }

    /**
     * <pre>
     * Returns what the model should see for this turn. A session that does not exist yet gives a bundle at
     * version 0. Reads only. Errors: INVALID_FIELD, LIMIT_EXCEEDED, TENANT_DENIED, SUBJECT_MISMATCH,
     * ROUTE_NOT_FOUND, BUDGET_TOO_SMALL, TOKENIZER_UNKNOWN, TOKEN_INVALID, VERSION_IN_FUTURE,
     * SESSION_EXPIRED, ERASED, DEADLINE_EXCEEDED, STORE_UNAVAILABLE, OVERLOADED.
     * </pre>
     */
    public dev.standpipe.v1.HydrateContextResponse hydrateContext(dev.standpipe.v1.HydrateContextRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getHydrateContextMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Appends one turn, exactly once per request id, by compare-and-swap on the session's version. It is not
     * undone by the caller's cancellation. Errors: INVALID_FIELD, LIMIT_EXCEEDED, TOOL_RESULT_WITHOUT_CALL,
     * RECEIPT_INVALID, REQUEST_ID_REUSED, VERSION_CONFLICT, VERSION_IN_FUTURE, SESSION_ENDED,
     * SUBJECT_MISMATCH, ERASED, TENANT_DENIED, DEADLINE_EXCEEDED, STORE_UNAVAILABLE, STORE_READ_ONLY, STORE_FULL,
     * OVERLOADED.
     * </pre>
     */
    public dev.standpipe.v1.CommitTurnResponse commitTurn(dev.standpipe.v1.CommitTurnRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getCommitTurnMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Renders a bundle that was served before again, byte for byte, from its receipt (P7).
     * Errors: RECEIPT_INVALID, TENANT_DENIED, REPLAY_UNAVAILABLE, DEADLINE_EXCEEDED, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.ReplayContextResponse replayContext(dev.standpipe.v1.ReplayContextRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getReplayContextMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Tells what this server is and can: versions, limits, engines, tokenizers, embedding model and provider.
     * </pre>
     */
    public dev.standpipe.v1.GetServerInfoResponse getServerInfo(dev.standpipe.v1.GetServerInfoRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getGetServerInfoMethod(), getCallOptions(), request);
    }
  }

  /**
   * A stub to allow clients to do limited synchronous rpc calls to service ContextService.
   * <pre>
   * The hot path: everything a stateless pod needs around one model call.
   * </pre>
   */
  public static final class ContextServiceBlockingStub
      extends io.grpc.stub.AbstractBlockingStub<ContextServiceBlockingStub> {
    private ContextServiceBlockingStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected ContextServiceBlockingStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new ContextServiceBlockingStub(channel, callOptions);
    }

    /**
     * <pre>
     * Returns what the model should see for this turn. A session that does not exist yet gives a bundle at
     * version 0. Reads only. Errors: INVALID_FIELD, LIMIT_EXCEEDED, TENANT_DENIED, SUBJECT_MISMATCH,
     * ROUTE_NOT_FOUND, BUDGET_TOO_SMALL, TOKENIZER_UNKNOWN, TOKEN_INVALID, VERSION_IN_FUTURE,
     * SESSION_EXPIRED, ERASED, DEADLINE_EXCEEDED, STORE_UNAVAILABLE, OVERLOADED.
     * </pre>
     */
    public dev.standpipe.v1.HydrateContextResponse hydrateContext(dev.standpipe.v1.HydrateContextRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getHydrateContextMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Appends one turn, exactly once per request id, by compare-and-swap on the session's version. It is not
     * undone by the caller's cancellation. Errors: INVALID_FIELD, LIMIT_EXCEEDED, TOOL_RESULT_WITHOUT_CALL,
     * RECEIPT_INVALID, REQUEST_ID_REUSED, VERSION_CONFLICT, VERSION_IN_FUTURE, SESSION_ENDED,
     * SUBJECT_MISMATCH, ERASED, TENANT_DENIED, DEADLINE_EXCEEDED, STORE_UNAVAILABLE, STORE_READ_ONLY, STORE_FULL,
     * OVERLOADED.
     * </pre>
     */
    public dev.standpipe.v1.CommitTurnResponse commitTurn(dev.standpipe.v1.CommitTurnRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getCommitTurnMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Renders a bundle that was served before again, byte for byte, from its receipt (P7).
     * Errors: RECEIPT_INVALID, TENANT_DENIED, REPLAY_UNAVAILABLE, DEADLINE_EXCEEDED, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.ReplayContextResponse replayContext(dev.standpipe.v1.ReplayContextRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getReplayContextMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Tells what this server is and can: versions, limits, engines, tokenizers, embedding model and provider.
     * </pre>
     */
    public dev.standpipe.v1.GetServerInfoResponse getServerInfo(dev.standpipe.v1.GetServerInfoRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getGetServerInfoMethod(), getCallOptions(), request);
    }
  }

  /**
   * A stub to allow clients to do ListenableFuture-style rpc calls to service ContextService.
   * <pre>
   * The hot path: everything a stateless pod needs around one model call.
   * </pre>
   */
  public static final class ContextServiceFutureStub
      extends io.grpc.stub.AbstractFutureStub<ContextServiceFutureStub> {
    private ContextServiceFutureStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected ContextServiceFutureStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new ContextServiceFutureStub(channel, callOptions);
    }

    /**
     * <pre>
     * Returns what the model should see for this turn. A session that does not exist yet gives a bundle at
     * version 0. Reads only. Errors: INVALID_FIELD, LIMIT_EXCEEDED, TENANT_DENIED, SUBJECT_MISMATCH,
     * ROUTE_NOT_FOUND, BUDGET_TOO_SMALL, TOKENIZER_UNKNOWN, TOKEN_INVALID, VERSION_IN_FUTURE,
     * SESSION_EXPIRED, ERASED, DEADLINE_EXCEEDED, STORE_UNAVAILABLE, OVERLOADED.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.HydrateContextResponse> hydrateContext(
        dev.standpipe.v1.HydrateContextRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getHydrateContextMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Appends one turn, exactly once per request id, by compare-and-swap on the session's version. It is not
     * undone by the caller's cancellation. Errors: INVALID_FIELD, LIMIT_EXCEEDED, TOOL_RESULT_WITHOUT_CALL,
     * RECEIPT_INVALID, REQUEST_ID_REUSED, VERSION_CONFLICT, VERSION_IN_FUTURE, SESSION_ENDED,
     * SUBJECT_MISMATCH, ERASED, TENANT_DENIED, DEADLINE_EXCEEDED, STORE_UNAVAILABLE, STORE_READ_ONLY, STORE_FULL,
     * OVERLOADED.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.CommitTurnResponse> commitTurn(
        dev.standpipe.v1.CommitTurnRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getCommitTurnMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Renders a bundle that was served before again, byte for byte, from its receipt (P7).
     * Errors: RECEIPT_INVALID, TENANT_DENIED, REPLAY_UNAVAILABLE, DEADLINE_EXCEEDED, STORE_UNAVAILABLE.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.ReplayContextResponse> replayContext(
        dev.standpipe.v1.ReplayContextRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getReplayContextMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Tells what this server is and can: versions, limits, engines, tokenizers, embedding model and provider.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.GetServerInfoResponse> getServerInfo(
        dev.standpipe.v1.GetServerInfoRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getGetServerInfoMethod(), getCallOptions()), request);
    }
  }

  private static final int METHODID_HYDRATE_CONTEXT = 0;
  private static final int METHODID_COMMIT_TURN = 1;
  private static final int METHODID_REPLAY_CONTEXT = 2;
  private static final int METHODID_GET_SERVER_INFO = 3;

  private static final class MethodHandlers<Req, Resp> implements
      io.grpc.stub.ServerCalls.UnaryMethod<Req, Resp>,
      io.grpc.stub.ServerCalls.ServerStreamingMethod<Req, Resp>,
      io.grpc.stub.ServerCalls.ClientStreamingMethod<Req, Resp>,
      io.grpc.stub.ServerCalls.BidiStreamingMethod<Req, Resp> {
    private final AsyncService serviceImpl;
    private final int methodId;

    MethodHandlers(AsyncService serviceImpl, int methodId) {
      this.serviceImpl = serviceImpl;
      this.methodId = methodId;
    }

    @java.lang.Override
    @java.lang.SuppressWarnings("unchecked")
    public void invoke(Req request, io.grpc.stub.StreamObserver<Resp> responseObserver) {
      switch (methodId) {
        case METHODID_HYDRATE_CONTEXT:
          serviceImpl.hydrateContext((dev.standpipe.v1.HydrateContextRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.HydrateContextResponse>) responseObserver);
          break;
        case METHODID_COMMIT_TURN:
          serviceImpl.commitTurn((dev.standpipe.v1.CommitTurnRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.CommitTurnResponse>) responseObserver);
          break;
        case METHODID_REPLAY_CONTEXT:
          serviceImpl.replayContext((dev.standpipe.v1.ReplayContextRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.ReplayContextResponse>) responseObserver);
          break;
        case METHODID_GET_SERVER_INFO:
          serviceImpl.getServerInfo((dev.standpipe.v1.GetServerInfoRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.GetServerInfoResponse>) responseObserver);
          break;
        default:
          throw new AssertionError();
      }
    }

    @java.lang.Override
    @java.lang.SuppressWarnings("unchecked")
    public io.grpc.stub.StreamObserver<Req> invoke(
        io.grpc.stub.StreamObserver<Resp> responseObserver) {
      switch (methodId) {
        default:
          throw new AssertionError();
      }
    }
  }

  public static final io.grpc.ServerServiceDefinition bindService(AsyncService service) {
    return io.grpc.ServerServiceDefinition.builder(getServiceDescriptor())
        .addMethod(
          getHydrateContextMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.HydrateContextRequest,
              dev.standpipe.v1.HydrateContextResponse>(
                service, METHODID_HYDRATE_CONTEXT)))
        .addMethod(
          getCommitTurnMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.CommitTurnRequest,
              dev.standpipe.v1.CommitTurnResponse>(
                service, METHODID_COMMIT_TURN)))
        .addMethod(
          getReplayContextMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.ReplayContextRequest,
              dev.standpipe.v1.ReplayContextResponse>(
                service, METHODID_REPLAY_CONTEXT)))
        .addMethod(
          getGetServerInfoMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.GetServerInfoRequest,
              dev.standpipe.v1.GetServerInfoResponse>(
                service, METHODID_GET_SERVER_INFO)))
        .build();
  }

  private static abstract class ContextServiceBaseDescriptorSupplier
      implements io.grpc.protobuf.ProtoFileDescriptorSupplier, io.grpc.protobuf.ProtoServiceDescriptorSupplier {
    ContextServiceBaseDescriptorSupplier() {}

    @java.lang.Override
    public com.google.protobuf.Descriptors.FileDescriptor getFileDescriptor() {
      return dev.standpipe.v1.ContextProto.getDescriptor();
    }

    @java.lang.Override
    public com.google.protobuf.Descriptors.ServiceDescriptor getServiceDescriptor() {
      return getFileDescriptor().findServiceByName("ContextService");
    }
  }

  private static final class ContextServiceFileDescriptorSupplier
      extends ContextServiceBaseDescriptorSupplier {
    ContextServiceFileDescriptorSupplier() {}
  }

  private static final class ContextServiceMethodDescriptorSupplier
      extends ContextServiceBaseDescriptorSupplier
      implements io.grpc.protobuf.ProtoMethodDescriptorSupplier {
    private final java.lang.String methodName;

    ContextServiceMethodDescriptorSupplier(java.lang.String methodName) {
      this.methodName = methodName;
    }

    @java.lang.Override
    public com.google.protobuf.Descriptors.MethodDescriptor getMethodDescriptor() {
      return getServiceDescriptor().findMethodByName(methodName);
    }
  }

  private static volatile io.grpc.ServiceDescriptor serviceDescriptor;

  public static io.grpc.ServiceDescriptor getServiceDescriptor() {
    io.grpc.ServiceDescriptor result = serviceDescriptor;
    if (result == null) {
      synchronized (ContextServiceGrpc.class) {
        result = serviceDescriptor;
        if (result == null) {
          serviceDescriptor = result = io.grpc.ServiceDescriptor.newBuilder(SERVICE_NAME)
              .setSchemaDescriptor(new ContextServiceFileDescriptorSupplier())
              .addMethod(getHydrateContextMethod())
              .addMethod(getCommitTurnMethod())
              .addMethod(getReplayContextMethod())
              .addMethod(getGetServerInfoMethod())
              .build();
        }
      }
    }
    return result;
  }
}
