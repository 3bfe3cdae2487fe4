package overlaybdtools

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/disk/erofs"
	"github.com/lazuli-project/lazuli/disk/ext4"
	"github.com/lazuli-project/lazuli/flate"
)

// File systems of [TurboOptions].
const (
	Ext4  = "ext4"
	EROFS = "erofs"
)

// ApplyOptions are those of overlaybd-apply.
type ApplyOptions struct {
	// Input is the layer: a tar, maybe compressed by gzip or zstd, as a file or a pipe.
	Input string
	// Config is the path of the disk's configuration, with Raw that of the disk itself.
	Config string
	Raw    bool
	// MakeFS makes an empty ext4 file system before, on a disk that was not written yet.
	MakeFS bool
	// GzipIndex is a path for the index of a gzip layer. If it is given, the writable layer is one of turboOCI and refers to the
	// content.
	GzipIndex string
	// Checksum is the digest that the uncompressed tar must have, "" for any.
	Checksum digest.Digest
}

// Apply applies a layer to a disk. Memory: the metadata of the disk's files and of the layer's.
func Apply(ctx context.Context, o ApplyOptions) error {
	if o.Checksum != "" && (o.Checksum.Validate() != nil || o.Checksum.Algorithm() != digest.SHA256) {
		return fmt.Errorf("checksum %q is none of SHA-256", o.Checksum)
	}
	j := &job{input: o.Input, makeFS: o.MakeFS, turbo: o.GzipIndex != "", gzipIndex: o.GzipIndex, checksum: o.Checksum}
	if !o.Raw {
		return withDisk(ctx, o.Config, false, func(s *stack) error { return j.onStack(ctx, s) })
	}
	if j.turbo {
		return errRefused("a raw disk that refers to a layer")
	}
	v, err := openRaw(o.Config)
	if err != nil {
		return err
	}
	return errors.Join(j.run(ctx, v, filepath.Dir(o.Config)), v.raw.Close())
}

// TurboOptions are those of turboOCI-apply.
type TurboOptions struct {
	// Input is the layer: a tar, maybe compressed by gzip. With Import it is what [ExportTar] made of the tar.
	Input  string
	Import bool
	// Config is the path of the disk's configuration.
	Config string
	// FSType is the kind of file system, Ext4 (default) or EROFS.
	FSType string
	// MakeFS makes an empty ext4 file system before, on a disk that was not written yet. EROFS begins by itself.
	MakeFS bool
	// GzipIndex is the path for the index of a gzip layer.
	GzipIndex string
}

// ApplyTurbo applies a layer to a disk whose writable layer is one of turboOCI: content stays where it is in the tar, and is
// referred to. Memory: the metadata of the disk's files and of the layer's.
func ApplyTurbo(ctx context.Context, o TurboOptions) error {
	if o.FSType != "" && o.FSType != Ext4 && o.FSType != EROFS {
		return errRefused(fmt.Sprintf("file system %q, %s and %s are possible", o.FSType, Ext4, EROFS))
	}
	j := &job{input: o.Input, makeFS: o.MakeFS, turbo: true, erofs: o.FSType == EROFS, gzipIndex: o.GzipIndex, imported: o.Import}
	return withDisk(ctx, o.Config, false, func(s *stack) error { return j.onStack(ctx, s) })
}

// job is a layer that is applied.
type job struct {
	input     string
	makeFS    bool
	turbo     bool // content is referred to
	erofs     bool
	imported  bool // the input is the headers of a tar alone
	gzipIndex string
	checksum  digest.Digest
}

func (j *job) onStack(ctx context.Context, s *stack) error {
	v, err := s.openUpper(j.turbo)
	if err != nil {
		return err
	}
	return j.run(ctx, v, filepath.Dir(s.config.Upper.Data))
}

// run applies the layer to a volume. dir is for a temporary file.
func (j *job) run(ctx context.Context, v *volume, dir string) (err error) {
	fs, err := j.fileSystem(v)
	if err != nil {
		return err
	}
	in, err := openInput(ctx, j.input, inputOptions{index: j.gzipIndex != "", digest: j.checksum != ""})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.close()) }()
	if j.turbo && in.stream.Compression() == flate.Zstd {
		return errRefused("turboOCI of a layer compressed by zstd, which its readers do not know")
	}
	l := &layerReader{in: in, refer: j.turbo || in.plain != nil, dir: dir}
	var tar io.Reader = in
	if j.imported {
		l.meta = newMetaReader(in)
		tar = l.meta
	}
	layer, err := l.read(tar)
	if err != nil {
		return fmt.Errorf("input %s: %w", j.input, err)
	}
	if j.checksum != "" && in.digest() != j.checksum {
		return fmt.Errorf("sha256 checksum mismatch, expect: %s, got: %s: %w", j.checksum, in.digest(), blob.ErrDigest)
	}
	if in.index != nil {
		if err := writeFile(j.gzipIndex, in.index); err != nil {
			return err
		}
	}
	change, err := fs.Apply(layer)
	if err != nil {
		return fmt.Errorf("file system: %w", err)
	}
	return v.write(ctx, change, in, j.turbo)
}

// fileSystem opens what is on a volume, or makes it.
func (j *job) fileSystem(v *volume) (disk.FileSystem, error) {
	if j.makeFS && !j.erofs {
		if err := v.clear(); err != nil {
			return nil, err
		}
		return v.newExt4()
	}
	var fs disk.FileSystem
	var err error
	switch {
	case j.erofs && v.empty:
		fs, err = erofs.Create(erofs.Options{Size: v.size})
	case j.erofs:
		fs, err = erofs.Open(v, v.size)
	default:
		fs, err = ext4.Open(v, v.size)
	}
	if err != nil {
		return nil, fmt.Errorf("file system: %w", err)
	}
	return fs, nil
}
