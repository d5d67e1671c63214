// Package e2e runs the built binaries as a user would. It knows them by their
// files, flags and output only: it imports no package of ours.
package e2e
