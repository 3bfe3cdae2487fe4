package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The collector lets the heap grow by this many per cent of what lives. A conversion's heap is small but for the metadata of
// layers with very many files; the larger it is, the less of it may be rubbish.
const (
	gcPercent      = 50
	gcPercentLarge = 20
	largeHeap      = 64 << 20
)

// watchMemory adapts the collector to the size of the heap until the context ends.
func watchMemory(ctx context.Context) {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	percent := gcPercent
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		metrics.Read(sample)
		want := gcPercent
		if sample[0].Value.Uint64() > largeHeap {
			want = gcPercentLarge
		}
		if want != percent {
			percent = want
			debug.SetGCPercent(percent)
		}
	}
}
