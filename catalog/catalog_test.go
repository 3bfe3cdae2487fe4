package catalog

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/formats"
)

func TestEveryFormatHasAWriterAndAReader(t *testing.T) {
	t.Parallel()
	var readers []string
	for _, r := range Readers() {
		readers = append(readers, r.Name())
	}
	if readers[len(readers)-1] != "oci" {
		t.Errorf("readers %q: plain images must come last, for every image is one", readers)
	}
	for _, name := range Formats() {
		w, err := NewWriter(name, Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if w.Name() != name {
			t.Errorf("%s: the writer is %s's", name, w.Name())
		}
		// nydus reads both of its formats.
		if !slices.Contains(readers, name) && !slices.Contains(readers, strings.TrimSuffix(name, "-ref")) {
			t.Errorf("%s: no reader in %q", name, readers)
		}
	}
}

// values are a possible value of each key that is not the default.
var values = map[string]string{
	KeyCompression: "lz4", KeyLevel: "9", KeyChunkSize: "256KiB", KeyBatchSize: "0x10000", KeyDigest: "sha256", KeyFSVersion: "5",
	KeyPrefetch: "/bin\n/etc", KeyEncrypt: "", KeySpacing: "1048576", KeyFS: "ext4", KeyVSize: "8", KeyBlockSize: "4096", KeyBaseLayer: "true",
	KeyMediaTypes: "docker",
}

// unversioned are keys that do not change what formats store, or not with the value here: nydus' images as a whole are not recorded.
var unversioned = []string{"nydus prefetch", "nydus-ref prefetch", "nydus encrypt", "overlaybd compression", "overlaybd fs"}

func TestSetChangesTheWriter(t *testing.T) {
	t.Parallel()
	for _, name := range Formats() {
		plain, err := NewWriter(name, Options{})
		if err != nil {
			t.Fatal(err)
		}
		keys := KeysOf(name)
		if len(keys) == 0 {
			t.Errorf("%s: no keys", name)
		}
		for _, key := range Keys() {
			var o Options
			if err := o.Set(key, values[key]); err != nil {
				t.Errorf("%s=%s: %v", key, values[key], err)
				continue
			}
			if !slices.Contains(keys, key) {
				_, err := NewWriter(name, o)
				if !errors.Is(err, ErrOption) || !strings.Contains(err.Error(), key) {
					t.Errorf("%s with %s: %v", name, key, err)
				}
				continue
			}
			if key == KeyBaseLayer && name == "turbo-oci" {
				o.FileSystems = []string{"ext4"}
			}
			w, err := NewWriter(name, o)
			if err != nil {
				t.Errorf("%s with %s=%s: %v", name, key, values[key], err)
				continue
			}
			if versionOf(w) == versionOf(plain) && !slices.Contains(unversioned, name+" "+key) {
				t.Errorf("%s with %s=%s has version %q, as without", name, key, values[key], versionOf(w))
			}
		}
	}
}

// versionOf says on what layers and images depend.
func versionOf(w formats.Writer) string {
	v := w.Version()
	if i, ok := w.(formats.ImageVersioner); ok {
		v += " " + i.ImageVersion()
	}
	return v
}

func TestWritersShareOptions(t *testing.T) {
	t.Parallel()
	writers, err := NewWriters([]string{"nydus", "overlaybd"}, Options{BatchSize: 64 << 10, BlockSize: 4096})
	if err != nil || len(writers) != 2 {
		t.Fatalf("%d writers, %v", len(writers), err)
	}
	for _, names := range [][]string{{"nydus", "nydus"}, {"oci"}, {"nydus", ""}} {
		if _, err := NewWriters(names, Options{}); !errors.Is(err, ErrOption) {
			t.Errorf("%q: %v", names, err)
		}
	}
}

func TestSetRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ key, value string }{
		{KeyLevel, "much"}, {KeyLevel, "-1"}, {KeyChunkSize, "1MB"}, {KeyChunkSize, "-4096"}, {KeyChunkSize, "2GiB"}, {KeyEncrypt, "perhaps"},
		{KeyVSize, "4000000000"}, {KeyVSize, "1GiB"},
	} {
		var o Options
		if err := o.Set(c.key, c.value); !errors.Is(err, ErrOption) || !strings.Contains(err.Error(), c.key) {
			t.Errorf("%s=%s: %v", c.key, c.value, err)
		}
	}
	var o Options
	if err := o.Set("colour", "blue"); !errors.Is(err, ErrUnknownKey) || !strings.Contains(err.Error(), KeyBatchSize) {
		t.Errorf("unknown key: %v", err)
	}
	for _, c := range []struct {
		name string
		o    Options
	}{
		{"nydus", Options{ChunkSize: 5000}}, {"nydus", Options{FSVersion: 4}}, {"nydus", Options{Compression: "xz"}},
		{"overlaybd", Options{Compression: "none"}}, {"overlaybd", Options{FileSystems: []string{"erofs"}}},
		{"turbo-oci", Options{FileSystems: []string{"xfs"}}}, {"overlaybd", Options{MediaTypes: "else"}},
	} {
		if _, err := NewWriter(c.name, c.o); !errors.Is(err, ErrOption) {
			t.Errorf("%s %+v: %v", c.name, c.o, err)
		}
	}
}

func TestParseSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"1MiB": 1 << 20, "0x100000": 1 << 20, "1048576": 1 << 20, "0": 0, "4 KiB": 4096, "2GiB": 2 << 30} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "1MB", "9223372036854775807KiB", "1.5MiB"} {
		if n, err := ParseSize(text); err == nil {
			t.Errorf("%q: %d", text, n)
		}
	}
}
