package output

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
)

// entry is an entry with a digest made of its name: "NAME" or "NAME:OS/ARCH[+MARK]".
func entry(text string) ocispec.Descriptor {
	name, platform, _ := strings.Cut(text, ":")
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(name), Size: int64(len(name))}
	if platform == "" {
		return d
	}
	platform, mark, _ := strings.Cut(platform, "+")
	os, arch, _ := strings.Cut(platform, "/")
	d.Platform = &ocispec.Platform{OS: os, Architecture: arch}
	switch mark {
	case "feature":
		d.Platform.OSFeatures = []string{"nydus.remoteimage.v1"}
	case "artifact":
		d.ArtifactType = "application/vnd.nydus.image.manifest.v1+json"
	case "other":
		d.ArtifactType = "application/vnd.example"
	}
	return d
}

// about is an attestation of another entry.
func about(name, of string) ocispec.Descriptor {
	d := entry(name + ":unknown/unknown")
	d.Annotations = map[string]string{annotationReferenceType: "attestation-manifest", annotationReferenceDigest: entry(of).Digest.String()}
	return d
}

func nydusAddition(t *testing.T, images ...ocispec.Descriptor) *Addition {
	t.Helper()
	w, err := catalog.NewWriter("nydus", catalog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	a := &Addition{format: "nydus", marker: w.(formats.IndexMarker)}
	for _, d := range images {
		a.Images = append(a.Images, a.mark(d))
		a.platform = d.Platform
	}
	return a
}

// names gives the names of entries.
func names(list []ocispec.Descriptor, of ...string) string {
	text := make([]string, len(list))
	for i, d := range list {
		text[i] = "?"
		for _, name := range of {
			if entry(name).Digest == d.Digest {
				text[i] = name
			}
		}
	}
	return strings.Join(text, " ")
}

func TestMerge(t *testing.T) {
	t.Parallel()
	all := []string{"oci", "arm", "new", "old", "old-arm", "other", "att", "att-new", "att-old", "windows", "plain"}
	for _, c := range []struct {
		name  string
		there []ocispec.Descriptor
		plain []ocispec.Descriptor
		want  string
	}{
		{"nothing there", nil, nil, "new att-new"},
		{"an image", []ocispec.Descriptor{entry("oci:linux/amd64")}, nil, "oci new att-new"},
		{"ours again", []ocispec.Descriptor{entry("oci:linux/amd64"), entry("new:linux/amd64+feature"), about("att-new", "new")}, nil, "oci new att-new"},
		{"ours of 2021", []ocispec.Descriptor{entry("oci:linux/amd64"), entry("old:linux/amd64+feature")}, nil, "oci new att-new"},
		{"ours of today", []ocispec.Descriptor{entry("old:linux/amd64+artifact"), entry("oci:linux/amd64"), about("att-old", "old")}, nil, "oci new att-new"},
		{"ours of another platform", []ocispec.Descriptor{entry("old-arm:linux/arm64+feature"), entry("arm:linux/arm64")}, nil, "arm old-arm new att-new"},
		{"another format", []ocispec.Descriptor{entry("other:linux/amd64+other"), entry("oci:linux/amd64")}, nil, "oci other new att-new"},
		{"attestations of the others", []ocispec.Descriptor{entry("oci:linux/amd64"), about("att", "oci")}, nil, "oci att new att-new"},
		{"the plain image of the build", []ocispec.Descriptor{entry("other:linux/amd64+other")}, []ocispec.Descriptor{entry("plain:linux/amd64")}, "plain other new att-new"},
	} {
		a := nydusAddition(t, entry("new:linux/amd64"))
		a.Beside, a.Plain = []ocispec.Descriptor{about("att-new", "new")}, c.plain
		if got := names(a.merge(c.there), all...); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		merged := a.merge(a.merge(c.there))
		if got := names(merged, all...); got != c.want {
			t.Errorf("%s, twice: %s, want %s", c.name, got, c.want)
		}
		for _, d := range merged {
			if d.Digest == entry("new").Digest && (d.ArtifactType == "" || len(d.Platform.OSFeatures) != 1) {
				t.Errorf("%s: ours is not marked: %+v", c.name, d)
			}
		}
	}
}

// memoryPlace is a place in memory, which others may move.
type memoryPlace struct {
	formats.Sources
	names []ocispec.Descriptor // each Current takes one, the last one stays
	put   int
	index ocispec.Descriptor
}

func (p *memoryPlace) Current(context.Context) (ocispec.Descriptor, error) {
	d := p.names[0]
	if len(p.names) > 1 {
		p.names = p.names[1:]
	}
	return d, nil
}

func (p *memoryPlace) PutIndex(_ context.Context, desc ocispec.Descriptor, _ []byte) error {
	p.put++
	p.index = desc
	return nil
}

func TestMergeIntoSeesWhoMovesTheName(t *testing.T) {
	t.Parallel()
	a := nydusAddition(t, entry("new:linux/amd64"))
	// An image with a platform, so that nothing of it has to be read.
	one := entry("oci:linux/amd64")
	p := &memoryPlace{names: []ocispec.Descriptor{{}, one, one, one}}
	if err := a.MergeInto(t.Context(), p, MergeTag); err != nil || p.put != 1 {
		t.Errorf("moved once: %v, written %d times", err, p.put)
	}
	p = &memoryPlace{}
	for i := range 2 * mergeTries {
		p.names = append(p.names, entry("moved-"+strconv.Itoa(i)+":linux/amd64"))
	}
	if err := a.MergeInto(t.Context(), p, MergeTag); !errors.Is(err, convert.ErrMoved) || p.put != 0 {
		t.Errorf("moved always: %v, written %d times", err, p.put)
	}
}

func TestMergeBuildKeepsFormatsOfTheSameBuildOnly(t *testing.T) {
	t.Parallel()
	a := nydusAddition(t, entry("new:linux/amd64"))
	a.Plain = []ocispec.Descriptor{entry("plain:linux/amd64")}
	if a.sameBuild([]ocispec.Descriptor{entry("oci:linux/amd64")}) || a.sameBuild(nil) {
		t.Error("another image is of the same build")
	}
	if !a.sameBuild([]ocispec.Descriptor{entry("plain:linux/amd64"), entry("other:linux/amd64+other")}) {
		t.Error("the same image with another format is not of the same build")
	}
}
