package contentstore

import "context"

// values are those of the context that a source or target was made with: the namespace, the lease, the session of a build. Lazy reads
// are done in contexts of their own, which lack them.
type values struct{ ctx context.Context } //nolint:containedctx // for its values alone

// in returns a context that ends with ctx, and has the values of both.
func (v values) in(ctx context.Context) context.Context { return both{ctx, v.ctx} }

// both is a context with the values of another one behind its own.
type both struct {
	context.Context //nolint:containedctx // it is one
	behind          context.Context
}

// Value implements [context.Context].
func (b both) Value(key any) any {
	if v := b.Context.Value(key); v != nil {
		return v
	}
	return b.behind.Value(key)
}
