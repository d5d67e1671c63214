// Package store keeps images, their layers and the roots of containers on disk.
//
// It is a thin layer over go.podman.io/storage with its overlay driver, which
// many processes may use at once without a daemon: the kubelet, its image
// worker and the command rkt all open the same folder. What this package adds:
//
//   - Ids. An image's id is always "sha256:" and the digest of its config.
//   - An index in memory. Reads parse nothing and take no lock of another
//     process unless images.json has been replaced since the last read.
//   - Accounting. Bytes and inodes of each layer are counted when it is
//     unpacked and summed in memory; no call walks the disk.
//   - Recovery. What a killed process left half done is removed by the next
//     Open. Layers that no image uses and that were written before the last
//     boot are removed too, because their files may never have reached the
//     disk; images are recorded only after their layers have.
//   - Durability. An image is recorded after one syncfs that covers its layers,
//     so after a power cut an image that is listed is whole.
//   - Verify, which recomputes each layer's digest from the disk, and marks
//     damaged layers so that the next pull replaces exactly those.
//
// On disk, below Config.Root: storage's own folders (overlay, overlay-layers,
// overlay-images, overlay-containers, *.lock) and the folder rkt with what this
// package adds: pull.lock, damaged/ (marks of Verify), used/ (when images were
// last used), replaced/ (old files of repaired layers that containers have mounted),
// roots/ (the roots of containers, see plainroot.go).
//
// # Reexec
//
// The storage library re-executes its own program for some of its work (for
// example to mount an overlay whose options exceed a page). Every program that
// uses this package must therefore start its main with
//
//	if reexec.Init() {
//		return
//	}
//
// from go.podman.io/storage/pkg/reexec, and every test binary its TestMain.
//
// # Build tags
//
// containers_image_openpgp, exclude_graphdriver_btrfs and
// exclude_graphdriver_devicemapper: without the first, cgo builds need gpgme.
package store
