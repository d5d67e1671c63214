package rktshim_test

import (
	"context"
	"fmt"
	"log"
	"os"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/rktshim"
)

// Any program can link the runtime in and speak CRI with it, over memory.
func Example() {
	dir, err := os.MkdirTemp("", "rktshim")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	cfg := rktshim.DefaultConfig()
	cfg.Dir, cfg.RunDir = dir+"/lib", dir+"/run"
	shim, err := rktshim.New(cfg)
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- shim.Run(ctx) }()

	conn, err := shim.Endpoint().Client()
	if err != nil {
		log.Fatal(err)
	}
	v, err := runtimeapi.NewRuntimeServiceClient(conn).Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(v.RuntimeName, "speaks CRI", v.RuntimeApiVersion)

	conn.Close()
	stop()
	fmt.Println("ended:", <-ended)
	// Output:
	// rktshim speaks CRI v1
	// ended: <nil>
}
