// Runs the public HTTP cache tests against asidecar, twice: with memory alone, and with Redis alone.
//
//   node tests/conformance/run.mjs [--check] [--binary FILE] [--suite FOLDER]
//
// Writes docs/conformance.md, and fails where expected.json is not met; with --check the file has to be so already. With
// CACHE_TESTS_DIR, a checkout of the suite, it only says what passes: floors, reasons and file are those of one edition.
// scripts/install-cache-tests.sh fetches what is needed; `make conformance` does it all.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { KINDS, differences, shortcomings } from "./expectations.mjs";
import { Failure, Processes, failed, get, until } from "./processes.mjs";
import { render } from "./report.mjs";
import { judge, load, published, score, testsOf } from "./suite.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));
const REPO = resolve(HERE, "../..");
const TARGET = resolve(process.env.CARGO_TARGET_DIR ?? join(REPO, "target"));
const REPORT = join(REPO, "docs/conformance.md");
// Most of a run is the suite's own waiting. Newer editions run fewer tests at a time, and wait longer.
const DEADLINE_MS = process.env.CACHE_TESTS_DIR ? 15 * 60_000 : 3 * 60_000;

const STORES = [
  { name: "memory alone", redis: false },
  { name: "Redis alone", redis: true },
];

const { values: options } = parseArgs({
  options: {
    check: { type: "boolean", default: false },
    binary: { type: "string", default: join(TARGET, "pgo/release/asidecar") },
    suite: { type: "string", default: process.env.CACHE_TESTS_DIR || join(TARGET, "conformance/suite") },
  },
});
options.suite = resolve(options.suite);
const foreign = Boolean(process.env.CACHE_TESTS_DIR);
const processes = new Processes();

let ending = false;
/** The one way out: what runs is ended first, and whatever comes after is not heard. */
async function end(status, message) {
  if (ending) return;
  ending = true;
  if (message) console.error(message);
  await processes.stopAll();
  process.exit(status);
}

for (const [signal, status] of [["SIGINT", 130], ["SIGTERM", 143], ["SIGHUP", 129]]) {
  process.on(signal, () => end(status, `ended by ${signal}`));
}
setTimeout(() => end(1, `error: not done within ${DEADLINE_MS / 60_000} minutes`), DEADLINE_MS);

main().then(
  (status) => end(status),
  (error) => end(1, error instanceof Failure ? `error: ${error.message}` : error),
);

async function main() {
  if (foreign && options.check) throw new Failure("CACHE_TESTS_DIR is set: of other tests than those on npm there is nothing to check");
  const suite = await loaded(options.suite);
  const runs = [];
  for (const store of STORES) {
    say(`==> ${suite.tests.size} tests of edition ${suite.version}, ${store.name}`);
    runs.push([store.name, judge(suite, await resultsWith(store))]);
  }
  const different = differences(suite, runs).map((line) => `the two runs differ in ${line}`);
  const [, verdicts] = runs[0];

  if (foreign) {
    for (const test of suite.tests.values()) {
      if (test.kind !== "check" && verdicts.get(test.id) !== "yes") say(`not passed (${test.kind}): ${test.id}: ${test.name}`);
    }
    say(`These are the tests in ${options.suite}: nothing is compared with what ${relative(REPO, HERE)}/ expects, and nothing is written.`);
    return tell(suite, runs, different);
  }

  const expected = JSON.parse(readFileSync(join(HERE, "expected.json"), "utf8"));
  if (expected.suite !== suite.version) throw new Failure(`expected.json is for edition ${expected.suite}, and this is ${suite.version}`);
  const text = render({ suite, version: ownVersion(), runs, others: await published(options.suite), expected });
  // First the file, which says more than any message.
  const stale = options.check ? outdated(text) : write(text);
  return tell(suite, runs, [...shortcomings(suite, verdicts, expected), ...stale, ...different]);
}

async function loaded(folder) {
  if (!existsSync(folder)) throw new Failure(`there is no ${folder}: scripts/install-cache-tests.sh fetches the suite`);
  try {
    return await load(folder);
  } catch (error) {
    throw new Failure(`the tests in ${folder} can't be read: ${error.message}${foreign ? advice() : ""}`);
  }
}

