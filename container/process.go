package container

import (
	"bytes"
	"path"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// defaultPath is what containers find commands by if nobody says otherwise.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// args merges command and args with the image's: command replaces the entrypoint
// and takes the image's cmd with it, args replaces the cmd.
func args(config *runtimeapi.ContainerConfig, image *Image) ([]string, error) {
	command, rest := config.GetCommand(), config.GetArgs()
	if len(command) == 0 {
		command = image.Entrypoint
		if len(rest) == 0 {
			rest = image.Cmd
		}
	}
	out := append(append([]string{}, command...), rest...)
	if len(out) == 0 {
		return nil, invalid("command", "neither the container nor its image names a command")
	}
	return out, nil
}

// env is the image's, then the container's over it, in order. A PATH is always
// there, TERM if there is a terminal, HOSTNAME if the pod has one.
func env(config *runtimeapi.ContainerConfig, image *Image, hostname string) ([]string, error) {
	vars := []string{defaultPath}
	if config.GetTty() {
		vars = append(vars, "TERM=xterm")
	}
	if hostname != "" {
		vars = append(vars, "HOSTNAME="+hostname)
	}
	vars = append(vars, image.Env...)
	for _, kv := range config.GetEnvs() {
		if kv.GetKey() == "" || strings.ContainsAny(kv.GetKey(), "=\x00") || bytes.IndexByte(kv.GetValue(), 0) >= 0 {
			return nil, invalid("envs", "%q is no environment variable", kv.GetKey())
		}
		vars = append(vars, kv.GetKey()+"="+string(kv.GetValue()))
	}
	at := map[string]int{}
	var out []string
	for _, v := range vars {
		key, _, ok := strings.Cut(v, "=")
		if !ok {
			continue // an image's variable without a value
		}
		if i, seen := at[key]; seen {
			out[i] = v
			continue
		}
		at[key] = len(out)
		out = append(out, v)
	}
	return out, nil
}

func cwd(config *runtimeapi.ContainerConfig, image *Image) (string, error) {
	dir := config.GetWorkingDir()
	if dir == "" {
		dir = image.WorkingDir
	}
	if dir == "" {
		return "/", nil
	}
	if !path.IsAbs(dir) {
		return "", invalid("working_dir", "%q: want an absolute path", dir)
	}
	return path.Clean(dir), nil
}
