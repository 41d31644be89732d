#!/usr/bin/env bash
# Files that no compiler reads: shell scripts, compose.yaml, the systemd unit, the Kubernetes manifest.
# What a tool is missing for is said, not failed: only bash is certain to be here.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$repo"

scripts=(.ci/run scripts/*.sh)
for script in "${scripts[@]}"; do bash -n "$script"; done
echo "bash -n: ${#scripts[@]} scripts parse"
if have shellcheck; then
  shellcheck --external-sources --source-path=SCRIPTDIR "${scripts[@]}"
  echo "shellcheck: nothing to say"
else
  say "note: no shellcheck here, skipped"
fi

# Whatever compose.yaml and the Dockerfile name has to exist.
missing=0
for path in $(grep -oE '^ *- \./[^:]+' compose.yaml | sed 's/^ *- //' | sort -u) Dockerfile; do
  [ -e "$path" ] || { say "error: compose.yaml mounts $path, which does not exist"; missing=1; }
done
# shellcheck disable=SC2013 # words are what is wanted
for target in $(grep -oE 'target: [a-z-]+' compose.yaml | cut -d' ' -f2); do
  grep -qE "^FROM .* AS $target$" Dockerfile || { say "error: compose.yaml builds the target $target, which the Dockerfile does not have"; missing=1; }
done
[ "$missing" -eq 0 ] || exit 1
echo "compose.yaml: what it mounts and builds exists"

if have docker && docker compose version >/dev/null 2>&1; then
  docker compose --file compose.yaml config --quiet
  echo "docker compose config: sound"
fi
if have python3 && python3 -c 'import yaml' 2>/dev/null; then
  python3 - compose.yaml deploy/kubernetes/*.yaml grafana/provisioning/*/*.yml <<'PYTHON'
import sys, yaml

class Strict(yaml.SafeLoader):
    """YAML lets a key appear twice and keeps the last: here that is an error."""
    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.YAMLError(f"{key.value} twice, {key.start_mark}")
                seen.add(key.value)
        return super().construct_mapping(node, deep)

for path in sys.argv[1:]:
    documents = [d for d in yaml.load_all(open(path), Strict) if d]
    if path == "compose.yaml":
        services = documents[0]["services"]
        for name, service in services.items():
            for other in service.get("depends_on", {}):
                assert other in services, f"{path}: {name} depends on {other}, which does not exist"
            for port in service.get("ports", []):
                assert port.startswith("127.0.0.1:"), f"{path}: {name} publishes {port} beyond loopback"
    print(f"{path}: sound YAML, {len(documents)} document(s)")
PYTHON
else
  say "note: no python3 with yaml here, the YAML files are not parsed"
fi

if have systemd-analyze; then
  # The unit names a binary that is not installed here: verify a copy that names one that is.
  unit=$(mktemp -d)/asidecar.service
  sed "s|/usr/local/bin/asidecar|$(command -v true)|" deploy/systemd/asidecar.service >"$unit"
  complaints=$(systemd-analyze verify "$unit" 2>&1 | grep -F asidecar.service || true)
  rm -r "$(dirname "$unit")"
  [ -z "$complaints" ] || fail "systemd-analyze verify: $complaints"
  echo "deploy/systemd/asidecar.service: systemd-analyze verify has nothing to say"
else
  say "note: no systemd-analyze here, the unit is not verified"
fi
