package fetch

import (
	"context"
	"sync"
	"time"

	"github.com/lazuli-project/lazuli/blob"
)

// A Gate bounds the requests to one host that run at the same time. Who waits is let in by class, demand first, and
// in order within a class. The classes below demand never take all places, and their bodies pause while demand reads
// run, so that a demand read neither waits for a place nor shares the line with them.
type Gate struct {
	places  int
	reserve int // places that only demand reads take

	mu      sync.Mutex // guards what follows
	used    int
	demand  int // demand reads among used
	waiting [blob.Background + 1][]chan struct{}
	idle    chan struct{} // closed when no demand read runs
}

// NewGate returns a gate of n places; 0 means 8, less than 2 means 2.
func NewGate(n int) *Gate {
	if n == 0 {
		n = 8
	}
	n = max(n, 2)
	idle := make(chan struct{})
	close(idle)
	return &Gate{places: n, reserve: max(1, n/4), idle: idle}
}

// fits reports whether a request of the class may start. The caller holds the lock.
func (g *Gate) fits(class blob.Class) bool {
	if class == blob.Demand {
		return g.used < g.places
	}
	return g.used < g.places-g.reserve
}

func (g *Gate) enter(class blob.Class) {
	g.used++
	if class != blob.Demand {
		return
	}
	if g.demand == 0 {
		g.idle = make(chan struct{})
	}
	g.demand++
}

// acquire takes a place for a request of the class.
func (g *Gate) acquire(ctx context.Context, class blob.Class) error {
	g.mu.Lock()
	if g.fits(class) && len(g.waiting[class]) == 0 {
		g.enter(class)
		g.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	g.waiting[class] = append(g.waiting[class], turn)
	g.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	for i, w := range g.waiting[class] {
		if w == turn {
			g.waiting[class] = append(g.waiting[class][:i], g.waiting[class][i+1:]...)
			g.mu.Unlock()
			return context.Cause(ctx)
		}
	}
	g.mu.Unlock()
	g.release(class) // let in at the same moment
	return context.Cause(ctx)
}

// release gives the place of a request of the class to who is next.
func (g *Gate) release(class blob.Class) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.used--
	if class == blob.Demand {
		if g.demand--; g.demand == 0 {
			close(g.idle)
		}
	}
	for c := range g.waiting {
		for len(g.waiting[c]) > 0 && g.fits(blob.Class(c)) {
			g.enter(blob.Class(c))
			close(g.waiting[c][0])
			g.waiting[c] = g.waiting[c][1:]
		}
	}
}

// longestYield bounds how long a body is not read for the sake of demand reads: servers drop who reads nothing.
const longestYield = time.Second

// yield waits while demand reads run, unless the class is demand itself.
func (g *Gate) yield(ctx context.Context, class blob.Class) {
	if class == blob.Demand {
		return
	}
	g.mu.Lock()
	idle := g.idle
	g.mu.Unlock()
	select {
	case <-idle:
		return
	default:
	}
	timer := time.NewTimer(longestYield)
	defer timer.Stop()
	select {
	case <-idle:
	case <-timer.C:
	case <-ctx.Done():
	}
}
