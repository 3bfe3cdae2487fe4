package nydusimage

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
)

// ExportOptions are the flags of "nydus-image export --block".
type ExportOptions struct {
	Bootstrap string
	BlobDir   string // blobs by id
	Output    string // default: in BlobDir, the bootstrap's name with ".disk" behind it
	Verity    bool   // a dm-verity tree behind the data
}

// Verity is what dm-verity needs to know of an exported disk. Blocks of data and tree have 4096 bytes; there is no salt.
type Verity struct {
	DataBlocks int64
	HashOffset int64 // of the tree, in bytes
	Root       [sha256.Size]byte
}

// Options returns the arguments of "veritysetup open" for the disk, as nydus-image prints them.
func (v *Verity) Options() string {
	return fmt.Sprintf(`dm-verity options: --no-superblock --format=1 -s "" --hash=sha256 --data-block-size=%d --hash-block-size=%d --data-blocks %d --hash-offset %d %x`,
		rafs6.BlockSize, rafs6.BlockSize, v.DataBlocks, v.HashOffset, v.Root)
}

// Export writes a file system as a disk that Linux mounts as EROFS: the bootstrap, and behind it the plain spaces of the blobs where the
// bootstrap's device table has them. The result is nil unless Verity is set.
func Export(ctx context.Context, o ExportOptions) (_ *Verity, err error) {
	l, err := load(ctx, o.Bootstrap)
	if err != nil {
		return nil, err
	}
	finder := &blobFinder{dir: o.BlobDir}
	defer finder.close()
	img, err := finder.open(ctx, o.Bootstrap)
	if err != nil {
		return nil, err
	}
	im, err := fetch.NewImage(img, fetch.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, im.Close()) }()
	output := o.Output
	if output == "" {
		output = filepath.Join(o.BlobDir, filepath.Base(o.Bootstrap)+".disk")
	}
	d := &disk{ctx: ctx, l: l, im: im, verity: o.Verity}
	if _, err := writeFile(ctx, target{path: output}, d); err != nil {
		return nil, fmt.Errorf("export %s: %w", o.Bootstrap, err)
	}
	if !o.Verity {
		return nil, nil
	}
	return &d.result, nil
}

// disk writes a disk from its beginning to its end.
type disk struct {
	ctx    context.Context //nolint:containedctx // of Export: WriteTo takes none
	l      *loaded
	im     *fetch.Image
	verity bool
	w      *bufio.Writer
	at     int64
	leaves []byte // digests of the blocks
	block  []byte // not full yet
	result Verity
}

// WriteTo implements [io.WriterTo].
func (d *disk) WriteTo(w io.Writer) (int64, error) {
	d.w = bufio.NewWriterSize(w, 1<<20)
	if _, err := d.Write(d.l.raw); err != nil {
		return d.at, err
	}
	buf := make([]byte, 1<<20)
	for i := range d.l.blobs {
		at := int64(d.l.Mapped[i]) * rafs6.BlockSize
		if at < d.at {
			return d.at, fmt.Errorf("blob %d is mapped at %d, within what lies before it: %w", i, at, blob.ErrUnsupported)
		}
		if err := d.zeros(at-d.at, buf); err != nil {
			return d.at, err
		}
		plain := d.im.Plain(i)
		for off := int64(0); off < plain.Size(); off += int64(len(buf)) {
			p := buf[:min(int64(len(buf)), plain.Size()-off)]
			if err := plain.ReadAt(d.ctx, p, off, blob.Background); err != nil {
				return d.at, fmt.Errorf("blob %d: %w", i, err)
			}
			if _, err := d.Write(p); err != nil {
				return d.at, err
			}
		}
	}
	if d.verity {
		if err := d.tree(); err != nil {
			return d.at, err
		}
	}
	return d.at, d.w.Flush()
}

// Write writes bytes of the disk.
func (d *disk) Write(p []byte) (int, error) {
	d.at += int64(len(p))
	if d.verity {
		for rest := p; len(rest) > 0; {
			n := min(rafs6.BlockSize-len(d.block), len(rest))
			d.block = append(d.block, rest[:n]...)
			rest = rest[n:]
			if len(d.block) == rafs6.BlockSize {
				sum := sha256.Sum256(d.block)
				d.leaves, d.block = append(d.leaves, sum[:]...), d.block[:0]
			}
		}
	}
	return d.w.Write(p)
}

func (d *disk) zeros(n int64, buf []byte) error {
	clear(buf)
	for n > 0 {
		k := min(n, int64(len(buf)))
		if _, err := d.Write(buf[:k]); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// tree writes the dm-verity tree, the level of the root first. Where a level does not fill its last block, zeros do, as veritysetup
// has it; nydus-image fills with something else, which veritysetup refuses.
func (d *disk) tree() error {
	d.result = Verity{DataBlocks: d.at / rafs6.BlockSize, HashOffset: d.at}
	var levels [][]byte
	sums := d.leaves
	for len(sums) > sha256.Size || levels == nil {
		level := append(sums[:len(sums):len(sums)], make([]byte, -len(sums)&(rafs6.BlockSize-1))...)
		levels = append(levels, level)
		sums = nil
		for at := 0; at < len(level); at += rafs6.BlockSize {
			sum := sha256.Sum256(level[at:][:rafs6.BlockSize])
			sums = append(sums, sum[:]...)
		}
	}
	d.result.Root = [sha256.Size]byte(sums)
	for i := len(levels) - 1; i >= 0; i-- {
		if _, err := d.w.Write(levels[i]); err != nil {
			return err
		}
	}
	return nil
}
