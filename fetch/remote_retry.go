package fetch

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Retry bounds the repetition of failed requests. The zero value is a good default.
type Retry struct {
	Attempts int           // in all; 0 means 6
	Wait     time.Duration // before the first repetition, doubled for each and jittered by half; 0 means 250 ms
	MaxWait  time.Duration // the longest wait, also of what a server asks for; 0 means 30 s
	Total    time.Duration // after which no repetition is begun; 0 means 2 min
}

func (r Retry) withDefaults() Retry {
	if r.Attempts <= 0 {
		r.Attempts = 6
	}
	if r.Wait <= 0 {
		r.Wait = 250 * time.Millisecond
	}
	if r.MaxWait <= 0 {
		r.MaxWait = 30 * time.Second
	}
	if r.Total <= 0 {
		r.Total = 2 * time.Minute
	}
	return r
}

// A Pacer waits between the attempts at one thing. It is used by one goroutine.
type Pacer struct {
	limits  Retry
	waits   backoff.ExponentialBackOff
	left    int
	started time.Time
}

// Pacer returns a pacer that has all attempts before it.
func (r Retry) Pacer() *Pacer {
	r = r.withDefaults()
	p := &Pacer{limits: r, waits: backoff.ExponentialBackOff{
		InitialInterval: r.Wait, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: r.MaxWait,
	}}
	p.Reset()
	return p
}

// Reset gives all attempts back, after progress.
func (p *Pacer) Reset() {
	p.waits.Reset()
	p.left = p.limits.Attempts - 1
	p.started = time.Now()
}

// Wait waits before another attempt, at least for after, and reports whether there is one. There is none when the
// bounds are reached or the context is done.
func (p *Pacer) Wait(ctx context.Context, after time.Duration) bool {
	if p.left <= 0 || after > p.limits.MaxWait || time.Since(p.started) > p.limits.Total {
		return false
	}
	p.left--
	timer := time.NewTimer(max(after, p.waits.NextBackOff()))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// RetryAfter returns what an answer says about when to come back; 0 if nothing.
func RetryAfter(resp *http.Response) time.Duration {
	v := resp.Header.Get("Retry-After")
	if v == "" {
		return 0
	}
	if s, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(t))
	}
	return 0
}
