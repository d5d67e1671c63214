package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/internal/rundir"
	"github.com/rktnetes/rktshim/internal/version"
)

// run executes rkt in this process, as main does.
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	root := New()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&errOut)
	cmd, err := root.ExecuteContextC(t.Context())
	code = Exit(cmd, err)
	return code, out.String(), errOut.String()
}

func TestBareRktPrintsHelpAndExitsWithTwo(t *testing.T) {
	for _, args := range [][]string{{}, {"image"}} {
		code, stdout, stderr := run(t, args...)
		require.Equal(t, 2, code)
		require.Contains(t, stdout, "Usage:")
		require.Empty(t, stderr)
	}
}

func TestWrongUseGetsOneLineThatNamesWhatIsWrong(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	for _, c := range []struct {
		args string
		want string
	}{
		{"nope", `rkt: unknown command "nope" for "rkt"`},
		{"image nope", `image: unknown command "nope" for "rkt image"`},
		{"image list --nope", `list: unknown flag: --nope`},
		{"image list extra", `list: unknown command "extra" for "rkt image list"`},
		{"image list --format=xml", `list: invalid argument "xml" for "--format" flag: want json or json-pretty`},
		{"image list --sort=id", `list: invalid argument "id" for "--sort" flag: want name, importtime, lastused or size`},
		{"image list --order=up", `list: invalid argument "up" for "--order" flag: want asc or desc`},
		{"image list --fields=id,age", `list: invalid argument "id,age" for "--fields" flag: "age": want some of id,name,size,importtime,lastused`},
		{"image rm", "rm: want at least one IMAGE"},
		{"image gc --grace-period=soon", `gc: invalid argument "soon" for "--grace-period" flag`},
		{"image gc --grace-period=-1h", "gc: --grace-period: -1h0m0s is negative"},
		{"image cat-manifest", "cat-manifest: want IMAGE, got 0 arguments"},
		{"image export a", "export: want IMAGE and FILE, got 1 arguments"},
		{"image export a b --format=oci-archive", `export: invalid argument "oci-archive" for "--format" flag: want json or json-pretty`},
		{"image rm a --format=x", `rm: invalid argument "x" for "--format" flag: want json or json-pretty`},
		{"image gc --format=x", `gc: invalid argument "x" for "--format" flag: want json or json-pretty`},
		{"image export a b --archive=aci", `export: invalid argument "aci" for "--archive" flag: want oci-archive or docker-archive`},
		{"fetch", "fetch: want at least one IMAGE"},
		{"image fetch", "fetch: want at least one IMAGE"},
		{"fetch a --pull-policy=always", `fetch: invalid argument "always" for "--pull-policy" flag: want never, new or update`},
		{"fetch a --insecure-options=everything", `"--insecure-options" flag: "everything": want some of none, image, tls, http, all-fetch`},
		{"fetch a --insecure-options=seccomp", `"seccomp" is about running pods`},
		{"fetch a --auth-file=/nonexistent", "fetch: --auth-file: stat /nonexistent: no such file or directory"},
		{"fetch a --name=UPPER", `fetch: --name: parse image name "UPPER"`},
		{"fetch ./a ./b --name=x", "fetch: --name: want one IMAGE with it"},
		{"fetch registry.example.com/a --name=x", "fetch: --name: registry.example.com/a is not a local file"},
		{"fetch https://example.com/x.aci", "fetch: https://example.com/x.aci: cannot fetch from https://"},
		{"fetch ./nonexistent", "fetch: image: stat "},
		{"fetch a:b:c", `fetch: parse image name "a:b:c"`},
		{"version x", `version: unknown command "x"`},
		{"--run-dir=rel image list", `list: --run-dir: "rel" is not an absolute path`},
	} {
		t.Run(c.args, func(t *testing.T) {
			code, stdout, stderr := run(t, append([]string{"--dir=" + dir, "--run-dir=" + dir + "-run"}, strings.Fields(c.args)...)...)
			require.Equal(t, 254, code)
			require.Contains(t, stderr, c.want)
			require.Len(t, strings.Split(strings.TrimSpace(stderr), "\n"), 1, "one line: %s", stderr)
			require.Empty(t, stdout)
		})
	}
}

