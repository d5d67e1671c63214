package server_test

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/supervisor"
)

// raw is a connection below the client, for engines of other versions.
func (p *testPod) raw() *supervisor.Conn {
	p.t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	require.NoError(p.t, err)
	require.NoError(p.t, unix.Connect(fd, &unix.SockaddrUnix{Name: p.runDir + "/" + supervisor.SocketName}))
	c := supervisor.NewConn(fd)
	p.t.Cleanup(func() { c.Close() })
	return c
}

func ask(t *testing.T, c *supervisor.Conn, packet string) supervisor.Reply {
	t.Helper()
	require.NoError(t, c.Send([]byte(packet)))
	answer, _, err := c.Recv()
	require.NoError(t, err)
	r, err := supervisor.DecodeReply(answer)
	require.NoError(t, err)
	return r
}

func TestNewerEngineWorksWithThisSupervisor(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	c := p.raw()
	r := ask(t, c, `{"id":1,"op":"hello","min":1,"max":99,"client":"future","mood":"good"}`)
	require.NoError(t, r.Err())
	require.Equal(t, supervisor.VersionMax, r.Version)
	r = ask(t, c, `{"id":2,"op":"dance","with":["me"]}`)
	require.ErrorIs(t, r.Err(), errdefs.ErrNotImplemented)
	r = ask(t, c, `{"id":3,"op":"status"}`)
	require.NoError(t, r.Err())
	require.Equal(t, p.id, r.Status.Pod)
}

func TestEngineThatSpeaksNoCommonVersionIsRefused(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	r := ask(t, p.raw(), `{"id":1,"op":"hello","min":98,"max":99}`)
	require.ErrorIs(t, r.Err(), errdefs.ErrFailedPrecondition)
	r = ask(t, p.raw(), `{"id":1,"op":"shutdown"}`)
	require.ErrorIs(t, r.Err(), errdefs.ErrFailedPrecondition, "hello comes first")
}

func TestNonsenseEndsItsConnectionOnly(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	for _, packet := range []string{`{"id":0,"op":"hello"}`, `{`, "\x00\xff"} {
		c := p.raw()
		require.NoError(t, c.Send([]byte(packet)))
		_, _, err := c.Recv()
		require.Error(t, err)
	}
	c := p.raw()
	require.NoError(t, ask(t, c, `{"id":1,"op":"hello","min":1,"max":1}`).Err())
	for _, packet := range []string{`{"id":2,"op":"create-app"}`, `{"id":2,"op":"create-app","app":{"name":"a"}}`} {
		require.ErrorIs(t, ask(t, c, packet).Err(), errdefs.ErrInvalidArgument)
	}
	p.run("a", appConfig{Args: []string{"/bin/sleep", "1000"}})
	for _, op := range []string{"exec", "update-app", "attach"} {
		require.ErrorIs(t, ask(t, c, `{"id":3,"op":"`+op+`","name":"a"}`).Err(), errdefs.ErrInvalidArgument, "no files")
	}
	_, err := p.Status(t.Context())
	require.NoError(t, err)
}

func TestOthersThanRootGetNoAnswer(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	var st unix.Stat_t
	require.NoError(t, unix.Stat(p.runDir+"/"+supervisor.SocketName, &st))
	require.Equal(t, uint32(0o600), st.Mode&0o777)
}
