package store

import (
	"errors"
	"strings"
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
		{"containerd:node", Ref{Transport: Containerd, Host: "docker.io", Repo: "library/node", Tag: "latest"}, "containerd:docker.io/library/node:latest"},
		{"containerd:docker.io/library/node:19", Ref{Transport: Containerd, Host: "docker.io", Repo: "library/node", Tag: "19"}, ""},
		{"containerd:user/app:1", Ref{Transport: Containerd, Host: "docker.io", Repo: "user/app", Tag: "1"}, "containerd:docker.io/user/app:1"},
		{"containerd:k8s.io/docker.io/library/node:19", Ref{Transport: Containerd, Namespace: "k8s.io", Host: "docker.io", Repo: "library/node", Tag: "19"}, ""},
		{"containerd:k8s.io/library/node", Ref{Transport: Containerd, Host: "k8s.io", Repo: "library/node", Tag: "latest"}, "containerd:k8s.io/library/node:latest"},
		{"containerd:a/b/c:1", Ref{Transport: Containerd, Host: "docker.io", Repo: "a/b/c", Tag: "1"}, "containerd:docker.io/a/b/c:1"},
		{"containerd:moby/localhost:5000/app", Ref{Transport: Containerd, Namespace: "moby", Host: "localhost:5000", Repo: "app", Tag: "latest"}, "containerd:moby/localhost:5000/app:latest"},
		{"containerd:localhost:5000/app:1", Ref{Transport: Containerd, Host: "localhost:5000", Repo: "app", Tag: "1"}, ""},
		{"containerd:default/localhost/app@" + someDigest, Ref{Transport: Containerd, Namespace: "default", Host: "localhost", Repo: "app", Digest: someDigest}, ""},
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
		"":                             ErrReference,
		"user/CASE":                    ErrReference,
		"./dir":                        ErrReference,
		"/dir":                         ErrReference,
		"a:b:c":                        ErrReference,
		"host/repo@sha256:abc":         ErrReference,
		"oci:":                         ErrReference,
		"oci:dir:":                     ErrReference,
		"oci:dir:bad tag":              ErrReference,
		"oci::tag":                     ErrReference,
		"oci-archive:":                 ErrReference,
		"docker-archive:":              ErrReference,
		"docker-archive:a:B@:":         ErrReference,
		"rafs:":                        ErrReference,
		"rafs:a,,b":                    ErrReference,
		"oci:a\nb":                     ErrReference,
		"containerd:":                  ErrReference,
		"containerd:k8s.io/":           ErrReference,
		"containerd:a_/docker.io/node": ErrReference,
		"containerd:" + strings.Repeat("a", 77) + "/docker.io/CASE": ErrReference,
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
		"rafs:a,b", `oci:C:\x:y`, "containerd:x", "containerd:k8s.io/docker.io/library/node:1", "containerd:a/localhost/b@" + someDigest, "[::1]:80/a",
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
