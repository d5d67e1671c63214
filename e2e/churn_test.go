package e2e

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The churn is small in every run of the tests; `make soak` sets these to make it
// what it should be once in a while.
const (
	churnSecondsEnv = "RKTSHIM_CHURN_SECONDS"
	churnPodsEnv    = "RKTSHIM_CHURN_PODS"
)

// intEnv is a number from the environment.
func intEnv(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, name)
	return n
}

// counterPod counts in its log for as long as it lives, and ends with code 42 and a
// last line that tells how far it has come.
const counterPod = `
spec:
  terminationGracePeriodSeconds: 60
  containers:
  - name: counter
    image: IMAGE/busybox:1
    command: [/bin/busybox, sh, -c, "trap 'stop=yes' TERM; i=0; while [ -z $stop ]; do echo $i; i=$((i+1)); sleep 0.02; done; echo end $i; exit 42"]
    env: [{name: PATH, value: /bin}, {name: ROUND, value: "EXTRA"}]
`

// endingPod ends by itself, and stays.
const endingPod = `
spec:
  terminationGracePeriodSeconds: 60
  restartPolicy: Never
  containers:
  - name: counter
    image: IMAGE/busybox:1
    command: [/bin/busybox, sh, -c, "i=0; while [ $i -lt 100 ]; do echo $i; i=$((i+1)); sleep 0.02; done; echo end $i; exit EXTRA"]
    env: [{name: PATH, value: /bin}]
`

// The kubelet is killed over and over, at random moments, while pods come and go.
// In the end there is what the manifests ask for and nothing else, every exit code
// is right, and no line of a log is missing or doubled.
func TestChurnWhileTheKubeletIsKilled(t *testing.T) {
	t.Parallel()
	length := time.Duration(intEnv(t, churnSecondsEnv, 45)) * time.Second
	c := &churn{podNode: newPodNode(t, "nspawn"), kept: shortDir(t), slots: intEnv(t, churnPodsEnv, 8), codes: map[string]int32{}}
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var wg sync.WaitGroup
	for slot := range c.slots {
		wg.Go(func() { c.comeAndGo(ctx, slot) })
	}
	watch, stopWatching := context.WithCancel(t.Context())
	defer stopWatching()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		c.watch(watch)
	}()

	kills := c.killKubelets(ctx)
	wg.Wait()
	c.kubelet()

	t.Logf("%d kills of the kubelet, %d pods that came, of which %d were to end by themselves", kills, c.came, len(c.ending))
	c.requireNothingButEnding()
	stopWatching()
	<-watched
	c.requireExitCodes()
	for _, name := range c.ending {
		c.withdraw(name)
	}
	c.waitNothingLeft()
	c.requireWholeLogs()
}

// churn is what TestChurnWhileTheKubeletIsKilled does to a machine.
type churn struct {
	*podNode
	kept  string // a second link to every log, which stays when the kubelet deletes the first
	slots int    // pods at once

	mu     sync.Mutex
	came   int              // guarded by mu
	ending []string         // guarded by mu; pods that end by themselves and are asked for to the end
	codes  map[string]int32 // guarded by mu; exit codes by container, as CRI told them
}

// comeAndGo keeps one slot filled with one counter after the other. Now and then a
// pod comes that ends by itself.
func (c *churn) comeAndGo(ctx context.Context, slot int) {
	for round := 0; ctx.Err() == nil; round++ {
		name := fmt.Sprintf("count%d-%d", slot, round)
		c.put(name, counterPod, round)
		if round == 1 { // when all is in full swing
			c.putEnding(fmt.Sprintf("end%d", slot), slot+1)
		}
		if rand.IntN(4) != 0 { // most are let live, some go whatever has become of them
			c.awaitFirstLine(ctx, name)
		}
		pause(ctx, time.Duration(rand.IntN(8_000))*time.Millisecond)
		c.mu.Lock()
		c.withdraw(name)
		c.mu.Unlock()
	}
}

// awaitFirstLine waits until a pod has logged something, but not for ever: its
// kubelets may be killed too fast.
func (c *churn) awaitFirstLine(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		logs, _ := filepath.Glob(c.logDir() + "/pods/default_" + name + "-*/counter/*.log")
		for _, log := range logs {
			if st, err := os.Stat(log); err == nil && st.Size() > 0 {
				return
			}
		}
		pause(ctx, 100*time.Millisecond)
	}
}

// pause sleeps for some time, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (c *churn) put(name, text string, extra int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.came++
	c.apply(name, strings.ReplaceAll(manifest(name, text, ""), "EXTRA", strconv.Itoa(extra)))
}

func (c *churn) putEnding(name string, code int) {
	c.put(name, endingPod, code)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ending = append(c.ending, name)
}

// killKubelets starts one kubelet after the other and kills each, one in four long
// before it serves anything. It returns when ctx ends, with none alive.
func (c *churn) killKubelets(ctx context.Context) (kills int) {
	for ; ctx.Err() == nil; kills++ {
		k := c.startKubelet()
		if kills%4 != 3 {
			for ctx.Err() == nil {
				if _, ok := c.pods(); ok {
					break
				}
				pause(ctx, 50*time.Millisecond)
			}
		}
		pause(ctx, time.Duration(rand.IntN(6_000))*time.Millisecond)
		kill(k)
	}
	return kills
}

