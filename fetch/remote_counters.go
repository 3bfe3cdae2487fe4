package fetch

import (
	"sync/atomic"

	"github.com/lazuli-project/lazuli/blob"
)

// Counters count what [Remote]s fetch. One may serve any number of them. The zero value is ready.
type Counters struct {
	requests, bytes [blob.Background + 1]atomic.Int64
	retries         atomic.Int64
	redirects       atomic.Int64
}

// RemoteStats are counts since the beginning, by class (blob.Demand, blob.Prefetch, blob.Background).
type RemoteStats struct {
	Requests  [blob.Background + 1]int64 // sent, repetitions included
	Bytes     [blob.Background + 1]int64 // of bodies as read
	Retries   int64                      // requests that repeat a failed one
	Redirects int64                      // redirect targets resolved
}

// Stats returns the counts of now.
func (c *Counters) Stats() RemoteStats {
	s := RemoteStats{Retries: c.retries.Load(), Redirects: c.redirects.Load()}
	for i := range s.Requests {
		s.Requests[i], s.Bytes[i] = c.requests[i].Load(), c.bytes[i].Load()
	}
	return s
}
