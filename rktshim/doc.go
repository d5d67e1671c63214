// Package rktshim is a container runtime that a kubelet links in. It serves CRI
// v1 (k8s.io/cri-api, both services) in memory, so that the kubelet's stock
// client talks gRPC to it without a socket, and, if wanted, on a unix socket for
// crictl.
//
// It is the composition root: [New] builds the parts and joins them, [Shim.Run]
// runs them. Any program that speaks CRI can use it; hyperkube is the one that
// puts the Kubernetes kubelet in front. Its main must begin with reexec.Init of
// go.podman.io/storage, as package image/store explains, and it needs an rkt
// command (Config.RktPath) to pull images.
package rktshim
