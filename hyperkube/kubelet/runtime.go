package kubelet

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/healthz"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/cri-client/pkg/util"
	"k8s.io/klog/v2"
	kubeletconfigv1beta1 "k8s.io/kubelet/config/v1beta1"
	kubeletscheme "k8s.io/kubernetes/pkg/kubelet/apis/config/v1beta1"

	"github.com/rktnetes/rktshim/hyperkube/cadvisor"
	"github.com/rktnetes/rktshim/hyperkube/supervisorbin"
	"github.com/rktnetes/rktshim/rktshim"
	"github.com/rktnetes/rktshim/transport"
)

// MemoryEndpoint may be given as the kubelet's containerRuntimeEndpoint when the
// gate is on. It need not be: the gate alone is enough.
const MemoryEndpoint = "memory://" + rktshim.Name

// shim is what the kubelet needs of the runtime.
type shim interface {
	Run(context.Context) error
	Ready() <-chan struct{}
	Endpoint() *transport.Endpoint
	Cgroups() *rktshim.Cgroups
	Metrics() *prometheus.Registry
}

// runtime is the runtime in this process, from the moment at which the kubelet
// first asks for a connection until it has stopped.
type runtime struct {
	flags    *flags
	enabled  func() bool // whether the gate is on; final once the kubelet dials
	newShim  func(rktshim.Config) (shim, error)
	shutdown func() bool // asks the kubelet to end
	cadvisor cadvisor.Plugin

	once     sync.Once
	startErr error
	shim     shim
	cancel   context.CancelFunc
	ended    chan struct{} // closed when Run has returned

	mu     sync.Mutex
	endErr error // guarded by mu; why Run returned
}

func newRuntime(f *flags) *runtime {
	return &runtime{
		flags:    f,
		enabled:  func() bool { return utilfeature.DefaultFeatureGate.Enabled(Gate) },
		newShim:  newShim,
		shutdown: genericapiserver.RequestShutdown,
	}
}

// newShim builds the runtime, with the supervisor that this binary holds.
func newShim(c rktshim.Config) (_ shim, err error) {
	if c.Supervisor == "" {
		if c.Supervisor, err = supervisorbin.Unpack(filepath.Join(c.Dir, "bin")); err != nil {
			return nil, err
		}
	}
	return rktshim.New(c)
}

// intercept decides how the kubelet dials an endpoint. With the gate on it is
// memory, and the first call starts the runtime: a start that fails thus fails
// the kubelet's.
func (r *runtime) intercept(endpoint string) (util.Dialer, error) {
	on := r.enabled()
	switch given := r.flags.given(); {
	case on && r.flags.containerRuntime == runtimeRemote:
		return nil, fmt.Errorf("--container-runtime=remote contradicts the feature gate %s=true: give one of them", Gate)
	case !on && r.flags.containerRuntime == runtimeRkt:
		return nil, fmt.Errorf("--container-runtime=rkt contradicts the feature gate %s=false: give one of them", Gate)
	case !on && len(given) > 0:
		return nil, fmt.Errorf("%s given, but the runtime in this process is off: add --container-runtime=rkt or the feature gate %s=true, or remove the flags", strings.Join(given, ", "), Gate)
	case !on && endpoint == MemoryEndpoint:
		return nil, fmt.Errorf("containerRuntimeEndpoint is %s, which needs --container-runtime=rkt or the feature gate %s=true", endpoint, Gate)
	case !on:
		return nil, nil
	}
	if !r.isOurs(endpoint) {
		return nil, fmt.Errorf("the feature gate %s=true makes the kubelet use the runtime in its own process, but containerRuntimeEndpoint or imageServiceEndpoint is %s: unset it, or turn the gate off", Gate, endpoint)
	}
	r.once.Do(func() { r.startErr = r.start() })
	if r.startErr != nil {
		return nil, fmt.Errorf("start the runtime in this process: %w", r.startErr)
	}
	return r.shim.Endpoint().Dial, nil
}

// isOurs says whether an endpoint means the runtime in this process: its name,
// its own socket, or the value that the kubelet has when nothing is set, unless
// that was typed. In a configuration file the two look alike.
func (r *runtime) isOurs(endpoint string) bool {
	var unset kubeletconfigv1beta1.KubeletConfiguration
	kubeletscheme.SetDefaults_KubeletConfiguration(&unset)
	socket := r.flags.config.CRISocket
	return endpoint == MemoryEndpoint || endpoint == unset.ContainerRuntimeEndpoint && !r.flags.endpointGiven ||
		socket != "" && (endpoint == "unix://"+socket || endpoint == socket)
}

// start runs the runtime and waits until it serves, or has failed to.
func (r *runtime) start() error {
	config := r.flags.config
	config.TracerProvider = tracerProvider()
	s, err := r.newShim(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), klog.LoggerWithName(klog.Background(), rktshim.Name)))
	r.shim, r.cancel, r.ended = s, cancel, make(chan struct{})
	go r.run(ctx)
	select {
	case <-s.Ready():
		r.cadvisor.Use(s.Cgroups())
		// The kubelet's /metrics is of this registry.
		if err := legacyregistry.Registerer().Register(s.Metrics()); err != nil {
			return fmt.Errorf("serve metrics: %w", err)
		}
		healthz.PingHealthz = healthz.NamedCheck("ping", r.check)
		return nil
	case <-r.ended:
		if err := r.why(); err != nil {
			return err
		}
		return errors.New("it ended before it was ready")
	}
}

// tracerProvider is the kubelet's own, with which it makes its CRI clients: spans of
// both go the same way. It is nil when the kubelet's configuration has no "tracing",
// so that calls are not burdened with it.
func tracerProvider() trace.TracerProvider {
	tp := util.TracerProvider()
	if _, off := tp.(noop.TracerProvider); off {
		return nil
	}
	return tp
}

// run runs the runtime to its end. If it panics the kubelet is asked to end as
// well. If its server dies the kubelet's /healthz says so, on which a supervisor
// of the kubelet (systemd's watchdog) acts.
func (r *runtime) run(ctx context.Context) {
	defer close(r.ended)
	err, panicked := r.guarded(ctx)
	if err == nil && ctx.Err() == nil {
		err = errors.New("it ended though nobody asked it to")
	}
	r.mu.Lock()
	r.endErr = err
	r.mu.Unlock()
	select {
	case <-r.shim.Ready():
	default:
		return // the start fails with the error
	}
	if err != nil {
		klog.FromContext(ctx).Error(err, "The runtime in this process has died")
	}
	if panicked {
		r.shutdown()
	}
}

func (r *runtime) guarded(ctx context.Context) (err error, panicked bool) {
	defer func() {
		if p := recover(); p != nil {
			klog.FromContext(ctx).Error(nil, "Panic in the runtime", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err, panicked = fmt.Errorf("panic: %v; the stack is in the log, please report it", p), true
		}
	}()
	return r.shim.Run(ctx), false
}

func (r *runtime) why() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.endErr
}

// stop ends the runtime, if it was started, and waits for it. It returns what
// the runtime ended with, unless its start already has.
func (r *runtime) stop() error {
	if r.ended == nil {
		return nil
	}
	r.cancel()
	<-r.ended
	if err := r.why(); err != nil && r.startErr == nil {
		return fmt.Errorf("the runtime in this process: %w", err)
	}
	return nil
}
