package rktshim

import "github.com/rktnetes/rktshim/internal/version"

// Version is this program's semantic version, with the commit as build metadata
// if the Makefile has built it. rkt prints the same.
var Version = version.Version

// Name is the runtime's name in CRI's Version and in the kubelet's node status.
const Name = "rktshim"
