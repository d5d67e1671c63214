// Command rkt is the operator's view of a node: its pods and images, as the kubelet
// has them, whether or not that runs.
package main

import (
	"context"
	"os"
	"os/signal"

	"go.podman.io/storage/pkg/reexec"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/cmd/rkt/cli"
)

func main() {
	if reexec.Init() { // the storage library runs this program for some of its work
		return
	}
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	cmd, err := cli.New().ExecuteContextC(ctx)
	return cli.Exit(cmd, err)
}
