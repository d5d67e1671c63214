#!/bin/bash
# install.sh PACKAGE...   install the Debian packages that are missing, after naming them.
set -eu
missing=()
for p; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "missing Debian packages, install them as root: apt-get install ${missing[*]}" >&2
	exit 1
fi
echo "installing Debian packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# No daemon that a package brings may start: this machine may be a live node.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy
	trap 'rm -f "$log" $policy' EXIT
fi
apt-get install -y -q "${missing[@]}" >"$log" 2>&1 ||
	{ apt-get update -q >"$log" 2>&1 && apt-get install -y -q "${missing[@]}" >>"$log" 2>&1; } ||
	{ cat "$log" >&2; echo "apt-get could not install: ${missing[*]}" >&2; exit 1; }
