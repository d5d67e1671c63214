package aci

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
)

var (
	acName       = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	acIdentifier = regexp.MustCompile(`^[a-z0-9]+([-._~/][a-z0-9]+)*$`)
	semver       = regexp.MustCompile(`^\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]+)?$`)
)

// Validate tests the manifest against the rules of appc 0.8.11 and against what
// can be carried over to OCI. All faults are reported, each by its JSON field.
func (m *Manifest) Validate() error {
	var errs []error
	for _, check := range []func(*Manifest) []error{
		checkKind, checkName, checkLabels, checkDependencies, checkWhitelist,
		checkExec, checkEnvironment, checkPorts, checkMountPoints, checkIsolators,
	} {
		errs = append(errs, check(m)...)
	}
	return errors.Join(errs...)
}

func checkKind(m *Manifest) (errs []error) {
	if m.ACKind != "ImageManifest" {
		errs = append(errs, fmt.Errorf("acKind: %q, want \"ImageManifest\"", m.ACKind))
	}
	if !semver.MatchString(m.ACVersion) {
		errs = append(errs, fmt.Errorf("acVersion: %q is no version such as 0.8.11", m.ACVersion))
	}
	return errs
}

func checkName(m *Manifest) []error {
	if !acIdentifier.MatchString(m.Name) {
		return []error{fmt.Errorf("name: %q is no appc identifier (lower case letters and digits, joined by one of - . _ ~ /)", m.Name)}
	}
	return nil
}

func checkLabels(m *Manifest) (errs []error) {
	errs = append(errs, checkPairs("labels", m.Labels)...)
	errs = append(errs, checkPairs("annotations", m.Annotations)...)
	for i, l := range m.Labels {
		if l.Name == "name" {
			errs = append(errs, fmt.Errorf("labels[%d].name: \"name\" is reserved", i))
		}
	}
	if _, _, err := m.platform(); err != nil {
		errs = append(errs, err)
	}
	return errs
}

// checkPairs tests a list whose names are appc identifiers, each used once.
func checkPairs(field string, pairs []NameValue) (errs []error) {
	seen := map[string]bool{}
	for i, p := range pairs {
		if !acIdentifier.MatchString(p.Name) {
			errs = append(errs, fmt.Errorf("%s[%d].name: %q is no appc identifier", field, i, p.Name))
		}
		if seen[p.Name] {
			errs = append(errs, fmt.Errorf("%s[%d].name: %q is given twice", field, i, p.Name))
		}
		seen[p.Name] = true
	}
	return errs
}

func checkDependencies(m *Manifest) []error {
	if len(m.Dependencies) == 0 {
		return nil
	}
	names := make([]string, len(m.Dependencies))
	for i, d := range m.Dependencies {
		if names[i] = d.ImageName; d.ImageName == "" {
			names[i] = "(no imageName)"
		}
	}
	return []error{fmt.Errorf("dependencies: the image is layered on %s; render it into one ACI first, dependencies are not fetched",
		strings.Join(names, ", "))}
}

func checkWhitelist(m *Manifest) (errs []error) {
	for i, p := range m.PathWhitelist {
		if !absolute(p) {
			errs = append(errs, fmt.Errorf("pathWhitelist[%d]: %q is no clean absolute path", i, p))
		}
	}
	return errs
}

func checkExec(m *Manifest) (errs []error) {
	if m.App == nil {
		return nil
	}
	a := m.App
	for _, id := range []NameValue{{"app.user", a.User}, {"app.group", a.Group}} {
		switch field, v := id.Name, id.Value; {
		case v == "":
			errs = append(errs, fmt.Errorf("%s: it is missing, give a number, a name, or a path in the image", field))
		case strings.HasPrefix(v, "/") && !absolute(v):
			errs = append(errs, fmt.Errorf("%s: %q is no clean absolute path", field, v))
		case !strings.HasPrefix(v, "/") && strings.ContainsAny(v, ":\x00\n"):
			errs = append(errs, fmt.Errorf("%s: %q has a character that no user or group name has", field, v))
		}
	}
	if len(a.Exec) > 0 && a.Exec[0] == "" {
		errs = append(errs, errors.New("app.exec[0]: it is empty"))
	}
	for i, arg := range a.Exec {
		if strings.ContainsRune(arg, 0) {
			errs = append(errs, fmt.Errorf("app.exec[%d]: it has a NUL byte", i))
		}
	}
	if a.WorkingDirectory != "" && !absolute(a.WorkingDirectory) {
		errs = append(errs, fmt.Errorf("app.workingDirectory: %q is no clean absolute path", a.WorkingDirectory))
	}
	for i, h := range a.EventHandlers {
		errs = append(errs, fmt.Errorf("app.eventHandlers[%d]: a %q handler cannot be carried over, OCI images have no hooks", i, h.Name))
	}
	return errs
}

