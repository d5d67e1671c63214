package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// choice is a flag that takes one of a few words.
type choice struct {
	value   string
	allowed []string
}

// oneOf returns a choice whose default is the first word.
func oneOf(words ...string) choice { return choice{value: words[0], allowed: words} }

// jsonFormat is the flag --format of what is text without it.
func jsonFormat() choice { return choice{allowed: []string{"json", "json-pretty"}} }

// String implements pflag.Value, as Set and Type do.
func (c *choice) String() string { return c.value }

// Set accepts one of the words; the library names the flag in its error.
func (c *choice) Set(s string) error {
	if !slices.Contains(c.allowed, s) {
		return fmt.Errorf("want %s", orList(c.allowed))
	}
	c.value = s
	return nil
}

// Type is what the help shows for a value.
func (c *choice) Type() string { return strings.Join(c.allowed, "|") }

// words is a flag that takes a list of words.
type words struct {
	values  []string
	allowed []string
}

// String implements pflag.Value, as Set and Type do.
func (w *words) String() string { return strings.Join(w.values, ",") }

// Set accepts a comma-separated list and replaces the one before it.
func (w *words) Set(s string) error {
	values := strings.Split(s, ",")
	for i, v := range values {
		if values[i] = strings.TrimSpace(v); !slices.Contains(w.allowed, values[i]) {
			return fmt.Errorf("%q: want some of %s", v, strings.Join(w.allowed, ","))
		}
	}
	w.values = values
	return nil
}

// Type is what the help shows for a value.
func (w *words) Type() string { return "LIST" }

const insecureUsage = "checks to leave out, comma-separated: image (signature policy), tls (certificates), http (allow plain http), all-fetch, none"

// insecure is rkt's flag --insecure-options.
type insecure struct {
	image, tls, http bool
	text             string
}

// String implements pflag.Value, as Set and Type do.
func (i *insecure) String() string { return i.text }

// Set accepts rkt's words as far as they are about images. ondisk and pubkey
// are of appc's signatures, which are not looked at; they change nothing.
func (i *insecure) Set(s string) error {
	next := insecure{text: s}
	for word := range strings.SplitSeq(s, ",") {
		switch strings.TrimSpace(word) {
		case "none", "ondisk", "pubkey":
		case "image":
			next.image = true
		case "tls":
			next.tls = true
		case "http":
			next.http = true
		case "all-fetch", "all":
			next.image, next.tls, next.http = true, true, true
		case "capabilities", "paths", "seccomp", "all-run":
			return fmt.Errorf("%q is about running pods, it has no effect on images", word)
		default:
			return fmt.Errorf("%q: want some of none, image, tls, http, all-fetch", word)
		}
	}
	*i = next
	return nil
}

// Type is what the help shows for a value.
func (i *insecure) Type() string { return "LIST" }

// exactly refuses any other number of arguments and says what they are.
func exactly(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return fmt.Errorf("want %s, got %d arguments", strings.Join(names, " and "), len(args))
		}
		return nil
	}
}

func atLeastOne(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return errors.New("want at least one " + what)
		}
		return nil
	}
}

func orList(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
