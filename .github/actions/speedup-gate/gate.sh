#!/usr/bin/env bash
# The gate of the action beside: runs the benchmark, says its verdict as a step output, ends as the gate does.
set -uo pipefail

arguments=("$RECIPE" --against "$BASELINE" --runs-dir "$RUNS_DIR" --progress plain)
while IFS= read -r line; do
  if [[ -n "$line" ]]; then arguments+=(--set "$line"); fi
done <<< "${OVERRIDES:-}"
if [[ "${STRICT:-false}" == true ]]; then arguments+=(--strict); fi

started=$(mktemp)
trap 'rm -f "$started"' EXIT
speculators run "${arguments[@]}"
code=$?

# The record says it also where a broken measurement ended the command; older ones are of other runs.
record=$(find "$RUNS_DIR" -mindepth 3 -maxdepth 3 -name run.json -newer "$started" 2>/dev/null | sort | tail -n 1)
python3 - "$record" >> "$GITHUB_OUTPUT" <<'PYTHON'
import json
import sys
from pathlib import Path

path = sys.argv[1]
record = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
print("verdict=" + record.get("gate", {}).get("verdict", ""))
print("run=" + (str(Path(path).parent) if path else ""))
PYTHON
exit "$code"
