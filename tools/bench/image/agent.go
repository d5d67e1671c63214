package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	rktimage "github.com/rktnetes/rktshim/image"
	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/image/store"
)

// agentArg makes this program an agent: a process that serves CRI's image calls
// as the kubelet's does, with nothing else in it. It pulls what each line of
// its standard input names, and answers with "ok" or an error in one line.
const agentArg = "pull-images"

// serveAgent is the agent's main: worker is the program that pulls, with its arguments.
func serveAgent(root, run string, worker []string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	etc := filepath.Join(run, "etc") // does not exist: nothing of the host's configuration
	s, err := rktimage.New(ctx, rktimage.Config{
		Store: store.Config{Root: root, RunRoot: run},
		Pull: pull.Config{
			RegistriesConf: filepath.Join(etc, "registries.conf"), RegistriesConfDir: etc, RegistriesDir: etc,
			Policy: filepath.Join(etc, "policy.json"), AuthFile: filepath.Join(etc, "auth.json"), CertDir: etc, Insecure: true,
		},
		Worker: worker,
	})
	if err != nil {
		return err
	}
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		_, err := s.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: in.Text()}})
		if err != nil {
			fmt.Println(strings.ReplaceAll(err.Error(), "\n", " "))
			continue
		}
		fmt.Println(agentOK)
	}
	cancel()
	return errors.Join(<-ran, s.Close())
}

const agentOK = "ok"

// ours is rktshim: an agent and its worker.
type ours struct{ rkt string }

func (ours) name() string { return "rktshim" }

func (o ours) open(root, run string) (node, error) {
	cmd := exec.Command("/proc/self/exe", agentArg, root, run, o.rkt, "image-worker")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	ask, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	answers := bufio.NewReader(out)
	n := &agentNode{pid: cmd.Process.Pid}
	n.end = func() error {
		ask.Close()
		return cmd.Wait()
	}
	n.ask = func(_ *meter, ref string) error {
		if _, err := fmt.Fprintln(ask, ref); err != nil {
			return err
		}
		line, err := answers.ReadString('\n')
		if line = strings.TrimSpace(line); err == nil && line != agentOK {
			err = errors.New(line)
		}
		return err
	}
	if _, err := answers.ReadString('\n'); err != nil {
		return nil, errors.Join(fmt.Errorf("start agent: %w", err), n.close())
	}
	return n, nil
}
