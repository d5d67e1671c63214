// Package version holds the version that all programs of rktshim print.
package version

// Version is the semantic version. The Makefile adds the commit as build
// metadata, through the linker.
var Version = "0.1.0"
