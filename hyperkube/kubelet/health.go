package kubelet

import (
	"context"
	"fmt"
	"net/http"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// healthPatience is how long the runtime may take to answer the cheapest of its
// calls before it counts as dead.
const healthPatience = 5 * time.Second

// check is the kubelet's "ping" health check with the runtime behind it: the
// runtime must run, and answer over memory. The kubelet's systemd watchdog asks
// without a request.
func (r *runtime) check(req *http.Request) error {
	select {
	case <-r.ended:
		return fmt.Errorf("the runtime in this process has died: %w", r.why())
	default:
	}
	ctx := context.Background()
	if req != nil {
		ctx = req.Context()
	}
	ctx, cancel := context.WithTimeout(ctx, healthPatience)
	defer cancel()
	conn, err := r.shim.Endpoint().Client()
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := runtimeapi.NewRuntimeServiceClient(conn).Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
		return fmt.Errorf("the runtime in this process does not answer: %w", err)
	}
	return nil
}
