// A call by Connect's own client for Node, whose library knows the API from its descriptors alone:
// node connect.mjs MODULES DESCRIPTORS URL SESSION VERSION
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [modules, descriptors, baseUrl, sessionId, version] = process.argv.slice(2);
const from = createRequire(pathToFileURL(modules + "/"));
const load = (name) => import(pathToFileURL(from.resolve(name)).href);
const { createFileRegistry, fromBinary } = await load("@bufbuild/protobuf");
const { FileDescriptorSetSchema } = await load("@bufbuild/protobuf/wkt");
const { createClient, ConnectError, Code } = await load("@connectrpc/connect");
const { createConnectTransport } = await load("@connectrpc/connect-node");

const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(descriptors)));
const said = [];
for (const useBinaryFormat of [false, true]) {
  const transport = createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat });
  const client = createClient(registry.getService("standpipe.v1.ContextService"), transport);
  const turn = { entries: [{ entry: { case: "message", value: { role: 2, text: "hi 漢" } } }] };
  const request = { sessionId, subjectId: "anna", requestId: "r", expectedVersion: BigInt(version), turn };
  const done = await client.commitTurn(request, { timeoutMs: 10_000 });
  const { bundle } = await client.hydrateContext({ sessionId });
  said.push({ version: String(done.result.version), replayed: done.replayed, shown: bundle.sections[0].segments[0].body });
  try {
    await client.commitTurn({ ...request, requestId: "other" });
  } catch (error) {
    const [info] = ConnectError.from(error).findDetails(registry.getMessage("google.rpc.ErrorInfo"));
    said.push({ code: Code[error.code], reason: info.reason, current: info.metadata.current_version });
  }
}
console.log(JSON.stringify(said));
