#!/usr/bin/env bash
# The gate of the action beside: runs the benchmark, says its verdict as a step output, ends as the gate does.
set -uo pipefail

arguments=("$RECIPE" --only benchmark --against "$BASELINE" --runs-dir "$RUNS_DIR" --json)
while IFS= read -r line; do
  if [[ -n "$line" ]]; then arguments+=(--set "$line"); fi
done <<< "${OVERRIDES:-}"
if [[ "${STRICT:-false}" == true ]]; then arguments+=(--strict); fi

record=$(mktemp)
trap 'rm -f "$record"' EXIT
speculators run "${arguments[@]}" > "$record"
code=$?

python3 - "$record" "$RUNS_DIR" >> "$GITHUB_OUTPUT" <<'PYTHON'
import json
import sys
from pathlib import Path

text = Path(sys.argv[1]).read_text(encoding="utf-8")
record = json.loads(text) if text.strip() else {}
print("verdict=" + record.get("gate", {}).get("verdict", ""))
print("run=" + (f"{sys.argv[2]}/{record['recipe']['name']}/{record['id']}" if record else ""))
PYTHON
exit "$code"
