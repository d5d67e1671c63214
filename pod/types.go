package pod

import (
	"github.com/rktnetes/rktshim/network"
	"github.com/rktnetes/rktshim/stage1"
	"github.com/rktnetes/rktshim/supervisor"
)

// Plain data of the packages below that callers of the engine need: they import
// pod alone.
type (
	// PortMapping leads a port of the host to a port of the pod.
	PortMapping = network.PortMapping
	// Bandwidth limits the pod's traffic, in bits per second.
	Bandwidth = network.Bandwidth
	// DNS is handed to network plugins.
	DNS = network.DNS
	// NetworkResult is what a network gave to a pod.
	NetworkResult = network.Result
	// NamespaceKind names one kind of namespace.
	NamespaceKind = stage1.Kind
	// Exit is how an app or an exec ended.
	Exit = supervisor.Exit
	// ExecSpec asks for one process in a running app.
	ExecSpec = supervisor.ExecSpec
	// ExecOutput is what ExecSync gives back.
	ExecOutput = supervisor.ExecOutput
)

// The kinds of namespaces that a pod can own.
const (
	NetworkNamespace = stage1.Network
	IPCNamespace     = stage1.IPC
	UTSNamespace     = stage1.UTS
	PIDNamespace     = stage1.PID
)
