package registryproxy

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/convert"
)

func TestParseRule(t *testing.T) {
	t.Parallel()
	r, err := ParseRule(`repository=apps/**,tag=v*,"format=nydus,overlaybd",attach=tag,suffix=.{format},compression=lz4,"platform=linux/amd64,linux/arm64"`)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Formats) != 2 || len(r.Platforms) != 2 || r.Options.Compression != "lz4" || r.Attach != convert.AttachTag {
		t.Errorf("%+v", r)
	}
	for _, c := range []struct {
		repository, tag string
		want            bool
	}{
		{"apps/a", "v1", true}, {"apps/a/b", "v1", true}, {"apps", "v1", false}, {"my/apps/a", "v1", false}, {"apps/a", "1", false},
		{"apps/a", "v1.nydus", false}, {"apps/a", "v1.overlaybd", false},
	} {
		if got := r.matches(c.repository, c.tag); got != c.want {
			t.Errorf("%s:%s matches: %t", c.repository, c.tag, got)
		}
	}
	for line, want := range map[string]string{
		"attach=tags":               "tag, index and referrer are possible",
		"attach=referrer,suffix=-x": "no suffix",
		`"format=nydus,overlaybd",suffix=-x,attach=tag`: "{format}",
		"format=ext4":                       "nydus",
		"colour=blue":                       "repository",
		"format":                            "KEY=VALUE",
		"format=overlaybd,batch-size=64KiB": "batch-size is not for overlaybd",
		"attach=tag,suffix=/x":              "letters",
		"format=nydus\nattach=tag":          "more than one line",
		`"format`:                           "",
		"":                                  "",
	} {
		if _, err := ParseRule(line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", line, err, want)
		}
	}
}

func FuzzParseRule(f *testing.F) {
	f.Add("repository=a/**,tag=v*,format=nydus", "a/b", "v1")
	f.Add(`"format=nydus,overlaybd",attach=index,suffix=-{format}`, "x", "y-nydus")
	f.Fuzz(func(t *testing.T, line, repository, tag string) {
		r, err := ParseRule(line)
		if err != nil {
			return
		}
		r.matches(repository, tag)
		for _, name := range r.Formats {
			if s := r.suffix(name); s != "" && !tagSuffix.MatchString(s) {
				t.Errorf("suffix %q", s)
			}
		}
	})
}

// FuzzPush gives the proxy manifests, names and types as clients might.
func FuzzPush(f *testing.F) {
	f.Add("/v2/app/manifests/1", ocispec.MediaTypeImageManifest, []byte(`{"schemaVersion":2}`))
	f.Add("/v2/a/b/manifests/sha256-"+strings.Repeat("0", 64), ocispec.MediaTypeImageIndex, []byte(`{"artifactType":"x"}`))
	f.Add("/v2/app/manifests/1", "application/json; charset=x", []byte(`{"subject":{"digest":"sha256:1"}}`))
	f.Fuzz(func(t *testing.T, path, mediaType string, raw []byte) {
		r := httptest.NewRequest(http.MethodPut, "/v2/", nil)
		r.URL.Path = path
		r.Header.Set("Content-Type", mediaType)
		got := parsePush(r, raw)
		if got == nil {
			return
		}
		if err := got.digest.Validate(); err != nil || got.digest.Algorithm().FromBytes(raw) != got.digest {
			t.Errorf("digest %s: %v", got.digest, err)
		}
		if strings.Contains(got.repository, "..") || strings.ContainsAny(got.tag, "/:@ ") {
			t.Errorf("%q:%q", got.repository, got.tag)
		}
	})
}