func TestErrorsOfSeveralLinesAllCarryTheCommand(t *testing.T) {
	var out bytes.Buffer
	cmd := &cobra.Command{Use: "rm"}
	cmd.SetErr(&out)
	require.Equal(t, 254, Exit(cmd, errors.Join(errors.New("a"), errors.New("b"))))
	require.Equal(t, "rm: a\nrm: b\n", out.String())
	out.Reset()
	require.Equal(t, 254, Exit(cmd, fmt.Errorf("pull x: %w", context.Canceled)))
	require.Equal(t, "rm: interrupted\n", out.String())
	require.Equal(t, 0, Exit(cmd, nil))
}

func TestVersionHasRktsLines(t *testing.T) {
	code, stdout, _ := run(t, "version")
	require.Equal(t, 0, code)
	require.Regexp(t, `^rkt Version: `+regexp.QuoteMeta(version.Version)+`\nappc Version: 0\.8\.11\nGo Version: go1\..+\nGo OS/Arch: linux/.+\nFeatures: -TPM -SDJOURNAL\n$`, stdout)
}

func TestEveryCommandIsDocumentedAndItsExamplesParse(t *testing.T) {
	var walk func(*cobra.Command)
	examples := 0
	walk = func(cmd *cobra.Command) {
		require.NotEmpty(t, cmd.Short, cmd.CommandPath())
		require.NotEmpty(t, cmd.Long, cmd.CommandPath())
		require.NotEmpty(t, cmd.Example, cmd.CommandPath())
		for line := range strings.SplitSeq(cmd.Example, "\n") {
			line, _, _ = strings.Cut(line, "|")
			words := strings.Fields(line)
			require.Equal(t, "rkt", words[0], line)
			found, rest, err := New().Find(words[1:])
			require.NoError(t, err, line)
			require.NoError(t, found.ParseFlags(rest), line)
			require.NoError(t, found.ValidateArgs(found.Flags().Args()), line)
			examples++
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(New())
	require.Greater(t, examples, 15)
}

func TestItCanBeAPartOfAnotherProgram(t *testing.T) {
	for args, want := range map[string]string{"rkt version": "rkt Version: ", "rkt image rm": "rm: want at least one IMAGE\n"} {
		parent := &cobra.Command{Use: "hyperkube"}
		parent.AddCommand(New())
		var out bytes.Buffer
		parent.SetArgs(strings.Fields(args))
		parent.SetOut(&out)
		parent.SetErr(&out)
		parent.SilenceErrors = true
		cmd, err := parent.ExecuteContextC(t.Context())
		Exit(cmd, err)
		require.Contains(t, out.String(), want)
	}
}

func TestAFileWinsOverARegistryOnlyIfItIsThere(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("app.aci", nil, 0o600))
	require.NoError(t, os.MkdirAll("layout/oci-layout", 0o700))
	require.NoError(t, os.Mkdir("busybox", 0o700))
	for arg, want := range map[string]string{
		"app.aci": "app.aci", "./gone.aci": "./gone.aci", "/gone": "/gone", "../x": "../x", "file:///x": "/x",
		"layout": "layout", "busybox": "", "gone.aci": "", "docker://app.aci": "", "registry.example.com/app:1": "",
	} {
		got, err := localPath(arg)
		require.NoError(t, err)
		require.Equal(t, want, got, arg)
	}
	_, err := localPath("http://x")
	require.ErrorContains(t, err, "download the file")
}

func TestInsecureOptionsAddUpAndTheLastFlagCounts(t *testing.T) {
	var i insecure
	require.NoError(t, i.Set("image, http"))
	require.Equal(t, insecure{image: true, http: true, text: "image, http"}, i)
	require.NoError(t, i.Set("all-fetch"))
	require.True(t, i.image && i.tls && i.http)
	require.NoError(t, i.Set("none,ondisk,pubkey"))
	require.False(t, i.image || i.tls || i.http)
}

func TestAStoreElsewhereHasItsOwnRunDirectory(t *testing.T) {
	def, err := (&global{dir: rundir.DefaultDir}).folders()
	require.NoError(t, err)
	require.Equal(t, "/var/lib/rkt/images", storeOf(def).Root)
	require.Equal(t, "/run/rkt/images", storeOf(def).RunRoot)

	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(dir, link))
	for _, made := range []string{"", "still/to/be/made"} {
		a, err := (&global{dir: filepath.Join(dir, made)}).folders()
		require.NoError(t, err)
		b, err := (&global{dir: filepath.Join(link, made)}).folders()
		require.NoError(t, err)
		require.Equal(t, a, b, "by whatever path it is called")
		require.Regexp(t, `^/run/rkt-[0-9a-f]{12}/images$`, storeOf(a).RunRoot)
	}
}
