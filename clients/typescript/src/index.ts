/** Standpipe's TypeScript client: fresh context for every model call, and every turn committed exactly once. */

export {
  Bundle,
  type AnthropicBlock,
  type AnthropicMessage,
  type AnthropicPrompt,
  type AnthropicText,
  type AnthropicToolResult,
  type AnthropicToolUse,
  type BundleExtras,
  type Cached,
  type OpenAIMessage,
  type OpenAIToolCall,
  type Replay,
} from "./bundle.js";
export { DEADLINE_MS, SERVICE_CONFIG, TARGET, WIRE_BYTES, type CallOptions, type WireOptions } from "./channel.js";
export {
  connect,
  TURN_ATTEMPTS,
  type Answer,
  type Client,
  type Commit,
  type CommitOptions,
  type ConnectOptions,
  type Consistency,
  type EndOptions,
  type HydrateOptions,
  type Session,
  type ShapeOptions,
  type SourceName,
  type Stub,
  type TurnOptions,
  type TurnResult,
} from "./client.js";
export { FileInvalid } from "./credentials.js";
export * from "./errors.js";
export { assistant, toolCall, toolResult, user, type Entries, type MessageOptions } from "./turn.js";
