#!/bin/bash
# Everything that CI runs, stage by stage, and a summary. `make test` calls it.
# Set STAGES to run some of them: STAGES="unit e2e" make test
#
# A test that fails is run again, at most twice, because a shared machine can stall
# for seconds. That it failed stands in the summary, as flaky: mend it. More than ten
# failures in a stage are not tried again.
set -u
cd "$(dirname "$0")/.."
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
failed=() ran=()

# stage NAME COMMAND...   runs a stage, unless STAGES leaves it out.
stage() {
	local name=$1 start=$SECONDS
	shift
	[[ " ${STAGES:-$name} " == *" $name "* ]] || return 0
	printf '\n=== %s: %s\n' "$name" "$*"
	if "$@" 2>&1; then ran+=("$name: ok, $((SECONDS - start)) s"); else ran+=("$name: FAILED, $((SECONDS - start)) s") failed+=("$name"); fi
}

# gotest NAME PACKAGES FLAG...   runs tests, and those that failed again. What an earlier
# run passed does not count: the tests are about this kernel and these programs.
gotest() {
	local name=$1 packages=$2
	shift 2
	stage "$name" "$log/gotestsum" --format pkgname-and-test-fails --hide-summary skipped,output \
		--rerun-fails=2 --rerun-fails-max-failures=10 --rerun-fails-run-root-test \
		--rerun-fails-report "$log/$name.again" --jsonfile "$log/$name.json" --packages "$packages" -- -count=1 "$@"
}

./e2e/install.sh $PACKAGES || exit 1
(cd tools && go build -o "$log/gotestsum" gotest.tools/gotestsum) || exit 1
stage check make --no-print-directory check RUN=XXX_lint_only
gotest unit "$(go list ./... | grep -v /e2e | tr '\n' ' ')" -race -timeout 20m
pushd tools >/dev/null || exit 1
gotest tools ./... -timeout 10m
popd >/dev/null || exit 1
stage build make --no-print-directory build
pushd hyperkube >/dev/null || exit 1
# Built as the binary is, so that Kubernetes is compiled once.
flags=$GOFLAGS
export CGO_ENABLED=0 GOFLAGS="$flags -trimpath"
stage hyperkube-lint bash -c 'go vet ./... && go tool -modfile=../tools/go.mod staticcheck ./...'
gotest hyperkube ./... -timeout 20m
popd >/dev/null || exit 1
unset CGO_ENABLED
export GOFLAGS=$flags
gotest e2e ./e2e -timeout 40m

printf '\n=== summary\n'
printf '%s\n' "${ran[@]}"
# Of a test that ran more than once, the last run counts.
cat "$log"/*.json 2>/dev/null | awk -F '"' '
	$6 != "Action" || $14 != "Test" { next }
	{ test = $12 " " $16 }
	$8 == "output" && $20 ~ /^ +[A-Za-z0-9_]+_test\.go:[0-9]+: / { said[test] = $20; sub(/\\n$/, "", said[test]) }
	$8 == "pass" || $8 == "fail" || $8 == "skip" { last[test] = $8; if ($8 == "fail") once[test] }
	END {
		for (t in last) {
			n[last[t]]++
			if (last[t] == "skip") skips = skips "  " t ":" said[t] "\n"
			if (last[t] == "fail") fails = fails "  " t "\n"
			if (last[t] != "fail" && t in once) flaky = flaky "  " t "\n"
		}
		if (skips) printf "skipped, and why:\n%s", skips
		if (flaky) printf "flaky, failed and passed when run again:\n%s", flaky
		if (fails) printf "failed:\n%s", fails
		printf "%d passed, %d failed, %d skipped\n", n["pass"], n["fail"], n["skip"]
	}'
if [ ${#failed[@]} -gt 0 ]; then
	echo "stages that failed: ${failed[*]}" >&2
	exit 1
fi
