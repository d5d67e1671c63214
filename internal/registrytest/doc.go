// Package registrytest is an image registry within a test's process, and a
// maker of images for it.
//
// It speaks the OCI distribution protocol as far as pulling needs: manifests
// by tag and digest, blobs with Range, login with a token service or with
// basic authentication. It counts requests, and a test can make any of them
// fail:
//
//	r := registrytest.New(t)
//	img := r.Push("app", "v1", registrytest.Image{Layers: []registrytest.Layer{{Files: registrytest.Files{"etc/motd": "hi"}}}})
//	r.OnBlob(img.Layers[0], registrytest.CutAfter(1000), registrytest.Status(500, ""))
//
// answers the first request for the layer with 1000 bytes and a broken
// connection, the second with status 500, and those after that properly.
package registrytest
