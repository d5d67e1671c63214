package transport

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Trials compares the settings of gRPC that package transport might use, over
// memory, on a bare server, and writes a table of medians.
func Trials(out io.Writer, rounds int) error {
	settings := []struct {
		name    string
		buffer  int
		workers uint32
		window  int32
	}{
		{"64 KiB, no workers", 64 << 10, 0, 0},
		{"64 KiB, 8 workers", 64 << 10, 8, 0},
		{"32 KiB, 8 workers", 32 << 10, 8, 0},
		{"256 KiB, 8 workers", 256 << 10, 8, 0},
		{"1 MiB, 8 workers", 1 << 20, 8, 0},
		{"64 KiB, 8 workers, 16 MiB windows", 64 << 10, 8, 16 << 20},
	}
	var plan []batch
	results := Results{}
	for _, s := range settings {
		p, err := bare(s.name, s.buffer, s.workers, s.window)
		if err != nil {
			return err
		}
		defer p.close()
		more, err := calibrate([]*path{p})
		if err != nil {
			return err
		}
		plan = append(plan, more...)
	}
	for range rounds {
		rand.Shuffle(len(plan), func(i, j int) { plan[i], plan[j] = plan[j], plan[i] })
		for _, b := range plan {
			if err := b.run(results); err != nil {
				return err
			}
		}
	}
	for _, callers := range concurrencies {
		fmt.Fprintf(out, "\n%d callers: p50, allocations\n", callers)
		for _, s := range settings {
			fmt.Fprintf(out, "%-36s", s.name)
			for _, w := range workloads {
				r := results[key{w.name, callers, s.name}]
				slices.Sort(r.latencies)
				fmt.Fprintf(out, " %10s %6.0f", short(r.percentile(0.5)), r.allocsPerCall())
			}
			fmt.Fprintln(out)
		}
	}
	return nil
}

// bare is a server without our interceptors.
func bare(name string, buffer int, workers uint32, window int32) (*path, error) {
	l := bufconn.Listen(buffer)
	opts := []grpc.ServerOption{grpc.MaxRecvMsgSize(16 << 20), grpc.MaxSendMsgSize(16 << 20), grpc.NumStreamWorkers(workers)}
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16 << 20)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
	}
	if window != 0 {
		opts = append(opts, grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(window))
		dial = append(dial, grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window))
	}
	s := grpc.NewServer(opts...)
	runtimeapi.RegisterRuntimeServiceServer(s, newFakeRuntime())
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///memory", dial...)
	if err != nil {
		s.Stop()
		return nil, err
	}
	return &path{name: name, client: runtimeapi.NewRuntimeServiceClient(conn), close: func() {
		conn.Close()
		s.Stop()
		<-served
	}}, nil
}
