/**
 * A bundle: what the model should see, and its form for the models' own APIs.
 *
 * Both forms keep the order that prompt caches want, stable before volatile, and the same bundle and query always give
 * the same JSON bytes:
 *
 * - POLICY, PROFILE and SUMMARY, in this order, are the system side, as canonical text.
 * - HISTORY becomes real messages: a body without its final newline and without the header, whose role the message
 *   itself has. A tool call and its result stay next to each other. Should one ever come without the other, it becomes
 *   plain text, since providers refuse half a pair. Frame lines become text on the user's side.
 * - RECALL, FACTS and DOCUMENTS stand in front of the query in the last user message: what a query finds in what was said
 *   is never system. So does a section whose source this client does not know yet.
 *
 * Providers are narrower than Standpipe, so some names are mapped, always in the same way: a tool name's characters
 * outside A-Z a-z 0-9 _ - become "_" and 64 are kept; a call id with other characters, or longer than 40, becomes
 * "call_" and 32 digits of its SHA-256; arguments that are not a JSON object, such as shortened ones, become
 * {"raw": text}.
 */

import { createHash } from "node:crypto";
import { inspect } from "node:util";
import {
  SegmentKind,
  Source,
  type Bundle as BundleMessage,
  type Omission,
  type OmissionCount,
  type Section,
  type Segment,
} from "./gen/standpipe/v1/bundle_pb.js";
import type { Degradation, RecallInfo, Timings, TokenTax } from "./gen/standpipe/v1/context_pb.js";
import { Role } from "./gen/standpipe/v1/turn_pb.js";

/** Anthropic's first message must be the user's: this stands there when the history starts with the assistant. */
export const HISTORY_START = "[start of the visible conversation]";

/** Levels of objects and lists in a tool's arguments: more than anybody writes, less than any parser ends at. */
export const ARGUMENTS_DEPTH_MAX = 128;

/** Cache breakpoints that Anthropic takes in one request; the last ones stay, since they cover most. */
export const BREAKPOINTS_MAX = 4;

/** A call of a tool, as OpenAI has it. */
export interface OpenAIToolCall {
  id: string;
  type: "function";
  function: { name: string; arguments: string };
}

/** A chat message, as OpenAI and servers compatible with it take it. */
export type OpenAIMessage =
  | { role: "system"; content: string }
  | { role: "user"; content: string; name?: string }
  | { role: "assistant"; content: string; name?: string }
  | { role: "assistant"; content: null; tool_calls: OpenAIToolCall[] }
  | { role: "tool"; tool_call_id: string; content: string };

/** Where Anthropic should cache up to. */
export interface Cached {
  cache_control?: { type: "ephemeral" };
}

/** A block of text. */
export interface AnthropicText extends Cached {
  type: "text";
  text: string;
}

/** A call of a tool, as Anthropic has it. */
export interface AnthropicToolUse extends Cached {
  type: "tool_use";
  id: string;
  name: string;
  input: Record<string, unknown>;
}

/** A tool's answer, as Anthropic has it. */
export interface AnthropicToolResult extends Cached {
  type: "tool_result";
  tool_use_id: string;
  content?: string;
  is_error?: true;
}

/** A block of a message. */
export type AnthropicBlock = AnthropicText | AnthropicToolUse | AnthropicToolResult;

/** A message of Anthropic's Messages API. */
export interface AnthropicMessage {
  role: "user" | "assistant";
  content: AnthropicBlock[];
}

/** What Anthropic's Messages API takes, to be spread into a request. */
export interface AnthropicPrompt {
  system: AnthropicText[];
  messages: AnthropicMessage[];
}

/** What came with a bundle. */
export interface BundleExtras {
  /** What it was hydrated with. */
  query?: string;
  /** Renders it again with `client.replay`; a commit with `bundle` stores it with the turn. */
  receipt?: Uint8Array;
  /** The consistency token of what it has seen. */
  token?: string;
  /** The sources that are missing or reduced, and why; empty when all is well (P12). */
  degraded?: readonly Degradation[];
  /** Where the time went, in microseconds; undefined for a replay. */
  timings?: Timings | undefined;
  /** What it costs, in tokens; undefined for a replay. */
  tax?: TokenTax | undefined;
  /** What recall searched; undefined when it was not asked for. */
  recall?: RecallInfo | undefined;
}

