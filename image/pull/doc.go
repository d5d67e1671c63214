// Package pull brings images into a store: from registries, and from any other
// source that go.podman.io/image can read (see Engine.Import).
//
// # How a pull runs
//
// The manifest is fetched, checked against policy.json, and resolved to the
// node's platform; the config is fetched and names each layer's content. Then
// every layer that the store lacks is a job of its own, several at a time: the
// blob streams from the registry through its digest, the decompressor and the
// digest of the content into a folder on the store's filesystem; no blob is
// spooled. A job whose layer is unpacked waits until its parent is in the
// store, then takes its place on top of it. At last everything is written to
// the disk once, and the image is recorded with its names.
//
// Jobs are shared: two pulls that need the same layer on the same parents wait
// for one job, and it ends early only when the last of them is cancelled. A
// pull that shares a job which fails tries again with its own credentials.
//
// # What is checked
//
// A manifest and a config have at most 4 MiB. Digest and size of every blob,
// and the digest of its content as the config names it, must be right, or
// nothing of the layer is kept. Layers are unpacked by a thread that has made
// the layer's folder its root, so no path or link in a layer can leave it.
//
// # Failures
//
// Requests that fail in the network or with status 5xx are tried again a few
// times with growing pauses; the transport itself waits as Retry-After says on
// 429, and resumes a cut connection by Range. A source that sends nothing for
// Config.StallTimeout ends the pull with an error; slow but moving ones go on.
// The kubelet recognises two failures by how the text begins, see
// IsUnavailable and IsSignature.
//
// # Configuration of the node
//
// registries.conf and policy.json are read anew by each pull. Without a
// policy.json every image is accepted. Of registries.conf, location, mirrors,
// insecure and blocked apply; short names are Docker Hub's, always. An image
// in an index is accepted if the policy accepts either the index or the image.
package pull
