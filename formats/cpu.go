package formats

import (
	"context"
	"runtime"
)

// CPU bounds how many goroutines compute at the same time, over all layers of a conversion.
type CPU struct{ slots chan struct{} }

// NewCPU returns a bound of n; 0 means as many as GOMAXPROCS.
func NewCPU(n int) *CPU {
	if n <= 0 {
		n = runtime.GOMAXPROCS(0)
	}
	return &CPU{make(chan struct{}, n)}
}

// Size returns the bound.
func (c *CPU) Size() int { return cap(c.slots) }

// Acquire waits for a slot.
func (c *CPU) Acquire(ctx context.Context) error {
	select {
	case c.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Release gives a slot back.
func (c *CPU) Release() { <-c.slots }
