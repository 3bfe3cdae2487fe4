//go:build linux

package daemon

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"

	cacheimport "github.com/moby/buildkit/cache/remotecache/v1"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/util/bklog"
	"github.com/moby/buildkit/util/cachedigest"
	"github.com/moby/buildkit/util/cachestore"
	"github.com/opencontainers/go-digest"
)

// maxCacheConfig bounds what is taken at /debug/cache/load.
const maxCacheConfig = 256 << 20

// cacheDebug shows what is in the build cache, and what its keys were made of.
type cacheDebug struct{ storage solver.CacheKeyStorage }

// keyedRecord is a record of the cache with what the digests in it were made of.
type keyedRecord struct {
	*cachestore.Record
	Debug []*cachedigest.Record `json:"debug,omitempty"`
}

func (c *cacheDebug) register(m *http.ServeMux) {
	m.HandleFunc("/debug/cache/all", c.all)
	m.HandleFunc("/debug/cache/lookup", c.lookup)
	m.HandleFunc("GET /debug/cache/store", c.store)
	m.HandleFunc("POST /debug/cache/load", c.load)
}

// answer writes v as JSON if that is asked for, else as text.
func answer(w http.ResponseWriter, r *http.Request, v any, err error, text func(io.Writer)) {
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	case r.Header.Get("Accept") == "application/json":
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(v) // the client has gone
	default:
		w.Header().Set("Content-Type", "text/plain")
		text(w)
	}
}

// all shows what all digests were made of.
func (c *cacheDebug) all(w http.ResponseWriter, r *http.Request) {
	list, err := allKeys(r.Context())
	answer(w, r, list, err, func(w io.Writer) {
		for _, k := range list {
			printKey(w, k)
			fmt.Fprintln(w)
		}
	})
}

// lookup shows what one digest was made of.
func (c *cacheDebug) lookup(w http.ResponseWriter, r *http.Request) {
	d, err := digest.Parse(r.URL.Query().Get("digest"))
	if err != nil {
		http.Error(w, "digest="+err.Error(), http.StatusBadRequest)
		return
	}
	k, err := findKey(r.Context(), d)
	answer(w, r, k, err, func(w io.Writer) { printKey(w, k) })
}

// store shows the daemon's own cache.
func (c *cacheDebug) store(w http.ResponseWriter, r *http.Request) {
	list, err := keyedRecords(r.Context(), c.storage)
	answer(w, r, list, err, func(w io.Writer) { printRecords(w, list) })
}

// load shows a cache that was exported, whose configuration is the request's body.
func (c *cacheDebug) load(w http.ResponseWriter, r *http.Request) {
	list, err := loadRecords(r.Context(), http.MaxBytesReader(w, r.Body, maxCacheConfig))
	answer(w, r, list, err, func(w io.Writer) { printRecords(w, list) })
}

func loadRecords(ctx context.Context, r io.Reader) ([]*keyedRecord, error) {
	p, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read the cache's configuration: %w", err)
	}
	chains := cacheimport.NewCacheChains()
	if err := cacheimport.Parse(p, cacheimport.DescriptorProvider{}, chains); err != nil {
		return nil, err
	}
	storage, _, err := cacheimport.NewCacheKeyStorage(chains, nil)
	if err != nil {
		return nil, err
	}
	return keyedRecords(ctx, storage)
}

func keyedRecords(ctx context.Context, storage solver.CacheKeyStorage) ([]*keyedRecord, error) {
	records, err := cachestore.Records(ctx, storage)
	if err != nil {
		return nil, fmt.Errorf("read the cache: %w", err)
	}
	list := make([]*keyedRecord, len(records))
	for i, r := range records {
		digests := make(map[digest.Digest]bool)
		digests[r.Digest] = true
		for _, l := range r.Parents {
			digests[l.Digest], digests[l.Selector] = true, true
		}
		delete(digests, "")
		list[i] = &keyedRecord{Record: r}
		for _, d := range slices.Sorted(maps.Keys(digests)) {
			k, err := findKey(ctx, d)
			if err != nil {
				bklog.G(ctx).Debugf("what %s was made of is not known: %v", d, err)
				continue
			}
			list[i].Debug = append(list[i].Debug, k)
		}
	}
	return list, nil
}

