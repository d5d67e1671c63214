package main

import (
	"go/constant"
	"go/token"
	"go/types"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/tools/go/packages"
)

const (
	criclient = "k8s.io/cri-client/"
	upstream  = "github.com/rktnetes/rktshim/hyperkube/upstream/cri-client/"
)

// additions are what our module exports and upstream's does not.
var additions = map[string]bool{
	"pkg/util.Intercept": true, "pkg/util.Interceptor": true, "pkg/util.Dialer": true,
	"pkg/util.SetTracerProvider": true, "pkg/util.TracerProvider": true,
}

// Our stand-in must export exactly what upstream's module does, at the same
// types, or code that builds with upstream's does not build with ours. An upgrade
// that adds a package or a name fails here.
func TestCRIClientReexportsAllOfUpstream(t *testing.T) {
	ours, theirs := exported(t, criclient), exported(t, upstream)

	require.Equal(t, slices.Sorted(maps.Keys(theirs)), slices.Sorted(maps.Keys(without(ours, additions))))
	for name, want := range theirs {
		got := ours[name]
		require.Equal(t, kind(want), kind(got), name)
		require.True(t, sameType(want, got), "%s: upstream has %s, ours %s", name, want.Type(), got.Type())
		if c, ok := want.(*types.Const); ok {
			require.True(t, constant.Compare(c.Val(), token.EQL, got.(*types.Const).Val()), name)
		}
	}
}

func exported(t *testing.T, module string) map[string]types.Object {
	t.Helper()
	pkgs, err := packages.Load(&packages.Config{Mode: packages.NeedName | packages.NeedTypes | packages.NeedImports | packages.NeedDeps | packages.NeedSyntax | packages.NeedTypesInfo}, module+"...")
	require.NoError(t, err)
	require.NotEmpty(t, pkgs)
	names := map[string]types.Object{}
	for _, p := range pkgs {
		require.Empty(t, p.Errors)
		for _, n := range p.Types.Scope().Names() {
			if o := p.Types.Scope().Lookup(n); o.Exported() {
				names[strings.TrimPrefix(p.PkgPath, module)+"."+n] = o
			}
		}
	}
	return names
}

func without(all map[string]types.Object, drop map[string]bool) map[string]types.Object {
	rest := maps.Clone(all)
	maps.DeleteFunc(rest, func(name string, _ types.Object) bool { return drop[name] })
	return rest
}

// kind tells constants, types and values apart; a function may be re-exported as
// a variable.
func kind(o types.Object) string {
	switch o.(type) {
	case *types.Const:
		return "constant"
	case *types.TypeName:
		return "type"
	}
	return "value"
}

// sameType compares by name, as the two modules are loaded apart.
func sameType(a, b types.Object) bool {
	text := func(o types.Object) string {
		return types.TypeString(types.Unalias(o.Type()), func(p *types.Package) string { return strings.TrimPrefix(p.Path(), upstream) })
	}
	return text(a) == text(b)
}
