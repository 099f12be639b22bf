/** The client against a double: what the vectors do not say. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, it } from "node:test";
import { inspect } from "node:util";
import { create } from "@bufbuild/protobuf";
import { ServerCredentials } from "@grpc/grpc-js";
import {
  assistant,
  Cancelled,
  Conflict,
  connect,
  DeadlineExceeded,
  FileInvalid,
  ResourceExhausted,
  StandpipeError,
  toolCall,
  toolResult,
  Unauthenticated,
  Unavailable,
  user,
  type Bundle,
  type Client,
  type ConnectOptions,
  type SourceName,
} from "@standpipe/client";
import {
  CommitMode,
  CommitTurnResponseSchema,
  EndSessionResponseSchema,
  GetServerInfoResponseSchema,
  GetSessionResponseSchema,
  HydrateContextResponseSchema,
  ListEventsResponseSchema,
  ListSessionsResponseSchema,
  MemoryService,
  RecordFactsRequestSchema,
  RecordFactsResponseSchema,
  ReplayContextResponseSchema,
  Source,
  StateService,
  PutStateResponseSchema,
  type CommitTurnRequest,
  type EndSessionRequest,
  type HydrateContextRequest,
  type ListEventsRequest,
  type ListSessionsRequest,
  type PutStateRequest,
  type RecordFactsRequest,
} from "@standpipe/client/v1";
import { Double, type Scripted } from "./double.js";

const FOLDER = mkdtempSync(join(tmpdir(), "standpipe-"));
after(() => rmSync(FOLDER, { recursive: true }));

const HYDRATED = create(HydrateContextResponseSchema, {
  bundle: { sessionVersion: 7n, tokens: 3, fingerprint: new Uint8Array([1, 255]) },
  receipt: new Uint8Array([4, 5]),
  consistencyToken: "t7",
});
const COMMITTED = create(CommitTurnResponseSchema, {
  result: {
    version: 8n,
    eventHash: new Uint8Array([171]),
    consistencyToken: "t8",
    committedAt: { seconds: 1_700_000_000n, nanos: 250_000_000 },
  },
});

/** Run `work` with a double that gives these answers, and a client of it. */
async function between(
  answers: Scripted[],
  work: (client: Client, server: Double) => Promise<void>,
  options: ConnectOptions = {},
): Promise<void> {
  using server = await new Double(answers).start();
  const client = connect(server.target, options);
  try {
    await work(client, server);
  } finally {
    client.close();
  }
}

