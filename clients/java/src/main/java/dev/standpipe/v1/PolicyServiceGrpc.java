package dev.standpipe.v1;

import static io.grpc.MethodDescriptor.generateFullMethodName;

/**
 * <pre>
 * Policies: what a bundle may hold. Versions are immutable; a route points at one.
 * </pre>
 */
@io.grpc.stub.annotations.GrpcGenerated
public final class PolicyServiceGrpc {

  private PolicyServiceGrpc() {}

  public static final java.lang.String SERVICE_NAME = "standpipe.v1.PolicyService";

  // Static method descriptors that strictly reflect the proto.
  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.PublishPolicyRequest,
      dev.standpipe.v1.PublishPolicyResponse> getPublishPolicyMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "PublishPolicy",
      requestType = dev.standpipe.v1.PublishPolicyRequest.class,
      responseType = dev.standpipe.v1.PublishPolicyResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.PublishPolicyRequest,
      dev.standpipe.v1.PublishPolicyResponse> getPublishPolicyMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.PublishPolicyRequest, dev.standpipe.v1.PublishPolicyResponse> getPublishPolicyMethod;
    if ((getPublishPolicyMethod = PolicyServiceGrpc.getPublishPolicyMethod) == null) {
      synchronized (PolicyServiceGrpc.class) {
        if ((getPublishPolicyMethod = PolicyServiceGrpc.getPublishPolicyMethod) == null) {
          PolicyServiceGrpc.getPublishPolicyMethod = getPublishPolicyMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.PublishPolicyRequest, dev.standpipe.v1.PublishPolicyResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "PublishPolicy"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.PublishPolicyRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.PublishPolicyResponse.getDefaultInstance()))
              .setSchemaDescriptor(new PolicyServiceMethodDescriptorSupplier("PublishPolicy"))
              .build();
        }
      }
    }
    return getPublishPolicyMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.GetPolicyRequest,
      dev.standpipe.v1.GetPolicyResponse> getGetPolicyMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "GetPolicy",
      requestType = dev.standpipe.v1.GetPolicyRequest.class,
      responseType = dev.standpipe.v1.GetPolicyResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.GetPolicyRequest,
      dev.standpipe.v1.GetPolicyResponse> getGetPolicyMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.GetPolicyRequest, dev.standpipe.v1.GetPolicyResponse> getGetPolicyMethod;
    if ((getGetPolicyMethod = PolicyServiceGrpc.getGetPolicyMethod) == null) {
      synchronized (PolicyServiceGrpc.class) {
        if ((getGetPolicyMethod = PolicyServiceGrpc.getGetPolicyMethod) == null) {
          PolicyServiceGrpc.getGetPolicyMethod = getGetPolicyMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.GetPolicyRequest, dev.standpipe.v1.GetPolicyResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "GetPolicy"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.GetPolicyRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.GetPolicyResponse.getDefaultInstance()))
              .setSchemaDescriptor(new PolicyServiceMethodDescriptorSupplier("GetPolicy"))
              .build();
        }
      }
    }
    return getGetPolicyMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.ListPoliciesRequest,
      dev.standpipe.v1.ListPoliciesResponse> getListPoliciesMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "ListPolicies",
      requestType = dev.standpipe.v1.ListPoliciesRequest.class,
      responseType = dev.standpipe.v1.ListPoliciesResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.ListPoliciesRequest,
      dev.standpipe.v1.ListPoliciesResponse> getListPoliciesMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.ListPoliciesRequest, dev.standpipe.v1.ListPoliciesResponse> getListPoliciesMethod;
    if ((getListPoliciesMethod = PolicyServiceGrpc.getListPoliciesMethod) == null) {
      synchronized (PolicyServiceGrpc.class) {
        if ((getListPoliciesMethod = PolicyServiceGrpc.getListPoliciesMethod) == null) {
          PolicyServiceGrpc.getListPoliciesMethod = getListPoliciesMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.ListPoliciesRequest, dev.standpipe.v1.ListPoliciesResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "ListPolicies"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.ListPoliciesRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.ListPoliciesResponse.getDefaultInstance()))
              .setSchemaDescriptor(new PolicyServiceMethodDescriptorSupplier("ListPolicies"))
              .build();
        }
      }
    }
    return getListPoliciesMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.SetRouteRequest,
      dev.standpipe.v1.SetRouteResponse> getSetRouteMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "SetRoute",
      requestType = dev.standpipe.v1.SetRouteRequest.class,
      responseType = dev.standpipe.v1.SetRouteResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.SetRouteRequest,
      dev.standpipe.v1.SetRouteResponse> getSetRouteMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.SetRouteRequest, dev.standpipe.v1.SetRouteResponse> getSetRouteMethod;
    if ((getSetRouteMethod = PolicyServiceGrpc.getSetRouteMethod) == null) {
      synchronized (PolicyServiceGrpc.class) {
        if ((getSetRouteMethod = PolicyServiceGrpc.getSetRouteMethod) == null) {
          PolicyServiceGrpc.getSetRouteMethod = getSetRouteMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.SetRouteRequest, dev.standpipe.v1.SetRouteResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "SetRoute"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.SetRouteRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.SetRouteResponse.getDefaultInstance()))
              .setSchemaDescriptor(new PolicyServiceMethodDescriptorSupplier("SetRoute"))
              .build();
        }
      }
    }
    return getSetRouteMethod;
  }

  /**
   * Creates a new async stub that supports all call types for the service
   */
  public static PolicyServiceStub newStub(io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<PolicyServiceStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<PolicyServiceStub>() {
        @java.lang.Override
        public PolicyServiceStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new PolicyServiceStub(channel, callOptions);
        }
      };
    return PolicyServiceStub.newStub(factory, channel);
  }

  /**
   * Creates a new blocking-style stub that supports all types of calls on the service
   */
  public static PolicyServiceBlockingV2Stub newBlockingV2Stub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<PolicyServiceBlockingV2Stub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<PolicyServiceBlockingV2Stub>() {
        @java.lang.Override
        public PolicyServiceBlockingV2Stub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new PolicyServiceBlockingV2Stub(channel, callOptions);
        }
      };
    return PolicyServiceBlockingV2Stub.newStub(factory, channel);
  }

  /**
   * Creates a new blocking-style stub that supports unary and streaming output calls on the service
   */
  public static PolicyServiceBlockingStub newBlockingStub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<PolicyServiceBlockingStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<PolicyServiceBlockingStub>() {
        @java.lang.Override
        public PolicyServiceBlockingStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new PolicyServiceBlockingStub(channel, callOptions);
        }
      };
    return PolicyServiceBlockingStub.newStub(factory, channel);
  }

  /**
   * Creates a new ListenableFuture-style stub that supports unary calls on the service
   */
  public static PolicyServiceFutureStub newFutureStub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<PolicyServiceFutureStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<PolicyServiceFutureStub>() {
        @java.lang.Override
        public PolicyServiceFutureStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new PolicyServiceFutureStub(channel, callOptions);
        }
      };
    return PolicyServiceFutureStub.newStub(factory, channel);
  }

  /**
   * <pre>
   * Policies: what a bundle may hold. Versions are immutable; a route points at one.
   * </pre>
   */
  public interface AsyncService {

    /**
     * <pre>
     * Publishes a new version, or returns the latest if it has the same content.
     * Errors: INVALID_FIELD, POLICY_INVALID, LIMIT_EXCEEDED, TENANT_DENIED, STORE_UNAVAILABLE.
     * </pre>
     */
    default void publishPolicy(dev.standpipe.v1.PublishPolicyRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.PublishPolicyResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getPublishPolicyMethod(), responseObserver);
    }

    /**
     * <pre>
     * Returns one version. Errors: INVALID_FIELD, POLICY_NOT_FOUND, TENANT_DENIED, STORE_UNAVAILABLE.
     * </pre>
     */
    default void getPolicy(dev.standpipe.v1.GetPolicyRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.GetPolicyResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getGetPolicyMethod(), responseObserver);
    }

    /**
     * <pre>
     * Lists the versions of all policies, and the routes. Errors: INVALID_FIELD, TENANT_DENIED, STORE_UNAVAILABLE.
     * </pre>
     */
    default void listPolicies(dev.standpipe.v1.ListPoliciesRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.ListPoliciesResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getListPoliciesMethod(), responseObserver);
    }

    /**
     * <pre>
     * Points a route at a version, at once for every hydrate that starts afterwards.
     * Errors: INVALID_FIELD, POLICY_NOT_FOUND, TENANT_DENIED, STORE_UNAVAILABLE.
     * </pre>
     */
    default void setRoute(dev.standpipe.v1.SetRouteRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.SetRouteResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getSetRouteMethod(), responseObserver);
    }
  }

  /**
   * Base class for the server implementation of the service PolicyService.
   * <pre>
   * Policies: what a bundle may hold. Versions are immutable; a route points at one.
   * </pre>
   */
  public static abstract class PolicyServiceImplBase
      implements io.grpc.BindableService, AsyncService {

    @java.lang.Override public final io.grpc.ServerServiceDefinition bindService() {
      return PolicyServiceGrpc.bindService(this);
    }
  }

  /**
   * A stub to allow clients to do asynchronous rpc calls to service PolicyService.
   * <pre>
   * Policies: what a bundle may hold. Versions are immutable; a route points at one.
   * </pre>
   */
  public static final class PolicyServiceStub
      extends io.grpc.stub.AbstractAsyncStub<PolicyServiceStub> {
    private PolicyServiceStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected PolicyServiceStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new PolicyServiceStub(channel, callOptions);
    }

    /**
     * <pre>
     * Publishes a new version, or returns the latest if it has the same content.
     * Errors: INVALID_FIELD, POLICY_INVALID, LIMIT_EXCEEDED, TENANT_DENIED, STORE_UNAVAILABLE.
     * </pre>
     */
    public void publishPolicy(dev.standpipe.v1.PublishPolicyRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.PublishPolicyResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getPublishPolicyMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Returns one version. Errors: INVALID_FIELD, POLICY_NOT_FOUND, TENANT_DENIED, STORE_UNAVAILABLE.
     * </pre>
     */
    public void getPolicy(dev.standpipe.v1.GetPolicyRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.GetPolicyResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getGetPolicyMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Lists the versions of all policies, and the routes. Errors: INVALID_FIELD, TENANT_DENIED, STORE_UNAVAILABLE.
     * </pre>
     */
    public void listPolicies(dev.standpipe.v1.ListPoliciesRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.ListPoliciesResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getListPoliciesMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Points a route at a version, at once for every hydrate that starts afterwards.
     * Errors: INVALID_FIELD, POLICY_NOT_FOUND, TENANT_DENIED, STORE_UNAVAILABLE.
     * </pre>
     */
    public void setRoute(dev.standpipe.v1.SetRouteRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.SetRouteResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getSetRouteMethod(), getCallOptions()), request, responseObserver);
    }
  }

  /**
   * A stub to allow clients to do synchronous rpc calls to service PolicyService.
   * <pre>
   * Policies: what a bundle may hold. Versions are immutable; a route points at one.
   * </pre>
   */
  public static final class PolicyServiceBlockingV2Stub
      extends io.grpc.stub.AbstractBlockingStub<PolicyServiceBlockingV2Stub> {
    private PolicyServiceBlockingV2Stub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected PolicyServiceBlockingV2Stub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new PolicyServiceBlockingV2Stub(channel, callOptions);
    }

    /**
     * <pre>
     * Publishes a new version, or returns the latest if it has the same content.
     * Errors: INVALID_FIELD, POLICY_INVALID, LIMIT_EXCEEDED, TENANT_DENIED, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.PublishPolicyResponse publishPolicy(dev.standpipe.v1.PublishPolicyRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getPublishPolicyMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Returns one version. Errors: INVALID_FIELD, POLICY_NOT_FOUND, TENANT_DENIED, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.GetPolicyResponse getPolicy(dev.standpipe.v1.GetPolicyRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getGetPolicyMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Lists the versions of all policies, and the routes. Errors: INVALID_FIELD, TENANT_DENIED, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.ListPoliciesResponse listPolicies(dev.standpipe.v1.ListPoliciesRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getListPoliciesMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Points a route at a version, at once for every hydrate that starts afterwards.
     * Errors: INVALID_FIELD, POLICY_NOT_FOUND, TENANT_DENIED, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.SetRouteResponse setRoute(dev.standpipe.v1.SetRouteRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getSetRouteMethod(), getCallOptions(), request);
    }
  }

  /**
   * A stub to allow clients to do limited synchronous rpc calls to service PolicyService.
   * <pre>
   * Policies: what a bundle may hold. Versions are immutable; a route points at one.
   * </pre>
   */
  public static final class PolicyServiceBlockingStub
      extends io.grpc.stub.AbstractBlockingStub<PolicyServiceBlockingStub> {
    private PolicyServiceBlockingStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected PolicyServiceBlockingStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new PolicyServiceBlockingStub(channel, callOptions);
    }

    /**
     * <pre>
     * Publishes a new version, or returns the latest if it has the same content.
     * Errors: INVALID_FIELD, POLICY_INVALID, LIMIT_EXCEEDED, TENANT_DENIED, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.PublishPolicyResponse publishPolicy(dev.standpipe.v1.PublishPolicyRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getPublishPolicyMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Returns one version. Errors: INVALID_FIELD, POLICY_NOT_FOUND, TENANT_DENIED, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.GetPolicyResponse getPolicy(dev.standpipe.v1.GetPolicyRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getGetPolicyMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Lists the versions of all policies, and the routes. Errors: INVALID_FIELD, TENANT_DENIED, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.ListPoliciesResponse listPolicies(dev.standpipe.v1.ListPoliciesRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getListPoliciesMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Points a route at a version, at once for every hydrate that starts afterwards.
     * Errors: INVALID_FIELD, POLICY_NOT_FOUND, TENANT_DENIED, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.SetRouteResponse setRoute(dev.standpipe.v1.SetRouteRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getSetRouteMethod(), getCallOptions(), request);
    }
  }

  /**
   * A stub to allow clients to do ListenableFuture-style rpc calls to service PolicyService.
   * <pre>
   * Policies: what a bundle may hold. Versions are immutable; a route points at one.
   * </pre>
   */
  public static final class PolicyServiceFutureStub
      extends io.grpc.stub.AbstractFutureStub<PolicyServiceFutureStub> {
    private PolicyServiceFutureStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected PolicyServiceFutureStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new PolicyServiceFutureStub(channel, callOptions);
    }

    /**
     * <pre>
     * Publishes a new version, or returns the latest if it has the same content.
     * Errors: INVALID_FIELD, POLICY_INVALID, LIMIT_EXCEEDED, TENANT_DENIED, STORE_UNAVAILABLE.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.PublishPolicyResponse> publishPolicy(
        dev.standpipe.v1.PublishPolicyRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getPublishPolicyMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Returns one version. Errors: INVALID_FIELD, POLICY_NOT_FOUND, TENANT_DENIED, STORE_UNAVAILABLE.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.GetPolicyResponse> getPolicy(
        dev.standpipe.v1.GetPolicyRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getGetPolicyMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Lists the versions of all policies, and the routes. Errors: INVALID_FIELD, TENANT_DENIED, STORE_UNAVAILABLE.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.ListPoliciesResponse> listPolicies(
        dev.standpipe.v1.ListPoliciesRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getListPoliciesMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Points a route at a version, at once for every hydrate that starts afterwards.
     * Errors: INVALID_FIELD, POLICY_NOT_FOUND, TENANT_DENIED, STORE_UNAVAILABLE.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.SetRouteResponse> setRoute(
        dev.standpipe.v1.SetRouteRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getSetRouteMethod(), getCallOptions()), request);
    }
  }

  private static final int METHODID_PUBLISH_POLICY = 0;
  private static final int METHODID_GET_POLICY = 1;
  private static final int METHODID_LIST_POLICIES = 2;
  private static final int METHODID_SET_ROUTE = 3;

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
        case METHODID_PUBLISH_POLICY:
          serviceImpl.publishPolicy((dev.standpipe.v1.PublishPolicyRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.PublishPolicyResponse>) responseObserver);
          break;
        case METHODID_GET_POLICY:
          serviceImpl.getPolicy((dev.standpipe.v1.GetPolicyRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.GetPolicyResponse>) responseObserver);
          break;
        case METHODID_LIST_POLICIES:
          serviceImpl.listPolicies((dev.standpipe.v1.ListPoliciesRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.ListPoliciesResponse>) responseObserver);
          break;
        case METHODID_SET_ROUTE:
          serviceImpl.setRoute((dev.standpipe.v1.SetRouteRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.SetRouteResponse>) responseObserver);
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
          getPublishPolicyMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.PublishPolicyRequest,
              dev.standpipe.v1.PublishPolicyResponse>(
                service, METHODID_PUBLISH_POLICY)))
        .addMethod(
          getGetPolicyMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.GetPolicyRequest,
              dev.standpipe.v1.GetPolicyResponse>(
                service, METHODID_GET_POLICY)))
        .addMethod(
          getListPoliciesMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.ListPoliciesRequest,
              dev.standpipe.v1.ListPoliciesResponse>(
                service, METHODID_LIST_POLICIES)))
        .addMethod(
          getSetRouteMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.SetRouteRequest,
              dev.standpipe.v1.SetRouteResponse>(
                service, METHODID_SET_ROUTE)))
        .build();
  }

  private static abstract class PolicyServiceBaseDescriptorSupplier
      implements io.grpc.protobuf.ProtoFileDescriptorSupplier, io.grpc.protobuf.ProtoServiceDescriptorSupplier {
    PolicyServiceBaseDescriptorSupplier() {}

    @java.lang.Override
    public com.google.protobuf.Descriptors.FileDescriptor getFileDescriptor() {
      return dev.standpipe.v1.PolicyProto.getDescriptor();
    }

    @java.lang.Override
    public com.google.protobuf.Descriptors.ServiceDescriptor getServiceDescriptor() {
      return getFileDescriptor().findServiceByName("PolicyService");
    }
  }

  private static final class PolicyServiceFileDescriptorSupplier
      extends PolicyServiceBaseDescriptorSupplier {
    PolicyServiceFileDescriptorSupplier() {}
  }

  private static final class PolicyServiceMethodDescriptorSupplier
      extends PolicyServiceBaseDescriptorSupplier
      implements io.grpc.protobuf.ProtoMethodDescriptorSupplier {
    private final java.lang.String methodName;

    PolicyServiceMethodDescriptorSupplier(java.lang.String methodName) {
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
      synchronized (PolicyServiceGrpc.class) {
        result = serviceDescriptor;
        if (result == null) {
          serviceDescriptor = result = io.grpc.ServiceDescriptor.newBuilder(SERVICE_NAME)
              .setSchemaDescriptor(new PolicyServiceFileDescriptorSupplier())
              .addMethod(getPublishPolicyMethod())
              .addMethod(getGetPolicyMethod())
              .addMethod(getListPoliciesMethod())
              .addMethod(getSetRouteMethod())
              .build();
        }
      }
    }
    return result;
  }
}