// watch links every log that appears, and notes every exit code that CRI tells.
func (c *churn) watch(ctx context.Context) {
	cri := c.cri()
	for ctx.Err() == nil {
		c.keepLogs()
		c.noteExits(ctx, cri)
		pause(ctx, 50*time.Millisecond)
	}
}

func (c *churn) keepLogs() {
	root := c.logDir() + "/pods"
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			name := strings.ReplaceAll(strings.TrimPrefix(path, root+"/"), "/", "+")
			_ = os.Link(path, filepath.Join(c.kept, name)) // it may be kept already, or be gone
		}
		return nil
	})
}

func (c *churn) noteExits(ctx context.Context, cri runtimeapi.RuntimeServiceClient) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	exited := &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_EXITED}
	list, err := cri.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{State: exited}})
	if err != nil {
		return // the kubelet has just been killed
	}
	for _, item := range list.Containers {
		st, err := cri.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: item.Id})
		if err != nil {
			continue
		}
		c.mu.Lock()
		c.codes[strings.TrimPrefix(st.Status.LogPath, c.logDir()+"/pods/")] = st.Status.ExitCode
		c.mu.Unlock()
	}
}

// requireNothingButEnding waits until all counters are gone and the other pods have
// ended, and finds as much of pods on the machine as those explain.
func (c *churn) requireNothingButEnding() {
	c.t.Helper()
	for _, name := range c.ending {
		c.waitPod(name, func(p podState) bool { return p.Status.Phase == "Failed" })
	}
	cri := c.cri()
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		list, err := cri.ListPodSandbox(c.t.Context(), &runtimeapi.ListPodSandboxRequest{})
		require.NoError(c.t, err)
		asked := 0
		for _, item := range list.Items {
			if strings.HasPrefix(item.Metadata.Name, "end") {
				asked++
			}
		}
		containers, err := cri.ListContainers(c.t.Context(), &runtimeapi.ListContainersRequest{})
		require.NoError(c.t, err)
		explained := map[string]bool{}
		for _, item := range list.Items {
			explained[item.Id] = true
		}
		for _, item := range containers.Containers {
			explained[item.Id] = true
		}
		extra := c.beyond(explained)
		if asked == len(list.Items) && len(extra) == 0 {
			return
		}
		require.True(c.t, time.Now().Before(deadline), "%d sandboxes, of which %d are asked for; and: %s", len(list.Items), asked, extra)
	}
}

// beyond is what is left of pods and containers other than those.
func (c *churn) beyond(ids map[string]bool) (extra []string) {
	for _, left := range c.leftOfPods() {
		named := false
		for id := range ids {
			named = named || strings.Contains(left, id)
		}
		if !named {
			extra = append(extra, left)
		}
	}
	return extra
}

// requireExitCodes: what ended by itself has its own code. A counter has 42, or, if
// the kubelet that had to end it found no manifest and so gave it a second only, 137.
func (c *churn) requireExitCodes() {
	c.t.Helper()
	for i, name := range c.ending {
		p := c.waitPod(name, func(p podState) bool { return p.Status.Phase == "Failed" })
		st := p.Status.ContainerStatuses[0]
		want, err := strconv.Atoi(strings.TrimPrefix(name, "end"))
		require.NoError(c.t, err)
		require.Equal(c.t, want+1, st.State.Terminated.ExitCode, c.ending[i])
		require.Equal(c.t, "Error", st.State.Terminated.Reason)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	counters := 0
	for log, code := range c.codes {
		if strings.HasPrefix(log, "default_count") {
			require.Contains(c.t, []int32{42, 137}, code, log)
			counters++
		}
	}
	c.t.Logf("%d exits of counters seen by CRI before they were removed", counters)
}

// requireWholeLogs: each log counts from 0 without a gap or a repetition, and whoever
// came to its end says so in its last line.
func (c *churn) requireWholeLogs() {
	c.t.Helper()
	files, err := os.ReadDir(c.kept)
	require.NoError(c.t, err)
	lines, whole, ran := 0, 0, map[string]int{}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(c.kept, f.Name()))
		require.NoError(c.t, err)
		if len(b) > 0 { // a container whose creation was cut short leaves an empty one
			ran[podOfLog(f.Name())]++
		}
		said := strings.Fields(strings.ReplaceAll(messages(c.t, string(b)), "end ", "end"))
		for i, word := range said {
			if word == "end"+strconv.Itoa(i) && i == len(said)-1 {
				whole++
				continue
			}
			require.Equal(c.t, strconv.Itoa(i), word, "line %d of %s", i, f.Name())
			lines++
		}
		if code, ok := c.codes[strings.ReplaceAll(f.Name(), "+", "/")]; ok && code == 42 {
			require.Equal(c.t, "end"+strconv.Itoa(len(said)-1), said[len(said)-1], "the last line of %s", f.Name())
		}
	}
	for _, name := range c.ending { // which are not to be started again
		require.Equal(c.t, 1, ran[name], "runs of %s", name)
	}
	require.Positive(c.t, whole)
	c.t.Logf("%d logs with %d lines, %d of them to their end", len(files), lines, whole)
}

// podOfLog is the name that a pod's manifest has, from the name of its kept log:
// namespace_name-node_uid+container+attempt.log.
func podOfLog(file string) string {
	_, name, _ := strings.Cut(file, "_")
	name, _, _ = strings.Cut(name, "_")
	host, _ := os.Hostname()
	return strings.TrimSuffix(name, "-"+strings.ToLower(host))
}
