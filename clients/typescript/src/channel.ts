/**
 * The wire: how a call reaches the server, and what the channel does on its own.
 *
 * Targets are gRPC's: "unix:/run/standpipe/standpipe.sock", "127.0.0.1:7460", "dns:///standpipe.default.svc:7460".
 */

import { fromBinary, toBinary, type DescMessage, type DescMethod, type MessageShape } from "@bufbuild/protobuf";
import {
  Client as GrpcClient,
  credentials as grpcCredentials,
  Metadata,
  status,
  type ChannelCredentials,
  type ChannelOptions,
  type ClientUnaryCall,
  type ServiceError,
} from "@grpc/grpc-js";
import { tls, TokenFile, type TlsFiles } from "./credentials.js";
import { Cancelled, parse, StandpipeError, Unauthenticated } from "./errors.js";

/** Whom a client calls that neither an argument nor the environment tells: the server's default. */
export const TARGET = "127.0.0.1:7460";

/** One gRPC message in either direction, as the server's `wire_bytes`; gRPC's own default is 4 MiB to receive. */
export const WIRE_BYTES = 8 << 20;

/** For calls that bring no deadline, retries included: no call waits for ever. */
export const DEADLINE_MS = 10_000;

/** What every channel does with a failed call, in gRPC's own form: the same in Standpipe's clients of all languages. */
export const SERVICE_CONFIG = {
  // Only matters for a name with several addresses: a retry then goes to another replica.
  loadBalancingConfig: [{ round_robin: {} }],
  methodConfig: [
    {
      // All methods: reads change nothing, and a commit is counted once per request id (P3).
      name: [{}],
      retryPolicy: {
        // gRPC allows no more. The pauses are 0.1, 0.3, 0.9 and 2 s: enough for a sidecar to restart.
        maxAttempts: 5,
        initialBackoff: "0.1s",
        backoffMultiplier: 3,
        maxBackoff: "2s",
        // CANCELLED is what gRPC answers for a call that a server took in just when it stopped; one that the caller
        // cancels is not retried.
        retryableStatusCodes: ["UNAVAILABLE", "CANCELLED"],
      },
    },
  ],
  // A failed attempt costs 1 token of 100, a success gives 0.1 back, and below half nothing is retried: when a server is
  // down for good, its clients add little to its load.
  retryThrottling: { maxTokens: 100, tokenRatio: 0.1 },
} as const;

const OPTIONS: ChannelOptions = {
  "grpc.service_config": JSON.stringify(SERVICE_CONFIG),
  // What DNS says of retries is not asked for.
  "grpc.service_config_disable_resolution": 1,
  "grpc.enable_retries": 1,
  // gRPC keeps a request for its retries only up to this size, and retries no larger one: its default is 1 MiB.
  "grpc.per_rpc_retry_buffer_size": WIRE_BYTES,
  "grpc.max_send_message_length": WIRE_BYTES,
  "grpc.max_receive_message_length": WIRE_BYTES,
  // A peer that is gone without a word is noticed within 70 s of a call. Pings only run during calls, and no server takes
  // one a minute for too many as long as calls end.
  "grpc.keepalive_time_ms": 60_000,
  "grpc.keepalive_timeout_ms": 10_000,
  // A restarted sidecar is found again at once; gRPC's defaults are 1 s, growing to 2 minutes.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 2_000,
  // The pod's http_proxy is for the world outside.
  "grpc.enable_http_proxy": 0,
  "grpc.primary_user_agent": "standpipe-typescript",
};

/** What one call may say. */
export interface CallOptions {
  /** In place of the client's, retries included. */
  deadlineMs?: number | undefined;
  /** Ends the call; it then throws the signal's reason. It does not undo a commit. */
  signal?: AbortSignal | undefined;
}

