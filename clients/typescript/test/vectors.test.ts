/** The vectors that the clients of all languages run. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { create, fromJson, toJson, type JsonValue } from "@bufbuild/protobuf";
import { status } from "@grpc/grpc-js";
import {
  assistant,
  Bundle,
  connect,
  StandpipeError,
  toolCall,
  toolResult,
  user,
  type Client,
  type Consistency,
  type MessageOptions,
} from "@standpipe/client";
import {
  BundleSchema,
  CommitTurnResponseSchema,
  ConsistencySchema,
  EventRefSchema,
  HydrateContextResponseSchema,
  TurnEntrySchema,
  type HydrateContextRequest,
  type TurnEntry,
} from "@standpipe/client/v1";
import { Double, type Scripted } from "./double.js";

const HYDRATED = create(HydrateContextResponseSchema, { bundle: {} });
const COMMITTED = create(CommitTurnResponseSchema, { result: { version: 1n, committedAt: {} } });

function vectors<Row>(name: string): Row {
  const text = readFileSync(new URL(`../../../../tests/vectors/${name}`, import.meta.url), "utf8");
  // JSON.parse has no 64 bits for a version.
  return JSON.parse(text.replaceAll(/"version": ([0-9]+)/g, '"version": "$1"')) as Row;
}

/** Return what JSON can carry of a value. */
function json(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value));
}

describe("rendering.json", () => {
  type Row = { name: string; bundle: JsonValue; query: string | null; openai: unknown; anthropic: unknown };
  for (const row of vectors<Row[]>("rendering.json")) {
    it(row.name, () => {
      const message = fromJson(BundleSchema, row.bundle);
      const query = row.query ?? "";
      const bundle = new Bundle(message, { query });
      assert.deepEqual(json(bundle.toOpenAI()), row.openai);
      assert.deepEqual(json(bundle.toAnthropic()), row.anthropic);
      const other = new Bundle(message, { query: "something else" });
      assert.deepEqual(json(other.toOpenAI(query)), row.openai);
      assert.deepEqual(json(other.toAnthropic(query)), row.anthropic);
    });
  }
});

describe("errors.json", () => {
  interface Row {
    name: string;
    code: string;
    message: string;
    details_base64: string | null;
    expect: Record<string, unknown>;
  }
  for (const row of vectors<Row[]>("errors.json")) {
    it(row.name, async () => {
      using server = await new Double([row.code as Scripted]).start();
      server.message = row.message;
      server.trailers = { other: "x" };
      if (row.details_base64 !== null) {
        server.trailers["grpc-status-details-bin"] = Buffer.from(row.details_base64, "base64");
      }
      const error = await refused(server);
      const found = {
        kind: error.name,
        code: error.code,
        reason: error.reason,
        metadata: { ...error.metadata },
        field: error.field ?? null,
        field_message: error.fieldMessage ?? null,
        retry_after_ms: error.retryAfterMs ?? null,
      };
      assert.deepEqual(found, row.expect);
      assert.equal(error.constructor.name, error.name);
      assert.equal(error.message, row.message);
    });
  }
});

describe("entries.json", () => {
  type Given = Record<string, never> & { at?: string; citations?: JsonValue[] };
  type Row = { name: string; call: { helper: string; arguments: Given }; entry: JsonValue };
  const options = (given: Given): MessageOptions => ({
    speaker: given["speaker"],
    at: given.at === undefined ? undefined : new Date(given.at),
    citations: given.citations?.map((one) => fromJson(EventRefSchema, one)),
  });
  const helpers: Record<string, (given: Given) => TurnEntry> = {
    user: (given) => user(given["text"]!, options(given)),
    assistant: (given) => assistant(given["text"]!, options(given)),
    tool_call: (given) => toolCall(given["id"]!, given["name"]!, given["arguments"]),
    tool_result: (given) => toolResult(given["call_id"]!, given["content"]!, { isError: given["is_error"] }),
  };
  for (const row of vectors<Row[]>("entries.json")) {
    it(row.name, () => {
      const entry = helpers[row.call.helper]!(row.call.arguments);
      assert.deepEqual(toJson(TurnEntrySchema, entry), toJson(TurnEntrySchema, fromJson(TurnEntrySchema, row.entry)));
    });
  }
});

describe("tokens.json", () => {
  interface Row {
    name: string;
    initial: string;
    seen: { version: string; token: string }[];
    consistency: Consistency | null;
    sends: JsonValue;
  }
  for (const row of vectors<Row[]>("tokens.json")) {
    it(row.name, async () => {
      using server = await new Double([
        ...row.seen.map(({ version, token }) =>
          create(HydrateContextResponseSchema, { bundle: { sessionVersion: BigInt(version) }, consistencyToken: token }),
        ),
        HYDRATED,
      ]).start();
      await withClient(server, async (client) => {
        const session = client.session("s", { token: row.initial });
        for (const _ of row.seen) {
          await session.hydrate();
        }
        await session.hydrate("", { consistency: row.consistency ?? undefined });
      });
      const { consistency } = server.seen.at(-1)!.request as HydrateContextRequest;
      assert.deepEqual(consistency === undefined ? null : toJson(ConsistencySchema, consistency), row.sends);
    });
  }
});

describe("retries.json", { concurrency: 8 }, () => {
  interface Row {
    name: string;
    method: "hydrate" | "commit";
    answers: (keyof typeof status | "WAIT")[];
    deadline_ms: number;
    calls: number;
    outcome: string;
  }
  for (const row of vectors<Row[]>("retries.json")) {
    it(row.name, async () => {
      const ok = row.method === "hydrate" ? HYDRATED : COMMITTED;
      const answers = row.answers.map((name): Scripted => (name === "OK" ? ok : name));
      using server = await new Double(answers).start();
      await withClient(server, async (client) => {
        const session = client.session("s", { subject: "anna" });
        const { deadline_ms: deadlineMs } = row;
        const call: Promise<unknown> =
          row.method === "hydrate"
            ? session.hydrate("", { deadlineMs })
            : session.commit(user("Hi"), { expectedVersion: 0, deadlineMs });
        const outcome = await call.then(
          () => "OK",
          (error: Error) => error.name,
        );
        assert.equal(outcome, row.outcome);
        assert.equal(server.seen.length, row.calls);
      });
    });
  }
});

/** Return the error of a hydrate that is not retried. */
async function refused(server: Double): Promise<StandpipeError> {
  const client = connect(server.target, { channelOptions: { "grpc.enable_retries": 0 } });
  try {
    await client.session("s").hydrate();
  } catch (error) {
    assert.ok(error instanceof StandpipeError);
    return error;
  } finally {
    client.close();
  }
  throw new Error("the call was answered");
}

async function withClient(server: Double, work: (client: Client) => Promise<void>): Promise<void> {
  const client = connect(server.target);
  try {
    await work(client);
  } finally {
    client.close();
  }
}
