package fetch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lazuli-project/lazuli/blob"
)

var digits = bytes.Repeat([]byte("0123456789"), 100_000)

// remote serves digits through a handler that may do what it likes first. It answers itself if it returns true.
func remote(t *testing.T, opts RemoteOptions, first func(w http.ResponseWriter, r *http.Request) bool) *Remote {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if first == nil || !first(w, r) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(digits))
		}
	}))
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL + "/object?signature=secret")
	if err != nil {
		t.Fatal(err)
	}
	if opts.Client == nil {
		opts.Client = s.Client()
	}
	if opts.Retry == (Retry{}) {
		opts.Retry = Retry{Wait: time.Millisecond, Attempts: 4}
	}
	return NewRemote(u, int64(len(digits)), opts)
}

func TestRemoteRanges(t *testing.T) {
	t.Parallel()
	r := remote(t, RemoteOptions{Gate: NewGate(2)}, nil)
	for _, c := range []struct {
		off int64
		n   int
		err error
	}{
		{0, 0, nil}, {0, 1, nil}, {7, 1000, nil}, {int64(len(digits)) - 5, 5, nil}, {0, len(digits), nil}, {int64(len(digits)), 0, nil},
		{int64(len(digits)) - 5, 6, io.ErrUnexpectedEOF}, {-1, 2, io.ErrUnexpectedEOF}, {1 << 62, 1, io.ErrUnexpectedEOF},
	} {
		p := make([]byte, c.n)
		err := r.ReadRange(t.Context(), p, c.off, blob.Demand)
		if !errors.Is(err, c.err) {
			t.Errorf("%d at %d: %v", c.n, c.off, err)
		}
		if err == nil && !bytes.Equal(p, digits[c.off:c.off+int64(c.n)]) {
			t.Errorf("%d at %d: wrong bytes", c.n, c.off)
		}
	}
	if s := r.Stats(); s.Requests[blob.Demand] != 4 || s.Bytes[blob.Demand] != int64(1+1000+5+len(digits)) || s.Retries != 0 {
		t.Errorf("%+v", s)
	}
}

func TestRemoteStream(t *testing.T) {
	t.Parallel()
	var n atomic.Int32
	// Each answer is cut; all of it arrives in the end.
	r := remote(t, RemoteOptions{}, func(w http.ResponseWriter, r *http.Request) bool {
		n.Add(1)
		http.ServeContent(&cutter{ResponseWriter: w, left: 300_000}, r, "", time.Time{}, bytes.NewReader(digits))
		return true
	})
	s, err := r.Stream(t.Context(), 10, blob.Background)
	if err != nil {
		t.Fatal(err)
	}
	p, err := io.ReadAll(s)
	if err := errors.Join(err, s.Close()); err != nil || !bytes.Equal(p, digits[10:]) {
		t.Errorf("%d bytes, %v", len(p), err)
	}
	if n.Load() < 4 || r.Stats().Retries < 3 {
		t.Errorf("%d requests, %+v", n.Load(), r.Stats())
	}
}

type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	if c.left < len(p) {
		_, _ = c.ResponseWriter.Write(p[:c.left])
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

func TestRemoteStall(t *testing.T) {
	t.Parallel()
	var n atomic.Int32
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	r := remote(t, RemoteOptions{Stall: 50 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) bool {
		switch n.Add(1) {
		case 1: // silent before the header
		case 2: // and in the body
			w.Header().Set("Content-Range", "bytes 0-99/1000000")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(digits[:50])
			_ = http.NewResponseController(w).Flush()
		default:
			return false
		}
		select {
		case <-r.Context().Done():
		case <-stop:
		}
		return true
	})
	p := make([]byte, 100)
	if err := r.ReadRange(t.Context(), p, 0, blob.Demand); err != nil || !bytes.Equal(p, digits[:100]) {
		t.Errorf("%v", err)
	}
	if n.Load() != 3 {
		t.Errorf("%d requests", n.Load())
	}
	n.Store(0)
	always := remote(t, RemoteOptions{Stall: 20 * time.Millisecond}, func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-r.Context().Done():
		case <-stop:
		}
		return true
	})
	err := always.ReadRange(t.Context(), p, 0, blob.Demand)
	if !errors.Is(err, ErrNetwork) || !errors.Is(err, errStall) || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}

func TestRemoteCancel(t *testing.T) {
	t.Parallel()
	began := make(chan struct{}, 10)
	r := remote(t, RemoteOptions{Gate: NewGate(2)}, func(_ http.ResponseWriter, r *http.Request) bool {
		began <- struct{}{}
		<-r.Context().Done()
		return true
	})
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-began
		cancel(why)
	}()
	if err := r.ReadRange(ctx, make([]byte, 1), 0, blob.Demand); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
	if g := r.opts.Gate; g.used != 0 || g.demand != 0 {
		t.Errorf("%d places are still taken", g.used)
	}
}

func TestRemoteShort(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"shorter, in parts": func(w http.ResponseWriter, r *http.Request) bool {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(digits[:500_000]))
			return true
		},
		"shorter, whole": func(w http.ResponseWriter, _ *http.Request) bool {
			_, _ = w.Write(digits[:500])
			return true
		},
	} {
		r := remote(t, RemoteOptions{}, first)
		for _, off := range []int64{0, 400_000, 600_000} {
			if err := r.ReadRange(t.Context(), make([]byte, 10), off, blob.Demand); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s, at %d: %v", name, off, err)
			}
		}
	}
}

