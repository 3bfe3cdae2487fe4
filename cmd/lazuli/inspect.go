package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/tree"
)

// inspectResult is what inspect --json prints.
type inspectResult struct {
	Image    string        `json:"image"`
	Format   string        `json:"format"`
	Digest   string        `json:"digest,omitempty"`
	Platform string        `json:"platform,omitempty"`
	Files    fileCounts    `json:"files"`
	Blobs    []blobInfo    `json:"blobs"`
	Stored   int64         `json:"stored_bytes"` // of all layers of the manifest
	Details  any           `json:"details,omitempty"`
	Layers   []layerInfo   `json:"layers,omitempty"`
	Chunks   []chunkDetail `json:"chunks,omitempty"`
}

type fileCounts struct {
	Entries     int   `json:"entries"`
	Directories int   `json:"directories"`
	Regular     int   `json:"regular"`
	Symlinks    int   `json:"symlinks"`
	Others      int   `json:"others"`
	Content     int64 `json:"content_bytes"`
}

type layerInfo struct {
	MediaType   string            `json:"media_type"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type blobInfo struct {
	Digest     string `json:"digest"`
	Stored     int64  `json:"stored_bytes"`
	Plain      int64  `json:"plain_bytes"`
	Spans      int    `json:"spans"`
	Chunks     int    `json:"chunks"`
	Compressed int    `json:"compressed_chunks"`
	// Referenced is how many plain bytes files refer to, each file by itself; more than Plain means deduplication.
	Referenced int64 `json:"referenced_bytes"`
}

type chunkDetail struct {
	Index        int    `json:"index"`
	PlainOffset  int64  `json:"plain_offset"`
	PlainSize    int64  `json:"plain_size"`
	StoredOffset int64  `json:"stored_offset"`
	StoredSize   int64  `json:"stored_size"`
	Compressed   bool   `json:"compressed"`
	Digest       string `json:"digest,omitempty"`
}

func (a *app) inspectCommand() *cobra.Command {
	var i imageFlags
	var layer int
	var chunks bool
	cmd := &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Say what an image is: format, layers, sizes, chunks, deduplication, prefetch list",
		Example: `  lazuli inspect localhost:5000/node:19-nydus
  lazuli inspect --json --layer 3 --chunks oci:/tmp/node`,
		Args: exactArgs(1),
	}
	i.add(cmd.Flags())
	cmd.Flags().IntVar(&layer, "layer", -1, "with --chunks: the `NUMBER` of the blob")
	cmd.Flags().BoolVar(&chunks, "chunks", false, "list the chunks of a blob")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		im, err := a.open(cmd.Context(), args[0], &i)
		if err != nil {
			return err
		}
		defer closeQuietly(im)
		res := inspect(im)
		res.Image = args[0]
		if chunks {
			if layer < 0 || layer >= len(im.Blobs) {
				return usagef("--layer %d: the image has blobs 0 to %d", layer, len(im.Blobs)-1)
			}
			res.Chunks = listChunks(im.Blobs[layer].Layout)
		}
		if a.json {
			return a.printJSON(res)
		}
		return a.printInspect(res)
	}
	return cmd
}

func inspect(im *image.Image) *inspectResult {
	res := &inspectResult{Format: im.Format, Details: im.Details, Blobs: make([]blobInfo, len(im.Blobs))}
	if m := im.Manifest; m != nil {
		res.Digest = m.Desc.Digest.String()
		res.Platform = m.Config.OS + "/" + m.Config.Architecture
		for _, l := range m.Manifest.Layers {
			res.Stored += l.Size
			res.Layers = append(res.Layers, layerInfo{l.MediaType, l.Digest.String(), l.Size, l.Annotations})
		}
	}
	for i, b := range im.Blobs {
		res.Blobs[i] = blobInfo{Digest: b.Desc.Digest.String(), Stored: b.Desc.Size, Plain: im.Plain(i).Size()}
		if b.Layout == nil {
			continue
		}
		res.Blobs[i].Spans = b.Layout.NumSpans()
		if c, ok := b.Layout.(blob.Chunker); ok {
			c.Chunks(func(c blob.Chunk) bool {
				res.Blobs[i].Chunks++
				if c.Compressed {
					res.Blobs[i].Compressed++
				}
				return true
			})
		}
	}
	_ = im.Tree.Walk(func(string, *tree.Node) error { res.Files.Entries++; return nil })
	_ = im.Tree.Nodes(func(n *tree.Node) error {
		switch n.Type() {
		case tree.TypeDir:
			res.Files.Directories++
		case tree.TypeRegular:
			res.Files.Regular++
			res.Files.Content += n.Size
		case tree.TypeSymlink:
			res.Files.Symlinks++
		default:
			res.Files.Others++
		}
		for _, x := range n.Extents {
			if x.Blob != tree.Hole {
				res.Blobs[x.Blob].Referenced += x.Length
			}
		}
		return nil
	})
	return res
}

func listChunks(l blob.Layout) []chunkDetail {
	list := []chunkDetail{}
	if c, ok := l.(blob.Chunker); ok {
		c.Chunks(func(c blob.Chunk) bool {
			list = append(list, chunkDetail{c.Index, c.Plain.Off, c.Plain.Len, c.Stored.Off, c.Stored.Len, c.Compressed, fmt.Sprintf("%x", c.Digest)})
			return true
		})
	}
	return list
}

func (a *app) printInspect(r *inspectResult) error {
	p := func(format string, args ...any) { fmt.Fprintf(a.stdout, format+"\n", args...) }
	p("%s: %s image %s", r.Image, r.Format, r.Platform)
	if r.Digest != "" {
		p("manifest  %s, %d layers, %s", r.Digest, len(r.Layers), formatSize(r.Stored))
	}
	f := r.Files
	p("files     %d entries: %d files (%s), %d directories, %d symbolic links, %d others", f.Entries, f.Regular, formatSize(f.Content), f.Directories, f.Symlinks, f.Others)
	for i, b := range r.Blobs {
		p("blob %-4d %s: %s stored, %s plain, %s referenced, %d chunks, %d of them compressed", i, b.Digest, formatSize(b.Stored), formatSize(b.Plain), formatSize(b.Referenced), b.Chunks, b.Compressed)
	}
	if d, ok := r.Details.(fmt.Stringer); ok {
		p("%s", d)
	}
	for _, c := range r.Chunks {
		p("chunk %-6d plain %d+%d stored %d+%d %s", c.Index, c.PlainOffset, c.PlainSize, c.StoredOffset, c.StoredSize, c.Digest)
	}
	return nil
}
