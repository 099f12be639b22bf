package dev.standpipe.v1;

import static io.grpc.MethodDescriptor.generateFullMethodName;

/**
 * <pre>
 * What an application keeps for itself beside the conversation: checkpoints of a workflow, an agent's store, settings.
 * Records of bytes under keys, of one subject or of the whole tenant. They are never shown to a model, searched or
 * screened; they are encrypted, exported and erased with their subject. Reads come from the record store and are never
 * stale. What was said belongs in turns, and what is held true in facts.
 * Every change of a subject's records has a revision, counted up from 1 over all collections and never used twice, so
 * that a record which was deleted and written again never looks like the one before.
 * </pre>
 */
@io.grpc.stub.annotations.GrpcGenerated
public final class StateServiceGrpc {

  private StateServiceGrpc() {}

  public static final java.lang.String SERVICE_NAME = "standpipe.v1.StateService";

  // Static method descriptors that strictly reflect the proto.
  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.PutStateRequest,
      dev.standpipe.v1.PutStateResponse> getPutStateMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "PutState",
      requestType = dev.standpipe.v1.PutStateRequest.class,
      responseType = dev.standpipe.v1.PutStateResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.PutStateRequest,
      dev.standpipe.v1.PutStateResponse> getPutStateMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.PutStateRequest, dev.standpipe.v1.PutStateResponse> getPutStateMethod;
    if ((getPutStateMethod = StateServiceGrpc.getPutStateMethod) == null) {
      synchronized (StateServiceGrpc.class) {
        if ((getPutStateMethod = StateServiceGrpc.getPutStateMethod) == null) {
          StateServiceGrpc.getPutStateMethod = getPutStateMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.PutStateRequest, dev.standpipe.v1.PutStateResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "PutState"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.PutStateRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.PutStateResponse.getDefaultInstance()))
              .setSchemaDescriptor(new StateServiceMethodDescriptorSupplier("PutState"))
              .build();
        }
      }
    }
    return getPutStateMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.GetStateRequest,
      dev.standpipe.v1.GetStateResponse> getGetStateMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "GetState",
      requestType = dev.standpipe.v1.GetStateRequest.class,
      responseType = dev.standpipe.v1.GetStateResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.GetStateRequest,
      dev.standpipe.v1.GetStateResponse> getGetStateMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.GetStateRequest, dev.standpipe.v1.GetStateResponse> getGetStateMethod;
    if ((getGetStateMethod = StateServiceGrpc.getGetStateMethod) == null) {
      synchronized (StateServiceGrpc.class) {
        if ((getGetStateMethod = StateServiceGrpc.getGetStateMethod) == null) {
          StateServiceGrpc.getGetStateMethod = getGetStateMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.GetStateRequest, dev.standpipe.v1.GetStateResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "GetState"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.GetStateRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.GetStateResponse.getDefaultInstance()))
              .setSchemaDescriptor(new StateServiceMethodDescriptorSupplier("GetState"))
              .build();
        }
      }
    }
    return getGetStateMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.ListStateRequest,
      dev.standpipe.v1.ListStateResponse> getListStateMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "ListState",
      requestType = dev.standpipe.v1.ListStateRequest.class,
      responseType = dev.standpipe.v1.ListStateResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.ListStateRequest,
      dev.standpipe.v1.ListStateResponse> getListStateMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.ListStateRequest, dev.standpipe.v1.ListStateResponse> getListStateMethod;
    if ((getListStateMethod = StateServiceGrpc.getListStateMethod) == null) {
      synchronized (StateServiceGrpc.class) {
        if ((getListStateMethod = StateServiceGrpc.getListStateMethod) == null) {
          StateServiceGrpc.getListStateMethod = getListStateMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.ListStateRequest, dev.standpipe.v1.ListStateResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "ListState"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.ListStateRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.ListStateResponse.getDefaultInstance()))
              .setSchemaDescriptor(new StateServiceMethodDescriptorSupplier("ListState"))
              .build();
        }
      }
    }
    return getListStateMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.DeleteStateRequest,
      dev.standpipe.v1.DeleteStateResponse> getDeleteStateMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "DeleteState",
      requestType = dev.standpipe.v1.DeleteStateRequest.class,
      responseType = dev.standpipe.v1.DeleteStateResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.DeleteStateRequest,
      dev.standpipe.v1.DeleteStateResponse> getDeleteStateMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.DeleteStateRequest, dev.standpipe.v1.DeleteStateResponse> getDeleteStateMethod;
    if ((getDeleteStateMethod = StateServiceGrpc.getDeleteStateMethod) == null) {
      synchronized (StateServiceGrpc.class) {
        if ((getDeleteStateMethod = StateServiceGrpc.getDeleteStateMethod) == null) {
          StateServiceGrpc.getDeleteStateMethod = getDeleteStateMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.DeleteStateRequest, dev.standpipe.v1.DeleteStateResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "DeleteState"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.DeleteStateRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.DeleteStateResponse.getDefaultInstance()))
              .setSchemaDescriptor(new StateServiceMethodDescriptorSupplier("DeleteState"))
              .build();
        }
      }
    }
    return getDeleteStateMethod;
  }

  /**
   * Creates a new async stub that supports all call types for the service
   */
  public static StateServiceStub newStub(io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<StateServiceStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<StateServiceStub>() {
        @java.lang.Override
        public StateServiceStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new StateServiceStub(channel, callOptions);
        }
      };
    return StateServiceStub.newStub(factory, channel);
  }

  /**
   * Creates a new blocking-style stub that supports all types of calls on the service
   */
  public static StateServiceBlockingV2Stub newBlockingV2Stub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<StateServiceBlockingV2Stub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<StateServiceBlockingV2Stub>() {
        @java.lang.Override
        public StateServiceBlockingV2Stub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new StateServiceBlockingV2Stub(channel, callOptions);
        }
      };
    return StateServiceBlockingV2Stub.newStub(factory, channel);
  }

  /**
   * Creates a new blocking-style stub that supports unary and streaming output calls on the service
   */
  public static StateServiceBlockingStub newBlockingStub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<StateServiceBlockingStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<StateServiceBlockingStub>() {
        @java.lang.Override
        public StateServiceBlockingStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new StateServiceBlockingStub(channel, callOptions);
        }
      };
    return StateServiceBlockingStub.newStub(factory, channel);
  }

  /**
   * Creates a new ListenableFuture-style stub that supports unary calls on the service
   */
  public static StateServiceFutureStub newFutureStub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<StateServiceFutureStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<StateServiceFutureStub>() {
        @java.lang.Override
        public StateServiceFutureStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new StateServiceFutureStub(channel, callOptions);
        }
      };
    return StateServiceFutureStub.newStub(factory, channel);
  }

  /**
   * <pre>
   * What an application keeps for itself beside the conversation: checkpoints of a workflow, an agent's store, settings.
   * Records of bytes under keys, of one subject or of the whole tenant. They are never shown to a model, searched or
   * screened; they are encrypted, exported and erased with their subject. Reads come from the record store and are never
   * stale. What was said belongs in turns, and what is held true in facts.
   * Every change of a subject's records has a revision, counted up from 1 over all collections and never used twice, so
   * that a record which was deleted and written again never looks like the one before.
   * </pre>
   */
  public interface AsyncService {

    /**
     * <pre>
     * Writes and deletes records of one collection: all or none. A call that ends in UNAVAILABLE or DEADLINE_EXCEEDED may
     * have been done: a write without `expected_revision` can just be repeated. One with it, repeated by its caller or by
     * the client's retries, may then meet itself, as VERSION_CONFLICT: whose value stands there tells.
     * Errors: INVALID_FIELD, LIMIT_EXCEEDED (a subject has at most 100,000 records, and so has a tenant by itself),
     * TENANT_DENIED, ERASED, VERSION_CONFLICT (metadata: key_index, the
     * place of the write in the request; current_version, the record's revision, 0 without one), STORE_READ_ONLY,
     * STORE_FULL, STORE_UNAVAILABLE.
     * </pre>
     */
    default void putState(dev.standpipe.v1.PutStateRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.PutStateResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getPutStateMethod(), responseObserver);
    }

    /**
     * <pre>
     * Reads records by their keys. Errors: INVALID_FIELD, LIMIT_EXCEEDED, TENANT_DENIED, STORE_CORRUPT, STORE_UNAVAILABLE.
     * </pre>
     */
    default void getState(dev.standpipe.v1.GetStateRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.GetStateResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getGetStateMethod(), responseObserver);
    }

    /**
     * <pre>
     * Lists records by key.
     * Errors: INVALID_FIELD, LIMIT_EXCEEDED, TOKEN_INVALID, TENANT_DENIED, STORE_CORRUPT, STORE_UNAVAILABLE.
     * </pre>
     */
    default void listState(dev.standpipe.v1.ListStateRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.ListStateResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getListStateMethod(), responseObserver);
    }

    /**
     * <pre>
     * Deletes the records whose keys begin with a prefix, some thousand a call.
     * Errors: INVALID_FIELD, LIMIT_EXCEEDED, TENANT_DENIED, STORE_READ_ONLY, STORE_UNAVAILABLE.
     * </pre>
     */
    default void deleteState(dev.standpipe.v1.DeleteStateRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.DeleteStateResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getDeleteStateMethod(), responseObserver);
    }
  }

  /**
   * Base class for the server implementation of the service StateService.
   * <pre>
   * What an application keeps for itself beside the conversation: checkpoints of a workflow, an agent's store, settings.
   * Records of bytes under keys, of one subject or of the whole tenant. They are never shown to a model, searched or
   * screened; they are encrypted, exported and erased with their subject. Reads come from the record store and are never
   * stale. What was said belongs in turns, and what is held true in facts.
   * Every change of a subject's records has a revision, counted up from 1 over all collections and never used twice, so
   * that a record which was deleted and written again never looks like the one before.
   * </pre>
   */
  public static abstract class StateServiceImplBase
      implements io.grpc.BindableService, AsyncService {

    @java.lang.Override public final io.grpc.ServerServiceDefinition bindService() {
      return StateServiceGrpc.bindService(this);
    }
  }

  /**
   * A stub to allow clients to do asynchronous rpc calls to service StateService.
   * <pre>
   * What an application keeps for itself beside the conversation: checkpoints of a workflow, an agent's store, settings.
   * Records of bytes under keys, of one subject or of the whole tenant. They are never shown to a model, searched or
   * screened; they are encrypted, exported and erased with their subject. Reads come from the record store and are never
   * stale. What was said belongs in turns, and what is held true in facts.
   * Every change of a subject's records has a revision, counted up from 1 over all collections and never used twice, so
   * that a record which was deleted and written again never looks like the one before.
   * </pre>
   */
  public static final class StateServiceStub
      extends io.grpc.stub.AbstractAsyncStub<StateServiceStub> {
    private StateServiceStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected StateServiceStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new StateServiceStub(channel, callOptions);
    }

    /**
     * <pre>
     * Writes and deletes records of one collection: all or none. A call that ends in UNAVAILABLE or DEADLINE_EXCEEDED may
     * have been done: a write without `expected_revision` can just be repeated. One with it, repeated by its caller or by
     * the client's retries, may then meet itself, as VERSION_CONFLICT: whose value stands there tells.
     * Errors: INVALID_FIELD, LIMIT_EXCEEDED (a subject has at most 100,000 records, and so has a tenant by itself),
     * TENANT_DENIED, ERASED, VERSION_CONFLICT (metadata: key_index, the
     * place of the write in the request; current_version, the record's revision, 0 without one), STORE_READ_ONLY,
     * STORE_FULL, STORE_UNAVAILABLE.
     * </pre>
     */
    public void putState(dev.standpipe.v1.PutStateRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.PutStateResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getPutStateMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Reads records by their keys. Errors: INVALID_FIELD, LIMIT_EXCEEDED, TENANT_DENIED, STORE_CORRUPT, STORE_UNAVAILABLE.
     * </pre>
     */
    public void getState(dev.standpipe.v1.GetStateRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.GetStateResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getGetStateMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Lists records by key.
     * Errors: INVALID_FIELD, LIMIT_EXCEEDED, TOKEN_INVALID, TENANT_DENIED, STORE_CORRUPT, STORE_UNAVAILABLE.
     * </pre>
     */
    public void listState(dev.standpipe.v1.ListStateRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.ListStateResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getListStateMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Deletes the records whose keys begin with a prefix, some thousand a call.
     * Errors: INVALID_FIELD, LIMIT_EXCEEDED, TENANT_DENIED, STORE_READ_ONLY, STORE_UNAVAILABLE.
     * </pre>
     */
    public void deleteState(dev.standpipe.v1.DeleteStateRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.DeleteStateResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getDeleteStateMethod(), getCallOptions()), request, responseObserver);
    }
  }

  /**
   * A stub to allow clients to do synchronous rpc calls to service StateService.
   * <pre>
   * What an application keeps for itself beside the conversation: checkpoints of a workflow, an agent's store, settings.
   * Records of bytes under keys, of one subject or of the whole tenant. They are never shown to a model, searched or
   * screened; they are encrypted, exported and erased with their subject. Reads come from the record store and are never
   * stale. What was said belongs in turns, and what is held true in facts.
   * Every change of a subject's records has a revision, counted up from 1 over all collections and never used twice, so
   * that a record which was deleted and written again never looks like the one before.
   * </pre>
   */
  public static final class StateServiceBlockingV2Stub
      extends io.grpc.stub.AbstractBlockingStub<StateServiceBlockingV2Stub> {
    private StateServiceBlockingV2Stub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected StateServiceBlockingV2Stub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new StateServiceBlockingV2Stub(channel, callOptions);
    }

    /**
     * <pre>
     * Writes and deletes records of one collection: all or none. A call that ends in UNAVAILABLE or DEADLINE_EXCEEDED may
     * have been done: a write without `expected_revision` can just be repeated. One with it, repeated by its caller or by
     * the client's retries, may then meet itself, as VERSION_CONFLICT: whose value stands there tells.
     * Errors: INVALID_FIELD, LIMIT_EXCEEDED (a subject has at most 100,000 records, and so has a tenant by itself),
     * TENANT_DENIED, ERASED, VERSION_CONFLICT (metadata: key_index, the
     * place of the write in the request; current_version, the record's revision, 0 without one), STORE_READ_ONLY,
     * STORE_FULL, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.PutStateResponse putState(dev.standpipe.v1.PutStateRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getPutStateMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Reads records by their keys. Errors: INVALID_FIELD, LIMIT_EXCEEDED, TENANT_DENIED, STORE_CORRUPT, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.GetStateResponse getState(dev.standpipe.v1.GetStateRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getGetStateMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Lists records by key.
     * Errors: INVALID_FIELD, LIMIT_EXCEEDED, TOKEN_INVALID, TENANT_DENIED, STORE_CORRUPT, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.ListStateResponse listState(dev.standpipe.v1.ListStateRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getListStateMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Deletes the records whose keys begin with a prefix, some thousand a call.
     * Errors: INVALID_FIELD, LIMIT_EXCEEDED, TENANT_DENIED, STORE_READ_ONLY, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.DeleteStateResponse deleteState(dev.standpipe.v1.DeleteStateRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getDeleteStateMethod(), getCallOptions(), request);
    }
  }

  /**
   * A stub to allow clients to do limited synchronous rpc calls to service StateService.
   * <pre>
   * What an application keeps for itself beside the conversation: checkpoints of a workflow, an agent's store, settings.
   * Records of bytes under keys, of one subject or of the whole tenant. They are never shown to a model, searched or
   * screened; they are encrypted, exported and erased with their subject. Reads come from the record store and are never
   * stale. What was said belongs in turns, and what is held true in facts.
   * Every change of a subject's records has a revision, counted up from 1 over all collections and never used twice, so
   * that a record which was deleted and written again never looks like the one before.
   * </pre>
   */
  public static final class StateServiceBlockingStub
      extends io.grpc.stub.AbstractBlockingStub<StateServiceBlockingStub> {
    private StateServiceBlockingStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected StateServiceBlockingStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new StateServiceBlockingStub(channel, callOptions);
    }

    /**
     * <pre>
     * Writes and deletes records of one collection: all or none. A call that ends in UNAVAILABLE or DEADLINE_EXCEEDED may
     * have been done: a write without `expected_revision` can just be repeated. One with it, repeated by its caller or by
     * the client's retries, may then meet itself, as VERSION_CONFLICT: whose value stands there tells.
     * Errors: INVALID_FIELD, LIMIT_EXCEEDED (a subject has at most 100,000 records, and so has a tenant by itself),
     * TENANT_DENIED, ERASED, VERSION_CONFLICT (metadata: key_index, the
     * place of the write in the request; current_version, the record's revision, 0 without one), STORE_READ_ONLY,
     * STORE_FULL, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.PutStateResponse putState(dev.standpipe.v1.PutStateRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getPutStateMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Reads records by their keys. Errors: INVALID_FIELD, LIMIT_EXCEEDED, TENANT_DENIED, STORE_CORRUPT, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.GetStateResponse getState(dev.standpipe.v1.GetStateRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getGetStateMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Lists records by key.
     * Errors: INVALID_FIELD, LIMIT_EXCEEDED, TOKEN_INVALID, TENANT_DENIED, STORE_CORRUPT, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.ListStateResponse listState(dev.standpipe.v1.ListStateRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getListStateMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Deletes the records whose keys begin with a prefix, some thousand a call.
     * Errors: INVALID_FIELD, LIMIT_EXCEEDED, TENANT_DENIED, STORE_READ_ONLY, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.DeleteStateResponse deleteState(dev.standpipe.v1.DeleteStateRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getDeleteStateMethod(), getCallOptions(), request);
    }
  }

  /**
   * A stub to allow clients to do ListenableFuture-style rpc calls to service StateService.
   * <pre>
   * What an application keeps for itself beside the conversation: checkpoints of a workflow, an agent's store, settings.
   * Records of bytes under keys, of one subject or of the whole tenant. They are never shown to a model, searched or
   * screened; they are encrypted, exported and erased with their subject. Reads come from the record store and are never
   * stale. What was said belongs in turns, and what is held true in facts.
   * Every change of a subject's records has a revision, counted up from 1 over all collections and never used twice, so
   * that a record which was deleted and written again never looks like the one before.
   * </pre>
   */
  public static final class StateServiceFutureStub
      extends io.grpc.stub.AbstractFutureStub<StateServiceFutureStub> {
    private StateServiceFutureStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected StateServiceFutureStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new StateServiceFutureStub(channel, callOptions);
    }

    /**
     * <pre>
     * Writes and deletes records of one collection: all or none. A call that ends in UNAVAILABLE or DEADLINE_EXCEEDED may
     * have been done: a write without `expected_revision` can just be repeated. One with it, repeated by its caller or by
     * the client's retries, may then meet itself, as VERSION_CONFLICT: whose value stands there tells.
     * Errors: INVALID_FIELD, LIMIT_EXCEEDED (a subject has at most 100,000 records, and so has a tenant by itself),
     * TENANT_DENIED, ERASED, VERSION_CONFLICT (metadata: key_index, the
     * place of the write in the request; current_version, the record's revision, 0 without one), STORE_READ_ONLY,
     * STORE_FULL, STORE_UNAVAILABLE.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.PutStateResponse> putState(
        dev.standpipe.v1.PutStateRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getPutStateMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Reads records by their keys. Errors: INVALID_FIELD, LIMIT_EXCEEDED, TENANT_DENIED, STORE_CORRUPT, STORE_UNAVAILABLE.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.GetStateResponse> getState(
        dev.standpipe.v1.GetStateRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getGetStateMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Lists records by key.
     * Errors: INVALID_FIELD, LIMIT_EXCEEDED, TOKEN_INVALID, TENANT_DENIED, STORE_CORRUPT, STORE_UNAVAILABLE.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.ListStateResponse> listState(
        dev.standpipe.v1.ListStateRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getListStateMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Deletes the records whose keys begin with a prefix, some thousand a call.
     * Errors: INVALID_FIELD, LIMIT_EXCEEDED, TENANT_DENIED, STORE_READ_ONLY, STORE_UNAVAILABLE.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.DeleteStateResponse> deleteState(
        dev.standpipe.v1.DeleteStateRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getDeleteStateMethod(), getCallOptions()), request);
    }
  }

  private static final int METHODID_PUT_STATE = 0;
  private static final int METHODID_GET_STATE = 1;
  private static final int METHODID_LIST_STATE = 2;
  private static final int METHODID_DELETE_STATE = 3;

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
        case METHODID_PUT_STATE:
          serviceImpl.putState((dev.standpipe.v1.PutStateRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.PutStateResponse>) responseObserver);
          break;
        case METHODID_GET_STATE:
          serviceImpl.getState((dev.standpipe.v1.GetStateRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.GetStateResponse>) responseObserver);
          break;
        case METHODID_LIST_STATE:
          serviceImpl.listState((dev.standpipe.v1.ListStateRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.ListStateResponse>) responseObserver);
          break;
        case METHODID_DELETE_STATE:
          serviceImpl.deleteState((dev.standpipe.v1.DeleteStateRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.DeleteStateResponse>) responseObserver);
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
          getPutStateMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.PutStateRequest,
              dev.standpipe.v1.PutStateResponse>(
                service, METHODID_PUT_STATE)))
        .addMethod(
          getGetStateMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.GetStateRequest,
              dev.standpipe.v1.GetStateResponse>(
                service, METHODID_GET_STATE)))
        .addMethod(
          getListStateMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.ListStateRequest,
              dev.standpipe.v1.ListStateResponse>(
                service, METHODID_LIST_STATE)))
        .addMethod(
          getDeleteStateMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.DeleteStateRequest,
              dev.standpipe.v1.DeleteStateResponse>(
                service, METHODID_DELETE_STATE)))
        .build();
  }

  private static abstract class StateServiceBaseDescriptorSupplier
      implements io.grpc.protobuf.ProtoFileDescriptorSupplier, io.grpc.protobuf.ProtoServiceDescriptorSupplier {
    StateServiceBaseDescriptorSupplier() {}

    @java.lang.Override
    public com.google.protobuf.Descriptors.FileDescriptor getFileDescriptor() {
      return dev.standpipe.v1.StateProto.getDescriptor();
    }

    @java.lang.Override
    public com.google.protobuf.Descriptors.ServiceDescriptor getServiceDescriptor() {
      return getFileDescriptor().findServiceByName("StateService");
    }
  }

  private static final class StateServiceFileDescriptorSupplier
      extends StateServiceBaseDescriptorSupplier {
    StateServiceFileDescriptorSupplier() {}
  }

  private static final class StateServiceMethodDescriptorSupplier
      extends StateServiceBaseDescriptorSupplier
      implements io.grpc.protobuf.ProtoMethodDescriptorSupplier {
    private final java.lang.String methodName;

    StateServiceMethodDescriptorSupplier(java.lang.String methodName) {
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
      synchronized (StateServiceGrpc.class) {
        result = serviceDescriptor;
        if (result == null) {
          serviceDescriptor = result = io.grpc.ServiceDescriptor.newBuilder(SERVICE_NAME)
              .setSchemaDescriptor(new StateServiceFileDescriptorSupplier())
              .addMethod(getPutStateMethod())
              .addMethod(getGetStateMethod())
              .addMethod(getListStateMethod())
              .addMethod(getDeleteStateMethod())
              .build();
        }
      }
    }
    return result;
  }
}