func TestRemoteSkipLimit(t *testing.T) {
	t.Parallel()
	r := remote(t, RemoteOptions{SkipLimit: 1000}, func(w http.ResponseWriter, _ *http.Request) bool {
		_, _ = w.Write(digits)
		return true
	})
	p := make([]byte, 10)
	if err := r.ReadRange(t.Context(), p, 1000, blob.Demand); err != nil || !bytes.Equal(p, digits[:10]) {
		t.Errorf("%q, %v", p, err)
	}
	if err := r.ReadRange(t.Context(), p, 1001, blob.Demand); !errors.Is(err, ErrNetwork) {
		t.Errorf("%v", err)
	}
}

func TestRemoteTrickle(t *testing.T) {
	t.Parallel()
	var n atomic.Int32
	r := remote(t, RemoteOptions{}, func(w http.ResponseWriter, r *http.Request) bool {
		n.Add(1)
		http.ServeContent(&cutter{ResponseWriter: w, left: 1}, r, "", time.Time{}, bytes.NewReader(digits))
		return true
	})
	if err := r.ReadRange(t.Context(), make([]byte, 1000), 0, blob.Demand); !errors.Is(err, ErrNetwork) {
		t.Errorf("a byte at a time: %v", err)
	}
	if n.Load() != 4 {
		t.Errorf("%d requests", n.Load())
	}
}

func TestGate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(4) // one place is for demand only
		var mu sync.Mutex
		var order []blob.Class
		enter := func(ctx context.Context, c blob.Class) {
			if err := g.acquire(ctx, c); err != nil {
				return
			}
			mu.Lock()
			order = append(order, c)
			mu.Unlock()
		}
		for range 5 {
			go enter(t.Context(), blob.Background)
		}
		synctest.Wait()
		if len(order) != 3 {
			t.Fatalf("%d background requests run", len(order))
		}
		ctx, cancel := context.WithCancel(t.Context())
		go enter(ctx, blob.Prefetch)
		go enter(t.Context(), blob.Demand)
		synctest.Wait()
		if len(order) != 4 || order[3] != blob.Demand {
			t.Fatalf("a demand read waits: %v", order)
		}
		go enter(t.Context(), blob.Demand)
		go enter(t.Context(), blob.Prefetch)
		synctest.Wait()
		cancel() // one prefetch gives up waiting
		synctest.Wait()
		g.release(blob.Background)
		synctest.Wait()
		if len(order) != 5 || order[4] != blob.Demand {
			t.Fatalf("demand is not first: %v", order)
		}
		// Bodies of lower classes pause while demand reads run, but not forever.
		began := time.Now()
		g.yield(t.Context(), blob.Prefetch)
		if d := time.Since(began); d != longestYield {
			t.Errorf("yielded for %v", d)
		}
		began = time.Now()
		g.yield(t.Context(), blob.Demand)
		if d := time.Since(began); d != 0 {
			t.Errorf("demand yielded for %v", d)
		}
		g.release(blob.Demand)
		g.release(blob.Demand)
		synctest.Wait()
		if len(order) != 6 || order[5] != blob.Prefetch {
			t.Fatalf("prefetch is not before background: %v", order)
		}
		g.yield(t.Context(), blob.Background)
		if d := time.Since(began); d != 0 {
			t.Errorf("yielded to nobody for %v", d)
		}
		g.release(blob.Prefetch)
		synctest.Wait()
		g.release(blob.Background)
		synctest.Wait()
		for range 3 {
			g.release(blob.Background)
		}
		if g.used != 0 || len(order) != 8 {
			t.Errorf("%d places taken, %v", g.used, order)
		}
	})
}

func TestPacer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := Retry{Attempts: 4, Wait: time.Second, MaxWait: time.Minute}.Pacer()
		began := time.Now()
		var waits []time.Duration
		for p.Wait(t.Context(), 0) {
			waits = append(waits, time.Since(began))
			began = time.Now()
		}
		if len(waits) != 3 {
			t.Errorf("%v", waits)
		}
		for i, w := range waits {
			if mean := time.Second << i; w < mean/2 || w > mean*3/2+1 {
				t.Errorf("wait %d of %v", i, w)
			}
		}
		p.Reset()
		if began = time.Now(); !p.Wait(t.Context(), 30*time.Second) || time.Since(began) != 30*time.Second {
			t.Errorf("waited %v instead of what the server asks for", time.Since(began))
		}
		if p.Wait(t.Context(), 2*time.Minute) {
			t.Error("waits as long as the server likes")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if p.Wait(ctx, 0) {
			t.Error("waits beyond the context")
		}
		p = Retry{Attempts: 100, Total: time.Minute}.Pacer()
		for p.Wait(t.Context(), 10*time.Second) {
		}
		if d := time.Since(p.started); d > 70*time.Second+time.Minute {
			t.Errorf("went on for %v", d)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for v, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-1": 0, "soon": 0, "99999999999999": 0, "Mon, 02 Jan 2006 15:04:05 GMT": 0,
	} {
		if got := RetryAfter(&http.Response{Header: http.Header{"Retry-After": {v}}}); got != want {
			t.Errorf("%q: %v", v, got)
		}
	}
	in := time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)
	if got := RetryAfter(&http.Response{Header: http.Header{"Retry-After": {in}}}); got < 59*time.Minute || got > time.Hour {
		t.Errorf("in an hour: %v", got)
	}
}

func TestRedact(t *testing.T) {
	t.Parallel()
	err := Redact(errors.New(`Get "https://user:pass@host/a?X-Signature=abc": dial "http://b?c#d" failed`))
	if got, want := err.Error(), `Get "https://host/a": dial "http://b" failed`; got != want {
		t.Errorf("%s", got)
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-9/10", "bytes 5-5/*", "bytes */10", "bytes 9-0/1", "bytes 0-9223372036854775807/9", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		first, last, total, ok := parseContentRange(s)
		if ok && (first < 0 || last < first || total >= 0 && last >= total || total < -1) {
			t.Fatalf("%q: %d-%d/%d", s, first, last, total)
		}
	})
}
