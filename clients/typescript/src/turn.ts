/**
 * The entries of a turn, in the caller's words: `commit([user("Hi"), assistant("Hello!")])`.
 *
 * Limits are the server's (turn.proto): 1 to 256 entries a turn, 512 KiB of text each, 256 KiB of arguments. What these
 * helpers cannot say, such as media, is a `TurnEntry` built by hand: a commit takes both.
 */

import { create, isMessage, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { Role, TurnEntrySchema, type EventRefSchema, type TurnEntry } from "./gen/standpipe/v1/turn_pb.js";

/** One entry or several, in order. */
export type Entries = TurnEntry | Iterable<TurnEntry>;

/** What a message may have besides its text. */
export interface MessageOptions {
  /** Shown instead of "user" or "assistant". */
  speaker?: string | undefined;
  /** When it was said; else it counts as said when it is committed. */
  at?: Date | undefined;
  /** What it rests on. */
  citations?: Iterable<MessageInitShape<typeof EventRefSchema>> | undefined;
}

/** Return what the human said. */
export function user(text: string, options: MessageOptions = {}): TurnEntry {
  return message(Role.USER, text, options);
}

/** Return what the model said. */
export function assistant(text: string, options: MessageOptions = {}): TurnEntry {
  return message(Role.ASSISTANT, text, options);
}

/**
 * Return a call that the model made; `args` is an object, or the JSON text as the model wrote it.
 *
 * Throws TypeError or RangeError if an object cannot be written as JSON without loss.
 */
export function toolCall(id: string, name: string, args: Readonly<Record<string, unknown>> | string = ""): TurnEntry {
  const argumentsJson = typeof args === "string" ? wellFormed(args, "args") : written(args);
  return create(TurnEntrySchema, {
    entry: { case: "toolCall", value: { id: wellFormed(id, "id"), name: wellFormed(name, "name"), argumentsJson } },
  });
}

/** Return what a tool answered to the call `callId`, of this turn or still open from an earlier one. */
export function toolResult(callId: string, content: string, options: { isError?: boolean | undefined } = {}): TurnEntry {
  const value = {
    callId: wellFormed(callId, "callId"),
    content: wellFormed(content, "content"),
    isError: options.isError ?? false,
  };
  return create(TurnEntrySchema, { entry: { case: "toolResult", value } });
}

/** Return `entries` as an array. Throws TypeError for anything but entries: plain text has no role. */
export function asArray(entries: Entries): TurnEntry[] {
  const items: unknown[] = isMessage(entries, TurnEntrySchema) ? [entries] : [...entries];
  return items.map((item) => {
    if (!isMessage(item, TurnEntrySchema)) {
      throw new TypeError(`a turn holds entries made by user(), assistant(), ..., not ${typeof item}`);
    }
    return item;
  });
}

/** Return `text`, which UTF-8 must be able to carry: else it would be stored with other characters than it has. */
export function wellFormed(text: string, argument: string): string {
  if (typeof text !== "string") {
    throw new TypeError(`${argument} must be a string, not ${typeof text}`);
  }
  if (!text.isWellFormed()) {
    throw new RangeError(`${argument} holds half a surrogate pair, which UTF-8 cannot carry`);
  }
  return text;
}

function message(role: Role, text: string, { speaker = "", at, citations = [] }: MessageOptions): TurnEntry {
  if (at !== undefined && Number.isNaN(at.getTime())) {
    throw new RangeError("at must be a valid Date");
  }
  const value = {
    role,
    text: wellFormed(text, "text"),
    speaker: wellFormed(speaker, "speaker"),
    citations: [...citations],
    ...(at === undefined ? {} : { spokenAt: timestampFromDate(at) }),
  };
  return create(TurnEntrySchema, { entry: { case: "message", value } });
}

function written(args: Readonly<Record<string, unknown>>): string {
  if (typeof args !== "object" || args === null || Array.isArray(args)) {
    throw new TypeError("args must be an object, or JSON text");
  }
  return JSON.stringify(args, (key, value: unknown) => {
    wellFormed(key, "args");
    if (typeof value === "number" && !Number.isFinite(value)) {
      throw new RangeError(`args holds ${value}, which JSON cannot say`);
    }
    return typeof value === "string" ? wellFormed(value, "args") : value;
  });
}
