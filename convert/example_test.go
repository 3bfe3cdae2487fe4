package convert_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/check"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/store"
)

// exampleImage stands for any reference: "node:19", "host:5000/app@sha256:...", "oci-archive:FILE".
const exampleImage = "oci:../internal/imagetest/testdata/edge/oci:edge"

// mustParse parses a reference.
func mustParse(s string) store.Ref {
	ref, err := store.Parse(s)
	if err != nil {
		log.Fatal(err)
	}
	return ref
}

// temporary returns a directory for an example's output.
func temporary() (dir string, remove func()) {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	return dir, func() { _ = os.RemoveAll(dir) }
}

// exampleSides opens the image and a layout to write to, as Example does.
func exampleSides(ctx context.Context, from string) (store.Source, store.Target, func()) {
	dir, remove := temporary()
	src, err := store.OpenSource(ctx, mustParse(from), store.Options{})
	if err != nil {
		log.Fatal(err)
	}
	target, err := store.OpenTarget(ctx, mustParse("oci:"+dir+"/made:v1"), store.Options{})
	if err != nil {
		log.Fatal(err)
	}
	return src, target, func() {
		_ = src.Close()
		_ = target.Close()
		remove()
	}
}

// An image of one format: what "lazuli convert node:19 host/node:19-nydus" does.
func Example() {
	ctx := context.Background()
	dir, remove := temporary()
	defer remove()
	src, err := store.OpenSource(ctx, mustParse(exampleImage), store.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer src.Close()
	target, err := store.OpenTarget(ctx, mustParse("oci:"+dir+"/made:v1"), store.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer target.Close()
	writer, err := nydus.NewWriter(nydus.Options{Compression: "zstd"})
	if err != nil {
		log.Fatal(err)
	}
	res, err := convert.Convert(ctx, src, []convert.Output{{Writer: writer, Target: target}}, convert.Options{})
	if err != nil {
		log.Fatal(err)
	}
	for _, im := range res.Images {
		fmt.Println(im.Platform, im.Format, "with", len(im.Layers), "layers")
	}
	// Output:
	// linux/amd64 nydus with 3 layers
}

// Two formats from one download and one inflation, each with a tag of its own, with progress.
func ExampleConvert_formats() {
	ctx := context.Background()
	dir, remove := temporary()
	defer remove()
	src, err := store.OpenSource(ctx, mustParse(exampleImage), store.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer src.Close()
	writers, err := catalog.NewWriters([]string{"nydus", "overlaybd"}, catalog.Options{})
	if err != nil {
		log.Fatal(err)
	}
	var outputs []convert.Output
	for _, w := range writers {
		target, err := store.OpenTarget(ctx, mustParse("oci:"+filepath.Join(dir, w.Name())+":v1"), store.Options{})
		if err != nil {
			log.Fatal(err)
		}
		defer target.Close()
		outputs = append(outputs, convert.Output{Writer: w, Target: target})
	}
	done := make(chan int, 8) // progress comes from several layers at once
	_, err = convert.Convert(ctx, src, outputs, convert.Options{OnProgress: func(p convert.Progress) {
		if p.State == convert.Converted {
			done <- p.Layer
		}
	}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(outputs), "formats of", len(done), "layers")
	// Output:
	// 2 formats of 3 layers
}

// The result is compared with its source, byte for byte, before anything can be seen of it.
func ExampleConvert_check() {
	ctx := context.Background()
	src, target, done := exampleSides(ctx, exampleImage)
	defer done()
	writer, err := nydus.NewWriter(nydus.Options{})
	if err != nil {
		log.Fatal(err)
	}
	readers := image.Options{Readers: catalog.Readers()}
	compare := func(ctx context.Context, out convert.Output, made, source ocispec.Descriptor) error {
		want, err := image.OpenManifest(ctx, src, nil, source, readers)
		if err != nil {
			return err
		}
		defer want.Close()
		got, err := image.OpenManifest(ctx, out.Target, nil, made, readers)
		if err != nil {
			return err
		}
		defer got.Close()
		fmt.Println("comparing", got.Format, "with", want.Format)
		return check.Compare(ctx, want.Image, got.Image, func(d check.Difference) error { return fmt.Errorf("difference: %v", d) })
	}
	_, err = convert.Convert(ctx, src, []convert.Output{{Writer: writer, Target: target}}, convert.Options{BeforeTag: compare})
	fmt.Println(err)
	// Output:
	// comparing nydus with oci
	// <nil>
}

// Back again: a plain image of a lazy one.
func ExampleReverse() {
	ctx := context.Background()
	src, target, done := exampleSides(ctx, "oci:../formats/overlaybd/testdata/native")
	defer done()
	res, err := convert.Reverse(ctx, src, target, convert.Options{Readers: catalog.LazyReaders()})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(res.Images[0].Format, res.Images[0].Platform)
	// Output:
	// oci linux/amd64
}

// What would be done, and whether it may be.
func ExampleDryRun() {
	ctx := context.Background()
	src, target, done := exampleSides(ctx, exampleImage)
	defer done()
	writer, err := catalog.NewWriter("turbo-oci", catalog.Options{})
	if err != nil {
		log.Fatal(err)
	}
	plan, err := convert.DryRun(ctx, src, convert.Output{Writer: writer, Target: target}, convert.Options{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(plan.Images[0].Layers), "layers to convert")
	// Output:
	// 3 layers to convert
}

// One layer from stream to stream, without stores: a tar in, the blob of a Nydus image out.
func ExampleLayer() {
	writer, err := nydus.NewWriter(nydus.Options{})
	if err != nil {
		log.Fatal(err)
	}
	var blob bytes.Buffer
	layer, err := convert.Layer(context.Background(), &blob, exampleTar(), writer, convert.LayerOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(layer.Desc.MediaType)
	fmt.Println(layer.Stats.Entries, "entries,", layer.Stats.Plain, "bytes in", layer.Stats.Chunks, "chunk")
	fmt.Println("blob:", layer.Desc.Size == int64(blob.Len()), "table of contents:", layer.TOCDigest != "")
	// Output:
	// application/vnd.oci.image.layer.nydus.blob.v1
	// 1 entries, 5 bytes in 1 chunk
	// blob: true table of contents: true
}

// Layers that were converted one by one become an image: its other objects go to any place that takes objects.
func ExampleLayer_image() {
	ctx := context.Background()
	src, target, done := exampleSides(ctx, exampleImage)
	defer done()
	desc, err := src.Resolve(ctx)
	if err != nil {
		log.Fatal(err)
	}
	manifest, err := store.LoadManifest(ctx, src, desc)
	if err != nil {
		log.Fatal(err)
	}
	writer, err := nydus.NewWriter(nydus.Options{})
	if err != nil {
		log.Fatal(err)
	}
	var layers []formats.Layer
	for _, l := range manifest.Manifest.Layers {
		in, err := src.Fetch(ctx, l)
		if err != nil {
			log.Fatal(err)
		}
		var blob bytes.Buffer
		made, err := convert.Layer(ctx, &blob, in, writer, convert.LayerOptions{Source: l})
		if err == nil {
			err = target.Push(ctx, made.Desc, &blob)
		}
		if err != nil {
			log.Fatal(err)
		}
		layers = append(layers, made.Layer)
	}
	// The bootstrap layer and the configuration are stored, the manifest is not yet.
	res, err := writer.Finish(ctx, layers, manifest, target)
	if err != nil {
		log.Fatal(err)
	}
	err = target.Push(ctx, res.Desc, bytes.NewReader(res.Manifest))
	if err == nil {
		err = target.Tag(ctx, res.Desc, "")
	}
	if err == nil {
		err = target.Commit(ctx)
	}
	fmt.Println(res.Desc.MediaType, err)
	// Output:
	// application/vnd.oci.image.manifest.v1+json <nil>
}

// exampleTar is a layer of one file.
func exampleTar() io.Reader {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: "hello", Mode: 0o644, Size: 5})
	if err == nil {
		_, err = io.WriteString(w, "world")
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		log.Fatal(err)
	}
	return &b
}
