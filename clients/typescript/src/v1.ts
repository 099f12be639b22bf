/** The generated messages, enums and services of standpipe.v1, for `client.stub` and for entries built by hand. */

export * from "./gen/standpipe/v1/bundle_pb.js";
export * from "./gen/standpipe/v1/context_pb.js";
export * from "./gen/standpipe/v1/embedding_pb.js";
export * from "./gen/standpipe/v1/error_pb.js";
export * from "./gen/standpipe/v1/fact_pb.js";
export * from "./gen/standpipe/v1/memory_pb.js";
export * from "./gen/standpipe/v1/policy_pb.js";
export * from "./gen/standpipe/v1/session_pb.js";
export * from "./gen/standpipe/v1/state_pb.js";
export * from "./gen/standpipe/v1/turn_pb.js";
