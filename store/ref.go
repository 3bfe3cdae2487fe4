package store

import (
	"cmp"
	"fmt"
	"path/filepath"

	"github.com/opencontainers/go-digest"
)

// Transport says what kind of place a reference names.
type Transport string

// Transports, by their prefix in references. Registry references have none.
const (
	Registry      Transport = "docker"
	Layout        Transport = "oci"
	Archive       Transport = "oci-archive"
	DockerArchive Transport = "docker-archive"
	Bare          Transport = "rafs" // a bare Nydus bootstrap
	Containerd    Transport = "containerd"
)

// Ref is a parsed reference.
type Ref struct {
	Transport Transport
	Namespace string // of containerd; "" for the default one
	Host      string // of a registry, with port, normalised; of a Containerd reference, part of the name
	Repo      string // in the registry
	Path      string // of a directory or file; "-" for standard input or output
	Tag       string // "" where the reference has none
	Digest    digest.Digest
	Dirs      []string // of a Bare reference: where blobs lie by id
}

// WithTagSuffix returns the reference with something behind its tag, which is "latest" where there is none. References by digest, and
// files that hold one image, have no tag.
func (r Ref) WithTagSuffix(suffix string) (Ref, error) {
	if r.Digest != "" || r.Transport != Registry && r.Transport != Layout && r.Transport != Containerd {
		return r, fmt.Errorf("%w: %s has no tag", ErrReference, r)
	}
	r.Tag = cmp.Or(r.Tag, "latest") + suffix
	return r, nil
}

// Place returns the repository, layout or archive alone, without the image in it, as [Parse] reads it from any working directory;
// "" for standard streams, and for a Containerd reference that does not say its namespace.
func (r Ref) Place() string {
	if r.Path == "-" || r.Transport == Containerd && r.Namespace == "" {
		return ""
	}
	if r.Path != "" {
		abs, err := filepath.Abs(r.Path)
		if err != nil {
			return ""
		}
		r.Path = abs
	}
	r.Tag, r.Digest = "", ""
	return r.String()
}
