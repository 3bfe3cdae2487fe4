package nydusimage_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/nydusimage"
)

func memory(p []byte) blob.Source {
	return blob.ReaderAtSource{R: bytes.NewReader(p), N: int64(len(p))}
}

// What goes in and comes out by streams is what goes by files.
func TestStreams(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]nydusimage.CreateOptions{
		"layers":     {Type: nydusimage.TypeTar, InlineMeta: true, TOC: true},
		"batches":    {Type: nydusimage.TypeTar, InlineMeta: true, TOC: true, BatchSize: 0x40000},
		"v5":         {Type: nydusimage.TypeTar, InlineMeta: true, FSVersion: "5"},
		"references": {Type: nydusimage.TypeTargzRef, InlineMeta: true, TOC: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, temp := t.TempDir(), t.TempDir()
			files, streams := nydusimage.MergeOptions{Bootstrap: filepath.Join(dir, "boot")}, nydusimage.MergeOptions{}
			for i, l := range imagetest.Edge(t).Layers {
				file := o
				file.Source, file.Blob = writeFile(t, dir, "layer", l.Stored), filepath.Join(dir, string(rune('a'+i)))
				create(t, file)
				var out bytes.Buffer
				stream := o
				stream.Source, stream.Stdin, stream.Writer, stream.TempDir = "-", bytes.NewReader(l.Stored), &out, temp
				create(t, stream)
				leftovers(t, temp)
				if !bytes.Equal(out.Bytes(), readFile(t, file.Blob)) {
					t.Fatalf("layer %d differs", i)
				}
				files.Sources = append(files.Sources, file.Blob)
				streams.Sources, streams.Layers = append(streams.Sources, filepath.Base(file.Blob)), append(streams.Layers, memory(out.Bytes()))
				if o.Type == nydusimage.TypeTargzRef {
					continue // the data are elsewhere
				}
				var tar bytes.Buffer
				path := filepath.Join(dir, "tar")
				for _, u := range []nydusimage.UnpackOptions{{Bootstrap: file.Blob, Blob: file.Blob, Output: path}, {Layer: memory(out.Bytes()), Writer: &tar}} {
					if _, err := nydusimage.Unpack(t.Context(), u); err != nil {
						t.Fatal(err)
					}
				}
				if !bytes.Equal(tar.Bytes(), readFile(t, path)) {
					t.Errorf("layer %d unpacked differs", i)
				}
			}
			var boot bytes.Buffer
			streams.Writer = &boot
			merge(t, files)
			merge(t, streams)
			if !bytes.Equal(boot.Bytes(), readFile(t, files.Bootstrap)) {
				t.Error("the bootstrap differs")
			}
		})
	}
}

type failing struct{ error }

func (f failing) Write([]byte) (int, error) { return 0, f.error }

func TestStreamFaults(t *testing.T) {
	t.Parallel()
	layer := imagetest.Edge(t).Layers[0]
	full := errors.New("disk full")
	o := nydusimage.CreateOptions{Type: nydusimage.TypeTar, Source: "-", Stdin: bytes.NewReader(layer.Stored), Writer: failing{full}, InlineMeta: true, TOC: true}
	if _, err := nydusimage.Create(t.Context(), o); !errors.Is(err, full) {
		t.Errorf("create: %v", err)
	}
	var out bytes.Buffer
	o.Stdin, o.Writer = bytes.NewReader(layer.Stored), &out
	create(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, want := range []error{full, context.Canceled} {
		w := failing{full}
		if _, err := nydusimage.Merge(ctx, nydusimage.MergeOptions{Sources: []string{"a"}, Layers: []blob.Source{memory(out.Bytes())}, Writer: w}); !errors.Is(err, want) {
			t.Errorf("merge: %v, expected %v", err, want)
		}
		if _, err := nydusimage.Unpack(ctx, nydusimage.UnpackOptions{Layer: memory(out.Bytes()), Writer: w}); !errors.Is(err, want) {
			t.Errorf("unpack: %v, expected %v", err, want)
		}
		cancel()
	}
	if _, err := nydusimage.Merge(t.Context(), nydusimage.MergeOptions{Sources: []string{"a", "b"}, Layers: []blob.Source{memory(out.Bytes())}, Writer: &out}); err == nil {
		t.Error("sources without layers")
	}
	// A layer whose data are elsewhere, and nothing that finds them.
	o.Type, o.Stdin = nydusimage.TypeTargzRef, bytes.NewReader(layer.Stored)
	out.Reset()
	create(t, o)
	if _, err := nydusimage.Unpack(t.Context(), nydusimage.UnpackOptions{Layer: memory(out.Bytes()), Writer: failing{}}); err == nil {
		t.Error("unpacked without data")
	}
	find := func(context.Context, string) (blob.Source, error) { return memory(layer.Stored), nil }
	if _, err := nydusimage.Unpack(t.Context(), nydusimage.UnpackOptions{Layer: memory(out.Bytes()), Writer: &bytes.Buffer{}, Source: find}); err != nil {
		t.Error(err)
	}
}
