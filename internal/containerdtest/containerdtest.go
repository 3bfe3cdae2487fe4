// Package containerdtest is the part of containerd that keeps images, in process, for tests: containerd's own content store and
// database, with namespaces, leases and garbage collection, and the services over them.
package containerdtest

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// Namespace is the one that tests use.
const Namespace = "test"

// Cleaner is what New and Listen need of a test.
type Cleaner interface {
	Cleanup(f func())
	Fatal(args ...any)
}

// Containerd is a database with a content store.
type Containerd struct {
	DB     *metadata.DB
	Images images.Store
	Leases leases.Manager
}

// New makes an empty one.
func New(tb Cleaner) *Containerd {
	dir := tempDir(tb)
	cs, err := local.NewStore(filepath.Join(dir, "content"))
	if err != nil {
		tb.Fatal(err)
	}
	file, err := bolt.Open(filepath.Join(dir, "meta.db"), 0o600, &bolt.Options{NoSync: true})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = file.Close() })
	db := metadata.NewDB(file, cs, nil)
	if err := db.Init(context.Background()); err != nil {
		tb.Fatal(err)
	}
	return &Containerd{DB: db, Images: metadata.NewImageStore(db), Leases: metadata.NewLeaseManager(db)}
}

// tempDir makes a directory with a short path, as sockets need it.
func tempDir(tb Cleaner) string {
	dir, err := os.MkdirTemp("", "ctrd")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Context returns the test's context in a namespace.
func Context(tb testing.TB, namespace string) context.Context {
	tb.Helper()
	return namespaces.WithNamespace(tb.Context(), namespace)
}

// Leased returns the test's context in the namespace of tests with a lease.
func (c *Containerd) Leased(tb testing.TB) context.Context {
	tb.Helper()
	ctx := Context(tb, Namespace)
	l, err := c.Leases.Create(ctx, leases.WithRandomID())
	if err != nil {
		tb.Fatal(err)
	}
	return leases.WithLease(ctx, l.ID)
}

// Content is the content store.
func (c *Containerd) Content() content.Store { return c.DB.ContentStore() }

// Collect collects garbage.
func (c *Containerd) Collect(tb testing.TB) {
	tb.Helper()
	if _, err := c.DB.GarbageCollect(tb.Context()); err != nil {
		tb.Fatal(err)
	}
}

// Digests are those of all objects of a namespace, sorted.
func (c *Containerd) Digests(tb testing.TB, namespace string) []digest.Digest {
	tb.Helper()
	var all []digest.Digest
	err := c.Content().Walk(Context(tb, namespace), func(i content.Info) error {
		all = append(all, i.Digest)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	slices.Sort(all)
	return all
}

// Ingests are the references of all ingests of a namespace.
func (c *Containerd) Ingests(tb testing.TB, namespace string) []string {
	tb.Helper()
	list, err := c.Content().ListStatuses(Context(tb, namespace))
	if err != nil {
		tb.Fatal(err)
	}
	refs := make([]string, 0, len(list))
	for _, s := range list {
		refs = append(refs, s.Ref)
	}
	return refs
}
