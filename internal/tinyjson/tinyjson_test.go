package tinyjson

import (
	"encoding/json"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestWhatIsWrittenIsReadByEncodingJSON(t *testing.T) {
	var e Encoder
	e.Object(func() {
		e.Key("s").String("a\"\\\n\x7fé\u2028😀")
		e.Key("n").Int(-9007199254740993)
		e.Key("b").Bool(true)
		e.Key("l").Array(func() { e.Int(1); e.Object(func() {}); e.String("") })
		e.Key("r").Raw([]byte(`{"x":[1,2]}`))
	})
	var got struct {
		S string
		N int64
		B bool
		L []any
		R map[string][]int
	}
	require.NoError(t, json.Unmarshal(e.Bytes(), &got))
	require.Equal(t, "a\"\\\n\x7fé\u2028😀", got.S)
	require.Equal(t, int64(-9007199254740993), got.N)
	require.True(t, got.B)
	require.Equal(t, []any{float64(1), map[string]any{}, ""}, got.L)
	require.Equal(t, map[string][]int{"x": {1, 2}}, got.R)
}

func TestUnknownMembersAreSkipped(t *testing.T) {
	d := NewDecoder([]byte(` {"new":{"a":[1.5e3,null,"x\ud83d\ude00",{"b":false}]},"n": 7 , "z":[] } `))
	var n int64
	d.Object(func(k string) {
		if k == "n" {
			n = d.Int()
			return
		}
		d.Skip()
	})
	require.NoError(t, d.End())
	require.Equal(t, int64(7), n)
}

func TestBadDocumentsAreRefused(t *testing.T) {
	for _, doc := range []string{``, `{`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{"a":1}x`, `{"a":tru}`, `{"a":"\x"}`, `{"a":"\u12"}`, `{"a":"`, "{\"a\":\"\n\"}", `{a:1}`, `{"a":1 "b":2}`, `{"a":[1,]}`} {
		d := NewDecoder([]byte(doc))
		d.Object(func(string) { d.Skip() })
		require.Error(t, d.End(), doc)
	}
}

func TestNestingIsBounded(t *testing.T) {
	doc := make([]byte, 100_000)
	for i := range doc {
		doc[i] = '['
	}
	d := NewDecoder(doc)
	d.Skip()
	require.ErrorContains(t, d.End(), "nested too deeply")
}

func FuzzStringsSurvive(f *testing.F) {
	f.Add("plain")
	f.Add("\x00\"\\\u2028😀")
	f.Fuzz(func(t *testing.T, s string) {
		var e Encoder
		e.String(s)
		var std string
		require.NoError(t, json.Unmarshal(e.Bytes(), &std))
		d := NewDecoder(e.Bytes())
		require.Equal(t, std, d.String())
		require.NoError(t, d.End())
		if utf8.ValidString(s) {
			require.Equal(t, s, std)
		}
	})
}

func FuzzSkipAcceptsWhatEncodingJSONAccepts(f *testing.F) {
	f.Add([]byte(`{"a":[1,2.5,"x",null,true]}`))
	f.Add([]byte(`"\ud800"`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		var v any
		if json.Unmarshal(doc, &v) != nil {
			return
		}
		d := NewDecoder(doc)
		d.Skip()
		if err := d.End(); err != nil && !deep(v, 0) {
			t.Fatalf("%q: %v", doc, err)
		}
	})
}

func deep(v any, n int) bool {
	if n >= maxDepth-1 {
		return true
	}
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if deep(e, n+1) {
				return true
			}
		}
	case map[string]any:
		for _, e := range v {
			if deep(e, n+1) {
				return true
			}
		}
	}
	return false
}