/** Wait until something is true; the test's own limit ends it. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

describe("a session", () => {
  it("asks for what it was told, and shows what came", async () => {
    await between([HYDRATED], async (client, server) => {
      const session = client.session("s", { subject: "anna" });
      const bundle = await session.hydrate("Where?", {
        route: "fast",
        budgetTokens: 100,
        caps: { recall: 10 },
        include: new Set<SourceName>(["history", "recall"]),
        model: "gpt-4o",
      });
      const request = server.seen[0]!.request as HydrateContextRequest;
      assert.deepEqual(
        [request.sessionId, request.subjectId, request.query, request.route, request.model, request.consistency],
        ["s", "anna", "Where?", "fast", "gpt-4o", undefined],
      );
      assert.equal(request.budget?.totalTokens, 100);
      assert.deepEqual(request.budget.sources.map((one) => [one.source, one.capTokens]), [[Source.RECALL, 10]]);
      assert.deepEqual(request.include, [Source.HISTORY, Source.RECALL]);
      assert.deepEqual([bundle.version, bundle.tokens, bundle.fingerprint, bundle.query], [7, 3, "01ff", "Where?"]);
      assert.deepEqual(bundle.receipt, new Uint8Array([4, 5]));
      assert.equal(Object.getPrototypeOf(bundle.receipt), Uint8Array.prototype);
      assert.equal(session.token, "t7");
      assert.equal(inspect(bundle), "<Bundle version=7 tokens=3 fingerprint=01ff>");
    });
  });

  it("commits behind the bundle, with its receipt, and tells the request's id", async () => {
    await between([HYDRATED, COMMITTED], async (client, server) => {
      const session = client.session("s", { subject: "anna" });
      const bundle = await session.hydrate();
      const commit = await session.commit([user("Hi"), assistant("Hello")], { bundle });
      const request = server.seen[1]!.request as CommitTurnRequest;
      assert.equal(request.expectedVersion, 7n);
      assert.equal(request.mode, CommitMode.FAIL);
      assert.deepEqual(new Uint8Array(request.turn!.bundleReceipt), bundle.receipt);
      assert.match(request.requestId, /^[0-9a-f]{32}$/);
      assert.deepEqual(commit, {
        version: 8,
        eventHash: "ab",
        token: "t8",
        committedAt: new Date("2023-11-14T22:13:20.250Z"),
        replayed: false,
        requestId: request.requestId,
        facts: [],
      });
      await session.commit(user("Hi"), { bundle, mode: "append", requestId: "mine" });
      const appended = server.seen[2]!.request as CommitTurnRequest;
      assert.deepEqual([appended.expectedVersion, appended.mode], [undefined, CommitMode.APPEND]);
      await session.commit(user("Hi"), { bundle, expectedVersion: 0 });
      assert.equal((server.seen[3]!.request as CommitTurnRequest).expectedVersion, 0n);
    });
  });

  it("says in errors of commits and ends which request it was", async () => {
    await between(["INTERNAL"], async (client, server) => {
      const session = client.session("s");
      const failed = await session.commit(user("Hi"), { expectedVersion: 0 }).catch((error: unknown) => error);
      assert.ok(failed instanceof StandpipeError);
      assert.equal(failed.requestId, (server.seen[0]!.request as CommitTurnRequest).requestId);
      await assert.rejects(session.end("done", { requestId: "mine" }), { name: "Internal", requestId: "mine" });
      assert.equal((server.seen[1]!.request as EndSessionRequest).expectedVersion, undefined);
      await assert.rejects(session.hydrate(), { requestId: undefined });
    });
  });

  it("has stacks that lead to the caller", async () => {
    await between(["INTERNAL"], async (client) => {
      async function whoAsks(): Promise<void> {
        await client.session("s").hydrate();
      }
      const error = await whoAsks().catch((failed: unknown) => failed);
      assert.ok(error instanceof Error);
      assert.match(error.stack ?? "", /whoAsks/);
    });
  });

  it("lists its events page by page, and its own state", async () => {
    const page = (head: bigint, ...versions: bigint[]): Scripted =>
      create(ListEventsResponseSchema, { events: versions.map((version) => ({ version })), headVersion: head });
    const answers = [page(3n, 1n, 2n), page(4n, 3n), page(4n, 4n)];
    await between(answers, async (client, server) => {
      const seen: bigint[] = [];
      for await (const event of client.session("s").events(0, { pageSize: 2 })) {
        seen.push(event.version);
      }
      assert.deepEqual(seen, [1n, 2n, 3n, 4n]);
      const asked = server.seen.map(({ request }) => (request as ListEventsRequest).afterVersion);
      assert.deepEqual(asked, [0n, 2n, 3n]);
    });
    await between([page(0n)], async (client) => {
      assert.equal((await client.session("s").events().next()).done, true);
    });
    const got = create(GetSessionResponseSchema, { session: { version: 5n }, consistencyToken: "t5" });
    await between([got, create(EndSessionResponseSchema)], async (client) => {
      const session = client.session("s");
      assert.equal((await session.get()).version, 5n);
      assert.equal(session.token, "t5");
      await session.end();
    });
  });
});

describe("turn", () => {
  it("hydrates again and asks again when another commit came first", async () => {
    await between([HYDRATED, "ABORTED", HYDRATED, COMMITTED], async (client, server) => {
      let asked = 0;
      const answer = async (bundle: Bundle): Promise<string> => `answer ${(asked += 1)} to ${bundle.query}`;
      const { commit, bundle } = await client.session("s").turn("Hi", answer, { speaker: "Anna", include: ["history"] });
      assert.deepEqual([asked, commit.version, bundle.version], [2, 8, 7]);
      const { entries } = (server.seen[3]!.request as CommitTurnRequest).turn!;
      assert.deepEqual(
        entries.map(({ entry }) => (entry.case === "message" ? [entry.value.speaker, entry.value.text] : [])),
        [["Anna", "Hi"], ["", "answer 2 to Hi"]],
      );
    });
  });

  it("takes entries for an answer, and gives up after its attempts", async () => {
    await between([HYDRATED, "ABORTED", HYDRATED, "ABORTED"], async (client, server) => {
      const answer = () => [toolCall("c", "look", { at: 1 }), toolResult("c", "found"), assistant("There.")];
      await assert.rejects(client.session("s").turn("Hi", answer, { attempts: 2 }), Conflict);
      assert.equal(server.seen.length, 4);
      assert.equal((server.seen[3]!.request as CommitTurnRequest).turn?.entries.length, 4);
    });
  });

  it("commits nothing when the answer fails", async () => {
    await between([HYDRATED, COMMITTED], async (client, server) => {
      const failure = new Error("no model");
      await assert.rejects(client.session("s").turn("Hi", () => Promise.reject(failure)), failure);
      assert.equal(server.seen.length, 1);
      await assert.rejects(client.session("s").turn("Hi", () => "", { attempts: 0 }), RangeError);
    });
  });

  it("ends its pauses with the signal", async () => {
    const stop = new AbortController();
    await between([HYDRATED, "ABORTED"], async (client) => {
      const answer = (): string => {
        queueMicrotask(() => stop.abort(new Error("enough")));
        return "Hello";
      };
      await assert.rejects(client.session("s").turn("Hi", answer, { signal: stop.signal }), { message: "enough" });
    });
  });
});

describe("deadlines and aborts", () => {
  it("throw DeadlineExceeded, also of the client's own deadline", async () => {
    await between(
      ["WAIT"],
      async (client) => {
        await assert.rejects(client.serverInfo(), DeadlineExceeded);
        await assert.rejects(client.serverInfo({ deadlineMs: 0 }), DeadlineExceeded);
        await assert.rejects(client.serverInfo({ deadlineMs: Number.NaN }), RangeError);
      },
      { deadlineMs: 50 },
    );
    assert.throws(() => connect("", { deadlineMs: -1 }), RangeError);
  });

  it("throw the signal's reason, and are not retried", async () => {
    await between(["WAIT"], async (client, server) => {
      const stop = new AbortController();
      const call = client.session("s").hydrate("", { signal: stop.signal });
      await until(() => server.seen.length === 1);
      const reason = new Error("the user left");
      stop.abort(reason);
      await assert.rejects(call, reason);
      await assert.rejects(client.session("s").hydrate("", { signal: stop.signal }), reason);
      assert.equal(server.seen.length, 1);
    });
  });

  it("end the retries of a server that is away", async () => {
    await between(["UNAVAILABLE"], async (client, server) => {
      const signal = AbortSignal.timeout(250);
      await assert.rejects(client.serverInfo({ signal }), { name: "TimeoutError" });
      assert.ok(server.seen.length <= 3);
    });
  });

  it("closing cancels what is in flight, and refuses the rest", async () => {
    await between(["WAIT"], async (client, server) => {
      const call = client.session("s").hydrate();
      await until(() => server.seen.length === 1);
      client.close();
      await assert.rejects(call, Cancelled);
      await assert.rejects(client.serverInfo(), /the client is closed/);
      client.close();
    });
  });
});

describe("the wire", () => {
  it("finds a server that was away for a moment", async () => {
    const info = create(GetServerInfoResponseSchema, { version: "0.6.0" });
    const server = await new Double([info]).start();
    const client = connect(server.target);
    try {
      await client.serverInfo();
      server.stop();
      const call = client.serverInfo();
      await new Promise((resolve) => setTimeout(resolve, 400));
      await server.start(server.target);
      assert.equal((await call).version, "0.6.0");
    } finally {
      client.close();
      server.stop();
    }
  });

  it("goes through a Unix socket, with certificates or without", async () => {
    const answer = create(GetServerInfoResponseSchema, { version: "0.6.0" });
    using server = await new Double([answer]).start(`unix:${join(FOLDER, "socket")}`);
    const client = connect(server.target, { caFile: "/nowhere" });
    assert.equal((await client.serverInfo()).version, "0.6.0");
    client.close();
    assert.throws(() => connect("unix-abstract:standpipe"), /unix:\/path/);
  });

  it("tells that nobody is there", async () => {
    const client = connect("unix:/nowhere/at/all");
    await assert.rejects(client.serverInfo({ deadlineMs: 60_000 }), (error) => {
      assert.ok(error instanceof Unavailable);
      assert.equal(error.reason, "");
      return true;
    });
    client.close();
  });

  it("takes messages of 8 MiB, and no larger ones", async () => {
    const large = (bytes: number): Scripted => create(HydrateContextResponseSchema, { bundle: {}, receipt: new Uint8Array(bytes) });
    await between([large(6 << 20), large(9 << 20)], async (client, server) => {
      const session = client.session("s");
      assert.equal((await session.hydrate()).receipt.length, 6 << 20);
      await assert.rejects(session.hydrate(), ResourceExhausted);
      await assert.rejects(session.commit(user("x".repeat(9 << 20)), { expectedVersion: 0 }), ResourceExhausted);
      assert.equal(server.seen.length, 2);
    });
  });

  it("retries large requests, too", async () => {
    await between(["UNAVAILABLE", COMMITTED], async (client, server) => {
      await client.session("s").commit(user("x".repeat(3 << 20)), { expectedVersion: 0 });
      assert.equal(server.seen.length, 2);
    });
  });

  it("takes from the environment what nobody says", async () => {
    await between([create(GetServerInfoResponseSchema)], async (_, server) => {
      const file = join(FOLDER, "environment.token");
      writeFileSync(file, "from-environment\n");
      Object.assign(process.env, { STANDPIPE_TARGET: server.target, STANDPIPE_TOKEN_FILE: file });
      try {
        const client = connect();
        await client.serverInfo();
        client.close();
        const other = connect("", { metadata: { Authorization: "Bearer mine", "x-pod": "a" } });
        await other.serverInfo();
        other.close();
      } finally {
        delete process.env["STANDPIPE_TARGET"];
        delete process.env["STANDPIPE_TOKEN_FILE"];
      }
      const shown = server.seen.map(({ metadata }) => [metadata.get("authorization"), metadata.get("x-pod")]);
      assert.deepEqual(shown, [[["Bearer from-environment"], []], [["Bearer mine"], ["a"]]]);
      assert.match(String(server.seen[0]!.metadata.get("user-agent")), /^standpipe-typescript /);
    });
  });
});

describe("tokens", () => {
  const info = create(GetServerInfoResponseSchema);

  it("are read again when their file changes, and when they are refused", async () => {
    const file = join(FOLDER, "token");
    writeFileSync(file, " first \nsecond line\n");
    const answers: Scripted[] = [
      info,
      info,
      () => {
        writeFileSync(file, "third");
        return "UNAUTHENTICATED";
      },
      info,
      "UNAUTHENTICATED",
      info,
    ];
    await between(
      answers,
      async (client, server) => {
        await client.serverInfo();
        writeFileSync(`${file}.new`, "second");
        renameSync(`${file}.new`, file);
        await client.serverInfo();
        await client.serverInfo();
        await assert.rejects(client.serverInfo(), Unauthenticated);
        rmSync(file);
        await client.serverInfo();
        const shown = server.seen.map(({ metadata }) => metadata.get("authorization")[0]);
        const told = ["first", "second", "second", "third", "third", "third"];
        assert.deepEqual(shown, told.map((token) => `Bearer ${token}`));
        assert.doesNotMatch(inspect(client, { depth: 20, showHidden: true }), /third/);
      },
      { tokenFile: file },
    );
  });

  it("must be tokens", () => {
    for (const [name, content] of [["empty", ""], ["blank", "\n \n"], ["two", "a b"], ["long", "x".repeat(70_000)]] as const) {
      const file = join(FOLDER, name);
      writeFileSync(file, content);
      assert.throws(() => connect("", { tokenFile: file }), (error) => {
        assert.ok(error instanceof FileInvalid);
        assert.equal(error.field, "tokenFile");
        assert.doesNotMatch(error.message, /a b|xxx/);
        return true;
      });
    }
    assert.throws(() => connect("", { tokenFile: FOLDER }), { field: "tokenFile" });
    assert.throws(() => connect("", { tokenFile: "a", metadata: { authorization: "b" } }), TypeError);
  });
});

describe("certificates", () => {
  const at = (name: string): string => join(FOLDER, name);
  const openssl = (...command: string[]): unknown => execFileSync("openssl", command, { stdio: "pipe" });
  /** Make an authority, and a certificate and key of localhost by it. */
  const make = (name: string): void => {
    const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    openssl("req", "-x509", ...key, "-keyout", at(`${name}.ca.key`), "-out", at(`${name}.ca`), "-subj", "/CN=authority");
    openssl("req", ...key.slice(0, -2), "-keyout", at(`${name}.key`), "-out", at(`${name}.csr`), "-subj", "/CN=localhost");
    writeFileSync(at(`${name}.ext`), "subjectAltName=DNS:localhost,IP:127.0.0.1\n");
    const by = ["-CA", at(`${name}.ca`), "-CAkey", at(`${name}.ca.key`), "-CAcreateserial", "-extfile", at(`${name}.ext`)];
    openssl("x509", "-req", "-days", "2", "-in", at(`${name}.csr`), "-out", at(`${name}.crt`), ...by);
  };
  const put = (name: string): void => {
    for (const kind of ["ca", "crt", "key"]) {
      writeFileSync(at(`now.${kind}.new`), readFileSync(at(`${name}.${kind}`)));
      renameSync(at(`now.${kind}.new`), at(`now.${kind}`));
    }
  };

  it("are shown and checked, and read again when they are renewed", async () => {
    make("one");
    make("two");
    const demanding = (name: string): ServerCredentials => {
      const pair = { private_key: readFileSync(at(`${name}.key`)), cert_chain: readFileSync(at(`${name}.crt`)) };
      return ServerCredentials.createSsl(readFileSync(at(`${name}.ca`)), [pair], true);
    };
    const info = create(GetServerInfoResponseSchema);
    put("one");
    const server = await new Double([info]).start("127.0.0.1:0", demanding("one"));
    const client = connect(server.target, { caFile: at("now.ca"), certFile: at("now.crt"), keyFile: at("now.key") });
    const stranger = connect(server.target, { caFile: at("two.ca") });
    try {
      await client.serverInfo();
      await assert.rejects(stranger.serverInfo({ deadlineMs: 300 }), StandpipeError);
      server.stop();
      await server.start(server.target, demanding("two"));
      writeFileSync(at("now.key"), "half of a renewal");
      await assert.rejects(client.serverInfo({ deadlineMs: 300 }), StandpipeError);
      put("two");
      await client.serverInfo();
      assert.equal(server.seen.length, 2);
    } finally {
      client.close();
      stranger.close();
      server.stop();
    }
  });

  it("must be certificates that fit together", () => {
    make("three");
    make("four");
    const [caFile, certFile, keyFile] = [at("three.ca"), at("three.crt"), at("three.key")];
    assert.throws(() => connect("", { caFile: keyFile }), { name: "FileInvalid", field: "caFile" });
    assert.throws(() => connect("", { caFile: at("absent") }), { name: "FileInvalid", field: "caFile" });
    const other = { caFile, certFile, keyFile: at("four.key") };
    assert.throws(() => connect("", other), { name: "FileInvalid", field: "certFile" });
    assert.throws(() => connect("", { caFile, certFile }), TypeError);
    assert.throws(() => connect("", { certFile, keyFile }), TypeError);
  });
});

