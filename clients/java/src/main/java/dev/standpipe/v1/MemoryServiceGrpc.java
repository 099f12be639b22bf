package dev.standpipe.v1;

import static io.grpc.MethodDescriptor.generateFullMethodName;

/**
 * <pre>
 * Long-term memory: facts, profile and documents, with their lineage. Every write is an event of a log, exactly once per
 * request id, and seen by every hydrate that starts after its answer (P1, P3, P4).
 * </pre>
 */
@io.grpc.stub.annotations.GrpcGenerated
public final class MemoryServiceGrpc {

  private MemoryServiceGrpc() {}

  public static final java.lang.String SERVICE_NAME = "standpipe.v1.MemoryService";

  // Static method descriptors that strictly reflect the proto.
  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.RecordFactsRequest,
      dev.standpipe.v1.RecordFactsResponse> getRecordFactsMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "RecordFacts",
      requestType = dev.standpipe.v1.RecordFactsRequest.class,
      responseType = dev.standpipe.v1.RecordFactsResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.RecordFactsRequest,
      dev.standpipe.v1.RecordFactsResponse> getRecordFactsMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.RecordFactsRequest, dev.standpipe.v1.RecordFactsResponse> getRecordFactsMethod;
    if ((getRecordFactsMethod = MemoryServiceGrpc.getRecordFactsMethod) == null) {
      synchronized (MemoryServiceGrpc.class) {
        if ((getRecordFactsMethod = MemoryServiceGrpc.getRecordFactsMethod) == null) {
          MemoryServiceGrpc.getRecordFactsMethod = getRecordFactsMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.RecordFactsRequest, dev.standpipe.v1.RecordFactsResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "RecordFacts"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.RecordFactsRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.RecordFactsResponse.getDefaultInstance()))
              .setSchemaDescriptor(new MemoryServiceMethodDescriptorSupplier("RecordFacts"))
              .build();
        }
      }
    }
    return getRecordFactsMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.CorrectFactRequest,
      dev.standpipe.v1.CorrectFactResponse> getCorrectFactMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "CorrectFact",
      requestType = dev.standpipe.v1.CorrectFactRequest.class,
      responseType = dev.standpipe.v1.CorrectFactResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.CorrectFactRequest,
      dev.standpipe.v1.CorrectFactResponse> getCorrectFactMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.CorrectFactRequest, dev.standpipe.v1.CorrectFactResponse> getCorrectFactMethod;
    if ((getCorrectFactMethod = MemoryServiceGrpc.getCorrectFactMethod) == null) {
      synchronized (MemoryServiceGrpc.class) {
        if ((getCorrectFactMethod = MemoryServiceGrpc.getCorrectFactMethod) == null) {
          MemoryServiceGrpc.getCorrectFactMethod = getCorrectFactMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.CorrectFactRequest, dev.standpipe.v1.CorrectFactResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "CorrectFact"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.CorrectFactRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.CorrectFactResponse.getDefaultInstance()))
              .setSchemaDescriptor(new MemoryServiceMethodDescriptorSupplier("CorrectFact"))
              .build();
        }
      }
    }
    return getCorrectFactMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.PinFactRequest,
      dev.standpipe.v1.PinFactResponse> getPinFactMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "PinFact",
      requestType = dev.standpipe.v1.PinFactRequest.class,
      responseType = dev.standpipe.v1.PinFactResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.PinFactRequest,
      dev.standpipe.v1.PinFactResponse> getPinFactMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.PinFactRequest, dev.standpipe.v1.PinFactResponse> getPinFactMethod;
    if ((getPinFactMethod = MemoryServiceGrpc.getPinFactMethod) == null) {
      synchronized (MemoryServiceGrpc.class) {
        if ((getPinFactMethod = MemoryServiceGrpc.getPinFactMethod) == null) {
          MemoryServiceGrpc.getPinFactMethod = getPinFactMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.PinFactRequest, dev.standpipe.v1.PinFactResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "PinFact"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.PinFactRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.PinFactResponse.getDefaultInstance()))
              .setSchemaDescriptor(new MemoryServiceMethodDescriptorSupplier("PinFact"))
              .build();
        }
      }
    }
    return getPinFactMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.PutProfileRequest,
      dev.standpipe.v1.PutProfileResponse> getPutProfileMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "PutProfile",
      requestType = dev.standpipe.v1.PutProfileRequest.class,
      responseType = dev.standpipe.v1.PutProfileResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.PutProfileRequest,
      dev.standpipe.v1.PutProfileResponse> getPutProfileMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.PutProfileRequest, dev.standpipe.v1.PutProfileResponse> getPutProfileMethod;
    if ((getPutProfileMethod = MemoryServiceGrpc.getPutProfileMethod) == null) {
      synchronized (MemoryServiceGrpc.class) {
        if ((getPutProfileMethod = MemoryServiceGrpc.getPutProfileMethod) == null) {
          MemoryServiceGrpc.getPutProfileMethod = getPutProfileMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.PutProfileRequest, dev.standpipe.v1.PutProfileResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "PutProfile"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.PutProfileRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.PutProfileResponse.getDefaultInstance()))
              .setSchemaDescriptor(new MemoryServiceMethodDescriptorSupplier("PutProfile"))
              .build();
        }
      }
    }
    return getPutProfileMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.IngestDocumentsRequest,
      dev.standpipe.v1.IngestDocumentsResponse> getIngestDocumentsMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "IngestDocuments",
      requestType = dev.standpipe.v1.IngestDocumentsRequest.class,
      responseType = dev.standpipe.v1.IngestDocumentsResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.IngestDocumentsRequest,
      dev.standpipe.v1.IngestDocumentsResponse> getIngestDocumentsMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.IngestDocumentsRequest, dev.standpipe.v1.IngestDocumentsResponse> getIngestDocumentsMethod;
    if ((getIngestDocumentsMethod = MemoryServiceGrpc.getIngestDocumentsMethod) == null) {
      synchronized (MemoryServiceGrpc.class) {
        if ((getIngestDocumentsMethod = MemoryServiceGrpc.getIngestDocumentsMethod) == null) {
          MemoryServiceGrpc.getIngestDocumentsMethod = getIngestDocumentsMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.IngestDocumentsRequest, dev.standpipe.v1.IngestDocumentsResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "IngestDocuments"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.IngestDocumentsRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.IngestDocumentsResponse.getDefaultInstance()))
              .setSchemaDescriptor(new MemoryServiceMethodDescriptorSupplier("IngestDocuments"))
              .build();
        }
      }
    }
    return getIngestDocumentsMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.SearchMemoryRequest,
      dev.standpipe.v1.SearchMemoryResponse> getSearchMemoryMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "SearchMemory",
      requestType = dev.standpipe.v1.SearchMemoryRequest.class,
      responseType = dev.standpipe.v1.SearchMemoryResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.SearchMemoryRequest,
      dev.standpipe.v1.SearchMemoryResponse> getSearchMemoryMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.SearchMemoryRequest, dev.standpipe.v1.SearchMemoryResponse> getSearchMemoryMethod;
    if ((getSearchMemoryMethod = MemoryServiceGrpc.getSearchMemoryMethod) == null) {
      synchronized (MemoryServiceGrpc.class) {
        if ((getSearchMemoryMethod = MemoryServiceGrpc.getSearchMemoryMethod) == null) {
          MemoryServiceGrpc.getSearchMemoryMethod = getSearchMemoryMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.SearchMemoryRequest, dev.standpipe.v1.SearchMemoryResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "SearchMemory"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.SearchMemoryRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.SearchMemoryResponse.getDefaultInstance()))
              .setSchemaDescriptor(new MemoryServiceMethodDescriptorSupplier("SearchMemory"))
              .build();
        }
      }
    }
    return getSearchMemoryMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.ListBeliefsRequest,
      dev.standpipe.v1.ListBeliefsResponse> getListBeliefsMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "ListBeliefs",
      requestType = dev.standpipe.v1.ListBeliefsRequest.class,
      responseType = dev.standpipe.v1.ListBeliefsResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.ListBeliefsRequest,
      dev.standpipe.v1.ListBeliefsResponse> getListBeliefsMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.ListBeliefsRequest, dev.standpipe.v1.ListBeliefsResponse> getListBeliefsMethod;
    if ((getListBeliefsMethod = MemoryServiceGrpc.getListBeliefsMethod) == null) {
      synchronized (MemoryServiceGrpc.class) {
        if ((getListBeliefsMethod = MemoryServiceGrpc.getListBeliefsMethod) == null) {
          MemoryServiceGrpc.getListBeliefsMethod = getListBeliefsMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.ListBeliefsRequest, dev.standpipe.v1.ListBeliefsResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "ListBeliefs"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.ListBeliefsRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.ListBeliefsResponse.getDefaultInstance()))
              .setSchemaDescriptor(new MemoryServiceMethodDescriptorSupplier("ListBeliefs"))
              .build();
        }
      }
    }
    return getListBeliefsMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.ListQuarantineRequest,
      dev.standpipe.v1.ListQuarantineResponse> getListQuarantineMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "ListQuarantine",
      requestType = dev.standpipe.v1.ListQuarantineRequest.class,
      responseType = dev.standpipe.v1.ListQuarantineResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.ListQuarantineRequest,
      dev.standpipe.v1.ListQuarantineResponse> getListQuarantineMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.ListQuarantineRequest, dev.standpipe.v1.ListQuarantineResponse> getListQuarantineMethod;
    if ((getListQuarantineMethod = MemoryServiceGrpc.getListQuarantineMethod) == null) {
      synchronized (MemoryServiceGrpc.class) {
        if ((getListQuarantineMethod = MemoryServiceGrpc.getListQuarantineMethod) == null) {
          MemoryServiceGrpc.getListQuarantineMethod = getListQuarantineMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.ListQuarantineRequest, dev.standpipe.v1.ListQuarantineResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "ListQuarantine"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.ListQuarantineRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.ListQuarantineResponse.getDefaultInstance()))
              .setSchemaDescriptor(new MemoryServiceMethodDescriptorSupplier("ListQuarantine"))
              .build();
        }
      }
    }
    return getListQuarantineMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.ReviewQuarantineRequest,
      dev.standpipe.v1.ReviewQuarantineResponse> getReviewQuarantineMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "ReviewQuarantine",
      requestType = dev.standpipe.v1.ReviewQuarantineRequest.class,
      responseType = dev.standpipe.v1.ReviewQuarantineResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.ReviewQuarantineRequest,
      dev.standpipe.v1.ReviewQuarantineResponse> getReviewQuarantineMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.ReviewQuarantineRequest, dev.standpipe.v1.ReviewQuarantineResponse> getReviewQuarantineMethod;
    if ((getReviewQuarantineMethod = MemoryServiceGrpc.getReviewQuarantineMethod) == null) {
      synchronized (MemoryServiceGrpc.class) {
        if ((getReviewQuarantineMethod = MemoryServiceGrpc.getReviewQuarantineMethod) == null) {
          MemoryServiceGrpc.getReviewQuarantineMethod = getReviewQuarantineMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.ReviewQuarantineRequest, dev.standpipe.v1.ReviewQuarantineResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "ReviewQuarantine"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.ReviewQuarantineRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.ReviewQuarantineResponse.getDefaultInstance()))
              .setSchemaDescriptor(new MemoryServiceMethodDescriptorSupplier("ReviewQuarantine"))
              .build();
        }
      }
    }
    return getReviewQuarantineMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.EraseSubjectRequest,
      dev.standpipe.v1.EraseSubjectResponse> getEraseSubjectMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "EraseSubject",
      requestType = dev.standpipe.v1.EraseSubjectRequest.class,
      responseType = dev.standpipe.v1.EraseSubjectResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.EraseSubjectRequest,
      dev.standpipe.v1.EraseSubjectResponse> getEraseSubjectMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.EraseSubjectRequest, dev.standpipe.v1.EraseSubjectResponse> getEraseSubjectMethod;
    if ((getEraseSubjectMethod = MemoryServiceGrpc.getEraseSubjectMethod) == null) {
      synchronized (MemoryServiceGrpc.class) {
        if ((getEraseSubjectMethod = MemoryServiceGrpc.getEraseSubjectMethod) == null) {
          MemoryServiceGrpc.getEraseSubjectMethod = getEraseSubjectMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.EraseSubjectRequest, dev.standpipe.v1.EraseSubjectResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "EraseSubject"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.EraseSubjectRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.EraseSubjectResponse.getDefaultInstance()))
              .setSchemaDescriptor(new MemoryServiceMethodDescriptorSupplier("EraseSubject"))
              .build();
        }
      }
    }
    return getEraseSubjectMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.standpipe.v1.ExportSubjectRequest,
      dev.standpipe.v1.ExportSubjectResponse> getExportSubjectMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "ExportSubject",
      requestType = dev.standpipe.v1.ExportSubjectRequest.class,
      responseType = dev.standpipe.v1.ExportSubjectResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.standpipe.v1.ExportSubjectRequest,
      dev.standpipe.v1.ExportSubjectResponse> getExportSubjectMethod() {
    io.grpc.MethodDescriptor<dev.standpipe.v1.ExportSubjectRequest, dev.standpipe.v1.ExportSubjectResponse> getExportSubjectMethod;
    if ((getExportSubjectMethod = MemoryServiceGrpc.getExportSubjectMethod) == null) {
      synchronized (MemoryServiceGrpc.class) {
        if ((getExportSubjectMethod = MemoryServiceGrpc.getExportSubjectMethod) == null) {
          MemoryServiceGrpc.getExportSubjectMethod = getExportSubjectMethod =
              io.grpc.MethodDescriptor.<dev.standpipe.v1.ExportSubjectRequest, dev.standpipe.v1.ExportSubjectResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "ExportSubject"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.ExportSubjectRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.standpipe.v1.ExportSubjectResponse.getDefaultInstance()))
              .setSchemaDescriptor(new MemoryServiceMethodDescriptorSupplier("ExportSubject"))
              .build();
        }
      }
    }
    return getExportSubjectMethod;
  }

  /**
   * Creates a new async stub that supports all call types for the service
   */
  public static MemoryServiceStub newStub(io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<MemoryServiceStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<MemoryServiceStub>() {
        @java.lang.Override
        public MemoryServiceStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new MemoryServiceStub(channel, callOptions);
        }
      };
    return MemoryServiceStub.newStub(factory, channel);
  }

  /**
   * Creates a new blocking-style stub that supports all types of calls on the service
   */
  public static MemoryServiceBlockingV2Stub newBlockingV2Stub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<MemoryServiceBlockingV2Stub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<MemoryServiceBlockingV2Stub>() {
        @java.lang.Override
        public MemoryServiceBlockingV2Stub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new MemoryServiceBlockingV2Stub(channel, callOptions);
        }
      };
    return MemoryServiceBlockingV2Stub.newStub(factory, channel);
  }

  /**
   * Creates a new blocking-style stub that supports unary and streaming output calls on the service
   */
  public static MemoryServiceBlockingStub newBlockingStub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<MemoryServiceBlockingStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<MemoryServiceBlockingStub>() {
        @java.lang.Override
        public MemoryServiceBlockingStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new MemoryServiceBlockingStub(channel, callOptions);
        }
      };
    return MemoryServiceBlockingStub.newStub(factory, channel);
  }

  /**
   * Creates a new ListenableFuture-style stub that supports unary calls on the service
   */
  public static MemoryServiceFutureStub newFutureStub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<MemoryServiceFutureStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<MemoryServiceFutureStub>() {
        @java.lang.Override
        public MemoryServiceFutureStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new MemoryServiceFutureStub(channel, callOptions);
        }
      };
    return MemoryServiceFutureStub.newStub(factory, channel);
  }

  /**
   * <pre>
   * Long-term memory: facts, profile and documents, with their lineage. Every write is an event of a log, exactly once per
   * request id, and seen by every hydrate that starts after its answer (P1, P3, P4).
   * </pre>
   */
  public interface AsyncService {

    /**
     * <pre>
     * Records claims about a subject. Claims whose sources the user said are held; others wait for review.
     * Errors: INVALID_FIELD, LIMIT_EXCEEDED, REQUEST_ID_REUSED, ERASED, TENANT_DENIED, DEADLINE_EXCEEDED,
     * STORE_UNAVAILABLE, STORE_READ_ONLY, STORE_FULL, OVERLOADED.
     * </pre>
     */
    default void recordFacts(dev.standpipe.v1.RecordFactsRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.RecordFactsResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getRecordFactsMethod(), responseObserver);
    }

    /**
     * <pre>
     * Supersedes, retracts or rejects a fact. Errors: as RecordFacts, and FACT_NOT_FOUND.
     * </pre>
     */
    default void correctFact(dev.standpipe.v1.CorrectFactRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.CorrectFactResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getCorrectFactMethod(), responseObserver);
    }

    /**
     * <pre>
     * Pins or unpins a fact. Errors: as CorrectFact.
     * </pre>
     */
    default void pinFact(dev.standpipe.v1.PinFactRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.PinFactResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getPinFactMethod(), responseObserver);
    }

    /**
     * <pre>
     * Sets attributes of a subject's profile. Errors: as RecordFacts.
     * </pre>
     */
    default void putProfile(dev.standpipe.v1.PutProfileRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.PutProfileResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getPutProfileMethod(), responseObserver);
    }

    /**
     * <pre>
     * Ingests documents, each exactly once: the same content again stores nothing, other content becomes the next version.
     * Errors: as RecordFacts.
     * </pre>
     */
    default void ingestDocuments(dev.standpipe.v1.IngestDocumentsRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.IngestDocumentsResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getIngestDocumentsMethod(), responseObserver);
    }

    /**
     * <pre>
     * Searches a subject's turns, facts and documents as a hydrate would, without a budget. Errors: INVALID_FIELD,
     * LIMIT_EXCEEDED, TENANT_DENIED, ROUTE_NOT_FOUND, DEADLINE_EXCEEDED, STORE_UNAVAILABLE.
     * </pre>
     */
    default void searchMemory(dev.standpipe.v1.SearchMemoryRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.SearchMemoryResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getSearchMemoryMethod(), responseObserver);
    }

    /**
     * <pre>
     * Lists what is held true of a subject, why and since when, now or as of any time.
     * Errors: INVALID_FIELD, TENANT_DENIED, ROUTE_NOT_FOUND, DEADLINE_EXCEEDED, STORE_UNAVAILABLE.
     * </pre>
     */
    default void listBeliefs(dev.standpipe.v1.ListBeliefsRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.ListBeliefsResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getListBeliefsMethod(), responseObserver);
    }

    /**
     * <pre>
     * Lists claims that wait for review, of one subject or of all. Errors: as ListBeliefs.
     * </pre>
     */
    default void listQuarantine(dev.standpipe.v1.ListQuarantineRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.ListQuarantineResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getListQuarantineMethod(), responseObserver);
    }

    /**
     * <pre>
     * Accepts or rejects a claim that waits. Errors: as CorrectFact.
     * </pre>
     */
    default void reviewQuarantine(dev.standpipe.v1.ReviewQuarantineRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.ReviewQuarantineResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getReviewQuarantineMethod(), responseObserver);
    }

    /**
     * <pre>
     * Erases a subject, or one session or document of it, with everything that was derived from it (P11). Answers when it
     * is done; called again, also after a deadline, it goes on and gives the same receipt.
     * Errors: INVALID_FIELD, SUBJECT_MISMATCH, TENANT_DENIED, DEADLINE_EXCEEDED, STORE_UNAVAILABLE, STORE_READ_ONLY.
     * </pre>
     */
    default void eraseSubject(dev.standpipe.v1.EraseSubjectRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.EraseSubjectResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getEraseSubjectMethod(), responseObserver);
    }

    /**
     * <pre>
     * Exports all that is stored of a subject, as Markdown or as JSON Lines that can be imported again, in pages.
     * Errors: INVALID_FIELD, ERASED, TENANT_DENIED, DEADLINE_EXCEEDED, STORE_UNAVAILABLE.
     * </pre>
     */
    default void exportSubject(dev.standpipe.v1.ExportSubjectRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.ExportSubjectResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getExportSubjectMethod(), responseObserver);
    }
  }

  /**
   * Base class for the server implementation of the service MemoryService.
   * <pre>
   * Long-term memory: facts, profile and documents, with their lineage. Every write is an event of a log, exactly once per
   * request id, and seen by every hydrate that starts after its answer (P1, P3, P4).
   * </pre>
   */
  public static abstract class MemoryServiceImplBase
      implements io.grpc.BindableService, AsyncService {

    @java.lang.Override public final io.grpc.ServerServiceDefinition bindService() {
      return MemoryServiceGrpc.bindService(this);
    }
  }

  /**
   * A stub to allow clients to do asynchronous rpc calls to service MemoryService.
   * <pre>
   * Long-term memory: facts, profile and documents, with their lineage. Every write is an event of a log, exactly once per
   * request id, and seen by every hydrate that starts after its answer (P1, P3, P4).
   * </pre>
   */
  public static final class MemoryServiceStub
      extends io.grpc.stub.AbstractAsyncStub<MemoryServiceStub> {
    private MemoryServiceStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected MemoryServiceStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new MemoryServiceStub(channel, callOptions);
    }

    /**
     * <pre>
     * Records claims about a subject. Claims whose sources the user said are held; others wait for review.
     * Errors: INVALID_FIELD, LIMIT_EXCEEDED, REQUEST_ID_REUSED, ERASED, TENANT_DENIED, DEADLINE_EXCEEDED,
     * STORE_UNAVAILABLE, STORE_READ_ONLY, STORE_FULL, OVERLOADED.
     * </pre>
     */
    public void recordFacts(dev.standpipe.v1.RecordFactsRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.RecordFactsResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getRecordFactsMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Supersedes, retracts or rejects a fact. Errors: as RecordFacts, and FACT_NOT_FOUND.
     * </pre>
     */
    public void correctFact(dev.standpipe.v1.CorrectFactRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.CorrectFactResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getCorrectFactMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Pins or unpins a fact. Errors: as CorrectFact.
     * </pre>
     */
    public void pinFact(dev.standpipe.v1.PinFactRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.PinFactResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getPinFactMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Sets attributes of a subject's profile. Errors: as RecordFacts.
     * </pre>
     */
    public void putProfile(dev.standpipe.v1.PutProfileRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.PutProfileResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getPutProfileMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Ingests documents, each exactly once: the same content again stores nothing, other content becomes the next version.
     * Errors: as RecordFacts.
     * </pre>
     */
    public void ingestDocuments(dev.standpipe.v1.IngestDocumentsRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.IngestDocumentsResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getIngestDocumentsMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Searches a subject's turns, facts and documents as a hydrate would, without a budget. Errors: INVALID_FIELD,
     * LIMIT_EXCEEDED, TENANT_DENIED, ROUTE_NOT_FOUND, DEADLINE_EXCEEDED, STORE_UNAVAILABLE.
     * </pre>
     */
    public void searchMemory(dev.standpipe.v1.SearchMemoryRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.SearchMemoryResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getSearchMemoryMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Lists what is held true of a subject, why and since when, now or as of any time.
     * Errors: INVALID_FIELD, TENANT_DENIED, ROUTE_NOT_FOUND, DEADLINE_EXCEEDED, STORE_UNAVAILABLE.
     * </pre>
     */
    public void listBeliefs(dev.standpipe.v1.ListBeliefsRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.ListBeliefsResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getListBeliefsMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Lists claims that wait for review, of one subject or of all. Errors: as ListBeliefs.
     * </pre>
     */
    public void listQuarantine(dev.standpipe.v1.ListQuarantineRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.ListQuarantineResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getListQuarantineMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Accepts or rejects a claim that waits. Errors: as CorrectFact.
     * </pre>
     */
    public void reviewQuarantine(dev.standpipe.v1.ReviewQuarantineRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.ReviewQuarantineResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getReviewQuarantineMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Erases a subject, or one session or document of it, with everything that was derived from it (P11). Answers when it
     * is done; called again, also after a deadline, it goes on and gives the same receipt.
     * Errors: INVALID_FIELD, SUBJECT_MISMATCH, TENANT_DENIED, DEADLINE_EXCEEDED, STORE_UNAVAILABLE, STORE_READ_ONLY.
     * </pre>
     */
    public void eraseSubject(dev.standpipe.v1.EraseSubjectRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.EraseSubjectResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getEraseSubjectMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Exports all that is stored of a subject, as Markdown or as JSON Lines that can be imported again, in pages.
     * Errors: INVALID_FIELD, ERASED, TENANT_DENIED, DEADLINE_EXCEEDED, STORE_UNAVAILABLE.
     * </pre>
     */
    public void exportSubject(dev.standpipe.v1.ExportSubjectRequest request,
        io.grpc.stub.StreamObserver<dev.standpipe.v1.ExportSubjectResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getExportSubjectMethod(), getCallOptions()), request, responseObserver);
    }
  }

  /**
   * A stub to allow clients to do synchronous rpc calls to service MemoryService.
   * <pre>
   * Long-term memory: facts, profile and documents, with their lineage. Every write is an event of a log, exactly once per
   * request id, and seen by every hydrate that starts after its answer (P1, P3, P4).
   * </pre>
   */
  public static final class MemoryServiceBlockingV2Stub
      extends io.grpc.stub.AbstractBlockingStub<MemoryServiceBlockingV2Stub> {
    private MemoryServiceBlockingV2Stub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected MemoryServiceBlockingV2Stub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new MemoryServiceBlockingV2Stub(channel, callOptions);
    }

    /**
     * <pre>
     * Records claims about a subject. Claims whose sources the user said are held; others wait for review.
     * Errors: INVALID_FIELD, LIMIT_EXCEEDED, REQUEST_ID_REUSED, ERASED, TENANT_DENIED, DEADLINE_EXCEEDED,
     * STORE_UNAVAILABLE, STORE_READ_ONLY, STORE_FULL, OVERLOADED.
     * </pre>
     */
    public dev.standpipe.v1.RecordFactsResponse recordFacts(dev.standpipe.v1.RecordFactsRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getRecordFactsMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Supersedes, retracts or rejects a fact. Errors: as RecordFacts, and FACT_NOT_FOUND.
     * </pre>
     */
    public dev.standpipe.v1.CorrectFactResponse correctFact(dev.standpipe.v1.CorrectFactRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getCorrectFactMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Pins or unpins a fact. Errors: as CorrectFact.
     * </pre>
     */
    public dev.standpipe.v1.PinFactResponse pinFact(dev.standpipe.v1.PinFactRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getPinFactMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Sets attributes of a subject's profile. Errors: as RecordFacts.
     * </pre>
     */
    public dev.standpipe.v1.PutProfileResponse putProfile(dev.standpipe.v1.PutProfileRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getPutProfileMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Ingests documents, each exactly once: the same content again stores nothing, other content becomes the next version.
     * Errors: as RecordFacts.
     * </pre>
     */
    public dev.standpipe.v1.IngestDocumentsResponse ingestDocuments(dev.standpipe.v1.IngestDocumentsRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getIngestDocumentsMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Searches a subject's turns, facts and documents as a hydrate would, without a budget. Errors: INVALID_FIELD,
     * LIMIT_EXCEEDED, TENANT_DENIED, ROUTE_NOT_FOUND, DEADLINE_EXCEEDED, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.SearchMemoryResponse searchMemory(dev.standpipe.v1.SearchMemoryRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getSearchMemoryMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Lists what is held true of a subject, why and since when, now or as of any time.
     * Errors: INVALID_FIELD, TENANT_DENIED, ROUTE_NOT_FOUND, DEADLINE_EXCEEDED, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.ListBeliefsResponse listBeliefs(dev.standpipe.v1.ListBeliefsRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getListBeliefsMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Lists claims that wait for review, of one subject or of all. Errors: as ListBeliefs.
     * </pre>
     */
    public dev.standpipe.v1.ListQuarantineResponse listQuarantine(dev.standpipe.v1.ListQuarantineRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getListQuarantineMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Accepts or rejects a claim that waits. Errors: as CorrectFact.
     * </pre>
     */
    public dev.standpipe.v1.ReviewQuarantineResponse reviewQuarantine(dev.standpipe.v1.ReviewQuarantineRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getReviewQuarantineMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Erases a subject, or one session or document of it, with everything that was derived from it (P11). Answers when it
     * is done; called again, also after a deadline, it goes on and gives the same receipt.
     * Errors: INVALID_FIELD, SUBJECT_MISMATCH, TENANT_DENIED, DEADLINE_EXCEEDED, STORE_UNAVAILABLE, STORE_READ_ONLY.
     * </pre>
     */
    public dev.standpipe.v1.EraseSubjectResponse eraseSubject(dev.standpipe.v1.EraseSubjectRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getEraseSubjectMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Exports all that is stored of a subject, as Markdown or as JSON Lines that can be imported again, in pages.
     * Errors: INVALID_FIELD, ERASED, TENANT_DENIED, DEADLINE_EXCEEDED, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.ExportSubjectResponse exportSubject(dev.standpipe.v1.ExportSubjectRequest request) throws io.grpc.StatusException {
      return io.grpc.stub.ClientCalls.blockingV2UnaryCall(
          getChannel(), getExportSubjectMethod(), getCallOptions(), request);
    }
  }

  /**
   * A stub to allow clients to do limited synchronous rpc calls to service MemoryService.
   * <pre>
   * Long-term memory: facts, profile and documents, with their lineage. Every write is an event of a log, exactly once per
   * request id, and seen by every hydrate that starts after its answer (P1, P3, P4).
   * </pre>
   */
  public static final class MemoryServiceBlockingStub
      extends io.grpc.stub.AbstractBlockingStub<MemoryServiceBlockingStub> {
    private MemoryServiceBlockingStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected MemoryServiceBlockingStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new MemoryServiceBlockingStub(channel, callOptions);
    }

    /**
     * <pre>
     * Records claims about a subject. Claims whose sources the user said are held; others wait for review.
     * Errors: INVALID_FIELD, LIMIT_EXCEEDED, REQUEST_ID_REUSED, ERASED, TENANT_DENIED, DEADLINE_EXCEEDED,
     * STORE_UNAVAILABLE, STORE_READ_ONLY, STORE_FULL, OVERLOADED.
     * </pre>
     */
    public dev.standpipe.v1.RecordFactsResponse recordFacts(dev.standpipe.v1.RecordFactsRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getRecordFactsMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Supersedes, retracts or rejects a fact. Errors: as RecordFacts, and FACT_NOT_FOUND.
     * </pre>
     */
    public dev.standpipe.v1.CorrectFactResponse correctFact(dev.standpipe.v1.CorrectFactRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getCorrectFactMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Pins or unpins a fact. Errors: as CorrectFact.
     * </pre>
     */
    public dev.standpipe.v1.PinFactResponse pinFact(dev.standpipe.v1.PinFactRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getPinFactMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Sets attributes of a subject's profile. Errors: as RecordFacts.
     * </pre>
     */
    public dev.standpipe.v1.PutProfileResponse putProfile(dev.standpipe.v1.PutProfileRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getPutProfileMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Ingests documents, each exactly once: the same content again stores nothing, other content becomes the next version.
     * Errors: as RecordFacts.
     * </pre>
     */
    public dev.standpipe.v1.IngestDocumentsResponse ingestDocuments(dev.standpipe.v1.IngestDocumentsRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getIngestDocumentsMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Searches a subject's turns, facts and documents as a hydrate would, without a budget. Errors: INVALID_FIELD,
     * LIMIT_EXCEEDED, TENANT_DENIED, ROUTE_NOT_FOUND, DEADLINE_EXCEEDED, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.SearchMemoryResponse searchMemory(dev.standpipe.v1.SearchMemoryRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getSearchMemoryMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Lists what is held true of a subject, why and since when, now or as of any time.
     * Errors: INVALID_FIELD, TENANT_DENIED, ROUTE_NOT_FOUND, DEADLINE_EXCEEDED, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.ListBeliefsResponse listBeliefs(dev.standpipe.v1.ListBeliefsRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getListBeliefsMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Lists claims that wait for review, of one subject or of all. Errors: as ListBeliefs.
     * </pre>
     */
    public dev.standpipe.v1.ListQuarantineResponse listQuarantine(dev.standpipe.v1.ListQuarantineRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getListQuarantineMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Accepts or rejects a claim that waits. Errors: as CorrectFact.
     * </pre>
     */
    public dev.standpipe.v1.ReviewQuarantineResponse reviewQuarantine(dev.standpipe.v1.ReviewQuarantineRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getReviewQuarantineMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Erases a subject, or one session or document of it, with everything that was derived from it (P11). Answers when it
     * is done; called again, also after a deadline, it goes on and gives the same receipt.
     * Errors: INVALID_FIELD, SUBJECT_MISMATCH, TENANT_DENIED, DEADLINE_EXCEEDED, STORE_UNAVAILABLE, STORE_READ_ONLY.
     * </pre>
     */
    public dev.standpipe.v1.EraseSubjectResponse eraseSubject(dev.standpipe.v1.EraseSubjectRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getEraseSubjectMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Exports all that is stored of a subject, as Markdown or as JSON Lines that can be imported again, in pages.
     * Errors: INVALID_FIELD, ERASED, TENANT_DENIED, DEADLINE_EXCEEDED, STORE_UNAVAILABLE.
     * </pre>
     */
    public dev.standpipe.v1.ExportSubjectResponse exportSubject(dev.standpipe.v1.ExportSubjectRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getExportSubjectMethod(), getCallOptions(), request);
    }
  }

  /**
   * A stub to allow clients to do ListenableFuture-style rpc calls to service MemoryService.
   * <pre>
   * Long-term memory: facts, profile and documents, with their lineage. Every write is an event of a log, exactly once per
   * request id, and seen by every hydrate that starts after its answer (P1, P3, P4).
   * </pre>
   */
  public static final class MemoryServiceFutureStub
      extends io.grpc.stub.AbstractFutureStub<MemoryServiceFutureStub> {
    private MemoryServiceFutureStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected MemoryServiceFutureStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new MemoryServiceFutureStub(channel, callOptions);
    }

    /**
     * <pre>
     * Records claims about a subject. Claims whose sources the user said are held; others wait for review.
     * Errors: INVALID_FIELD, LIMIT_EXCEEDED, REQUEST_ID_REUSED, ERASED, TENANT_DENIED, DEADLINE_EXCEEDED,
     * STORE_UNAVAILABLE, STORE_READ_ONLY, STORE_FULL, OVERLOADED.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.RecordFactsResponse> recordFacts(
        dev.standpipe.v1.RecordFactsRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getRecordFactsMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Supersedes, retracts or rejects a fact. Errors: as RecordFacts, and FACT_NOT_FOUND.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.CorrectFactResponse> correctFact(
        dev.standpipe.v1.CorrectFactRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getCorrectFactMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Pins or unpins a fact. Errors: as CorrectFact.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.PinFactResponse> pinFact(
        dev.standpipe.v1.PinFactRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getPinFactMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Sets attributes of a subject's profile. Errors: as RecordFacts.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.PutProfileResponse> putProfile(
        dev.standpipe.v1.PutProfileRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getPutProfileMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Ingests documents, each exactly once: the same content again stores nothing, other content becomes the next version.
     * Errors: as RecordFacts.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.IngestDocumentsResponse> ingestDocuments(
        dev.standpipe.v1.IngestDocumentsRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getIngestDocumentsMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Searches a subject's turns, facts and documents as a hydrate would, without a budget. Errors: INVALID_FIELD,
     * LIMIT_EXCEEDED, TENANT_DENIED, ROUTE_NOT_FOUND, DEADLINE_EXCEEDED, STORE_UNAVAILABLE.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.SearchMemoryResponse> searchMemory(
        dev.standpipe.v1.SearchMemoryRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getSearchMemoryMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Lists what is held true of a subject, why and since when, now or as of any time.
     * Errors: INVALID_FIELD, TENANT_DENIED, ROUTE_NOT_FOUND, DEADLINE_EXCEEDED, STORE_UNAVAILABLE.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.ListBeliefsResponse> listBeliefs(
        dev.standpipe.v1.ListBeliefsRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getListBeliefsMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Lists claims that wait for review, of one subject or of all. Errors: as ListBeliefs.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.ListQuarantineResponse> listQuarantine(
        dev.standpipe.v1.ListQuarantineRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getListQuarantineMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Accepts or rejects a claim that waits. Errors: as CorrectFact.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.ReviewQuarantineResponse> reviewQuarantine(
        dev.standpipe.v1.ReviewQuarantineRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getReviewQuarantineMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Erases a subject, or one session or document of it, with everything that was derived from it (P11). Answers when it
     * is done; called again, also after a deadline, it goes on and gives the same receipt.
     * Errors: INVALID_FIELD, SUBJECT_MISMATCH, TENANT_DENIED, DEADLINE_EXCEEDED, STORE_UNAVAILABLE, STORE_READ_ONLY.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.EraseSubjectResponse> eraseSubject(
        dev.standpipe.v1.EraseSubjectRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getEraseSubjectMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Exports all that is stored of a subject, as Markdown or as JSON Lines that can be imported again, in pages.
     * Errors: INVALID_FIELD, ERASED, TENANT_DENIED, DEADLINE_EXCEEDED, STORE_UNAVAILABLE.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.standpipe.v1.ExportSubjectResponse> exportSubject(
        dev.standpipe.v1.ExportSubjectRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getExportSubjectMethod(), getCallOptions()), request);
    }
  }

  private static final int METHODID_RECORD_FACTS = 0;
  private static final int METHODID_CORRECT_FACT = 1;
  private static final int METHODID_PIN_FACT = 2;
  private static final int METHODID_PUT_PROFILE = 3;
  private static final int METHODID_INGEST_DOCUMENTS = 4;
  private static final int METHODID_SEARCH_MEMORY = 5;
  private static final int METHODID_LIST_BELIEFS = 6;
  private static final int METHODID_LIST_QUARANTINE = 7;
  private static final int METHODID_REVIEW_QUARANTINE = 8;
  private static final int METHODID_ERASE_SUBJECT = 9;
  private static final int METHODID_EXPORT_SUBJECT = 10;

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
        case METHODID_RECORD_FACTS:
          serviceImpl.recordFacts((dev.standpipe.v1.RecordFactsRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.RecordFactsResponse>) responseObserver);
          break;
        case METHODID_CORRECT_FACT:
          serviceImpl.correctFact((dev.standpipe.v1.CorrectFactRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.CorrectFactResponse>) responseObserver);
          break;
        case METHODID_PIN_FACT:
          serviceImpl.pinFact((dev.standpipe.v1.PinFactRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.PinFactResponse>) responseObserver);
          break;
        case METHODID_PUT_PROFILE:
          serviceImpl.putProfile((dev.standpipe.v1.PutProfileRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.PutProfileResponse>) responseObserver);
          break;
        case METHODID_INGEST_DOCUMENTS:
          serviceImpl.ingestDocuments((dev.standpipe.v1.IngestDocumentsRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.IngestDocumentsResponse>) responseObserver);
          break;
        case METHODID_SEARCH_MEMORY:
          serviceImpl.searchMemory((dev.standpipe.v1.SearchMemoryRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.SearchMemoryResponse>) responseObserver);
          break;
        case METHODID_LIST_BELIEFS:
          serviceImpl.listBeliefs((dev.standpipe.v1.ListBeliefsRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.ListBeliefsResponse>) responseObserver);
          break;
        case METHODID_LIST_QUARANTINE:
          serviceImpl.listQuarantine((dev.standpipe.v1.ListQuarantineRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.ListQuarantineResponse>) responseObserver);
          break;
        case METHODID_REVIEW_QUARANTINE:
          serviceImpl.reviewQuarantine((dev.standpipe.v1.ReviewQuarantineRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.ReviewQuarantineResponse>) responseObserver);
          break;
        case METHODID_ERASE_SUBJECT:
          serviceImpl.eraseSubject((dev.standpipe.v1.EraseSubjectRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.EraseSubjectResponse>) responseObserver);
          break;
        case METHODID_EXPORT_SUBJECT:
          serviceImpl.exportSubject((dev.standpipe.v1.ExportSubjectRequest) request,
              (io.grpc.stub.StreamObserver<dev.standpipe.v1.ExportSubjectResponse>) responseObserver);
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
          getRecordFactsMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.RecordFactsRequest,
              dev.standpipe.v1.RecordFactsResponse>(
                service, METHODID_RECORD_FACTS)))
        .addMethod(
          getCorrectFactMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.CorrectFactRequest,
              dev.standpipe.v1.CorrectFactResponse>(
                service, METHODID_CORRECT_FACT)))
        .addMethod(
          getPinFactMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.PinFactRequest,
              dev.standpipe.v1.PinFactResponse>(
                service, METHODID_PIN_FACT)))
        .addMethod(
          getPutProfileMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.PutProfileRequest,
              dev.standpipe.v1.PutProfileResponse>(
                service, METHODID_PUT_PROFILE)))
        .addMethod(
          getIngestDocumentsMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.IngestDocumentsRequest,
              dev.standpipe.v1.IngestDocumentsResponse>(
                service, METHODID_INGEST_DOCUMENTS)))
        .addMethod(
          getSearchMemoryMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.SearchMemoryRequest,
              dev.standpipe.v1.SearchMemoryResponse>(
                service, METHODID_SEARCH_MEMORY)))
        .addMethod(
          getListBeliefsMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.ListBeliefsRequest,
              dev.standpipe.v1.ListBeliefsResponse>(
                service, METHODID_LIST_BELIEFS)))
        .addMethod(
          getListQuarantineMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.ListQuarantineRequest,
              dev.standpipe.v1.ListQuarantineResponse>(
                service, METHODID_LIST_QUARANTINE)))
        .addMethod(
          getReviewQuarantineMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.ReviewQuarantineRequest,
              dev.standpipe.v1.ReviewQuarantineResponse>(
                service, METHODID_REVIEW_QUARANTINE)))
        .addMethod(
          getEraseSubjectMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.EraseSubjectRequest,
              dev.standpipe.v1.EraseSubjectResponse>(
                service, METHODID_ERASE_SUBJECT)))
        .addMethod(
          getExportSubjectMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.standpipe.v1.ExportSubjectRequest,
              dev.standpipe.v1.ExportSubjectResponse>(
                service, METHODID_EXPORT_SUBJECT)))
        .build();
  }

  private static abstract class MemoryServiceBaseDescriptorSupplier
      implements io.grpc.protobuf.ProtoFileDescriptorSupplier, io.grpc.protobuf.ProtoServiceDescriptorSupplier {
    MemoryServiceBaseDescriptorSupplier() {}

    @java.lang.Override
    public com.google.protobuf.Descriptors.FileDescriptor getFileDescriptor() {
      return dev.standpipe.v1.MemoryProto.getDescriptor();
    }

    @java.lang.Override
    public com.google.protobuf.Descriptors.ServiceDescriptor getServiceDescriptor() {
      return getFileDescriptor().findServiceByName("MemoryService");
    }
  }

  private static final class MemoryServiceFileDescriptorSupplier
      extends MemoryServiceBaseDescriptorSupplier {
    MemoryServiceFileDescriptorSupplier() {}
  }

  private static final class MemoryServiceMethodDescriptorSupplier
      extends MemoryServiceBaseDescriptorSupplier
      implements io.grpc.protobuf.ProtoMethodDescriptorSupplier {
    private final java.lang.String methodName;

    MemoryServiceMethodDescriptorSupplier(java.lang.String methodName) {
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
      synchronized (MemoryServiceGrpc.class) {
        result = serviceDescriptor;
        if (result == null) {
          serviceDescriptor = result = io.grpc.ServiceDescriptor.newBuilder(SERVICE_NAME)
              .setSchemaDescriptor(new MemoryServiceFileDescriptorSupplier())
              .addMethod(getRecordFactsMethod())
              .addMethod(getCorrectFactMethod())
              .addMethod(getPinFactMethod())
              .addMethod(getPutProfileMethod())
              .addMethod(getIngestDocumentsMethod())
              .addMethod(getSearchMemoryMethod())
              .addMethod(getListBeliefsMethod())
              .addMethod(getListQuarantineMethod())
              .addMethod(getReviewQuarantineMethod())
              .addMethod(getEraseSubjectMethod())
              .addMethod(getExportSubjectMethod())
              .build();
        }
      }
    }
    return result;
  }
}
