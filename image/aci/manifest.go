package aci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

// Manifest is the image manifest of appc 0.8, as far as one image needs it.
type Manifest struct {
	ACKind        string       `json:"acKind"`
	ACVersion     string       `json:"acVersion"`
	Name          string       `json:"name"`
	Labels        []NameValue  `json:"labels"`
	App           *App         `json:"app"`
	Annotations   []NameValue  `json:"annotations"`
	Dependencies  []Dependency `json:"dependencies"`
	PathWhitelist []string     `json:"pathWhitelist"`
}

// NameValue is one label, annotation or environment variable.
type NameValue struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// App says how to run the image. An image without one only carries files.
type App struct {
	Exec              []string          `json:"exec"`
	User              string            `json:"user"`
	Group             string            `json:"group"`
	SupplementaryGIDs []uint32          `json:"supplementaryGIDs"`
	EventHandlers     []EventHandler    `json:"eventHandlers"`
	WorkingDirectory  string            `json:"workingDirectory"`
	Environment       []NameValue       `json:"environment"`
	MountPoints       []MountPoint      `json:"mountPoints"`
	Ports             []Port            `json:"ports"`
	Isolators         []Isolator        `json:"isolators"`
	UserAnnotations   map[string]string `json:"userAnnotations"`
	UserLabels        map[string]string `json:"userLabels"`
}

// EventHandler is a hook around the app. OCI has none, so Validate refuses it.
type EventHandler struct {
	Name string   `json:"name"`
	Exec []string `json:"exec"`
}

// MountPoint is a path where the app expects a volume.
type MountPoint struct {
	Name     string `json:"name"`
	Path     string `json:"path"`
	ReadOnly bool   `json:"readOnly"`
}

// Port is a run of Count ports (0 means 1) that the app listens on.
type Port struct {
	Name            string `json:"name"`
	Protocol        string `json:"protocol"`
	Port            uint   `json:"port"`
	Count           uint   `json:"count"`
	SocketActivated bool   `json:"socketActivated"`
}

// Isolator is a resource limit or a privilege, kept as it is written.
type Isolator struct {
	Name  string          `json:"name"`
	Value json.RawMessage `json:"value"`
}

// Dependency names another image that this one is layered on.
type Dependency struct {
	ImageName string      `json:"imageName"`
	ImageID   string      `json:"imageID"`
	Labels    []NameValue `json:"labels"`
	Size      uint64      `json:"size"`
}

// ParseManifest reads and validates an image manifest. Fields that appc does not
// have are ignored, as rkt did. Every error is of class InvalidArgument and names
// the JSON field that is at fault.
func ParseManifest(raw []byte) (*Manifest, error) {
	m, err := decodeManifest(raw)
	if err != nil {
		return nil, fmt.Errorf("appc manifest: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("appc manifest: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return m, nil
}

func decodeManifest(raw []byte) (*Manifest, error) {
	if !utf8.Valid(raw) {
		return nil, errors.New("it is not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	var m Manifest
	if err := dec.Decode(&m); err != nil {
		var wrong *json.UnmarshalTypeError
		switch {
		case errors.As(err, &wrong) && wrong.Field != "":
			return nil, fmt.Errorf("%s: want %s, got JSON %s", wrong.Field, wrong.Type, wrong.Value)
		case errors.Is(err, io.EOF):
			return nil, errors.New("it is empty")
		}
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more after the JSON object")
	}
	return &m, nil
}
