/**
 * The test driver: one JSON command a line on stdin, one JSON answer a line on stdout, in order, until the input ends.
 *
 * tests/clients has the scenarios, and says what each command means.
 */

import { createInterface } from "node:readline";
import { create, fromBinary, fromJson, toBinary, toJson, type JsonValue } from "@bufbuild/protobuf";
import { Client as BareClient, credentials } from "@grpc/grpc-js";
import {
  connect,
  SERVICE_CONFIG,
  StandpipeError,
  user,
  WIRE_BYTES,
  type Bundle,
  type Client,
  type Commit,
  type Session,
  type SourceName,
} from "@standpipe/client";
import {
  EventSchema,
  HydrateContextRequestSchema,
  HydrateContextResponseSchema,
  TurnEntrySchema,
  type HydrateContextRequest,
  type HydrateContextResponse,
} from "@standpipe/client/v1";

interface Command {
  do: string;
  target?: string;
  tenant?: string;
  deadline_ms?: number;
  token_file?: string;
  ca_file?: string;
  cert_file?: string;
  key_file?: string;
  session: string;
  subject?: string;
  query?: string;
  budget_tokens?: number;
  route?: string;
  include?: SourceName[];
  fully?: boolean;
  entries: JsonValue[];
  expected_version?: number;
  request_id?: string;
  mode?: "fail" | "append";
  from_bundle?: boolean;
  answer: string;
  attempts?: number;
  receipt: string;
  after?: number;
  committers: number;
  start_unix_ms: number;
  tag: string;
  calls: number;
  warmup: number;
}

interface Held {
  session: Session;
  bundle: Bundle | undefined;
}

type Answer = Record<string, unknown>;

let client: Client | undefined;
let target = "";
const held = new Map<string, Held>();

function connected(): Client {
  if (client === undefined) {
    throw new Error("connect comes first");
  }
  return client;
}

/** Return the session of that name; its first command says the subject. */
function holding({ session: name, subject }: Command): Held {
  let found = held.get(name);
  if (found === undefined) {
    found = { session: connected().session(name, { subject }), bundle: undefined };
    held.set(name, found);
  }
  return found;
}