// findKey returns what a digest was made of.
func findKey(ctx context.Context, d digest.Digest) (*cachedigest.Record, error) {
	if d == digest.FromString("/") { // is not in the database: it selects a whole file system
		return &cachedigest.Record{Digest: d, Type: cachedigest.TypeString, Data: []cachedigest.Frame{{ID: cachedigest.FrameIDData, Data: []byte("/")}}}, nil
	}
	find := func(d digest.Digest) (cachedigest.Type, []cachedigest.Frame, error) {
		return cachedigest.GetDefaultDB().Get(ctx, d.String())
	}
	typ, frames, err := find(d)
	if err != nil {
		return nil, fmt.Errorf("what %s was made of: %w", d, err)
	}
	k := &cachedigest.Record{Digest: d, Type: typ, Data: frames}
	return k, k.LoadSubRecords(find)
}

// allKeys returns what all known digests were made of.
func allKeys(ctx context.Context) ([]*cachedigest.Record, error) {
	var list []*cachedigest.Record
	known := make(map[digest.Digest]*cachedigest.Record)
	err := cachedigest.GetDefaultDB().All(ctx, func(key string, typ cachedigest.Type, frames []cachedigest.Frame) error {
		d, err := digest.Parse(key)
		if err != nil {
			return fmt.Errorf("key %q: %w", key, err)
		}
		known[d] = &cachedigest.Record{Digest: d, Type: typ, Data: frames}
		list = append(list, known[d])
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, k := range list {
		err := k.LoadSubRecords(func(d digest.Digest) (cachedigest.Type, []cachedigest.Frame, error) {
			if sub := known[d]; sub != nil {
				return sub.Type, sub.Data, nil
			}
			return "", nil, fmt.Errorf("what %s was made of is not known", d)
		})
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

func printKey(w io.Writer, k *cachedigest.Record) {
	fmt.Fprintf(w, "%s (%s):\n", k.Digest, k.Type)
	for _, sub := range k.SubRecords {
		fmt.Fprintf(w, "  %s (%s):\n", sub.Digest, sub.Type)
	}
	for _, f := range k.Data {
		switch {
		case f.ID == cachedigest.FrameIDData:
			fmt.Fprintf(w, "  %s: %s\n", f.ID, f.Data)
		case f.ID == cachedigest.FrameIDSkip && len(f.Data) >= 4:
			fmt.Fprintf(w, "  skipping %d bytes\n", binary.LittleEndian.Uint32(f.Data))
		}
	}
	for _, sub := range k.SubRecords {
		fmt.Fprintln(w)
		printKey(w, sub)
	}
}

func printRecords(w io.Writer, list []*keyedRecord) {
	for _, r := range list {
		random := ""
		if r.Random {
			random = " (random)"
		}
		fmt.Fprintf(w, "ID: %d%s\n", r.ID, random)
		if r.Digest != "" {
			fmt.Fprintf(w, "Digest: %s\n", r.Digest)
		}
		slices.SortStableFunc(r.Parents, func(a, b cachestore.Link) int {
			return cmp.Or(cmp.Compare(a.Input, b.Input), cmp.Compare(a.Digest, b.Digest))
		})
		for _, p := range r.Parents {
			fmt.Fprintf(w, "Parent: input %d\t%d\t%s\n", p.Input, p.Record.ID, p.Digest)
		}
		for _, input := range slices.Sorted(maps.Keys(r.Children)) {
			fmt.Fprintf(w, "Children: input %d\t%v\n", input, slices.Sorted(maps.Keys(r.ChildIDs[input])))
		}
		for _, k := range r.Debug {
			printKey(w, k)
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w)
	}
}
