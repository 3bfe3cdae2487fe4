package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/pflag"

	"github.com/lazuli-project/lazuli/cache"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/mount"
	"github.com/lazuli-project/lazuli/store"
)

// lazyFlags are the flags of commands that mount an image.
type lazyFlags struct {
	image   imageFlags
	mode    string
	offline bool
	stats   bool
}

func (l *lazyFlags) add(f *pflag.FlagSet) {
	l.image.add(f)
	f.Lookup("cache").Usage = "keep what is read in `DIR`"
	if dir, ok := cacheDir(); ok {
		l.image.cacheDir = dir
		f.Lookup("cache").DefValue = dir
	}
	f.StringVar(&l.mode, "mode", string(mount.Auto), "erofs: the kernel reads the metadata; fuse: works on older kernels and without root;\nauto: the best that works; disk: for images that are disks")
	f.BoolVar(&l.offline, "offline", false, "fetch nothing, use what is in the cache")
	f.BoolVar(&l.stats, "stats", false, "print what was fetched")
}

// lazyImage is an image that is being read through a mount.
type lazyImage struct {
	*image.Image
	cache *cache.Dir
	meter meter
}

// meter counts HTTP requests that were answered.
type meter struct{ requests, bytes atomic.Int64 }

func (m *meter) count(r store.RequestInfo) {
	if r.Status != 0 {
		m.requests.Add(1)
		m.bytes.Add(r.Bytes)
	}
}

// openLazy opens an image to be mounted.
func (a *app) openLazy(ctx context.Context, arg string, l *lazyFlags) (*lazyImage, error) {
	refs, err := parseRefs(arg)
	if err != nil {
		return nil, err
	}
	if err := makeAbsolute(&refs[0]); err != nil {
		return nil, err
	}
	so, err := a.storeOptions(&l.image.store)
	if err != nil {
		return nil, err
	}
	im := &lazyImage{}
	so.OnRequest = im.meter.count
	if l.image.cacheDir != "" {
		dir, err := filepath.Abs(l.image.cacheDir)
		if err != nil {
			return nil, err
		}
		if im.cache, err = cache.Open(dir); err != nil {
			return nil, err
		}
	}
	blobs, err := l.image.backend.open()
	if err != nil {
		return nil, err
	}
	if err := l.image.keys.checkRef(refs[0]); err != nil {
		return nil, err
	}
	known, err := l.image.keys.readers()
	if err != nil {
		return nil, err
	}
	im.Image, err = image.Open(ctx, refs[0], image.Options{
		Backend: blobs, Store: so, Platform: l.image.platform, Readers: known, Referrers: true, Offline: l.offline, Fetch: fetch.Options{Cache: im.cache},
	})
	if err != nil {
		return nil, err
	}
	return im, nil
}

// makeAbsolute makes the paths of a reference independent of the working directory, which a process in the background leaves.
func makeAbsolute(ref *store.Ref) error {
	if ref.Transport == store.Registry {
		return nil
	}
	paths := []*string{&ref.Path}
	for i := range ref.Dirs {
		paths = append(paths, &ref.Dirs[i])
	}
	for _, p := range paths {
		if *p == "-" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	return nil
}

// lazyStats are what reading an image through a mount took.
type lazyStats struct {
	Mode string `json:"mode"`
	// Requests to the registry and bytes of their answers, everything included.
	Requests int64 `json:"http_requests"`
	Bytes    int64 `json:"http_bytes"`
	// Blobs are the reads of content alone.
	Blobs fetch.Stats `json:"blobs"`
}

func (im *lazyImage) statsIn(mode mount.Mode) lazyStats {
	return lazyStats{Mode: string(mode), Requests: im.meter.requests.Load(), Bytes: im.meter.bytes.Load(), Blobs: im.Stats()}
}

// String writes the figures on one line.
func (s lazyStats) String() string {
	return fmt.Sprintf("%s: %d requests, %s fetched; content: %d ranges, %s, %d chunks fetched, %d from the cache",
		s.Mode, s.Requests, formatSize(s.Bytes), s.Blobs.Requests, formatSize(s.Blobs.Bytes), s.Blobs.Spans, s.Blobs.CacheHits)
}

// errorPrinter prints failed reads, at most one a second: they come in crowds.
type errorPrinter struct {
	app  *app
	mu   sync.Mutex // guards last, left
	last time.Time
	left int // out since last
}

func (p *errorPrinter) print(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.last) < time.Second {
		p.left++
		return
	}
	more := ""
	if p.left > 0 {
		more = fmt.Sprintf(" (and %d more before)", p.left)
	}
	fmt.Fprintf(p.app.stderr, "lazuli: %v%s\n", err, more)
	p.last, p.left = time.Now(), 0
}
