#!/usr/bin/env bash
# The tests, in two parts: what needs no Ray goes over both cores at once; the rest has the machine to itself, one after
# the other, because a cluster takes both and what it kills must be noticed soon. Arguments are pytest's. The last line
# sums up.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# pytest's exit code where nothing was selected, as -k may do to one of the parts.
readonly NOTHING=5
summaries="$(mktemp)"
trap 'rm -f "$summaries"' EXIT

part() {
    local marks="$1"
    shift
    .venv/bin/python -m pytest -m "not matrix and not long and ($marks)" "$@" | tee >(tail -n 1 >>"$summaries")
    return "${PIPESTATUS[0]}"
}

count() {
    grep -oE "[0-9]+ $1" "$summaries" | awk '{ sum += $1 } END { print sum + 0 }'
}

part "not ray" -n 2 --dist worksteal "$@"
parallel=$?
part "ray" "$@"
serial=$?
wait
printf '%d passed, %d failed, %d errors, %d skipped\n' \
    "$(count passed)" "$(count failed)" "$(count error)" "$(count skipped)"
if ((parallel == NOTHING)); then exit "$serial"; fi
if ((serial == NOTHING)); then exit "$parallel"; fi
exit $((parallel ? parallel : serial))
