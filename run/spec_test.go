package run

import (
	"errors"
	"slices"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\n# web:x:1:1::/:\nweb:x:1000:100:Web:/srv/web:/bin/false\nbad:x:y:0::/:\nshort:x:5\nnohome:x:7:7:::\n"
	group  = "root:x:0:\nusers:x:100:web\nlog:x:4:syslog,web\nmany:x:9:root,webs\nbad:x:z:web\n"
)

func TestFindUser(t *testing.T) {
	t.Parallel()
	for spec, want := range map[string]user{
		"":         {0, 0, []uint32{9}, "/root"},
		"0":        {0, 0, []uint32{9}, "/root"},
		"root":     {0, 0, []uint32{9}, "/root"},
		"web":      {1000, 100, []uint32{4, 100}, "/srv/web"},
		"1000":     {1000, 100, []uint32{4, 100}, "/srv/web"},
		"web:log":  {1000, 4, nil, "/srv/web"},
		"web:77":   {1000, 77, nil, "/srv/web"},
		"4242":     {4242, 0, nil, "/"},
		"4242:log": {4242, 4, nil, "/"},
		"nohome":   {7, 7, nil, "/"},
	} {
		u, err := findUser(spec, passwd, group)
		if err != nil || u.uid != want.uid || u.gid != want.gid || u.home != want.home || !slices.Equal(u.groups, want.groups) {
			t.Errorf("%q: %+v, %v, want %+v", spec, u, err, want)
		}
	}
	for _, spec := range []string{"nobody", "short", "bad", "web:none", "4294967296", "-1"} {
		if u, err := findUser(spec, passwd, group); !errors.Is(err, ErrUser) {
			t.Errorf("%q: %+v, %v", spec, u, err)
		}
	}
	if u, err := findUser("", "", ""); err != nil || u.uid != 0 || u.home != "/" {
		t.Errorf("no accounts: %+v, %v", u, err)
	}
}

func TestSpec(t *testing.T) {
	t.Parallel()
	b := bundle{
		root: "/r", hostname: "h", passwd: passwd, group: group, env: []string{"B=2"}, binds: []string{"/etc/hosts"},
		config: ocispec.ImageConfig{User: "web", Env: []string{"A=1", "PATH=/x"}, Entrypoint: []string{"/e"}, Cmd: []string{"c"}},
	}
	s, err := b.spec()
	if err != nil {
		t.Fatal(err)
	}
	p := s.Process
	if !slices.Equal(p.Args, []string{"/e", "c"}) || p.Cwd != "/" || p.User.UID != 1000 {
		t.Errorf("%+v", p)
	}
	if !slices.Equal(p.Env, []string{"A=1", "PATH=/x", "B=2", "HOME=/srv/web", "HOSTNAME=h"}) {
		t.Errorf("%q", p.Env)
	}
	if len(p.Capabilities.Effective) > 0 || len(p.Capabilities.Bounding) == 0 {
		t.Errorf("capabilities of an ordinary user: %+v", p.Capabilities)
	}
	b.command = []string{"x", "y"}
	if s, err = b.spec(); err != nil || !slices.Equal(s.Process.Args, []string{"/e", "x", "y"}) {
		t.Errorf("%v, %v", s, err)
	}
	b.config.WorkingDir = "relative"
	if _, err := b.spec(); err == nil {
		t.Error("a relative working directory is taken")
	}
	b = bundle{}
	if _, err := b.spec(); !errors.Is(err, ErrNoCommand) {
		t.Error(err)
	}
}
