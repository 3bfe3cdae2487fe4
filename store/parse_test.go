package store

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lazuli-project/lazuli/blob"
)

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   string
		want Ref
		out  string // "" means in
	}{
		{"node:19", Ref{Transport: Registry, Host: "docker.io", Repo: "library/node", Tag: "19"}, "docker.io/library/node:19"},
		{"node", Ref{Transport: Registry, Host: "docker.io", Repo: "library/node", Tag: "latest"}, "docker.io/library/node:latest"},
		{"user/app", Ref{Transport: Registry, Host: "docker.io", Repo: "user/app", Tag: "latest"}, "docker.io/user/app:latest"},
		{"docker://node:19", Ref{Transport: Registry, Host: "docker.io", Repo: "library/node", Tag: "19"}, "docker.io/library/node:19"},
		{"host:5000/repo:tag", Ref{Transport: Registry, Host: "host:5000", Repo: "repo", Tag: "tag"}, ""},
		{"localhost/a/b/c:x", Ref{Transport: Registry, Host: "localhost", Repo: "a/b/c", Tag: "x"}, ""},
		{"[::1]:5000/a:x", Ref{Transport: Registry, Host: "[::1]:5000", Repo: "a", Tag: "x"}, ""},
		{"example.org/a@" + someDigest, Ref{Transport: Registry, Host: "example.org", Repo: "a", Digest: someDigest}, ""},
		{"example.org/a:t@" + someDigest, Ref{Transport: Registry, Host: "example.org", Repo: "a", Tag: "t", Digest: someDigest}, ""},
		{"docker:24", Ref{Transport: Registry, Host: "docker.io", Repo: "library/docker", Tag: "24"}, "docker.io/library/docker:24"},
		{"oci:dir", Ref{Transport: Layout, Path: "dir"}, ""},
		{"oci:/a/b@c:tag", Ref{Transport: Layout, Path: "/a/b@c", Tag: "tag"}, ""},
		{"oci:dir@" + someDigest, Ref{Transport: Layout, Path: "dir", Digest: someDigest}, ""},
		{"oci:dir:docker.io/library/node:19", Ref{Transport: Layout, Path: "dir", Tag: "docker.io/library/node:19"}, ""},
		{`oci:C:\dir:tag`, Ref{Transport: Layout, Path: `C:\dir`, Tag: "tag"}, ""},
		{"oci-archive:-", Ref{Transport: Archive, Path: "-"}, ""},
		{"oci-archive:a.tar:v1", Ref{Transport: Archive, Path: "a.tar", Tag: "v1"}, ""},
		{"docker-archive:-", Ref{Transport: DockerArchive, Path: "-"}, ""},
		{"docker-archive:a.tar:node", Ref{Transport: DockerArchive, Path: "a.tar", Tag: "docker.io/library/node:latest"}, "docker-archive:a.tar:docker.io/library/node:latest"},
		{"rafs:b/image.boot", Ref{Transport: Bare, Path: "b/image.boot"}, ""},
		{"rafs:x,blobs,more", Ref{Transport: Bare, Path: "x", Dirs: []string{"blobs", "more"}}, ""},
	} {
		got, err := Parse(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", c.in, d)
		}
		if c.out == "" {
			c.out = c.in
		}
		if s := got.String(); s != c.out {
			t.Errorf("%s: written as %s", c.in, s)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]error{
		"":                                   ErrReference,
		"user/CASE":                          ErrReference,
		"./dir":                              ErrReference,
		"/dir":                               ErrReference,
		"a:b:c":                              ErrReference,
		"host/repo@sha256:abc":               ErrReference,
		"oci:":                               ErrReference,
		"oci:dir:":                           ErrReference,
		"oci:dir:bad tag":                    ErrReference,
		"oci::tag":                           ErrReference,
		"oci-archive:":                       ErrReference,
		"docker-archive:":                    ErrReference,
		"docker-archive:a:B@:":               ErrReference,
		"rafs:":                              ErrReference,
		"rafs:a,,b":                          ErrReference,
		"oci:a\nb":                           ErrReference,
		"containerd:k8s.io/node":             blob.ErrUnsupported,
		"docker-daemon:node:19":              blob.ErrUnsupported,
		"docker://":                          ErrReference,
		"host/" + string(make([]byte, 9000)): ErrReference,
	} {
		if r, err := Parse(in); !errors.Is(err, want) {
			t.Errorf("%.50q: %v, %v, expected %v", in, r, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"node:19", "host:5000/repo:tag", "oci:dir:tag", "oci:dir@" + someDigest, "oci-archive:-", "docker-archive:a:b",
		"rafs:a,b", `oci:C:\x:y`, "containerd:x", "[::1]:80/a",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(r.String())
		if err != nil {
			t.Fatalf("%q is written as %q: %v", s, r, err)
		}
		if d := cmp.Diff(r, again); d != "" {
			t.Fatalf("%q is written as %q: %s", s, r, d)
		}
	})
}