const SYSTEM: readonly Source[] = [Source.POLICY, Source.PROFILE, Source.SUMMARY];
const NAME = /^[a-zA-Z0-9_-]{1,64}$/;
const CALL_ID = /^[a-zA-Z0-9_-]{1,40}$/;
const NOT_NAME = /[^a-zA-Z0-9_-]/gu;
/** White space as all of Standpipe's clients see it; `trim` has other ideas of U+0085 and of U+FEFF. */
const BLANK = /^[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*$/;

type Step = { segment: Segment } | { call: Segment; result: Segment };

/** Everything that the model should see before the user's new message. */
export class Bundle {
  /** As it came; what follows reads it. */
  readonly message: BundleMessage;
  /** What it was hydrated with. */
  readonly query: string;
  /** Renders it again with `client.replay`; a commit with `bundle` stores it with the turn. */
  readonly receipt: Uint8Array;
  /** The consistency token of what it has seen. */
  readonly token: string;
  /** The sources that are missing or reduced, and why; empty when all is well (P12). */
  readonly degraded: readonly Degradation[];
  /** Where the time went, in microseconds; undefined for a replay. */
  readonly timings: Timings | undefined;
  /** What it costs, in tokens; undefined for a replay. */
  readonly tax: TokenTax | undefined;
  /** What recall searched; undefined when it was not asked for. */
  readonly recall: RecallInfo | undefined;

  constructor(message: BundleMessage, extras: BundleExtras = {}) {
    this.message = message;
    this.query = extras.query ?? "";
    this.receipt = extras.receipt ?? new Uint8Array();
    this.token = extras.token ?? "";
    this.degraded = extras.degraded ?? [];
    this.timings = extras.timings;
    this.tax = extras.tax;
    this.recall = extras.recall;
  }

  /** Its sections in the order of Source; a source without content has none. */
  get sections(): readonly Section[] {
    return this.message.sections;
  }

  /** Its tokens, never more than `budgetTokens` (P5). */
  get tokens(): number {
    return this.message.tokens;
  }

  /** The total that was in force. */
  get budgetTokens(): number {
    return this.message.budgetTokens;
  }

  /** The tokenizer that counted. */
  get tokenizer(): string {
    return this.message.tokenizer;
  }

  /** SHA-256 of its canonical bytes in hexadecimal: equal means identical model input (P6). */
  get fingerprint(): string {
    return Buffer.from(this.message.fingerprint).toString("hex");
  }

  /** The policy that shaped it, as name@version. */
  get policy(): string {
    return this.message.policy;
  }

  /** The session's version that it shows; 0 for a session that does not exist yet. */
  get version(): number {
    return Number(this.message.sessionVersion);
  }

  /** The best-ranked candidates that were left out, and why; all of them in a full replay. */
  get omissions(): readonly Omission[] {
    return this.message.omissions;
  }

  /** How many candidates were left out, by source and reason. */
  get omissionCounts(): readonly OmissionCount[] {
    return this.message.omissionCounts;
  }

  /** Its canonical text: header and body of all segments, without the query. */
  get text(): string {
    return this.sections.map(textOf).join("");
  }

  /** Name it without showing content. */
  toString(): string {
    return `<Bundle version=${this.version} tokens=${this.tokens} fingerprint=${this.fingerprint.slice(0, 12)}>`;
  }

  /** Name it in logs without showing content. */
  [inspect.custom](): string {
    return this.toString();
  }

  /**
   * Return OpenAI chat messages; the last is the user's, with what was found and `query`, if there is either.
   *
   * Without `query` it is what the bundle was hydrated with. Content is plain text and there is one system message at
   * most, since many compatible servers take no other; its sections are set apart by an empty line. A speaker's name
   * goes into `name` where OpenAI allows it. A failed tool's result starts with "error: ", since this form has no field
   * for it.
   */
  toOpenAI(query: string = this.query): OpenAIMessage[] {
    const out: OpenAIMessage[] = [];
    const system = this.sections.filter((section) => SYSTEM.includes(section.source)).map(textOf);
    if (system.length > 0) {
      out.push({ role: "system", content: withoutNewline(system.join("\n")) });
    }
    for (const step of this.#history()) {
      if ("segment" in step) {
        const { segment } = step;
        const role = roleOf(segment);
        const named = segment.name !== role && isSpoken(segment) && NAME.test(segment.name);
        out.push({ role, content: contentOf(segment), ...(named ? { name: segment.name } : {}) });
        continue;
      }
      const { call, result } = step;
      const id = callIdOf(call);
      out.push({
        role: "assistant",
        content: null,
        tool_calls: [{ id, type: "function", function: { name: toolNameOf(call), arguments: argumentsOf(call)[0] } }],
      });
      out.push({ role: "tool", tool_call_id: id, content: (result.isError ? "error: " : "") + bodyOf(result) });
    }
    const last = [this.#recalled(), query].filter((text) => text !== "");
    if (last.length > 0) {
      out.push({ role: "user", content: last.join("\n") });
    }
    return out;
  }

  /**
   * Return `system` and `messages` for Anthropic's Messages API, with cache breakpoints.
   *
   * Without `query` it is what the bundle was hydrated with. Roles alternate: neighbours of one role are one message of
   * several blocks. A history that starts with the assistant gets `HISTORY_START` in front. Every section that has a
   * cache breakpoint, and the history always, ends in a block with `cache_control`. Blocks of white space alone are left
   * out, since the API refuses them.
   */
  toAnthropic(query: string = this.query): AnthropicPrompt {
    const marks: Cached[] = [];
    const system: AnthropicText[] = [];
    for (const section of this.sections) {
      const text = withoutNewline(textOf(section));
      if (SYSTEM.includes(section.source) && !isBlank(text)) {
        const block: AnthropicText = { type: "text", text };
        system.push(block);
        if (section.cacheBreakpoint) {
          marks.push(block);
        }
      }
    }
    const messages: AnthropicMessage[] = [];
    const add = (role: AnthropicMessage["role"], block: AnthropicBlock): void => {
      const before = messages.at(-1);
      if (before?.role === role) {
        before.content.push(block);
        return;
      }
      if (before === undefined && role === "assistant") {
        messages.push({ role: "user", content: [{ type: "text", text: HISTORY_START }] });
      }
      messages.push({ role, content: [block] });
    };

    for (const step of this.#history()) {
      if ("segment" in step) {
        const content = contentOf(step.segment);
        if (!isBlank(content)) {
          add(roleOf(step.segment), { type: "text", text: content });
        }
        continue;
      }
      const { call, result } = step;
      const id = callIdOf(call);
      add("assistant", { type: "tool_use", id, name: toolNameOf(call), input: argumentsOf(call)[1] });
      const content = bodyOf(result);
      add("user", {
        type: "tool_result",
        tool_use_id: id,
        ...(isBlank(content) ? {} : { content }),
        ...(result.isError ? { is_error: true } : {}),
      });
    }
    const lastOfHistory = messages.at(-1)?.content.at(-1);
    if (lastOfHistory !== undefined) {
      marks.push(lastOfHistory);
    }
    for (const text of [withoutNewline(this.#recalled()), query]) {
      if (!isBlank(text)) {
        add("user", { type: "text", text });
      }
    }
    for (const block of marks.slice(-BREAKPOINTS_MAX)) {
      block.cache_control = { type: "ephemeral" };
    }
    return { system, messages };
  }

  /** Yield the history's segments, a tool call together with its result. */
  *#history(): Generator<Step> {
    const segments = this.sections
      .filter((section) => section.source === Source.HISTORY)
      .flatMap((section) => section.segments);
    for (let at = 0; at < segments.length; at += 1) {
      const [call, result] = segments.slice(at, at + 2) as [Segment, Segment?];
      if (
        call.kind === SegmentKind.TOOL_CALL &&
        result?.kind === SegmentKind.TOOL_RESULT &&
        call.toolCallId === result.toolCallId
      ) {
        yield { call, result };
        at += 1;
      } else {
        yield { segment: call };
      }
    }
  }

  #recalled(): string {
    return this.sections
      .filter((section) => !SYSTEM.includes(section.source) && section.source !== Source.HISTORY)
      .map(textOf)
      .join("");
  }
}

/** A bundle that was served before, rendered again byte for byte (P7). */
export interface Replay {
  /** Equal to what was served, except for the length of its omission list when all were asked for. */
  bundle: Bundle;
  /** When it was served. */
  servedAt: Date;
  /** The session that it was served for. */
  sessionId: string;
  /** Whose memory it recalled. */
  subjectId: string;
}

function textOf(section: Section): string {
  return section.segments.map((segment) => segment.header + segment.body).join("");
}

function withoutNewline(text: string): string {
  return text.endsWith("\n") ? text.slice(0, -1) : text;
}

function bodyOf(segment: Segment): string {
  return withoutNewline(segment.body);
}

function isBlank(text: string): boolean {
  return BLANK.test(text);
}

function isSpoken(segment: Segment): boolean {
  return segment.kind === SegmentKind.TEXT;
}

/** Return what a message says; what nobody said keeps its header, as the only word on what it is. */
function contentOf(segment: Segment): string {
  return isSpoken(segment) ? bodyOf(segment) : segment.header + bodyOf(segment);
}

function roleOf(segment: Segment): "assistant" | "user" {
  return segment.role === Role.ASSISTANT && segment.kind !== SegmentKind.FRAME ? "assistant" : "user";
}

function toolNameOf(call: Segment): string {
  return call.name.replace(NOT_NAME, "_").slice(0, 64) || "tool";
}

function callIdOf(call: Segment): string {
  if (CALL_ID.test(call.toolCallId)) {
    return call.toolCallId;
  }
  return `call_${createHash("sha256").update(call.toolCallId).digest("hex").slice(0, 32)}`;
}

/** Return a call's arguments as JSON text, unchanged if it is an object, and as that object. */
function argumentsOf(call: Segment): [text: string, value: Record<string, unknown>] {
  const text = bodyOf(call);
  if (isBlank(text)) {
    return ["{}", {}];
  }
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value) && isSendable(value, ARGUMENTS_DEPTH_MAX)) {
      return [text, value as Record<string, unknown>];
    }
  } catch {
    // It is no JSON.
  }
  return [`{"raw": ${JSON.stringify(text)}}`, { raw: text }];
}

/** Tell whether any request can carry it: half a surrogate pair and 1e999 are JSON that few read, or none. */
function isSendable(value: unknown, depth: number): boolean {
  switch (typeof value) {
    case "string":
      return value.isWellFormed();
    case "number":
      return Number.isFinite(value);
    case "object":
      if (value === null) {
        return true;
      }
      return (
        depth > 0 && Object.entries(value).every(([key, item]) => key.isWellFormed() && isSendable(item, depth - 1))
      );
    default:
      return true;
  }
}
