#!/bin/bash
# Everything that CI runs, stage by stage, and a summary. `make test` calls it.
# Set STAGES to run some of them: STAGES="unit e2e" make test
set -u
cd "$(dirname "$0")/.."
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
failed=() ran=()

# stage NAME COMMAND...   runs a stage with its output shown and kept.
stage() {
	local name=$1 start=$SECONDS
	shift
	[[ " ${STAGES:-$name} " == *" $name "* ]] || return 0
	printf '\n=== %s: %s\n' "$name" "$*"
	"$@" 2>&1 | tee "$log/$name" | grep -vE -e '^[IWEF][0-9]{4} ' -e '^time=.* level=' -e '^=== ' -e '^--- PASS' -e '^    --- PASS' -e '^PASS$'
	if [ "${PIPESTATUS[0]}" = 0 ]; then ran+=("$name: ok, $((SECONDS - start)) s"); else ran+=("$name: FAILED, $((SECONDS - start)) s") failed+=("$name"); fi
}

./e2e/install.sh $PACKAGES || exit 1
stage check make --no-print-directory check RUN=XXX_lint_only
stage unit go test -race -v $(go list ./... | grep -v /e2e)
stage build make --no-print-directory build
# Built as the binary is, so that Kubernetes is compiled once.
stage hyperkube bash -c 'cd hyperkube && export CGO_ENABLED=0 && go vet -trimpath ./... && GOFLAGS="$GOFLAGS -trimpath" go tool -modfile=../tools/go.mod staticcheck ./... && go test -trimpath -v ./...'
stage e2e go test -count=1 -timeout 30m -v ./e2e

count() { cat "$log"/* 2>/dev/null | grep -cE "^ *--- $1: " || true; }
printf '\n=== summary\n'
printf '%s\n' "${ran[@]}"
if [ "$(count SKIP)" != 0 ]; then
	echo "skipped, and why:"
	awk '/^ +[a-z_]+_test\.go:[0-9]+: /{why=$0} /^ *--- SKIP: /{sub(/^ *--- SKIP: /, ""); print "  " $1 ":" why; why=""}' "$log"/*
fi
[ "$(count FAIL)" = 0 ] || { echo "failed:"; grep -hE '^ *--- FAIL: ' "$log"/*; }
printf '%s passed, %s failed, %s skipped\n' "$(count PASS)" "$(count FAIL)" "$(count SKIP)"
if [ ${#failed[@]} -gt 0 ]; then
	echo "stages that failed: ${failed[*]}" >&2
	exit 1
fi
