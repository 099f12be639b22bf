/**
 * The client: connect, hydrate, commit.
 *
 *     const client = connect("unix:/run/standpipe/standpipe.sock");
 *     const session = client.session("chat-42", { subject: "anna" });
 *     const bundle = await session.hydrate("Where did we leave off?");
 *     const answer = await model(bundle.toOpenAI());
 *     await session.commit([user(bundle.query), assistant(answer)], { bundle });
 *
 * Every call takes `deadlineMs`, retries included, and an AbortSignal. Every call may throw what errors.ts lists; the
 * comments name those that a caller will want to handle. Versions are numbers here, since they count commits one by one
 * from 1; messages of standpipe.v1 have them as bigint, as every 64-bit integer of protobuf.
 */

import { randomUUID } from "node:crypto";
import {
  clone,
  create,
  isMessage,
  type DescMessage,
  type DescMethod,
  type DescMethodUnary,
  type DescService,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { Bundle, type Replay } from "./bundle.js";
import { DEADLINE_MS, pause, Wire, type CallOptions, type WireOptions } from "./channel.js";
import { Conflict, StandpipeError } from "./errors.js";
import { Source } from "./gen/standpipe/v1/bundle_pb.js";
import {
  CommitMode,
  ContextService,
  type ConsistencySchema,
  type GetServerInfoResponse,
} from "./gen/standpipe/v1/context_pb.js";
import type { FactResult, FactSchema } from "./gen/standpipe/v1/fact_pb.js";
import { SessionService, type EndSessionResponse, type Session as SessionInfo } from "./gen/standpipe/v1/session_pb.js";
import type { Event } from "./gen/standpipe/v1/turn_pb.js";
import { asArray, assistant, user, wellFormed, type Entries } from "./turn.js";

/** Answers that `Session.turn` asks for before it gives up: each one is a model call. */
export const TURN_ATTEMPTS = 5;

/** The longest pause after the first conflict; it doubles with each further one. */
const PAUSE_MS = 50;

/** The longest pause after any conflict. */
const PAUSE_MS_MAX = 2_000;

const SOURCES = {
  policy: Source.POLICY,
  profile: Source.PROFILE,
  summary: Source.SUMMARY,
  history: Source.HISTORY,
  recall: Source.RECALL,
  facts: Source.FACTS,
  documents: Source.DOCUMENTS,
} as const;

/** A source of a bundle's content. */
export type SourceName = keyof typeof SOURCES;

/** How fresh a hydrate must be; exactly one of these. */
export type Consistency =
  | { minimizeLatency: true }
  | { atLeastAsFresh: string }
  | { atExactSnapshot: string }
  | { fullyConsistent: true };

/** What an answer function may return: the assistant's text, or the entries that follow the user's message. */
export type Answer = string | Entries;

/** How a client is made. */
export interface ConnectOptions extends WireOptions {
  /** Checked by the server against the caller's own; empty leaves it to the server. */
  tenant?: string | undefined;
  /** For calls that bring none: 10000. */
  deadlineMs?: number | undefined;
}

/** What shapes a bundle. */
export interface ShapeOptions extends CallOptions {
  /** The route, which points at a policy version; empty means "default". */
  route?: string | undefined;
  /** Lowers the policy's, never raises it. */
  budgetTokens?: number | undefined;
  /** Tokens per source: they lower the policy's, and never raise them. */
  caps?: Readonly<Partial<Record<SourceName, number>>> | undefined;
  /** The sources wanted; all that the policy allows if not given. */
  include?: Iterable<SourceName> | undefined;
  /** Counts in place of the policy's. */
  tokenizer?: string | undefined;
  /** Counts with the tokenizer of this model; give one of the two. */
  model?: string | undefined;
}

/** What a hydrate may say. */
export interface HydrateOptions extends ShapeOptions {
  /** If not given: every acknowledged commit and all that this session has seen. */
  consistency?: Consistency | undefined;
}

/** What a commit may say. */
export interface CommitOptions extends CallOptions {
  /** What the turn answers: its receipt is stored with the turn, and the turn follows its version. */
  bundle?: Bundle | undefined;
  /** The version that the turn follows, in place of the bundle's; 0 for the first turn. */
  expectedVersion?: number | bigint | undefined;
  /** Made if not given, and kept by the channel's retries. */
  requestId?: string | undefined;
  /** "fail", the default, needs a bundle or `expectedVersion`; "append" goes behind whatever is there. */
  mode?: "fail" | "append" | undefined;
  /** Claims that are recorded with the turn, or not at all. */
  facts?: Iterable<MessageInitShape<typeof FactSchema>> | undefined;
}

/** What the end of a session may say. */
export interface EndOptions extends CallOptions {
  /** If not given, the session is ended at whatever version it is. */
  expectedVersion?: number | bigint | undefined;
  /** Made if not given. */
  requestId?: string | undefined;
}

/** What `Session.turn` may say. */
export interface TurnOptions extends ShapeOptions {
  /** Answers that it asks for: 5. */
  attempts?: number | undefined;
  /** The user's name. */
  speaker?: string | undefined;
}

/** A turn that is durable (P1). */
export interface Commit {
  /** The version that it became. */
  version: number;
  /** The hash of its event, in hexadecimal. */
  eventHash: string;
  /** Shows it to every hydrate that carries this token, through any pod (P4). */
  token: string;
  /** When the record store took it. */
  committedAt: Date;
  /** Whether an earlier request with this id had already committed it (P3). */
  replayed: boolean;
  /** The id that it was committed under. */
  requestId: string;
  /** What became of the claims that were committed with it. */
  facts: readonly FactResult[];
}

/** What `Session.turn` did. */
export interface TurnResult {
  /** The turn. */
  commit: Commit;
  /** What its answer was made from. */
  bundle: Bundle;
}

/** The methods of a service, as functions that return promises. */
export type Stub<Service extends DescService> = {
  readonly [Name in keyof Service["method"]]: Service["method"][Name] extends DescMethodUnary<infer Input, infer Output>
    ? (request?: MessageInitShape<Input>, options?: CallOptions) => Promise<MessageShape<Output>>
    : never;
};

/**
 * Return a client of the server at `target`; the channel opens at the first call.
 *
 * Where `target`, `tokenFile`, `caFile`, `certFile` or `keyFile` is empty, STANDPIPE_TARGET, STANDPIPE_TOKEN_FILE,
 * STANDPIPE_CA_FILE, STANDPIPE_CERT_FILE or STANDPIPE_KEY_FILE tells it, and else `target` is 127.0.0.1:7460. So an
 * application that a platform put a sidecar beside just calls `connect()`.
 *
 * The token goes with every call, also over plaintext, and is read again when its file changes, and when the server
 * refuses it. With `caFile` host:port is spoken to in TLS; a Unix socket never has TLS, whatever is given. When the
 * certificates are renewed on disk, later calls take a new connection.
 *
 * Throws FileInvalid for files that are missing or not what they must be, and TypeError for arguments that exclude each
 * other.
 */
export function connect(target = "", options: ConnectOptions = {}): Client {
  const { tenant = "", deadlineMs = DEADLINE_MS, ...wire } = options;
  return new Client(new Wire(target, wire, deadlineMs), tenant);
}

/** A connection to Standpipe, to be shared by all sessions of a process. Close it at the end. */
export class Client {
  readonly #wire: Wire;
  readonly #tenant: string;

  /** @internal */
  constructor(wire: Wire, tenant: string) {
    this.#wire = wire;
    this.#tenant = tenant;
  }

  /** Close the channel: calls in flight throw Cancelled, later ones Error. */
  close(): void {
    this.#wire.close();
  }

  /**
   * Return a session by its id; calls nothing yet.
   *
   * `subject` is whose memory it feeds, needed for its first commit. `token` is a consistency token from elsewhere, such
   * as another process's `session.token`, which this one must not see less than.
   */
  session(id: string, options: { subject?: string | undefined; token?: string | undefined } = {}): Session {
    return new Session(this, id, options.subject ?? "", options.token ?? "");
  }

  /**
   * Return the stub of any service of `@standpipe/client/v1`, such as `client.stub(MemoryService)`.
   *
   * Its calls have this client's deadline, credentials, retries and errors, and its tenant where the request has none.
   */
  stub<Service extends DescService>(service: Service): Stub<Service> {
    const methods = service.methods
      .filter((method) => method.methodKind === "unary")
      .map((method) => [
        method.localName,
        (request: MessageInitShape<DescMessage> = {}, options?: CallOptions) => this.call(method, request, options),
      ]);
    return Object.fromEntries(methods) as Stub<Service>;
  }

  /** Call one method of a service, as `stub` does. */
  async call<Input extends DescMessage, Output extends DescMessage>(
    method: DescMethod & { input: Input; output: Output },
    request: MessageInitShape<Input>,
    options?: CallOptions,
  ): Promise<MessageShape<Output>> {
    let message = create(method.input, request) as MessageShape<Input> & { tenantId?: string };
    if (this.#tenant !== "" && message.tenantId === "") {
      // A message of the caller's stays as it is.
      message = isMessage(request) ? (clone(method.input, message) as typeof message) : message;
      message.tenantId = this.#tenant;
    }
    return this.#wire.call<Input, Output>(method, message, options);
  }

  /**
   * Render a bundle that was served before again, from `Bundle.receipt` or a turn of the log (P7).
   *
   * `allOmissions` lists everything that was left out. Throws InvalidArgument (RECEIPT_INVALID) and FailedPrecondition
   * (REPLAY_UNAVAILABLE: its subject was erased, or its model is gone).
   */
  async replay(
    receipt: Uint8Array,
    { allOmissions = false, ...options }: CallOptions & { allOmissions?: boolean | undefined } = {},
  ): Promise<Replay> {
    const got = await this.call(ContextService.method.replayContext, { receipt, allOmissions }, options);
    return {
      bundle: new Bundle(present(got.bundle), { receipt, degraded: got.degraded }),
      servedAt: timestampDate(present(got.servedAt)),
      sessionId: got.sessionId,
      subjectId: got.subjectId,
    };
  }

  /** Return what the server is and can: versions, limits, engines, tokenizers, embedding model. */
  serverInfo(options?: CallOptions): Promise<GetServerInfoResponse> {
    return this.call(ContextService.method.getServerInfo, {}, options);
  }

  /**
   * Iterate over the tenant's sessions by id, or over those of one subject.
   *
   * `pageSize` is 0 (the server's 100) to 1000; `deadlineMs` is for each page.
   */
  async *sessions(
    subject = "",
    { pageSize = 0, ...options }: CallOptions & { pageSize?: number | undefined } = {},
  ): AsyncGenerator<SessionInfo, void, undefined> {
    let pageToken = "";
    do {
      const request = { subjectId: subject, pageSize, pageToken };
      const page = await this.call(SessionService.method.listSessions, request, options);
      yield* page.sessions;
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
  }
}

/**
 * One conversation.
 *
 * It remembers the newest consistency token that it has seen, so that it reads its own writes through any pod, also
 * while the hot store is stale (P4).
 */
export class Session {
  readonly id: string;
  /** Whose memory it feeds. */
  readonly subject: string;
  readonly #client: Client;
  #version = -1n;
  #token: string;

  /** @internal */
  constructor(client: Client, id: string, subject: string, token: string) {
    this.#client = client;
    this.id = id;
    this.subject = subject;
    this.#token = token;
  }

  /** The newest consistency token that it has seen; empty before the first answer. */
  get token(): string {
    return this.#token;
  }

  /**
   * Return what the model should see for this turn.
   *
   * `query` is what recall looks for, usually the user's new message, at most 32 KiB; empty recalls nothing.
   *
   * Throws InvalidArgument (BUDGET_TOO_SMALL, TOKENIZER_UNKNOWN), NotFound (ROUTE_NOT_FOUND), Overloaded.
   */
  async hydrate(query = "", options: HydrateOptions = {}): Promise<Bundle> {
    const { budgetTokens, caps = {}, include = [] } = options;
    const sources = Object.entries(caps).map(([name, cap]) => ({ source: sourceOf(name), capTokens: cap }));
    const shaped = budgetTokens !== undefined || sources.length > 0;
    const requirement = requirementOf(options.consistency, this.#token);
    const request = {
      sessionId: this.id,
      subjectId: this.subject,
      route: options.route ?? "",
      query: wellFormed(query, "query"),
      include: Array.from(include, sourceOf),
      tokenizer: options.tokenizer ?? "",
      model: options.model ?? "",
      ...(shaped ? { budget: { sources, ...(budgetTokens === undefined ? {} : { totalTokens: budgetTokens }) } } : {}),
      ...(requirement === undefined ? {} : { consistency: { requirement } }),
    };
    const got = await this.#client.call(ContextService.method.hydrateContext, request, options);
    const bundle = present(got.bundle);
    this.#saw(bundle.sessionVersion, got.consistencyToken);
    return new Bundle(bundle, {
      query,
      receipt: got.receipt,
      token: got.consistencyToken,
      degraded: got.degraded,
      timings: got.timings,
      tax: got.tokenTax,
      recall: got.recall,
    });
  }

  /**
   * Append one turn, exactly once (P3); it is durable when this returns (P1).
   *
   * Aborting does not undo it. Throws Conflict (another commit came first), SessionEnded, AlreadyExists (the id was used
   * with other entries). After Unavailable or DeadlineExceeded it may have happened: commit the same entries again under
   * the same id (`error.requestId`). An abort throws the signal's reason, which has no id: give your own `requestId`
   * where you abort.
   */
  async commit(entries: Entries, options: CommitOptions = {}): Promise<Commit> {
    const { bundle, requestId = newRequestId(), mode = "fail", facts = [] } = options;
    const expected = options.expectedVersion ?? (mode === "fail" ? bundle?.version : undefined);
    const request = {
      sessionId: this.id,
      subjectId: this.subject,
      requestId,
      turn: { entries: asArray(entries), bundleReceipt: bundle?.receipt ?? new Uint8Array() },
      mode: modeOf(mode),
      facts: [...facts],
      ...versionOf(expected),
    };
    const got = await withRequestId(requestId, () =>
      this.#client.call(ContextService.method.commitTurn, request, options),
    );
    const result = present(got.result);
    this.#saw(result.version, result.consistencyToken);
    return {
      version: Number(result.version),
      eventHash: Buffer.from(result.eventHash).toString("hex"),
      token: result.consistencyToken,
      committedAt: timestampDate(present(result.committedAt)),
      replayed: got.replayed,
      requestId,
      facts: got.facts,
    };
  }

  /**
   * Hydrate for `query`, await `answer(bundle)`, and commit the user's `query` and the answer as one turn.
   *
   * The answer is the assistant's text, or the entries that follow the user's message, such as tool calls, their results
   * and the assistant's words. If another commit came first, it hydrates again and asks for a new answer, `attempts`
   * times in all, with growing random pauses of at most 2 s; then it throws Conflict. So `answer` must do nothing that
   * may not be done twice. `speaker` names the user; the rest is as in `hydrate`, and `deadlineMs` is for each call. What
   * `answer` throws comes out as it is, and nothing is committed.
   *
   * If the commit itself ends in Unavailable or DeadlineExceeded, it may have happened: commit `[user(query), ...]` again
   * with the same `bundle` and `requestId: error.requestId`.
   */
  async turn(
    query: string,
    answer: (bundle: Bundle) => Answer | PromiseLike<Answer>,
    options: TurnOptions = {},
  ): Promise<TurnResult> {
    const { attempts = TURN_ATTEMPTS, speaker, include, ...rest } = options;
    if (!(attempts >= 1)) {
      throw new RangeError("attempts must be at least 1");
    }
    const { deadlineMs, signal } = rest;
    const shape = { ...rest, include: include === undefined ? undefined : [...include] };
    for (let attempt = 1; ; attempt += 1) {
      const bundle = await this.hydrate(query, shape);
      const reply = await answer(bundle);
      const said = typeof reply === "string" ? [assistant(reply)] : asArray(reply);
      try {
        const commit = await this.commit([user(query, { speaker }), ...said], { bundle, deadlineMs, signal });
        return { commit, bundle };
      } catch (error) {
        if (!(error instanceof Conflict) || attempt >= attempts) {
          throw error;
        }
      }
      await pause(Math.random() * Math.min(PAUSE_MS_MAX, PAUSE_MS * 2 ** (attempt - 1)), signal);
    }
  }

  /** Return its version, subject and times. Throws NotFound before the first commit. */
  async get(options?: CallOptions): Promise<SessionInfo> {
    const got = await this.#client.call(SessionService.method.getSession, { sessionId: this.id }, options);
    const session = present(got.session);
    this.#saw(session.version, got.consistencyToken);
    return session;
  }

  /**
   * Iterate over its log by version, up to the version that it has when the last page is read.
   *
   * `pageSize` is 0 (the server's 100) to 1000; `deadlineMs` is for each page. Throws NotFound, DataLoss.
   */
  async *events(
    afterVersion: number | bigint = 0,
    { pageSize = 0, ...options }: CallOptions & { pageSize?: number | undefined } = {},
  ): AsyncGenerator<Event, void, undefined> {
    for (let after = BigInt(afterVersion); ; ) {
      const request = { sessionId: this.id, afterVersion: after, pageSize };
      const page = await this.#client.call(SessionService.method.listEvents, request, options);
      yield* page.events;
      after = page.events.at(-1)?.version ?? page.headVersion;
      if (after >= page.headVersion) {
        return;
      }
    }
  }

  /**
   * End it: it takes no more turns and stays readable and recallable.
   *
   * `cause` is for operators, at most 256 bytes. Throws Conflict, NotFound, SessionEnded (by another request id).
   */
  async end(cause = "", options: EndOptions = {}): Promise<EndSessionResponse> {
    const { requestId = newRequestId(), expectedVersion } = options;
    const request = { sessionId: this.id, requestId, cause, ...versionOf(expectedVersion) };
    return withRequestId(requestId, () => this.#client.call(SessionService.method.endSession, request, options));
  }

  /** Keep a token unless a later version was seen: answers may overtake each other. */
  #saw(version: bigint, token: string): void {
    if (token !== "" && version >= this.#version) {
      this.#version = version;
      this.#token = token;
    }
  }
}

function newRequestId(): string {
  return randomUUID().replaceAll("-", "");
}

function sourceOf(name: string): Source {
  if (!Object.hasOwn(SOURCES, name)) {
    throw new RangeError(`there is no source ${JSON.stringify(name)}: they are ${Object.keys(SOURCES).join(", ")}`);
  }
  return SOURCES[name as SourceName];
}

function modeOf(mode: string): CommitMode {
  switch (mode) {
    case "fail":
      return CommitMode.FAIL;
    case "append":
      return CommitMode.APPEND;
    default:
      throw new RangeError(`mode must be "fail" or "append", not ${JSON.stringify(mode)}`);
  }
}

function versionOf(version: number | bigint | undefined): { expectedVersion?: bigint } {
  return version === undefined ? {} : { expectedVersion: BigInt(version) };
}

type Requirement = NonNullable<MessageInitShape<typeof ConsistencySchema>["requirement"]>;

/** Return what a hydrate asks for; `token` is what it must see if the caller does not say otherwise. */
function requirementOf(consistency: Consistency | undefined, token: string): Requirement | undefined {
  if (consistency === undefined) {
    return token === "" ? undefined : { case: "atLeastAsFresh", value: token };
  }
  if ("minimizeLatency" in consistency) {
    return { case: "minimizeLatency", value: true };
  }
  if ("fullyConsistent" in consistency) {
    return { case: "fullyConsistent", value: true };
  }
  if ("atLeastAsFresh" in consistency) {
    return { case: "atLeastAsFresh", value: consistency.atLeastAsFresh };
  }
  return { case: "atExactSnapshot", value: consistency.atExactSnapshot };
}

/** Return a message that the server always sends; another server's answer may lack it. */
function present<Value>(value: Value | undefined): Value {
  if (value === undefined) {
    throw new StandpipeError("the answer lacks what every Standpipe server sends", { code: "INTERNAL" });
  }
  return value;
}

/** Say in errors which request it was, so that it can be repeated safely. */
async function withRequestId<Answered>(requestId: string, work: () => Promise<Answered>): Promise<Answered> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof StandpipeError) {
      error.requestId = requestId;
    }
    throw error;
  }
}