/** Where a client calls, and as whom. */
export interface WireOptions {
  /** A file with a bearer token on its first line; else STANDPIPE_TOKEN_FILE. */
  tokenFile?: string | undefined;
  /** The certificates, as PEM, one of which must have signed the server's; else STANDPIPE_CA_FILE. */
  caFile?: string | undefined;
  /** The own certificate, as PEM, for a server that asks for one; else STANDPIPE_CERT_FILE. */
  certFile?: string | undefined;
  /** Its key, as PEM; else STANDPIPE_KEY_FILE. */
  keyFile?: string | undefined;
  /** gRPC's credentials, in place of these files. */
  credentials?: ChannelCredentials | undefined;
  /** Goes with every call; an "authorization" in it stands in for a token's file. */
  metadata?: Readonly<Record<string, string>> | undefined;
  /** gRPC channel options that override the client's. */
  channelOptions?: ChannelOptions | undefined;
}

/** One channel, and how many calls are on it. */
interface Line {
  channel: GrpcClient;
  calls: number;
}

/**
 * A channel, opened at the first call, and who calls.
 *
 * A channel keeps the certificates that it was opened with. When their files change, later calls go through a new
 * channel, and the one before is closed when its last call has ended.
 */
export class Wire {
  readonly #target: string;
  readonly #token: TokenFile | undefined;
  readonly #tls: TlsFiles | undefined;
  readonly #credentials: ChannelCredentials | undefined;
  readonly #metadata: Metadata;
  readonly #options: ChannelOptions;
  readonly #deadlineMs: number;
  readonly #inFlight = new Set<ClientUnaryCall>();
  #lines: Line[] = [];
  #closed = false;
  #shown = "";
  #shownMetadata: Metadata;

