// docs/conformance.md from the verdicts. The same verdicts give the same text: no dates, no durations, no machine.
import { KINDS, reasonsOf } from "./expectations.mjs";
import { judge, score, testsOf } from "./suite.mjs";

// How the suite's list of results calls them, and who that is.
const NAMES = { ATS: "Traffic Server", httpd: "Apache httpd" };

// Required and optimal tests passed of the current edition, which is not on npm.
const CURRENT = {
  of: [160, 105],
  caches: [
    ["Traffic Server 9.2", 134, 72],
    ["Apache httpd", 131, 68],
    ["Squid", 121, 58],
    ["Souin in Caddy", 121, 44],
    ["Varnish", 119, 45],
    ["nginx", 100, 58],
    ["HAProxy", 89, 39],
  ],
};

/** `runs`: `[name, verdicts]` of each store. What is said of single tests is said of the first. */
export function render({ suite, version, runs, others, expected }) {
  const [, verdicts] = runs[0];
  return [
    "# HTTP caching, tested by others",
    "",
    "<!-- Written by `make conformance`: change tests/conformance/ instead, and run that. -->",
    "",
    ...introduction(suite, version),
    "",
    "## The score",
    "",
    ...scores(suite, version, runs, others),
    "",
    ...currentEdition(),
    "",
    "## By section",
    "",
    ...sections(suite, verdicts),
    "",
    "## What does not pass, and why",
    "",
    ...notPassed(suite, verdicts, expected),
    "",
    "## The checks",
    "",
    ...checks(suite, verdicts),
    "",
  ].join("\n");
}

function introduction(suite, version) {
  return `\
The [HTTP cache tests](https://cache-tests.fyi), kept by an editor of RFC 9111, are what browsers, proxies and CDNs are
compared with. Each is a short exchange between a client and a server of the suite's own, with the cache in between.

\`\`\`sh
make conformance          # runs them against a release build and writes this file; fetches what it lacks from npm, and says so
make conformance-check    # the same, but this file has to be as it would be written: what CI runs
\`\`\`

A **required** test asks for what the RFC demands, an **optimal** one for what a good cache does, and a **check** only asks: no answer to
it is wrong. A test counts as passed only if all those that it depends on pass too; the ${suite.forBrowsers} for browsers are left out. The edition is
${suite.version}, the latest on npm; asidecar is ${version}, with nothing configured but its listeners and the upstream, and once more with no
memory and all in Redis. Both have to give the same answer to every test. A run fails if a score falls, if a test fails that has no
reason below, and if one passes that has.`.split("\n");
}

function scores(suite, version, runs, others) {
  const columns = suite.parts.flatMap((part) => KINDS.map((kind) => [testsOf(part), kind, part]));
  const row = (name, verdicts, mark = "") => {
    const values = columns.map(([tests, kind]) => score(tests, verdicts, kind).passed);
    return { values, text: `| ${name} | ${values.map((value) => `${mark}${value}${mark}`).join(" | ")} |` };
  };
  const title = ([tests, kind, part]) => `${part.id === "main" ? "" : `${part.name}: `}${kind}, of ${tests.filter((t) => t.kind === kind).length}`;
  const missing = new Map();
  const published = others.map((other) => {
    const tests = columns.filter(([, kind]) => kind === KINDS[0]).flatMap(([all]) => all);
    missing.set(nameOf(other), tests.filter((test) => !(test.id in other.results)).length);
    return row(`${nameOf(other)} ${other.version}`, judge(suite, other.results));
  });
  const incomplete = [...missing].filter(([, count]) => count > 0).map(([name, count]) => `${name} lacks ${count}`);
  return [
    `| | ${columns.map(title).join(" | ")} |`,
    `|---|${columns.map(() => "---:|").join("")}`,
    ...runs.map(([name, verdicts]) => row(`**asidecar ${version}, ${name}**`, verdicts, "**").text),
    ...published.sort((a, b) => b.values[0] - a.values[0] || b.values[1] - a.values[1]).map(({ text }) => text),
    "",
    "All but asidecar's are the results that the suite's package carries, of the versions and with the settings that its authors took,",
    `counted the same way. A test without a result counts as not passed${incomplete.length ? ` (${incomplete.join(", ")})` : ""}. Surrogate-Control is an older way to talk`,
    "to caches, which few know; its tests are counted apart.",
  ];
}

function nameOf(other) {
  return NAMES[other.name] ?? other.name;
}

function currentEdition() {
  const [required, optimal] = CURRENT.of;
  return [
    `How others do with the current edition, which asks for more (${required} required tests, ${optimal} optimal ones) and, in places, for something`,
    "else; measured by us, but for Souin's figures, which are as published.",
    "",
    `| | required, of ${required} | optimal, of ${optimal} |`,
    "|---|---:|---:|",
    ...CURRENT.caches.map((row) => `| ${row.join(" | ")} |`),
    "",
    "`CACHE_TESTS_DIR=path/to/checkout make conformance` runs the tests of a checkout and says how asidecar does; it writes nothing.",
  ];
}

function sections(suite, verdicts) {
  const cell = ({ passed, of }) => (of === 0 ? "" : `${passed} of ${of}`);
  const row = (name, tests) => `| ${name} | ${KINDS.map((kind) => cell(score(tests, verdicts, kind))).join(" | ")} |`;
  const counts = (section) => section.tests.some((test) => KINDS.includes(test.kind));
  return [
    "| section | required | optimal |",
    "|---|---:|---:|",
    ...suite.parts.flatMap((part) => [
      ...(part.sections.length > 1 ? part.sections.filter(counts).map((section) => row(section.name, section.tests)) : []),
      row(`**${part.name}**`, testsOf(part)),
    ]),
    "",
    "Sections that have only checks are left out here.",
  ];
}

function notPassed(suite, verdicts, expected) {
  const reasons = reasonsOf(expected);
  return KINDS.flatMap((kind) => {
    const tests = suite.parts.flatMap(testsOf).filter((test) => test.kind === kind && verdicts.get(test.id) !== "yes");
    const without = tests.filter((test) => !reasons.has(test.id));
    const groups = expected.not_passed
      .map(({ because, tests: ids }) => ({ because, tests: tests.filter((test) => ids.includes(test.id)) }))
      .concat({ because: "**No reason is known.**", tests: without })
      .filter((group) => group.tests.length > 0);
    return [
      `### ${kind[0].toUpperCase()}${kind.slice(1)}: ${tests.length}`,
      "",
      ...(groups.length === 0 ? ["None.", ""] : []),
      ...groups.flatMap((group) => [group.because, "", ...group.tests.map((test) => `- \`${test.id}\`: ${test.name}`), ""]),
    ];
  }).slice(0, -1);
}

function checks(suite, verdicts) {
  const all = suite.parts.flatMap((part) => part.sections);
  return [
    "How asidecar answers where the RFC leaves the choice, or where the suite only wants to know. n/a: it could not be asked, because what",
    "it builds on did not come about.",
    "",
    ...all.flatMap((section) => {
      const tests = section.tests.filter((test) => test.kind === "check");
      if (tests.length === 0) return [];
      return [`**${section.name}**`, "", ...tests.map((test) => `- ${verdicts.get(test.id)}: ${test.name}`), ""];
    }),
  ].slice(0, -1);
}
