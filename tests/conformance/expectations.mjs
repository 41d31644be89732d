// What has to hold of the verdicts: both stores give the same, no score is below its floor, each test that does not pass has its
// reason in expected.json, and none is listed there that passes. Whatever does not hold is a sentence.
import { score, testsOf } from "./suite.mjs";

export const KINDS = ["required", "optimal"];

/** Where the runs, `[name, verdicts]` each, differ. The answers of checks count; of other tests whether they pass. */
export function differences(suite, [[firstName, first], ...others]) {
  return others.flatMap(([name, verdicts]) =>
    [...suite.tests.values()]
      .filter(({ id, kind }) => {
        const [one, other] = [first.get(id), verdicts.get(id)];
        return kind === "check" ? one !== other : (one === "yes") !== (other === "yes");
      })
      .map(({ id }) => `${id}: ${first.get(id)} with ${firstName}, ${verdicts.get(id)} with ${name}`),
  );
}

export function shortcomings(suite, verdicts, expected) {
  const problems = [];
  for (const part of suite.parts) {
    for (const kind of KINDS) {
      const floor = expected.floors[part.id]?.[kind];
      const { passed } = score(testsOf(part), verdicts, kind);
      if (floor === undefined) problems.push(`no floor for ${part.name}, ${kind}`);
      else if (passed < floor) problems.push(`${part.name}: ${passed} ${kind} tests pass, fewer than the floor of ${floor}`);
      else if (passed > floor) problems.push(`${part.name}: ${passed} ${kind} tests pass: raise the floor of ${floor}`);
    }
  }
  const reasons = reasonsOf(expected);
  for (const { id, kind, name } of suite.tests.values()) {
    if (kind === "check") continue;
    const passes = verdicts.get(id) === "yes";
    if (!passes && !reasons.has(id)) problems.push(`${id} (${kind}) does not pass, and no reason is given: ${name}`);
    if (passes && reasons.has(id)) problems.push(`${id} now passes: remove it and raise the floor`);
  }
  const listed = expected.not_passed.flatMap((group) => group.tests);
  for (const id of reasons.keys()) {
    const kind = suite.tests.get(id)?.kind;
    if (kind === undefined) problems.push(`${id} is given a reason, and there is no such test`);
    if (kind === "check") problems.push(`${id} is given a reason, and is a check: no answer to it is wrong`);
    if (listed.indexOf(id) !== listed.lastIndexOf(id)) problems.push(`${id} is given two reasons`);
  }
  return problems;
}

/** The reason of each test that is not expected to pass. */
export function reasonsOf(expected) {
  return new Map(expected.not_passed.flatMap(({ tests, because }) => tests.map((id) => [id, because])));
}
