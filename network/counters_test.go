package network

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestCountersAreOfTheNamespaceAndOpenedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "netns")
	require.NoError(t, NewNamespace(path))
	t.Cleanup(func() { require.NoError(t, RemoveNamespace(path)) })
	inNamespace(t, path, func() error {
		for _, args := range []string{
			"link add eth0 type veth peer name peer", "addr add 192.0.2.1/24 dev eth0", "link set eth0 up", "link set peer up",
			"neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev eth0",
		} {
			if err := exec.Command("ip", strings.Fields(args)...).Run(); err != nil {
				return err
			}
		}
		return nil
	})
	c, err := OpenCounters(path)
	require.NoError(t, err)
	defer c.Close()
	before, err := c.Read()
	require.NoError(t, err)
	require.Len(t, before, 2, "loopback is left out")

	inNamespace(t, path, func() error {
		conn, err := net.Dial("udp", "192.0.2.2:9")
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write(make([]byte, 1000))
		return err
	})

	after, err := c.Read()
	require.NoError(t, err)
	for i, sent := range map[string]uint64{"eth0": 1, "peer": 0} {
		was, is := trafficOf(t, before, i), trafficOf(t, after, i)
		require.GreaterOrEqual(t, is.TxBytes, was.TxBytes+1000*sent, i)
		require.GreaterOrEqual(t, is.TxPackets, was.TxPackets+sent, i)
		require.GreaterOrEqual(t, is.RxBytes, was.RxBytes+1000*(1-sent), i)
		require.GreaterOrEqual(t, is.RxPackets, was.RxPackets+1-sent, i)
	}

	c.Close()
	_, err = c.Read()
	require.ErrorIs(t, err, unix.EBADF)
}

func trafficOf(t *testing.T, all []Traffic, name string) Traffic {
	t.Helper()
	for _, i := range all {
		if i.Name == name {
			return i
		}
	}
	require.FailNow(t, "no such interface", "%s in %v", name, all)
	return Traffic{}
}

func TestCountersOfManyInterfacesAreReadWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "netns")
	require.NoError(t, NewNamespace(path))
	t.Cleanup(func() { require.NoError(t, RemoveNamespace(path)) })
	const count = 60 // more than a page of text
	inNamespace(t, path, func() error {
		var batch strings.Builder
		for i := range count / 2 {
			fmt.Fprintf(&batch, "link add left%d type veth peer name right%d\n", i, i)
		}
		cmd := exec.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(batch.String())
		return cmd.Run()
	})
	c, err := OpenCounters(path)
	require.NoError(t, err)
	defer c.Close()

	all, err := c.Read()

	require.NoError(t, err)
	require.Len(t, all, count)
}

func TestCountersOfWhatIsNoNamespace(t *testing.T) {
	_, err := OpenCounters(filepath.Join(t.TempDir(), "gone"))
	require.ErrorIs(t, err, unix.ENOENT)
	_, err = OpenCounters(t.TempDir())
	require.ErrorIs(t, err, unix.EINVAL)
}

func TestColumnsOfNetDev(t *testing.T) {
	row := strings.Fields("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16")
	columns := make([][]byte, len(row))
	for i, s := range row {
		columns[i] = []byte(s)
	}

	got, err := parseTraffic("eth0", columns)

	require.NoError(t, err)
	require.Equal(t, Traffic{"eth0", 1, 2, 3, 4, 9, 10, 11, 12}, got)
	_, err = parseTraffic("eth0", columns[:15])
	require.ErrorContains(t, err, "eth0 has 15 columns")
	columns[3] = []byte("-")
	_, err = parseTraffic("eth0", columns)
	require.ErrorContains(t, err, "interface eth0")
}