  /** Take what is empty from the environment, see `connect`. Throws TypeError, RangeError and FileInvalid. */
  constructor(target: string, options: WireOptions, deadlineMs: number) {
    const { credentials, metadata = {}, channelOptions = {} } = options;
    if (credentials !== undefined && (options.caFile || options.certFile || options.keyFile)) {
      throw new TypeError("give either credentials, or caFile with certFile and keyFile");
    }
    const authorized = Object.keys(metadata).some((name) => name.toLowerCase() === "authorization");
    if (authorized && options.tokenFile) {
      throw new TypeError('give either tokenFile, or "authorization" in metadata');
    }
    const env = process.env;
    this.#target = target || env["STANDPIPE_TARGET"] || TARGET;
    if (this.#target.startsWith("unix-abstract:")) {
      throw new TypeError("target: grpc-js knows no abstract sockets; name a path, as unix:/path");
    }
    const tokenFile = authorized ? "" : options.tokenFile || env["STANDPIPE_TOKEN_FILE"] || "";
    this.#token = tokenFile === "" ? undefined : new TokenFile(tokenFile);
    this.#credentials = credentials;
    if (credentials === undefined && !this.#target.startsWith("unix:")) {
      this.#tls = tls(
        options.caFile || env["STANDPIPE_CA_FILE"] || "",
        options.certFile || env["STANDPIPE_CERT_FILE"] || "",
        options.keyFile || env["STANDPIPE_KEY_FILE"] || "",
      );
    }
    this.#metadata = this.#shownMetadata = new Metadata();
    for (const [name, value] of Object.entries(metadata)) {
      this.#metadata.set(name, value);
    }
    this.#options = { ...OPTIONS, ...channelOptions };
    this.#deadlineMs = valid(deadlineMs);
  }

  /**
   * Call a method and return its answer; a refused token is tried once more if its file has another by now.
   *
   * Throws StandpipeError, the reason of `signal`, and Error once the wire is closed.
   */
  async call<Input extends DescMessage, Output extends DescMessage>(
    method: DescMethod & { input: Input; output: Output },
    request: MessageShape<Input>,
    { deadlineMs = this.#deadlineMs, signal }: CallOptions = {},
  ): Promise<MessageShape<Output>> {
    const bytes = toBinary(method.input, request);
    const deadline = Date.now() + valid(deadlineMs);
    const shown = this.#token?.authorization() ?? "";
    try {
      return await this.#attempt(method, bytes, deadline, shown, signal);
    } catch (error) {
      const failed = this.#errorOf(error);
      if (!(failed instanceof Unauthenticated)) {
        throw failed;
      }
      const newer = this.#token?.authorization(true) ?? "";
      if (newer === shown || Date.now() >= deadline) {
        throw failed;
      }
      try {
        return await this.#attempt(method, bytes, deadline, newer, signal);
      } catch (again) {
        throw this.#errorOf(again);
      }
    }
  }

  /** Close the channels; calls in flight are cancelled. May be called again. */
  close(): void {
    this.#closed = true;
    const lines = this.#lines;
    this.#lines = [];
    for (const call of this.#inFlight) {
      call.cancel();
    }
    for (const line of lines) {
      line.channel.close();
    }
  }

  /** Call once, as who the `authorization` says. Rejects with gRPC's own error. */
  #attempt<Output extends DescMessage>(
    method: DescMethod & { output: Output },
    bytes: Uint8Array,
    deadline: number,
    authorization: string,
    signal: AbortSignal | undefined,
  ): Promise<MessageShape<Output>> {
    signal?.throwIfAborted();
    const line = this.#line();
    line.calls += 1;
    return new Promise((resolve, reject) => {
      const call = line.channel.makeUnaryRequest(
        `/${method.parent.typeName}/${method.name}`,
        asBuffer,
        (answer: Buffer) => fromBinary(method.output, new Uint8Array(answer.buffer, answer.byteOffset, answer.length)),
        bytes,
        this.#with(authorization),
        { deadline },
        (error, answer) => {
          signal?.removeEventListener("abort", abort);
          this.#inFlight.delete(call);
          line.calls -= 1;
          this.#hangUp();
          if (answer !== undefined && error === null) {
            resolve(answer);
          } else {
            reject(signal?.aborted && error?.code === status.CANCELLED ? signal.reason : error);
          }
        },
      );
      const abort = (): void => call.cancel();
      this.#inFlight.add(call);
      signal?.addEventListener("abort", abort);
    });
  }

  /** Return the line for a call, a new one if there is none or the certificates were renewed. */
  #line(): Line {
    if (this.#closed) {
      throw new Error("the client is closed");
    }
    const renewed = this.#tls?.renewed() ?? false;
    let line = this.#lines.at(-1);
    if (line === undefined || renewed) {
      const credentials = this.#credentials ?? this.#tls?.credentials ?? grpcCredentials.createInsecure();
      line = { channel: new GrpcClient(this.#target, credentials, this.#options), calls: 0 };
      this.#lines.push(line);
      this.#hangUp();
    }
    return line;
  }

  /** Close the lines that have no calls, since a newer one is in use. */
  #hangUp(): void {
    if (this.#lines.length < 2) {
      return;
    }
    const newest = this.#lines.at(-1);
    const idle = this.#lines.filter((line) => line !== newest && line.calls === 0);
    this.#lines = this.#lines.filter((line) => !idle.includes(line));
    for (const line of idle) {
      line.channel.close();
    }
  }

  /** Return the metadata of a call. gRPC takes a copy of it, so calls share one as long as the token is the same. */
  #with(authorization: string): Metadata {
    if (authorization !== this.#shown) {
      const metadata = this.#metadata.clone();
      metadata.set("authorization", authorization);
      this.#shown = authorization;
      this.#shownMetadata = metadata;
    }
    return this.#shownMetadata;
  }

  #errorOf(error: unknown): unknown {
    if (error instanceof StandpipeError || !isServiceError(error)) {
      return error;
    }
    const code = status[error.code] ?? "UNKNOWN";
    if (this.#closed && error.code === status.CANCELLED) {
      return new Cancelled("the client was closed", { code, cause: error });
    }
    const details = error.metadata.get("grpc-status-details-bin").at(-1);
    return parse(code, error.details, typeof details === "string" ? undefined : details, error);
  }
}

/** Return after a while, or throw the reason of `signal`. */
export function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const abort = (): void => {
      clearTimeout(timer);
      reject(signal?.reason as Error);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, ms);
    signal?.addEventListener("abort", abort, { once: true });
  });
}

function valid(deadlineMs: number): number {
  if (!(deadlineMs >= 0)) {
    throw new RangeError(`deadlineMs must be a number of milliseconds, at least 0, not ${deadlineMs}`);
  }
  return deadlineMs;
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "code" in error && typeof error.code === "number" && "details" in error;
}
