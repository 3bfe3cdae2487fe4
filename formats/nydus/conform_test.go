package nydus_test

import (
	"testing"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/formatstest"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/internal/imagetest"
)

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name    string
		options nydus.Options
		large   bool
	}{
		{"default", nydus.Options{}, true},
		{"zstd", nydus.Options{Compression: "zstd", ChunkSize: 8 << 10}, false},
		{"lz4 sha256", nydus.Options{Compression: "lz4", Digest: "sha256", ChunkSize: 4 << 10}, false},
		{"v5", nydus.Options{FSVersion: 5}, true},
		{"v5 lz4", nydus.Options{FSVersion: 5, Compression: "lz4", Digest: "sha256", ChunkSize: 8 << 10, PrefetchPaths: []string{"/etc", "/none"}}, false},
		{"encrypted", nydus.Options{EncryptionKey: &nydusblob.Key{Key: [nydusblob.KeySize]byte{1}}, ChunkSize: 8 << 10}, false},
		{"none", nydus.Options{Compression: "none", ChunkSize: 16 << 10, PrefetchPaths: []string{"/etc", "/none"}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			formatstest.Run(t, formatstest.Format{
				Writer: func(tb testing.TB, cpu *formats.CPU) formats.Writer {
					o := c.options
					o.CPU = cpu
					w, err := nydus.NewWriter(o)
					if err != nil {
						tb.Fatal(err)
					}
					return w
				},
				Reader: nydus.Reader{},
				Chunk:  c.options.ChunkSize,
				Large:  c.large,

				OnlyFilesLinked: c.options.FSVersion == 5,
			})
		})
	}
}

// Layers that are referred to, and such that are converted because they cannot be.
func TestRefConformance(t *testing.T) {
	for _, c := range []struct {
		name  string
		pack  func(tb testing.TB, tar []byte) imagetest.Layer
		whole int
	}{
		{"gzip", imagetest.Gzip, 16 << 10}, // every byte of every object
		{"many members", imagetest.GzipMembers, 0},
		{"plain", nil, 0},
		{"zstd", imagetest.Zstd, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			formatstest.Run(t, formatstest.Format{
				Writer: func(tb testing.TB, cpu *formats.CPU) formats.Writer {
					w, err := nydus.NewRefWriter(nydus.RefOptions{ChunkSize: 8 << 10, Spacing: 64 << 10, CPU: cpu})
					if err != nil {
						tb.Fatal(err)
					}
					return w
				},
				Reader: nydus.Reader{},
				Pack:   c.pack,
				Chunk:  8 << 10,
				Whole:  c.whole,
			})
		})
	}
}
