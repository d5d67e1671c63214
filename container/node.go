package container

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"
)

// Node is what this node can do, as far as containers depend on it.
type Node struct {
	// Capabilities are those of the bounding set, as "CAP_CHOWN": no container can
	// have others.
	Capabilities []string
	// Unified says that the node has cgroup v2 only.
	Unified bool
	// Hugetlb and Swap say whether limits of huge pages and of swap can be set.
	Hugetlb, Swap bool
	// RecursiveReadOnly says whether the kernel can make a mount read-only with all
	// below it (mount_setattr, Linux 5.12).
	RecursiveReadOnly bool
	// OOMScoreMin is the lowest oom_score_adj that a container can be given.
	OOMScoreMin int
	// CompiledSeccomp says that the OCI runtime is crun, which takes a filter that
	// is compiled already. LocalNode does not know the runtime.
	CompiledSeccomp bool
	// SELinux and AppArmor say whether the kernel enforces them.
	SELinux, AppArmor bool
}

// LocalNode finds out about the node that this process runs on.
func LocalNode() (Node, error) {
	caps, err := capability.NewPid2(0)
	if err == nil {
		err = caps.Load()
	}
	if err != nil {
		return Node{}, fmt.Errorf("read the node's capabilities: %w", err)
	}
	n := Node{Unified: isUnified(), OOMScoreMin: -1000, RecursiveReadOnly: hasMountSetattr()}
	for _, c := range capability.ListKnown() {
		if caps.Get(capability.BOUNDING, c) {
			n.Capabilities = append(n.Capabilities, capName(c.String()))
		}
	}
	if !caps.Get(capability.EFFECTIVE, capability.CAP_SYS_RESOURCE) {
		if n.OOMScoreMin, err = ownOOMScore(); err != nil {
			return Node{}, err
		}
	}
	if n.Unified {
		controllers, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		if err != nil {
			return Node{}, fmt.Errorf("read the node's cgroup controllers: %w", err)
		}
		n.Hugetlb = strings.Contains(" "+strings.TrimSpace(string(controllers))+" ", " hugetlb ")
		n.Swap = true
	} else {
		n.Hugetlb = exists("/sys/fs/cgroup/hugetlb/cgroup.procs")
		n.Swap = exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	}
	n.SELinux = exists("/sys/fs/selinux/enforce")
	n.AppArmor = exists("/sys/kernel/security/apparmor")
	return n, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func isUnified() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// hasMountSetattr asks for a change of no mount at all.
func hasMountSetattr() bool {
	err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	return !errors.Is(err, unix.ENOSYS)
}

// ownOOMScore is as low as a process without CAP_SYS_RESOURCE can go.
func ownOOMScore() (int, error) {
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, err
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read /proc/self/oom_score_adj: %w", err)
	}
	return score, nil
}
