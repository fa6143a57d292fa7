# Sourced by every job: strict mode, the workspace root as the working directory, and the counting of
# tests. A job that ran nothing proves nothing, so each job ends in a check that it did run something.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CARGO_TERM_COLOR=never

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Sums the result lines of the test harness in the log $1. Prints "passed failed ignored", and then the
# name of each file in $2/tests (one test binary each) of which no test ran, unless the file says that it is
# not for this build.
tally() {
    local other='#![cfg(loom)]'
    case "${RUSTFLAGS:-}" in *"cfg loom"*) other='#![cfg(not(loom))]' ;; esac
    awk -v dir="$2" -v other="$other" '
        /^ +Running /     { binary = ($2 == "unittests") ? $3 : $2 }
        /^ +Doc-tests /   { binary = "doc-tests" }
        /^test result: /  {
            for (i = 3; i < NF; i++) {
                if ($(i + 1) == "passed;")  { passed += $i; ran[binary] += $i }
                if ($(i + 1) == "failed;")  { failed += $i; ran[binary] += $i }
                if ($(i + 1) == "ignored;") ignored += $i
            }
        }
        END {
            print passed + 0, failed + 0, ignored + 0
            if (dir == "") exit
            list = "grep -LF \"" other "\" " dir "/tests/*.rs"
            while ((list | getline file) > 0) {
                sub(/.*\//, "", file)
                if (!ran["tests/" file]) print file
            }
        }' "$1"
}

# counted DIR COMMAND..: runs a `cargo test` command and fails when it fails, when it ran no test, and
# when a file of DIR/tests ran none (DIR may be empty). `.ci/run` adds up what is left in $CI_TOTALS.
counted() {
    local dir=$1 log status=0 sums empty
    shift
    log=$(mktemp)
    printf '+ %s\n' "$*"
    "$@" 2>&1 | tee "$log" || status=$?
    sums=$(tally "$log" "$dir")
    empty=$(tail -n +2 <<<"$sums" | tr '\n' ' ')
    read -r passed failed ignored <<<"${sums%%$'\n'*}"
    printf '%s %s %s\n' "$passed" "$failed" "$ignored" >>"${CI_TOTALS:-/dev/null}"
    rm -f "$log"
    [ "$status" -eq 0 ] || die "failed ($passed passed, $failed failed): $*"
    [ "$passed" -gt 0 ] || die "ran no test: $*"
    [ -z "$empty" ] || die "ran no test of $dir/tests/: $empty"
}

# cargo_tool NAME: installs the cargo subcommand NAME from the registry if it is not there.
cargo_tool() {
    command -v "cargo-$1" >/dev/null || cargo install --locked "cargo-$1"
}