/** The suite's results of asidecar before the suite's own server, all of them on loopback and on free ports. */
async function resultsWith(store) {
  const origin = await startOrigin();
  const redis = store.redis ? await processes.redis() : undefined;
  const proxy = await startProxy(origin.port, redis?.port);
  for (const child of [origin.server, redis?.redis, proxy.server]) {
    child?.gone.then(() => child.wanted && end(1, `error: ${failed(child, `${child.how} in the middle of the tests`).message}`));
    if (child) child.wanted = true;
  }
  const client = processes.start("the suite's client", process.execPath, ["--no-warnings", script("cli.mjs")], {
    cwd: options.suite,
    // An id would be the one test to run: empty means all.
    env: environment({ npm_config_base: proxy.base, npm_config_id: "", npm_package_config_id: "" }),
  });
  let json = "";
  client.stdout.on("data", (text) => { json += text; });
  await client.gone;
  const started = json.search(/^\{$/m);
  if (client.how !== "ended with status 0" || started < 0) {
    throw new Failure(failed(client, `${client.how}, without results`).message + (foreign ? advice() : ""));
  }
  const servers = [proxy.server, redis?.redis, origin.server].filter(Boolean);
  for (const child of servers) child.wanted = false;
  await processes.stop(...servers);
  return JSON.parse(json.slice(started));
}

async function startOrigin() {
  const server = processes.start("the suite's server", script("server/server.mjs"), [], {
    module: true,
    cwd: options.suite,
    execArgv: ["--require", join(HERE, "loopback.cjs")],
    env: environment({ npm_config_protocol: "http", npm_config_port: "0", npm_config_pidfile: processes.file("pid") }),
  });
  let port;
  server.on("message", (message) => { port = message.port; });
  try {
    await until(server, "answer to GET /", async () => port && (await get(`http://127.0.0.1:${port}/`)));
  } catch (failure) {
    if (failure instanceof Failure && foreign) failure.message += advice();
    throw failure;
  }
  return { server, port };
}

async function startProxy(originPort, redisPort) {
  const config = processes.file("asidecar.toml");
  writeFileSync(config, [
    "[listen]",
    'proxy = "127.0.0.1:0"',
    'admin = "127.0.0.1:0"',
    "[upstream]",
    `url = "http://127.0.0.1:${originPort}"`,
    // Nothing here is about a slow Redis: a busy machine is no reason to do without it.
    ...(redisPort ? ["[store]", 'memory = "0"', `redis = "redis://127.0.0.1:${redisPort}/0"`, 'redis_timeout = "5s"'] : []),
    "",
  ].join("\n"));
  const server = processes.start("asidecar", options.binary, ["run", "--config", config], { env: environment({}) });
  const [, base, admin] = await until(server, "addresses in its log", () =>
    server.output.match(/serving proxy=(http:\/\/[\d.:]+) admin=(http:\/\/[\d.:]+)/));
  await until(server, "200 from /healthz", async () => (await get(`${admin}/healthz`))?.status === 200);
  // It serves before it reaches Redis, and without it nothing is kept.
  const store = redisPort ? "up" : "off";
  await until(server, `upstream up and redis ${store} in /readyz`, async () => {
    const ready = JSON.parse((await get(`${admin}/readyz`))?.text ?? "{}");
    return ready.upstream === "up" && ready.redis === store;
  });
  return { server, base };
}

/** Newer editions have their scripts in a folder. */
function script(path) {
  const found = [path, `test-engine/${path}`].find((p) => existsSync(join(options.suite, p)));
  if (!found) throw new Failure(`${options.suite} has no ${path}: is it a checkout of the suite?`);
  return found;
}

/** Ours, but for what would configure asidecar or the suite. */
function environment(more) {
  const inherited = Object.entries(process.env).filter(([name]) => !/^(ASIDECAR_|npm_|RUST_LOG$|NODE_OPTIONS$)/i.test(name));
  return { ...Object.fromEntries(inherited), ...more };
}

function advice() {
  return `
A newer edition may use packages that are not there: \`npm install --ignore-scripts\` in ${options.suite} fetches them.
If it still does not start, its cli.mjs or server.mjs wants something else in the environment than npm_config_base, _id, _protocol, _port and
_pidfile: see its README.md, and tests/conformance/run.mjs.`;
}

function ownVersion() {
  return readFileSync(join(REPO, "Cargo.toml"), "utf8").match(/^version = "(.+)"$/m)[1];
}

function write(text) {
  writeFileSync(REPORT, text);
  say(`wrote ${relative(process.cwd(), REPORT)}`);
  return [];
}

/** Whether the file is not what it would be; then it is put where it can be looked at. */
function outdated(text) {
  const before = existsSync(REPORT) ? readFileSync(REPORT, "utf8") : "";
  if (before === text) return [];
  const beside = join(TARGET, "conformance/conformance.md");
  mkdirSync(dirname(beside), { recursive: true });
  writeFileSync(beside, text);
  const [had, has] = [before.split("\n"), text.split("\n")];
  const at = has.findIndex((line, number) => line !== had[number]);
  const first = at < 0 ? has.length : at;
  return [
    `docs/conformance.md is not what this run gives: \`make conformance\` writes it. It is in ${beside}; the first line that differs is ${first + 1}:
  it says    ${had[first] ?? "(nothing)"}
  it should  ${has[first] ?? "(nothing)"}`,
  ];
}

function table(suite, runs) {
  const rows = [["", ...suite.parts.flatMap((part) => KINDS.map((kind) => `${part.name}: ${kind}`))]];
  for (const [name, verdicts] of runs) {
    const scores = suite.parts.flatMap((part) => KINDS.map((kind) => score(testsOf(part), verdicts, kind)));
    rows.push([name, ...scores.map(({ passed, of }) => `${passed} of ${of}`)]);
  }
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  say("");
  for (const row of rows) say(row.map((cell, column) => cell.padEnd(widths[column])).join("   ").trimEnd());
  say("");
}

/** Tells what does not hold and what the score is, and gives the status to end with. */
function tell(suite, runs, problems) {
  for (const problem of problems) say(`error: ${problem}`);
  table(suite, runs);
  say(problems.length === 0 ? "conformance: fine" : `conformance: ${problems.length} ${problems.length === 1 ? "error" : "errors"}`);
  return problems.length === 0 ? 0 : 1;
}

function say(line) {
  console.log(line);
}
