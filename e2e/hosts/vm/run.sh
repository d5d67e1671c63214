#!/bin/bash
# run.sh DIR SHARE COMMAND...   run COMMAND in a throw-away machine of build.sh's DIR: systemd as init, cgroup v2 only,
# software-emulated by default (ACCEL=kvm where that works). SHARE is /host in it, read-write, and the working
# directory. Output and exit status are COMMAND's; nothing else is kept. TIMEOUT seconds (1800) end it.
set -u
DIR=$(realpath "$1") SHARE=$(realpath "$2")
shift 2
D=$(mktemp -d /tmp/rktshim-vm.XXXXXX) QEMU=
trap '[ -z "$QEMU" ] || kill "$QEMU" 2>/dev/null; rm -rf "$D"' EXIT
trap 'exit 143' TERM; trap 'exit 130' INT
mkdir -p "$SHARE/vm"
{ echo 'cd /host'; printf '%q ' "$@"; echo; } >"$SHARE/vm/command"
mkfifo "$D/out"
cat "$D/out" &
CAT=$!
accel="-accel tcg,thread=multi,tb-size=512 -cpu qemu64"
[ "${ACCEL:-tcg}" != kvm ] || accel="-accel kvm -cpu host"
# shellcheck disable=SC2086
setpriv --pdeathsig TERM timeout -k 5 "${TIMEOUT:-1800}" qemu-system-x86_64 -M q35,usb=off $accel -smp 2 -m "${MEM:-2048}" \
	-nodefaults -no-user-config -display none -no-reboot -serial file:"$D/console" -kernel "$DIR/vmlinux" -initrd "$DIR/initrd.gz" \
	-append "console=ttyS0 quiet loglevel=3 mitigations=off audit=0 selinux=0 apparmor=0 random.trust_cpu=on panic=-1" \
	-drive file="$DIR/root.img",if=none,id=d,format=raw,snapshot=on,cache=unsafe -device virtio-blk-pci,drive=d \
	-fsdev local,id=h,path="$SHARE",security_model=none,multidevs=remap -device virtio-9p-pci,fsdev=h,mount_tag=host \
	-device virtio-serial-pci -chardev file,id=o,path="$D/out" -device virtserialport,chardev=o,name=out \
	-chardev file,id=s,path="$D/status" -device virtserialport,chardev=s,name=status &
QEMU=$!
wait $QEMU
QEMU=
wait $CAT 2>/dev/null
read -r status <"$D/status" || { echo "the machine ended without a word:" >&2; tail -20 "$D/console" >&2; status=125; }
exit "$status"
