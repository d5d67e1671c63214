package pull

import (
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestTheMainThreadIsNeverLost(t *testing.T) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	tids := map[int]int{}
	release := make(chan struct{})
	for range 50 { // more than there are idle threads
		wg.Go(func() {
			err := onLostThread(func() error {
				mu.Lock()
				tids[unix.Gettid()]++
				if len(tids) == 50 {
					close(release)
				}
				mu.Unlock()
				<-release
				return nil
			})
			require.NoError(t, err)
		})
	}
	wg.Wait()
	require.NotContains(t, tids, os.Getpid())
}