const COMMANDS: Readonly<Record<string, (command: Command) => Promise<Answer>>> = {
  async connect(command) {
    client?.close();
    held.clear();
    target = command.target ?? "";
    client = connect(target, {
      tenant: command.tenant,
      deadlineMs: command.deadline_ms,
      tokenFile: command.token_file,
      caFile: command.ca_file,
      certFile: command.cert_file,
      keyFile: command.key_file,
    });
    return {};
  },

  async info() {
    const { version, recordEngine, hotEngine } = await connected().serverInfo();
    return { version, record_engine: recordEngine, hot_engine: hotEngine };
  },

  async close() {
    client?.close();
    client = undefined;
    held.clear();
    return {};
  },

  async hydrate(command) {
    const at = holding(command);
    const bundle = await at.session.hydrate(command.query, {
      budgetTokens: command.budget_tokens,
      route: command.route,
      include: command.include,
      consistency: command.fully ? { fullyConsistent: true } : undefined,
      deadlineMs: command.deadline_ms,
    });
    at.bundle = bundle;
    return {
      version: bundle.version,
      tokens: bundle.tokens,
      fingerprint: bundle.fingerprint,
      receipt: Buffer.from(bundle.receipt).toString("base64"),
      token: bundle.token,
      openai: bundle.toOpenAI(),
      anthropic: bundle.toAnthropic(),
      degraded: bundle.degraded.map(({ cause }) => cause),
    };
  },

  async commit(command) {
    const at = holding(command);
    const entries = command.entries.map((entry) => fromJson(TurnEntrySchema, entry));
    return committed(
      await at.session.commit(entries, {
        bundle: command.from_bundle ? at.bundle : undefined,
        expectedVersion: command.expected_version,
        requestId: command.request_id,
        mode: command.mode,
        deadlineMs: command.deadline_ms,
      }),
    );
  },

  async turn(command) {
    let asked = 0;
    const answer = (): string => `${command.answer} ${(asked += 1)}`;
    const { session } = holding(command);
    const { commit } = await session.turn(command.query ?? "", answer, { attempts: command.attempts });
    return { version: commit.version, asked };
  },

  async replay(command) {
    const { bundle } = await connected().replay(Buffer.from(command.receipt, "base64"));
    return { fingerprint: bundle.fingerprint };
  },

  async events(command) {
    const events: JsonValue[] = [];
    for await (const event of holding(command).session.events(command.after)) {
      events.push(toJson(EventSchema, event));
    }
    return { events };
  },

  async get(command) {
    const { session } = holding(command);
    const { version } = await session.get();
    return { version: Number(version), token: session.token };
  },

  async end(command) {
    await holding(command).session.end();
    return {};
  },

  async token(command) {
    return { token: holding(command).session.token };
  },

  async race(command) {
    const one = async (index: number): Promise<Answer> => {
      const racer = connected().session(command.session, { subject: command.subject });
      const options = { expectedVersion: command.expected_version, requestId: `${command.tag}-${index}` };
      await new Promise((resolve) => setTimeout(resolve, command.start_unix_ms - Date.now()));
      try {
        return { version: (await racer.commit(user(`${command.tag} ${index}`), options)).version };
      } catch (error) {
        return { error: described(error) };
      }
    };
    return { outcomes: await Promise.all(Array.from({ length: command.committers }, (_, index) => one(index))) };
  },

  async bench(command) {
    const session = connected().session(command.session, { subject: command.subject });
    await session.hydrate();
    const bare = new BareClient(target, credentials.createInsecure(), {
      "grpc.service_config": JSON.stringify(SERVICE_CONFIG),
      "grpc.max_send_message_length": WIRE_BYTES,
      "grpc.max_receive_message_length": WIRE_BYTES,
      "grpc.enable_http_proxy": 0,
    });
    const times: { client_us: number[]; stub_us: number[] } = { client_us: [], stub_us: [] };
    try {
      for (let call = -command.warmup; call < command.calls; call += 1) {
        // Each is first as often as the other.
        for (const kind of call % 2 === 0 ? (["client_us", "stub_us"] as const) : (["stub_us", "client_us"] as const)) {
          const start = process.hrtime.bigint();
          if (kind === "client_us") {
            await session.hydrate();
          } else {
            await bareHydrate(bare, session);
          }
          const spent = Number(process.hrtime.bigint() - start) / 1000;
          if (call >= 0) {
            times[kind].push(spent);
          }
        }
      }
    } finally {
      bare.close();
    }
    return times;
  },
};

/** Hydrate as the client does, with gRPC and the messages alone. */
function bareHydrate(bare: BareClient, session: Session): Promise<HydrateContextResponse> {
  const request = create(HydrateContextRequestSchema, {
    sessionId: session.id,
    subjectId: session.subject,
    consistency: { requirement: { case: "atLeastAsFresh", value: session.token } },
  });
  return new Promise((resolve, reject) => {
    bare.makeUnaryRequest<HydrateContextRequest, HydrateContextResponse>(
      "/standpipe.v1.ContextService/HydrateContext",
      (message) => Buffer.from(toBinary(HydrateContextRequestSchema, message)),
      (bytes) => fromBinary(HydrateContextResponseSchema, bytes),
      request,
      { deadline: Date.now() + 10_000 },
      (error, answer) => (answer === undefined ? reject(error as Error) : resolve(answer)),
    );
  });
}

function committed(commit: Commit): Answer {
  return {
    version: commit.version,
    event_hash: commit.eventHash,
    token: commit.token,
    replayed: commit.replayed,
    request_id: commit.requestId,
  };
}

function described(error: unknown): Answer {
  if (!(error instanceof StandpipeError)) {
    return { kind: error instanceof Error ? error.name : typeof error, message: String(error) };
  }
  return {
    kind: error.name,
    code: error.code,
    reason: error.reason,
    metadata: error.metadata,
    field: error.field ?? null,
    field_message: error.fieldMessage ?? null,
    retry_after_ms: error.retryAfterMs ?? null,
    request_id: error.requestId ?? null,
    message: error.message,
  };
}

async function answered(line: string): Promise<Answer> {
  try {
    const command = JSON.parse(line) as Command;
    const work = Object.hasOwn(COMMANDS, command.do) ? COMMANDS[command.do] : undefined;
    if (work === undefined) {
      throw new Error(`there is no command ${command.do}`);
    }
    return { ok: await work(command) };
  } catch (error) {
    return { error: described(error) };
  }
}

for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  if (line.trim() !== "") {
    process.stdout.write(`${JSON.stringify(await answered(line))}\n`);
  }
}
client?.close();
