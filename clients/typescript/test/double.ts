/** A double of the server: real gRPC on a real port, and answers by script. */

import { fromBinary, toBinary, type DescMessage, type DescMethod, type DescService, type Message } from "@bufbuild/protobuf";
import {
  Metadata,
  Server,
  ServerCredentials,
  status,
  type sendUnaryData,
  type ServerUnaryCall,
  type ServiceError,
} from "@grpc/grpc-js";
import * as v1 from "@standpipe/client/v1";

/** A call as the double saw it. */
export interface Seen {
  method: string;
  request: Message;
  metadata: Metadata;
}

/** An answer: a message, a status by name, never one, or what a function makes of the call. */
export type Scripted = Message | StatusName | "WAIT" | ((seen: Seen) => Scripted);

type StatusName = Exclude<keyof typeof status, "OK">;

const SERVICES = Object.values(v1).filter(
  (value): value is typeof value & DescService => "kind" in Object(value) && (value as DescService).kind === "service",
) as readonly DescService[];

/** A server that gives its `answers` in turn, the last one again and again. */
export class Double {
  readonly seen: Seen[] = [];
  /** Goes with every refusal. */
  trailers: Record<string, string | Buffer> = {};
  /** What a refusal says. */
  message = "scripted";
  target = "";
  #server: Server | undefined;

  constructor(public answers: Scripted[] = []) {}

  /** Listen. */
  async start(address = "127.0.0.1:0", credentials = ServerCredentials.createInsecure()): Promise<this> {
    const server = new Server({ "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 });
    for (const method of SERVICES.flatMap((service) => service.methods)) {
      server.register(
        `/${method.parent.typeName}/${method.name}`,
        (call: ServerUnaryCall<Message, Message>, answered: sendUnaryData<Message>) => {
          this.#answer(method, call, answered);
        },
        (message: Message) => Buffer.from(toBinary<DescMessage>(method.output, message)),
        (bytes: Buffer) => fromBinary(method.input, bytes),
        "unary",
      );
    }
    const port = await new Promise<number>((resolve, reject) => {
      server.bindAsync(address, credentials, (error, bound) => (error === null ? resolve(bound) : reject(error)));
    });
    this.target = address.startsWith("unix:") ? address : address.replace(/:0$/, `:${port}`);
    this.#server = server;
    return this;
  }

  /** Stop at once: who waits is cut off. */
  stop(): void {
    this.#server?.forceShutdown();
    this.#server = undefined;
  }

  [Symbol.dispose](): void {
    this.stop();
  }

  #answer(method: DescMethod, call: ServerUnaryCall<Message, Message>, answered: sendUnaryData<Message>): void {
    const seen = { method: method.name, request: call.request, metadata: call.metadata };
    this.seen.push(seen);
    let answer = this.answers.length > 1 ? this.answers.shift() : this.answers[0];
    while (typeof answer === "function") {
      answer = answer(seen);
    }
    if (answer === "WAIT") {
      return;
    }
    if (typeof answer === "object") {
      answered(null, answer);
      return;
    }
    const metadata = new Metadata();
    for (const [key, value] of Object.entries(this.trailers)) {
      metadata.set(key, value);
    }
    const refusal: Partial<ServiceError> = {
      code: status[answer ?? "UNIMPLEMENTED"],
      details: this.message,
      metadata,
    };
    answered(refusal);
  }
}
