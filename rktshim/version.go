package rktshim

// Version is this program's semantic version. The Makefile adds the commit as
// build metadata.
var Version = "0.1.0"

// Name is the runtime's name in CRI's Version and in the kubelet's node status.
const Name = "rktshim"
