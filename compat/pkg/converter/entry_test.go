package converter_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/containerd/nydus-snapshotter/pkg/converter"
	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
)

// sections makes a blob of sections.
func sections(named ...[2]string) []byte {
	var p []byte
	for _, s := range named {
		p = nydusblob.AppendTarHeader(append(p, s[1]...), s[0], int64(len(s[1])))
	}
	return p
}

// tocEntry makes an entry of a table of contents: flags, name, offset, stored and plain size.
func tocEntry(flags uint32, name string, off, stored, size uint64) string {
	p := make([]byte, 128)
	binary.LittleEndian.PutUint32(p, flags)
	copy(p[8:24], name)
	binary.LittleEndian.PutUint64(p[56:], off)
	binary.LittleEndian.PutUint64(p[64:], stored)
	binary.LittleEndian.PutUint64(p[72:], size)
	return string(p)
}

func damagedBlobs() map[string][]byte {
	toc := func(entries string) []byte {
		return sections([2]string{"x", "content"}, [2]string{converter.EntryTOC, entries})
	}
	wrong := []byte(tocEntry(1, "x", 0, 7, 7))
	wrong[24] = 1 // of a digest
	large := nydusblob.AppendTarHeader(make([]byte, 1<<20+128), converter.EntryTOC, 1<<20+128)
	var many []byte
	for range 2000 {
		many = nydusblob.AppendTarHeader(many, "other", 0)
	}
	return map[string][]byte{
		"no header":              []byte("too short"),
		"zeros":                  make([]byte, 1024),
		"header of a part":       sections([2]string{"x", "content"})[3:],
		"longer than the blob":   nydusblob.AppendTarHeader([]byte("content"), "x", 8),
		"far longer":             nydusblob.AppendTarHeader(nil, "x", 1<<40),
		"large table":            large,
		"part of an entry":       toc(tocEntry(1, "x", 0, 7, 7)[:100]),
		"unknown compressor":     toc(tocEntry(8, "x", 0, 7, 7)),
		"no zstd":                toc(tocEntry(2, "x", 0, 7, 7)),
		"no LZ4":                 toc(tocEntry(4, "x", 0, 7, 7)),
		"much out of little LZ4": toc(tocEntry(4, "x", 0, 7, 1<<20)),
		"behind the end":         toc(tocEntry(1, "x", 1<<20, 7, 7)),
		"over the end":           toc(tocEntry(1, "x", 0, 1<<20, 7)),
		"overflow":               toc(tocEntry(1, "x", 1<<63, 1<<63, 7)),
		"huge":                   toc(tocEntry(1, "x", 0, 7, 1<<63)),
		"longer than stored":     toc(tocEntry(1, "x", 0, 7, 8)),
		"shorter than stored":    toc(tocEntry(1, "x", 0, 7, 6)),
		"wrong digest":           toc(string(wrong)),
		"too many":               many,
	}
}

func TestUnpackEntryRefuses(t *testing.T) {
	t.Parallel()
	for name, p := range damagedBlobs() {
		var out bytes.Buffer
		e, err := converter.UnpackEntry(reader(p), "x", &out)
		if err == nil || errors.Is(err, converter.ErrNotFound) || e != nil || out.Len() > 7 {
			t.Errorf("%s: %v, %v, %d bytes", name, e, err, out.Len())
		}
	}
	good := sections([2]string{"x", "content"}, [2]string{converter.EntryTOC, tocEntry(1, "x", 0, 7, 7)})
	for n := 1; n < len(good); n++ {
		if _, err := converter.UnpackEntry(reader(good[:n]), "x", io.Discard); err == nil && n != len("content")+512 {
			t.Errorf("the first %d bytes are a blob", n)
		}
	}
	if _, err := converter.UnpackEntry(reader(good), "x", &failing{0, errFull}); !errors.Is(err, errFull) {
		t.Errorf("%v", err)
	}
	wrong := damagedBlobs()["wrong digest"]
	if _, err := converter.UnpackEntry(reader(wrong), "x", io.Discard); !errors.Is(err, blob.ErrDigest) {
		t.Errorf("%v", err)
	}
}

func TestTOCEntry(t *testing.T) {
	t.Parallel()
	e := converter.TOCEntry{Flags: converter.CompressorLz4Block | 0x100, Name: [16]byte{'a', 'b'}, UncompressedDigest: [32]byte{0xab}, CompressedOffset: 1, CompressedSize: 2, UncompressedSize: 3}
	if c, err := e.GetCompressor(); err != nil || c != converter.CompressorLz4Block {
		t.Errorf("%x, %v", c, err)
	}
	if e.GetName() != "ab" || e.GetUncompressedDigest()[:4] != "ab00" || e.GetCompressedOffset() != 1 || e.GetCompressedSize() != 2 || e.GetUncompressedSize() != 3 {
		t.Errorf("%+v", e)
	}
	e.Flags = 3
	if _, err := e.GetCompressor(); err == nil {
		t.Error("two compressors")
	}
}

// Whatever a blob is, reading it ends, and no more comes out than it announces.
func FuzzUnpackEntry(f *testing.F) {
	for _, p := range damagedBlobs() {
		if len(p) < 5000 {
			f.Add(p, "x")
		}
	}
	layer := makeTar(f, file("a", "content"))
	for _, o := range []converter.PackOption{{}, {Compressor: "lz4_block"}, {FsVersion: "5"}} {
		p := pack(f, layer, o)
		for _, name := range []string{converter.EntryBootstrap, converter.EntryBlobMeta, converter.EntryBlob, converter.EntryTOC} {
			f.Add(p, name)
		}
	}
	f.Fuzz(func(t *testing.T, p []byte, name string) {
		var out bytes.Buffer
		e, err := converter.UnpackEntry(reader(p), name, &out)
		if err != nil && e != nil {
			t.Error("an entry and an error")
		}
		if err == nil && e != nil && name != converter.EntryBlob && uint64(out.Len()) != e.GetUncompressedSize() {
			t.Errorf("%d bytes of %d", out.Len(), e.GetUncompressedSize())
		}
		if err == nil && e == nil && out.Len() > len(p) {
			t.Errorf("%d bytes out of %d", out.Len(), len(p))
		}
	})
}

// Blobs of layers come from registries.
func FuzzUnpack(f *testing.F) {
	layer := makeTar(f, special("d/", '5', ""), file("d/a", "content"))
	for _, o := range []converter.PackOption{{}, {Compressor: "none"}, {FsVersion: "5"}, {BatchSize: "0x1000"}} {
		f.Add(pack(f, layer, o))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		d := layerOf(p)
		if err := converter.Unpack(t.Context(), d.ReaderAt, &failing{1 << 20, errFull}, converter.UnpackOption{}); err != nil {
			return
		}
		_, _ = converter.Merge(t.Context(), []converter.Layer{d, d}, io.Discard, converter.MergeOption{WithTar: true, FsVersion: "6"}) // any end will do
	})
}
