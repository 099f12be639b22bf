/** An application under the strictest settings: it must compile against the packed package, and is never run. */

import {
  assistant,
  Conflict,
  connect,
  toolCall,
  user,
  type AnthropicPrompt,
  type Bundle,
  type Client,
  type OpenAIMessage,
  type Session,
  type TurnResult,
} from "@standpipe/client";
import { MemoryService, StateService, type Event, type SearchMemoryResponse } from "@standpipe/client/v1";

const client: Client = connect("unix:/run/standpipe/standpipe.sock", { tenant: "acme", tokenFile: undefined });
const session: Session = client.session("chat-42", { subject: "anna" });

async function answer(bundle: Bundle): Promise<string> {
  const messages: OpenAIMessage[] = bundle.toOpenAI();
  const { system, messages: turns }: AnthropicPrompt = bundle.toAnthropic("and now?");
  return `${messages.length} ${system.length} ${turns.length}`;
}

export async function conversation(signal?: AbortSignal): Promise<TurnResult> {
  const bundle = await session.hydrate("Hi", { include: ["history"], consistency: { fullyConsistent: true }, signal });
  const version: number = bundle.version;
  try {
    await session.commit([user("Hi"), toolCall("c", "look", { at: version }), assistant("Ho")], { bundle });
  } catch (error) {
    if (error instanceof Conflict) {
      const current: number | undefined = error.currentVersion;
      console.log(error.reason, current, error.requestId);
    }
  }
  for await (const event of session.events()) {
    const one: Event = event;
    const stored: bigint = one.version;
    console.log(stored);
  }
  return session.turn("Hi", answer, { signal });
}

export async function raw(): Promise<SearchMemoryResponse> {
  const { revision } = await client.stub(StateService).putState({ collection: "c", writes: [{ key: "k" }] });
  const exact: bigint = revision;
  console.log(exact);
  return client.stub(MemoryService).searchMemory({ subjectId: "anna", query: "cats" }, { deadlineMs: 500 });
}

// @ts-expect-error - a session has no such source
void session.hydrate("Hi", { include: ["memories"] });
// @ts-expect-error - plain text has no role
void session.commit(["Hi"], { expectedVersion: 0 });
// @ts-expect-error - the service has no such method
void client.stub(StateService).forgetState({});
// @ts-expect-error - a request has no such field
void client.stub(StateService).getState({ collections: "c" });
