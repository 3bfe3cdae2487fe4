package containerd

import (
	"context"
	"crypto/rand"
	"errors"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/leases"

	"github.com/lazuli-project/lazuli/containerd/contentstore"
	"github.com/lazuli-project/lazuli/store"
)

// closeTime bounds what is tidied up after the context has ended.
const closeTime = 10 * time.Second

// target writes an image into containerd.
type target struct {
	*contentstore.Target
	*client
	ctx       context.Context //nolint:containedctx // for its namespace: Close has none
	lease     leases.Lease
	committed atomic.Bool
}

// OpenTarget implements [store.Opener]. A lease is all that is made by this.
func (o *Opener) OpenTarget(ctx context.Context, ref store.Ref, _ store.Options) (_ store.Target, err error) {
	ctx, c, err := o.connect(ctx, ref)
	if err != nil {
		return nil, err
	}
	t := &target{client: c, ctx: context.WithoutCancel(ctx)}
	t.lease, err = c.leases.Create(ctx, leases.WithID("lazuli-"+rand.Text()), leases.WithExpiration(o.opt.LeaseTime))
	if err != nil {
		return nil, errors.Join(c.fail(ctx, "lease for", err), c.conn.Close())
	}
	t.Target = contentstore.NewTarget(leases.WithLease(ctx, t.lease.ID), c.content, c.ref, contentstore.Options{
		Needed: o.opt.Needed, Current: c.resolve, Publish: c.publish,
	})
	return t, nil
}

// Commit implements [store.Target].
func (t *target) Commit(ctx context.Context) error {
	err := t.Target.Commit(ctx)
	if err == nil {
		t.committed.Store(true)
	}
	return err
}

// Close implements [store.Target]. What was stored without a name stays until the lease expires, so that another try finds it.
func (t *target) Close() error {
	err := t.Target.Close()
	ctx, cancel := context.WithTimeout(t.ctx, closeTime)
	defer cancel()
	if t.committed.Load() || t.leasesNothing(ctx) {
		// One that stays expires.
		_ = t.leases.Delete(ctx, t.lease)
	}
	return errors.Join(err, t.conn.Close())
}

// leasesNothing reports whether nothing was stored.
func (t *target) leasesNothing(ctx context.Context) bool {
	held, err := t.leases.ListResources(ctx, t.lease)
	return err == nil && len(held) == 0
}

var _ store.Target = (*target)(nil)
