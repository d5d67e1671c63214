// Package image implements CRI's ImageService.
//
// The work is done elsewhere: package store keeps images and container roots,
// package pull brings images in, and package worker runs pulls in a child
// process. This package translates CRI's messages, and holds nothing that must
// survive the process.
//
// An image's id is everywhere "sha256:" and the digest of its config:
// PullImageResponse.image_ref, Image.id and what containers report.
//
// Every program that uses it must call reexec.Init first in main and needs
// build tags, see package store.
package image
