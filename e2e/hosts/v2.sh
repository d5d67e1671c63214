#!/bin/bash
# v2.sh   pods on cgroup v2, in the machine of vm/: the core of pods by the real kubelet with both cgroup drivers,
# both OCI runtimes and two isolators, then the suites of the packages that know cgroups. Takes root.
# WAYS and SUITES choose among them; VM is where the machine is kept (vm/build.sh).
set -eu -o pipefail
cd "$(dirname "$0")/../.."
VM=${VM:-$HOME/.cache/rktshim/vm}
WAYS=${WAYS-systemd/crun/nspawn systemd/runc/lean cgroupfs/crun/lean cgroupfs/runc/nspawn}
SUITES=${SUITES-internal/cgroup internal/cgroupstat supervisor/launch stage1/lean stage1/nspawn}
SHARE=$(mktemp -d /tmp/rktshim-v2.XXXXXX)
trap 'rm -rf "$SHARE"' EXIT
trap 'exit 143' TERM; trap 'exit 130' INT

start=$SECONDS
e2e/hosts/vm/build.sh "$VM"
echo "machine: $((SECONDS - start)) s"
mkdir -p "$SHARE"/{bin,e2e,suites}
cp bin/hyperkube bin/rkt bin/rkt-supervisor "$SHARE/bin/"
go test -c -o "$SHARE/e2e/e2e.test" ./e2e
for s in $SUITES; do go test -c -o "$SHARE/suites/${s//\//-}" "./$s"; done

# inside NAME SECONDS COMMAND...   runs a command in a machine of its own.
failed=()
inside() {
	local name=$1 limit=$2 start=$SECONDS rc=0
	shift 2
	printf '\n=== %s\n' "$name"
	TIMEOUT=$limit e2e/hosts/vm/run.sh "$VM" "$SHARE" "$@" 2>&1 | tee "$SHARE/log" || rc=$?
	grep -q '^PASS' "$SHARE/log" || rc=1 # the machine, or its output, may have been killed
	echo "=== $name: $([ $rc = 0 ] && echo ok || echo FAILED), $((SECONDS - start)) s"
	[ $rc = 0 ] || failed+=("$name")
}
for way in $WAYS; do
	inside "pods $way" 1800 sh -c 'cp -r /host/bin /host/e2e /srv && cd /srv/e2e && exec env RKTSHIM_E2E_SLOW=1 RKTSHIM_E2E_MACHINE="$1" ./e2e.test -test.run=TestPodsOnThisMachine -test.v -test.timeout=25m' sh "$way"
done
for s in $SUITES; do
	inside "suite $s" 1800 sh -c 'cp -r /host/bin /host/suites /srv && cd /tmp && exec env RKTT_SUPERVISOR=/srv/bin/rkt-supervisor "/srv/suites/$1" -test.v -test.timeout=25m' sh "${s//\//-}"
done
if [ ${#failed[@]} -gt 0 ]; then
	printf 'failed: %s\n' "${failed[@]}" >&2
	exit 1
fi
echo "all on cgroup v2: ok"
