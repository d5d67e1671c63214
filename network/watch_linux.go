package network

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long after a change the folders are read: files are often
	// written in place, one after the other.
	settle = 100 * time.Millisecond

	// reread is how often the folders are read and STATUS is asked without any
	// sign of a change. A folder mounted over another one gives none.
	reread = 10 * time.Second

	// answerTime bounds VERSION and STATUS of all plugins.
	answerTime = 5 * time.Second
)

// Run reads the configuration, again whenever its folder or the plugins' folders
// change, and asks the plugins for their STATUS where the network's CNI version
// has that. It blocks until ctx ends and then returns nil. If the kernel gives no
// more watches, it goes on by reading the folders every ten seconds.
func (n *CNI) Run(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		watcher = &fsnotify.Watcher{} // nil channels: nothing ever happens
	} else {
		defer watcher.Close()
	}
	for ctx.Err() == nil {
		if err == nil {
			n.watchFolders(watcher)
		}
		n.read(ctx)
		n.awaitChange(ctx, watcher)
	}
	return nil
}

// awaitChange returns when it is time to read the folders again, or ctx ends.
func (n *CNI) awaitChange(ctx context.Context, watcher *fsnotify.Watcher) {
	timer := time.NewTimer(reread)
	defer timer.Stop()
	changed := false
	for {
		select {
		case event := <-watcher.Events:
			if !changed && n.concerns(event) {
				changed = true
				timer.Reset(settle)
			}
		case <-watcher.Errors: // events were lost
			changed = true
			timer.Reset(settle)
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// watchFolders watches each folder and the closest one above it that exists: that
// is where it appears, disappears or is replaced. Watching a folder again does no
// harm; a watch ends with what it watched.
func (n *CNI) watchFolders(watcher *fsnotify.Watcher) {
	for _, dir := range n.folders() {
		_ = watcher.Add(dir) // it may not exist
		for above := filepath.Dir(dir); ; above = filepath.Dir(above) {
			if watcher.Add(above) == nil || above == filepath.Dir(above) {
				break
			}
		}
	}
}

// folders are those that hold configuration or plugins.
func (n *CNI) folders() []string {
	dirs := append([]string{n.config.ConfDir}, n.config.BinDirs...)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.host.conf != nil {
		dirs = append(dirs, filepath.Join(n.config.ConfDir, n.host.conf.list.Name)) // plugins that are not in the list
	}
	return dirs
}

// concerns says whether something in one of the folders, the folder itself or
// one above it has changed.
func (n *CNI) concerns(event fsnotify.Event) bool {
	if event.Op == fsnotify.Chmod {
		return false
	}
	within := func(path, dir string) bool {
		return strings.HasPrefix(path+string(os.PathSeparator), strings.TrimSuffix(dir, "/")+"/")
	}
	for _, dir := range n.folders() {
		if within(event.Name, dir) || within(dir, event.Name) {
			return true
		}
	}
	return false
}

// read replaces what is known of the host. Only Run calls it.
func (n *CNI) read(ctx context.Context) {
	n.mu.Lock()
	last := n.host
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	host := n.readHost(ctx, last)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.host = host
}

func (n *CNI) readHost(ctx context.Context, last hostState) (host hostState) {
	if host.conf, host.invalid, host.reason = readConf(n.config.ConfDir); host.reason != nil {
		return host
	}
	dirs := n.config.BinDirs
	if host.reason = host.conf.findPlugins(dirs); host.reason != nil {
		host.reason = fmt.Errorf("%w: install it there", host.reason)
		return host
	}
	if seen := host.conf.fingerprint(dirs); seen != last.plugins {
		if host.reason = host.conf.checkVersions(ctx, dirs); host.reason != nil {
			return host
		}
		host.plugins = seen
	} else {
		host.plugins = last.plugins
	}
	host.reason = host.conf.status(ctx, dirs)
	return host
}
