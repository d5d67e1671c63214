#!/bin/bash
# build.sh DIR   build the machine that run.sh starts: a Debian with systemd and cgroup v2, from Debian's packages.
# DIR then holds vmlinux, initrd.gz, root.img and key, which names what they were made from. A DIR whose key is
# still right is left as it is. Takes root, the network, and some minutes.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd) DIR=$(realpath -m "${1:?usage: build.sh DIR}")
SUITE=bookworm MIRROR=${MIRROR:-http://deb.debian.org/debian}
PACKAGES=systemd,systemd-sysv,dbus,systemd-container,crun,runc,containernetworking-plugins,iproute2,iptables,kmod,procps,util-linux,busybox-static,ca-certificates,strace
# What the initrd loads before the root is mounted, and what the root can load later.
BOOT_MODULES="virtio_pci virtio_blk ext4 9pnet_virtio 9p virtio_console overlay"
ROOT_MODULES="kernel/net kernel/lib kernel/crypto kernel/fs/overlayfs kernel/fs/fuse kernel/fs/9p kernel/fs/autofs
	kernel/fs/configfs kernel/fs/netfs kernel/fs/fscache kernel/fs/nls kernel/drivers/net/veth.ko kernel/drivers/net/dummy.ko
	kernel/drivers/net/tun.ko kernel/drivers/net/ifb.ko kernel/drivers/virtio kernel/drivers/block/loop.ko"

KEY=$(cat "$HERE/build.sh" "$HERE/init" | sha256sum | cut -c1-16)
[ "$(cat "$DIR/key" 2>/dev/null)" != "$KEY" ] || exit 0
for old in "$DIR".new-*; do [ -d "/proc/${old##*.new-}" ] || rm -rf --one-file-system "$old"; done # left by a killed run
W=$DIR.new-$$
mkdir -p "$W"
trap 'rm -rf --one-file-system "$W"' EXIT
trap 'exit 143' TERM; trap 'exit 130' INT

echo "debootstrap $SUITE"
unshare -m --propagation private debootstrap --variant=minbase --include="$PACKAGES" "$SUITE" "$W/root" "$MIRROR" >"$W/log" 2>&1 || { tail -20 "$W/log" >&2; exit 1; }
R=$W/root
echo "kernel"
kernel=$(chroot "$R" apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-[0-9]/ {print $2; exit}')
(cd "$R/tmp" && chroot "$R" sh -c "cd /tmp && apt-get -q download $kernel") >"$W/log" 2>&1 || { tail -20 "$W/log" >&2; exit 1; }
dpkg-deb -x "$R"/tmp/linux-image-*.deb "$W/kernel"
rm "$R"/tmp/linux-image-*.deb
V=$(basename "$W"/kernel/lib/modules/*)
depmod -b "$W/kernel" "$V"
python3 "$HERE/extract-vmlinux.py" "$W/kernel/boot/vmlinuz-$V" "$W/vmlinux" >/dev/null

echo "initrd"
I=$W/initrd
mkdir -p "$I"/{bin,dev,proc,sys,run,mnt,modules}
cp "$HERE/init" "$I/init"
cp "$R/bin/busybox" "$I/bin/"
ln -s busybox "$I/bin/sh"
for m in $BOOT_MODULES; do modprobe -d "$W/kernel" -S "$V" --show-depends "$m" | awk '$1 == "insmod" {print $2}'; done | awk '!seen[$0]++' |
	while read -r f; do cp "$f" "$I/modules/"; basename "$f" >>"$I/modules/order"; done
(cd "$I" && find . | cpio -o -H newc --quiet | gzip -1) >"$W/initrd.gz"

echo "root"
rm -rf "$R"/var/cache/apt/* "$R"/var/lib/apt/lists/* "$R"/usr/share/{doc,man,locale}/*
mkdir -p "$R/lib/modules/$V" "$R/host"
(cd "$W/kernel/lib/modules/$V" && for m in modules.* $ROOT_MODULES; do [ ! -e "$m" ] || echo "$m"; done | tar c -T -) | tar x -C "$R/lib/modules/$V"
depmod -b "$R" "$V"
echo vm >"$R/etc/hostname"
printf '127.0.0.1 localhost vm\n' >"$R/etc/hosts"
: >"$R/etc/fstab"
truncate -s 6G "$W/root.img"
mke2fs -q -t ext4 -O ^has_journal -d "$R" -F "$W/root.img"
rm -rf --one-file-system "$R" "$W/kernel" "$I" "$W/log"
echo "$KEY" >"$W/key"
rm -rf "$DIR"
mv "$W" "$DIR"
