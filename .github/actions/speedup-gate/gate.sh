#!/usr/bin/env bash
# The gate of the action beside: runs the benchmark, says its verdict as a step output, ends as the gate does.
set -uo pipefail

# As the command line ends where it is wrong.  %q: a value with a line break would be a command to the runner.
refuse() {
  printf '::error title=speedup-gate::%s\n' "$1"
  exit 2
}

# GitHub does not enforce `required`, and a variable that nobody set arrives as an empty text.
for name in RECIPE BASELINE RUNS_DIR; do
  if [[ "${!name}" != *[![:space:]]* ]]; then refuse "the input of $name is empty: nothing would be gated"; fi
done
shopt -s nocasematch
case "$STRICT" in
  true) strict=(--strict) ;;
  false) strict=() ;;
  *) refuse "strict is $(printf %q "$STRICT"): give true or false" ;;
esac

arguments=("$RECIPE" --against "$BASELINE" --runs-dir "$RUNS_DIR" --progress plain)
while read -r line; do # without the spaces around it
  if [[ -n "$line" ]]; then arguments+=(--set "$line"); fi
done <<< "${OVERRIDES//$'\r'/}"

started=$(mktemp)
trap 'rm -f "$started"' EXIT
speculators run "${arguments[@]}" ${strict[@]+"${strict[@]}"} # bash before 4.4 has no empty arrays under -u
code=$?

# The record says it also where a broken measurement ended the command; older ones are of other runs.
# -H: the folder itself may be a link.
record=$(find -H "$RUNS_DIR" -mindepth 3 -maxdepth 3 -name run.json -newer "$started" 2>/dev/null | sort | tail -n 1)
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