func checkEnvironment(m *Manifest) (errs []error) {
	if m.App == nil {
		return nil
	}
	seen := map[string]bool{}
	for i, e := range m.App.Environment {
		field := fmt.Sprintf("app.environment[%d]", i)
		switch {
		case e.Name == "" || strings.ContainsAny(e.Name, "=\x00"):
			errs = append(errs, fmt.Errorf("%s.name: %q cannot name a variable", field, e.Name))
		case strings.ContainsRune(e.Value, 0):
			errs = append(errs, fmt.Errorf("%s.value: it has a NUL byte", field))
		case seen[e.Name]:
			errs = append(errs, fmt.Errorf("%s.name: %q is given twice", field, e.Name))
		}
		seen[e.Name] = true
	}
	return errs
}

// maxPorts bounds what a manifest can expand to by its port counts.
const maxPorts = 65535

func checkPorts(m *Manifest) (errs []error) {
	if m.App == nil {
		return nil
	}
	seen := map[string]bool{}
	total := uint(0)
	for i, p := range m.App.Ports {
		field := fmt.Sprintf("app.ports[%d]", i)
		switch {
		case !acName.MatchString(p.Name):
			errs = append(errs, fmt.Errorf("%s.name: %q is no appc name", field, p.Name))
		case seen[p.Name]:
			errs = append(errs, fmt.Errorf("%s.name: %q is given twice", field, p.Name))
		case p.Protocol != "tcp" && p.Protocol != "udp" && p.Protocol != "sctp":
			errs = append(errs, fmt.Errorf("%s.protocol: %q, want tcp, udp or sctp", field, p.Protocol))
		case p.Port < 1 || p.Port > maxPorts:
			errs = append(errs, fmt.Errorf("%s.port: %d is not between 1 and %d", field, p.Port, maxPorts))
		case p.Count > maxPorts-p.Port+1:
			errs = append(errs, fmt.Errorf("%s.count: %d ports from %d on go past %d", field, p.Count, p.Port, maxPorts))
		}
		seen[p.Name] = true
		total += max(p.Count, 1)
		if total > maxPorts {
			return append(errs, fmt.Errorf("%s.count: more than %d ports in all", field, maxPorts))
		}
	}
	return errs
}

func checkMountPoints(m *Manifest) (errs []error) {
	if m.App == nil {
		return nil
	}
	seen := map[string]bool{}
	for i, p := range m.App.MountPoints {
		field := fmt.Sprintf("app.mountPoints[%d]", i)
		switch {
		case !acName.MatchString(p.Name):
			errs = append(errs, fmt.Errorf("%s.name: %q is no appc name", field, p.Name))
		case seen[p.Name]:
			errs = append(errs, fmt.Errorf("%s.name: %q is given twice", field, p.Name))
		case !absolute(p.Path):
			errs = append(errs, fmt.Errorf("%s.path: %q is no clean absolute path", field, p.Path))
		}
		seen[p.Name] = true
	}
	return errs
}

func checkIsolators(m *Manifest) (errs []error) {
	if m.App == nil {
		return nil
	}
	for i, iso := range m.App.Isolators {
		switch {
		case !acIdentifier.MatchString(iso.Name):
			errs = append(errs, fmt.Errorf("app.isolators[%d].name: %q is no appc identifier", i, iso.Name))
		case !json.Valid(iso.Value):
			errs = append(errs, fmt.Errorf("app.isolators[%d].value: it is missing", i))
		}
	}
	return errs
}

// absolute tells whether p is an absolute path without dots or doubled slashes.
// One trailing slash passes.
func absolute(p string) bool {
	if !strings.HasPrefix(p, "/") || strings.ContainsRune(p, 0) {
		return false
	}
	return p == "/" || path.Clean(p) == strings.TrimSuffix(p, "/")
}
