package cri

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"k8s.io/klog/v2"

	"github.com/rktnetes/rktshim/rktshim"
)

// agentArg makes this program an agent: a process that has rktshim in it as the
// kubelet has, and does the jobs that each line of its standard input is, over
// memory. It says when it is up; the first line makes the runtime start.
const agentArg = "cri-agent"

// agentConfig is what an agent is told.
type agentConfig struct {
	Dir, Run, Flavor, Socket, Log, CNIConf string
	Binaries
}

// answer is what an agent says of each line.
type answer struct {
	Outcome *outcome
	Error   string `json:",omitempty"`
}

func serveAgent(told string) error {
	var c agentConfig
	if err := json.Unmarshal([]byte(told), &c); err != nil {
		return err
	}
	log, err := os.Create(c.Log)
	if err != nil {
		return err
	}
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(fs)
	if err := errors.Join(fs.Set("logtostderr", "false"), fs.Set("stderrthreshold", "FATAL")); err != nil {
		return err
	}
	klog.SetOutput(log)
	in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	if err := out.Encode(answer{}); err != nil {
		return err
	}
	in.Scan() // the conductor has looked at our memory
	shim, err := rktshim.New(c.shim())
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- shim.Run(context.Background()) }() // ends with the process
	select {
	case err := <-ended:
		return err
	case <-shim.Ready():
	}
	conn, err := shim.Endpoint().Client()
	if err != nil {
		return err
	}
	if err := out.Encode(answer{}); err != nil {
		return err
	}
	for in.Scan() {
		var j job
		var a answer
		err := json.Unmarshal(in.Bytes(), &j)
		if err == nil {
			a.Outcome, err = j.do(conn)
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
	return in.Err()
}

func (c *agentConfig) shim() rktshim.Config {
	s := rktshim.DefaultConfig()
	s.Dir, s.RunDir, s.Stage1, s.CRISocket = c.Dir, c.Run, c.Flavor, c.Socket
	s.RktPath, s.Supervisor = c.Rkt, c.Supervisor
	s.CNIConfDir, s.CNIBinDir = c.CNIConf, cniPlugins
	return s
}

// agent is such a process, seen from the conductor.
type agent struct {
	pid int
	in  *json.Encoder
	out *json.Decoder
}

// startAgent starts the process; its runtime does not run yet.
func startAgent(c agentConfig) (*agent, error) {
	told, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{c.Dir, c.Run, filepath.Dir(c.Log)} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command("/proc/self/exe", agentArg, string(told))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
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
	a := &agent{pid: cmd.Process.Pid, in: json.NewEncoder(in), out: json.NewDecoder(out)}
	_, err = a.hear()
	return a, err
}

// do has the agent do a job; the first one only starts its runtime.
func (a *agent) do(j job) (*outcome, error) {
	if err := a.in.Encode(j); err != nil {
		return nil, err
	}
	return a.hear()
}

func (a *agent) hear() (*outcome, error) {
	var got answer
	if err := a.out.Decode(&got); err != nil {
		return nil, fmt.Errorf("the agent has ended: %w", err)
	}
	if got.Error != "" {
		return nil, errors.New(got.Error)
	}
	return got.Outcome, nil
}