describe("the client", () => {
  it("lists sessions page by page", async () => {
    const page = (nextPageToken: string, ...ids: string[]): Scripted =>
      create(ListSessionsResponseSchema, { sessions: ids.map((sessionId) => ({ sessionId })), nextPageToken });
    await between([page("more", "a", "b"), page("", "c")], async (client, server) => {
      const seen: string[] = [];
      for await (const session of client.sessions("anna", { pageSize: 2 })) {
        seen.push(session.sessionId);
      }
      assert.deepEqual(seen, ["a", "b", "c"]);
      const asked = server.seen.map(({ request }) => request as ListSessionsRequest);
      assert.deepEqual(asked.map((one) => [one.subjectId, one.pageSize, one.pageToken]), [["anna", 2, ""], ["anna", 2, "more"]]);
    });
  });

  it("renders a receipt again", async () => {
    const answer = create(ReplayContextResponseSchema, {
      bundle: { sessionVersion: 2n },
      servedAt: { seconds: 1n },
      sessionId: "s",
      subjectId: "anna",
    });
    await between([answer], async (client) => {
      const replay = await client.replay(new Uint8Array([1]), { allOmissions: true });
      assert.deepEqual([replay.sessionId, replay.subjectId, replay.bundle.version], ["s", "anna", 2]);
      assert.deepEqual(replay.servedAt, new Date(1000));
      assert.deepEqual(replay.bundle.receipt, new Uint8Array([1]));
    });
  });

  it("has the stubs of all services, with its tenant where there is none", async () => {
    await between(
      [create(RecordFactsResponseSchema), create(PutStateResponseSchema, { revision: 1n })],
      async (client, server) => {
        const memory = client.stub(MemoryService);
        const request = create(RecordFactsRequestSchema, { subjectId: "anna" });
        await memory.recordFacts(request);
        assert.equal(request.tenantId, "");
        const value = new Uint8Array([1, 2]);
        const put = await client.stub(StateService).putState({ collection: "c", writes: [{ key: "k", value }] });
        assert.equal(put.revision, 1n);
        await assert.rejects(client.stub(StateService).putState({ tenantId: "other" }, { deadlineMs: 0 }), DeadlineExceeded);
        assert.equal((server.seen[0]!.request as RecordFactsRequest).tenantId, "acme");
        assert.equal((server.seen[1]!.request as PutStateRequest).tenantId, "acme");
      },
      { tenant: "acme" },
    );
  });

  it("refuses what makes no sense, by name", async () => {
    const client = connect("unix:/nowhere");
    const session = client.session("s");
    await assert.rejects(session.hydrate("", { include: ["memories" as SourceName] }), /no source "memories"/);
    await assert.rejects(session.hydrate("\ud800"), /query holds half a surrogate pair/);
    await assert.rejects(session.commit("Hi" as never), /a turn holds entries made by user\(\)/);
    await assert.rejects(session.commit(user("Hi"), { mode: "force" as never }), /mode must be/);
    await assert.rejects(session.commit(user("Hi"), { expectedVersion: 1.5 }), RangeError);
    client.close();
    assert.throws(() => user("\udc00"), RangeError);
    assert.throws(() => user(undefined as never), /text must be a string/);
    assert.throws(() => user("Hi", { at: new Date(Number.NaN) }), /at must be a valid Date/);
    assert.throws(() => toolCall("c", "n", [1] as never), TypeError);
    assert.throws(() => toolCall("c", "n", { a: Number.NaN }), /which JSON cannot say/);
    assert.throws(() => toolCall("c", "n", { "\ud800": 1 }), RangeError);
    assert.throws(() => toolCall("c", "n", { a: 1n }), TypeError);
  });
});
