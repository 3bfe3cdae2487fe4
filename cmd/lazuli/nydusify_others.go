package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lazuli-project/lazuli/nydusify"
	"github.com/lazuli-project/lazuli/nydusimage"
	"github.com/lazuli-project/lazuli/store"
)

// nydusifySides are the references of commands with a source and a target.
type nydusifySides struct {
	source, target                 string
	sourceInsecure, targetInsecure bool
	backend                        nydusifyBackend
}

func (s *nydusifySides) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.source, "source", "", "Source image reference [$SOURCE]")
	f.StringVar(&s.target, "target", "", "Target image reference [$TARGET]")
	f.BoolVar(&s.sourceInsecure, "source-insecure", false, "Skip verifying server certs for HTTPS source registry [$SOURCE_INSECURE]")
	f.BoolVar(&s.targetInsecure, "target-insecure", false, "Skip verifying server certs for HTTPS target registry [$TARGET_INSECURE]")
	s.backend.add(f, "source-")
}

// check says what is missing, or not possible.
func (s *nydusifySides) check() error {
	if s.source == "" || s.target == "" {
		return usagef("required flags \"source\" and \"target\" not set")
	}
	if s.backend.kind != "" {
		return usagef("--source-backend-type: blobs are read from the registry")
	}
	return nil
}

// localRef returns the reference of a file where nydusify has file://PATH.
func localRef(s string) string {
	if path, ok := strings.CutPrefix(s, "file://"); ok {
		return "oci-archive:" + path
	}
	return s
}

func (n *nydusifyApp) copyCommand() *cobra.Command {
	var s nydusifySides
	var p nydusifyPlatforms
	cmd := &cobra.Command{
		Use:   "copy",
		Short: "Copy an image from source to target",
		Example: `  nydusify copy --all-platforms --source host/app:1 --target other/app:1
  nydusify copy --source host/app:1 --target file:///tmp/app.tar`,
		Args: exactArgs(0),
	}
	s.add(cmd)
	p.add(cmd.Flags())
	warn := n.without(cmd.Flags(), nydusifyWhy, flagWorkDir, flagNydusImage, flagPushChunk)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		warn()
		if err := s.check(); err != nil {
			return err
		}
		list, err := p.platforms(cmd.Flags())
		if err != nil {
			return err
		}
		n.infof("copying %s to %s", s.source, s.target)
		return n.transfer(cmd.Context(), &s, func(ctx context.Context, src store.Source, dest store.Target) error {
			return nydusify.Copy(ctx, nydusify.CopyOptions{Source: src, Target: dest, Platforms: list, Jobs: n.jobs})
		})
	}
	return cmd
}

// transfer opens both sides for an action.
func (n *nydusifyApp) transfer(ctx context.Context, s *nydusifySides, do func(context.Context, store.Source, store.Target) error) (err error) {
	_, src, dest, err := n.openSides(ctx, localRef(s.source), localRef(s.target), &storeFlags{insecure: s.sourceInsecure}, &storeFlags{insecure: s.targetInsecure})
	if err != nil {
		return err
	}
	defer closeQuietly(src)
	defer func() { err = errors.Join(err, dest.Close()) }()
	return do(ctx, src, dest)
}

func (n *nydusifyApp) optimizeCommand() *cobra.Command {
	var s nydusifySides
	var policy, files string
	cmd := &cobra.Command{
		Use:     "optimize",
		Short:   "Optimize a source nydus image and push to the target",
		Example: "  nydusify optimize --source host/app:1-nydus --target host/app:1-fast --prefetch-files list.json",
		Args:    exactArgs(0),
	}
	s.add(cmd)
	f := cmd.Flags()
	f.StringVar(&policy, "policy", "separated-blob-with-prefetch-files", "Specify the optimizing way [$OPTIMIZE_POLICY]")
	f.StringVar(&files, "prefetch-files", "", "File path to include prefetch files for optimization [$PREFETCH_FILES]")
	warn := n.without(f, nydusifyWhy, flagWorkDir, flagNydusImage, flagPushChunk)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		warn()
		if err := s.check(); err != nil {
			return err
		}
		if policy != "separated-blob-with-prefetch-files" {
			return usagef("--policy %s: separated-blob-with-prefetch-files is possible", policy)
		}
		o := nydusify.OptimizeOptions{PrefetchFiles: files}
		var err error
		if o.Image, err = n.imageOptions("", s.sourceInsecure, &s.backend); err != nil {
			return err
		}
		return n.transfer(cmd.Context(), &s, func(ctx context.Context, src store.Source, dest store.Target) error {
			o.Source, o.Target = src, dest
			desc, err := nydusify.Optimize(ctx, o)
			if err == nil {
				n.infof("optimized image %s@%s", s.target, desc.Digest)
			}
			return err
		})
	}
	return cmd
}

