package nydusimage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	verify "github.com/lazuli-project/lazuli/check"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
	"github.com/lazuli-project/lazuli/tree"
)

// CheckOptions are the flags of "nydus-image check".
type CheckOptions struct {
	Bootstrap string // or a blob that holds its own
	// BlobDir has the blobs by their ids. If all are there, every chunk of them is verified. "" checks the metadata alone, which is
	// all that nydus-image does.
	BlobDir string
	Verbose bool      // lists inodes and chunks
	Out     io.Writer // gets the report
	// OnFlags is called with the names of the superblock's flags, if not nil.
	OnFlags func([]string)
}

// Check checks a bootstrap, and its blobs where they are given.
func Check(ctx context.Context, o CheckOptions) (*Result, error) {
	l, err := load(ctx, o.Bootstrap)
	if err != nil {
		return nil, err
	}
	if o.OnFlags != nil {
		o.OnFlags(l.FlagNames())
	}
	var report strings.Builder
	if o.Verbose {
		l.list(&report)
	}
	if o.BlobDir != "" {
		if err := verifyBlobs(ctx, l, o.BlobDir); err != nil {
			return nil, err
		}
	}
	report.WriteString("RAFS filesystem metadata is valid, referenced data blobs: \n")
	var ids []string
	for i := range l.blobs {
		info := &l.blobs[i].Info
		ids = append(ids, info.ID)
		fmt.Fprintf(&report, "\t %d: %s, compressed size %d, uncompressed size %d, chunk size: %d, chunk count: %d, features: %s\n",
			i, info.ID, info.StoredSize, info.PlainSize, info.ChunkSize, info.ChunkCount, strings.Join(featureWords(info.Features), " "))
	}
	if _, err := io.WriteString(o.Out, report.String()); err != nil {
		return nil, err
	}
	return newResult(o.Bootstrap, ids, l.Compressor()), nil
}

// verifyBlobs verifies the blobs in a directory, if all of them are there.
func verifyBlobs(ctx context.Context, l *loaded, dir string) error {
	finder := blobFinder{dir: dir}
	defer finder.close()
	img, err := finder.open(ctx, l.path)
	if errors.Is(err, errNoBlob) {
		return nil
	}
	if err != nil {
		return err
	}
	im, err := fetch.NewImage(img, fetch.Options{})
	if err != nil {
		return err
	}
	_, err = verify.Verify(ctx, im)
	return errors.Join(err, im.Close())
}

var featureList = []struct {
	bit  nydusblob.Features
	word string
}{
	{nydusblob.FeatureAligned, "aligned"}, {nydusblob.FeatureBatch, "batch"}, {nydusblob.FeatureCapTarTOC, "cap_toc"},
	{nydusblob.FeatureInlinedDigest, "chunk-digest"}, {nydusblob.FeatureChunkInfoV2, "chunk-v2"}, {nydusblob.FeatureInlinedMeta, "fs-meta"},
	{nydusblob.FeatureSeparate, "separate"}, {nydusblob.FeatureTarHeader, "tar-header"}, {nydusblob.FeatureTOC, "toc"},
	{nydusblob.FeatureZran, "zran"}, {nydusblob.FeatureEncrypted, "encrypted"}, {nydusblob.FeatureChunkDict, "is-chunkdict-generated"},
}

func featureWords(f nydusblob.Features) []string {
	var words []string
	for _, w := range featureList {
		if f&w.bit != 0 {
			words = append(words, w.word)
		}
	}
	return words
}

// list prints every inode with its chunks, as nydus-image does: fields that only v5 has are made up of v6's as it does it.
func (l *loaded) list(w *strings.Builder) {
	_ = l.Tree.Walk(func(path string, n *tree.Node) error {
		kind := map[uint32]string{tree.TypeDir: "dir", tree.TypeRegular: "file", tree.TypeSymlink: "symlink"}[n.Type()]
		if n.IsRegular() && n.Nlink > 1 {
			kind = "hardlink"
		}
		size, children, name := n.Size, 0, path[strings.LastIndexByte(path, '/')+1:]
		link := "None"
		switch n.Type() {
		case tree.TypeDir:
			size, children = rafs6.DirSize(n), len(n.Entries)
		case tree.TypeSymlink:
			size, children = int64(len(n.Target)), 1
			link = fmt.Sprintf("Some(%q)", n.Target)
		case tree.TypeRegular:
			children = int((n.Size + int64(l.ChunkSize) - 1) / int64(l.ChunkSize))
		}
		if path == "" {
			name = "/"
		}
		nid := l.Nids[n]
		fmt.Fprintf(w, "inode: %s %q: index 0 ino %d real_ino %d child_index 0 child_count %d i_nlink %d i_size %d i_blocks %d i_name_size %d i_symlink_size %d has_xattr %v link %s i_mtime %d i_mtime_nsec %d\n",
			kind, "/"+path, nid, nid, children, n.Nlink, size, (size+511)/512, len(name), uint16(size), len(n.Xattrs) > 0, link, n.Mtime, n.MtimeNsec)
		for i, c := range l.chunks(n) {
			fmt.Fprintf(w, "\t chunk: id %x, index %d, blob_index %d, file_offset %d, compressed %d/%d, uncompressed %d/%d, crc32 %#x\n",
				c.digest, c.index, c.blob, int64(i)*int64(l.ChunkSize), c.Stored.Off, c.Stored.Len, c.Plain.Off, c.Plain.Len, c.crc)
		}
		return nil
	})
}
