#!/usr/bin/env bash
# Grafana's and Prometheus' files: are they sound, do the alerts fire when they should, and does every query parse?
# That each query names a metric that /metrics really shows is a test of `cargo test`.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$repo/grafana"

promtool=$("$repo/scripts/install-promtool.sh")

"$promtool" check config prometheus/prometheus.yml
"$promtool" test rules prometheus/alerts_test.yml

# JSON by whatever reads it here; Debian has at least one of them as soon as git is installed.
json_check() {
  if have python3; then python3 -c 'import json,sys; json.load(open(sys.argv[1]))' "$1"
  elif have jq; then jq -e . "$1" >/dev/null
  elif perl -MJSON::PP -e 1 2>/dev/null; then perl -MJSON::PP -e 'local $/; open my $f, "<", $ARGV[0] or die $!; decode_json(<$f>)' "$1"
  else say "note: no python3, jq or perl to read JSON with; cargo test reads $1 too"; fi
}
for file in dashboards/*.json; do
  json_check "$file"
  echo "$file: sound JSON"
done

have python3 || { say "note: without python3 the dashboard's queries are not parsed here"; exit 0; }

# Every query as a rule with Grafana's variables filled in, so that promtool parses it; and a few habits.
rules=$(mktemp)
trap 'rm -f "$rules"' EXIT
python3 - "$rules" dashboards/*.json <<'PYTHON'
import json, re, sys

def panels_of(panels):
    for panel in panels:
        yield panel
        yield from panels_of(panel.get("panels", []))

wrong, rules = [], []
for path in sys.argv[2:]:
    with open(path) as file:
        board = json.load(file)
    if not board.get("uid"):
        wrong.append(f"{path}: no uid; links to it would break with each start")
    ids = set()
    for panel in panels_of(board["panels"]):
        at = f"{path}: panel “{panel.get('title')}”"
        if panel["id"] in ids:
            wrong.append(f"{at}: its id {panel['id']} is taken")
        ids.add(panel["id"])
        if panel["type"] == "row":
            continue
        if not panel.get("description", "").strip():
            wrong.append(f"{at}: no description")
        if not panel["fieldConfig"]["defaults"].get("unit"):
            wrong.append(f"{at}: no unit")
        if not panel.get("targets"):
            wrong.append(f"{at}: no query")
        for target in panel.get("targets", []):
            if target["datasource"].get("uid") != "${datasource}":
                wrong.append(f"{at}: a query that does not use the data source variable")
            rules.append(target["expr"])
    rules += [a["expr"] for a in board["annotations"]["list"] if "expr" in a]

with open(sys.argv[1], "w") as file:
    group = {"name": "queries", "rules": []}
    for number, expr in enumerate(rules):
        expr = re.sub(r"\$__(rate_interval|range|interval)\b", "5m", expr)
        expr = re.sub(r"\$(instance|route)\b", ".*", expr)
        if "$" in expr:
            wrong.append(f"a variable that the dashboard does not have: {expr}")
        group["rules"].append({"record": f"query:{number}", "expr": expr})
    json.dump({"groups": [group]}, file)
for line in wrong:
    print(line, file=sys.stderr)
sys.exit(1 if wrong else 0)
PYTHON
"$promtool" check rules "$rules" | sed "s|$rules|the dashboards' queries|"
