package container

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxUserFile bounds what is read of an image's /etc/passwd and /etc/group.
const maxUserFile = 10 << 20

// userOf finds the user that a container runs as: by the container's
// configuration, else by its image's, else root. Names are looked up in the root
// filesystem; a numeric user that is not listed there has group 0.
func userOf(c *runtimeapi.LinuxContainerSecurityContext, image *Image, root string) (specs.User, error) {
	const in = "linux.security_context."
	byID, byName := c.GetRunAsUser() != nil, c.GetRunAsUsername() != ""
	switch {
	case byID && byName:
		return specs.User{}, invalid(in+"run_as_username", "must not be given beside run_as_user")
	case c.GetRunAsGroup() != nil && !byID && !byName:
		return specs.User{}, invalid(in+"run_as_group", "needs run_as_user or run_as_username")
	}
	passwd, err := readUserFile(root, "/etc/passwd")
	if err != nil {
		return specs.User{}, err
	}
	group, err := readUserFile(root, "/etc/group")
	if err != nil {
		return specs.User{}, err
	}
	who, field := image.User, "the image's user"
	switch {
	case byID:
		who, field = strconv.FormatInt(c.RunAsUser.Value, 10), in+"run_as_user"
	case byName:
		who, field = c.RunAsUsername, in+"run_as_username"
		if strings.ContainsAny(who, ":") {
			return specs.User{}, invalid(field, "%q is no user name", who)
		}
		if _, err := strconv.Atoi(who); err == nil { // a number would pass unlisted
			return specs.User{}, invalid(field, "%q is a number, use run_as_user", who)
		}
	}
	found, err := user.GetExecUser(who, &user.ExecUser{}, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return specs.User{}, invalid(field, "%q: %v", who, err)
	}
	u := specs.User{UID: uint32(found.Uid), GID: uint32(found.Gid)}
	if g := c.GetRunAsGroup(); g != nil {
		if g.Value < 0 || g.Value > 1<<32-2 {
			return specs.User{}, invalid(in+"run_as_group", "%d is no group", g.Value)
		}
		u.GID = uint32(g.Value)
	}
	return u, addGroups(&u, c, found.Sgids)
}

// addGroups adds the supplemental groups: those asked for, and by the policy Merge
// those that the image lists the user in. The primary group is always among them.
func addGroups(u *specs.User, c *runtimeapi.LinuxContainerSecurityContext, fromImage []int) error {
	groups := []uint32{u.GID}
	switch policy := c.GetSupplementalGroupsPolicy(); policy {
	case runtimeapi.SupplementalGroupsPolicy_Merge:
		for _, g := range fromImage {
			groups = append(groups, uint32(g))
		}
	case runtimeapi.SupplementalGroupsPolicy_Strict:
	default:
		return invalid("linux.security_context.supplemental_groups_policy", "%d is unknown", policy)
	}
	for _, g := range c.GetSupplementalGroups() {
		if g < 0 || g > 1<<32-2 {
			return invalid("linux.security_context.supplemental_groups", "%d is no group", g)
		}
		groups = append(groups, uint32(g))
	}
	slices.Sort(groups)
	u.AdditionalGids = slices.Compact(groups)
	return nil
}

// effective is the user as ContainerStatus tells it.
func effective(u specs.User) *runtimeapi.LinuxContainerUser {
	out := &runtimeapi.LinuxContainerUser{Uid: int64(u.UID), Gid: int64(u.GID)}
	for _, g := range u.AdditionalGids {
		out.SupplementalGroups = append(out.SupplementalGroups, int64(g))
	}
	return out
}

// readUserFile reads a file of the image without leaving its root. One that is not
// there is empty.
func readUserFile(root, name string) ([]byte, error) {
	path, err := securejoin.SecureJoin(root, name)
	if err != nil {
		return nil, fmt.Errorf("find %s in the image: %w", name, err)
	}
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of the image: %w", name, err)
	}
	if !st.Mode().IsRegular() {
		return nil, invalid("image", "its %s is no file", name)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read %s of the image: %w", name, err)
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxUserFile))
}
