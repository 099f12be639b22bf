/**
 * A conversation that Standpipe remembers, with any OpenAI-compatible model.
 *
 *     node build/examples/chat/chat.js --session chat-42 --subject anna "Where were we?"
 *
 * Each argument is a question; without arguments, each line of the standard input is. Standpipe is found by
 * STANDPIPE_TARGET, the model by OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL.
 */

import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { connect, type OpenAIMessage } from "@standpipe/client";

/** A model call ends after this, whatever it has said. */
const ANSWER_MS = 60_000;

async function ask(messages: OpenAIMessage[]): Promise<string> {
  const { OPENAI_BASE_URL: url, OPENAI_API_KEY: key, OPENAI_MODEL: model } = process.env;
  const response = await fetch(`${(url || "https://api.openai.com/v1").replace(/\/+$/, "")}/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) },
    body: JSON.stringify({ model: model || "gpt-4o", messages }),
    signal: AbortSignal.timeout(ANSWER_MS),
  });
  if (!response.ok) {
    throw new Error(`the model's endpoint answered ${response.status}`);
  }
  const { choices } = (await response.json()) as { choices?: { message?: { content?: string | null } }[] };
  const text = choices?.[0]?.message?.content;
  if (!text) {
    throw new Error("the model said nothing");
  }
  return text;
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    session: { type: "string", default: "chat" },
    subject: { type: "string", default: "someone" },
  },
});
const client = connect();
try {
  const session = client.session(values.session, { subject: values.subject });
  for await (const question of positionals.length > 0 ? positionals : createInterface({ input: process.stdin })) {
    if (question.trim() === "") {
      continue;
    }
    let said = "";
    await session.turn(question, async (bundle) => (said = await ask(bundle.toOpenAI())));
    console.log(said);
  }
} catch (error) {
  console.error(`chat: ${error instanceof Error ? `${error.name}: ${error.message}` : String(error)}`);
  process.exitCode = 1;
} finally {
  client.close();
}
