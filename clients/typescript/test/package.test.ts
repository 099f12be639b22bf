/** The package as it is published: what is in it, and whether a strict application compiles against it. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, it } from "node:test";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const FOLDER = mkdtempSync(join(tmpdir(), "standpipe-package-"));
after(() => rmSync(FOLDER, { recursive: true }));

interface Packed {
  filename: string;
  files: { path: string }[];
}

function pack(): Packed {
  const out = execFileSync("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", FOLDER], {
    cwd: ROOT,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
  });
  const told = JSON.parse(out) as Packed[] | Record<string, Packed>;
  return Object.values(told)[0]!;
}

it("holds what is built, and a strict application compiles against it", () => {
  const { filename, files } = pack();
  const paths = files.map(({ path }) => path);
  for (const path of paths) {
    assert.match(path, /^(dist\/.*\.(js|js\.map|d\.ts)|package\.json|README\.md|LICENSE)$/);
  }
  for (const path of ["dist/index.js", "dist/index.js.map", "dist/index.d.ts", "dist/v1.d.ts", "README.md"]) {
    assert.ok(paths.includes(path), path);
  }

  const modules = join(FOLDER, "node_modules");
  const installed = join(modules, "@standpipe", "client");
  mkdirSync(installed, { recursive: true });
  execFileSync("tar", ["-xzf", join(FOLDER, filename), "-C", installed, "--strip-components=1"]);
  for (const name of readdirSync(join(ROOT, "node_modules")).filter((one) => !one.startsWith("."))) {
    symlinkSync(join(ROOT, "node_modules", name), join(modules, name));
  }
  cpSync(join(ROOT, "test", "consumer", "consumer.ts"), join(FOLDER, "consumer.ts"));
  writeFileSync(join(FOLDER, "package.json"), '{"type": "module"}');
  const tsc = join(ROOT, "node_modules", ".bin", "tsc");
  const options = ["--strict", "--noUncheckedIndexedAccess", "--exactOptionalPropertyTypes", "--verbatimModuleSyntax"];
  const how = ["--noEmit", "--preserveSymlinks", "--types", "node", "--target", "es2022", "--module", "nodenext"];
  try {
    execFileSync(tsc, [...options, ...how, join(FOLDER, "consumer.ts")], { cwd: FOLDER, encoding: "utf8" });
  } catch (error) {
    assert.fail((error as { stdout: string }).stdout);
  }
});

it("has the version of the server that it is released with", () => {
  const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string };
  assert.match(readFileSync(join(ROOT, "..", "..", "pyproject.toml"), "utf8"), new RegExp(`^version = "${version}"$`, "m"));
  const lock = JSON.parse(readFileSync(join(ROOT, "package-lock.json"), "utf8")) as { version: string; packages: object };
  assert.equal(lock.version, version);
  for (const [name, locked] of Object.entries(lock.packages)) {
    assert.ok(!("resolved" in locked), `${name} is locked to one registry's address`);
  }
});

it("imports nothing but its dependencies and Node's own modules, and its maps have the sources", () => {
  const { dependencies } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as {
    dependencies: Record<string, string>;
  };
  const seen = new Set<string>();
  const waiting = [join(ROOT, "dist", "index.js"), join(ROOT, "dist", "v1.js")];
  for (let file = waiting.pop(); file !== undefined; file = waiting.pop()) {
    if (seen.has(file)) {
      continue;
    }
    seen.add(file);
    assert.ok(existsSync(file), file);
    const map = JSON.parse(readFileSync(`${file}.map`, "utf8")) as { sourcesContent: string[] };
    assert.ok(map.sourcesContent[0], file);
    for (const [, from] of readFileSync(file, "utf8").matchAll(/^(?:import|export) .*?from "(.+?)";$/gms)) {
      if (from!.startsWith(".")) {
        waiting.push(join(dirname(file), from!));
      } else if (!from!.startsWith("node:")) {
        const name = from!.split("/").slice(0, 2).join("/");
        assert.ok(Object.hasOwn(dependencies, name), `${file} imports ${from}`);
      }
    }
  }
  assert.ok(seen.size > 15);
});
