package store

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/blob"
)

// longestRef bounds references, in bytes.
const longestRef = 8 << 10

// refName is what a layout may call an image: org.opencontainers.image.ref.name of the image specification.
var refName = regexp.MustCompile(`^[A-Za-z0-9]+(?:(?:[-._:@/+]|--)[A-Za-z0-9]+)*$`)

// Parse parses a reference as users write it:
//
//	node:19   host:5000/repo:tag   host/repo@sha256:...   docker://...
//	oci:DIR[:TAG]   oci:DIR@DIGEST
//	oci-archive:FILE[:TAG]          FILE - is standard input or output
//	docker-archive:FILE[:REF]       likewise
//	containerd:[NAMESPACE/]REF
//	rafs:BOOTSTRAP[,DIR...]
//
// Short names are Docker Hub's, and a registry reference without tag and digest has the tag "latest". Paths of layouts
// and archives have no colon in them (but for a drive letter). What stands before the first slash of a containerd reference is a
// namespace if a registry's host follows: something with a dot or a colon in it, or localhost. Errors wrap [ErrReference], or blob.ErrUnsupported for
// transports that other tools have.
func Parse(s string) (Ref, error) {
	if len(s) > longestRef {
		return Ref{}, fmt.Errorf("reference of %d bytes, the limit is %d: %w", len(s), longestRef, ErrReference)
	}
	if strings.ContainsAny(s, "\x00\n\r") {
		return Ref{}, fmt.Errorf("reference %.100q: control characters: %w", s, ErrReference)
	}
	name, rest, _ := strings.Cut(s, ":")
	var r Ref
	var err error
	switch t := Transport(name); t {
	case Registry:
		if !strings.HasPrefix(rest, "//") {
			r, err = parseRegistry(s)
			break
		}
		r, err = parseRegistry(rest[2:])
	case Layout, Archive:
		r, err = parseLayout(t, rest)
	case DockerArchive:
		r, err = parseDockerArchive(rest)
	case Bare:
		r, err = parseBare(rest)
	case Containerd:
		r, err = parseContainerd(rest)
	case "containers-storage", "docker-daemon", "dir":
		return Ref{}, fmt.Errorf("reference %q: transport %s is not in this build: %w", s, name, blob.ErrUnsupported)
	default:
		r, err = parseRegistry(s)
	}
	if err != nil {
		return Ref{}, fmt.Errorf("reference %q: %w: %w", s, ErrReference, err)
	}
	return r, nil
}

func parseRegistry(s string) (Ref, error) {
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		if strings.HasPrefix(s, "/") || strings.HasPrefix(s, ".") {
			return Ref{}, fmt.Errorf("a directory is written oci:%s", s)
		}
		return Ref{}, err
	}
	named = reference.TagNameOnly(named)
	r := Ref{Transport: Registry, Host: reference.Domain(named), Repo: reference.Path(named)}
	if t, ok := named.(reference.Tagged); ok {
		r.Tag = t.Tag()
	}
	if d, ok := named.(reference.Digested); ok {
		r.Digest = d.Digest()
		if err := r.Digest.Validate(); err != nil {
			return Ref{}, err
		}
	}
	return r, nil
}

// namespaceName is what containerd allows as the name of a namespace.
var namespaceName = regexp.MustCompile(`^[A-Za-z0-9]+(?:[-._][A-Za-z0-9]+)*$`)

// longestNamespace bounds the names of namespaces, in bytes.
const longestNamespace = 76

func parseContainerd(s string) (Ref, error) {
	var namespace string
	if first, rest, ok := strings.Cut(s, "/"); ok && hasHost(rest) && namespaceName.MatchString(first) && len(first) <= longestNamespace {
		namespace, s = first, rest
	}
	r, err := parseRegistry(s)
	r.Transport, r.Namespace = Containerd, namespace
	return r, err
}

// hasHost reports whether a reference begins with a registry's host, as Docker tells that from a part of a short name.
func hasHost(s string) bool {
	host, _, ok := strings.Cut(s, "/")
	return ok && (strings.ContainsAny(host, ".:") || host == "localhost")
}

// cutPath splits PATH[:NAME]. A drive letter belongs to the path.
func cutPath(s string) (path, name string) {
	drive := 0
	if len(s) > 2 && s[1] == ':' && (s[2] == '\\' || s[2] == '/') && (s[0]|0x20) >= 'a' && (s[0]|0x20) <= 'z' {
		drive = 2
	}
	path, name, _ = strings.Cut(s[drive:], ":")
	return s[:drive] + path, name
}

func parseLayout(t Transport, s string) (Ref, error) {
	r := Ref{Transport: t}
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		if d, err := digest.Parse(s[i+1:]); err == nil {
			r.Digest, s = d, s[:i]
		}
	}
	r.Path, r.Tag = cutPath(s)
	if r.Path == "" {
		return Ref{}, errors.New("no path")
	}
	if r.Tag == "" && strings.HasSuffix(s, ":") {
		return Ref{}, errors.New("nothing after the colon")
	}
	if r.Tag != "" && !refName.MatchString(r.Tag) {
		return Ref{}, fmt.Errorf("%q is no name for an image", r.Tag)
	}
	return r, nil
}

func parseDockerArchive(s string) (Ref, error) {
	r := Ref{Transport: DockerArchive}
	r.Path, r.Tag = cutPath(s)
	if r.Path == "" {
		return Ref{}, errors.New("no path")
	}
	if r.Tag == "" {
		return r, nil
	}
	named, err := reference.ParseNormalizedNamed(r.Tag)
	if err != nil {
		return Ref{}, err
	}
	if _, ok := named.(reference.Digested); ok {
		return Ref{}, errors.New("docker archives name images by tags")
	}
	r.Tag = reference.TagNameOnly(named).String()
	return r, nil
}

func parseBare(s string) (Ref, error) {
	parts := strings.Split(s, ",")
	r := Ref{Transport: Bare, Path: parts[0]}
	if len(parts) > 1 {
		r.Dirs = parts[1:]
	}
	for _, p := range parts {
		if p == "" {
			return Ref{}, errors.New("an empty path")
		}
	}
	return r, nil
}

// String returns the reference in the form that [Parse] reads.
func (r Ref) String() string {
	var b strings.Builder
	if r.Transport != Registry {
		b.WriteString(string(r.Transport) + ":" + r.Path)
	}
	if r.Namespace != "" {
		b.WriteString(r.Namespace + "/")
	}
	if r.Host != "" {
		b.WriteString(r.Host + "/" + r.Repo)
	}
	for _, d := range r.Dirs {
		b.WriteString("," + d)
	}
	if r.Tag != "" {
		b.WriteString(":" + r.Tag)
	}
	if r.Digest != "" {
		b.WriteString("@" + r.Digest.String())
	}
	return b.String()
}
