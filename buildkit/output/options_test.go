package output

import (
	"slices"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/convert"
)

// attrs makes keys of KEY=VALUE pairs, with a name.
func attrs(pairs ...string) map[string]string {
	m := map[string]string{KeyName: "registry.example/app"}
	for _, p := range pairs {
		k, v, _ := strings.Cut(p, "=")
		m[k] = v
	}
	return m
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pairs string
		check func(o *Options) bool
	}{
		{"", func(o *Options) bool {
			return o.Push && !o.Insecure && o.Merge == MergeNothing && o.Attach == convert.AttachTag && !o.NeedsPlain() && len(o.Warnings) == 0
		}},
		{"registry.insecure=", func(o *Options) bool { return o.Insecure }},
		{"registry.insecure=0", func(o *Options) bool { return !o.Insecure }},
		{"oci-mediatypes=", func(o *Options) bool { return len(o.Warnings) == 0 }},
		{"oci-mediatypes=false", func(o *Options) bool { return len(o.Warnings) == 1 }},
		{"merge-manifest=", func(o *Options) bool { return o.Merge == MergeTag && !o.NeedsPlain() }},
		{"merge-manifest=true", func(o *Options) bool { return o.Merge == MergeTag }},
		{"merge-manifest=false", func(o *Options) bool { return o.Merge == MergeNothing }},
		{"merge-manifest=build", func(o *Options) bool { return o.Merge == MergeBuild && o.NeedsPlain() }},
		{"attach=index", func(o *Options) bool { return o.Merge == MergeBuild && o.NeedsPlain() }},
		{"attach=referrer", func(o *Options) bool { return o.Attach == convert.AttachReferrer && o.NeedsPlain() }},
		{"push=false", func(o *Options) bool { return !o.Push }},
		{"push=false name=", func(o *Options) bool { return len(o.Names) == 0 }},
		{"name=a,b:2,c.example:5000/d", func(o *Options) bool { return slices.Equal(o.Names, []string{"a", "b:2", "c.example:5000/d"}) }},
		{"name=*", func(o *Options) bool { return slices.Equal(o.Names, []string{"*"}) }},
		{"push-by-digest=", func(o *Options) bool { return o.PushByDigest }},
		{"chunk-dict=registry.example/dict", func(o *Options) bool { return o.Dictionary == "registry.example/dict" }},
		{"compression=lz4 chunk-size=256KiB fs-version=5", func(o *Options) bool {
			return o.Format.Compression == "lz4" && o.Format.ChunkSize == 256<<10 && o.Format.FSVersion == 5
		}},
		{"prefetch=/a,/b\n/c", func(o *Options) bool { return slices.Equal(o.Format.Prefetch, []string{"/a", "/b", "/c"}) }},
		{"annotation.k=v annotation-index.k=v annotation-manifest[linux/amd64].k=v containerimage.config={} source-date-epoch=0", func(o *Options) bool {
			a := o.PlainAttrs(false)
			return a["annotation.k"] == "v" && a["annotation-manifest[linux/amd64].k"] == "v" && a["containerimage.config"] == "{}" && a["source-date-epoch"] == "0"
		}},
	} {
		o, err := Parse("nydus", attrs(strings.FieldsFunc(c.pairs, func(r rune) bool { return r == ' ' })...))
		if err != nil || !c.check(o) {
			t.Errorf("%s: %+v, %v", c.pairs, o, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ format, pairs, want string }{
		{"nydus", "registry.insecure=maybe", "non-bool value specified for registry.insecure"},
		{"nydus", "oci-mediatypes=maybe", "non-bool value specified for oci-mediatypes"},
		{"nydus", "merge-manifest=maybe", "non-bool value specified for merge-manifest"},
		{"nydus", "push=2", "non-bool value specified for push"},
		{"nydus", "force-compression=2", "non-bool value specified for force-compression"},
		{"nydus", "attach=else", "tag, index and referrer are possible"},
		{"nydus", "attach=index merge-manifest=true", "merge-manifest"},
		{"nydus", "colour=blue", `unknown key "colour" for the exporter nydus: attach, `},
		{"nydus", "fs=ext4", `unknown key "fs"`},
		{"nydus", "chunk-size=1MB", "chunk-size"},
		{"nydus", "name=", "name is needed"},
		{"nydus", "name=UPPER", `name="UPPER"`},
		{"nydus", "name=a@sha256:" + strings.Repeat("0", 64), "no digest"},
		{"nydus", "push-by-digest=true attach=index", "about a tag"},
		{"nydus", "push-by-digest=true name=a:1", "a:1 has a tag"},
		{"overlaybd", "chunk-dict=a", "chunk-dict is not for it"},
		{"overlaybd", "batch-size=1MiB", `unknown key "batch-size"`},
	} {
		_, err := Parse(c.format, attrs(strings.Fields(c.pairs)...))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "exporter "+c.format) {
			t.Errorf("%s: %v", c.pairs, err)
		}
	}
}

func TestPlainAttrs(t *testing.T) {
	t.Parallel()
	o, err := Parse("nydus", attrs("compression=lz4", "oci-compression=zstd", "force-compression=", "push=true", "annotation.k=v"))
	if err != nil {
		t.Fatal(err)
	}
	for asIs, want := range map[bool][2]string{false: {"uncompressed", ""}, true: {"zstd", "true"}} {
		a := o.PlainAttrs(asIs)
		if a["compression"] != want[0] || a["force-compression"] != want[1] {
			t.Errorf("as it is %t: %v", asIs, a)
		}
		if a["push"] != "false" || a["store"] != "false" || a["oci-mediatypes"] != "true" || a["name"] != "registry.example/app" {
			t.Errorf("as it is %t: %v", asIs, a)
		}
	}
}

func TestEveryKeyOfAFormatIsTaken(t *testing.T) {
	t.Parallel()
	for _, format := range catalog.Formats() {
		for _, key := range catalog.KeysOf(format) {
			if !strings.Contains(possibleKeys(format), key) {
				t.Errorf("%s: %s is not named", format, key)
			}
			if _, err := Parse(format, attrs(key+"=")); err != nil {
				t.Errorf("%s: %v", format, err)
			}
		}
	}
}