func (n *nydusifyApp) chunkDictCommand() *cobra.Command {
	var sources []string
	var s nydusifySides
	var p nydusifyPlatforms
	group := &cobra.Command{Use: "chunkdict", Short: "Deduplicate chunk for Nydus image", Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd := &cobra.Command{
		Use:     "generate",
		Short:   "Make an image of the chunks that several images have in common",
		Example: "  nydusify chunkdict generate --sources host/a:nydus,host/b:nydus --target host/dict:1",
		Args:    exactArgs(0),
	}
	f := cmd.Flags()
	f.StringSliceVar(&sources, "sources", nil, "One or more Nydus image references, separated by commas [$SOURCES]")
	f.StringVar(&s.target, "target", "", "Target chunkdict image (Nydus) reference [$TARGET]")
	f.BoolVar(&s.sourceInsecure, "source-insecure", false, "Skip verifying server certs for HTTPS source registry [$SOURCE_INSECURE]")
	f.BoolVar(&s.targetInsecure, "target-insecure", false, "Skip verifying server certs for HTTPS target registry [$TARGET_INSECURE]")
	s.backend.add(f, "")
	p.add(f)
	warn := n.without(f, nydusifyWhy, flagWorkDir, flagNydusImage)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		warn()
		if len(sources) == 0 {
			return usagef("required flag \"sources\" not set")
		}
		s.source = sources[0]
		if err := s.check(); err != nil {
			return err
		}
		list, err := p.platforms(f)
		if err != nil {
			return err
		}
		if len(list) != 1 {
			return usagef("a dictionary is of images for one platform")
		}
		o := nydusify.ChunkDictOptions{}
		if o.Image, err = n.imageOptions(list[0], s.sourceInsecure, &nydusifyBackend{}); err != nil {
			return err
		}
		refs, err := parseRefs(sources...)
		if err != nil {
			return err
		}
		for _, ref := range refs[1:] {
			src, err := store.OpenSource(cmd.Context(), ref, o.Image.Store)
			if err != nil {
				return err
			}
			defer closeQuietly(src)
			o.Sources = append(o.Sources, src)
		}
		return n.transfer(cmd.Context(), &s, func(ctx context.Context, src store.Source, dest store.Target) error {
			o.Sources, o.Target = append([]store.Source{src}, o.Sources...), dest
			desc, err := nydusify.GenerateChunkDict(ctx, o)
			if err == nil {
				n.infof("chunk dictionary %s@%s", s.target, desc.Digest)
			}
			return err
		})
	}
	group.AddCommand(cmd)
	return group
}

func (n *nydusifyApp) buildCommand() *cobra.Command {
	var o nydusimage.CreateOptions
	var dir, name, chunkSize, compactConfig string
	var push, compact bool
	var b nydusifyBackend
	cmd := &cobra.Command{
		Use:     "build",
		Short:   "Build a Nydus filesystem from a source directory",
		Example: "  nydusify build --source-dir app --output-dir out --name app",
		Args:    exactArgs(0),
	}
	f := cmd.Flags()
	f.StringVar(&o.Source, "source-dir", "", "Source directory to build Nydus filesystem from [$SOURCE_DIR]")
	f.StringVar(&o.Source, "target-dir", "", "The same as --source-dir")
	f.StringVarP(&dir, "output-dir", "o", ".nydus-build-output", "Output directory for built artifacts [$OUTPUT_DIR]")
	f.StringVar(&name, "name", "", "Image name, which names the bootstrap and the blob [$IMAGE_NAME]")
	f.StringVar(&name, "meta", "", "The same as --name")
	f.StringVar(&name, "bootstrap", "", "The same as --name [$BOOTSTRAP]")
	f.BoolVar(&push, "backend-push", false, "Push generated Nydus filesystem to storage backend [$BACKEND_PUSH]")
	b.add(f, "")
	f.StringVar(&o.ChunkDict, "chunk-dict", "", "Chunk dictionary: bootstrap=/path/to/dict.boot [$CHUNK_DICT]")
	f.StringVar(&o.Parent, "parent-bootstrap", "", "Specify a parent metadata to reference data chunks [$PARENT_BOOTSTRAP]")
	f.BoolVar(&compact, "compact", false, "Compact parent bootstrap before building the image when needed [$COMPACT]")
	f.StringVar(&compactConfig, "compact-config-file", "", "Compact configuration file [$COMPACT_CONFIG_FILE]")
	f.StringVar(&o.FSVersion, "fs-version", "6", "Nydus image format version number, possible values: 5, 6 [$FS_VERSION]")
	f.StringVar(&o.Compressor, "compressor", "zstd", "Algorithm to compress image data blob, possible values: none, lz4_block, zstd [$COMPRESSOR]")
	f.StringVar(&chunkSize, "chunk-size", "0x100000", "Size of chunks, a power of two from 0x1000 to 0x1000000 [$CHUNK_SIZE]")
	warn := n.without(f, nydusifyWhy, flagNydusImage)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		warn()
		if o.Source == "" || name == "" {
			return usagef("required flags \"source-dir\" and \"name\" not set")
		}
		if compact {
			return usagef("--compact: the parent's blobs are needed; use \"nydus-image compact\" on it first")
		}
		if push {
			return usagef("--backend-push: copy %s to the backend", dir)
		}
		if o.ChunkSize, err = parseNumber("chunk size", chunkSize); err != nil {
			return &usageError{err}
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		ext := filepath.Ext(name)
		meta, data := name, strings.TrimSuffix(name, ext)+".blob"
		if ext == "" {
			meta = name + ".meta"
		}
		o.Type, o.Whiteout = nydusimage.TypeDir, nydusimage.WhiteoutOCI
		o.Bootstrap, o.Blob = filepath.Join(dir, meta), filepath.Join(dir, data)
		res, err := nydusimage.Create(cmd.Context(), o)
		if err != nil {
			return err
		}
		if err := res.WriteJSON(filepath.Join(dir, "output.json")); err != nil {
			return err
		}
		blob := o.Blob
		if o.Parent != "" && len(res.Blobs) > 0 && res.BlobSize > 0 { // readers look for it beside the parent's blobs
			blob = filepath.Join(dir, res.Blobs[len(res.Blobs)-1])
			if err := os.Rename(o.Blob, blob); err != nil {
				return err
			}
		}
		p, err := json.Marshal(map[string]string{"meta": o.Bootstrap, "blob": blob})
		if err != nil {
			return fmt.Errorf("result: %w", err)
		}
		n.infof("successfully built Nydus image %s", p)
		return nil
	}
	return cmd
}
