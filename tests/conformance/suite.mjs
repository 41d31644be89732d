// The suite's tests as it defines them, and what counts as passed. No processes, no files but the suite's own.
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const KINDS = ["required", "optimal", "check"];

/**
 * A suite: its parts (the main one, and what only some caches take part in), each with sections and their tests.
 * Tests for browsers are left out: nobody runs them against a proxy.
 */
export async function load(folder) {
  const dir = resolve(folder);
  const read = async (path) => (await import(pathToFileURL(join(dir, path)))).default;
  const sections = [...(await read("tests/index.mjs"))];
  if (!sections.some(isSurrogate)) {
    // This edition's cli.mjs adds it by itself; in others it may be gone.
    const surrogate = await read("tests/surrogate-control.mjs").catch((error) => {
      if (error.code !== "ERR_MODULE_NOT_FOUND") throw error;
    });
    if (surrogate) sections.push(surrogate);
  }
  const tests = sections.flatMap((section) =>
    section.tests.map((test) => ({ ...test, kind: test.kind ?? "required", section: section.id })),
  );
  const counted = tests.filter((test) => !test.browser_only);
  for (const test of counted) {
    if (!KINDS.includes(test.kind)) throw new Error(`${test.id} is of the kind ${test.kind}, which nothing is known of here`);
  }
  const part = (id, name, belongs) => ({
    id,
    name,
    sections: sections
      .map(({ id: section, name }) => ({ name, tests: counted.filter((t) => t.section === section && belongs(t)) }))
      .filter((section) => section.tests.length > 0),
  });
  const surrogate = new Set(sections.filter(isSurrogate).map((section) => section.id));
  return {
    version: JSON.parse(readFileSync(join(dir, "package.json"), "utf8")).version ?? "of no version",
    forBrowsers: tests.length - counted.length,
    tests: new Map(counted.map((test) => [test.id, test])),
    parts: [
      part("main", "Main part", (t) => !surrogate.has(t.section) && !t.cdn_only),
      part("surrogate", "Surrogate-Control", (t) => surrogate.has(t.section)),
      part("cdn", "For CDNs", (t) => !surrogate.has(t.section) && t.cdn_only),
    ].filter((p) => p.sections.length > 0),
  };
}

function isSurrogate(section) {
  return section.id === "surrogate-control";
}

/** The results of others that the suite carries along: reverse proxies and CDNs. */
export async function published(folder) {
  const dir = resolve(folder, "results");
  const { default: index } = await import(pathToFileURL(join(dir, "index.mjs")));
  return index
    .filter((entry) => ["rev-proxy", "cdn"].includes(entry.type))
    .map(({ name, version, file }) => ({ name, version, results: JSON.parse(readFileSync(join(dir, file), "utf8")) }));
}

/**
 * What the results say of each test: `yes`, `no`, or `n/a` where it could not be asked, because a test that it depends on does
 * not say yes or because what it sets up did not come about. Passed is what says yes.
 */
export function judge(suite, results) {
  const verdicts = new Map();
  const verdict = (id) => {
    if (!verdicts.has(id)) {
      verdicts.set(id, "n/a"); // should tests ever depend on each other in a circle
      verdicts.set(id, decide(id));
    }
    return verdicts.get(id);
  };
  const decide = (id) => {
    const result = results[id];
    if (result === undefined || !suite.tests.has(id)) return "n/a";
    if (!(suite.tests.get(id).depends_on ?? []).every((other) => verdict(other) === "yes")) return "n/a";
    if (result === true) return "yes";
    return result[0] === "Setup" ? "n/a" : "no";
  };
  for (const id of suite.tests.keys()) verdict(id);
  return verdicts;
}

/** How many tests of a kind say yes, of how many. */
export function score(tests, verdicts, kind) {
  const of = tests.filter((test) => test.kind === kind);
  return { passed: of.filter((test) => verdicts.get(test.id) === "yes").length, of: of.length };
}

export function testsOf(part) {
  return part.sections.flatMap((section) => section.tests);
}
